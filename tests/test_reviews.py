"""Reviewers' points go round through a CSV, all or nothing; a judge is heard only when it is good enough."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import cohort_kit as kit
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from course_grader.cohort import JOURNAL
from course_grader.gradebook import Book, Line, build
from course_grader.journal import Journal, read_journal
from course_grader.reviews import HEAD, calibrate, import_reviews, import_suggestions
from course_lib import cli
from course_lib.errors import DataError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    kit.cohort(tmp_path / "subs", 2)
    kit.grade(tmp_path / "subs", tmp_path / "book")
    return tmp_path / "book"


def fill(out: Path, **cells: str) -> Path:
    """reviews.csv with cells of every row set."""
    rows = list(csv.DictReader((out / "reviews.csv").open()))
    path = out.parent / "filled.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, HEAD)
        writer.writeheader()
        writer.writerows({**row, **cells} for row in rows)
    return path


def book_of(out: Path) -> Book:
    return build(read_journal(out / JOURNAL))


def line_of(book: Book, criterion: str = "readme_clear") -> Line:
    return next(line for line in book.labs[0].rows[0].ledger if line.criterion == criterion)


def test_round_trip(graded: Path) -> None:
    template = list(csv.DictReader((graded / "reviews.csv").open()))
    assert len(template) == 6 and all(row["guidance"] and not row["points"] for row in template)
    path = fill(graded, points="0,5", reason="=half of it", reviewer="R. Reviewer")
    with Journal(graded / JOURNAL) as journal:
        assert import_reviews(path, build(journal.records), journal, NOW) == 6
        assert import_reviews(path, build(journal.records), journal, NOW) == 0, "the same file again adds nothing"
    line = line_of(book_of(graded))
    assert (line.auto, line.reviewer, line.final, line.reason, line.who, line.when) == (
        None, 0.5, 0.5, "=half of it", "R. Reviewer", "2026-11-20T12:00:00+00:00")  # fmt: skip
    run = kit.grade(graded.parent / "subs", graded)
    assert all(row.report.pending == 0 for row in run.book.labs[0].rows)
    again = list(csv.DictReader((graded / "reviews.csv").open()))
    given = {(row["points"], row["reason"], row["reviewer"]) for row in again}
    assert given == {("0.5", "'=half of it", "R. Reviewer")}
    with Journal(graded / JOURNAL) as journal:
        assert import_reviews(graded / "reviews.csv", build(journal.records), journal) == 0
        path = fill(graded, points="1", reason="second look", reviewer="S. Second")
        assert import_reviews(path, build(journal.records), journal) == 6
    assert line_of(book_of(graded)).final == 1.0
    assert "second look" not in kit.page(graded, "learner-00")
    kit.grade(graded.parent / "subs", graded)
    assert "second look" in kit.page(graded, "learner-00")


@pytest.mark.parametrize(("cells", "says"), [
    ({"points": "2"}, "0 to 1 are possible"), ({"points": "-0.5"}, "0 to 1"), ({"points": "nan"}, "0 to 1"),
    ({"points": "one"}, "no number"), ({"reason": ""}, "a reason and the name"), ({"reviewer": ""}, "a reason and"),
    ({"criterion": "audit_safe"}, "no criterion"), ({"learner": "nobody"}, "no such learner"),
    ({"submission": "0" * 16}, "handed in again"),
])  # fmt: skip
def test_one_row_that_does_not_fit_imports_nothing(graded: Path, cells: dict[str, str], says: str) -> None:
    path = fill(graded, **{"points": "1", "reason": "fits", "reviewer": "R"} | cells)
    with Journal(graded / JOURNAL) as journal:
        before = len(journal.records)
        with pytest.raises(DataError, match=says) as caught:
            import_reviews(path, build(journal.records), journal)
        assert len(journal.records) == before and "line 2" in caught.value.what


def test_tables_that_are_none(graded: Path, tmp_path: Path) -> None:
    for raw, says in ((b"a,b\n1,2\n", "lacks the columns"), (b"\xff\xfe", "not UTF-8"), (b"", "lacks the columns")):
        (tmp_path / "x.csv").write_bytes(raw)
        with Journal(graded / JOURNAL) as journal, pytest.raises(DataError, match=says):
            import_reviews(tmp_path / "x.csv", build(journal.records), journal)


def test_a_quote_that_is_not_closed_is_named(graded: Path) -> None:
    path = fill(graded, points="1", reason="fits", reviewer="R")
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[:3]) + 'x,"' + "y\n" * 100_000)
    with Journal(graded / JOURNAL) as journal:
        before = len(journal.records)
        with pytest.raises(DataError, match="cannot be read: field larger") as caught:
            import_reviews(path, build(journal.records), journal)
        assert len(journal.records) == before and caught.value.where == f"{path}:4"


def test_kappa_is_the_one_of_the_field() -> None:
    draw = np.random.default_rng(1)
    for agree in (0.5, 0.8, 0.95):
        gold = draw.choice([0, 0.5, 1], 80)
        judge = np.where(draw.random(80) < agree, gold, draw.choice([0, 0.5, 1], 80))
        found = calibrate("c", list(zip(gold.tolist(), judge.tolist(), strict=True)))
        assert found.kappa == pytest.approx(cohen_kappa_score(gold.astype(str), judge.astype(str)), abs=1e-4)
        assert found.low < found.kappa < found.high and found == calibrate("c", list(zip(gold, judge, strict=True)))
        draws = [draw.integers(0, 80, 80) for _ in range(400)]
        slow = [cohen_kappa_score(gold[i].astype(str), judge[i].astype(str)) for i in draws]
        assert found.low == pytest.approx(np.percentile(slow, 2.5), abs=0.05)


@pytest.mark.parametrize("pairs", [[], [(1, 1)], [(1, 1)] * 50, [(1.0, 0.0)] * 50, [(0, 0), (1, 1)] * 2])
def test_too_little_is_no_agreement(pairs: list[tuple[float, float]]) -> None:
    assert not calibrate("c", pairs).offered
    assert calibrate("c", [(0, 0), (0.5, 0.5), (1, 1)] * 12).offered


def test_a_judge_is_offered_where_it_is_good_and_never_counts(graded: Path, tmp_path: Path) -> None:
    gold = ["criterion,gold,judge"] + ["readme_clear,1,1", "readme_clear,0,0"] * 20
    gold += ["risk_judgement,1,1", "risk_judgement,0,1"] * 20
    (tmp_path / "gold.csv").write_text("\n".join(gold))
    digest = book_of(graded).labs[0].rows[0].digest[:16]
    hints = ["learner,module,criterion,submission,points,reason,judge"]
    hints += [f"learner-00,06,{name},{digest},1,says what was measured,some-judge"
              for name in ("readme_clear", "risk_judgement")]  # fmt: skip
    (tmp_path / "hints.csv").write_text("\n".join(hints))
    before = kit.grade(tmp_path / "subs", graded).book.labs[0].rows[0]
    with Journal(graded / JOURNAL) as journal:
        found = {c.criterion: c for c in import_suggestions(tmp_path / "hints.csv", tmp_path / "gold.csv",
                                                            build(journal.records), journal)}  # fmt: skip
    assert found["readme_clear"].offered and not found["risk_judgement"].offered
    book = kit.grade(tmp_path / "subs", graded).book
    line, other = line_of(book), line_of(book, "risk_judgement")
    assert (line.suggestion, line.reviewer, line.final) == (1, None, None) and "kappa 1.00" in line.who
    assert (other.suggestion, other.final) == (None, None)
    assert book.labs[0].rows[0].final == before.final and book.labs[0].rows[0].report.pending == 3
    offered = [row["suggestion"] for row in csv.DictReader((graded / "reviews.csv").open()) if row["suggestion"]]
    assert offered == ["1 (says what was measured)"]


def test_from_the_command_line(graded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from course_grader import cohort

    monkeypatch.setattr(cohort, "LabGrader", lambda *args, **kwargs: kit.CheapGrader())
    path = fill(graded, points="1", reason="fits", reviewer="R")
    words = ["grade", str(graded.parent / "subs"), "--out", str(graded), "--static", "--reviews",
             str(path)]  # fmt: skip
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0 and "6 reviews imported" in done.stdout and "2 known from the journal" in done.stdout
    assert line_of(book_of(graded)).final == 1
