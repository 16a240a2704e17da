"""The tools that ``grade_peers`` compares: each takes one learner's notebook and leaves what it found in a folder.

Peers live in a throw-away environment of their own, with our libraries on its path, so that every tool runs the same
notebook on the same versions. They run as the commands that a course runs: a new process for each notebook.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import nbformat as nbf

PEERS = ("otter-grader==7.0.0", "nbgrader==0.9.6")
CLOCK = """import time
spent, began = [], []
events = get_ipython().events
events.register("pre_run_cell", lambda *_: began.append(time.perf_counter()))
events.register("post_run_cell", lambda *_: began and spent.append(time.perf_counter() - began.pop()))"""
CELLS = (
    "import torch, transformers, trl, chromadb, sentence_transformers",
    "torch.manual_seed(0)\nx, y = torch.randn(16, 64, 256), torch.randn(16, 64, 256)\n"
    "model = torch.nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)\n"
    "optimizer = torch.optim.AdamW(model.parameters(), 1e-3)",
    "for step in range({steps}):\n    loss = torch.nn.functional.mse_loss(model(x), y)\n    optimizer.zero_grad()\n"
    "    loss.backward()\n    optimizer.step()\ntotal = float(loss)",
    "from pathlib import Path\nwritten = Path('result.txt').write_text(f'{{total:.4f}}')",
)
CLOCKED = "written = Path('cells.txt').write_text(str(sum(spent)))"
Tool = Callable[[Path, Path], None]


def cells(steps: int) -> list[str]:
    """The learner's notebook: heavy imports, then training; the first and the last cell take the time of the others."""
    return [CLOCK, *(cell.format(steps=steps) for cell in CELLS), CLOCKED]


def notebook(path: Path, steps: int) -> Path:
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nb = nbf.v4.new_notebook(cells=[nbf.v4.new_code_cell(source) for source in cells(steps)], metadata=spec)
    nbf.write(nb, path)
    return path


def environment(venv: Path, say: Callable[[str], None]) -> Path:
    """The peers' environment, made when it is not there or was made for other versions."""
    stamp = venv / ".peers"
    if not stamp.is_file() or stamp.read_text() != " ".join(PEERS):
        say(f"making {venv} with {' and '.join(PEERS)} ...")
        shutil.rmtree(venv, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(venv)], Path.cwd())
        run([str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", *PEERS], venv)
        stamp.write_text(" ".join(PEERS))
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "zz_course.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def run(command: list[str], cwd: Path) -> None:
    """Raises RuntimeError with the end of what it said."""
    env = os.environ | {"PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    if result.returncode:
        raise RuntimeError(f"{Path(command[0]).name}: {result.stderr[-700:] or result.stdout[-700:]}")


def papermill(source: Path, out: Path) -> None:
    run([sys.executable, "-m", "papermill", "--cwd", str(out), str(source), str(out / "done.ipynb")], out)


def ours(executor: object) -> Tool:
    """As a grading run does it: one process for the cohort, and one fork server for all kernels."""
    from course_grader.warm_executor import SANDBOX_LIMITS

    return lambda source, out: executor.run(source, {}, SANDBOX_LIMITS, out).check()  # type: ignore[attr-defined]


def otter(venv: Path, work: Path, steps: int) -> Tool:
    """An assignment of one public test that ``otter assign`` makes; ``otter run`` grades each copy."""
    folder = work / "assign"
    folder.mkdir(parents=True)
    config = "requirements: []\ngenerate: true\nexport_cell: false\ncheck_all_cell: false\ninit_cell: true"
    marks = (f"ASSIGNMENT CONFIG\n{config}", "BEGIN QUESTION\nname: q1\npoints: 1", "BEGIN SOLUTION", "END SOLUTION",
             "BEGIN TESTS", "END TESTS", "END QUESTION")  # fmt: skip
    raw = [nbf.v4.new_raw_cell(f"# {text}") for text in marks]
    code = [nbf.v4.new_code_cell(source) for source in cells(steps)]
    test = nbf.v4.new_code_cell("assert isinstance(total, float)")
    nb = nbf.v4.new_notebook(cells=[raw[0], *code[:3], raw[1], raw[2], code[3], raw[3], raw[4], test, raw[5], raw[6],
                                    *code[4:]])  # fmt: skip
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbf.write(nb, folder / "hw.ipynb")
    run([str(venv / "bin" / "otter"), "assign", "--no-run-tests", "hw.ipynb", "dist"], folder)
    archive = next((folder / "dist" / "autograder").glob("*.zip"))

    def grade(_: Path, out: Path) -> None:
        shutil.copy(folder / "dist" / "autograder" / "hw.ipynb", out / "hw.ipynb")
        run([str(venv / "bin" / "otter"), "run", "-a", str(archive), "-o", str(out), "--no-logo", "hw.ipynb"], out)
        if not (out / "results.json").is_file():
            raise RuntimeError("otter: it left no results")

    return grade


def nbgrader(venv: Path, work: Path, steps: int) -> Tool:
    """A course of one assignment; ``nbgrader autograde`` executes each learner's copy."""
    course = work / "nbgrader"
    (course / "source" / "hw").mkdir(parents=True)
    notebook(course / "source" / "hw" / "hw.ipynb", steps)
    (course / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'bench'\n"
                                               "c.ExecutePreprocessor.timeout = 900\n")  # fmt: skip
    command = str(venv / "bin" / "nbgrader")
    run([command, "generate_assignment", "hw", "--create", "--force"], course)

    def grade(_: Path, out: Path) -> None:
        student = f"s{out.name}"
        folder = course / "submitted" / student / "hw"
        folder.mkdir(parents=True)
        shutil.copy(course / "release" / "hw" / "hw.ipynb", folder)
        run([command, "autograde", "hw", "--student", student, "--create", "--force"], course)
        if not (course / "autograded" / student / "hw" / "hw.ipynb").is_file():
            raise RuntimeError("nbgrader: it left no graded notebook")

    return grade


def tools(venv: Path, work: Path, steps: int) -> dict[str, Callable[[], Tool]]:
    """Name -> what makes the tool ready; the making is not part of any time."""
    from course_grader.kernels import own_server
    from course_grader.warm_executor import WarmSandboxedExecutor

    plain = {"sandboxed": False, "unsafe": True}
    return {
        "papermill": lambda: papermill,
        "otter": lambda: otter(venv, work / "otter-course", steps),
        "nbgrader": lambda: nbgrader(venv, work / "nbgrader-course", steps),
        "ours_cold": lambda: ours(WarmSandboxedExecutor(warm=False, **plain)),
        "ours_warm": lambda: ours(WarmSandboxedExecutor(server=own_server(0), **plain)),
        "ours_warm_sandboxed": lambda: ours(WarmSandboxedExecutor(server=own_server(0))),
    }
