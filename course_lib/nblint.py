"""The limits of style that every committed notebook keeps. Pure functions: a notebook in, problems out."""

from __future__ import annotations

import ast
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib import notebooks as nbs
from course_lib.errors import CourseError
from course_lib.execute import parameters_of

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_CODE_CELLS, MAX_MEDIAN_LINES, MAX_LINES = 45, 8, 40
MAX_LAB_CELLS, MAX_LAB_LINES, MAX_CHECK_LINES = 18, 15, 25
OPENING = ("goal", "prerequisites", "device", "runtime")
_INSTALL = re.compile(r"^\s*(?:[!%].*|.*\b(?:os\.system|subprocess\.\w+)\(.*)\b(?:pip3?|conda|apt(?:-get)?|npm)\b",
                      re.MULTILINE)
_MAGIC = re.compile(r"^\s*(?:!|%)", re.MULTILINE)
_PLOT = re.compile(r"\b(?:plt|ax\w*|axes(?:\[[^\]]*\])?)"
                   r"\.(?:plot|bar|barh|scatter|imshow|hist|pie|step|errorbar|boxplot)\(")
_TITLE = re.compile(r"\b(?:set_title|suptitle|plt\.title)\(|\.set\([^)]*title=", re.DOTALL)
_HOME = re.compile(r"(?:/home/|/root/|/Users/|[A-Z]:\\\\Users\\\\)[\w.-]+")
_NUMBER = re.compile(r"(?<![\w@./§-])\d+(?:[.,]\d+)*(?:\s?%)?(?![\w/])")
_UNIT = re.compile(r"_(?:s|ms|mb|gb|mib|gib|usd|eur|tokens|words|chars|rows|cases|count|pct|days|seed)$|^(?:seed|k|n)$")


@dataclass(frozen=True, slots=True)
class Problem:
    """One breach of style: which rule, where, and what to do about it."""

    rule: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}: {self.message}".removeprefix(": ")


def lint(nb: NotebookNode, path: Path | str = "") -> list[Problem]:
    """Every breach of style. A file called ``lab.ipynb`` is held to the rules of labs, any other to those of lectures.

    Not promised: that the prose is good. ``loose_numbers`` points at what a person should look at.
    """
    path = Path(path)
    is_lab = path.name == "lab.ipynb"
    name = path.parent.name + "/lab.ipynb" if is_lab else path.name
    found = [*_common(nb), *(_lab(nb) if is_lab else _lecture(nb))]
    return [Problem(p.rule, f"{name} {p.where}".strip(), p.message) for p in found]


def _common(nb: NotebookNode) -> list[Problem]:
    out = [*_opening_and_close(nb), *_rhythm(nb)]
    if nbs.normalise(nb) != nb:
        out.append(Problem("normalised", "", "Ids, metadata or outputs are not in their steady form: use normalise()."))
    for index, cell in nbs.code_cells(nb):
        where = f"cell {index}"
        if _INSTALL.search(cell.source):
            out.append(Problem("no-install", where, "A lesson installs nothing; add it to pyproject.toml."))
        elif _MAGIC.search(cell.source):
            out.append(Problem("no-magic", where, "Magics and shell lines do not run everywhere; write plain Python."))
        else:
            try:
                ast.parse(cell.source)
            except SyntaxError as error:
                out.append(Problem("syntax", f"{where}, line {error.lineno}", f"Not valid Python: {error.msg}."))
        if _PLOT.search(cell.source) and not _TITLE.search(cell.source):
            out.append(Problem("plot-title", where, "A plot needs a title that states the finding."))
        if _HOME.search("".join(str(o.get("text", "")) + str(o.get("data", "")) for o in cell.get("outputs", []))):
            out.append(Problem("machine-path", where, "The output names a folder of one machine."))
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in nbs.tags(cell):
                out.append(Problem("error-output", where, "The cell failed; if it should, tag: raises-exception"))
    return out


def _opening_and_close(nb: NotebookNode) -> list[Problem]:
    out = []
    first = nb.cells[0] if nb.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        out.append(Problem("opening", "cell 0", "The first cell must be prose that starts with '# title'."))
    opening = "\n".join(c.source for c in nb.cells[:3] if c.cell_type == "markdown").lower()
    missing = [word for word in OPENING if word not in opening]
    if missing:
        out.append(Problem("opening", "cells 0-2", f"The opening does not say: {', '.join(missing)}."))
    if not any("takeaways" in c.source.lower() for c in nb.cells[-3:] if c.cell_type == "markdown"):
        out.append(Problem("takeaways", "last cells", "The notebook must close with takeaways."))
    return out


def _rhythm(nb: NotebookNode) -> list[Problem]:
    out, run = [], 0
    for index, cell in enumerate(nb.cells):
        run = run + 1 if cell.cell_type == "code" else 0
        if run == 3:
            out.append(Problem("prose", f"cell {index}", "Three code cells in a row: say what came out."))
    return out


