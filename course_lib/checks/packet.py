"""What the packets of all labs share: files, the executed notebook, and prose. Nothing of it is executed here."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from course_lib.artifacts import Metrics
from course_lib.catalog import artifacts
from course_lib.checks.common import listed, short, verdict
from course_lib.checks.notes import missing_sections, states
from course_lib.errors import ArtifactError
from course_lib.submission import Incomplete, Submission
from course_lib.types import Finding

README = {"the use case": ("use case", "purpose"), "assumptions": ("assumption",),
          "setup": ("setup", "set up", "how to run"), "results": ("result", "findings", "measured")}  # fmt: skip
RISKS = {"limits": ("limit",), "failure cases": ("failure", "failed"), "controls": ("control",),
         "rollback": ("rollback", "roll back", "roll-back")}  # fmt: skip
COSTS = {"tokens": ("token",), "seconds": ("second", "latency", " time "), "money": ("usd", "money", "price", "dollar"),
         "scaling": ("scal", "times the", "per day", "per month")}  # fmt: skip
BINARY = (".png", ".safetensors")  # there or not; what they hold is the business of the lab's own checks
MAX_SOURCE = 8_000  # characters of a parameters cell
_OPEN = re.compile(r"^[ \t]*raise NotImplementedError", re.MULTILINE)


def files(rule: str, submission: Submission, module: str, documents: Mapping[str, type[BaseModel]],
          rows: Mapping[str, type[BaseModel]]) -> Finding:
    """Whether every artifact of the lab is there and can be read. documents: JSON files; rows: JSONL files."""
    wanted, problems = artifacts(module), []
    for name in wanted:
        try:
            if name in documents:
                submission.json(name, documents[name])
            elif name in rows:
                submission.jsonl(name, rows[name])
            elif name.endswith(".ipynb"):
                cells(submission)
            elif name.endswith(BINARY):
                submission.raw(name)
            elif not submission.text(name).strip():
                raise Incomplete(f"{name} is empty.", where=name, fix="Write it.")
        except ArtifactError as error:
            problems.append((error.where, error.what))
    return verdict(
        rule, not problems, f"All {len(wanted)} files are there and readable.",
        problem=f"{len(problems)} files are missing or cannot be read. {problems[0][1] if problems else ''}",
        expected=f"{len(wanted)} readable files",
        actual="not these: " + "; ".join(short(where, 40) for where, _ in problems[:8]) if problems else "all",
        where=problems[0][0] if problems else "", fix="Hand in what one complete run of the lab wrote.",
        problems=[short(what, 200) for _, what in problems[:20]],
    )  # fmt: skip


def cells(submission: Submission) -> list[dict[str, Any]]:
    """The code cells of lab.ipynb, each with source, outputs, execution_count and tags. Raises Incomplete."""
    value = submission.value("lab.ipynb")
    found = value.get("cells") if isinstance(value, dict) and value.get("nbformat") == 4 else None
    if not isinstance(found, list) or not all(isinstance(cell, dict) for cell in found):
        raise Incomplete("lab.ipynb is not a notebook of format 4.", where="lab.ipynb", fix="Save it from JupyterLab.")
    code = []
    for cell in found:
        source, metadata, outputs = cell.get("source"), cell.get("metadata"), cell.get("outputs")
        text = "".join(map(str, source)) if isinstance(source, list) else str(source or "")
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        if cell.get("cell_type") == "code" and text.strip():
            code.append({"source": text, "tags": tags if isinstance(tags, list) else [],
                         "outputs": [o for o in outputs if isinstance(o, dict)] if isinstance(outputs, list) else [],
                         "count": cell.get("execution_count")})
    return code


def parameters(submission: Submission) -> dict[str, Any]:
    """Literals of the parameters cell of the notebook, with what was injected after it; nothing is executed."""
    found: dict[str, Any] = {}
    for cell in cells(submission):
        if {"parameters", "injected-parameters"} & set(map(str, cell["tags"])) and len(cell["source"]) <= MAX_SOURCE:
            found |= _literals(cell["source"])
    return found


def _literals(source: str) -> dict[str, Any]:
    try:
        nodes = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
    return found


def notebook(rule: str, submission: Submission) -> Finding:
    """Whether it was executed from the top, no error, no exercise left open. Outputs are read and prove nothing."""
    code = cells(submission)
    counts = [cell["count"] for cell in code]
    real = [count for count in counts if isinstance(count, int) and not isinstance(count, bool)]
    problems = []
    if not code or len(real) < len(code):
        problems.append(f"{len(code) - len(real)} of {len(code)} code cells were not executed")
    elif any(later <= earlier for earlier, later in itertools.pairwise(real)):
        problems.append("the cells were not executed from the top to the end")
    problems += [f"code cell {number} ended with an error" for number, cell in enumerate(code, 1)
                 if any(output.get("output_type") == "error" for output in cell["outputs"])]  # fmt: skip
    problems += [f"code cell {number} still raises NotImplementedError" for number, cell in enumerate(code, 1)
                 if _OPEN.search(cell["source"])]  # fmt: skip
    if not any("injected-parameters" in cell["tags"] or "parameters" in cell["tags"] for cell in code):
        problems.append("there is no parameters cell")
    return verdict(
        rule, not problems, f"{len(code)} code cells, executed from the top without an error.",
        problem=f"The notebook is not one clean run: {listed(problems, 3)}.", expected="one run from the top, no error",
        actual=f"{len(problems)} problems", where="lab.ipynb", fix="Restart the kernel, run all cells, save.",
    )  # fmt: skip


def readme(rule: str, submission: Submission) -> Finding:
    missing = missing_sections(submission.text("README.md"), README, 8)
    return prose(rule, "README.md", missing, "use case, assumptions, setup and results")


def risks(rule: str, submission: Submission) -> Finding:
    missing = missing_sections(submission.text("risk-notes.md"), RISKS, 12)
    return prose(rule, "risk-notes.md", missing, "limits, failure cases, controls and rollback")


def cost_gaps(submission: Submission) -> list[str]:
    """What cost-notes.md lacks: one of the four parts, or a number of metrics.json."""
    text, metrics = submission.text("cost-notes.md"), submission.json("metrics.json", Metrics)
    lower = f" {text.lower()} "
    missing = [f"nothing on {name}" for name, marks in COSTS.items() if not any(mark in lower for mark in marks)]
    return missing + [f"{name} is {value:g} in metrics.json and is not stated"
                      for name, value in metrics.model_dump().items() if not states(text, value)]


def prose(rule: str, name: str, missing: list[str], expected: str) -> Finding:
    where = next((problem.split(" ")[0] for problem in missing if problem.split(" ")[0].endswith(".md")), name)
    return verdict(rule, not missing, f"{name} has what a reader needs: {expected}.",
                   problem=f"{name}: {listed(missing, 4)}.", expected=expected, actual=listed(missing, 4), where=where,
                   fix="Add what is missing; a heading with its text below is enough for the check, not for a reader.")
