"""Lab 06, the packet: files, configuration, notebook and prose. Static: nothing of the learner's is executed here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from course_lib.artifacts import (
    AccessProbe,
    AuditRow,
    Deletion,
    InjectionRow,
    Metrics,
    RagCase,
    RagConfig,
    RagResults,
    RagRow,
)
from course_lib.checks import packet
from course_lib.checks.common import Context, flat, listed, short, verdict
from course_lib.checks.notes import numbers
from course_lib.checks.rag_controls import load_deletion
from course_lib.checks.rag_rows import load_config, load_pairs
from course_lib.submission import Submission
from course_lib.types import Finding

JSON = {"config.json": RagConfig, "rag_eval_results.json": RagResults, "deletion.json": Deletion,
        "metrics.json": Metrics}  # fmt: skip
JSONL = {"rag_eval_cases.jsonl": RagCase, "rag_eval_rows.jsonl": RagRow, "access_probes.jsonl": AccessProbe,
         "injection_rows.jsonl": InjectionRow, "audit.jsonl": AuditRow}  # fmt: skip
_ASSIGNED = re.compile(r"(\w{1,40})[ \t]*=[ \t]*(-?\d{1,18})[ \t]*(?:#.*)?")
_NOTEBOOK_NAMES = {"seed": ("seed",), "max_words": ("max_words",), "overlap": ("overlap_words", "overlap")}


def check_files(submission: Submission, context: Context) -> list[Finding]:
    """rag.files: every artifact is there and can be read as what it should be."""
    return [packet.files("rag.files", submission, "06", JSON, JSONL)]


def check_config(submission: Submission, context: Context) -> list[Finding]:
    """rag.config"""
    config, today = load_config(submission), context.corpus.as_of.isoformat()
    problems = [] if config.lab.startswith("06") else [f"lab is {short(config.lab, 20)!r}, not '06'"]
    problems += [] if config.as_of == today else [f"as_of is {config.as_of}, and the corpus is judged as of {today}"]
    size = f"{config.index.max_words} words with {config.index.overlap} overlap"
    settings = f"seed {config.seed}, {short(config.model, 40)}, {size}, {config.mode}, k = {config.k}"
    return [verdict(
        "rag.config", not problems, f"Everything that the grader needs to run it again is recorded: {settings}.",
        problem=f"The configuration does not fit: {listed(problems)}.", expected=f"lab 06, as of {today}",
        actual=settings, where="config.json", fix="Write config.json from the parameters of the run.",
    )]  # fmt: skip


def check_agreement(submission: Submission, context: Context) -> list[Finding]:
    """rag.files_agree: one run wrote all of it."""
    problems = list(_disagreements(submission, context))
    return [verdict(
        "rag.files_agree", not problems, "The notebook, the configuration, the metrics and the rows come from one run.",
        problem=f"The files do not come from one run: {problems[0] if problems else ''}.", expected="one run",
        actual=f"{len(problems)} contradictions", where="config.json" if problems else "", problems=problems[:6],
        fix="Run the lab once, from the top, and hand in that folder.",
    )]  # fmt: skip


def _disagreements(submission: Submission, context: Context) -> Iterator[str]:
    config, pairs = load_config(submission), load_pairs(submission, context)
    metrics = submission.json("metrics.json", Metrics)
    written = dict(pair for cell in packet.cells(submission) for pair in _parameters(cell))
    truth = {"seed": config.seed, "max_words": config.index.max_words, "overlap": config.index.overlap}
    for name, value in truth.items():
        stated = next((written[alias] for alias in _NOTEBOOK_NAMES[name] if alias in written), None)
        if stated is None:
            yield f"the parameters cell of the notebook does not set {name}"
        elif stated != value:
            yield f"the notebook ran with {name} = {stated}, config.json says {value}"
    asked = any(not pair.row.cached and pair.row.sources for pair in pairs)
    if asked != bool(metrics.tokens_in) or (metrics.tokens_out and not metrics.tokens_in):
        yield f"{metrics.tokens_in} tokens in and {metrics.tokens_out} out do not fit {len(pairs)} answered cases"
    deepest = max((len(pair.row.retrieved) for pair in pairs), default=0)
    if deepest > config.k:
        yield f"a row has {deepest} retrieved chunks, and config.json has k = {config.k}"


def _parameters(cell: dict[str, Any]) -> Iterator[tuple[str, int]]:
    if {"parameters", "injected-parameters"} & set(map(str, cell["tags"])):
        for line in cell["source"].split("\n"):
            match = _ASSIGNED.fullmatch(line.rstrip()) if len(line) < 300 else None
            if match:
                yield match[1], int(match[2])


def check_notebook(submission: Submission, context: Context) -> list[Finding]:
    """rag.notebook: executed from the top, no error, no exercise left open. Outputs are read and prove nothing."""
    return [packet.notebook("rag.notebook", submission)]


def check_readme(submission: Submission, context: Context) -> list[Finding]:
    """rag.readme"""
    return [packet.readme("rag.readme", submission)]


def check_risks(submission: Submission, context: Context) -> list[Finding]:
    """rag.risk_notes"""
    return [packet.risks("rag.risk_notes", submission)]


def check_costs(submission: Submission, context: Context) -> list[Finding]:
    """rag.cost_notes: the four parts, and the numbers of metrics.json."""
    expected = "tokens, seconds, money, scaling, as in metrics.json"
    return [packet.prose("rag.cost_notes", "cost-notes.md", packet.cost_gaps(submission), expected)]


def check_reports(submission: Submission, context: Context) -> list[Finding]:
    """rag.test_reports: each report states the size of its own test."""
    probes, rows = (len(submission.raw(name).splitlines()) for name in ("access_probes.jsonl", "injection_rows.jsonl"))
    key = load_deletion(submission, context).record.doc_key
    missing = []
    for name, number in (("access-control-test.md", probes), ("prompt-injection-test.md", rows)):
        if str(number) not in numbers(submission.text(name)):
            missing.append(f"{name} does not state its {number} probes")
    if flat(key) not in flat(submission.text("deletion-test.md")):
        missing.append(f"deletion-test.md does not name {short(key)}")
    expected = "number of probes, and the deleted document"
    return [packet.prose("rag.test_reports", "access-control-test.md", missing, expected)]
