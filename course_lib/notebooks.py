"""Notebooks as documents: read, write, strip to a learner's copy, make deterministic, render.

Conventions of a lab's one source, all as cell tags:

- ``parameters``: the one cell of literals that a run may change.
- ``exercise-N``: the code cell of exercise N. What the learner must write stands between the lines
  ``### BEGIN SOLUTION`` and ``### END SOLUTION``; the learner's copy raises ``NotImplementedError`` there instead.
- ``try-N``: an optional cell that lets the learner look at what exercise N returns.
- ``check-N``: the check of exercise N. It raises AssertionError with a message that names the mistake.
- ``solution``: a cell that is for the facilitator alone; the learner's copy drops it.

A lecture may use nbval's tags (``nbval-ignore-output``, ``raises-exception``) and ``hide-input``.
The heading before an exercise's cell (``### Exercise 1: split by structure``) gives the exercise its title.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.errors import ArtifactError, DataError
from course_lib.files import write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
NOTEBOOK_METADATA = {"kernelspec", "language_info"}
CELL_METADATA = {"tags", "editable", "deletable"}
_MARKER = re.compile(r"(BEGIN|END)[ _-]*SOLUTION", re.IGNORECASE)
_HEADING = re.compile(r"^#{1,6}\s*Exercise\s+(\d+)\s*[:.–-]?\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_WIDGET = "application/vnd.jupyter.widget-view+json"
_VOLATILE = ((re.compile(r"(?:/[^\s\"'<>:,()]*)?/ipykernel_\d+/\d+\.py"), "<cell>"),
             (re.compile(r" at 0x[0-9a-fA-F]{6,}"), " at 0x…"))


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise of a lab. cell and check are indices into ``nb.cells``; check is None when there is none.

    spans: (first, last) line numbers, from 0, of each solution region in the cell's source, markers included.
    """

    number: int
    title: str
    cell: int
    check: int | None
    spans: tuple[tuple[int, int], ...]


def read(path: Path | str) -> NotebookNode:
    """The notebook at ``path`` in format 4. Raises ArtifactError when it is missing or no notebook."""
    import nbformat

    try:
        nb = nbformat.read(str(path), as_version=4)
        nbformat.validate(nb)
    except FileNotFoundError:
        raise ArtifactError("The notebook does not exist.", where=str(path)) from None
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"This is not a readable notebook: {reason}", where=str(path),
                            fix="Open it in JupyterLab and save it again.") from error
    return nb


def write(nb: NotebookNode, path: Path | str) -> None:
    """Write ``nb`` to ``path`` in one step: a reader sees the old file or the new one, never half of one."""
    import nbformat

    write_text(Path(path), nbformat.writes(nb) + "\n", mode=None)


def set_aside(path: Path) -> Path:
    """Rename ``NAME.ipynb`` to the first free ``NAME.backup-N.ipynb`` beside it; returns the new path."""
    numbered = (path.with_name(f"{path.stem}.backup-{n}{path.suffix}") for n in itertools.count(1))
    return path.rename(next(kept for kept in numbered if not kept.exists()))


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.get("metadata", {}).get("tags", []))


def tagged(nb: NotebookNode, tag: str) -> list[int]:
    """Indices of the cells that carry ``tag``."""
    return [i for i, cell in enumerate(nb.cells) if tag in tags(cell)]


def solution_spans(source: str, where: str = "") -> tuple[tuple[int, int], ...]:
    """(first, last) line numbers from 0 of each marked region, markers included.

    Raises DataError when a marker stands alone, is nested, shares its line with code, or is misspelt.
    """
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for number, line in enumerate(source.splitlines()):
        if not _MARKER.search(line):
            continue
        place = f"{where}, line {number + 1}".lstrip(", ")
        if line.strip() == BEGIN and start is None:
            start = number
        elif line.strip() == END and start is not None:
            spans.append((start, number))
            start = None
        else:
            raise DataError(f"A solution marker is out of place: {line.strip()!r}.", where=place,
                            fix=f"Put {BEGIN} and {END} in pairs, each alone on its line.")
    if start is not None:
        raise DataError(f"{BEGIN} has no {END}.", where=f"{where}, line {start + 1}".lstrip(", "))
    return tuple(spans)


def exercises(nb: NotebookNode) -> list[Exercise]:
    """The exercises of a lab's source or of a learner's copy (whose ``spans`` are empty), by number from 1.

    Raises DataError when numbers have gaps or repeat, or a marked solution stands outside an exercise's cell.
    """
    found: list[Exercise] = []
    titles: dict[int, str] = {}
    checks = {int(t[6:]): i for i, cell in enumerate(nb.cells) for t in tags(cell) if re.fullmatch(r"check-\d+", t)}
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            titles.update({int(n): t for n, t in _HEADING.findall(cell.source)})
        spans = solution_spans(cell.source, f"cell {index}")
        numbers = [int(t[9:]) for t in tags(cell) if re.fullmatch(r"exercise-\d+", t)]
        if len(numbers) == 1:
            title = titles.get(numbers[0]) or "write the missing part"
            found.append(Exercise(numbers[0], title, index, checks.get(numbers[0]), spans))
        elif (numbers or spans) and "solution" not in tags(cell):
            raise DataError("A cell with a marked solution needs one tag exercise-N.", where=f"cell {index}",
                            fix="Add the tag, or tag a facilitator's cell with: solution")
    if [e.number for e in found] != list(range(1, len(found) + 1)):
        raise DataError(f"Exercises are numbered {[e.number for e in found]}.", fix="Number them 1, 2, 3 in order.")
    return found


