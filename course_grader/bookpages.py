"""The gradebook as pages: an index and one page per attempt, self-contained and without any script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from course_grader.exports import similar_to
from course_grader.gradebook import Book, Lab, Row, slug
from course_grader.items import failed_gates, items, look_first
from course_lib.files import write_text
from course_lib.report import band_tag, environment, report_values, style_of
from course_lib.rubric import CriterionResult
from course_lib.types import Outcome

TEMPLATES = Path(__file__).parent / "templates"
STYLES = ("style.css", TEMPLATES / "gradebook.css")
SHOWN_PAIRS = 100
FULL, MOST, SOME, NONE, WAITS, OPEN = "full", "most", "some", "none", "waits", "open"
SIGNS = {FULL: "●", MOST: "◕", SOME: "◔", NONE: "○", WAITS: "…", OPEN: "!"}


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of the histogram: learners with this many whole points, in the order of the bands."""

    points: int
    passed: int
    blocked: int


def write_pages(book: Book, out: Path) -> None:
    """``index.html`` and ``learners/``; pages of learners who are no longer in the book are removed."""
    style = style_of(*STYLES)
    wanted = set()
    for lab in book.labs:
        for row in lab.rows:
            page = Path(page_of(row, lab))
            wanted.add(page.name)
            write_text(out / page, render_learner(row, lab, style))
    for old in (out / "learners").glob("*.html"):
        if old.name not in wanted:
            old.unlink()
    write_text(out / "index.html", render_index(book, style))


def page_of(row: Row, lab: Lab) -> str:
    """Path of a row's page, relative to the index."""
    attempt = "" if row.counts else f"-attempt-{row.attempt}"
    return f"learners/{slug(row.learner)}-{lab.module}{attempt}.html"


def render_learner(row: Row, lab: Lab, style: Mapping[str, str] | None = None) -> str:
    """The report of an attempt, with what policy and reviewers did to it. A row without a report says why.

    The page can be handed to its learner: of other learners it holds no name, id or link. Who a flag is about stands
    on the index.
    """
    similar = [pair for pair in lab.pairs if row.counts and row.learner in (pair.first, pair.second)]
    attempts = [other for other in lab.rows if other.learner == row.learner]
    values = report_values(row.report) if row.report else {}
    return environment(TEMPLATES).get_template("gradebook_learner.html").render(
        **values, **(style or style_of(*STYLES)), row=row, lab=lab, similar=similar,
        attempts=attempts if len(attempts) > 1 else [], link=lambda other: Path(page_of(other, lab)).name,
        starter=row.counts and row.learner in lab.starters,
    )  # fmt: skip


def render_index(book: Book, style: Mapping[str, str] | None = None) -> str:
    """Everything about the cohort on one page, most urgent first."""
    pages = {row.learner: page_of(row, lab) for lab in book.labs for row in lab.counted}
    return environment(TEMPLATES).get_template("gradebook_index.html").render(
        **(style or style_of(*STYLES)), labs=[_lab(lab) for lab in book.labs], pages=pages,
        looks=look_first(book), totals=book.totals if len(book.labs) > 1 else (), signs=SIGNS,
    )  # fmt: skip


def _lab(lab: Lab) -> dict[str, Any]:
    rows = sorted(lab.counted, key=lambda r: (r.name.casefold(), r.learner))
    scored = [row for row in rows if row.report]
    ranked = sorted(scored, key=lambda r: (-r.final, r.name.casefold(), r.learner))
    finals = [row.final for row in scored]
    return {
        "lab": lab, "people": [_person(row, lab) for row in rows], "bins": _bins(lab), "checks": items(lab),
        "top": max((b.passed + b.blocked for b in _bins(lab)), default=1) or 1,
        "passed": sum(row.passed for row in rows), "scored": len(scored), "missing": len(rows) - len(scored),
        "median": median(finals) if finals else None, "gates": failed_gates(lab),
        "pending": sum(row.report.pending for row in scored if row.report), "heat": [_heat(row, lab) for row in ranked],
        "areas": _areas(lab), "cohort": _cohort(scored), "pairs": lab.pairs[:SHOWN_PAIRS],
        "more_pairs": max(0, len(lab.pairs) - SHOWN_PAIRS), "names": {row.learner: row.name for row in rows},
    }  # fmt: skip


def _person(row: Row, lab: Lab) -> dict[str, Any]:
    report = row.report
    failed = [gate.title for gate in report.gates if not gate.passed] if report else []
    return {"row": row, "page": page_of(row, lab), "tag": band_tag(report) if report else Outcome.ERROR,
            "failed": failed, "similar": len(similar_to(row, lab)), "starter": row.learner in lab.starters}  # fmt: skip


def _bins(lab: Lab) -> list[Bin]:
    """Finals by whole points, over everyone who has a report."""
    counts: dict[int, list[int]] = {p: [0, 0] for p in range(int(lab.rubric.maximum) + 1)}
    for row in lab.counted:
        if row.report:
            counts[int(row.final)][not row.passed] += 1
    return [Bin(points, *both) for points, both in counts.items()]


def _heat(row: Row, lab: Lab) -> dict[str, Any]:
    assert row.report is not None
    cells = [(level(c), c.title, f"{c.earned:g} of {c.points:g}") for c in row.report.criteria]
    return {"row": row, "page": page_of(row, lab), "cells": cells}


def level(part: CriterionResult) -> str:
    """How a criterion is drawn. What waits or could not be scored is never drawn as lost."""
    if part.pending:
        return WAITS
    if part.unscored:
        return OPEN
    share = part.earned / part.points
    return FULL if share >= 1 else MOST if share >= 0.5 else SOME if share > 0 else NONE


def _areas(lab: Lab) -> list[tuple[str, int]]:
    """(area, number of criteria), in the order of the columns."""
    found: list[tuple[str, int]] = []
    for part in lab.rubric.criteria:
        if found and found[-1][0] == part.area:
            found[-1] = (part.area, found[-1][1] + 1)
        else:
            found.append((part.area, 1))
    return found


def _cohort(rows: Iterable[Row]) -> list[int | None]:
    """Mean share of each criterion in percent, over those for whom it is scored; None where it is for nobody."""
    columns = zip(*(row.report.criteria for row in rows if row.report), strict=True)
    shares = ([c.earned / c.points for c in column if level(c) not in (WAITS, OPEN)] for column in columns)
    return [round(100 * sum(own) / len(own)) if own else None for own in shares]
