"""A chain of evidence: which file was there when, each link sealed by the one before it.

Whoever changes a sealed file, or a link, breaks the chain at that place. Whoever writes a whole chain anew cannot give
it back the time that the work took. It is no signature: it shows order and change, not who.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from course_lib.artifacts import Artifact, Name
from course_lib.artifacts_dataset import Moment, Sha256
from course_lib.errors import DataError, UsageError

CHAIN = "chain.jsonl"
START = "0" * 64


class Link(Artifact):
    """chain.jsonl: one sealed file. at: UTC; previous: SHA-256 of the line before, zeros for the first."""

    step: Name
    file: Name
    sha256: Sha256
    at: Moment
    previous: Sha256

    @property
    def moment(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.at)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def seal(folder: Path | str, step: str, file: str, *, first: bool = False) -> str:
    """Appends a link for ``file`` to the chain in ``folder`` and returns the file's SHA-256. first: begin a new chain.

    Raises DataError when the file is not there, UsageError for a step that is sealed already.
    """
    path, chain = Path(folder) / file, Path(folder) / CHAIN
    if not path.is_file():
        raise DataError("Only a file that is there can be sealed.", where=str(path), fix="Write the file first.")
    lines = [] if first or not chain.exists() else chain.read_bytes().splitlines()
    if any(json.loads(line)["step"] == step for line in lines):
        raise UsageError(f"The step {step!r} is sealed already.", where=str(chain), fix="Run the lab from the top.")
    link = {"step": step, "file": file, "sha256": sha256(path.read_bytes()),
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"),
            "previous": sha256(lines[-1]) if lines else START}  # fmt: skip
    chain.write_bytes(b"".join(line + b"\n" for line in (*lines, json.dumps(link).encode())))
    return str(link["sha256"])


def breaks(links: Sequence[Link], raw: bytes, files: Mapping[str, bytes], steps: Sequence[str]) -> list[str]:
    """What contradicts the chain, in the order of ``steps``: one sentence each, none when it holds. Pure.

    links: the parsed lines of ``raw``. files: name -> content as handed in.
    """
    found: list[str] = []
    order = [link.step for link in links]
    if order != list(steps):
        found.append(f"the chain seals {', '.join(order) or 'nothing'}, and not {', '.join(steps)} in this order")
    before: Any = None
    for number, (link, line) in enumerate(zip(links, raw.removesuffix(b"\n").split(b"\n"), strict=True), 1):
        if link.file not in files:
            found.append(f"{link.file} was sealed and is not there")
        elif sha256(files[link.file]) != link.sha256:
            found.append(f"{link.file} was changed after it was sealed as {link.step} at {link.at}")
        if link.previous != (sha256(before[1]) if before else START):
            found.append(f"link {number}, {link.step}, does not follow from the link before it")
        if before and link.moment <= before[0].moment:
            found.append(f"{link.step} is sealed at {link.at}, not after {before[0].step} at {before[0].at}")
        before = link, line
    return found
