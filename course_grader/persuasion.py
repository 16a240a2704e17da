"""Prose that speaks to whoever grades: requests for points, orders, hidden text, delimiters made for a judge.

It never changes a score, because nothing that scores reads it so; it is flagged, for a person to see.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from course_lib.errors import ArtifactError
from course_lib.submission import Submission
from course_lib.types import Finding, Outcome

RULE = "prose.speaks_to_the_grader"
MARKS = r"(?:marks?|points?|scores?|credits?|grades?)"
SIGNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("asks for points", re.compile(
        r"\b(?:give|award|grant|assign|deserves?)\b[^.\n]{0,40}\b(?:full|maximum|top|all|perfect|20|100)\b"
        rf"[^.\n]{{0,20}}\b{MARKS}\b", re.IGNORECASE)),
    ("gives orders about the grading", re.compile(
        r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,40}"
        r"\b(?:rubric|criteria|grad(?:er|ing)|scoring|checks)\b", re.IGNORECASE)),
    ("speaks to the grader", re.compile(
        r"\b(?:dear|hey|attention|note to|as (?:an?|the)) (?:the )?(?:ai |llm |automatic )?"
        r"(?:grader|judge|evaluator)\b", re.IGNORECASE)),
    ("delimiters of a conversation", re.compile(
        r"<\|[a-z_]{2,20}\|>|\[/?INST\]|</?(?:system|assistant|rubric|instructions|submission)>|"
        r"^[ \t]{0,8}(?:system|assistant)[ \t]?:[ \t]?\S", re.IGNORECASE | re.MULTILINE)),
    ("text hidden from a reader", re.compile(
        r"display\s*:\s*none|font-size\s*:\s*0|visibility\s*:\s*hidden|color\s*:\s*(?:white|#fff(?:fff)?)\b|"
        rf"<!--(?:(?!-->)[\s\S]){{0,200}}\b(?:{MARKS}|grader|judge|rubric|system)\b|[\u200b-\u200f\u2060-\u2064\ufeff]{{3}}",
        re.IGNORECASE)),
)  # fmt: skip


def speaks_to_the_grader(submission: Submission) -> list[Finding]:
    """One finding that names the places, or none. It never raises."""
    found = [f"{name} {word}" for name, text in _prose(submission) for word, sign in SIGNS if sign.search(text)]
    if not found:
        return []
    return [Finding(RULE, Outcome.FAIL, f"Prose speaks to whoever grades: {'; '.join(found[:5])}. It changes nothing.",
                    where=found[0].split(" ")[0], fix="Say what the work does; requests for points are not read.",
                    evidence={"flag": "speaks to the grader", "places": found[:20]})]  # fmt: skip


def _prose(submission: Submission) -> Iterator[tuple[str, str]]:
    for name in submission.files:
        try:
            if name.endswith((".md", ".txt", ".rst", ".html")):
                yield name, submission.text(name)
            elif name.endswith(".ipynb"):
                yield name, "\n".join(_markdown(submission.value(name)))
        except ArtifactError:
            continue


def _markdown(value: object) -> Iterator[str]:
    cells = value.get("cells") if isinstance(value, dict) else None
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict) and cell.get("cell_type") in ("markdown", "raw"):
            source = cell.get("source")
            yield "".join(map(str, source)) if isinstance(source, list) else str(source or "")
