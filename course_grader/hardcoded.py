"""Results that a notebook does not compute: constants written where results belong, and runs that ignore their seed.

What another seed must change, and what it must not, is declared in the rubric of the lab (``Rerun``); nothing here
knows a lab. Reading the code finds the plain case in the static tier; running it again finds the others.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from course_lib.errors import ArtifactError
from course_lib.rubric import Rerun
from course_lib.strictjson import BadJson
from course_lib.submission import Submission
from course_lib.types import Finding, Outcome

WRITERS = frozenset("write write_text write_bytes writelines dump print".split())
PURE = frozenset("dumps str repr list dict tuple sorted set len join format encode strip items keys values zip "
                 "enumerate range".split())  # fmt: skip
LEAST = 3  # literals; a result of fewer is no evidence of anything
LONG = 40  # characters of one text that count as much
DEPTH = 60
MAX_CODE = 400_000
FIX = "Compute every result in the notebook, restart the kernel and run all."
FLAG = "hard-coded results"


def constants(submission: Submission, plan: Rerun) -> list[Finding]:
    """A finding for a notebook that writes literals into files that another seed must change; none otherwise.

    A flag, which counts for nothing by itself: the run with another seed decides. It never raises.
    """
    try:
        written = list(constant_writes(_cells(submission), plan.varies))
    except (ArtifactError, RecursionError, MemoryError):
        return []
    if not written:
        return []
    what = ", ".join(sorted({name for _, name in written}))
    cells = ", ".join(str(number) for number in sorted({number for number, _ in written}))
    return [Finding("rerun.constants", Outcome.FAIL, f"What is written to {what} is made of constants, not computed.",
                    "results of the run", f"literals in cell {cells}", "lab.ipynb", FIX, {"flag": FLAG})]  # fmt: skip


def follows_seed(claimed: Submission, again: Submission, plan: Rerun, seed: int) -> Finding:
    """Whether another seed gave other results: contents are compared, whatever their order and layout."""
    same = [name for name in plan.varies if _content(claimed, name) == _content(again, name)]
    for name, key in plan.seed_in.items():
        found = _value(again, name)
        same += [name] if not isinstance(found, dict) or found.get(key) != seed else []
    if same:
        return Finding("rerun.follows_seed", Outcome.FAIL, f"With seed {seed} the run does not write results of that "
                       f"seed: {', '.join(same)}. They are not computed.", where="lab.ipynb", fix=FIX,
                       evidence={"flag": FLAG})  # fmt: skip
    return Finding("rerun.follows_seed", Outcome.PASS, f"The results of seed {seed} are other results.",
                   where="lab.ipynb")  # fmt: skip


def stays_equal(claimed: Submission, again: Submission, plan: Rerun) -> Finding | None:
    """Whether what no seed changes is what was handed in. None where the rubric declares nothing."""
    wrong = [name for name, fields in plan.equal.items()
             if name in claimed.files and _fields(claimed, name, fields) != _fields(again, name, fields)]  # fmt: skip
    if not plan.equal:
        return None
    if wrong:
        return Finding("rerun.stays_equal", Outcome.FAIL, f"The run writes something else than what was handed in: "
                       f"{', '.join(wrong)}, which no seed changes.", where=wrong[0], fix=FIX,
                       evidence={"flag": "forged results"})  # fmt: skip
    return Finding("rerun.stays_equal", Outcome.PASS, "What no seed changes is what was handed in.", where="lab.ipynb")


def _value(submission: Submission, name: str) -> Any:
    try:
        return submission.value(name)
    except ArtifactError:
        return None


def _rows(submission: Submission, name: str) -> list[Any] | None:
    """The objects of a JSON or JSONL file; None where it is neither."""
    if name.endswith(".jsonl") and submission.has(name):
        try:
            return [submission.parsed(line) for line in submission.raw(name).removesuffix(b"\n").split(b"\n")]
        except BadJson:
            return None
    found = _value(submission, name) if name.endswith(".json") else None
    return None if found is None else found if isinstance(found, list) else [found]


def _content(submission: Submission, name: str) -> Any:
    """What a file says: rows in any order, prose in any layout."""
    rows = _rows(submission, name)
    if rows is not None:
        return sorted(json.dumps(row, sort_keys=True) for row in rows)
    return submission.raw(name).split() if submission.has(name) else None


def _fields(submission: Submission, name: str, fields: Collection[str]) -> Any:
    rows = _rows(submission, name)
    if not fields or rows is None:
        return _content(submission, name)
    return [{key: row.get(key) for key in fields} if isinstance(row, dict) else row for row in rows]


def _cells(submission: Submission) -> list[str]:
    """Sources of the code cells; a parameters cell is empty, because parameters are what may change."""
    value = submission.value("lab.ipynb")
    cells = value.get("cells") if isinstance(value, dict) else None
    found = []
    for cell in cells if isinstance(cells, list) else ():
        code = isinstance(cell, dict) and cell.get("cell_type") == "code"
        metadata = cell.get("metadata") if code else None
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        given = isinstance(tags, list) and {"parameters", "injected-parameters"} & {str(tag) for tag in tags}
        source = cell.get("source") if code and not given else ""
        found.append("".join(map(str, source)) if isinstance(source, list) else str(source or ""))
    return found if sum(map(len, found)) <= MAX_CODE else []


def constant_writes(cells: list[str], files: Collection[str]) -> Iterator[tuple[int, str]]:
    """(cell, file) of each write of one of ``files`` whose content is literals alone, wherever they were given a name.

    Careful in one direction: a name that something might have changed since counts as computed.
    """
    trees = {number: tree for number, source in enumerate(cells) if (tree := _tree(source))}
    names = _Names()
    for tree in trees.values():
        names.read(tree)
    for number, tree in trees.items():
        handles = dict(_handles(tree, files))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            target, payload = _write(call, files, handles)
            made = target and payload and all(names.constant(part) for part in payload)
            if made and sum(map(names.weight, payload)) >= LEAST:
                yield number, target


def _tree(source: str) -> ast.Module | None:
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    try:
        return ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _named(node: ast.AST, files: Collection[str]) -> str:
    texts = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return next((name for text in texts for name in files if text.rpartition("/")[2] == name), "")


def _handles(tree: ast.AST, files: Collection[str]) -> Iterator[tuple[str, str]]:
    """Name of a handle or path -> the file behind it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            yield node.optional_vars.id, _named(node.context_expr, files)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and len(node.targets) == 1:
            yield node.targets[0].id, _named(node.value, files) if isinstance(node.value, ast.Call | ast.BinOp) else ""


