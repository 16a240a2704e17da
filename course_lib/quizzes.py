"""Readiness checks: questions from ``quizzes/NN.yaml``, typed, with an explanation for every option.

A question has ``kind`` (concept, decision, risk or evidence), ``prompt`` and 3 to 5 ``options``; exactly one option has
``right: true``, and each has a ``why`` that teaches. Options are shown in an order that depends on their text alone.
A module of several notebooks marks every question with the ``part`` it belongs to: ``a`` is asked in 01a, and so on.
"""

from __future__ import annotations

import hashlib
import html
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from course_lib import catalog
from course_lib.errors import DataError, UsageError

LETTERS = "ABCDE"
WANTED = {"concept": (5, 8), "decision": (2, 2), "risk": (2, 2), "evidence": (1, 1)}
Text = Annotated[str, Field(min_length=1, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Option(_Strict):
    """One possible answer. why: shown after it was chosen, for right and wrong answers alike."""

    text: Text
    why: Text
    right: bool = False


class Question(_Strict):
    """One question; ``options`` are in the order in which they are shown, lettered from A."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    kind: Literal["concept", "decision", "risk", "evidence"]
    part: Literal["a", "b", "c", "d"] | None = None
    prompt: Text
    options: tuple[Option, ...] = Field(min_length=3, max_length=5)

    @model_validator(mode="before")
    @classmethod
    def _order(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("options"), list):
            options = [o for o in data["options"] if isinstance(o, dict)]
            if len(options) == len(data["options"]):
                key = f"{data.get('id')}"
                return {**data, "options": sorted(options, key=lambda o: _digest(key, o.get("text")))}
        return data

    @model_validator(mode="after")
    def _one_right(self) -> Question:
        if sum(o.right for o in self.options) != 1:
            raise ValueError(f"question {self.id} needs exactly one right option")
        if len({o.text for o in self.options}) != len(self.options):
            raise ValueError(f"question {self.id} has the same option twice")
        return self

    @property
    def answer(self) -> str:
        """Letter of the right option."""
        return LETTERS[next(i for i, o in enumerate(self.options) if o.right)]

    def option(self, letter: str) -> Option:
        """The option with that letter, in either case. Raises UsageError when there is none."""
        index = LETTERS.find(letter.strip().upper())
        if len(letter.strip()) != 1 or not 0 <= index < len(self.options):
            raise UsageError(f"{letter!r} is no option of this question.",
                             fix=f"Answer with a letter from A to {LETTERS[len(self.options) - 1]}.")
        return self.options[index]


class Quiz(_Strict):
    """The readiness check of one module, or one part of it. code: two digits; part: None for all questions."""

    code: Annotated[str, Field(pattern=r"^\d\d$")]
    questions: tuple[Question, ...] = Field(min_length=1)
    part: Literal["a", "b", "c", "d"] | None = None

    @property
    def title(self) -> str:
        """For example ``Readiness check 01a``."""
        return f"Readiness check {self.code}{self.part or ''}"

    @model_validator(mode="after")
    def _shape(self) -> Quiz:
        if len({q.id for q in self.questions}) != len(self.questions):
            raise ValueError("two questions share an id")
        parts = {q.part for q in self.questions}
        if None in parts and len(parts) > 1:
            raise ValueError("some questions name a part and some do not")
        for kind, (low, high) in WANTED.items():
            have = sum(q.kind == kind for q in self.questions)
            if not low <= have <= (high if parts == {None} else len(self.questions)):
                raise ValueError(f"{have} {kind} questions; a readiness check has {low} to {high}")
        for part in sorted(filter(None, parts)):
            have = sum(q.kind == "concept" and q.part == part for q in self.questions)
            low, high = WANTED["concept"]
            if not low <= have <= high:
                raise ValueError(f"{have} concept questions in part {part}; each part has {low} to {high}")
        return self


def load_quiz(module: str | int, path: Path | None = None, *, part: str | None = None) -> Quiz:
    """The quiz of a module, or only its ``part``.

    Raises UsageError when there is none and DataError when its file is malformed.
    """
    import yaml

    found = catalog.find(module)
    path = path or found.quiz
    if path is None:
        raise UsageError(f"Module {found.code} has no readiness check yet.", where=f"quizzes/{found.code}.yaml")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        quiz = Quiz.model_validate({"code": found.code, **(data if isinstance(data, dict) else {"questions": data})})
    except (OSError, ValueError, yaml.YAMLError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        why = f"{'.'.join(map(str, first['loc'])) or 'quiz'}: {first['msg']}" if first else str(error)
        raise DataError(f"The quiz is malformed: {why}", where=str(path)) from error
    return quiz if part is None else _only(quiz, part)


def _only(quiz: Quiz, part: str) -> Quiz:
    """The questions of one part, in their order. Raises UsageError that lists the parts there are."""
    mine = tuple(q for q in quiz.questions if q.part == part)
    if not mine:
        there = ", ".join(sorted({q.part for q in quiz.questions if q.part})) or "none, it is one piece"
        raise UsageError(f"The readiness check of module {quiz.code} has no part {part!r}.", fix=f"Its parts: {there}.")
    return quiz.model_copy(update={"questions": mine, "part": part})


def quiz_text(module: str | int, *, part: str | None = None, answers: bool = False, width: int = 100) -> str:
    """The quiz as plain text for a terminal; with ``answers`` also which option is right and each why."""
    quiz = load_quiz(module, part=part)
    lines = [f"{quiz.title}: {len(quiz.questions)} questions"]
    for number, question in enumerate(quiz.questions, 1):
        lines += ["", *_wrap(f"{number}. ({question.kind}) {question.prompt}", width, "   ")]
        for letter, option in zip(LETTERS, question.options, strict=False):
            lines += _wrap(f"   {letter}. {option.text}", width, "      ")
            if answers:
                lines += _wrap(f"      {'Right' if option.right else 'Not quite'}: {option.why}", width, "      ")
    return "\n".join(lines)


def quiz_html(quiz: Quiz) -> str:
    """The quiz as HTML without scripts, for pages where widgets do not render: an option opens its explanation."""
    parts = [f"<section aria-label='{quiz.title}'>"]
    for number, question in enumerate(quiz.questions, 1):
        parts.append(f"<p><strong>{number}.</strong> ({question.kind}) {html.escape(question.prompt)}</p>")
        for letter, option in zip(LETTERS, question.options, strict=False):
            verdict = "Right." if option.right else "Not quite."
            parts.append(f"<details style='margin-left:1.5em'><summary>{letter}. {html.escape(option.text)}</summary>"
                         f"<p style='margin-left:1.5em'><em>{verdict}</em> {html.escape(option.why)}</p></details>")
    return "\n".join([*parts, "</section>"])


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(["deal", *map(str, parts)]).encode()).digest()


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent) or [""]
