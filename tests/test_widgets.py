"""The quiz teaches with every answer, remembers answers safely, and shows the same fallback at every run."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import threading
from collections import Counter
from pathlib import Path

import lab_kit
import nbformat as nbf
import pytest
import yaml

from course_lib import catalog, progress, quizzes, widgets
from course_lib import notebooks as nbs
from course_lib.doctor import find_chromium
from course_lib.errors import DataError, UsageError
from course_lib.types import Finding, Outcome

QUIZZES = [m.code for m in catalog.MODULES if m.quiz]


@pytest.fixture(autouse=True)
def own_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "deep" / "progress.json"))
    return tmp_path / "deep" / "progress.json"


def test_modules_00_and_06_have_a_quiz() -> None:
    assert {"00", "06"} <= set(QUIZZES)


@pytest.mark.parametrize("code", QUIZZES)
def test_committed_quizzes_are_complete_and_cannot_be_guessed(code: str) -> None:
    questions = quizzes.load_quiz(code).questions
    assert len(questions) >= 10
    letters = Counter(q.answer for q in questions)
    assert max(letters.values()) <= len(questions) / 2, letters
    longest = sum(max(q.options, key=lambda o: len(o.text)).right for q in questions)
    shortest = sum(min(q.options, key=lambda o: len(o.text)).right for q in questions)
    assert longest <= len(questions) / 2 and shortest <= len(questions) / 2, "length gives the answer away"
    for option in (o for q in questions for o in q.options):
        assert len(option.why) >= 40 and option.why.endswith("."), option.why
        assert not re.search(r"\b(?:obviously|simply wrong|stupid)\b", option.why)
    whys = [o.why for q in questions for o in q.options]
    assert len(set(whys)) == len(whys), "each explanation speaks to its own option"


def broken(change) -> dict:
    data = copy.deepcopy(yaml.safe_load((catalog.repo_root() / "quizzes/00.yaml").read_text()))
    change(data)
    return data


@pytest.mark.parametrize(("change", "says"), [
    (lambda d: d["questions"][0]["options"][0].pop("why"), "why"),
    (lambda d: d["questions"][0]["options"][0].update(right=True), "exactly one right"),
    (lambda d: [o.pop("right", 0) for o in d["questions"][0]["options"]], "exactly one right"),
    (lambda d: d["questions"][0].update(kind="trivia"), "kind"),
    (lambda d: d["questions"].pop(), "0 evidence"),
    (lambda d: d["questions"].append(d["questions"][0]), "share an id"),
    (lambda d: d["questions"][0].update(extra=1), "extra"),
    (lambda d: d["questions"][0].update(options=["a", "b", "c"]), "options"),
    (lambda d: d["questions"][0]["options"][1].update(text=d["questions"][0]["options"][0]["text"]), "twice"),
    (lambda d: d.update(questions=[]), "questions"),
])
def test_a_malformed_quiz_is_refused_with_its_reason(tmp_path: Path, change, says: str) -> None:
    path = tmp_path / "00.yaml"
    path.write_text(yaml.safe_dump(broken(change)))
    with pytest.raises(DataError, match=says):
        quizzes.load_quiz("00", path)


def test_yaml_that_is_no_quiz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "00.yaml"
    for text in ("{", "just text", "", "- 1"):
        path.write_text(text)
        with pytest.raises(DataError):
            quizzes.load_quiz("00", path)


def test_a_module_without_quiz_says_so() -> None:
    with pytest.raises(UsageError, match="no readiness check yet"):
        quizzes.load_quiz(next(m.code for m in catalog.MODULES if not m.quiz))


def test_text_shows_answers_only_when_asked() -> None:
    quiz = quizzes.load_quiz("06")
    plain, full = quizzes.quiz_text("06", width=400), quizzes.quiz_text("06", answers=True, width=400)
    for question in quiz.questions:
        assert question.prompt in plain
        assert all(o.text in plain and o.why not in plain and o.why in full for o in question.options)
    assert full.count("Right: ") == len(quiz.questions)


def parted(change) -> dict:
    data = copy.deepcopy(yaml.safe_load((catalog.repo_root() / "quizzes/01.yaml").read_text()))
    change(data["questions"])
    return data


def test_a_part_is_its_own_quiz_and_is_recorded_under_the_module() -> None:
    whole = quizzes.load_quiz("01")
    parts = [quizzes.load_quiz("01", part=p) for p in "abcd"]
    assert [q.id for p in parts for q in p.questions] == [q.id for q in whole.questions]
    assert all(7 <= len(p.questions) <= 8 for p in parts)
    view = widgets.quiz("01", part="c")
    first = view.quiz.questions[0]
    assert first.part == "c" and "Readiness check 01c" in view._repr_mimebundle_()["text/plain"]
    view.respond(first, first.answer)
    assert progress.read_progress()["modules"]["01"]["quiz"] == f"1 of {len(whole.questions)}"
    assert widgets.quiz("01", part="c")._before() == widgets.quiz("01")._before() != {}


@pytest.mark.parametrize(("change", "says"), [
    (lambda qs: qs[0].pop("part"), "some questions name a part"),
    (lambda qs: qs[0].update(part="e"), "part"),
    (lambda qs: qs[0].update(part="b"), "4 concept questions in part a"),
    (lambda qs: [q.update(part="a") for q in qs], "in part a"),
])
def test_a_quiz_with_broken_parts_is_refused(tmp_path: Path, change, says: str) -> None:
    path = tmp_path / "01.yaml"
    path.write_text(yaml.safe_dump(parted(change)))
    with pytest.raises(DataError, match=says):
        quizzes.load_quiz("01", path)


def test_a_part_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="no part 'a'"):
        quizzes.load_quiz("06", part="a")
    with pytest.raises(UsageError, match="no part 'z'"):
        widgets.quiz("01", part="z")


def test_letters_are_checked() -> None:
    question = quizzes.load_quiz("00").questions[0]
    assert question.option(question.answer.lower()).right
    for bad in ("", "E", "Z", "AB", "1"):
        with pytest.raises(UsageError):
            question.option(bad)


def test_answers_are_recorded_with_the_first_try_kept(own_progress: Path) -> None:
    view = widgets.quiz("00")
    question = view.quiz.questions[0]
    wrong = next(letter for letter in "ABCD" if letter != question.answer)
    assert "Not quite" in view.respond(question, wrong)
    assert "Right." in view.respond(question, question.answer)
    record = progress.answers_of("00")[question.id]
    assert record | {"on": ""} == {"choice": question.answer, "right": True, "first_right": False, "tries": 2, "on": ""}
    module = progress.read_progress()["modules"]["00"]
    assert module["quiz"] == f"1 of {len(view.quiz.questions)}"
    progress.record_lab("00", points=3)
    assert progress.read_progress()["modules"]["00"]["lab"] == {"points": 3} and progress.answers_of("00")
    assert json.loads(own_progress.read_text())["version"] == 1


def test_many_writers_lose_nothing() -> None:
    def answer(i: int) -> None:
        progress.record_answer("06", f"q{i}", "A", True, 12)

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(12)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(progress.answers_of("06")) == 12


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"version": 1, "modules": {"00": 3}}',
                                  '{"version": 9, "modules": {}}', "\x00"])
def test_a_broken_progress_file_is_named_and_the_quiz_still_works(own_progress: Path, text: str) -> None:
    own_progress.parent.mkdir()
    own_progress.write_text(text)
    with pytest.raises(DataError) as caught:
        progress.read_progress()
    assert str(own_progress) in caught.value.where
    view = widgets.quiz("00")
    said = view.respond(view.quiz.questions[0], "A")
    assert "was not saved" in said and view.quiz.questions[0].option("A").why[:20] in said
    assert own_progress.read_text() == text, "a file that cannot be read is never overwritten"
    view.widget()


def test_the_fallback_is_static_and_complete() -> None:
    view = widgets.quiz("06")
    first = view._repr_mimebundle_()
    view.respond(view.quiz.questions[0], "A")
    second = widgets.quiz("06")._repr_mimebundle_()
    assert first["text/plain"] == second["text/plain"] and first["text/html"] == second["text/html"]
    assert first["text/html"].count("<details") == sum(len(q.options) for q in view.quiz.questions)
    assert "application/vnd.jupyter.widget-view+json" in first


def test_without_widgets_the_fallback_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(widgets.quiz("06")._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_html_escapes_what_a_quiz_says() -> None:
    option = {"text": "<b>x</b>", "why": "<script>alert(1)</script>"}
    question = {"id": "q", "kind": "concept", "prompt": "<img src=x>",
                "options": [option | {"right": True}, {"text": "b", "why": "c"}, {"text": "d", "why": "e"}]}
    quiz = quizzes.Quiz.model_construct(code="00", questions=(quizzes.Question.model_validate(question),))
    page = quizzes.quiz_html(quiz) + widgets.QuizView(quiz).respond(quiz.questions[0], "A")
    assert "<script" not in page and "<img" not in page and "<b>" not in page


def test_feedback_is_an_accessible_table_with_words_for_outcomes() -> None:
    findings = [Finding("rag.a", Outcome.PASS, "fine"),
                Finding("rag.b", Outcome.FAIL, "wrong <i>", expected="1", actual="2", where="a.json:3", fix="do that"),
                Finding("rag.c", Outcome.ERROR, "unreadable", fix="save it again"),
                Finding("rag.d", Outcome.SKIPPED, "not asked")]
    feedback = widgets.check_feedback(findings, "Exercise 1")
    page, text = feedback._repr_mimebundle_()["text/html"], str(feedback)
    assert not feedback.passed
    assert "<caption>Exercise 1</caption>" in page and page.count("scope='col'") == 6 and page.count("scope='row'") == 4
    for word in ("pass", "fail", "could not score", "skipped"):
        assert word in page and word in text
    assert "wrong &lt;i&gt; (a.json:3)" in page and "fix: do that" in text
    with pytest.raises(AssertionError, match="wrong <i>; unreadable"):
        widgets.require(findings)
    widgets.require(findings[:1])
    with pytest.raises(AssertionError, match="nothing to check"):
        widgets.require([])


def test_tables_escape_and_align() -> None:
    table = widgets.Table(("name", "n"), [("<b>", 1), ("longer", 22)], caption="A & B")
    bundle = table._repr_mimebundle_()
    assert "&lt;b&gt;" in bundle["text/html"] and "<caption>A &amp; B</caption>" in bundle["text/html"]
    assert bundle["text/plain"].splitlines() == ["A & B", "name    n", "----------", "<b>     1", "longer  22"]
    with pytest.raises(ValueError):
        widgets.Table(("name", "n"), [("only one",)])


@pytest.mark.browser
@pytest.mark.skipif(not find_chromium(), reason="no Chromium on this machine; set COURSE_CHROMIUM to its path")
def test_a_learner_answers_the_quiz_in_jupyterlab(own_progress: Path, tmp_path: Path) -> None:
    nb = nbf.v4.new_notebook(cells=[nbf.v4.new_code_cell("from course_lib.widgets import quiz\n\nquiz('06')")])
    nbs.write(nbs.normalise(nb), tmp_path / "quiz.ipynb")
    questions = quizzes.load_quiz("06").questions
    with (lab_kit.lab_server(tmp_path, tmp_path / "lab", COURSE_PROGRESS=str(own_progress)) as url,
          lab_kit.open_page(url, "quiz.ipynb") as page):  # fmt: skip
        quiz = page.locator(".course-quiz").first
        lab_kit.run_cell(page, quiz, tmp_path / "lab" / "server.log")
        buttons = quiz.get_by_role("button", name="Check answer")
        assert buttons.count() == len(questions)
        buttons.nth(0).click()
        quiz.get_by_text("Choose an answer first.").wait_for(timeout=20_000)
        wrong = next(o for o in questions[0].options if not o.right)
        quiz.get_by_label(wrong.text).check()
        buttons.nth(0).click()
        quiz.get_by_text("Not quite").wait_for(timeout=20_000)
        assert wrong.why in quiz.inner_text()
        quiz.get_by_label(questions[1].option(questions[1].answer).text).check()
        buttons.nth(1).click()
        quiz.get_by_text(f"1 of {len(questions)} answered right").wait_for(timeout=20_000)
        if target := os.environ.get("COURSE_SCREENSHOT"):
            page.screenshot(path=target)
        labels = "[...document.querySelectorAll('.course-quiz .widget-radio-box label')]"
        overflow = page.evaluate(f"{labels}.map(l => l.scrollWidth - l.clientWidth)")
    assert overflow and max(overflow) <= 1, "a long option is cut off"
    saved = json.loads(own_progress.read_text())["modules"]["06"]["answers"]
    assert saved[questions[0].id]["right"] is False and saved[questions[1].id]["right"] is True
