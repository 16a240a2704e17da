"""The reviewer's panel: evidence beside the form, drafts that survive, one review a save, the ledger of the CSV."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import cohort_kit as kit
import lab_kit
import pytest
from typer.testing import CliRunner

from course_grader import review_desk
from course_grader.cohort import JOURNAL
from course_grader.gradebook import Book, Line, build
from course_grader.journal import Journal, read_journal
from course_grader.review_desk import BY_CRITERION, DRAFTS, Desk, Draft, Item
from course_grader.review_html import checks, file, head
from course_grader.review_panel import Panel, review, write_notebook
from course_grader.reviews import import_reviews
from course_lib import cli
from course_lib import notebooks as nbs
from course_lib.doctor import find_chromium
from course_lib.errors import CourseError, DataError, UsageError

README = """# Retrieval for the support desk

Who uses it: the desk of Meridian. It must never show a document of another tenant.

| what | result |
|---|---|
| recall@3, 24 cases | 0.88 |
| documents that crossed tenants | 0 of 120 probes |

The three misses are in `rag_eval_results.json`; the limits and the rollback in `risk-notes.md`.
<script>window.pwned=1</script><img src=x onerror='window.pwned=1'> costs $x^2$ and \\(y^2\\) \u202etxet
"""
NOTES = "# Risks\n\nLimit: 3 of 24 cases miss, all paraphrases.\n\nRollback: the previous index, by the on-call.\n"


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two graded learners; the first has files worth reading and two failed rules."""
    subs = tmp_path / "subs"
    kit.tiny(subs / "ada", 1, ("rag.readme", "rag.cost_notes"), risk_notes__md=NOTES, README__md=README,
             rag_eval_results__json=json.dumps({"failed": [{"id": "c07", "reason": "the words differ"}]}))  # fmt: skip
    (subs / "ada" / "risk_notes.md").rename(subs / "ada" / "risk-notes.md")
    kit.tiny(subs / "bob", 2)
    lines = "learner,path,name\nada,ada,Ada <b>Lovelace</b> $x^2$\nbob,bob,Bob Okafor\n"
    (subs / "who.csv").write_text(lines)
    grade(tmp_path)
    return tmp_path / "book"


def grade(work: Path) -> Any:
    return kit.grade(work / "subs" / "who.csv", work / "book")


def book_of(out: Path) -> Book:
    return build(read_journal(out / JOURNAL))


def line_of(out: Path, learner: str, criterion: str) -> Line:
    row = next(row for row in book_of(out).labs[0].counted if row.learner == learner)
    return next(line for line in row.ledger if line.criterion == criterion)


def item_of(desk: Desk, learner: str, criterion: str = "readme_clear") -> Item:
    return next(i for i in desk.items() if (i.row.learner, i.line.criterion) == (learner, criterion))


def panel_of(out: Path, reviewer: str = "R. Reviewer") -> Panel:
    panel = review(out, out.parent / "subs" / "who.csv", reviewer)
    panel.widget()
    return panel


def test_open_ones_come_first_in_either_order(cohort: Path) -> None:
    desk = Desk(cohort)
    names = [(i.row.learner, i.line.criterion) for i in desk.items()]
    criteria = ["failures_analysed", "risk_judgement", "readme_clear"]
    assert names == [(who, what) for who in ("ada", "bob") for what in criteria]
    desk.save(desk.items()[0], Draft("1", "each case has its cause"), "R")
    assert [(i.row.learner, i.line.criterion) for i in desk.items()] == [*names[1:], names[0]]
    assert [i.row.learner for i in desk.items(BY_CRITERION)] == ["bob", "ada", "bob", "ada", "bob", "ada"]