def _lecture(nb: NotebookNode) -> list[Problem]:
    out: list[Problem] = []
    lengths = {index: len(cell.source.splitlines()) for index, cell in nbs.code_cells(nb)}
    if len(lengths) > MAX_CODE_CELLS:
        out.append(Problem("size", "", f"{len(lengths)} code cells; at most {MAX_CODE_CELLS}."))
    median = statistics.median(lengths.values()) if lengths else 0
    if median > MAX_MEDIAN_LINES:
        out.append(Problem("size", "", f"The median cell has {median} lines; at most {MAX_MEDIAN_LINES}."))
    out += [Problem("size", f"cell {i}", f"{n} lines; at most {MAX_LINES}.")
            for i, n in lengths.items() if n > MAX_LINES]
    for expected, (index, cell) in enumerate(nbs.code_cells(nb), 1):
        if cell.execution_count is None:
            out.append(Problem("outputs", f"cell {index}", "Not executed: lecture outputs are committed."))
        elif cell.execution_count != expected:
            out.append(Problem("order", f"cell {index}", "Executed out of order: restart and run all."))
        if nbs.BEGIN in cell.source:
            out.append(Problem("solution", f"cell {index}", "A lecture has no solution markers."))
    return out


def _lab(nb: NotebookNode) -> list[Problem]:
    out: list[Problem] = []
    roles = {i: next((t for t in nbs.tags(c) if re.match(r"(exercise|try|check)-\d+$", t)), "")
             for i, c in nbs.code_cells(nb)}
    plain = [i for i, role in roles.items() if not role and "solution" not in nbs.tags(nb.cells[i])]
    if len(plain) > MAX_LAB_CELLS:
        out.append(Problem("size", "", f"{len(plain)} code cells outside exercises; at most {MAX_LAB_CELLS}."))
    for index, cell in nbs.code_cells(nb):
        lines, role = len(cell.source.splitlines()), roles[index].partition("-")[0]
        limit = {"exercise": MAX_LINES, "check": MAX_CHECK_LINES}.get(role, MAX_LAB_LINES)
        if lines > limit:
            out.append(Problem("size", f"cell {index}", f"{lines} lines; at most {limit}."))
        if cell.outputs or cell.execution_count is not None:
            out.append(Problem("outputs", f"cell {index}", "Lab outputs must be empty."))
        if role != "exercise" and _defines(cell.source):
            out.append(Problem("functions", f"cell {index}", "A lab defines functions only inside exercises."))
        if role == "check":
            out += [Problem("check-message", f"cell {index}, line {line}", "An assert of a check needs a message.")
                    for line in _mute_asserts(cell.source)]
    return out + _exercises(nb) + _parameters(nb)


def _exercises(nb: NotebookNode) -> list[Problem]:
    try:
        found = nbs.exercises(nb)
        nbs.learner_copy(nb)
    except CourseError as error:
        return [Problem("exercise", error.where, error.what)]
    out = [] if found else [Problem("exercise", "", "The lab has no exercise.")]
    return out + [Problem("exercise", f"cell {e.cell}", f"Exercise {e.number} has no check-{e.number} cell after it.")
                  for e in found if e.check is None or e.check < e.cell]


def _parameters(nb: NotebookNode) -> list[Problem]:
    cells = nbs.tagged(nb, "parameters")
    if len(cells) != 1:
        return [Problem("parameters", "", f"{len(cells)} parameters cells; a lab has exactly one.")]
    try:
        values = parameters_of(nb)
    except CourseError as error:
        return [Problem("parameters", error.where, error.what)]
    lines = nb.cells[cells[0]].source.splitlines()
    return [Problem("parameters", f"cell {cells[0]}", f"{name} needs its unit in the name or a comment on its line.")
            for name, value in values.items()
            if type(value) in (int, float) and not _UNIT.search(name)
            and not any(re.match(rf"\s*{name}\b.*#", line) for line in lines)]


def _defines(source: str) -> bool:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    return any(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for n in ast.walk(tree))


def _mute_asserts(source: str) -> list[int]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert) and n.msg is None]


def loose_numbers(nb: NotebookNode) -> list[Problem]:
    """Numbers in prose that look measured but stand in no code or text output above and in no dated paragraph.

    A heuristic for reviewers: constants and examples show up too.
    """
    seen, out = "", []
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "code":
            seen += cell.source + "".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", ""))
                                          + str(o.get("data", {}).get("text/html", "")) for o in cell.outputs)
            continue
        for paragraph in cell.source.split("\n\n"):
            if re.search(r"\b20\d\d\b|\bArt\b|\bArticle\b", paragraph):
                continue
            for number in _NUMBER.findall(re.sub(r"`[^`]*`|^\s*\d+\.\s", "", paragraph, flags=re.MULTILINE)):
                measured = "." in number or "," in number or "%" in number
                if measured and number.rstrip(" %") not in seen:
                    out.append(Problem("number", f"cell {index}", f"{number}: computed above, or dated?"))
    return out
