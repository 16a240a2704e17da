"""``course grade`` and ``course verify``: a cohort, and the certificates that come of it. Prints; computes nothing."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from course_lib.errors import UsageError

SHOWN = 15
UNSAFE = "Notebooks were executed without a sandbox."


def grade(
    submissions: Annotated[list[Path], typer.Argument(
        help="A folder of submissions, one submission, a zip, or a CSV with the columns learner and path.")],
    module: Annotated[str, typer.Option("--module", "-m", help="Which lab's rubric.")] = "06",
    out: Annotated[Path, typer.Option(help="Folder of the gradebook.")] = Path("build/gradebook"),
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    scheduler: Annotated[str, typer.Option(help="Dask scheduler, such as tcp://host:8786, or local.")] = "",
    policy: Annotated[Path | None, typer.Option(
        help="YAML: due dates, lateness, extensions, retries, drops; for all labs, and kept by later runs.")] = None,
    execute: Annotated[bool | None, typer.Option(
        "--execute/--static", show_default="as the rubric asks",
        help="Run each notebook again in a sandbox after the static checks, or leave that out.")] = None,
    no_sandbox: Annotated[bool, typer.Option("--unsafe-no-sandbox", help="Where there is no sandbox, execute all the "
                                             "same: strangers' code runs as you. Stamped on every page.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a gradebook that must be there.")] = False,
    regrade: Annotated[bool, typer.Option("--regrade", help="Show who would change; writes no gradebook.")] = False,
    commit: Annotated[bool, typer.Option("--commit", help="With --regrade: write it.")] = False,
    reviews: Annotated[Path | None, typer.Option(help="A filled reviews.csv to import first.")] = None,
    suggestions: Annotated[Path | None, typer.Option(help="A judge's suggestions; needs --gold.")] = None,
    gold: Annotated[Path | None, typer.Option(help="What people and the judge gave to the same items.")] = None,
    certificates: Annotated[Path | None, typer.Option(help="Private key (PEM): sign certificates.")] = None,
    issuer: Annotated[str, typer.Option(help="Who issues the certificates.")] = "LLM engineering course",
    json: Annotated[bool, typer.Option("--json", help="One JSON event a line.")] = False,
) -> None:
    """Grade what a cohort handed in: gradebook, tables, and what to look at first. Finished work is never redone."""
    from course_grader.cohort import JOURNAL, LabGrader, Options, grade_cohort
    from course_grader.intake import collect
    from course_grader.policy import load_policy
    from course_lib.catalog import find

    _check_options(out / JOURNAL, resume, regrade, commit, suggestions, gold)
    code = find(module).code
    reexecution = _reexecution(code, execute, no_sandbox)
    grader = LabGrader(code, reexecution, work=(out / "executions").resolve(), stamp=UNSAFE if no_sandbox else "")
    entries = collect(submissions, grader.module, out / "intake")
    if not entries:
        raise UsageError("There is no submission here.", where=" ".join(map(str, submissions)),
                         fix="Name the folder that holds one folder or archive per learner.")  # fmt: skip
    rules = load_policy(policy) if policy else None
    with _shown(json) as on_event, _mapper(scheduler, workers) as mapper:
        options = Options(workers, regrade, commit or not regrade, rules, mapper)
        _import(out, reviews, suggestions, gold, on_event)
        run = grade_cohort(entries, grader, out, options, on_event)
    signed = _certify(run.book, certificates, issuer, out) if run.committed and certificates else []
    lab = next(lab for lab in run.book.labs if lab.module == grader.module)
    summary = _summary(run, lab, out, [str(path) for path in signed])
    typer.echo(jsonlib.dumps(summary)) if json else _print_summary(summary, run, lab)
    raise typer.Exit(0 if all(row.report for row in lab.rows) else 1)


def verify(
    file: Annotated[Path, typer.Argument(help="The certificate, a JSON file.")],
    issuer: Annotated[list[str] | None, typer.Option(help="An issuer that you trust: did:key:…")] = None,
    submission: Annotated[Path | None, typer.Option(help="The folder that must be the evidence.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Check a certificate offline: exit code 0 only when it is intact and signed by an issuer that you named."""
    from dataclasses import asdict

    from course_grader.certificates import verify as check

    verdict = check(file, issuer or [], submission)
    if json:
        typer.echo(jsonlib.dumps({**asdict(verdict), "ok": verdict.ok}, indent=1))
    else:
        for problem in verdict.problems:
            typer.secho(problem, fg="red")
        if verdict.intact:
            typer.echo(f"intact: {_plain(verdict.learner)}, {_plain(verdict.achievement)}")
            typer.echo(f"signed by {_plain(verdict.issuer)}")
        if verdict.intact and not verdict.trusted:
            typer.echo("Whose key that is, the file cannot prove. Compare it with the issuer's, then use --issuer.")
    raise typer.Exit(0 if verdict.ok else 1)


def _check_options(journal: Path, resume: bool, regrade: bool, commit: bool, suggestions: Path | None,
                   gold: Path | None) -> None:  # fmt: skip
    if resume and not journal.exists():
        raise UsageError("There is nothing to resume.", where=str(journal.parent), fix="Leave --resume away.")
    if commit and not regrade:
        raise UsageError("--commit belongs to --regrade.", fix="Without --regrade a run is always written.")
    if (suggestions is None) != (gold is None):
        raise UsageError("--suggestions and --gold belong together.",
                         fix="The gold set says whether the judge may make suggestions.")


