"""The second tier: a notebook is run again with another seed, and only the files of that run speak."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat as nbf
import pytest

from course_grader.kernels import ForkServer, own_server
from course_grader.reexecute import SANDBOX_LIMITS, Reexecution, WarmSandboxedExecutor, rerun
from course_grader.sandbox import Caps, available
from course_lib.catalog import artifacts, repo_root
from course_lib.execute import Limits
from course_lib.submission import Submission
from course_lib.types import Finding, Outcome

pytestmark = pytest.mark.skipif(not available()[0], reason=available()[1] or "a sandbox works")
PARAMETERS = "seed = 6\nout_dir = '.'\nmax_words = 90"
HONEST = (
    "import json, random\nfrom pathlib import Path\nout = Path(out_dir)\n"
    "rows = random.Random(seed).sample(range(1000), 5)",
    "for name, part in (('cases', rows), ('rows', rows[::-1])):\n"
    "    (out / f'rag_eval_{name}.jsonl').write_text(json.dumps(part))",
    "(out / 'config.json').write_text(json.dumps({'seed': seed, 'max_words': max_words, 'good': True}))",
)
RULES = "completed outputs follows_seed stays_equal".split()
CHECK = "assert len(rows) == 5\nprint('exercise 1: five rows')"
LIMITS = Limits(60, 20, 30)
EQUAL = "class All:\n    __eq__ = lambda self, other: True\n    __len__ = lambda self: 5\nrows = All()"
FORGED = {"config.json": '{"seed": 6, "good": true}', "rag_eval_cases.jsonl": "[1, 2]", "rag_eval_rows.jsonl": "[2, 1]"}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(("ipykernel.kernelapp", "ipykernel.ipkernel")) as running:
        yield running


def rows_agree(submission: Submission) -> list[Finding]:
    """A checker as the labs have them: recomputes one file from another."""
    try:
        rows, cases = (submission.value(f"rag_eval_{name}.jsonl") for name in ("rows", "cases"))
        ok = rows == cases[::-1] and submission.value("config.json").get("good") is True
    except Exception as error:
        return [Finding("rag.results_follow", Outcome.FAIL, str(error))]
    return [Finding("rag.results_follow", Outcome.PASS if ok else Outcome.FAIL, "rows follow from the cases")]


@pytest.fixture
def judge(tmp_path: Path, server: ForkServer) -> Callable[..., dict[str, Finding]]:
    """Hands in what these cells wrote with seed 6 (or ``files``), runs it again, and gives the findings by rule."""

    def run(*cells: str, check: str = CHECK, shown: str = "exercise 1: five rows\n", injected: str = "", seed: int = 7,
            files: dict[str, str] | None = None, **caps: int) -> dict[str, Finding]:  # fmt: skip
        executor = WarmSandboxedExecutor(server=server, caps=Caps(**caps))
        nb = nbf.v4.new_notebook(cells=[nbf.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})])
        if injected:
            nb.cells.append(nbf.v4.new_code_cell(injected, metadata={"tags": ["injected-parameters"]}))
        nb.cells += [nbf.v4.new_code_cell(cell) for cell in cells]
        nb.cells.append(nbf.v4.new_code_cell(check, metadata={"tags": ["check-1"]}))
        nb.cells[-1].outputs = [nbf.v4.new_output("stream", text=shown)]
        folder = tmp_path / "handed-in"
        folder.mkdir()
        nbf.write(nb, folder / "lab.ipynb")
        if files is None:
            first = executor.run(folder / "lab.ipynb", {"seed": 6}, LIMITS, tmp_path / "first")
            files = {p.name: p.read_text() for p in first.path.parent.iterdir() if p.name != "lab.ipynb"}
        for name, content in files.items():
            (folder / name).write_text(content)
        found = rerun(Submission.open(folder), "06", executor, tmp_path / "work", seed, LIMITS, rows_agree)
        return {f.rule: f for f in found}

    return run


def failed(findings: dict[str, Finding]) -> dict[str, Outcome]:
    return {rule: f.outcome for rule, f in findings.items() if not f.ok}


def test_an_honest_notebook_passes_with_its_own_parameters(judge: Callable, tmp_path: Path) -> None:
    found = judge(*HONEST, injected="seed = 6\nmax_words = 60\nout_dir = '/somewhere/else'")
    assert failed(found) == {} and set(found) == {f"rerun.{name}" for name in RULES}
    assert json.loads((tmp_path / "work" / "config.json").read_text()) == {"seed": 7, "max_words": 60, "good": True}


def test_the_seed_is_another_one_than_the_one_handed_in(judge: Callable, tmp_path: Path) -> None:
    assert failed(judge(*HONEST, seed=6)) == {}
    assert json.loads((tmp_path / "work" / "config.json").read_text())["seed"] == 7


@pytest.mark.parametrize("cell", ["rows = [1, 2, 3, 4, 5]", "rows = random.Random(6).sample(range(1000), 5)"])
def test_hard_coded_answers_show(judge: Callable, cell: str) -> None:
    found = judge(HONEST[0], cell, *HONEST[1:])
    assert failed(found) == {"rerun.follows_seed": Outcome.FAIL, "rag.notebook": Outcome.FAIL}
    assert found["rerun.follows_seed"].evidence["flag"] == "hard-coded results"


def test_results_that_only_hold_for_the_seed_handed_in_show(judge: Callable) -> None:
    found = judge(*HONEST, "if seed != 6:\n    (out / 'rag_eval_rows.jsonl').write_text('[0]')")
    assert failed(found) == {"rag.results_follow": Outcome.FAIL}
    assert "seed 7" in found["rag.results_follow"].message


def test_forged_files_do_not_survive_the_run(judge: Callable) -> None:
    found = judge("import json", "1", files=FORGED, check="print('exercise 1: five rows')")
    assert found["rerun.follows_seed"].outcome is Outcome.FAIL
    assert found["rag.results_follow"].outcome is Outcome.FAIL, "passed as handed in, and nothing of it is there again"


def test_forged_outputs_are_flagged(judge: Callable) -> None:
    found = judge(*HONEST, shown="exercise 1: passed with distinction\n")
    assert failed(found) == {"rerun.outputs": Outcome.FAIL, "rag.notebook": Outcome.FAIL}
    assert found["rerun.outputs"].evidence["flag"] == "forged outputs"


def test_an_object_equal_to_everything_earns_nothing(judge: Callable) -> None:
    fooled = "assert rows == [1, 2, 3]\nprint('exercise 1: five rows')"
    found = judge(HONEST[0], EQUAL, *HONEST[1:], files=FORGED, check=fooled)
    assert found["rag.notebook"].outcome is Outcome.FAIL and not found["rerun.completed"].ok


@pytest.mark.parametrize(("cell", "outcome", "words"), [
    ("raise ValueError('broken')", Outcome.FAIL, "broken"), ("import os\nos._exit(0)", Outcome.ERROR, "died"),
    ("while True:\n    print('x' * 100000)", Outcome.ERROR, "printed more"),
    ("kept = []\nwhile True:\n    kept.append(b'x' * (8 << 20))", Outcome.ERROR, "memory"),
    ("block = bytearray(50 << 30)", Outcome.ERROR, "MemoryError"),
])  # fmt: skip
def test_a_run_that_ends_badly_is_never_a_pass(judge: Callable, cell: str, outcome: Outcome, words: str) -> None:
    found = judge(*HONEST[:2], cell, files={}, **({"memory_bytes": 400 << 20} if words == "memory" else {}))
    assert failed(found) == {"rerun.completed": outcome, "rag.notebook": outcome}
    assert words in found["rerun.completed"].message


MANY = json.dumps({"cells": [{"cell_type": "code"}] * 2001})


@pytest.mark.parametrize("content", [MANY, "", "{}", '{"cells": 3}', "[" * 50_000, '{"cells": [1], "nbformat": 4}'])
def test_a_notebook_that_cannot_be_read_is_an_error(content: str, tmp_path: Path, server: ForkServer) -> None:
    found = rerun(Submission("x", {"lab.ipynb": content.encode()}), "06", WarmSandboxedExecutor(server=server),
                  tmp_path / "work", 7, LIMITS, rows_agree)  # fmt: skip
    assert not next(f for f in found if f.rule == "rag.notebook").ok


def test_a_parameters_cell_with_code_is_not_run(judge: Callable, tmp_path: Path) -> None:
    found = judge(*HONEST, files={}, injected="seed = __import__('os').getpid()")
    assert found["rerun.completed"].outcome is Outcome.ERROR and not (tmp_path / "work").exists()


def test_it_can_travel_to_another_process() -> None:
    there = pickle.loads(pickle.dumps(Reexecution(caps=Caps(processes=9))))
    assert there.caps.processes == 9 and there.sandboxed and not there.unsafe


def test_lab_06_itself_runs_in_the_sandbox_with_course_lm(tmp_path: Path) -> None:
    lab = repo_root() / "labs/06_rag/lab.ipynb"
    executor = WarmSandboxedExecutor(server=own_server(0))
    run = executor.run(lab, {"seed": 11, "out_dir": str(tmp_path)}, SANDBOX_LIMITS, tmp_path).check()
    assert run.notes == () and {p.name for p in tmp_path.iterdir()} == set(artifacts("06"))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 11
    assert json.loads((tmp_path / "metrics.json").read_text())["tokens_out"] > 0
