"""Tables for spreadsheets and learning platforms: nothing in them runs, and nothing of them is lost."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import cohort_kit as kit
from hypothesis import given
from hypothesis import strategies as st

from course_grader.exports import cell, plain, table
from course_grader.intake import collect

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\n=1", "\u00a0=1", "|cmd", "%0a", "＝1+1", "'=1")


@given(st.text(max_size=20) | st.sampled_from(FORMULAS))
def test_no_text_begins_like_a_formula_or_breaks_a_line(text: str) -> None:
    safe = cell(text)
    assert not safe.lstrip().startswith(("=", "+", "-", "@", "|", "%", "＝", "＋", "－", "＠"))
    assert not set(safe) & set("\n\r\t\x00\u202e\u2066\u200b")
    read = next(csv.reader(io.StringIO(table(["a"], [[text]]).split("\n", 1)[1], newline="")), [""])
    assert read in ([safe], []) and len(table(["a"], [[text, "b"]]).strip("\n").split("\n")) == 2


@given(st.text(alphabet="='+-@ab1 \u00e9", max_size=12))
def test_what_was_neutralised_comes_back(text: str) -> None:
    assert plain(cell(text)) == text


def test_numbers_stay_numbers() -> None:
    assert [cell(v) for v in (-0.5, 3, 12.25, math.pi)] == ["-0.5", "3", "12.25", "3.14159"]


def test_layouts_of_the_platforms(tmp_path: Path) -> None:
    canvas = tmp_path / "canvas"
    canvas.mkdir()
    for name in ("doeann_111_9001_README.md", "roebob_LATE_112_9002_README.md"):
        (canvas / name).write_text(f"# Work of {name[:3]}\n")
    run = kit.grade_cohort(collect([canvas]), kit.CheapGrader(), tmp_path / "a", kit.Options(mapper=kit.inline))
    rows = list(csv.DictReader((tmp_path / "a" / "canvas.csv").open()))
    assert [(r["Student"], r["ID"], r["SIS Login ID"], r["Lab 06"]) for r in rows] == [
        ("Points Possible", "", "", "20"), ("doeann", "111", "", "17"), ("roebob", "112", "", "17")]  # fmt: skip
    assert "late" in run.book.labs[0].rows[1].notes[0]
    moodle = tmp_path / "moodle"
    kit.tiny(moodle / "Ann =1_77_assignsubmission_file_", 1, ("rag.hit_rate",))
    (moodle / "Bo\u202eb_78_assignsubmission_onlinetext").mkdir()
    kit.grade(moodle, tmp_path / "b")
    rows = list(csv.DictReader((tmp_path / "b" / "moodle.csv").open()))
    assert [(r["Identifier"], r["Full name"], r["Grade"], r["Maximum Grade"]) for r in rows] == [
        ("Participant 77", "Ann =1", "15", "20"), ("Participant 78", "Bo\\u202eb", "", "20")]  # fmt: skip
    assert "Right source in the top 3" in rows[0]["Feedback comments"] and "online text" in rows[1]["Feedback comments"]


def test_names_that_are_formulas_are_inert_in_every_table(tmp_path: Path) -> None:
    kit.tiny(tmp_path / "subs" / "s", 1)
    (tmp_path / "subs" / "who.csv").write_text('learner,path,name\n"=cmd|calc",s,"@evil\n=2"\n')
    kit.grade_cohort(collect([tmp_path / "subs" / "who.csv"]), kit.CheapGrader(), tmp_path / "book",
                     kit.Options(mapper=kit.inline))  # fmt: skip
    for name in ("gradebook.csv", "canvas.csv", "moodle.csv", "reviews.csv"):
        for row in csv.reader((tmp_path / "book" / name).open()):
            assert not any(c.lstrip().startswith(("=", "+", "@")) for c in row), name
    assert "'=cmd|calc" in (tmp_path / "book" / "gradebook.csv").read_text()
    book = json.loads((tmp_path / "book" / "gradebook.json").read_text())
    assert book["labs"][0]["rows"][0]["learner"] == "=cmd|calc"


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    kit.cohort(tmp_path / "subs", 5)
    (tmp_path / "subs" / "bad.zip").write_bytes(b"x")
    kit.grade(tmp_path / "subs", tmp_path / "book")
    lab = json.loads((tmp_path / "book" / "gradebook.json").read_text())["labs"][0]
    rows = list(csv.DictReader((tmp_path / "book" / "gradebook.csv").open()))
    assert len(rows) == 6 == len(lab["rows"])
    for line, row in zip(rows, lab["rows"], strict=True):
        assert (line["learner"], line["status"]) == (row["learner"], row["status"])
        assert line["submission"] == row["digest"][:16]
        assert line["final"] == (f"{row['final']:g}" if row["status"] == "graded" else "")
    assert {check["rule"] for check in lab["checks"]} >= {"rag.hit_rate", "rag.readme"}
