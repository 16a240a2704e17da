"""One way to write a file so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, mode: int | None = None, sync: bool = False) -> Iterator[Path]:
    """A new file beside ``path`` to write to, private until the block ends, then put in its place. Makes folders.

    mode: permission bits; by default those of the file that is there, else 0o644. sync: on the disk before the change
    of names, for what cannot be made again. Where the block raises, ``path`` stays as it was. Not promised: anything
    between two writers; the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
        if mode is None:
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        os.chmod(name, mode)
        if sync:
            with open(name, "rb+") as stream:
                os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, mode: int | None = 0o644, sync: bool = False) -> Path:
    """Writes UTF-8 with its line ends as they are, through ``replacing``; returns ``path``."""
    with replacing(path, mode=mode, sync=sync) as new:
        new.write_bytes(text.encode("utf-8"))
    return path
