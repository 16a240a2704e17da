"""The executor runs notebooks reproducibly, refuses wrong parameters, and says which cell stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat as nbf
import pytest
from typer.testing import CliRunner

from course_lib import cli
from course_lib import notebooks as nbs
from course_lib.errors import ExecutionError, UsageError
from course_lib.execute import Limits, PapermillExecutor, check_parameters, parameters_of, refresh


def make(path: Path, *sources: str, parameters: str = "seed = 1\nout_dir = 'x'\nrate = 0.5\nmodel = None") -> Path:
    cells = [nbf.v4.new_markdown_cell("# A notebook")]
    cells.append(nbf.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [nbf.v4.new_code_cell(source) for source in sources]
    nbs.write(nbf.v4.new_notebook(cells=cells), path)
    return path


def printed(path: Path) -> str:
    return "".join(o.get("text", "") for c in nbs.read(path).cells for o in c.get("outputs", []))


def test_two_runs_write_the_same_bytes_and_use_the_output_folder(tmp_path: Path) -> None:
    source = make(tmp_path / "a {b}.ipynb", "import os\nprint(seed, hash('text'), {'a', 'b', 'c'}, object())",
                  "from pathlib import Path\n(Path(out_dir) / 'artifact.txt').write_text(str(seed))",
                  "import ipywidgets\nipywidgets.IntSlider()")
    before = source.read_bytes()
    steps: list[tuple[int, int, str]] = []
    folders = [tmp_path / name / "deep" for name in ("one", "two")]
    runs = [PapermillExecutor(seed=3).run(source, {"seed": 7, "out_dir": str(folder)}, Limits(), folder,
                                          lambda *step: steps.append(step)).check() for folder in folders]
    assert runs[0].path.read_bytes() == runs[1].path.read_bytes()
    assert b"papermill" not in runs[0].path.read_bytes()
    assert (runs[0].path.parent / "artifact.txt").read_text() == "7"
    assert printed(runs[0].path).startswith("7 ")
    assert source.read_bytes() == before, "the source must never change"
    assert steps[0][:2] == (0, 5) and steps[-1][:2] == (5, 5)


def test_a_failing_cell_is_named_and_the_partial_notebook_kept(tmp_path: Path) -> None:
    source = make(tmp_path / "a.ipynb", "print('before')", "# why it fails\nvalue = {}['missing']", "print('after')")
    run = PapermillExecutor().run(source, {}, Limits(), tmp_path / "out")
    assert not run.ok and not run.timed_out
    assert run.error == "Cell 3 ('# why it fails') raised KeyError: 'missing'" and run.error_cell == 3
    text = printed(run.path)
    assert "before" in text and "after" not in text
    assert len(nbs.read(run.path).cells) == 5, "no error banner is added to the notebook"
    with pytest.raises(ExecutionError, match="KeyError"):
        run.check()


def test_limits_stop_a_cell_and_a_dead_kernel_is_reported(tmp_path: Path) -> None:
    source = make(tmp_path / "a.ipynb", "import time, os\nif seed == 2:\n    os._exit(0)\ntime.sleep(60)")
    slow = PapermillExecutor().run(source, {}, Limits(cell_s=1), tmp_path / "slow")
    assert slow.timed_out and "limit of 1 s" in slow.error and slow.seconds < 20
    total = PapermillExecutor().run(source, {}, Limits(notebook_s=2), tmp_path / "total")
    assert total.timed_out and total.seconds < 20
    dead = PapermillExecutor().run(source, {"seed": 2}, Limits(), tmp_path / "dead")
    assert not dead.ok and "kernel died" in dead.error and "Cell 3" in dead.error and dead.path.exists()


@pytest.mark.parametrize(("given", "says"), [
    ({"sed": 1}, "no parameter 'sed'"),
    ({"seed": "1"}, "must be int, not str"),
    ({"seed": True}, "must be int, not bool"),
    ({"seed": 1.5}, "must be int, not float"),
    ({"model": object()}, "not a literal"),
    ({"model": {"a": [b"x"]}}, "not a literal"),
    ({"model": {1: "a"}}, "key that is not text"),
])
def test_wrong_parameters_are_errors(tmp_path: Path, given: dict, says: str) -> None:
    source = make(tmp_path / "a.ipynb")
    with pytest.raises(UsageError, match=says):
        PapermillExecutor().run(source, given, Limits(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fitting_parameters_pass(tmp_path: Path) -> None:
    nb = nbs.read(make(tmp_path / "a.ipynb"))
    check_parameters(nb, {"seed": 2, "rate": 1, "model": "any", "out_dir": "y"})
    check_parameters(nb, {"out_dir": None, "model": {"a": [1, None]}})


def test_the_parameters_cell_holds_literals_only(tmp_path: Path) -> None:
    for bad in ("import os", "a = open('x')", "a = b = 1", "a, b = 1, 2", "a += 1", "print(1)"):
        with pytest.raises(UsageError, match="name = literal"):
            parameters_of(nbs.read(make(tmp_path / "a.ipynb", parameters=bad)))
    good = nbs.read(make(tmp_path / "b.ipynb", parameters="a: int = -1\nb = [1, 'x']  # words"))
    assert parameters_of(good) == {"a": -1, "b": [1, "x"]}


def test_the_source_is_never_the_output(tmp_path: Path) -> None:
    source = make(tmp_path / "a.ipynb")
    with pytest.raises(UsageError, match="own folder"):
        PapermillExecutor().run(source, {}, Limits(), tmp_path)


def test_refresh_replaces_a_lecture_only_when_it_ran(tmp_path: Path) -> None:
    source = make(tmp_path / "a.ipynb", "print(seed + 41)")
    assert refresh(source).ok and printed(source) == "42\n"
    after = source.read_bytes()
    assert refresh(source).ok and source.read_bytes() == after, "a second run changes nothing"
    broken = make(tmp_path / "b.ipynb", "1 / 0")
    before = broken.read_bytes()
    run = refresh(broken)
    assert not run.ok and "ZeroDivisionError" in run.error and broken.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ipynb", "b.ipynb"]
    said = CliRunner().invoke(cli.app, ["refresh", str(broken)])
    assert said.exit_code == 1 and "stays as it was" in said.output
    assert isinstance(CliRunner().invoke(cli.app, ["refresh", str(tmp_path / "c.ipynb")]).exception, UsageError)


def test_environment_and_kernel_are_forced(tmp_path: Path) -> None:
    shown = "import os, sys\nprint(os.environ['PYTHONHASHSEED'], os.environ['EXTRA'], sys.executable)"
    source = make(tmp_path / "a.ipynb", shown)
    nb = nbs.read(source)
    nb.metadata["kernelspec"] = {"name": "evil", "display_name": "evil", "language": "python"}
    nbs.write(nb, source)
    run = PapermillExecutor(seed=42, env={"EXTRA": "yes"}).run(source, {}, Limits(), tmp_path / "out").check()
    assert printed(run.path).split() == ["42", "yes", sys.executable]
