"""The command ``course``. The only module that prints; heavy imports wait inside the commands."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from course_grader import cli_grade, cli_review
from course_lib.errors import CourseError, UsageError
from course_lm import cli as cli_model

app = typer.Typer(help="Run, check and grade the LLM engineering course. Start with: course doctor",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Modules = Annotated[list[str] | None, typer.Argument(help="Modules, such as 06. Default: every lab that exists.")]


def main() -> None:
    """Entry point: a CourseError becomes a short message and an exit code, never a traceback."""
    try:
        app()
    except CourseError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.secho("stopped; what was finished is kept", err=True)
        sys.exit(130)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine can run, and how to fix what it cannot."""
    from dataclasses import asdict

    from course_lib.doctor import diagnose

    checks = diagnose()
    if json:
        _print_json([asdict(check) for check in checks])
    else:
        _table("This machine", ("check", "", "found", "needed"),
               [(c.name, _mark(c.ok), c.found, c.needed) for c in checks])
        for check in checks:
            if check.ok is not True and check.fix:
                typer.echo(f"{check.name}: {check.fix}")
    raise typer.Exit(0 if all(c.ok is not False for c in checks) else 1)


@app.command()
def start(module: str, to: Annotated[Path, typer.Option("--to", help="Folder for your work.")] = Path("work"),
          force: Annotated[bool, typer.Option("--force", help="Start over; the old notebook is kept beside.")] = False,
          json: Json = False) -> None:
    """Copy a lab without its solutions into your work folder."""
    from course_lib import catalog, notebooks

    source = _lab(module)
    folder = to / catalog.find(module).lab
    target = folder / "lab.ipynb"
    if target.exists() and not force:
        raise UsageError("You have started this lab already.", where=str(target),
                         fix="Open it with make lab, or start over with --force (the old one is kept).")
    copy = notebooks.learner_copy(notebooks.read(source))
    folder.mkdir(parents=True, exist_ok=True)
    if target.exists():
        notebooks.set_aside(target)
    notebooks.write(copy, target)
    if json:
        _print_json({"notebook": str(target), "exercises": len(notebooks.exercises(copy))})
    else:
        typer.echo(f"{target} is ready. Fill the exercises, run it, then: course check {catalog.find(module).code}")


@app.command()
def run(modules: Modules = None,
        all_labs: Annotated[bool, typer.Option("--all", help="Every lab that exists.")] = False,
        notebook: Annotated[Path | None, typer.Option(help="Run this notebook instead of the lab's source.")] = None,
        parameter: Annotated[list[str] | None, typer.Option("-p", help="NAME=VALUE for the parameters cell.")] = None,
        out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("build/course"),
        grade_too: Annotated[bool, typer.Option("--grade", help="Grade the results and write the report.")] = False,
        limit: Annotated[float, typer.Option(help="Seconds that one notebook may take.")] = 900.0,
        json: Json = False) -> None:
    """Execute labs on the model at hand; each leaves a submission folder."""
    from course_lib import catalog

    if notebook and len(modules or []) != 1:
        raise UsageError("--notebook needs exactly one module.", fix="course run 06 --notebook work/06_rag/lab.ipynb")
    names = modules or ([m.code for m in catalog.MODULES if m.labs] if all_labs else [])
    if not names:
        raise UsageError("Which lab?", fix="course run 06, or course run --all")
    parameters = dict(cli_model.setting(text, "seed=7") for text in parameter or [])
    results = [_run_one(name, notebook, parameters, out, limit, quiet=json) for name in names]
    rows = [_grade_folder(Path(r["folder"]), r["module"], out / "report") for r in results if grade_too and r["ok"]]
    _show_runs(results, rows, out, json)
    raise typer.Exit(0 if all(r["ok"] for r in results) and all(not r["blocked"] for r in rows) else 1)


@app.command()
def check(module: str, folder: Annotated[Path | None, typer.Argument(help="Default: work/NN_slug")] = None,
          json: Json = False) -> None:
    """Instant feedback on your folder: every rule that the grader applies, and how to fix what fails."""
    from course_lib import catalog
    from course_lib.grade import grade_submission

    folder = folder or Path("work") / catalog.find(module).lab
    report = grade_submission(folder, module)
    if json:
        _print_json(jsonlib.loads(report.to_json()))
    else:
        _table(f"{folder}", ("rule", "", "what", "fix"),
               [(f.rule, _mark(f.ok, f.outcome), f.message, f.fix) for f in report.findings])
        typer.echo(_verdict(report))
    raise typer.Exit(0 if all(f.ok for f in report.findings) else 1)


