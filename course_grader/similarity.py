"""Which submissions share code: pairs of peers, and copies of the starter lab. A flag is a question, never a verdict.

Code is compared as tokens with every chosen name, literal, comment and layout taken away, in runs of ``RUN`` tokens, so
that renaming changes nothing. What the starter lab or a good part of the cohort also has is no sign of copying and does
not count.
"""

from __future__ import annotations

import base64
import builtins
import functools
import hashlib
import io
import json
import keyword
import re
import struct
import tokenize
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from course_lib.errors import ArtifactError
from course_lib.submission import Submission

RUN = 8  # tokens
KEPT = 600  # runs: the smallest hashes of a submission stand for all of them
MAX_CODE = 400_000  # characters
LEAST = 40  # runs of one's own; below that two honest notebooks may well agree
ALIKE = 0.8
COMMON = 0.2  # of a cohort of at least COHORT: then a run is common knowledge
COHORT = 10
STARTER = 0.95
_KNOWN = frozenset(keyword.kwlist) | frozenset(dir(builtins))
_TOKEN = re.compile(r"""(?P<comment>\#[^\n]*) | (?P<text>\"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\n]*" | '[^'\n]*')
                        | (?P<name>[^\W\d]\w*) | (?P<number>\d[\w.]*) | (?P<other>[^\s\w])""", re.DOTALL | re.VERBOSE)


