"""Points that people give: a CSV to fill, its import into the journal, and when a judge may make suggestions.

A review counts for the submission that the reviewer saw. A judge's suggestion never counts: it is shown to the reviewer
only where the judge agreed with people on a gold set, chance aside, with a lower bound above ``KAPPA``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from course_grader.archives import read_bytes
from course_grader.exports import cell, plain, table
from course_grader.gradebook import Book, Row
from course_grader.journal import Journal
from course_lib.errors import DataError

KAPPA = 0.6
RESAMPLES = 2000
HEAD = ("learner", "name", "module", "criterion", "title", "maximum", "guidance", "suggestion", "submission", "points",
        "reason", "reviewer", "when")  # fmt: skip
NEEDED = frozenset({"learner", "module", "criterion", "submission", "points", "reason", "reviewer"})
MOST = 16 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Calibration:
    """Agreement of a judge with people on one criterion. low and high: 95 % bootstrap interval of Cohen's kappa."""

    criterion: str
    kappa: float
    low: float
    high: float
    n: int

    @property
    def offered(self) -> bool:
        return self.low > KAPPA


def template(book: Book) -> str:
    """Every open or given review of the attempts that count, as a CSV. Rows without points are still open."""
    return table(HEAD, (_line(row, lab.module, lab.rubric.criteria[i].guidance, line) for lab in book.labs
                        for row in lab.counted for i, line in enumerate(row.ledger)
                        if line.scored_by == "reviewer"))  # fmt: skip


def _line(row: Row, module: str, guidance: str, line: Any) -> list[Any]:
    given = line.reviewer is not None
    suggestion = "" if line.suggestion is None else f"{line.suggestion:g} ({line.reason if not given else 'see page'})"
    return [row.learner, row.name, f"lab {module}", line.criterion, line.title, line.points, guidance, suggestion,
            row.digest[:16], line.reviewer if given else "", line.reason if given else "", line.who if given else "",
            line.when if given else ""]  # fmt: skip


def import_reviews(path: Path, book: Book, journal: Journal, now: datetime | None = None) -> int:
    """Writes the new reviews of a filled CSV into the journal; returns how many there were.

    Raises DataError that names every row which does not fit, and then writes nothing. Rows without points and rows that
    the journal has already are passed over.
    """
    known, when = _known(book), now or datetime.now(UTC)
    reviews, problems = [], []
    for number, cells in _rows(path, NEEDED):
        if not cells["points"]:
            continue
        problem, review = _checked(known, cells, when)
        if problem:
            problems.append(f"line {number}: {problem}")
        elif review:
            reviews.append(review)
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise DataError(f"{len(problems)} rows do not fit, and nothing was imported: {'; '.join(problems[:8])}{more}.",
                        where=str(path), fix="Correct these rows; reviews.csv in the gradebook has the others.")
    for review in reviews:
        journal.append("review", **review)
    return len(reviews)


def add_review(cells: Mapping[str, str], book: Book, journal: Journal, now: datetime | None = None) -> bool:
    """Writes one review into the journal, by the rules of the CSV; cells: ``NEEDED``, as one of its rows has them.

    False: the journal has it already. Raises DataError when it does not fit, and then writes nothing.
    """
    problem, review = _checked(_known(book), cells, now)
    if problem:
        raise DataError(f"This review does not fit: {problem}.", where=cells["criterion"], fix="Correct it and save.")
    if review:
        journal.append("review", **review)
    return review is not None


def _checked(known: Mapping[tuple[str, str, str], Row], cells: Mapping[str, str],
             now: datetime | None) -> tuple[str, dict[str, Any] | None]:  # fmt: skip
    """What is wrong with a review, or its record for the journal; neither where the journal has it already."""
    module = cells["module"].removeprefix("lab ").strip()
    row = known.get((cells["learner"], module, cells["submission"]))
    problem, points = _problem(row, cells)
    if problem or row is None:
        return problem, None
    line = next(line for line in row.ledger if line.criterion == cells["criterion"])
    if line.reviewer == points and all(given in (kept, plain(cell(kept))) for given, kept in (
            (cells["reason"], line.reason), (cells["reviewer"], line.who))):  # fmt: skip
        return "", None
    when = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    return "", {"learner": row.learner, "module": module, "criterion": line.criterion, "digest": row.digest,
                "points": points, "reason": cells["reason"], "who": cells["reviewer"], "when": when}  # fmt: skip


def _known(book: Book) -> dict[tuple[str, str, str], Row]:
    """By what the CSV says of a row."""
    return {(plain(cell(r.learner)), lab.module, r.digest[:16]): r for lab in book.labs for r in lab.rows}


def _problem(row: Row | None, cells: Mapping[str, str]) -> tuple[str, float]:
    if row is None:
        return "no such learner, lab or submission in the gradebook; was it handed in again?", 0.0
    line = next((line for line in row.ledger if line.criterion == cells["criterion"]), None)
    if line is None or line.scored_by != "reviewer":
        return f"{cells['criterion'][:40]!r} is no criterion that people score", 0.0
    problem, points = read_points(cells["points"], line.points)
    if problem:
        return problem, 0.0
    if not cells["reason"] or not cells["reviewer"]:
        return "a reason and the name of the reviewer are needed", 0.0
    return "", points


