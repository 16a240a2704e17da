"""The command line as a user meets it: help, exit codes, JSON, errors without a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_lib import catalog, cli, figures, notebooks

RUN = CliRunner()


def course(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", "from course_lib.cli import main; main()", *words],
                          capture_output=True, text=True, cwd=cwd)  # fmt: skip


def test_help_names_every_command() -> None:
    done = course("--help")
    assert done.returncode == 0
    for name in ("doctor", "start", "run", "check", "grade", "path"):
        assert name in done.stdout


def test_importing_the_command_line_pulls_in_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "chromadb", "anthropic", "sentence_transformers", "matplotlib", "numpy",
             "pydantic", "papermill"]  # fmt: skip
    code = f"import sys, course_lib.cli; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("module", sorted(p.stem for p in Path(cli.__file__).parent.glob("*.py")))
def test_modules_have_no_import_side_effects(module: str, tmp_path: Path) -> None:
    code = (f"import sys, importlib; importlib.import_module('course_lib.{module}'); import threading;"
            "print([m for m in ('torch', 'chromadb', 'transformers') if m in sys.modules], threading.active_count())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("[] 1", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "says"), [
    (("start", "99"), "no module '99'"),
    (("run",), "Which lab?"),
    (("run", "07"), "no lab yet"),
    (("run", "06", "-p", "nonsense"), "NAME=VALUE"),
    (("run", "06", "-p", "speed=3"), "no parameter 'speed'"),
    (("path", "nowhere"), "no path 'nowhere'"),
])  # fmt: skip
def test_mistakes_are_explained_without_a_traceback(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = course(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr and "fix:" in done.stderr and "Traceback" not in done.stderr


def test_start_gives_a_copy_without_solutions_and_never_overwrites(tmp_path: Path) -> None:
    first = RUN.invoke(cli.app, ["start", "06", "--to", str(tmp_path), "--json"])
    assert first.exit_code == 0
    target = Path(json.loads(first.stdout)["notebook"])
    text = target.read_text(encoding="utf-8")
    assert "SOLUTION" not in text and "NotImplementedError" in text
    exercises = notebooks.exercises(notebooks.read(catalog.find("06").labs[0]))
    assert text.count("raise NotImplementedError") == len(exercises)
    target.write_text(text + " ", encoding="utf-8")
    assert RUN.invoke(cli.app, ["start", "06", "--to", str(tmp_path)]).exit_code != 0
    assert RUN.invoke(cli.app, ["start", "06", "--to", str(tmp_path), "--force"]).exit_code == 0
    assert target.with_name("lab.backup-1.ipynb").read_text(encoding="utf-8") == text + " "


def test_path_prints_modules_in_order() -> None:
    rows = json.loads(RUN.invoke(cli.app, ["path", "fine-tuning", "--json"]).stdout)
    assert [row["module"] for row in rows] == ["01", "02", "05", "03", "10", "09", "12"]


def test_grading_a_missing_folder_is_an_error_with_its_reason(tmp_path: Path) -> None:
    done = course("grade", str(tmp_path / "nobody"), "-m", "06", "--static", "--out", str(tmp_path / "book"))
    assert done.returncode == 2 and "There is nothing at this path." in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "book").exists(), "a mistyped path makes no gradebook, and replaces none"


def test_readme_tables_come_from_the_figures() -> None:
    readme = catalog.repo_root() / "README.md"
    assert figures.render(readme.read_text(encoding="utf-8")) == readme.read_text(encoding="utf-8")


def test_every_figure_says_where_it_comes_from() -> None:
    known = figures.load()
    assert known
    for figure in known.values():
        assert figure.command and figure.commit and figure.date and figure.machine
        assert figure.low is None or figure.low <= figure.value <= figure.high


def test_figures_are_written_whole_and_rendered(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    figures.record("some_rate", 0.912345, "rate", low=0.8, high=0.95, n=40, command="x", title="Some rate", file=file)
    figures.record("some_rate", 0.5, "rate", low=0.4, high=0.6, n=40, command="x", title="Some rate", file=file)
    text = "<!-- figures some_rate -->\nold\n<!-- end figures -->"
    assert "| Some rate | 0.5 | 0.4 to 0.6 | 40 |" in figures.render(text, figures.load(file))
    with pytest.raises(Exception, match="never measured"):
        figures.render("<!-- figures other -->\n<!-- end figures -->", figures.load(file))
