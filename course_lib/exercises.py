"""Proof that a lab's exercises grade: solutions pass, stubs fail, seeded wrong solutions are caught by name.

This runs the course's own sources in this process, quickly and without a kernel. It is no sandbox: what learners wrote
never comes here.

``labs/NN_slug/wrong_solutions.yaml`` is a list; each item has

- ``exercise``: number; ``name``: a slug, unique in the file; ``mistake``: what the learner got wrong, one sentence;
- ``code``: what stands in place of the solution (a list when the exercise has several marked regions);
- ``expect``: a piece of the message with which the check must answer, ignoring case.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import tempfile
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib import notebooks as nbs
from course_lib.errors import DataError, UsageError
from course_lib.execute import check_parameters

if TYPE_CHECKING:
    from nbformat import NotebookNode

_KEYS = {"exercise", "name", "mistake", "code", "expect"}


@dataclass(frozen=True, slots=True)
class WrongSolution:
    """A mistake that the check of an exercise must catch, with a message that holds ``expect``."""

    exercise: int
    name: str
    mistake: str
    code: tuple[str, ...]
    expect: str


@dataclass(frozen=True, slots=True)
class CheckRun:
    """What a check said. kind: ``pass``, ``fail`` (the check's own AssertionError) or ``crash`` (anything else).

    message: the exception's text; error: its class name; printed: what the cells wrote to stdout and stderr.
    """

    kind: str
    message: str = ""
    error: str = ""
    printed: str = ""

    @property
    def passed(self) -> bool:
        return self.kind == "pass"


def wrong_solutions(lab: Path) -> list[WrongSolution]:
    """The seeded mistakes beside ``lab`` (a lab.ipynb). Raises DataError when the file is missing or malformed."""
    import yaml

    path = Path(lab).with_name("wrong_solutions.yaml")
    if not path.is_file():
        raise DataError("The lab has no seeded wrong solutions.", where=str(path),
                        fix="Write at least one for each exercise.")
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise DataError("The file must be a list.", where=str(path))
    out: list[WrongSolution] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or set(row) != _KEYS:
            raise DataError(f"Item {number} must have exactly: {', '.join(sorted(_KEYS))}.", where=str(path))
        code = row["code"] if isinstance(row["code"], list) else [row["code"]]
        out.append(WrongSolution(int(row["exercise"]), row["name"], row["mistake"], tuple(code), row["expect"]))
    if len({w.name for w in out}) != len(out):
        raise DataError("Two wrong solutions share a name.", where=str(path))
    return out


class LabSession:
    """A lab's source, run cell by cell in a namespace of its own, with a copy kept before each exercise.

    So the cells before exercise N run once, however many solutions of N are tried. Copies are shallow: an exercise
    that changes an object of an earlier cell in place would be seen by the next trial; tell such objects apart by
    making them inside the exercise. Use as a context manager: relative paths land in a folder that goes away.
    """

    def __init__(self, lab: Path, parameters: Mapping[str, Any] | None = None) -> None:
        self.lab = Path(lab)
        self.nb: NotebookNode = nbs.read(lab)
        self.exercises = {e.number: e for e in nbs.exercises(self.nb)}
        self.parameters = dict(parameters or {})
        check_parameters(self.nb, self.parameters, str(lab))
        self._module = types.ModuleType("__main__")
        self._next = 0
        self._before: dict[int, dict[str, Any]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> LabSession:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="course-lab-"))
        self._stack.enter_context(contextlib.chdir(folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, number: int, code: tuple[str, ...] | None = None, *, stub: bool = False) -> CheckRun:
        """Run exercise ``number`` and its check with ``code`` for the solution, the stub, or the solution itself.

        Cells between the two run too; a crash in a ``try-N`` cell does not keep the check from speaking.
        Raises UsageError when there is no such exercise or check.
        """
        exercise = self.exercises.get(number)
        if exercise is None or exercise.check is None:
            raise UsageError(f"The lab has no exercise {number} with a check.", where=str(self.lab))
        namespace = dict(self._namespace_before(number))
        source = self.nb.cells[exercise.cell].source
        if stub:
            source = nbs.stub(exercise, source)
        elif code is not None:
            source = nbs.replace_solution(source, list(code))
        cells = [(exercise.cell, source)] + [(i, self.nb.cells[i].source)
                                             for i in range(exercise.cell + 1, exercise.check + 1)]
        return self._try(cells, namespace)

    def _namespace_before(self, number: int) -> dict[str, Any]:
        target = self.exercises[number].cell
        if number not in self._before:
            if not self._module.__dict__.get("display"):
                self._module.__dict__["display"] = lambda *_, **__: None
            for index in range(self._next, target):
                for n, e in self.exercises.items():
                    if e.cell == index:
                        self._before[n] = dict(self._module.__dict__)
                self._run_reference(index)
            self._next = max(self._next, target)
            self._before[number] = dict(self._module.__dict__)
        return self._before[number]

    def _run_reference(self, index: int) -> None:
        cell = self.nb.cells[index]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._exec(index, cell.source, self._module.__dict__)
        except Exception as error:
            raise DataError(f"The lab's own cell failed with {type(error).__name__}: {error}",
                            where=f"{self.lab} cell {index}", fix="Repair the lab's source.") from error
        if "parameters" in nbs.tags(cell):
            self._module.__dict__.update(self.parameters)

    def _try(self, cells: list[tuple[int, str]], namespace: dict[str, Any]) -> CheckRun:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                for index, source in cells:
                    looking = any(t.startswith("try-") for t in nbs.tags(self.nb.cells[index]))
                    with contextlib.suppress(*([Exception] if looking else [])):
                        self._exec(index, source, namespace)
        except AssertionError as error:
            return CheckRun("fail", str(error), "AssertionError", printed.getvalue())
        except (Exception, SystemExit) as error:
            return CheckRun("crash", str(error), type(error).__name__, printed.getvalue())
        return CheckRun("pass", printed=printed.getvalue())

    def _exec(self, index: int, source: str, namespace: dict[str, Any]) -> None:
        if self.nb.cells[index].cell_type != "code":
            return
        name = f"<{self.lab.parent.name} cell {index}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), namespace)


def check_exercise(lab: Path, number: int, code: str | None = None,
                   parameters: Mapping[str, Any] | None = None) -> CheckRun:
    """One trial in a session of its own: ``code`` in place of the solution, or the solution when it is None."""
    with LabSession(lab, parameters) as session:
        return session.check(number, None if code is None else (code,))


def verify(lab: Path, parameters: Mapping[str, Any] | None = None) -> list[str]:
    """Everything wrong with the grading of a lab's exercises, as sentences; empty means that it is proved.

    Solutions must pass; stubs must end in NotImplementedError; each seeded mistake must fail its check, by an
    AssertionError whose message holds what the file expects; each exercise needs at least one seeded mistake.
    """
    seeded = wrong_solutions(lab)
    problems: list[str] = []
    with LabSession(lab, parameters) as session:
        for number in session.exercises:
            run = session.check(number)
            if not run.passed:
                problems.append(f"Exercise {number}: the solution does not pass: {run.error}: {run.message}")
            run = session.check(number, stub=True)
            if run.error != "NotImplementedError":
                problems.append(f"Exercise {number}: the stub does not fail as a stub: {run.kind} {run.error}")
            mine = [w for w in seeded if w.exercise == number]
            problems += [p for p in (_caught(session, wrong) for wrong in mine) if p]
            if not mine:
                problems.append(f"Exercise {number} has no seeded wrong solution.")
    unknown = sorted({w.exercise for w in seeded} - set(session.exercises))
    return problems + [f"Wrong solutions name exercise {n}, which the lab does not have." for n in unknown]


def _caught(session: LabSession, wrong: WrongSolution) -> str:
    run = session.check(wrong.exercise, wrong.code)
    label = f"Exercise {wrong.exercise}, {wrong.name}"
    if run.passed:
        return f"{label}: the check does not catch it."
    if run.kind == "crash":
        return f"{label}: the check crashed instead of explaining: {run.error}: {run.message}"
    if _plain(wrong.expect) not in _plain(run.message):
        return f"{label}: the message does not name the mistake: {run.message!r} lacks {wrong.expect!r}"
    return ""


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().lower()
