"""Attacks become notebooks that run in the real sandbox; without one the tests are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat as nbf
import pytest

from course_grader.kernels import ForkServer
from course_grader.reexecute import WarmSandboxedExecutor
from course_grader.sandbox import Caps, available
from course_lib import notebooks as nbs
from course_lib.execute import Execution, Limits

LIMITS = Limits(notebook_s=60, cell_s=20, startup_s=30)
LIGHT = ("ipykernel.kernelapp", "ipykernel.ipkernel", "IPython")


class Attack(NamedTuple):
    """What became of one: the execution, the folder that it left, and all text that its cells show."""

    run: Execution
    out: Path
    text: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ok, reason = available()
    if not ok:
        for item in items:
            if "adversarial" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    with ForkServer(LIGHT) as running:
        yield running


@pytest.fixture
def attack(tmp_path: Path, server: ForkServer) -> Callable[..., Attack]:
    """``attack(source, ..., name="a", limits=..., metadata=..., **caps)`` runs the sources as cells."""

    def run(*sources: str, name: str = "evil", limits: Limits = LIMITS, metadata: dict | None = None,
            **caps: float) -> Attack:  # fmt: skip
        cells = [nbf.v4.new_code_cell("seed = 1", metadata={"tags": ["parameters"]})]
        cells += [nbf.v4.new_code_cell(source) for source in sources]
        path = tmp_path / name / "lab.ipynb"
        path.parent.mkdir()
        nbf.write(nbf.v4.new_notebook(cells=cells, metadata=metadata or {}), path)
        executor = WarmSandboxedExecutor(caps=Caps(**caps), server=server)
        out = tmp_path / name / "out"
        result = executor.run(path, {"seed": 2}, limits, out)
        outputs = [output for cell in nbs.read(result.path).cells for output in cell.get("outputs", [])]
        shown = (o.get("text", "") or "\n".join(o.get("traceback", [])) or str(o.get("data", "")) for o in outputs)
        text = "".join(shown)
        return Attack(result, out, text)

    return run
