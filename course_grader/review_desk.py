"""What a reviewer works through: the points that people give, the evidence for each, drafts, and saving. No widgets.

The desk reads a graded cohort and, where it is told where they lie, the submissions. A review is written as the CSV
round trip writes it. What is typed and not yet saved is a draft, kept in ``review-drafts.json`` beside the journal.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from course_grader.cohort import JOURNAL, write_book
from course_grader.exports import cell, plain
from course_grader.gradebook import Book, Line, Row, build
from course_grader.intake import Entry, collect, read_entry
from course_grader.journal import Journal, read_journal
from course_grader.reviews import add_review
from course_lib.errors import ArtifactError, CourseError, DataError, UsageError
from course_lib.files import write_text
from course_lib.report import visible
from course_lib.submission import Submission

DRAFTS = "review-drafts.json"
SHOWN = 200_000  # characters of one file
BY_LEARNER, BY_CRITERION = "learner", "criterion"
_KINDS = (".md", ".txt", ".json", ".jsonl", ".csv", ".yaml", ".yml", ".ipynb", ".py")
Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """One criterion of one submission that people score."""

    module: str
    row: Row
    line: Line
    guidance: str
    order: int

    @property
    def key(self) -> Key:
        """What a review is for: lab, learner, criterion, and the submission as the CSV names it."""
        return self.module, self.row.learner, self.line.criterion, self.row.digest[:16]

    @property
    def open(self) -> bool:
        return self.line.reviewer is None


@dataclass(frozen=True, slots=True)
class Draft:
    """What stands in the form, as typed."""

    points: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The files of a submission in the order in which a reviewer wants them; problem: why there are none."""

    names: tuple[str, ...]
    submission: Submission | None
    problem: str = ""

    def text(self, name: str) -> str:
        """A file to read. It is a stranger's text: whoever shows it must escape it."""
        if self.submission is None:
            return self.problem
        try:
            return readable(self.submission, name)
        except ArtifactError as error:
            return f"{error.what} It has {len(self.submission.files.get(name, b''))} bytes."


class Desk:
    """Raises DataError when there is no gradebook. submissions: as ``course grade`` takes them."""

    def __init__(self, gradebook: Path | str, submissions: Iterable[Path | str] = ()) -> None:
        self.folder = Path(gradebook)
        self.submissions = tuple(map(Path, submissions))
        self._entries: dict[str, dict[str, list[Entry]]] = {}
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        self.book = Book((), ())
        self.reload()
        self.drafts = _read_drafts(self.folder / DRAFTS)

    def reload(self) -> None:
        """The gradebook as the journal has it now."""
        self.book = build(read_journal(self.folder / JOURNAL))

    def items(self, by: str = BY_LEARNER) -> list[Item]:
        """Everything that people score in the attempts that count; open ones first, then learner by learner or
        criterion by criterion."""
        found = [Item(lab.module, row, line, lab.rubric.criteria[i].guidance, i) for lab in self.book.labs
                 for row in lab.counted for i, line in enumerate(row.ledger)
                 if line.scored_by == "reviewer"]  # fmt: skip

        def place(item: Item) -> tuple[Any, ...]:
            learner = (item.row.name.casefold(), item.row.learner)
            inner = (item.order, *learner) if by == BY_CRITERION else (*learner, item.order)
            return (not item.open, item.module, *inner)

        return sorted(found, key=place)

    def find(self, key: Key) -> Item | None:
        """The item as the book has it now; None when that submission no longer counts."""
        return next((item for item in self.items() if item.key == key), None)

    def form(self, item: Item) -> Draft:
        """What the form starts with: the draft, else the review that was given, else nothing."""
        return self.drafts.get(item.key) or given(item)

    def keep(self, item: Item, draft: Draft | None) -> None:
        """Writes down what is typed, or forgets it. Raises OSError when the disk refuses; the draft is then still
        here, in memory."""
        self.drafts.pop(item.key, None)
        if draft is not None and draft != given(item):
            self.drafts[item.key] = draft
        path = self.folder / DRAFTS
        others = {k: d for k, d in _read_drafts(path).items() if k != item.key}  # of a second panel
        _write_drafts(path, others | ({item.key: self.drafts[item.key]} if item.key in self.drafts else {}))

    def stray_drafts(self) -> list[Key]:
        """Drafts for submissions that are no longer in the gradebook."""
        known = {item.key for item in self.items()}
        return [key for key in self.drafts if key not in known]

    def save(self, item: Item, draft: Draft, reviewer: str) -> None:
        """One review into the journal, on the disk before this returns; its draft is forgotten.

        Raises DataError when it does not fit, UsageError when someone else reviewed the same meanwhile, or while a
        grading run writes the gradebook. Then nothing is written, and the draft stays.
        """
        module, learner, criterion, digest = item.key
        typed = {"points": draft.points, "reason": draft.reason, "reviewer": reviewer}
        cells = {"learner": plain(cell(learner)), "module": module, "criterion": criterion, "submission": digest,
                 **{name: text.strip() for name, text in typed.items()}}  # fmt: skip
        with Journal(self.folder / JOURNAL) as journal:
            self.book = build(journal.records)
            now = self.find(item.key)
            if now is not None and not now.open and given_by(now) != given_by(item):
                raise UsageError(f"{now.line.who} gave {now.line.reviewer:g} points meanwhile: {now.line.reason}",
                                 where=criterion, fix="Save once more to put yours in its place, or discard it.")
            add_review(cells, self.book, journal)
            self.book = build(journal.records)
        with contextlib.suppress(OSError, DataError):  # a draft that stays says what was saved: no harm
            self.keep(item, None)

    def publish(self) -> None:
        """Pages and tables of the gradebook, so that they say what the journal says."""
        with Journal(self.folder / JOURNAL) as journal:
            write_book(build(journal.records), self.folder)

    def evidence(self, item: Item) -> Evidence:
        """The submission that was graded, found by its content: never another one of the same learner."""
        if not self.submissions:
            return Evidence((), None,
                            "This panel was not told where the submissions lie: review(GRADEBOOK, [SUBMISSIONS]).")
        entries = self._entries_of(item.module).get(item.row.learner, [])
        for entry in sorted(entries, key=lambda e: e.attempt != item.row.attempt):
            try:
                submission = read_entry(entry)
            except (CourseError, OSError):
                continue
            if submission.digest() == item.row.digest:
                return Evidence(_ordered(submission.files, item), submission)
        where = ", ".join(map(str, self.submissions))
        return Evidence((), None, f"What was graded is not in {where}: it was moved, changed or handed in again.")

    def _entries_of(self, module: str) -> Mapping[str, Sequence[Entry]]:
        if module not in self._entries:
            self._unpacked = self._unpacked or tempfile.TemporaryDirectory(prefix="review-")
            by_learner: dict[str, list[Entry]] = {}
            for entry in collect(self.submissions, module, Path(self._unpacked.name, module)):
                by_learner.setdefault(entry.learner, []).append(entry)
            self._entries[module] = by_learner
        return self._entries[module]


