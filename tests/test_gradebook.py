"""The gradebook: every claim of it follows from the journal, and hostile names and findings stay text."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cohort_kit as kit
import pytest

from course_grader.bookpages import level, render_index, render_learner
from course_grader.cohort import JOURNAL, Options, grade_cohort
from course_grader.gradebook import Book, build, slug
from course_grader.intake import collect
from course_grader.items import items, look_first
from course_grader.journal import Journal, read_journal
from course_grader.policy import Policy
from course_grader.workers import inline
from course_lib.measure import wilson
from course_lib.submission import Submission
from course_lib.types import Finding, Outcome

ATTACKS = (
    "<script>window.pwned=1</script>", "<svg onload='window.pwned=1'><image href='http://127.0.0.1:9/x.svg'/></svg>",
    "<a href='javascript:window.pwned=1'>click</a>", "</style><style>@import url(http://127.0.0.1:9/x.css)</style>",
    "\"' onmouseover=window.pwned=1 x=", "{{ 7 * 7 }}", "javascript:window.pwned=1", "right\u202eelpmis",
    '=HYPERLINK("http://127.0.0.1:9")',
)  # fmt: skip


class Hostile(kit.CheapGrader):
    """Findings that carry what a submission planted."""

    def grade(self, submission: Submission, tier: str) -> list[Finding]:
        text = submission.text("README.md")
        found = super().grade(submission, tier)
        return [replace(f, message=text, expected=text, actual=text, where=text, fix=text,
                        evidence={"places": [text, text]}) for f in found]  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Book]:
    work = tmp_path_factory.mktemp("hostile")
    lines = ["learner,path,name,submitted"]
    for number, attack in enumerate(ATTACKS):
        kit.tiny(work / f"s{number}", number, ("rag.hit_rate",), README__md="\n".join(ATTACKS))
        quoted = attack.replace('"', '""')
        lines.append(f'"{quoted} {number}",s{number},"{quoted}",2026-11-01T00:00:00Z')
    lines.append(f'"late\n{ATTACKS[0]}",nowhere,"two\nlines",')
    (work / "who.csv").write_text("\n".join(lines) + "\n", "utf-8")
    options = Options(mapper=inline, policy=Policy.model_validate({
        "due": {"06": "2026-10-31T00:00:00Z"}, "late": {"per_day": 0.1}, "extensions": [
            {"learner": f"{ATTACKS[0]} 0", "lab": "06", "until": "2026-10-31T12:00:00Z", "reason": ATTACKS[1]}]}))
    book = grade_cohort(collect([work / "who.csv"]), Hostile(), work / "book", options).book
    row = book.labs[0].rows[0]
    with Journal(work / "book" / JOURNAL) as journal:
        journal.append("review", learner=row.learner, module="06", criterion="readme_clear", digest=row.digest,
                       points=1.0, reason=ATTACKS[0], who=ATTACKS[1], when=ATTACKS[2])  # fmt: skip
    book = grade_cohort(collect([work / "who.csv"]), Hostile(), work / "book", options).book
    return work / "book", book


def pages(out: Path) -> list[Path]:
    return [out / "index.html", *sorted((out / "learners").glob("*.html"))]


def test_planted_markup_is_text_on_every_page(hostile: tuple[Path, Book]) -> None:
    out, book = hostile
    assert len(pages(out)) == len(ATTACKS) + 2 == len(book.labs[0].rows) + 1
    for path in pages(out):
        page = path.read_text("utf-8")
        head, _, body = page.partition("</style>")
        assert "default-src 'none'; style-src 'sha256-" in head and "unsafe" not in head
        assert set(re.findall(r"<\s*(script|img|image|iframe|object|style|link|form|use|meta)\b", body)) == set(), path
        assert not re.search(r"<[^>]*\s(on\w+|style|srcdoc)\s*=", body)
        links = re.findall(r'(?:href|src)="([^"]*)"', body)
        assert all(re.fullmatch(r"(\.\./index\.html)?#?[\w./-]*", link) for link in links), links
        assert "49" not in re.findall(r"\b49\b|7 \* 7", body) and "\u202e" not in page
    assert "&lt;script&gt;window.pwned" in pages(out)[1].read_text("utf-8")
    assert all(re.fullmatch(r"[a-z0-9-]+\.html", path.name) for path in pages(out))


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_in_a_browser_nothing_runs_loads_or_overflows(browser: Any, hostile: tuple[Path, Book], width: int) -> None:
    view = browser.new_page(viewport={"width": width, "height": 900})
    seen: list[str] = []
    view.on("console", lambda message: seen.append(message.text))
    view.on("pageerror", lambda error: seen.append(str(error)))
    requests: list[str] = []
    view.on("request", lambda request: requests.append(request.url))
    for path in pages(hostile[0])[:4]:
        view.goto(path.as_uri())
        for element in view.query_selector_all("td, li, h1, th")[:60]:
            element.hover(force=True, timeout=2000, no_wait_after=True) if element.is_visible() else None
        assert view.evaluate("window.pwned ?? null") is None
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert view.evaluate(wide) <= 0, path
        assert view.evaluate("getComputedStyle(document.querySelector('.card')).borderRadius") == "12px", "styled"
    assert seen == [] and requests == [path.as_uri() for path in pages(hostile[0])[:4]]
    view.goto(pages(hostile[0])[0].as_uri())
    view.click("table.people a[href^='learners/']")
    assert view.url.startswith((hostile[0] / "learners").as_uri()) and view.query_selector("h1")
    view.click("nav.trail a")
    assert view.url == (hostile[0] / "index.html").as_uri()
    view.close()


def test_the_book_is_derived_from_the_journal_alone(tmp_path: Path) -> None:
    subs = kit.cohort(tmp_path / "subs", 12)
    run = kit.grade(subs, tmp_path / "book")
    shutil.rmtree(subs)
    book = build(read_journal(tmp_path / "book" / JOURNAL))
    assert book == run.book and build([]) == Book((), ())
    text = render_index(book)
    assert text == (tmp_path / "book" / "index.html").read_text("utf-8")
    assert not re.search(r"20\d\d-\d\d-\d\d|/tmp/|" + re.escape(str(tmp_path)), text), "no time and no path"
    row = book.labs[0].rows[3]
    assert render_learner(row, book.labs[0]).count(row.digest) == 1


def test_scores_and_ledgers_add_up(tmp_path: Path) -> None:
    kit.tiny(tmp_path / "subs" / "ann", 1, ("rag.readme",))
    waits = {"rag.config": "error", "rag.hit_rate": "skipped"}
    kit.tiny(tmp_path / "subs" / "bob", 2, outcomes__json=json.dumps(waits))
    policy = Policy.model_validate({"due": {"06": "2026-11-01T00:00:00Z"}, "late": {"per_day": 0.1}})
    lines = "learner,path,submitted\nann,ann,2026-11-02T10:00:00Z\nbob,bob,2026-11-01T00:00:00Z\n"
    (tmp_path / "subs" / "who.csv").write_text(lines)
    run = grade_cohort(collect([tmp_path / "subs" / "who.csv"]), kit.CheapGrader(), tmp_path / "book",
                       Options(mapper=inline, policy=policy))  # fmt: skip
    ann, bob = run.book.labs[0].rows
    assert (ann.report.points, ann.taken_off, ann.final) == (16, 3.2, 12.8) and "2 days late" in ann.policy
    assert (bob.report.points, bob.report.pending, bob.report.unscored) == (14, 5, 1) and not bob.passed
    for row in (ann, bob):
        assert round(sum(line.final or 0 for line in row.ledger) - row.taken_off, 2) == row.final
        open_points = sum(line.points for line in row.ledger if line.final is None)
        assert open_points == row.report.pending + row.report.unscored
    page = kit.page(tmp_path / "book", "ann")
    assert "Final 12.8 of 20 points" in page and "2 days late, 20% taken off" in page and "waits" in page


def test_a_learners_page_names_nobody_else(tmp_path: Path) -> None:
    """It is handed out: flags stay, and who they are about stands on the index only."""
    people = {"ann": "Ann Abara", "bob": "Bob <i>Okafor</i>", "cyd": "Cyd Castro", "dan": "Dan Dahl"}
    for number, learner in enumerate(people):
        kit.tiny(tmp_path / "subs" / learner, number if learner == "dan" else 1)
    (tmp_path / "subs" / "dan.zip").write_bytes(b"no archive")
    lines = [f"{learner},{learner},{name},2026-11-01T00:00:00Z" for learner, name in people.items()]
    lines += ["dan,dan.zip,Dan Dahl,2026-11-02T00:00:00Z", "eve,nowhere,Eve Eng,"]
    (tmp_path / "subs" / "who.csv").write_text("\n".join(["learner,path,name,submitted", *lines]) + "\n")
    book = kit.grade(tmp_path / "subs" / "who.csv", tmp_path / "book").book
    lab, people = book.labs[0], people | {"eve": "Eve Eng"}
    assert len(lab.pairs) == 3 and len({row.learner for row in lab.rows}) == 5
    shown = {path: path.read_text("utf-8") for path in (tmp_path / "book" / "learners").iterdir()}
    assert len(shown) == len(lab.rows) == 6
    for path, page in shown.items():
        own = next(learner for learner in people if path.name.startswith(slug(learner)))
        for other, name in people.items():
            words = [slug(other), other, *re.findall(r"\w{2,}", name)] if other != own else []
            named = [word for word in words if re.search(rf"\b{re.escape(word)}\b", page)]
            assert not named, (path.name, named)
    ann, index = kit.page(tmp_path / "book", "ann"), (tmp_path / "book" / "index.html").read_text("utf-8")
    assert ann.count("another submission</a>: the folders are equal") == 2 and 'href="../index.html#similar"' in ann
    assert "Bob &lt;i&gt;Okafor" in index.partition('id="similar"')[2]


def test_check_statistics(tmp_path: Path) -> None:
    for number in range(24):
        weak = number < 12
        fails = ("rag.risk_notes", "rag.readme", "rag.config") if weak else ()
        fails += ("rag.cost_notes",) if not weak else ()
        fails += ("rag.case_count",) if number != 5 else ()
        kit.tiny(tmp_path / "subs" / f"l{number:02d}", number, fails)
    book = kit.grade(tmp_path / "subs", tmp_path / "book").book
    found = {item.rule: item for item in items(book.labs[0])}
    good, bad, hard, easy = (found[f"rag.{name}"] for name in ("risk_notes", "cost_notes", "case_count", "files"))
    assert (good.passed, good.scored, good.low, good.high) == (12, 24, *(round(v, 4) for v in wilson(12, 24)))
    assert good.discrimination > 0.9 and good.note == "" and easy.discrimination is None and easy.rate == 1
    assert bad.discrimination < -0.9 and "separate" in bad.note and "most fail" in hard.note
    assert any(look.what == "2 of our own checks" for look in look_first(book))
    few = kit.grade(kit.cohort(tmp_path / "few", 3), tmp_path / "fewbook").book
    assert all(item.note == "" for item in items(few.labs[0])), "three learners prove nothing about a check"


def test_what_comes_first_is_what_nobody_scored(tmp_path: Path) -> None:
    kit.cohort(tmp_path / "subs", 3)
    kit.tiny(tmp_path / "subs" / "x", 9, act__txt="raise")
    kit.tiny(tmp_path / "subs" / "y", 8, outcomes__json='{"rag.config": "error"}')
    (tmp_path / "subs" / "z.zip").write_bytes(b"no")
    shutil.copytree(tmp_path / "subs" / "y", tmp_path / "subs" / "yy")
    book = kit.grade(tmp_path / "subs", tmp_path / "book", kit.CheapGrader(stamp="Run without a sandbox")).book
    looks = [look.what for look in look_first(book)]
    assert looks == ["Run without a sandbox", "1 submission not scored", "1 submission refused",
                     "2 submissions with evidence that could not be read", "1 similar pair, 2 learners",
                     "15 points wait for reviewers"]  # fmt: skip
    index = (tmp_path / "book" / "index.html").read_text("utf-8")
    assert all(look in index for look in looks) and 'class="stamp' in kit.page(tmp_path / "book", "y")


def test_two_labs_one_book_with_totals(tmp_path: Path) -> None:
    """Another lab is the same rubric under another number: totals, drops and links must not mix them."""
    from course_grader.cohort import cached_rubric

    subs = tmp_path / "subs"
    kit.tiny(subs / "learner-00", 1)
    kit.tiny(subs / "learner-01", 2, ("rag.config",))

    class Seven(kit.CheapGrader):
        def rubric(self) -> Any:
            return cached_rubric("06").model_copy(update={"lab": "07", "title": "Agents"})

    policy = Policy(drop_lowest=1)
    kit.grade(subs, tmp_path / "book", policy=policy)
    shutil.rmtree(subs / "learner-01")
    book = kit.grade(subs, tmp_path / "book", Seven(module="07", harder=("rag.readme",)), policy=policy).book
    assert [lab.module for lab in book.labs] == ["06", "07"]
    first, second = book.totals
    assert (first.dropped, first.maximum, second.dropped) == (("07",), 20, ("07",))
    assert first.points == book.labs[0].rows[0].final
    index = render_index(book)
    assert "Totals" in index and "Agents" in index and (tmp_path / "book" / "moodle-07.csv").exists()
    assert {p.name for p in (tmp_path / "book" / "learners").iterdir()} == {
        f"{slug('learner-00')}-06.html", f"{slug('learner-00')}-07.html", f"{slug('learner-01')}-06.html"}  # fmt: skip


def test_a_crash_of_the_grader_counts_in_no_total(tmp_path: Path) -> None:
    """A lab that was refused is a zero; one that we could not score is none, and neither are its points possible."""
    from course_grader.cohort import cached_rubric

    class Seven(kit.CheapGrader):
        def rubric(self) -> Any:
            return cached_rubric("06").model_copy(update={"lab": "07", "title": "Agents"})

    subs = tmp_path / "subs"
    for number, name in enumerate(("ann", "bob", "cyd")):
        kit.tiny(subs / name, number)
    kit.tiny(subs / "dan", 3, act__txt="raise")
    kit.grade(subs, tmp_path / "book")
    (subs / "ann" / "act.txt").write_text("raise")
    shutil.rmtree(subs / "bob")
    (subs / "bob.zip").write_bytes(b"no")
    book = kit.grade(subs, tmp_path / "book", Seven(module="07")).book
    found = {total.learner: (total.points, total.maximum, total.dropped) for total in book.totals}
    assert found == {"ann": (17, 20, ("07",)), "bob": (17, 40, ()), "cyd": (34, 40, ()), "dan": (0, 0, ("06", "07"))}
    assert "0 / 0" in render_index(book)


def test_the_median_of_an_even_cohort_lies_between_the_two_in_the_middle(tmp_path: Path) -> None:
    kit.tiny(tmp_path / "subs" / "ann", 1)
    kit.tiny(tmp_path / "subs" / "bob", 2, ("rag.readme",))
    book = kit.grade(tmp_path / "subs", tmp_path / "book").book
    assert [row.final for row in book.labs[0].rows] == [17, 16]
    assert "<dt>median</dt><dd>16.5 of 20 points</dd>" in render_index(book)


def test_levels_of_the_heat_map() -> None:
    from course_grader.cohort import cached_rubric
    from course_lib.rubric import score

    rubric = cached_rubric("06")
    found = [Finding("rag.hit_rate", Outcome.ERROR, "m"), Finding("rag.readme", Outcome.FAIL, "m"),
             Finding("rag.config", Outcome.PASS, "m"), Finding("rag.risk_notes", Outcome.SKIPPED, "m")]  # fmt: skip
    levels = {c.id: level(c) for c in score(rubric, found, {"readme_clear": 0.5, "risk_judgement": 0.25}).criteria}
    names = "retrieval_works packet_complete setup_recorded risk_notes failures_analysed readme_clear risk_judgement"
    assert [levels[name] for name in names.split()] == "open none full waits waits most some".split()
