"""A chain of evidence: which file was there when, each link sealed by the one before it.

Whoever changes a sealed file, or a link, breaks the chain at that place. Whoever writes a whole chain anew cannot give
it back the time that the work took. It is no signature: it shows order and change, not who.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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


def breaks(
    links: Sequence[Link], raw: bytes, files: Mapping[str, bytes], steps: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """(step, sentence) for each contradiction; nothing when the chain holds and seals ``steps`` in their order. Pure.

    step: whose file or link was changed. links: the parsed lines of ``raw``. files: name -> content as handed in.
    """
    order = [link.step for link in links]
    if order != list(steps):
        lost = next((step for place, step in enumerate(steps) if order[place : place + 1] != [step]), order[-1])
        yield lost, f"the chain seals {', '.join(order) or 'nothing'}, and not {', '.join(steps)} in this order"
    lines = raw.removesuffix(b"\n").split(b"\n")
    for number, link in enumerate(links):
        if link.file not in files:
            yield link.step, f"{link.file} was sealed and is not there"
        elif sha256(files[link.file]) != link.sha256:
            yield link.step, f"{link.file} was changed after it was sealed as {link.step} at {link.at}"
        if link.previous != (sha256(lines[number - 1]) if number else START):
            changed = links[number - 1].step if number else link.step
            yield changed, f"the link of {changed} was changed after {link.step} was sealed"
        if number and link.moment <= links[number - 1].moment:
            before = links[number - 1]
            yield before.step, f"{before.step} is sealed at {before.at}, not before {link.step} at {link.at}"
