"""A learned change of MiniLM's vectors, so that a question lies near the sentence that answers it in other words.

Two matrices, one for questions and one for sentences ("embedding adapter"): small, quick, and learnt on questions that
were written for the sentences of this corpus (``course_lm.rank``). It helps nearly as much on documents of the corpus
that it has not seen; on another corpus it is unproven.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.errors import DataError
from course_lib.files import replacing

if TYPE_CHECKING:
    import numpy as np

    from course_lib.embeddings import Embedder

FILE = "ranker.safetensors"
NAMES = ("of_question", "of_sentence")


@dataclass(frozen=True)
class Ranker:
    """of_question, of_sentence: float32, shape (dimension, dimension). fingerprint: of the embedder they belong to."""

    of_question: np.ndarray
    of_sentence: np.ndarray
    fingerprint: str

    @classmethod
    def unchanged(cls, size: int, fingerprint: str) -> Ranker:
        """One that leaves vectors of ``size`` as they are, so that its similarities are plain cosines."""
        import numpy as np

        eye = np.eye(size, dtype=np.float32)
        return cls(eye, eye, fingerprint)

    def similarity(self, question: np.ndarray, sentences: np.ndarray) -> np.ndarray:
        """Cosines of a changed question, shape (dimension,), with changed sentences, shape (n, dimension)."""
        return self.sentences(sentences) @ _unit(question @ self.of_question)

    def sentences(self, vectors: np.ndarray) -> np.ndarray:
        """Changed sentences, each of length 1: what ``similarity`` computes anew for every question."""
        return _unit(vectors @ self.of_sentence)

    def save(self, path: Path) -> None:
        """Writes the matrices in half precision."""
        import numpy as np
        from safetensors.numpy import save_file

        tensors = {name: np.ascontiguousarray(getattr(self, name), dtype=np.float16) for name in NAMES}
        with replacing(path) as new:
            save_file(tensors, new, metadata={"embedder": self.fingerprint})


def load_ranker(path: Path) -> Ranker:
    """Raises DataError when the file is missing, damaged, or holds something else."""
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            found: dict[str, Any] = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
            fingerprint = (file.metadata() or {})["embedder"]
        size = len(found["of_question"])
        if {name: array.shape for name, array in found.items()} != dict.fromkeys(NAMES, (size, size)):
            raise KeyError("shapes")
    except (OSError, SafetensorError, KeyError) as error:
        problem = f"The sentence ranker cannot be read: {type(error).__name__}."
        fix = "Get the file again with git checkout, or make it with course model ranker."
        raise DataError(problem, where=str(path), fix=fix) from error
    return Ranker(**found, fingerprint=fingerprint)


_kept = functools.cache(load_ranker)


def ranker_for(embedder: Embedder) -> Ranker | None:
    """The course's ranker where it belongs to this embedder, else None."""
    from course_lib.models import model_folder

    ranker = _kept(model_folder() / FILE)
    return ranker if ranker.fingerprint == embedder.fingerprint else None


def _unit(vectors: Any) -> Any:
    import numpy as np

    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
