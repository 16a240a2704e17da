"""Strict reading of the course's own data files: text, YAML, JSON rows; every mistake names file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from course_lib.errors import DataError


class Record(BaseModel):
    """Frozen, strict about types, and closed: a field that nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


R = TypeVar("R", bound=Record)


class Table(NamedTuple):
    """A YAML mapping and the line, from 1, on which each of its keys stands."""

    values: dict[str, Any]
    lines: dict[str, int]


def fail(what: str, where: str, fix: str = "Correct the file.") -> DataError:
    return DataError(what, where=where, fix=fix)


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise fail(f"The file cannot be read: {error.strerror}.", str(path), "Restore it from the course.") from error
    except UnicodeDecodeError as error:
        raise fail("The file is not UTF-8 text.", str(path), "Save it as UTF-8.") from error


def yaml_table(text: str, path: Path, first_line: int = 1) -> Table:
    """Parses a YAML mapping. Duplicate keys, at any depth, and anything but plain data are DataErrors with a line."""
    try:
        loader, node = _composed(text)
        if not isinstance(node, yaml.MappingNode):
            raise fail("A mapping of fields is expected here.", f"{path}:{first_line}", "Write `field: value` lines.")
        _refuse_duplicates(node, path, first_line)
        values = loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = first_line + (mark.line if mark else 0)
        raise fail(f"This is not valid YAML: {getattr(error, 'problem', error)}.", f"{path}:{line}") from error
    return Table(values, {str(key.value): first_line + key.start_mark.line for key, _ in node.value})


def _composed(text: str) -> tuple[Any, Any]:
    """A loader and the root that it found. libyaml is many times faster; PyYAML's own reader names the line of a
    mistake more exactly, so it has the last word."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        return loader, loader.get_single_node()
    except (yaml.YAMLError, ValueError):
        loader = yaml.SafeLoader(text)
        return loader, loader.get_single_node()


def _refuse_duplicates(node: yaml.Node, path: Path, first_line: int) -> None:
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_duplicates(child, path, first_line)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise fail(f"The field {key.value!r} stands twice.", f"{path}:{first_line + key.start_mark.line}",
                            "Keep one of them.")
            seen.add(str(key.value))
            _refuse_duplicates(value, path, first_line)


def build(model: type[R], values: Any, path: Path, lines: Mapping[str, int], line: int) -> R:
    """Validates values into a record; the DataError names the field and its line, or ``line`` where it is missing."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        at = lines.get(str(first["loc"][0]), line) if first["loc"] else line
        reason = first["msg"][0].lower() + first["msg"][1:]
        subject = f"Field {name!r}" if name else f"This {model.__name__.lower()}"
        raise fail(f"{subject}: {reason}.", f"{path}:{at}", "Correct the value, or add the missing field.") from error


def json_rows(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; empty lines are skipped. A line ends at a line feed and nowhere else."""
    lines = enumerate(read_text(path).split("\n"), 1)
    return [_json_object(line, path, number) for number, line in lines if line.strip()]


def _json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise fail(f"This is not JSON: {error}.", f"{path}:{number}", "Write one JSON object a line.") from error
    if not isinstance(row, dict):
        raise fail("A JSON object is expected.", f"{path}:{number}", "Write one JSON object a line.")
    return row


def json_row(line: str, path: Path, number: int) -> dict[str, Any]:
    """A JSON object with its lists as tuples, which the strict records expect."""
    row = _json_object(line, path, number)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