def read_points(text: str, most: float) -> tuple[str, float]:
    """(what is wrong, points) of what a person typed; a decimal comma is fine."""
    try:
        points = float(text.strip().replace(",", "."))
    except ValueError:
        return f"{text[:20]!r} is no number of points", 0.0
    if not 0 <= points <= most:  # also false for nan
        return f"{points:g} points; 0 to {most:g} are possible", 0.0
    return "", round(points, 2)


def _rows(path: Path, needed: Set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = read_bytes(path, MOST).decode("utf-8-sig")
    except ValueError as error:
        raise DataError("This is not UTF-8 text.", where=str(path), fix="Save it as CSV in UTF-8.") from error
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if head.count(";") > head.count(",") else ",")
    try:
        yield from _cells(reader, path, needed)
    except csv.Error as error:
        raise DataError(f"The table cannot be read: {error}.", where=f"{path}:{reader.line_num + 1}",
                        fix="Close the quotes of this row.") from error


def _cells(reader: csv.DictReader[str], path: Path, needed: Set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    if missing := needed - set(reader.fieldnames or ()):
        raise DataError(f"The table lacks the columns {', '.join(sorted(missing))}.", where=f"{path}:1",
                        fix="Start from the file that the gradebook wrote.")  # fmt: skip
    for row in reader:
        yield reader.line_num, {name: plain((row.get(name) or "").strip()) for name in needed}


def calibrate(criterion: str, pairs: Sequence[tuple[float, float]], seed: int = 7) -> Calibration:
    """Cohen's kappa between people and judge over (gold, judge) points, with a percentile bootstrap over the items.

    Resamples in which both give one and the same value to everything have no kappa and count as 0: too little variety
    must not look like agreement. Same seed, same interval.
    """
    import numpy as np

    values = sorted({value for pair in pairs for value in pair})
    counts = np.zeros((len(values), len(values)))
    for gold, judge in pairs:
        counts[values.index(gold), values.index(judge)] += 1
    n = len(pairs)
    if n < 2:
        return Calibration(criterion, 0.0, -1.0, 1.0, n)
    drawn = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, RESAMPLES).reshape(-1, *counts.shape)
    low, high = np.percentile(_kappas(drawn), [2.5, 97.5])
    return Calibration(criterion, round(float(_kappas(counts[None])[0]), 4), round(float(low), 4),
                       round(float(high), 4), n)  # fmt: skip


def _kappas(tables: Any) -> Any:
    """Kappa of each confusion table; tables: shape (m, k, k), result: shape (m,)."""
    import numpy as np

    n = tables.sum(axis=(1, 2))
    agreed = np.trace(tables, axis1=1, axis2=2) / n
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / n**2
    return np.divide(agreed - chance, 1 - chance, out=np.zeros_like(agreed), where=chance < 1)


def import_suggestions(suggestions: Path, gold: Path, book: Book, journal: Journal) -> list[Calibration]:
    """A judge's suggestions into the journal, for the criteria on which its kappa is good enough.

    gold: CSV with criterion, gold and judge, in points, one line per item that people scored and the judge too.
    suggestions: CSV with learner, module, criterion, submission, points, reason and judge. Returns every calibration.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for number, cells in _rows(gold, {"criterion", "gold", "judge"}):
        try:
            pairs.setdefault(cells["criterion"], []).append((float(cells["gold"]), float(cells["judge"])))
        except ValueError as error:
            raise DataError("gold and judge must be points.", where=f"{gold}:{number}", fix="Correct it.") from error
    calibrations = [calibrate(name, pairs[name]) for name in sorted(pairs)]
    good = {c.criterion: c for c in calibrations if c.offered}
    for record in list(_suggested(suggestions, book, good)):
        if {"kind": "suggestion", **record} not in journal.records:
            journal.append("suggestion", **record)
    return calibrations


def _suggested(path: Path, book: Book, good: Mapping[str, Calibration]) -> Iterable[dict[str, Any]]:
    known = _known(book)
    for number, cells in _rows(path, {"learner", "module", "criterion", "submission", "points", "reason", "judge"}):
        module = cells["module"].removeprefix("lab ").strip()
        row = known.get((cells["learner"], module, cells["submission"]))
        problem, points = _problem(row, {**cells, "reviewer": cells["judge"]})
        if problem or row is None:
            raise DataError(f"This suggestion does not fit: {problem}.", where=f"{path}:{number}", fix="Correct it.")
        if fit := good.get(cells["criterion"]):
            who = f"{cells['judge']} (kappa {fit.kappa:.2f}, at least {fit.low:.2f}, n = {fit.n})"
            yield {"learner": row.learner, "module": module, "criterion": cells["criterion"], "digest": row.digest,
                   "points": points, "reason": cells["reason"], "who": who, "when": ""}  # fmt: skip
