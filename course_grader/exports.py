"""The gradebook as tables and JSON: our own layout, and what Canvas and Moodle import.

A spreadsheet runs a cell that begins like a formula, and learners choose their names: such cells get an apostrophe in
front, and control and direction characters are written out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from course_grader.gradebook import Book, Lab, Row
from course_grader.items import items, look_first
from course_lib.files import write_text
from course_lib.report import visible

FORMULA = tuple("=+-@|%\uff1d\uff0b\uff0d\uff20")
OWN = ("learner", "name", "lab", "attempt", "counts", "status", "points", "pending", "unscored", "maximum", "taken_off",
       "final", "band", "gates_failed", "policy", "similar_to", "error", "submission")  # fmt: skip


def cell(value: Any) -> str:
    """Text that no spreadsheet takes for a formula, on one line. Numbers stay what they are."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    text = visible(str(value).replace("\r\n", " ").replace("\n", " "))
    return f"'{text}" if text.lstrip().startswith(FORMULA) or text.startswith("'") else text


def plain(text: str) -> str:
    """Without the apostrophe that ``cell`` put in front."""
    return text[1:] if text.startswith("'") and text[1:].lstrip().startswith((*FORMULA, "'")) else text


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV in UTF-8 with neutralised cells."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([cell(value) for value in row] for row in rows)
    return out.getvalue()


def write_exports(book: Book, out: Path) -> None:
    """gradebook.json, gradebook.csv, reviews.csv, and canvas.csv and moodle.csv over all labs of the book."""
    from course_grader.reviews import template

    write_text(out / "gradebook.json", gradebook_json(book))
    write_text(out / "gradebook.csv", gradebook_csv(book))
    write_text(out / "canvas.csv", canvas_csv(book))
    for lab in book.labs:
        name = "moodle.csv" if len(book.labs) == 1 else f"moodle-{lab.module}.csv"
        write_text(out / name, moodle_csv(lab))
    write_text(out / "reviews.csv", template(book))


def gradebook_csv(book: Book) -> str:
    """One line per attempt."""
    return table(OWN, (_own(row, lab) for lab in book.labs for row in lab.rows))


def _own(row: Row, lab: Lab) -> list[Any]:
    report = row.report
    numbers = [report.points, report.pending, report.unscored] if report else ["", "", ""]
    failed = " ".join(gate.id for gate in report.gates if not gate.passed) if report else ""
    return [row.learner, row.name, lab.module, row.attempt, "yes" if row.counts else "no", row.status, *numbers,
            lab.rubric.maximum, row.taken_off, row.final if report else "", report.band if report else "", failed,
            row.policy, " ".join(similar_to(row, lab)), row.error, row.digest[:16]]  # fmt: skip


def similar_to(row: Row, lab: Lab) -> list[str]:
    """Learners whose code is flagged as similar to this row's."""
    both = [(pair.first, pair.second) for pair in lab.pairs if row.counts and row.learner in (pair.first, pair.second)]
    return [b if a == row.learner else a for a, b in both]


def canvas_csv(book: Book) -> str:
    """Canvas's import: one column per lab, the points possible in the second line. A learner who was not scored has an
    empty cell, which Canvas leaves as it is. The id is Canvas's where the download told it."""
    head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *(f"Lab {lab.module}" for lab in book.labs)]
    lines: list[list[Any]] = [["Points Possible", "", "", "", "", *(lab.rubric.maximum for lab in book.labs)]]
    rows = {lab.module: {row.learner: row for row in lab.counted} for lab in book.labs}
    for total in book.totals:
        mine = [rows[lab.module].get(total.learner) for lab in book.labs]
        known = any(row and row.platform == "canvas" for row in mine)
        ids = [total.learner, "", ""] if known else ["", "", total.learner]
        lines.append([total.name, *ids, "", *(row.final if row and row.report else "" for row in mine)])
    return table(head, lines)


def moodle_csv(lab: Lab) -> str:
    """Moodle's offline grading worksheet; the identifier is Moodle's where the download told it."""
    head = ["Identifier", "Full name", "Grade", "Maximum Grade", "Feedback comments"]
    return table(head, ([f"Participant {row.learner}" if row.platform == "moodle" else row.learner, row.name,
                         row.final if row.report else "", lab.rubric.maximum, _comment(row)] for row in lab.counted))


def _comment(row: Row) -> str:
    if row.report is None:
        return row.error
    failed = [gate.title for gate in row.report.gates if not gate.passed]
    parts = [f"{row.report.band}.", f"Gates not passed: {'; '.join(failed)}." if failed else "All gates passed."]
    parts += [f"{row.report.pending:g} points wait for a reviewer."] if row.report.pending else []
    return " ".join([*parts, f"{row.policy}." if row.policy else ""]).strip()


def gradebook_json(book: Book) -> str:
    """Everything, for other programs. Sorted keys; no time and no path of this machine."""
    value = {"labs": [_lab(lab) for lab in book.labs], "totals": [asdict(t) for t in book.totals],
             "look_first": [asdict(look) for look in look_first(book)]}  # fmt: skip
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _lab(lab: Lab) -> Mapping[str, Any]:
    return {"module": lab.module, "title": lab.title, "identity": lab.identity, "stamp": lab.stamp,
            "maximum": lab.rubric.maximum, "rows": [_row(row) for row in lab.rows], "similar": [asdict(p) for p in
            lab.pairs], "starter_copies": lab.starters,
            "checks": [{**asdict(item), "rate": round(item.rate, 4)} for item in items(lab)]}  # fmt: skip


def _row(row: Row) -> Mapping[str, Any]:
    """The report without its findings; those stand in the learner's own JSON."""
    shown = {name: value for name in ("learner", "name", "source", "platform", "attempt", "counts", "digest", "status",
             "error", "submitted", "late", "final", "taken_off", "policy", "notes") for value in [getattr(row, name)]}
    report = row.report
    scores = {} if report is None else {
        "points": report.points, "pending": report.pending, "unscored": report.unscored, "band": report.band,
        "band_by_points": report.band_by_points, "gates": {gate.id: gate.outcome for gate in report.gates},
        "criteria": {c.id: c.earned for c in report.criteria}}  # fmt: skip
    return {**shown, **scores, "ledger": [asdict(line) for line in row.ledger]}
