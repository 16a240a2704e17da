"""Small ways to change a submission in a test, and what a report must say of an exemplar."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from course_lib.grade import grade_submission
from course_lib.rubric import LabReport
from course_lib.types import Outcome

Expected = tuple[dict[str, float], dict[str, str], float]
NO_GATE: dict[str, str] = {}


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Changes a JSON document in place; ``change`` mutates it or returns another."""
    path = folder / name
    value = json.loads(path.read_text("utf-8"))
    value = change(value) or value
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def edit_row(folder: Path, name: str, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes one line of a JSONL file, counted from 0."""
    path = folder / name
    lines = path.read_text("utf-8").splitlines()
    row = json.loads(lines[number])
    lines[number] = json.dumps(change(row) or row, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def replace_text(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text("utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new), "utf-8")


def change_copies(made: dict[str, Path], folder: Path, changes: Mapping[str, Callable[[Path], Any]]) -> dict[str, Path]:
    """Adds to ``made`` a copy of its passing exemplar for each change, changed."""
    for name, change in changes.items():
        made[name] = Path(shutil.copytree(made["passing"], folder / name))
        change(made[name])
    return made


def problems(folder: Path, module: str) -> dict[str, Outcome]:
    """Rules that did not pass."""
    return {f.rule: f.outcome for f in grade_submission(folder, module).findings if not f.ok}


def lost(report: LabReport) -> dict[str, float]:
    """Points that the automatic criteria did not earn, by criterion."""
    return {c.id: c.points - c.earned for c in report.criteria if c.scored_by == "auto" and c.earned < c.points}


def assert_loses(report: LabReport, expected: Expected, pending: float = 3) -> None:
    """An exemplar loses exactly what it must. expected: (points lost by criterion, gates not passed with their outcome,
    points that could not be scored). Every finding that is no pass says what to do."""
    points, gates, unscored = expected
    assert lost(report) == points
    assert {gate.id: str(gate.outcome) for gate in report.gates if not gate.passed} == gates
    scored = report.maximum - pending - sum(points.values())
    assert (report.points, report.pending, report.unscored) == (scored, pending, unscored)
    assert (report.band == "blocked") == bool(gates)
    for finding in report.findings:
        assert finding.ok or (finding.message and finding.fix), finding