app.add_typer(cli_model.app, name="model")
app.command()(cli_grade.grade)
app.command()(cli_grade.verify)
app.command()(cli_review.review)
app.command()(cli_review.kernels)


@app.command()
def path(name: Annotated[str | None, typer.Argument(help="For example fine-tuning.")] = None,
         json: Json = False) -> None:
    """Print the learning paths, or one of them with your progress."""
    from course_lib import catalog
    from course_lib.widgets import read_progress

    if name is None:
        rows = [(p.name, p.title, " ".join(f"{n:02d}" for n in p.modules), p.note) for p in catalog.PATHS]
        _print_json([dict(zip(("name", "title", "modules", "note"), r, strict=True)) for r in rows]) if json else \
            _table("Learning paths", ("name", "for", "modules", ""), rows)
        return
    progress = read_progress()
    chosen = catalog.find_path(name)
    rows = [_path_row(catalog.find(number), progress) for number in chosen.modules]
    if json:
        _print_json([dict(zip(("module", "title", "status", "quiz", "lab"), r, strict=True)) for r in rows])
    else:
        _table(f"{chosen.title}: {chosen.note}", ("", "module", "in this course", "quiz", "lab"), rows)


@app.command()
def quiz(module: str,
         part: Annotated[str | None, typer.Option(help="One part only: a is for notebook 01a.")] = None) -> None:
    """Print a module's readiness check as text."""
    from course_lib.widgets import quiz_text

    typer.echo(quiz_text(module, part=part))


@app.command()
def lint(json: Json = False) -> None:
    """Hold every notebook and lab against the style of the course."""
    from dataclasses import asdict

    from course_lib import catalog
    from course_lib import notebooks as nbs
    from course_lib.nblint import lint as lint_notebook

    problems = [p for file in [*catalog.notebooks(), *catalog.labs()] for p in lint_notebook(nbs.read(file), file)]
    if json:
        _print_json([asdict(p) for p in problems])
    else:
        for problem in problems:
            typer.echo(str(problem))
        typer.echo(f"{len(problems)} problem(s)")
    raise typer.Exit(1 if problems else 0)


@app.command()
def refresh(notebooks: Annotated[list[Path], typer.Argument(help="Lectures, such as notebooks/06_rag.ipynb.")],
            limit: Annotated[float, typer.Option(help="Seconds that one lecture may take.")] = 900.0) -> None:
    """Execute lectures and keep the new outputs, for a change of the model or a library; one that fails stays."""
    from course_lib.execute import Limits
    from course_lib.execute import refresh as executed

    failed = 0
    for notebook in notebooks:
        if not notebook.is_file():
            raise UsageError("There is no such notebook.", where=str(notebook), fix="Name a file in notebooks/.")
        run = executed(notebook, Limits(notebook_s=limit))
        failed += not run.ok
        said = "executed" if run.ok else f"cell {run.error_cell} failed, the file stays as it was: {run.error}"
        typer.echo(f"{notebook}: {said} ({run.seconds:.0f} s)")
    raise typer.Exit(1 if failed else 0)


@app.command()
def figures(measure: Annotated[bool, typer.Option("--measure", help="Measure every figure again.")] = False,
            only: Annotated[list[str] | None, typer.Option(help="Only these groups.")] = None,
            json: Json = False) -> None:
    """Show the published figures; with --measure, take them again and render the README's tables."""
    from dataclasses import asdict

    from course_lib import catalog
    from course_lib import figures as figs

    if measure:
        from course_lib.measurements import measure_all

        for line in measure_all(only):
            typer.echo(line)
        readme = catalog.repo_root() / "README.md"
        readme.write_text(figs.render(readme.read_text(encoding="utf-8")), encoding="utf-8")
    known = figs.load()
    if json:
        _print_json([asdict(f) for f in known.values()])
    else:
        _table("figures.json", ("name", "value", "unit", "95 %", "n", "date"),
               [(f.name, f"{f.value:g}", f.unit, "" if f.low is None else f"{f.low:g} to {f.high:g}",
                 str(f.n or ""), f.date) for f in known.values()])


