"""Shared fixtures. Runs of ``pytest`` outside ``make test`` get the same network block."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OFFLINE = Path(__file__).parent / "offline"
sys.path.insert(0, str(OFFLINE))
import sitecustomize as _site  # noqa: E402

if not hasattr(_site, "NetworkBlocked"):  # another sitecustomize came first: load ours by path
    import runpy

    runpy.run_path(str(OFFLINE / "sitecustomize.py"))

os.environ["PYTHONPATH"] = os.pathsep.join(
    dict.fromkeys([str(OFFLINE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
)
for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
    os.environ.pop(name, None)
os.environ.update(HF_HUB_OFFLINE="1", ANONYMIZED_TELEMETRY="False", TOKENIZERS_PARALLELISM="false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a run of a lab come last: the others pass their time while it is made."""
    items.sort(key=lambda item: item.get_closest_marker("labs") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """The runs of labs that the selected tests need begin now (``lab_runs``)."""
    marks = [mark for item in session.items for mark in item.iter_markers("labs")]
    if marks and not session.config.option.collectonly:
        from lab_runs import run_ahead

        run_ahead(name for mark in marks for name in mark.args)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium through Playwright; the test is skipped where there is none."""
    from course_lib.doctor import find_chromium

    if not (tool := find_chromium()):
        pytest.skip("there is no Chromium on this machine; set COURSE_CHROMIUM to its path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(tool), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def copy(passing: Path, tmp_path: Path) -> Path:
    """A copy of the submission ``passing``, which each module names, that a test may change."""
    return Path(shutil.copytree(passing, tmp_path / "copy"))


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A JupyterLab for all tests that need nothing special of it (``lab_kit.Shared``)."""
    import lab_kit

    top = tmp_path_factory.mktemp("jupyterlab")
    (top / "root").mkdir()
    with lab_kit.lab_server(top / "root", top / "work") as url:
        yield lab_kit.Shared(url, top / "root", top / "work" / "server.log")