def given(item: Item) -> Draft:
    """The review in the ledger, as the form shows it."""
    return Draft() if item.open else Draft(f"{item.line.reviewer:g}", item.line.reason)


def given_by(item: Item) -> tuple[Any, ...]:
    """Which review an item has."""
    line = item.line
    return () if item.open else (line.reviewer, line.reason, line.who, line.when)


def _ordered(names: Iterable[str], item: Item) -> tuple[str, ...]:
    """Files that the guidance names first, then those that share a word with the criterion's id, then the README, then
    by how well they read."""
    words = set(item.line.criterion.casefold().split("_"))

    def place(name: str) -> tuple[Any, ...]:
        path = PurePosixPath(name)
        named = re.search(rf"\b{re.escape(path.name)}\b|\b{re.escape(path.stem)}\b(?!\.)", item.guidance)
        akin = words & set(re.split(r"[\W_]+", path.stem.casefold()))
        rank = _KINDS.index(path.suffix.lower()) if path.suffix.lower() in _KINDS else len(_KINDS)
        return (named.start() if named else len(item.guidance), not akin, path.stem.casefold() != "readme", rank, name)

    return tuple(sorted(names, key=place))


def readable(submission: Submission, name: str) -> str:
    """A file as text, hidden characters written out; JSON indented, a notebook as its cells and their text outputs.

    Raises ArtifactError for what is no text or too large."""
    suffix = PurePosixPath(name).suffix.lower()
    try:
        value = submission.value(name) if suffix in (".json", ".ipynb") else None
    except ArtifactError:
        value = None
    if suffix == ".ipynb" and isinstance(value, dict) and isinstance(value.get("cells"), list):
        text = "\n\n".join(_cell(part, number) for number, part in enumerate(value["cells"], 1))
    elif value is not None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    else:
        text = submission.text(name)
    cut = f"\n\n[{len(text) - SHOWN} more characters are not shown]" if len(text) > SHOWN else ""
    return str(visible(text[:SHOWN].replace("\r\n", "\n").expandtabs(4))) + cut


def _cell(part: Any, number: int) -> str:
    if not isinstance(part, dict):
        return f"── cell {number}: unreadable ──"
    lines = [f"── cell {number}: {_joined(part.get('cell_type'))} ──", _joined(part.get("source"))]
    outputs = part.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict):
            data = output.get("data")
            kept = _joined(data.get("text/plain") if isinstance(data, dict) else output.get("text"))
            lines += ["── output ──", kept] if kept else []
    return "\n".join(lines)


def _joined(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _read_drafts(path: Path) -> dict[Key, Draft]:
    """Raises DataError for a file that cannot be read: it may hold somebody's work, so it is never replaced."""
    try:
        rows = json.loads(path.read_text("utf-8"))["drafts"]
        return {(r["module"], r["learner"], r["criterion"], r["submission"]): Draft(str(r["points"]), str(r["reason"]))
                for r in rows}  # fmt: skip
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("The unsaved drafts cannot be read.", where=str(path),
                        fix="Look into the file and move it away.") from error


def _write_drafts(path: Path, drafts: Mapping[Key, Draft]) -> None:
    if not drafts:
        path.unlink(missing_ok=True)
        return
    names = ("module", "learner", "criterion", "submission")
    rows = [dict(zip(names, key, strict=True)) | asdict(draft) for key, draft in sorted(drafts.items())]
    write_text(path, json.dumps({"version": 1, "drafts": rows}, indent=1, ensure_ascii=False) + "\n")
