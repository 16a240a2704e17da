"""One import-heavy notebook, executed by us and by the field's own tools, on one machine in one run.

    python tests/benchmarks/grade_peers.py [--runs 3] [--workers 1 2] [--steps 240] [--fresh] [--only TOOL ...]

The tools are papermill's own command, ``otter run``, ``nbgrader autograde``, and ours: cold, warm, and warm in the
sandbox. The peers' environment is made in build/peers with pinned versions. What was measured is kept after each
notebook, so a run that is stopped goes on where it was; --fresh starts over, and so do other settings. Progress goes to
standard error, the result to tests/benchmarks/results/grade_peers.json and its chart to docs/grade_peers.png.

p50_s and p95_s: seconds a notebook, start of the command to its end, one after another. per_minute_N: with N at once.
cells_p50_s: what the notebook's own cells took. overhead_ratio: p50 of the whole over its own cells, run by run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from peer_tools import PEERS, Tool, environment, notebook, tools
from peers_chart import draw

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "tests" / "benchmarks" / "results" / "grade_peers.json"
CHART = ROOT / "docs" / "grade_peers.png"
STATE = ROOT / "build" / "grade_peers.json"
ORDER = ("papermill", "otter", "nbgrader", "ours_cold", "ours_warm", "ours_warm_sandboxed")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class State:
    """What has been measured so far, on disk after every notebook."""

    def __init__(self, path: Path, settings: dict[str, Any], fresh: bool) -> None:
        self.path = path
        kept = json.loads(path.read_text()) if path.is_file() and not fresh else {}
        same = kept.get("settings") == settings
        self.values: dict[str, Any] = kept if same else {"settings": settings, "tools": {}}

    def of(self, name: str) -> dict[str, Any]:
        return self.values["tools"].setdefault(name, {"seconds": [], "cells": [], "batches": {}})

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.values, indent=1))
        part.replace(self.path)


def once(tool: Tool, source: Path, out: Path) -> tuple[float, float | None]:
    """Seconds of the whole, and of the notebook's own cells where the tool leaves what they wrote beside the result."""
    out.mkdir(parents=True)
    started = time.perf_counter()
    tool(source, out)
    seconds = time.perf_counter() - started
    cells = out / "cells.txt"
    return seconds, float(cells.read_text()) if cells.is_file() else None


def measure(name: str, make: Callable[[], Tool], source: Path, work: Path, state: State, runs: int,
            workers: list[int]) -> None:  # fmt: skip
    """Fills what is still missing of one tool: a first run that does not count, then ``runs``, then the batches."""
    mine = state.of(name)
    batches = [str(n) for n in workers if n > 1 and str(n) not in mine["batches"]]
    if len(mine["seconds"]) >= runs and not batches:
        say(f"{name}: known")
        return
    tool, places = make(), (work / name / str(number) for number in range(10_000))
    say(f"{name}: first run, which does not count")
    once(tool, source, next(places))
    while len(mine["seconds"]) < runs:
        seconds, cells = once(tool, source, next(places))
        mine["seconds"].append(round(seconds, 3))
        mine["cells"] += [] if cells is None else [round(cells, 3)]
        state.save()
        say(f"{name}: {len(mine['seconds'])} of {runs}, {seconds:.2f} s")
    for number in batches:
        mine["batches"][number] = round(batch(tool, source, places, runs * int(number), int(number)), 3)
        state.save()
        say(f"{name}: {mine['batches'][number]:.1f} notebooks a minute with {number} at once")


def batch(tool: Tool, source: Path, places: Iterator[Path], size: int, workers: int) -> float:
    """Notebooks a minute. The cores are shared out: two notebooks with a thread for each core would be slowed many
    times over by threads that spin, which says nothing about the tool."""
    outs = [next(places) for _ in range(size)]
    threads, started = os.environ["OMP_NUM_THREADS"], time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda out: once(tool, source, out), outs))
    os.environ["OMP_NUM_THREADS"] = threads
    return 60 * size / (time.perf_counter() - started)


def summary(measured: dict[str, Any]) -> dict[str, float]:
    seconds, cells = sorted(measured["seconds"]), measured["cells"]
    late = seconds[min(len(seconds) - 1, round(0.95 * len(seconds)))]
    found = {"p50_s": statistics.median(seconds), "p95_s": late, "n": len(seconds),
             "per_minute_1": 60 * len(seconds) / sum(seconds)}  # fmt: skip
    found |= {f"per_minute_{number}": rate for number, rate in measured["batches"].items()}
    if len(cells) == len(seconds):
        pairs = list(zip(measured["seconds"], cells, strict=True))
        found["cells_p50_s"] = statistics.median(cells)
        found["overhead_s"] = statistics.median(whole - own for whole, own in pairs)
        found["overhead_ratio"] = statistics.median(whole / own for whole, own in pairs)
    return {name: round(value, 3) for name, value in found.items()}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=240, help="Training steps in the notebook.")
    parser.add_argument("--only", nargs="*", choices=ORDER, default=list(ORDER))
    parser.add_argument("--fresh", action="store_true", help="Forget what a stopped run has measured.")
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "peers", help="The peers' environment.")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--chart", type=Path, default=CHART)
    return parser.parse_args()


def main() -> None:
    given = options()
    os.environ.update(OMP_NUM_THREADS="2", HF_HUB_OFFLINE="1", ANONYMIZED_TELEMETRY="False")
    venv = environment(given.peers.resolve(), say)
    settings = {"runs": given.runs, "workers": given.workers, "steps": given.steps, "peers": list(PEERS),
                "cores": os.cpu_count()}  # fmt: skip
    state = State(STATE, settings, given.fresh)
    absent = {}
    work = Path(tempfile.mkdtemp(prefix="course-peers-"))
    try:
        source = notebook(work / "lab.ipynb", given.steps)
        for name, make in tools(venv, work, given.steps).items():
            if name in given.only:
                try:
                    measure(name, make, source, work, state, given.runs, given.workers)
                except (OSError, RuntimeError) as error:
                    absent[name] = str(error)
                    say(f"{name}: failed. {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    done = {name: summary(state.of(name)) for name in given.only if len(state.of(name)["seconds"]) >= given.runs}
    report = {"settings": settings, "date": datetime.now(UTC).date().isoformat(), "tools": done, "absent": absent,
              "load_average": round(os.getloadavg()[0], 2)}  # fmt: skip
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text(json.dumps(report, indent=1) + "\n")
    if not absent and len(done) > 1:
        draw(done, given.chart)
    print(json.dumps(report, indent=1))
    raise SystemExit(1 if absent else 0)


if __name__ == "__main__":
    main()
