"""A pytest plugin: the exemplar submissions of lab 06, built once per run."""

from __future__ import annotations

from pathlib import Path

import exemplars
import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every exemplar by name."""
    return exemplars.build_all(tmp_path_factory.mktemp("exemplars"))


@pytest.fixture
def passing(made: dict[str, Path]) -> Path:
    return made["passing"]
