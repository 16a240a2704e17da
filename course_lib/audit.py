"""What a search leaves behind for those who must check it later, without anything that was asked or found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What one query leaves behind: no text of the question or of a document, only a keyed hash, ids and counts."""

    request_id: str
    query_hmac: str
    user: str
    tenant: str
    mode: str
    k: int
    allowed: int
    denied: Mapping[str, int]
    returned: tuple[str, ...]
    index: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        row = {name: getattr(self, name) for name in self.__slots__}
        return {**row, "denied": dict(self.denied), "returned": list(self.returned)}


class AuditLog:
    """Appends audit records to a JSONL file. ``clock`` adds ``at``; without it two equal runs give equal files."""

    def __init__(self, path: Path | str, clock: Callable[[], str] | None = None) -> None:
        self.path, self.clock = Path(path), clock
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, record: AuditRecord) -> None:
        row = record.to_dict()
        if self.clock is not None:
            row = {"at": self.clock(), **row}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
