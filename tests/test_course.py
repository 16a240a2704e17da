"""The main job end to end: each lab runs on the embedded model, is graded, and does the same thing twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from lab_runs import first_run, lab_run

from course_lib import catalog
from course_lib.grade import grade_submission

LABS = [module.code for module in catalog.MODULES if module.labs]
TIMED = {"metrics.json", "cost-notes.md", "chain.jsonl"}  # the only files that are a matter of time as a whole
MEASURES_TIME = {"01", "02"}  # labs whose other files hold times too; of all others every byte must be equal
TIMES = {"ttft_s", "seconds", "p50_s", "p95_s", "ttft_p50_s", "tokens_per_s", "made_at"}  # fields that hold a time
TIMED_LINE = re.compile(r"(?m)^(.*)\| \d+\.\d{4} \| \d+\.\d{4} \|(.*)$")  # P50 and P95 in a table of a note


def timeless(path: Path) -> str:
    """The content of an artifact without what a clock put there."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        nb = json.loads(text)
        for cell in nb["cells"]:
            if any(word in "".join(map(str, cell.get("outputs", []))) for word in TIMES):
                cell["outputs"] = []
        return json.dumps(nb)
    if path.suffix in (".json", ".jsonl"):
        rows = [text] if path.suffix == ".json" else text.splitlines()
        return "\n".join(json.dumps(_without(json.loads(row))) for row in rows)
    return TIMED_LINE.sub(r"\1\2", text)


def _without(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without(inner) for name, inner in value.items() if name not in TIMES}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def every_lab(*which: str) -> pytest.MarkDecorator:
    """A test of each lab, with these of its runs."""
    return pytest.mark.parametrize("code", [
        pytest.param(code, marks=pytest.mark.labs(*(f"{code} {run}" for run in which))) for code in LABS])  # fmt: skip


@every_lab("first", "second")
def test_two_runs_with_one_seed_are_equal_times_aside(code: str) -> None:
    read = timeless if code in MEASURES_TIME else Path.read_bytes
    first, second = ({p.relative_to(folder).as_posix(): read(p) for p in folder.rglob("*")
                      if p.is_file() and p.name not in TIMED}
                     for folder in (first_run(code), lab_run(f"{code} second")))  # fmt: skip
    assert first_run(code) != lab_run(f"{code} second")
    assert set(catalog.artifacts(code)) - TIMED == set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []


@every_lab("first")
def test_the_lab_passes_its_own_rubric(code: str) -> None:
    report = grade_submission(first_run(code), code)
    assert [f.rule for f in report.findings if not f.ok] == []
    assert all(gate.passed for gate in report.gates)
    assert report.points + report.pending == report.maximum


@every_lab("first")
def test_the_same_submission_gives_the_same_report(code: str) -> None:
    assert grade_submission(first_run(code), code).to_json() == grade_submission(first_run(code), code).to_json()
