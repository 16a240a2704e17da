"""What a lecture defines, taken out of the notebook for a test of its own."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from course_lib import notebooks as nbs


def sources(path: Path, *names: str) -> str:
    """Functions, classes and constants as the notebook has them, in the order of ``names``."""
    found: dict[str, str] = {}
    for _, cell in nbs.code_cells(nbs.read(path)):
        for node in ast.parse(cell.source).body:
            name = getattr(node, "name", "")
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
            if name in names:
                found[name] = ast.get_source_segment(cell.source, node) or ""
    assert set(found) == set(names), set(names) - set(found)
    return "\n\n".join(found[name] for name in names)


def functions(path: Path, *names: str, **given: Any) -> dict[str, Any]:
    """The same, executed in a namespace of their own that begins with ``given``."""
    scope = dict(given)
    exec(sources(path, *names), scope)
    return scope


def cells(path: Path, *starts: str) -> list[str]:
    """The code cells that begin with these texts, in that order."""
    found = [cell.source for _, cell in nbs.code_cells(nbs.read(path))]
    return [next(source for source in found if source.startswith(start)) for start in starts]
