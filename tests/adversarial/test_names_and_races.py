"""Attacks through names, through the terminal of whoever grades, and through files that change while being graded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cohort_kit as kit
import pytest
from typer.testing import CliRunner

from course_grader import cohort
from course_grader.cohort import Options, grade_cohort
from course_grader.gradebook import CRASHED, GRADED, REFUSED, Row, slug
from course_grader.intake import collect
from course_grader.workers import Call, inline
from course_lib import cli
from course_lib.types import Finding, Outcome

STEERS = "\x1b]0;evil\x07\x1b[2J\x9b31m\u202e\u2066\u200d"
CONTROL = set("\x1b\x07\x9b\u202e\u2066\u200d")
HOSTILE_NAMES = ("../x", "..", "/etc/passwd", "con", "nul.txt", "a\\..\\b", "-rf", "~root", "index.html", ".", "*")


def rows(out: Path, entries: Sequence[Any], **options: Any) -> dict[str, Row]:
    run = grade_cohort(entries, kit.CheapGrader(), out, Options(mapper=inline, **options))
    return {row.learner: row for row in run.book.labs[0].rows}


def test_no_name_leads_out_of_the_gradebook(tmp_path: Path) -> None:
    kit.tiny(tmp_path / "subs" / "work", 1)
    table = tmp_path / "subs" / "who.csv"
    table.write_text("learner,path\n" + "".join(f"{name},work\n" for name in HOSTILE_NAMES))
    before = set(tmp_path.rglob("*"))
    found = rows(tmp_path / "book", collect([table]))
    assert found.keys() == set(HOSTILE_NAMES)
    made = [p for p in tmp_path.rglob("*") if p not in before]
    assert all(tmp_path / "book" in (p, *p.parents) and not p.is_symlink() for p in made)
    pages = [p.name for p in (tmp_path / "book" / "learners").iterdir()]
    assert sorted(pages) == sorted(f"{slug(name)}-06.html" for name in found) and len(set(pages)) == len(HOSTILE_NAMES)
    assert not {p.split("-")[0] for p in pages} & {"", "."}, "no page is hidden or an option"


@pytest.mark.parametrize("names", [("Ann", "ann", "ANN"), ("caf\u00e9", "cafe\u0301"), ("a b", "a-b", "a_b"),
                                   ("\ufb01n", "fin"), ("x", "x\u200d"), ("\u0410nn", "Ann")])  # fmt: skip
def test_names_that_look_alike_stay_different_learners(tmp_path: Path, names: tuple[str, ...]) -> None:
    rules = ("rag.hit_rate", "rag.notebook", "rag.config")
    for number, name in enumerate(names):
        kit.tiny(tmp_path / "subs" / name, number, rules[:number])
    found = rows(tmp_path / "book", collect([tmp_path / "subs"]))
    assert found.keys() == set(names) and len({row.final for row in found.values()}) == len(names)
    pages = {p.name.casefold(): p.read_text("utf-8") for p in (tmp_path / "book" / "learners").iterdir()}
    assert len(pages) == len(names), "also where a file system knows no capitals"
    assert len({p.casefold() for p in os.listdir(tmp_path / "book" / "logs")}) >= len(names)


class Repeats(kit.CheapGrader):
    """A checker that quotes what a learner wrote, as checkers do."""

    def grade(self, submission: Any, tier: str) -> list[Finding]:
        said = submission.text("README.md")
        return [Finding(f.rule, Outcome.FAIL, said, said, said, said, said) for f in super().grade(submission, tier)]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_nothing_of_a_learner_steers_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    kit.tiny(tmp_path / "subs" / f"mallory{STEERS}", 1, README__md=f"# {STEERS}\n")
    kit.tiny(tmp_path / "subs" / "ann", 2)
    monkeypatch.setattr(cohort, "LabGrader", lambda *args, **named: Repeats())
    words = ["grade", str(tmp_path / "subs"), "--out", str(tmp_path / "book"), "--static", *more]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0 and "mallory" in done.stdout
    assert not CONTROL & set(done.stdout), "every one of them is written out"
    logs = "".join(p.read_text() for p in (tmp_path / "book" / "logs").glob("*.log"))
    assert logs and not CONTROL & set(logs)


def test_feedback_on_a_folder_does_not_steer_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from course_lib import grade
    from course_lib.rubric import score

    rubric = cohort.cached_rubric("06")
    findings = [Finding("rag.files", Outcome.FAIL, f"says {STEERS}", fix=f"do {STEERS}")]
    monkeypatch.setattr(grade, "grade_submission", lambda *args, **named: score(rubric, findings))
    done = CliRunner().invoke(cli.app, ["check", "06", str(tmp_path)])
    assert "says" in done.stdout and not CONTROL & set(done.stdout)


def test_a_submission_that_changes_while_it_is_graded_is_not_scored_as_either(tmp_path: Path) -> None:
    for name in ("ann", "mallory", "zoe"):
        kit.tiny(tmp_path / "subs" / name, len(name), ("rag.hit_rate",))
    alone = rows(tmp_path / "alone", collect([tmp_path / "subs"]))

    def swap(call: Call, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        (tmp_path / "subs" / "mallory" / "outcomes.json").write_text("{}")
        return inline(call, tasks)

    run = grade_cohort(collect([tmp_path / "subs"]), kit.CheapGrader(), tmp_path / "book", Options(mapper=swap))
    found = {row.learner: row for row in run.book.labs[0].rows}
    assert found["mallory"].status == CRASHED and "changed while it was graded" in found["mallory"].error
    assert {name: found[name] for name in ("ann", "zoe")} == {name: alone[name] for name in ("ann", "zoe")}
    again = rows(tmp_path / "book", collect([tmp_path / "subs"]))
    assert again["mallory"].status == GRADED and again["mallory"].final == alone["mallory"].final + 2


def test_a_hard_link_to_a_neighbours_work_is_a_copy_and_no_more(tmp_path: Path) -> None:
    kit.cohort(tmp_path / "subs", 3)
    alone = rows(tmp_path / "alone", collect([tmp_path / "subs"]))
    (tmp_path / "subs" / "mallory").mkdir()
    for file in (tmp_path / "subs" / "learner-00").iterdir():
        os.link(file, tmp_path / "subs" / "mallory" / file.name)
    (tmp_path / "subs" / "mallory" / "README.md").unlink()
    found = rows(tmp_path / "book", collect([tmp_path / "subs"]))
    assert {name: row for name, row in found.items() if name != "mallory"} == alone
    assert (tmp_path / "subs" / "learner-00" / "README.md").exists()


def test_a_file_of_terabytes_that_takes_no_room_is_refused_unread(tmp_path: Path) -> None:
    kit.cohort(tmp_path / "subs", 2)
    kit.tiny(tmp_path / "subs" / "mallory", 9)
    os.truncate(tmp_path / "subs" / "mallory" / "outcomes.json", 1 << 40)
    found = rows(tmp_path / "book", collect([tmp_path / "subs"]))
    assert found["mallory"].status == REFUSED and "too large" in found["mallory"].error
    assert all(found[f"learner-{n:02d}"].status == GRADED for n in range(2))
