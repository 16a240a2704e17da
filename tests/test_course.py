"""The main job end to end: the lab runs on the embedded model, is graded, and does the same thing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.grade import grade_submission

TIMED = {"metrics.json", "cost-notes.md"}  # the only files that may hold a time


def run_lab(out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", "from course_lib.cli import main; main()", "run", "06", "--out", str(out), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Path(json.loads(done.stdout)["runs"][0]["folder"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return run_lab(tmp_path_factory.mktemp("first")), run_lab(tmp_path_factory.mktemp("second"))


def test_two_runs_with_one_seed_are_byte_identical(runs: tuple[Path, Path]) -> None:
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir() if p.name not in TIMED} for folder in runs)
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_the_lab_passes_its_own_rubric(runs: tuple[Path, Path]) -> None:
    report = grade_submission(runs[0], "06")
    assert [f.rule for f in report.findings if not f.ok] == []
    assert all(gate.passed for gate in report.gates)
    assert report.points + report.pending == report.maximum


def test_the_same_submission_gives_the_same_report(runs: tuple[Path, Path]) -> None:
    assert grade_submission(runs[0], "06").to_json() == grade_submission(runs[0], "06").to_json()
