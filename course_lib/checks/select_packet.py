"""Lab 01, the packet: files, agreement between them, the notebook and the prose around it."""

from __future__ import annotations

from collections.abc import Iterator

from course_lib.artifacts import Metrics
from course_lib.artifacts_selection import LatencyRow, Selection
from course_lib.checks import packet
from course_lib.checks.common import Context, verdict
from course_lib.checks.select_options import OPTIONS, load
from course_lib.checks.select_rows import load_rows
from course_lib.submission import Submission
from course_lib.types import Finding

JSON = {OPTIONS: Selection, "metrics.json": Metrics}
JSONL = {"latency_rows.jsonl": LatencyRow}


def check_files(submission: Submission, context: Context) -> list[Finding]:
    """select.files"""
    return [packet.files("select.files", submission, "01", JSON, JSONL)]


def check_agreement(submission: Submission, context: Context) -> list[Finding]:
    """select.files_agree: one run wrote all of it, with the parameters that the notebook shows."""
    problems = list(_disagreements(submission))
    return [verdict(
        "select.files_agree", not problems, "The notebook, the comparison, the rows and the metrics come from one run.",
        problem=f"The files do not come from one run: {problems[0] if problems else ''}.", expected="one run",
        actual=f"{len(problems)} contradictions", where=OPTIONS if problems else "", problems=problems[:6],
        fix="Run the lab once, from the top, and hand in that folder.",
    )]  # fmt: skip


def _disagreements(submission: Submission) -> Iterator[str]:
    selection, given = load(submission), packet.parameters(submission)
    rows, metrics = load_rows(submission), submission.json("metrics.json", Metrics)
    if not selection.lab.startswith("01"):
        yield "options.json is not of lab 01"
    for name in ("seed", "workload", "assumptions", "targets"):
        value = getattr(selection, name)
        used = value if name == "seed" else value.model_dump()
        if given.get(name) != used:
            yield f"the notebook ran with another {name} than options.json has"
    for name, field in (("tokens_in", "tokens_in"), ("tokens_out", "tokens_out")):
        total = sum(getattr(row.value, field) for row in rows)
        if getattr(metrics, name) != total:
            yield f"metrics.json has {getattr(metrics, name)} for {name}, the rows add up to {total}"
    if metrics.seconds < sum(row.value.seconds for row in rows) * 0.9:
        yield f"the run took {metrics.seconds:g} s, less than its requests together"


def check_notebook(submission: Submission, context: Context) -> list[Finding]:
    """select.notebook: executed from the top, no error, no exercise left open. Outputs are read and prove nothing."""
    return [packet.notebook("select.notebook", submission)]


def check_readme(submission: Submission, context: Context) -> list[Finding]:
    """select.readme"""
    return [packet.readme("select.readme", submission)]


def check_risks(submission: Submission, context: Context) -> list[Finding]:
    """select.risk_notes"""
    return [packet.risks("select.risk_notes", submission)]
