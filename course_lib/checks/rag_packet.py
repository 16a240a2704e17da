"""Lab 06, the packet: files, configuration, notebook and prose. Static: nothing of the learner's is executed here."""

from __future__ import annotations

import itertools
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
from course_lib.catalog import artifacts
from course_lib.checks.common import Context, flat, listed, short, verdict
from course_lib.checks.notes import missing_sections, numbers, states
from course_lib.checks.rag_controls import load_deletion
from course_lib.checks.rag_rows import load_config, load_pairs
from course_lib.errors import ArtifactError
from course_lib.submission import Incomplete, Submission
from course_lib.types import Finding

JSON = {"config.json": RagConfig, "rag_eval_results.json": RagResults, "deletion.json": Deletion,
        "metrics.json": Metrics}  # fmt: skip
JSONL = {"rag_eval_cases.jsonl": RagCase, "rag_eval_rows.jsonl": RagRow, "access_probes.jsonl": AccessProbe,
         "injection_rows.jsonl": InjectionRow, "audit.jsonl": AuditRow}  # fmt: skip
README = {"the use case": ("use case", "purpose"), "assumptions": ("assumption",),
          "setup": ("setup", "set up", "how to run"), "results": ("result", "findings", "measured")}  # fmt: skip
RISKS = {"limits": ("limit",), "failure cases": ("failure", "failed"), "controls": ("control",),
         "rollback": ("rollback", "roll back", "roll-back")}  # fmt: skip
COSTS = {"tokens": ("token",), "seconds": ("second", "latency", " time "), "money": ("usd", "money", "price", "dollar"),
         "scaling": ("scal", "times the", "per day", "per month")}  # fmt: skip
_ASSIGNED = re.compile(r"(\w{1,40})[ \t]*=[ \t]*(-?\d{1,18})[ \t]*(?:#.*)?")
_OPEN = re.compile(r"^[ \t]*raise NotImplementedError", re.MULTILINE)
_NOTEBOOK_NAMES = {"seed": ("seed",), "max_words": ("max_words",), "overlap": ("overlap_words", "overlap")}


def check_files(submission: Submission, context: Context) -> list[Finding]:
    """rag.files: every artifact is there and can be read as what it should be."""
    problems = []
    for name in artifacts("06"):
        try:
            _read(submission, name)
        except ArtifactError as error:
            problems.append((error.where, error.what))
    return [verdict(
        "rag.files", not problems, f"All {len(artifacts('06'))} files are there and readable.",
        problem=f"{len(problems)} files are missing or cannot be read. {problems[0][1] if problems else ''}",
        expected=f"{len(artifacts('06'))} readable files",
        actual="not these: " + "; ".join(short(where, 40) for where, _ in problems[:8]) if problems else "all",
        where=problems[0][0] if problems else "", fix="Hand in what one complete run of the lab wrote.",
        problems=[short(what, 200) for _, what in problems[:20]],
    )]  # fmt: skip


def _read(submission: Submission, name: str) -> None:
    if name in JSON:
        submission.json(name, JSON[name])
    elif name in JSONL:
        submission.jsonl(name, JSONL[name])
    elif name.endswith(".ipynb"):
        _cells(submission)
    elif not submission.text(name).strip():
        raise Incomplete(f"{name} is empty.", where=name, fix="Write it.")


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
    written = dict(pair for cell in _cells(submission) for pair in _parameters(cell))
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


def _cells(submission: Submission) -> list[dict[str, Any]]:
    """The code cells of lab.ipynb, each with source, outputs, execution_count and tags. Raises Incomplete."""
    value = submission.value("lab.ipynb")
    cells = value.get("cells") if isinstance(value, dict) and value.get("nbformat") == 4 else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise Incomplete("lab.ipynb is not a notebook of format 4.", where="lab.ipynb", fix="Save it from JupyterLab.")
    code = []
    for cell in cells:
        source, metadata, outputs = cell.get("source"), cell.get("metadata"), cell.get("outputs")
        text = "".join(map(str, source)) if isinstance(source, list) else str(source or "")
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        if cell.get("cell_type") == "code" and text.strip():
            code.append({"source": text, "tags": tags if isinstance(tags, list) else [],
                         "outputs": [o for o in outputs if isinstance(o, dict)] if isinstance(outputs, list) else [],
                         "count": cell.get("execution_count")})
    return code


