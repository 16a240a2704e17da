"""Small ways to change a submission in a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Changes a JSON document in place; ``change`` mutates it or returns another."""
    path = folder / name
    value = json.loads(path.read_text("utf-8"))
    value = change(value) or value
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def edit_row(folder: Path, name: str, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes one line of a JSONL file, counted from 0."""
    path = folder / name
    lines = path.read_text("utf-8").splitlines()
    row = json.loads(lines[number])
    lines[number] = json.dumps(change(row) or row, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def replace_text(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text("utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new), "utf-8")