def _run_one(name: str, notebook: Path | None, parameters: dict[str, Any], out: Path, limit: float,
             quiet: bool) -> dict[str, Any]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from course_lib import catalog
    from course_lib.execute import Limits, PapermillExecutor

    module = catalog.find(name)
    folder = (out / module.lab).resolve()
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} cells"),
                  TimeElapsedColumn(), TextColumn("{task.fields[cell]}", style="dim"), disable=quiet) as bar:
        task = bar.add_task(f"lab {module.code}", total=None, cell="")

        def progress(done: int, total: int, first_line: str) -> None:
            bar.update(task, completed=done, total=total, cell=first_line[:50])

        result = PapermillExecutor().run(notebook or _lab(name), {"out_dir": str(folder)} | parameters,
                                         Limits(notebook_s=limit), folder, progress)
    return {"module": module.code, "folder": str(folder), "ok": result.ok, "seconds": round(result.seconds, 1),
            "error": result.error}


def _grade_folder(folder: Path, module: str, out: Path) -> dict[str, Any]:
    from course_lib.grade import grade_submission
    from course_lib.report import write_report

    row = {"folder": str(folder), "module": module, "error": "", "points": 0.0, "pending": 0.0, "max": 20.0,
           "band": "", "blocked": False, "gates_failed": [], "html": ""}
    try:
        report = grade_submission(folder, module)
    except CourseError as error:
        return row | {"error": str(error), "blocked": True, "band": "could not score"}
    html = write_report(report, out / folder.name)
    failed = [gate.id for gate in report.gates if not gate.passed]
    return row | {"points": report.points, "pending": report.pending, "max": report.maximum, "band": report.band,
                  "blocked": bool(failed), "gates_failed": failed, "html": str(html)}


def _show_runs(results: list[dict[str, Any]], rows: list[dict[str, Any]], out: Path, json: bool) -> None:
    if json:
        _print_json({"runs": results, "grades": rows})
        return
    for result in results:
        if not result["ok"]:
            typer.secho(f"lab {result['module']}: {result['error']}", fg="red", err=True)
    seconds = {r["folder"]: r["seconds"] for r in results}
    _show_grades(rows, seconds)
    if rows:
        typer.echo(f"report: {_index(rows, out / 'report')}")
    else:
        for result in results:
            typer.echo(f"lab {result['module']}: {result['seconds']} s, {result['folder']}")


def _show_grades(rows: list[dict[str, Any]], seconds: dict[str, float] | None = None) -> None:
    if rows:
        _table("", ("lab", "submission", "seconds", "points", "pending", "gates", "band"),
               [(r["module"], Path(r["folder"]).name, str((seconds or {}).get(r["folder"], "")),
                 f"{r['points']:g} of {r['max']:g}", f"{r['pending']:g}",
                 "all passed" if not r["gates_failed"] else "failed: " + ", ".join(r["gates_failed"]),
                 r["band"] or r["error"]) for r in rows])


def _index(rows: list[dict[str, Any]], out: Path) -> Path:
    from course_lib.report import write_index

    return write_index(rows, out).resolve()


def _path_row(module: Any, progress: dict[str, Any]) -> tuple[str, str, str, str, str]:
    mine = progress.get("modules", {}).get(module.code, {})
    lab = "started" if (Path("work") / (module.lab or "-") / "lab.ipynb").exists() else ""
    return (module.code, module.title, module.status, str(mine.get("quiz", "")), lab)


def _lab(name: str) -> Path:
    from course_lib import catalog

    module = catalog.find(name)
    if not module.labs:
        raise UsageError(f"Module {module.code} has no lab yet." if module.lab else f"Module {module.code} has no lab.",
                         fix="Labs that exist: " + ", ".join(m.code for m in catalog.MODULES if m.labs))
    return module.labs[0]


def _verdict(report: Any) -> str:
    failed = [gate.id for gate in report.gates if not gate.passed]
    gates = "all gates passed" if not failed else "gates failed: " + ", ".join(failed)
    points = f"{report.points:g} of {report.maximum:g} points, {report.pending:g} pending a reviewer"
    return f"{points}; {gates}; {report.band}"


def _mark(ok: bool | None, word: str = "") -> str:
    return "ok" if ok else word or ("missing" if ok is False else "optional")


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from course_lib.report import visible

    table = Table(*head, title=escape(visible(title)) or None, box=box.SIMPLE, title_justify="left")
    for row in rows:
        table.add_row(*(escape(visible(str(cell))) for cell in row))  # it may quote what somebody handed in
    Console().print(table)


def _print_json(value: Any) -> None:
    typer.echo(jsonlib.dumps(value, indent=1, default=str))  # in ASCII: nothing in it steers a terminal
