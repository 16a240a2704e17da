"""An append-only journal: one JSON record a line, each fsynced before anyone relies on it, each sealed by a checksum.

A seal covers the record and the seal before it, so that a changed, removed or moved line is found. The last line may be
torn by a kill or a full disk: it was never relied on, and is cut off when the journal is opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
from io import FileIO
from pathlib import Path
from typing import Any

from course_lib.errors import DataError, UsageError

_HEAD, _MIDDLE, _SEAL = b'{"seal":"', b'","record":', 64


class Journal:
    """The records of a gradebook, in order. One process at a time may hold it open; close it or use ``with``."""

    def __init__(self, path: Path | str) -> None:
        """Raises UsageError when another process holds it, DataError when a line before the last one is damaged."""
        from filelock import FileLock, Timeout

        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError("Another run is writing this gradebook.", where=str(self.path.parent),
                             fix="Wait for it, or choose another --out.") from error  # fmt: skip
        try:
            raw = self.path.read_bytes() if self.path.exists() else b""
            self.records, good, self._seal = _parse(raw, self.path)
            self._stream: FileIO = self.path.open("r+b" if raw else "wb", buffering=0)
            self._stream.seek(good)
            self._stream.truncate()
            _sync_folder(self.path.parent)
        except BaseException:
            self._lock.release()
            raise

    def append(self, kind: str, **data: Any) -> dict[str, Any]:
        """Writes a record and waits until the disk has it."""
        record = {"kind": kind, **data}
        body = json.dumps(record, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()
        seal = _sealed(self._seal, body)
        start = self._stream.tell()
        try:
            line = _HEAD + seal + _MIDDLE + body + b"}\n"
            while line:
                line = line[self._stream.write(line) :]
            os.fsync(self._stream.fileno())
        except OSError:
            self._stream.truncate(start)  # a full disk must not leave half a line in the middle
            self._stream.seek(start)
            raise
        self._seal = seal
        self.records.append(record)
        return record

    def close(self) -> None:
        self._stream.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_journal(path: Path | str) -> list[dict[str, Any]]:
    """The records, without opening for writing. A torn last line is left out. Raises DataError as ``Journal`` does."""
    path = Path(path)
    try:
        return _parse(path.read_bytes(), path)[0]
    except OSError as error:
        raise DataError("There is no journal here.", where=str(path), fix="Grade the cohort first.") from error


def _sealed(previous: bytes, body: bytes) -> bytes:
    return hashlib.sha256(previous + body).hexdigest().encode()


def _parse(raw: bytes, path: Path) -> tuple[list[dict[str, Any]], int, bytes]:
    """Records, the length of what is whole, and the last seal."""
    records: list[dict[str, Any]] = []
    position, seal = 0, b""
    while position < len(raw):
        end = raw.find(b"\n", position)
        line = raw[position : end if end >= 0 else len(raw)]
        mine = line[len(_HEAD) : len(_HEAD) + _SEAL]
        body = line[len(_HEAD) + _SEAL + len(_MIDDLE) : -1]
        whole = line == _HEAD + mine + _MIDDLE + body + b"}" and mine == _sealed(seal, body)
        if end < 0 or (not whole and end == len(raw) - 1):
            break
        if not whole:
            raise DataError("The journal was changed or damaged.", where=f"{path}:{len(records) + 1}",
                            fix="Restore it from a backup, or grade into a new folder.")  # fmt: skip
        records.append(json.loads(body))
        position, seal = end + 1, mine
    return records, position, seal


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