def _mapper(scheduler: str, workers: int) -> AbstractContextManager[Any]:
    if not scheduler:
        return nullcontext()
    from course_grader.dask_map import dask_mapper

    return dask_mapper(scheduler, workers)


def _reexecution(module: str, execute: bool | None, no_sandbox: bool) -> Any:
    """None where notebooks are not run again. Refuses at once where there is no sandbox, before anything is graded."""
    from course_grader.cohort import cached_rubric

    if execute is None:
        execute = cached_rubric(module).rerun is not None
    if not execute:
        if no_sandbox:
            raise UsageError("--unsafe-no-sandbox does not go with static checks.", fix="They need no sandbox.")
        return None
    from course_grader.reexecute import Reexecution
    from course_grader.sandbox import require

    if not no_sandbox:
        require()
    return Reexecution(sandboxed=not no_sandbox, unsafe=no_sandbox)


def _import(out: Path, reviews: Path | None, suggestions: Path | None, gold: Path | None,
            on_event: Callable[[Mapping[str, Any]], None]) -> None:  # fmt: skip
    from course_grader.cohort import JOURNAL
    from course_grader.gradebook import build
    from course_grader.journal import Journal
    from course_grader.reviews import import_reviews, import_suggestions

    if reviews or suggestions:
        with Journal(out / JOURNAL) as journal:
            book = build(journal.records)
            if reviews:
                on_event({"event": "reviews", "imported": import_reviews(reviews, book, journal)})
            if suggestions and gold:
                for c in import_suggestions(suggestions, gold, book, journal):
                    on_event({"event": "judge", "criterion": c.criterion, "kappa": c.kappa, "low": c.low,
                              "high": c.high, "n": c.n, "offered": c.offered})  # fmt: skip


def _certify(book: Any, key: Path, issuer: str, out: Path) -> Any:
    from course_grader.certificates import issue_all, load_key

    return issue_all(book, load_key(key), issuer, out)


@contextmanager
def _shown(json: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Events as JSON lines in ASCII, which steers no terminal, or as a progress bar with the time left."""
    if json:
        yield lambda event: typer.echo(jsonlib.dumps(event))
        return
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  TextColumn("{task.fields[left]}"), TextColumn("{task.fields[last]}", style="dim")) as bar:
        task = bar.add_task("reading", total=None, left="", last="")

        def show(event: Mapping[str, Any]) -> None:
            if event["event"] == "start":
                known = f"{event['from_journal']} known" if event["from_journal"] else ""
                bar.update(task, description=f"lab {event['module']}", total=event["to_grade"], last=known)
            elif event["event"] == "graded":
                bar.update(task, completed=event["done"], left=f"{event['left_s']:.0f} s left",
                           last=escape(_plain(event["learner"])[:40]), description=event["tier"])
            elif event["event"] == "reviews":
                bar.console.print(f"{event['imported']} reviews imported")
            else:
                word = "offered to reviewers" if event["offered"] else "not offered"
                bar.console.print(f"judge on {escape(_plain(event['criterion']))}: kappa {event['kappa']:.2f} "
                                  f"({event['low']:.2f} to {event['high']:.2f}, n = {event['n']}), {word}")

        yield show


def _summary(run: Any, lab: Any, out: Path, signed: list[str]) -> dict[str, Any]:
    from dataclasses import asdict

    from course_grader.items import look_first

    rows = lab.counted
    return {"event": "summary", "module": lab.module, "learners": len(rows), "graded": run.graded,
            "from_journal": run.reused, "passed": sum(row.passed for row in rows),
            "without_score": sum(row.report is None for row in rows), "committed": run.committed,
            "look_first": [asdict(look) for look in look_first(run.book)],
            "changes": [asdict(change) for change in run.changes], "certificates": signed,
            "gradebook": str((out / "index.html").resolve())}  # fmt: skip


def _print_summary(summary: Mapping[str, Any], run: Any, lab: Any) -> None:
    if len(lab.rows) <= SHOWN:
        for row in lab.rows:
            points = f"{row.final:g} of {lab.rubric.maximum:g}, {row.report.band}" if row.report else row.error
            typer.echo(f"{_plain(row.name)}: {points}")
    typer.echo(f"{summary['passed']} of {summary['learners']} passed every gate; {summary['graded']} graded now, "
               f"{summary['from_journal']} known from the journal.")  # fmt: skip
    if summary["look_first"]:
        typer.secho("Look here first", bold=True)
    for number, look in enumerate(summary["look_first"], 1):
        names = ", ".join(_plain(name) for name, _ in look["examples"])
        typer.echo(f"{number}. {look['what']}. {look['why']}{f' ({names})' if names else ''}")
    if summary["changes"]:
        typer.secho(f"{len(summary['changes'])} learners change", bold=True)
    for change in summary["changes"]:
        before, after = ("none" if p is None else f"{p:g}" for p in (change["before"], change["after"]))
        typer.echo(f"{_plain(change['name'])}: {before} -> {after}: {'; '.join(change['why'][:4])}")
    if not run.committed:
        typer.echo("Nothing was written." + (" To write it: --regrade --commit" if summary["changes"] else
                                             " Nobody changes; --regrade --commit records the new grader."))
        return
    if summary["certificates"]:
        typer.echo(f"{len(summary['certificates'])} certificates")
    typer.echo(f"gradebook: {summary['gradebook']}")


def _plain(text: str) -> str:
    """A learner chooses their name: nothing of it may steer a terminal."""
    from course_lib.report import visible

    return str(visible(text.replace("\n", " ")))