_SOLUTION = re.compile(r"^[ \t]*### BEGIN SOLUTION.*?### END SOLUTION[^\n]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """sketch: the smallest hashes of the runs that are not the starter's, sorted. runs: how many there were in all.
    starter: the share of them that the starter lab also has. whole: hash of all of them, order aside."""

    sketch: tuple[int, ...]
    runs: int
    starter: float
    whole: str

    def packed(self) -> dict[str, object]:
        raw = struct.pack(f"<{len(self.sketch)}Q", *self.sketch)
        return {"sketch": base64.b64encode(raw).decode(), "runs": self.runs, "starter": self.starter,
                "whole": self.whole}  # fmt: skip

    @classmethod
    def unpacked(cls, value: dict[str, object]) -> Fingerprint:
        raw = base64.b64decode(str(value["sketch"]))
        return cls(struct.unpack(f"<{len(raw) // 8}Q", raw), int(str(value["runs"])), float(str(value["starter"])),
                   str(value["whole"]))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """first < second, by learner. share: Jaccard similarity of their own code, 0 to 1. why: for a reader."""

    first: str
    second: str
    share: float
    why: str


def normalised(code: str) -> list[str]:
    """Tokens of Python code with chosen names as ``n``, texts as ``s``, numbers as ``0``; attributes keep their name,
    because a learner cannot rename what a library calls itself."""
    try:
        stream = [(t.type, t.string) for t in tokenize.generate_tokens(io.StringIO(code).readline)]
    except (tokenize.TokenError, SyntaxError, ValueError):  # magics, half a line: cut into pieces by hand
        kinds = {"text": tokenize.STRING, "name": tokenize.NAME, "number": tokenize.NUMBER, "other": tokenize.OP}
        stream = [(kinds[m.lastgroup], m[0]) for m in _TOKEN.finditer(code) if m.lastgroup in kinds]
    out: list[str] = []
    for kind, text in stream:
        if kind == tokenize.NAME:
            out.append(text if text in _KNOWN or (out and out[-1] == ".") else "n")
        elif kind == tokenize.OP and text != ";":
            out.append(text)
        elif kind in (tokenize.STRING, tokenize.NUMBER, getattr(tokenize, "FSTRING_START", tokenize.STRING)):
            out.append("0" if kind == tokenize.NUMBER else "s")
    return out


def runs(code: str) -> frozenset[int]:
    """Hashes of all runs of tokens."""
    tokens = normalised(code[:MAX_CODE])
    pieces = (" ".join(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1))
    return frozenset(int.from_bytes(hashlib.blake2b(p.encode(), digest_size=8).digest(), "little") for p in pieces)


def code_of(submission: Submission) -> Iterable[str]:
    """The code cells of its notebooks, and its Python files; what cannot be read is left out."""
    for name in submission.files:
        try:
            if name.endswith(".py"):
                yield submission.text(name)
            elif name.endswith(".ipynb"):
                yield from _cells(submission.value(name))
        except ArtifactError:
            continue


def _cells(value: object) -> Iterable[str]:
    cells = value.get("cells") if isinstance(value, dict) else None
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            source = cell.get("source")
            yield "".join(map(str, source)) if isinstance(source, list) else str(source or "")


def _all_runs(cells: Iterable[str]) -> frozenset[int]:
    """Cell by cell, so that one broken cell does not change how the others are read."""
    found: set[int] = set()
    length = 0
    for cell in cells:
        length += len(cell)
        if length > MAX_CODE:
            break
        found |= runs(cell)
    return frozenset(found)


@functools.lru_cache(maxsize=4)
def starter_runs(module: str) -> frozenset[int]:
    """Runs of what every learner was given: the lab without its solutions. Empty when the module has no lab."""
    from course_lib.catalog import find

    cells = [cell for lab in find(module).labs for cell in _cells(json.loads(lab.read_text("utf-8")))]
    return _all_runs(_SOLUTION.sub("", cell) for cell in cells)


def fingerprint(submission: Submission, module: str) -> Fingerprint:
    """Deterministic, and small whatever was handed in."""
    found = _all_runs(code_of(submission))
    own = sorted(found - starter_runs(module))
    whole = hashlib.sha256(struct.pack(f"<{len(own)}Q", *own)).hexdigest()[:32]
    share = round(1 - len(own) / len(found), 4) if found else 0.0
    return Fingerprint(tuple(own[:KEPT]), len(found), share, whole)


def copies_of_starter(prints: Sequence[tuple[str, Fingerprint]]) -> list[str]:
    """Learners whose notebooks are the starter lab, next to nothing added."""
    return sorted(name for name, p in prints if p.runs >= LEAST and p.starter >= STARTER)


def pairs(prints: Sequence[tuple[str, str, Fingerprint]]) -> list[Pair]:
    """Pairs to look at, most alike first. prints: (learner, digest of the submission, fingerprint), each learner once.

    Equal folders and equal code are always named; code that is nearly equal, where enough of it is theirs alone.
    """
    found: dict[tuple[str, str], Pair] = {}
    ordered = sorted(prints, key=lambda item: item[0])
    for key, why in ((1, "the folders are equal, byte for byte"), (2, "the code is equal but for names and layout")):
        groups: dict[str, list[str]] = {}
        for item in ordered:
            if key == 1 or len(item[2].sketch) >= LEAST:
                groups.setdefault(item[1] if key == 1 else item[2].whole, []).append(item[0])
        for names in groups.values():
            for first, second in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
                found.setdefault((first, second), Pair(first, second, 1.0, why))
    for first, second, share in _near([(name, p.sketch) for name, _, p in ordered], found):
        why = f"{share:.0%} of their own code is shared, names and layout aside"
        found.setdefault((first, second), Pair(first, second, share, why))
    return sorted(found.values(), key=lambda p: (-p.share, p.first, p.second))


def _near(
    sketches: Sequence[tuple[str, tuple[int, ...]]], known: Collection[tuple[str, str]]
) -> Iterable[tuple[str, str, float]]:
    """Jaccard similarity of bottom-k sketches, exact where a submission has at most ``KEPT`` runs."""
    import numpy as np
    from scipy.sparse import csr_matrix

    common = _common([sketch for _, sketch in sketches])
    kept = [(name, {h for h in sketch if h not in common}, sketch[-1] if len(sketch) >= KEPT else 1 << 64)
            for name, sketch in sketches]  # fmt: skip
    kept = [item for item in kept if len(item[1]) >= LEAST]
    if len(kept) < 2:
        return
    columns = {h: i for i, h in enumerate(sorted(set().union(*(own for _, own, _ in kept))))}
    sizes = np.array([len(own) for _, own, _ in kept])
    cells = [columns[h] for _, own, _ in kept for h in own]
    shape = (len(kept), len(columns))
    matrix = csr_matrix((np.ones(len(cells), np.int32), (np.repeat(np.arange(len(kept)), sizes), cells)), shape)
    shared = (matrix @ matrix.T).tocoo()
    near = (shared.row < shared.col) & (shared.data >= ALIKE / 2 * np.minimum(sizes[shared.row], sizes[shared.col]))
    for i, j in zip(shared.row[near], shared.col[near], strict=True):
        (first, a, end_a), (second, b, end_b) = kept[i], kept[j]
        if (first, second) not in known:
            share = _jaccard(a, b, min(end_a, end_b))
            if share >= ALIKE:
                yield first, second, share


def _jaccard(a: set[int], b: set[int], end: int) -> float:
    """Of the runs up to ``end``, where both sketches are complete, the share that both have."""
    a, b = ({h for h in s if h <= end} for s in (a, b))
    return round(len(a & b) / max(1, len(a | b)), 4)


def _common(sketches: Sequence[Sequence[int]]) -> frozenset[int]:
    counts: dict[int, int] = {}
    for sketch in sketches:
        for h in sketch:
            counts[h] = counts.get(h, 0) + 1
    least = COMMON * len(sketches)
    return frozenset(h for h, n in counts.items() if n > least) if len(sketches) >= COHORT else frozenset()