def _write(call: ast.Call, files: Collection[str], handles: Mapping[str, str]) -> tuple[str, list[ast.expr]]:
    """The file that a call writes, and what it writes there."""
    function = call.func
    if (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) not in WRITERS:
        return "", []

    def place(node: ast.expr) -> str:
        return handles.get(node.id, "") if isinstance(node, ast.Name) else _named(node, files)

    receiver = [function.value] if isinstance(function, ast.Attribute) else []
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg in ("file", "fp", "data", "obj"))]
    target = next((found for node in (*receiver, *given) if (found := place(node))), "")
    return target, [node for node in given if not place(node)]


@dataclass
class _Names:
    """What the names of a notebook may stand for. spoilt: names that more than plain assignment may have changed."""

    values: dict[str, list[ast.expr]] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)
    _known: dict[str, bool] = field(default_factory=dict)
    _weights: dict[str, int] = field(default_factory=dict)

    def read(self, tree: ast.AST) -> None:
        plain: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.For | ast.comprehension | ast.NamedExpr):
                value = node.value if isinstance(node, ast.Assign | ast.NamedExpr) else node.iter
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (n for target in targets for n in ast.walk(target)):
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                        plain.add(id(name))
                        self.values.setdefault(name.id, []).append(value)
            elif isinstance(node, ast.Call):
                self._called(node)
            elif isinstance(node, ast.arg):
                self.spoilt.add(node.arg)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in plain:
                self.spoilt.add(node.id)
            elif isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
                self.spoilt |= {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}

    def _called(self, call: ast.Call) -> None:
        """A method, or a function that gets a name, may change what stands behind it."""
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in PURE | WRITERS:
            return
        parts = [*call.args, *(k.value for k in call.keywords)]
        parts += [function.value] if isinstance(function, ast.Attribute) else []
        self.spoilt |= {part.id for part in parts if isinstance(part, ast.Name)}

    def constant(self, node: ast.AST, depth: int = 0) -> bool:
        """Whether nothing but literals goes into it."""
        if depth > DEPTH or isinstance(node, ast.Lambda | ast.Await | ast.Yield | ast.YieldFrom):
            return False
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            return self._name(node.id, depth)
        if isinstance(node, ast.Call):
            function = node.func
            method = isinstance(function, ast.Attribute)
            name = function.attr if method else getattr(function, "id", "")
            inner = [*node.args, *(k.value for k in node.keywords)]
            inner += [function.value] if method and not _module(function.value) else []
            return name in PURE and all(self.constant(part, depth + 1) for part in inner)
        if isinstance(node, ast.Attribute):
            return False
        return all(self.constant(child, depth + 1) for child in ast.iter_child_nodes(node))

    def _name(self, name: str, depth: int) -> bool:
        if name in self.spoilt or name not in self.values:
            return False
        if name not in self._known:
            self._known[name] = False  # until it is shown: a name that is made of itself is computed
            self._known[name] = all(self.constant(value, depth + 1) for value in self.values[name])
        return self._known[name]

    def weight(self, node: ast.AST) -> int:
        """How many literals stand behind it, up to ``LEAST``; a long text counts as so many."""
        found = 0
        for part in ast.walk(node):
            if isinstance(part, ast.Constant):
                found += LEAST if isinstance(part.value, str | bytes) and len(part.value) >= LONG else 1
            elif isinstance(part, ast.Name) and part.id in self.values:
                if part.id not in self._weights:
                    self._weights[part.id] = 0
                    self._weights[part.id] = sum(map(self.weight, self.values[part.id]))
                found += self._weights[part.id]
            if found >= LEAST:
                break
        return found


def _module(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "json"