def test_a_review_is_the_one_that_the_csv_would_write(cohort: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(cohort, tmp_path / "twin"))
    Desk(cohort).save(item_of(Desk(cohort), "ada"), Draft(" 0,5 ", "=half of it\nis missing "), " R. Reviewer ")
    rows = [row for row in csv.DictReader((twin / "reviews.csv").open())
            if (row["learner"], row["criterion"]) == ("ada", "readme_clear")]  # fmt: skip
    with (tmp_path / "filled.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerow(rows[0] | {"points": "0,5", "reason": "=half of it\nis missing", "reviewer": "R. Reviewer"})
    with Journal(twin / JOURNAL) as journal:
        assert import_reviews(tmp_path / "filled.csv", build(journal.records), journal) == 1
    mine, other = (read_journal(out / JOURNAL)[-1] | {"when": ""} for out in (cohort, twin))
    assert mine == other and mine["points"] == 0.5 and mine["reason"] == "=half of it\nis missing"
    Desk(cohort).publish()
    with Journal(cohort / JOURNAL) as journal:
        assert import_reviews(cohort / "reviews.csv", build(journal.records), journal) == 0, "its own CSV adds nothing"


def test_a_save_is_on_the_disk_at_once_and_survives_a_regrade(cohort: Path) -> None:
    panel = panel_of(cohort)
    assert panel.item and (panel.item.row.learner, panel.item.line.criterion) == ("ada", "failures_analysed")
    panel.points.value, panel.reason.value = "0.5", "one cause of two"
    panel.save.click()
    assert "Saved: 0.5 of 1" in panel.said.value and panel.item.line.criterion == "risk_judgement"
    line = line_of(cohort, "ada", "failures_analysed")
    assert (line.auto, line.reviewer, line.final, line.reason, line.who) == (
        None, 0.5, 0.5, "one cause of two", "R. Reviewer")  # fmt: skip
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT.*\+00:00", line.when)
    assert "one cause of two" in kit.page(cohort, "ada") and "one cause of two" in (cohort / "reviews.csv").read_text()
    assert not (cohort / DRAFTS).exists()
    before = (line, [row.final for row in book_of(cohort).labs[0].rows])
    grade(cohort.parent)
    kit.grade(cohort.parent / "subs" / "who.csv", cohort, kit.CheapGrader(version="2"), regrade=True)
    assert before == (line_of(cohort, "ada", "failures_analysed"), [r.final for r in book_of(cohort).labs[0].rows])


@pytest.mark.parametrize(("points", "reason", "reviewer", "says"), [
    ("", "why", "R", "no number"), ("2", "why", "R", "0 to 1 are possible"), ("-1", "why", "R", "0 to 1"),
    ("nan", "why", "R", "0 to 1"), ("half", "why", "R", "no number"), ("1", "  ", "R", "a reason and the name"),
    ("1", "why", " ", "a reason and the name"),
])  # fmt: skip
def test_what_does_not_fit_is_said_and_kept(cohort: Path, points: str, reason: str, reviewer: str, says: str) -> None:
    panel = panel_of(cohort, reviewer)
    panel.points.value, panel.reason.value = points, reason
    before = (cohort / JOURNAL).read_bytes()
    panel.save.click()
    assert says in panel.said.value and "Not saved" in panel.said.value
    assert (cohort / JOURNAL).read_bytes() == before
    assert (panel.points.value, panel.reason.value) == (points, reason)
    assert panel_of(cohort).desk.drafts[panel.item.key] == Draft(points, reason)


def test_a_wrong_number_is_said_while_it_is_typed(cohort: Path) -> None:
    panel = panel_of(cohort)
    panel.points.value = "7"
    assert "7 points; 0 to 1 are possible" in panel.said.value
    panel.quick.children[1].click()
    assert panel.points.value == "0.5" and "Not saved yet." in panel.said.value


def test_what_is_typed_survives_going_away_and_a_dead_kernel(cohort: Path) -> None:
    panel = panel_of(cohort)
    first = panel.item
    panel.reason.value = "half a thought"
    panel.on.click()
    assert panel.reason.value == "" and "1 not saved" in panel.progress.value
    assert "not saved" in panel.where.options[0][0]
    panel.back.click()
    assert panel.item.key == first.key and panel.reason.value == "half a thought"
    again = panel_of(cohort)
    assert again.reason.value == "half a thought" and "kept, and not saved" in again.said.value
    again.drop.click()
    assert again.reason.value == "" and not (cohort / DRAFTS).exists()
    again.reason.value = "other"
    again.reason.value = ""
    assert not (cohort / DRAFTS).exists(), "an empty form is no draft"


def test_two_panels_do_not_take_each_others_drafts(cohort: Path) -> None:
    one, two = panel_of(cohort), panel_of(cohort)
    one.reason.value = "first"
    two.on.click()
    two.reason.value = "second"
    one.reason.value = "first, longer"
    assert sorted(d.reason for d in Desk(cohort).drafts.values()) == ["first, longer", "second"]


def test_a_draft_for_a_replaced_submission_is_named_and_kept(cohort: Path) -> None:
    panel_of(cohort).reason.value = "for the old one"
    (cohort.parent / "subs" / "ada" / "README.md").write_text("# New\n")
    grade(cohort.parent)
    panel = panel_of(cohort)
    assert "1 unsaved draft" in panel.said.value and "for the old one" in (cohort / DRAFTS).read_text()


def test_a_damaged_drafts_file_is_never_replaced(cohort: Path) -> None:
    for text in ("{", "[]", '{"drafts": [{}]}', '{"drafts": 3}'):
        (cohort / DRAFTS).write_text(text)
        with pytest.raises(DataError, match="drafts cannot be read"):
            Desk(cohort)
        assert (cohort / DRAFTS).read_text() == text


def test_drafts_that_break_while_the_panel_is_open_are_said(cohort: Path) -> None:
    panel = panel_of(cohort)
    panel.reason.value = "kept"
    (cohort / DRAFTS).write_text("{")
    panel.reason.value = "kept longer"
    assert "in this panel only" in panel.said.value and "drafts cannot be read" in panel.said.value
    panel.drop.click()
    assert "could not be removed" in panel.said.value and (cohort / DRAFTS).read_text() == "{"
    panel.points.value = "1"
    panel.save.click()
    assert line_of(cohort, "ada", "failures_analysed").reason == "kept longer"


def test_another_reviewer_is_not_overwritten_unseen(cohort: Path) -> None:
    slow, quick = panel_of(cohort, "Slow"), panel_of(cohort, "Quick")
    quick.points.value, quick.reason.value = "1", "clear"
    quick.save.click()
    slow.points.value, slow.reason.value = "0", "not clear to me"
    slow.save.click()
    assert "Quick gave 1 points meanwhile: clear" in slow.said.value and "by Quick" in slow.head.value
    assert line_of(cohort, "ada", "failures_analysed").who == "Quick" and slow.reason.value == "not clear to me"
    slow.save.click()
    assert line_of(cohort, "ada", "failures_analysed").who == "Slow"


def test_a_running_grading_is_not_disturbed(cohort: Path) -> None:
    panel = panel_of(cohort)
    panel.points.value, panel.reason.value = "1", "fits"
    with Journal(cohort / JOURNAL):
        panel.save.click()
        assert "Another run is writing" in panel.said.value and panel.reason.value == "fits"
    panel.save.click()
    assert line_of(cohort, "ada", "failures_analysed").reviewer == 1


def test_pages_that_cannot_be_written_do_not_hide_that_the_review_is_saved(
    cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(review_desk, "write_book", full)
    panel = panel_of(cohort)
    panel.points.value, panel.reason.value = "1", "fits"
    panel.save.click()
    assert "The review is saved" in panel.said.value and line_of(cohort, "ada", "failures_analysed").reviewer == 1
    monkeypatch.setattr(Journal, "append", full)
    panel.points.value, panel.reason.value = "1", "next"
    panel.save.click()
    assert "Not saved" in panel.said.value and panel.reason.value == "next"


def test_evidence_is_what_was_graded_and_in_the_order_of_the_guidance(cohort: Path) -> None:
    desk = Desk(cohort, [cohort.parent / "subs" / "who.csv"])
    found = desk.evidence(item_of(desk, "ada", "failures_analysed"))
    assert found.names[:3] == ("rag_eval_results.json", "risk-notes.md", "README.md") and not found.problem
    first = {name: desk.evidence(item_of(desk, "ada", name)).names[0] for name in ("readme_clear", "risk_judgement")}
    assert first == {"readme_clear": "README.md", "risk_judgement": "risk-notes.md"}
    assert '"reason": "the words differ"' in found.text("rag_eval_results.json")
    assert "def f1(rows):" in found.text("lab.ipynb") and '"cell_type"' not in found.text("lab.ipynb")
    (cohort.parent / "subs" / "ada" / "README.md").write_text("# Another\n")
    changed = desk.evidence(item_of(desk, "ada"))
    assert changed.names == () and "moved, changed or handed in again" in changed.problem
    assert "not told where" in Desk(cohort).evidence(item_of(desk, "ada")).problem


def test_evidence_from_a_bulk_download_leaves_the_gradebook_alone(tmp_path: Path) -> None:
    kit.cohort(tmp_path / "subs", 2)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted((tmp_path / "subs").rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path / "subs"))
    kit.grade(tmp_path / "subs", tmp_path / "book")
    before = kit.derived(tmp_path / "book")
    desk = Desk(tmp_path / "book", [tmp_path / "all.zip"])
    assert "Work of 0" in desk.evidence(desk.items()[0]).text("README.md")
    assert kit.derived(tmp_path / "book") == before


def test_files_that_are_no_text_say_so(cohort: Path) -> None:
    ada = cohort.parent / "subs" / "ada"
    (ada / "picture.png").write_bytes(b"\x89PNG\xff\x00")
    (ada / "long.txt").write_text("x" * 300_000)
    (ada / "odd.ipynb").write_text('{"cells": [3, {"cell_type": "code", "source": 5, "outputs": [1, {"data": 2}]}]}')
    grade(cohort.parent)
    desk = Desk(cohort, [cohort.parent / "subs" / "who.csv"])
    found = desk.evidence(item_of(desk, "ada"))
    assert "not UTF-8" in found.text("picture.png") and "6 bytes" in found.text("picture.png")
    assert found.text("long.txt").endswith("[100000 more characters are not shown]")
    assert "cell 1: unreadable" in found.text("odd.ipynb")


def test_everything_of_a_stranger_is_escaped(cohort: Path) -> None:
    desk = Desk(cohort, [cohort.parent / "subs" / "who.csv"])
    item = item_of(desk, "ada")
    page = head(item) + file("README.md", desk.evidence(item).text("README.md")) + checks(item.row.report.findings)
    tags = set(re.findall(r"<\s*/?(\w+)", page))
    assert tags <= {"b", "code", "details", "div", "h3", "h4", "li", "p", "pre", "span", "summary", "ul"}
    assert "&lt;script&gt;" in page and "Ada &lt;b&gt;" in page and "\\u202e" in page and "\u202e" not in page
    assert not re.search(r"<[^>]*\son\w+\s*=", page)
    assert "2 of " in page and "rag.readme says fail." in page


def suggest(out: Path, criterion: str) -> None:
    item = item_of(Desk(out), "ada", criterion)
    with Journal(out / JOURNAL) as journal:
        journal.append("suggestion", learner="ada", module="06", criterion=criterion, digest=item.row.digest,
                       points=1.0, reason="says what was measured", who="a-judge (kappa 0.81)", when="")  # fmt: skip


def test_a_suggestion_is_folded_away_and_fills_nothing(cohort: Path) -> None:
    from course_grader.reviews import import_suggestions

    (cohort.parent / "gold.csv").write_text("criterion,gold,judge\n" + "failures_analysed,1,1\nfailures_analysed,0,0\n"
                                            * 20 + "readme_clear,1,1\nreadme_clear,0,1\n" * 20)  # fmt: skip
    digest = item_of(Desk(cohort), "ada").row.digest[:16]
    lines = [f"ada,06,{name},{digest},1,<i>fine</i>,some-judge" for name in ("failures_analysed", "readme_clear")]
    (cohort.parent / "hints.csv").write_text("\n".join(
        ["learner,module,criterion,submission,points,reason,judge", *lines]))  # fmt: skip
    with Journal(cohort / JOURNAL) as journal:
        import_suggestions(cohort.parent / "hints.csv", cohort.parent / "gold.csv", build(journal.records), journal)
    panel = panel_of(cohort)
    assert "judge's suggestion" in panel.head.value and "<details>" in panel.head.value
    assert "&lt;i&gt;fine" in panel.head.value and "kappa 1.00" in panel.head.value
    assert (panel.points.value, panel.reason.value) == ("", "")
    assert "suggest" not in head(item_of(panel.desk, "ada", "readme_clear")), "that judge is not good enough there"


def test_the_static_list_shows_where_no_widget_can(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = review(cohort)
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    static = review(cohort)._repr_mimebundle_()
    assert set(static) == {"text/plain", "text/html"} and static["text/html"] == bundle["text/html"]
    assert "6 of 6 reviews are open" in static["text/plain"] and "reviews.csv" in static["text/plain"]
    assert "Ada &lt;b&gt;" in static["text/html"] and "<script" not in static["text/html"]


def test_a_book_without_open_points_and_a_folder_without_a_book(cohort: Path, tmp_path: Path) -> None:
    desk = Desk(cohort)
    for item in desk.items():
        desk.save(item, Draft("1", "fine"), "R")
    panel = panel_of(cohort)
    assert "6 of 6" in panel.progress.value and "1 of 1 by R" in panel.head.value
    with pytest.raises(CourseError, match="no journal"):
        review(tmp_path / "nothing")
    with Journal(tmp_path / "empty" / JOURNAL):
        pass
    empty = panel_of(tmp_path / "empty")
    assert empty.save.disabled and "Nothing here" in empty.said.value


def test_the_command_writes_a_notebook_that_names_no_place(cohort: Path) -> None:
    subs = cohort.parent / "subs"
    words = ["review", str(cohort), str(subs), "--no-open", "--reviewer", "O'Brien \"R\""]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0 and "6 of 6 reviews are open" in done.stdout, done.output
    source = nbs.source_text(nbs.read(cohort / "review.ipynb"))
    assert '"../subs"' in source and str(cohort.parent) not in source
    compile(nbs.read(cohort / "review.ipynb").cells[1].source, "cell", "exec")
    first = (cohort / "review.ipynb").read_bytes()
    assert CliRunner().invoke(cli.app, words).exit_code == 0 and (cohort / "review.ipynb").read_bytes() == first
    CliRunner().invoke(cli.app, words[:-2])
    assert (cohort / "review.backup-1.ipynb").read_bytes() == first
    missing = CliRunner().invoke(cli.app, ["review", str(cohort), str(subs / "nowhere"), "--no-open"])
    assert isinstance(missing.exception, UsageError)


@pytest.mark.browser
@pytest.mark.skipif(not find_chromium(), reason="no Chromium on this machine; set COURSE_CHROMIUM to its path")
def test_a_reviewer_scores_in_jupyterlab(cohort: Path, tmp_path: Path) -> None:
    suggest(cohort, "failures_analysed")
    write_notebook(cohort, [cohort.parent / "subs" / "who.csv"])
    errors: list[str] = []
    log = tmp_path / "lab" / "server.log"
    with (lab_kit.lab_server(cohort, tmp_path / "lab") as url,
          lab_kit.open_page(url, "review.ipynb", 1400, 1100) as page):  # fmt: skip
        page.on("pageerror", lambda error: errors.append(str(error)))
        panel = page.locator(".course-review").first
        lab_kit.run_cell(page, panel, log)
        panel.get_by_text("Ada <b>Lovelace</b> $x^2$", exact=True).wait_for()
        panel.get_by_title("File of the submission").select_option("README.md")
        panel.get_by_text("window.pwned").wait_for()
        shown = panel.locator("pre.file")
        assert "$x^2$ and \\(y^2\\) \\u202etxet" in shown.inner_text()
        assert panel.locator("mjx-container, .MathJax").count() == 0, "a name or a file is no mathematics"
        panel.get_by_title("Points", exact=True).fill("2")
        panel.get_by_text("0 to 1 are possible").wait_for()
        panel.get_by_title("0.5 points").click()
        panel.get_by_title("Reason").fill("One cause of two is named.")
        panel.get_by_title("Reviewer").fill("R. Reviewer")
        if target := os.environ.get("COURSE_SCREENSHOT"):
            page.screenshot(path=target)
        panel.get_by_role("button", name="Save and go on").click()
        panel.get_by_text("Saved: 0.5 of 1").wait_for()
        panel.get_by_title("Reason").fill("half a thought")
        panel.get_by_text("1 not saved").wait_for()
        assert page.evaluate("window.pwned ?? null") is None
        wide = ("(p => Math.max(...[...p.querySelectorAll('select, input, textarea, button, pre, p')].map("
                "e => e.getBoundingClientRect().right)) - p.getBoundingClientRect().right)"
                "(document.querySelector('.course-review'))")  # fmt: skip
        for width, height in ((760, 1500), (1400, 1100)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate(wide) <= 1, f"cut off at {width} pixels"
            if target := os.environ.get("COURSE_SCREENSHOT"):
                page.screenshot(path=target.replace(".png", f"-{width}.png"))
    assert errors == []
    line = line_of(cohort, "ada", "failures_analysed")
    assert (line.reviewer, line.suggestion, line.reason, line.who) == (
        0.5, 1.0, "One cause of two is named.", "R. Reviewer")  # fmt: skip
    given = [row for row in csv.DictReader((cohort / "reviews.csv").open()) if row["points"]]
    assert [(r["learner"], r["criterion"], r["points"]) for r in given] == [("ada", "failures_analysed", "0.5")]
    assert [d.reason for d in Desk(cohort).drafts.values()] == ["half a thought"]
    grade(cohort.parent)
    assert line_of(cohort, "ada", "failures_analysed") == line
