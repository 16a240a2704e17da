"""A folder that a stranger handed in: opened safely, read once, and never imported, executed or unpickled.

Everything is read into memory when the folder is opened, so that what is judged is exactly what was hashed. Links,
pipes, devices and oversized content are refused by name. The typed readers are strict: a mistake names file, line and
reason.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from course_lib.errors import ArtifactError
from course_lib.strictjson import BadJson, decode, parse_json

M = TypeVar("M", bound=BaseModel)

# Left behind by editors and tools: neither read nor judged, and never followed.
KEPT_BYTES = 4 << 20  # JSON of one submission whose values are kept
IGNORED = frozenset({".DS_Store", "Thumbs.db", ".ipynb_checkpoints", "__pycache__", ".git", ".gitignore"})
ODD_NAME = re.compile(r"[\x00-\x1f\x7f\\\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Missing(ArtifactError):
    """The file was not handed in."""


class Malformed(ArtifactError):
    """The bytes of the file are not what its name says: encoding, JSON, length of a line, number of rows."""


class Incomplete(ArtifactError):
    """The file is well-formed, and a field is missing, has the wrong type, or is out of range."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest accepted sizes: bytes per file, in total, per page of prose and per line of JSONL; rows per JSONL file;
    folders below the top."""

    files: int = 400
    depth: int = 6
    file_bytes: int = 8 << 20
    total_bytes: int = 24 << 20
    text_bytes: int = 512 << 10
    line_bytes: int = 256 << 10
    rows: int = 1000


@dataclass(frozen=True, slots=True)
class Row(Generic[M]):
    """One validated line of a JSONL file. where: ``file:line``."""

    value: M
    where: str


class Submission:
    """The files of one submission. Make one with ``Submission.open``.

    name: the name of the folder. files: relative path with forward slashes -> bytes, in sorted order.
    """

    def __init__(self, name: str, files: Mapping[str, bytes], limits: Limits | None = None) -> None:
        self.name, self.limits = name, limits or Limits()
        self.files = MappingProxyType(dict(sorted(files.items())))
        self._read: dict[tuple[str, type[BaseModel]], tuple[Row[Any], ...]] = {}
        self._parsed: dict[bytes, Any] = {}
        self._room = KEPT_BYTES

    @classmethod
    def open(cls, path: Path | str, limits: Limits | None = None) -> Submission:
        """Reads a folder. Raises ArtifactError for a link, pipe or device anywhere inside, and beyond the limits.

        The folder itself must not be a link either; the folders above it may be. No file is opened through a link,
        also when one is swapped in while the folder is read.
        """
        limits = limits or Limits()
        try:
            top = os.open(os.path.abspath(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactError(f"This is not a folder that can be opened: {error.strerror}.", where=str(path),
                                fix="Hand in the folder itself; links are refused.") from error
        try:
            files = dict(_read_folder(top, "", limits, _Meter(limits)))
        finally:
            os.close(top)
        return cls(os.path.basename(os.path.abspath(path)), files, limits)

    def has(self, name: str) -> bool:
        """Whether the file was handed in."""
        return name in self.files

    def raw(self, name: str) -> bytes:
        """The bytes of a file. Raises Missing."""
        if name not in self.files:
            raise Missing(f"{name} was not handed in.", where=name, fix="Run the lab to the end; it writes the file.")
        return self.files[name]

    def text(self, name: str) -> str:
        """A file as text. UTF-8 is required; Windows line endings and a byte order mark are accepted in prose."""
        raw = self.raw(name)
        if len(raw) > self.limits.text_bytes:
            raise _malformed(name, 1, f"the text has {len(raw)} bytes; {self.limits.text_bytes} are read")
        try:
            return raw.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise Malformed("This is not UTF-8 text.", where=f"{name}:{line}", fix="Save the file as UTF-8.") from error

    def parsed(self, raw: bytes) -> Any:
        """The value of one JSON document among its bytes, parsed once for all who ask: do not change it.
        Raises BadJson."""
        if raw in self._parsed:
            return self._parsed[raw]
        value = parse_json(decode(raw))
        if len(raw) <= self._room:
            self._room -= len(raw)
            self._parsed[raw] = value
        return value

    def value(self, name: str) -> Any:
        """One strict JSON document, not validated further: do not change it. Raises Missing or Malformed."""
        raw = self.raw(name)
        try:
            return self.parsed(raw)
        except BadJson as error:
            raise _malformed(name, error.line, error.reason) from error

    def json(self, name: str, model: type[M]) -> M:
        """One JSON document as ``model``. Raises Missing, Malformed, or Incomplete with the line of the field."""
        value = self.value(name)
        return _validate(model, value, name, lambda field: _field_line(self.files[name], field))

    def jsonl(self, name: str, model: type[M]) -> list[Row[M]]:
        """One JSON object a line, each as ``model``; empty lines are refused, a final line break is not needed.

        Raises Missing, Malformed or Incomplete for the first line that is wrong.
        """
        if (name, model) in self._read:  # several checkers ask for the same rows
            return list(self._read[name, model])
        lines = self.raw(name).removesuffix(b"\n").split(b"\n")
        if len(lines) > self.limits.rows:
            raise _malformed(name, self.limits.rows + 1, f"the file has {len(lines)} rows; {self.limits.rows} are read")
        rows = []
        for number, line in enumerate(lines, 1):
            if len(line) > self.limits.line_bytes:
                raise _malformed(name, number, f"the line has {len(line)} bytes; {self.limits.line_bytes} are read")
            try:
                value = self.parsed(line)
            except BadJson as error:
                raise _malformed(name, number, error.reason) from error
            rows.append(Row(_validate(model, value, name, lambda _, n=number: n), f"{name}:{number}"))
        self._read[name, model] = tuple(rows)
        return rows

    def digest(self) -> str:
        """SHA-256 over the sorted names and contents: equal for equal folders, whatever their place and dates."""
        total = hashlib.sha256()
        for name, content in self.files.items():
            total.update(f"{len(name.encode())}:{name}:{hashlib.sha256(content).hexdigest()}\n".encode())
        return total.hexdigest()


class _Meter:
    """Counts what has been read against the limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.files, self.bytes = limits, 0, 0

    def entry(self, name: str) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise ArtifactError(f"The folder holds more than {self.limits.files} entries.", where=name,
                                fix="Hand in the artifacts of the lab only, without indexes and caches.")

    def room(self, name: str) -> int:
        """How many bytes the next file may have."""
        return min(self.limits.file_bytes, self.limits.total_bytes - self.bytes)