def replace_solution(source: str, replacements: list[str]) -> str:
    """``source`` with each marked region, markers included, replaced by a text indented like its marker."""
    lines = source.splitlines()
    for (first, last), text in reversed(list(zip(solution_spans(source), replacements, strict=True))):
        indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
        lines[first:last + 1] = [indent + line if line.strip() else "" for line in text.strip("\n").splitlines()]
    return "\n".join(lines)


def stub(exercise: Exercise, source: str) -> str:
    """The exercise's cell as the learner gets it: every solution is one line that raises NotImplementedError."""
    message = f"Exercise {exercise.number}: {exercise.title}"
    return replace_solution(source, [f'raise NotImplementedError({message!r})'] * len(exercise.spans))


def learner_copy(nb: NotebookNode) -> NotebookNode:
    """A new notebook without solutions, outputs or facilitator's cells; exercises raise NotImplementedError.

    Raises DataError when a marker is unbalanced or missing, a marker would survive, or the copy is not valid Python.
    """
    import copy

    result = copy.deepcopy(nb)
    for exercise in exercises(nb):
        if not exercise.spans:
            raise DataError(f"Exercise {exercise.number} has no marked solution.", where=f"cell {exercise.cell}",
                            fix=f"Put {BEGIN} and {END} around what the learner must write.")
        result.cells[exercise.cell].source = stub(exercise, nb.cells[exercise.cell].source)
    result.cells = [cell for cell in result.cells if "solution" not in tags(cell)]
    for cell in result.cells:
        if any(re.fullmatch(r"check-\d+", tag) for tag in tags(cell)):
            cell.metadata["editable"] = cell.metadata["deletable"] = False
    result = normalise(result, keep_outputs=False)
    for index, cell in enumerate(result.cells):
        if _MARKER.search(cell.source):
            raise DataError("A solution marker survived.", where=f"cell {index}", fix="Use the exact marker lines.")
        if cell.cell_type == "code":
            try:
                ast.parse(cell.source)
            except SyntaxError as error:
                raise DataError(f"The learner's copy would not parse: {error.msg}.",
                                where=f"cell {index}, line {error.lineno}") from None
    return result


def normalise(nb: NotebookNode, *, keep_outputs: bool = True) -> NotebookNode:
    """A new notebook that depends on content alone: what is committed, and what two equal runs both write.

    Cell ids come from the source; metadata is cut to the allow-list; execution counts go 1, 2, 3; random widget ids,
    memory addresses and paths of temporary files leave the outputs. With ``keep_outputs=False`` outputs go as well.
    """
    import copy

    result = copy.deepcopy(nb)
    result.nbformat, result.nbformat_minor = 4, 5
    result.metadata = _allowed(result.metadata, NOTEBOOK_METADATA)
    result.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    result.metadata["language_info"] = {"name": "python"}
    seen: Counter[str] = Counter()
    count = 0
    for cell in result.cells:
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        cell["id"] = f"{key}-{seen[key]}" if seen[key] else key
        seen[key] += 1
        cell.metadata = _allowed(cell.metadata, CELL_METADATA)
        cell.pop("attachments", None)
        if cell.cell_type != "code":
            continue
        ran = keep_outputs and cell.get("execution_count") is not None
        count += ran
        cell.execution_count = count if ran else None
        cell.outputs = [_steady(out, count) for out in cell.outputs] if keep_outputs else []
    return result


def source_text(nb: NotebookNode) -> str:
    """All sources joined, for searching."""
    return "\n\n".join(cell.source for cell in nb.cells)


def code_cells(nb: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """(index, cell) of every code cell that is not empty."""
    return ((i, c) for i, c in enumerate(nb.cells) if c.cell_type == "code" and c.source.strip())


def _allowed(metadata: Any, names: set[str]) -> Any:
    from nbformat import from_dict

    return from_dict({k: v for k, v in sorted(metadata.items()) if k in names and v not in (None, [], {})})


def _steady(output: NotebookNode, count: int) -> NotebookNode:
    from nbformat import from_dict

    if "data" in output:
        output.data = from_dict({k: v for k, v in sorted(output.data.items()) if k != _WIDGET or len(output.data) == 1})
        output.metadata = from_dict({})
    if output.output_type == "execute_result":
        output.execution_count = count
    for field in ("text", "evalue"):
        if field in output:
            output[field] = _scrub(output[field])
    if "traceback" in output:
        output.traceback = [_scrub(line) for line in output.traceback]
    if isinstance(output.get("data", {}).get("text/plain"), str):
        output.data["text/plain"] = _scrub(output.data["text/plain"])
    return output


def _scrub(text: str) -> str:
    for pattern, replacement in _VOLATILE:
        text = pattern.sub(replacement, text)
    return text
