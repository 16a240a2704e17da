"""One import-heavy notebook, executed by us and by the field's own tools, on one machine in one run.

    python tests/benchmarks/grade_peers.py [--peers VENV] [--runs 5] [--workers 1 2]

VENV: a throwaway environment with otter-grader and nbgrader; what is missing there is reported as absent. It is given
our libraries through a .pth file, so that every tool runs the same notebook on the same versions. Peers run as the
commands that a course runs: a new process for each notebook. Ours run as a grading run does: one process for the
cohort, whose fork server (started once) serves all. Prints JSON: p50 and p95 seconds a notebook, notebooks a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat as nbf

CELLS = (
    "import torch, transformers, trl, chromadb, sentence_transformers",
    "torch.manual_seed(0)\nparts = torch.randn(40, 400, 400)\ntotal = float(sum((p @ p).mean() for p in parts))",
    "from pathlib import Path\nPath('result.txt').write_text(f'{total:.6f}')",
)
Tool = Callable[[Path, Path], None]


def notebook(path: Path, kernel: str, first: str = "", last: str = "") -> Path:
    cells = [nbf.v4.new_code_cell(source) for source in (first, *CELLS, last) if source]
    spec = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}}
    nbf.write(nbf.v4.new_notebook(cells=cells, metadata=spec), path)
    return path


def run(command: list[str], cwd: Path) -> None:
    env = os.environ | {"PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    if result.returncode:
        raise RuntimeError(f"{command[0]}: {result.stderr[-500:] or result.stdout[-500:]}")


def papermill(source: Path, out: Path) -> None:
    run([sys.executable, "-m", "papermill", "--cwd", str(out), str(source), str(out / "done.ipynb")], out)


def ours(executor: object) -> Tool:
    from course_lib.reexecute import SANDBOX_LIMITS

    return lambda source, out: executor.run(source, {}, SANDBOX_LIMITS, out).check()


def otter(venv: Path, work: Path) -> Tool:
    """An assignment of one public test that ``otter assign`` makes; ``otter run`` grades each copy."""
    (work / "assign").mkdir()
    source = notebook(work / "assign" / "hw.ipynb", "python3")
    nb = nbf.read(source, 4)
    config = "requirements: []\ngenerate: true\nexport_cell: false\ncheck_all_cell: false\ninit_cell: true"
    marks = (f"ASSIGNMENT CONFIG\n{config}", "BEGIN QUESTION\nname: q1\npoints: 1", "BEGIN SOLUTION", "END SOLUTION",
             "BEGIN TESTS", "END TESTS", "END QUESTION")  # fmt: skip
    raw = [nbf.v4.new_raw_cell(f"# {text}") for text in marks]
    test = nbf.v4.new_code_cell("assert isinstance(total, float)")
    nb.cells = [raw[0], nb.cells[0], raw[1], raw[2], nb.cells[1], raw[3], raw[4], test, raw[5], raw[6], nb.cells[2]]
    nbf.write(nb, source)
    run([str(venv / "bin" / "otter"), "assign", "--no-run-tests", "hw.ipynb", "dist"], source.parent)
    archive = next((source.parent / "dist" / "autograder").glob("*.zip"))

    def grade(_: Path, out: Path) -> None:
        shutil.copy(source.parent / "dist" / "autograder" / "hw.ipynb", out / "hw.ipynb")
        run([str(venv / "bin" / "otter"), "run", "-a", str(archive), "-o", str(out), "--no-logo", "hw.ipynb"], out)

    return grade


def nbgrader(venv: Path, work: Path) -> Tool:
    """A course of one assignment; ``nbgrader autograde`` executes each learner's copy."""
    course = work / "nbgrader"
    source = course / "source" / "hw"
    source.mkdir(parents=True)
    notebook(source / "hw.ipynb", "python3")
    (course / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'bench'\n"
                                               "c.ExecutePreprocessor.timeout = 600\n")  # fmt: skip
    command = str(venv / "bin" / "nbgrader")
    run([command, "generate_assignment", "hw", "--create", "--force"], course)

    def grade(_: Path, out: Path) -> None:
        student = f"s{out.name}"
        folder = course / "submitted" / student / "hw"
        folder.mkdir(parents=True)
        shutil.copy(course / "release" / "hw" / "hw.ipynb", folder)
        run([command, "autograde", "hw", "--student", student, "--create", "--force"], course)

    return grade


def measure(tool: Tool, source: Path, work: Path, runs: int, workers: list[int]) -> dict[str, float]:
    """Seconds of single runs one after another, then notebooks a minute with several at once."""
    counter = iter(range(10_000))

    def once(_: int = 0) -> float:
        out = work / f"{next(counter)}"
        out.mkdir()
        started = time.perf_counter()
        tool(source, out)
        return time.perf_counter() - started

    once()
    times = sorted(once() for _ in range(runs))
    late = times[min(len(times) - 1, round(0.95 * len(times)))]
    found: dict[str, float] = {"p50_s": statistics.median(times), "p95_s": late, "n": runs}
    for number in workers:
        started = time.perf_counter()
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(once, range(runs * number)))
        found[f"per_minute_{number}"] = 60 * runs * number / (time.perf_counter() - started)
    return {name: round(value, 3) for name, value in found.items()}


def tools(peers: Path | None, work: Path) -> dict[str, Callable[[], Tool]]:
    from course_lib.kernels import own_server
    from course_lib.reexecute import WarmSandboxedExecutor

    def missing(name: str) -> Tool:
        raise FileNotFoundError(f"{name} is not in {peers}" if peers else "no --peers environment was given")

    found: dict[str, Callable[[], Tool]] = {"papermill": lambda: papermill}
    for name, make in (("otter", otter), ("nbgrader", nbgrader)):
        there = peers is not None and (peers / "bin" / name).exists()
        found[name] = (lambda m=make: m(peers, work)) if there else (lambda n=name: missing(n))
    plain = {"sandboxed": False, "unsafe": True}
    found["ours_cold"] = lambda: ours(WarmSandboxedExecutor(warm=False, **plain))
    found["ours_warm"] = lambda: ours(WarmSandboxedExecutor(server=own_server(0), **plain))
    found["ours_warm_sandboxed"] = lambda: ours(WarmSandboxedExecutor(server=own_server(0)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=lambda text: Path(text).resolve())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="2", HF_HUB_OFFLINE="1", ANONYMIZED_TELEMETRY="False")
    if given.peers:
        site = Path(next(given.peers.glob("lib/python*/site-packages")))
        (site / "zz_course.pth").write_text(sysconfig.get_path("purelib") + "\n")
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="course-peers-") as folder:
        work = Path(folder)
        source = notebook(work / "lab.ipynb", "python3")
        for name, make in tools(given.peers, work).items():
            (work / name).mkdir(exist_ok=True)
            try:
                report[name] = measure(make(), source, work / name, given.runs, given.workers)
            except (OSError, RuntimeError) as error:
                report[name] = {"absent": str(error)}
    print(json.dumps(report | {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    main()