def _read_folder(folder: int, prefix: str, limits: Limits, meter: _Meter) -> Iterator[tuple[str, bytes]]:
    with os.scandir(folder) as entries:
        names = []
        for entry in entries:
            if entry.name not in IGNORED:
                meter.entry(prefix + entry.name)
                names.append(entry.name)
    for name in sorted(names):
        place = prefix + name
        if ODD_NAME.search(name):
            raise _unsafe(ascii(place), "its name holds control or direction characters")
        kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(kind):
            if prefix.count("/") >= limits.depth:
                raise _unsafe(place, f"it lies deeper than {limits.depth} folders")
            inner = _open(name, folder, place, os.O_DIRECTORY)
            try:
                yield from _read_folder(inner, f"{place}/", limits, meter)
            finally:
                os.close(inner)
        elif stat.S_ISREG(kind):
            yield place, _read_file(name, folder, place, meter)
        else:
            raise _unsafe(place, "it is a link" if stat.S_ISLNK(kind) else "it is a pipe, socket or device")


def _open(name: str, folder: int, place: str, extra: int = 0) -> int:
    """Never through a link, and never waiting for the other end of a pipe."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | extra, dir_fd=folder)
    except OSError as error:
        raise _unsafe(place, f"it cannot be opened: {error.strerror}") from error


def _read_file(name: str, folder: int, place: str, meter: _Meter) -> bytes:
    handle = _open(name, folder, place)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _unsafe(place, "it is not a regular file")
        room = meter.room(place)
        content = stream.read(room + 1)
    if len(content) > room:
        raise _unsafe(place, f"it is too large: files may have {meter.limits.file_bytes} bytes, "
                             f"{meter.limits.total_bytes} together")
    meter.bytes += len(content)
    return content


def _unsafe(place: str, reason: str) -> ArtifactError:
    return ArtifactError(f"The submission is refused: {place}, because {reason}.", where=place,
                         fix="Hand in plain files of the lab only.")


def _malformed(name: str, line: int, reason: str) -> Malformed:
    return Malformed(f"{name} cannot be read: {reason}.", where=f"{name}:{line}" if line else name,
                     fix="Write UTF-8 with Unix line ends; json.dumps(..., allow_nan=False) writes valid JSON.")


def _validate(model: type[M], value: Any, name: str, line_of: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        field = str(first["loc"][0]) if first["loc"] else ""
        reason = first["msg"][:1].lower() + first["msg"][1:]
        what = f"{name}: {f'field {place!r}: ' if place else ''}{reason}."
        raise Incomplete(what, where=f"{name}:{line_of(field)}", fix="Add or correct the field.") from error


def _field_line(raw: bytes, field: str) -> int:
    found = re.search(rf'"{re.escape(field)}"\s*:'.encode(), raw) if field else None
    return raw.count(b"\n", 0, found.start()) + 1 if found else 1
