"""A pytest plugin: the exemplar submissions, built once per run, and a copy of the passing one to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import exemplars
import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every exemplar by name."""
    return exemplars.build_all(tmp_path_factory.mktemp("exemplars"))


@pytest.fixture
def copy(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the passing exemplar that a test may change."""
    return Path(shutil.copytree(made["passing"], tmp_path / "copy"))
