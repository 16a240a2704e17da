"""Takes the grader's published figures again; see ``course_lib.measurements``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from course_lib.figures import record


def grader() -> Iterator[str]:
    """The cohort grader: kernel starts, 300 submissions, 50 kills, and the attacks of the adversarial tests."""
    import json
    from xml.etree import ElementTree

    from course_lib.catalog import repo_root

    command, root = "course figures --measure --only grader", repo_root()
    for script, figures in (
        ("kernel_start.py", (
            ("kernel_start_cold_p50_s", "s", "A kernel with the heavy imports, started cold, median"),
            ("kernel_start_warm_sandboxed_p50_s", "s", "The same, forked warm into a sandbox, median"))),
        ("cohort.py", (
            ("static_300_s", "s", "Static grading of 300 submissions of lab 06, 2 workers"),
            ("rerun_200_s", "s", "200 unchanged submissions graded again"),
            ("kill_points", "count", "Random kills of a run of 40 submissions, each resumed"),
            ("kill_mismatches", "count", "Gradebooks that differ after kill and resume"))),
    ):  # fmt: skip
        done = subprocess.run([sys.executable, f"tests/benchmarks/{script}"], cwd=root, capture_output=True, text=True)
        if done.returncode:
            yield f"grader: {script} failed: {done.stderr[-300:]}"
            continue
        found = json.loads(done.stdout)
        for name, unit, title in figures:
            record(name, found[name], unit, command=command, title=title)
            yield f"{name} {found[name]}"
        if "ratio" in found:
            record("kernel_start_ratio", found["ratio"], "times", command=command, title="Cold start over warm start")
    report = root / "build" / "adversarial.xml"
    subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/adversarial", f"--junitxml={report}"], cwd=root)
    suite = ElementTree.parse(report).getroot()[0].attrib
    tried = int(suite["tests"]) - int(suite["skipped"])
    contained = tried - int(suite["failures"]) - int(suite["errors"])
    record("attacks_tried", tried, "count", command=command, title="Attacks on the sandbox that the tests try")
    record("attacks_contained", contained, "count", command=command, title="Attacks contained")
    yield f"attacks {contained} of {tried} contained"


def peers() -> Iterator[str]:
    """One import-heavy notebook, by papermill, otter, nbgrader and us; twenty minutes. Also draws a chart."""
    import json

    from course_lib.catalog import repo_root

    command, root = "course figures --measure --only peers", repo_root()
    script = [sys.executable, "tests/benchmarks/grade_peers.py"]
    done = subprocess.run(script, cwd=root, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        yield "peers: a tool could not be measured; the old figures stay"
        return
    found = json.loads(done.stdout)["tools"]
    for tool, name, title in (
        ("papermill", "peer_papermill_p50_s", "One import-heavy notebook: papermill's own command, median"),
        ("otter", "peer_otter_p50_s", "The same: `otter run`, median"),
        ("nbgrader", "peer_nbgrader_p50_s", "The same: `nbgrader autograde`, median"),
        ("ours_warm_sandboxed", "ours_p50_s", "The same: ours, warm, in the sandbox, median"),
    ):  # fmt: skip
        record(name, found[tool]["p50_s"], "s", n=found[tool]["n"], command=command, title=title)
        yield f"{name} {found[tool]['p50_s']}"
    mine = found["ours_warm_sandboxed"]
    record("grade_overhead_ratio", mine["overhead_ratio"], "times", n=mine["n"], command=command,
           title=f"The whole over the learner's own cells ({mine['cells_p50_s']:.1f} s), warm, in the sandbox")
    yield f"grade_overhead_ratio {mine['overhead_ratio']}"
