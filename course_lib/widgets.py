"""What a learner touches in JupyterLab: the quiz and the feedback of checks, each with a static fallback.

The fallback (HTML and plain text) is what GitHub, a printed page, nbval and a saved notebook show. It is the same at
every run: it never depends on the progress file.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from course_lib import progress
from course_lib.errors import CourseError
from course_lib.progress import read_progress
from course_lib.quizzes import LETTERS, Question, Quiz, load_quiz, quiz_html, quiz_text
from course_lib.types import Finding, Outcome

__all__ = ["Table", "check_feedback", "quiz", "quiz_text", "read_progress", "require"]
_WIDGET = "application/vnd.jupyter.widget-view+json"
_STYLE = """<style>
.course-quiz .widget-radio-box label {white-space: normal; height: auto; line-height: 1.45; margin-bottom: 4px;
  max-width: 56em}
.course-quiz .widget-radio-box {max-height: none; height: auto}
.course-quiz .widget-radio {width: 100%; height: auto}
</style>"""
_WORDS = {Outcome.PASS: ("✓", "pass"), Outcome.FAIL: ("✗", "fail"), Outcome.ERROR: ("!", "could not score"),
          Outcome.SKIPPED: ("–", "skipped")}


def quiz(module: str | int, part: str | None = None) -> QuizView:
    """The readiness check of a module, or one ``part`` of it (``a`` to ``d``) for a module of several notebooks.

    As the last line of a cell it shows itself; answers go to the progress file, under the module.
    """
    return QuizView(load_quiz(module, part=part), len(load_quiz(module).questions))


class QuizView:
    """One quiz on screen. ``widget()`` builds the live form; without a widget manager the static form shows."""

    def __init__(self, quiz: Quiz, total: int | None = None) -> None:
        """total: questions of the whole module, when ``quiz`` is a part of it."""
        self.quiz, self.total = quiz, total or len(quiz.questions)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = {"text/plain": quiz_text(self.quiz.code, part=self.quiz.part), "text/html": quiz_html(self.quiz)}
        try:
            bundle[_WIDGET] = self.widget()._repr_mimebundle_()[_WIDGET]
        except Exception:  # no ipywidgets, or no kernel to talk to: the static form is complete by itself
            return bundle
        return bundle

    def widget(self) -> Any:
        """An ipywidgets box with one form per question and a running score."""
        import ipywidgets as widgets

        score = widgets.HTML()
        before = self._before()
        self._show_score(score, before)
        forms = [self._form(number, question, score, before.get(question.id, {}))
                 for number, question in enumerate(self.quiz.questions, 1)]
        box = widgets.VBox([widgets.HTML(_STYLE), *forms, score])
        box.add_class("course-quiz")
        return box

    def _form(self, number: int, question: Question, score: Any, before: dict[str, Any]) -> Any:
        import ipywidgets as widgets

        prompt = widgets.HTML(f"<p><strong>{number}.</strong> ({question.kind}) {html.escape(question.prompt)}</p>")
        labels = [f"{letter}. {option.text}" for letter, option in zip(LETTERS, question.options, strict=False)]
        chosen = before.get("choice", "")
        radio = widgets.RadioButtons(options=list(zip(labels, LETTERS, strict=False)), value=None,
                                     layout=widgets.Layout(width="auto"))
        button = widgets.Button(description="Check answer", tooltip=f"Check the answer to question {number}")
        said = widgets.HTML(f"<p role='status'>Earlier answer: {html.escape(str(chosen))}</p>" if chosen else "")

        def check(_: Any) -> None:
            if radio.value is None:
                said.value = "<p role='status'>Choose an answer first.</p>"
                return
            said.value = self.respond(question, radio.value)
            self._show_score(score, self._before())

        button.on_click(check)
        return widgets.VBox([prompt, radio, button, said], layout=widgets.Layout(margin="0 0 1em 0"))

    def respond(self, question: Question, letter: str) -> str:
        """HTML that answers a choice, noted in the progress file. A note that fails never hides the answer."""
        option = question.option(letter)
        verdict = "✓ Right." if option.right else f"✗ Not quite, {letter} is wrong."
        text = f"<p role='status'><strong>{verdict}</strong> {html.escape(option.why)}</p>"
        try:
            progress.record_answer(self.quiz.code, question.id, letter, option.right, self.total)
        except (CourseError, OSError) as error:
            text += f"<p>The answer was not saved. {html.escape(str(error))}</p>"
        return text

    def _before(self) -> dict[str, Any]:
        try:
            return progress.answers_of(self.quiz.code)
        except CourseError:
            return {}

    def _show_score(self, score: Any, answers: dict[str, Any]) -> None:
        known = {q.id for q in self.quiz.questions}
        right = sum(bool(a.get("right")) for name, a in answers.items() if name in known)
        first = sum(bool(a.get("first_right")) for name, a in answers.items() if name in known)
        score.value = (f"<p role='status'><strong>{right} of {len(known)} answered right</strong>, "
                       f"{first} at the first try.</p>")


class Table:
    """Rows under a head, shown as an HTML table with a caption; as aligned plain text where HTML does not render."""

    def __init__(self, head: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        self.head, self.caption = tuple(head), caption
        self.rows = tuple(tuple(str(cell) for cell in row) for row in rows)
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"every row needs {len(self.head)} cells, one for each of {', '.join(self.head)}")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self.html()}

    def __str__(self) -> str:
        table = [self.head, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*filter(None, [self.caption]), lines[0], "-" * max(map(len, lines)), *lines[1:]])

    def html(self) -> str:
        """The table; every cell is escaped."""
        head = "".join(f"<th scope='col' style='text-align:left'>{html.escape(h)}</th>" for h in self.head)
        rows = ["<tr>" + "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in row) + "</tr>"
                for row in self.rows]
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


class Feedback:
    """Findings as a table that a screen reader can follow; ``passed`` is true when nothing failed or errored."""

    def __init__(self, findings: Sequence[Finding], title: str) -> None:
        self.findings, self.title = tuple(findings), title
        self.passed = bool(self.findings) and all(f.outcome in (Outcome.PASS, Outcome.SKIPPED) for f in self.findings)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self.html()}

    def __str__(self) -> str:
        lines = [self.title]
        for finding in self.findings:
            symbol, word = _WORDS[finding.outcome]
            lines.append(f"  {symbol} {word}: {finding.rule}: {finding.message}")
            if not finding.ok and finding.fix:
                lines.append(f"      fix: {finding.fix}")
        return "\n".join(lines)

    def html(self) -> str:
        """The table; every text of a finding is escaped."""
        head = "".join(f"<th scope='col' style='text-align:left'>{h}</th>"
                       for h in ("Result", "Check", "What was found", "Expected", "Actual", "Next step"))
        rows = []
        for f in self.findings:
            symbol, word = _WORDS[f.outcome]
            cells = [f.message + (f" ({f.where})" if f.where else ""), f.expected, f.actual, "" if f.ok else f.fix]
            rows.append(f"<tr><td style='text-align:left'><span aria-hidden='true'>{symbol}</span> {word}</td>"
                        f"<th scope='row' style='text-align:left'>{html.escape(f.rule)}</th>"
                        + "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in cells) + "</tr>")
        return (f"<table><caption>{html.escape(self.title)}</caption><thead><tr>{head}</tr></thead>"
                f"<tbody>{''.join(rows)}</tbody></table>")


def check_feedback(findings: Sequence[Finding], title: str = "Checks") -> Feedback:
    """Findings ready to be shown as the last line of a cell."""
    return Feedback(findings, title)


def require(findings: Sequence[Finding], title: str = "Checks") -> None:
    """For the end of a ``check-N`` cell: show the findings; raise AssertionError with the messages of what failed."""
    from IPython.display import display

    feedback = Feedback(findings, title)
    display(feedback)
    if not feedback.passed:
        bad = [f for f in feedback.findings if f.outcome in (Outcome.FAIL, Outcome.ERROR)]
        raise AssertionError("; ".join(f.message for f in bad) or "There was nothing to check.")
