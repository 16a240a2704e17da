"""One run of a lab's own cells in this process, quick and always the same: the model and the clock are replaced.

A way of failing is a wrong solution, other parameters, or a line of the lab written differently.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import matplotlib
from nbformat.v4 import new_code_cell, new_output

from course_lib import notebooks as nbs
from course_lib.catalog import find

SECONDS = 60.0  # of a run, by the clock that is used here


def quoting_request(client: Any, model: str, prompt: str, *, system: str = "", max_tokens: int = 80) -> dict[str, Any]:
    """A row of ``timed_request`` by a model that quotes the source which shares most words with the question. Its
    seconds follow from the prompt and the model, as if a machine had taken them."""
    wanted = set(re.findall(r"\w{4,}", prompt.partition("\n")[0].lower()))
    sources = re.findall(r"(?m)^\[(\d+)\] (.*)$", prompt)
    number, best = max(sources, key=lambda s: (len(wanted & set(re.findall(r"\w{4,}", s[1].lower()))), -int(s[0])))
    text = f"[{number}] {best.partition(': ')[2] or best}"
    tokens_in, tokens_out = len(prompt.split()) + len(system.split()), len(text.split())
    noise = int(hashlib.sha256(f"{model} {prompt}".encode()).hexdigest()[:6], 16) / 16**6
    first = 0.02 + tokens_in / 4000 + 0.02 * noise
    return {"ok": True, "error": "", "tokens_in": tokens_in, "tokens_out": tokens_out, "answer": text,
            "ttft_s": round(first, 4), "seconds": round(first + tokens_out / 900, 4)}  # fmt: skip


@dataclass
class CellRun:
    """One run of the lab of ``module``. solutions: exercise -> what stands in place of its solution. edits: text of a
    cell -> text that a learner wrote instead. A run with a mistake has no check cells: they would have stopped it."""

    out: Path
    solutions: Mapping[int, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    edits: Mapping[str, str] = field(default_factory=dict)
    module: ClassVar[str]

    def replaced(self) -> dict[str, Any]:
        """Names of the lab that stand for something else here, wherever a cell imports them."""
        ticks = iter((0.0, SECONDS))
        return {"connect": lambda **_: object(), "timed_request": quoting_request,
                "ledger": lambda _: SimpleNamespace(total=SimpleNamespace(usd=0.0)),
                "time": SimpleNamespace(monotonic=lambda: next(ticks))}  # fmt: skip

    def run(self) -> Path:
        self.out.mkdir(parents=True)
        nb = self._notebook()
        namespace: dict[str, Any] = {"__name__": "__main__"}
        ours = self.replaced()
        matplotlib.use("Agg")
        with contextlib.chdir(self.out):
            for count, (_, cell) in enumerate(nbs.code_cells(nb), 1):
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    for line in self._stopped_at_imports(cell.source):
                        exec(line, namespace)
                        namespace |= {name: value for name, value in ours.items() if name in namespace}
                cell.execution_count = count
                cell.outputs = [new_output("stream", text=said.getvalue())] if said.getvalue() else []
        nbs.write(nb, self.out / "lab.ipynb")
        return self.out

    def _stopped_at_imports(self, source: str) -> list[str]:
        """The cell in two pieces where it imports something and then goes on, so that a replacement takes effect."""
        head, blank, tail = source.partition("\n\nstarted, ")
        return [head, f"started, {tail}"] if blank else [source]

    def _notebook(self) -> Any:
        nb = nbs.read(find(self.module).labs[0])
        for number, code in self.solutions.items():
            cell = nb.cells[nbs.tagged(nb, f"exercise-{number}")[0]]
            cell.source = nbs.replace_solution(cell.source, [code])
        for old, new in self.edits.items():
            holders = [cell for cell in nb.cells if old in cell.source]
            assert len(holders) == 1, f"{len(holders)} cells hold {old!r}"
            holders[0].source = holders[0].source.replace(old, new)
        if self.solutions or self.edits:
            nb.cells = [cell for cell in nb.cells if not any(tag.startswith("check-") for tag in nbs.tags(cell))]
        if self.parameters:
            given = new_code_cell("\n".join(f"{name} = {value!r}" for name, value in self.parameters.items()))
            given.metadata["tags"] = ["injected-parameters"]
            nb.cells.insert(nbs.tagged(nb, "parameters")[0] + 1, given)
        return nb