def _parameters(cell: dict[str, Any]) -> Iterator[tuple[str, int]]:
    if {"parameters", "injected-parameters"} & set(map(str, cell["tags"])):
        for line in cell["source"].split("\n"):
            match = _ASSIGNED.fullmatch(line.rstrip()) if len(line) < 300 else None
            if match:
                yield match[1], int(match[2])


def check_notebook(submission: Submission, context: Context) -> list[Finding]:
    """rag.notebook: executed from the top, no error, no exercise left open. Outputs are read and prove nothing."""
    cells = _cells(submission)
    counts = [cell["count"] for cell in cells]
    real = [count for count in counts if isinstance(count, int) and not isinstance(count, bool)]
    problems = []
    if not cells or len(real) < len(cells):
        problems.append(f"{len(cells) - len(real)} of {len(cells)} code cells were not executed")
    elif any(later <= earlier for earlier, later in itertools.pairwise(real)):
        problems.append("the cells were not executed from the top to the end")
    problems += [f"code cell {number} ended with an error" for number, cell in enumerate(cells, 1)
                 if any(output.get("output_type") == "error" for output in cell["outputs"])]  # fmt: skip
    problems += [f"code cell {number} still raises NotImplementedError" for number, cell in enumerate(cells, 1)
                 if _OPEN.search(cell["source"])]  # fmt: skip
    if not any("injected-parameters" in cell["tags"] or "parameters" in cell["tags"] for cell in cells):
        problems.append("there is no parameters cell")
    return [verdict(
        "rag.notebook", not problems, f"{len(cells)} code cells, executed from the top without an error.",
        problem=f"The notebook is not one clean run: {listed(problems, 3)}.", expected="one run from the top, no error",
        actual=f"{len(problems)} problems", where="lab.ipynb", fix="Restart the kernel, run all cells, save.",
    )]  # fmt: skip


def check_readme(submission: Submission, context: Context) -> list[Finding]:
    """rag.readme"""
    missing = missing_sections(submission.text("README.md"), README, 8)
    return [_prose("rag.readme", "README.md", missing, "use case, assumptions, setup and results")]


def check_risks(submission: Submission, context: Context) -> list[Finding]:
    """rag.risk_notes"""
    missing = missing_sections(submission.text("risk-notes.md"), RISKS, 12)
    return [_prose("rag.risk_notes", "risk-notes.md", missing, "limits, failure cases, controls and rollback")]


def check_costs(submission: Submission, context: Context) -> list[Finding]:
    """rag.cost_notes: the four parts, and the numbers of metrics.json."""
    text, metrics = submission.text("cost-notes.md"), submission.json("metrics.json", Metrics)
    lower = f" {text.lower()} "
    missing = [f"nothing on {name}" for name, marks in COSTS.items() if not any(mark in lower for mark in marks)]
    for name, value in metrics.model_dump().items():
        if not states(text, value):
            missing.append(f"{name} is {value:g} in metrics.json and is not stated")
    return [_prose("rag.cost_notes", "cost-notes.md", missing, "tokens, seconds, money, scaling, as in metrics.json")]


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
    return [_prose("rag.test_reports", "access-control-test.md", missing, "number of probes, and the deleted document")]


def _prose(rule: str, name: str, missing: list[str], expected: str) -> Finding:
    where = next((problem.split(" ")[0] for problem in missing if problem.split(" ")[0].endswith(".md")), name)
    return verdict(rule, not missing, f"{name} has what a reader needs: {expected}.",
                   problem=f"{name}: {listed(missing, 4)}.", expected=expected, actual=listed(missing, 4), where=where,
                   fix="Add what is missing; a heading with its text below is enough for the check, not for a reader.")
