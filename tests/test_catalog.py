"""The catalog is the only list: it is complete, consistent, and honest about what is not on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from course_lib import catalog
from course_lib.errors import DataError, UsageError


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("notebooks", "labs/06_rag", "data", "rubrics", "quizzes"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path))
    return tmp_path


def test_numbers_slugs_and_labs_are_unique_and_in_order() -> None:
    numbers = [m.number for m in catalog.MODULES]
    assert numbers == [*range(15), *range(20, 25)]
    for field in ("slug", "title"):
        values = [getattr(m, field) for m in catalog.MODULES]
        assert len(set(values)) == len(values)
    labs = [m.lab for m in catalog.MODULES if m.lab]
    assert len(set(labs)) == len(labs)
    assert all(lab.startswith(f"{m.code}_") for m in catalog.MODULES for lab in [m.lab] if lab)


def test_tracks_and_paths_are_the_agreed_ones() -> None:
    track = {m.number: m.track for m in catalog.MODULES}
    assert {n for n, t in track.items() if t == "beginner"} == {0, 1}
    assert {n for n, t in track.items() if t == "intermediate"} == {*range(2, 9), 13}
    assert {n for n, t in track.items() if t == "advanced"} == {9, 10, 11, 12, 14}
    assert {p.name: p.modules for p in catalog.PATHS} == {
        "new-to-llms": (1, 4, 6, 7, 10, 12, 11),
        "enterprise-builder": (1, 6, 7, 9, 10, 11, 12),
        "fine-tuning": (1, 2, 5, 3, 10, 9, 12),
        "platform": (4, 5, 9, 10, 12),
        "security-risk": (1, 6, 7, 9, 10, 12, 13),
    }
    assert all(n in track for p in catalog.PATHS for n in p.modules)


def test_every_file_on_disk_is_found_or_skipped_with_a_reason() -> None:
    root = catalog.repo_root()
    on_disk = {*root.glob("notebooks/*.ipynb"), *root.glob("labs/*/lab.ipynb")}
    found = {*catalog.notebooks(), *catalog.labs()}
    skipped = {root / s.name for s in catalog.skipped()}
    assert on_disk == found | (on_disk & skipped) and not found & skipped
    assert all(s.reason for s in catalog.skipped())


def test_discovery_orders_parts_and_names_strays(course: Path) -> None:
    for name in ("06_rag.ipynb", "01b_how.ipynb", "01a_what.ipynb", "77_unknown.ipynb", "scratch.ipynb"):
        (course / "notebooks" / name).write_text("{}")
    (course / "labs/06_rag/lab.ipynb").write_text("{}")
    (course / "labs/06_rag/copy.ipynb").write_text("{}")
    assert [p.name for p in catalog.notebooks()] == ["01a_what.ipynb", "01b_how.ipynb", "06_rag.ipynb"]
    assert [p.parent.name for p in catalog.labs()] == ["06_rag"]
    strays = {s.name for s in catalog.skipped() if "belongs to no module" in s.reason}
    assert strays == {"notebooks/77_unknown.ipynb", "notebooks/scratch.ipynb", "labs/06_rag/copy.ipynb"}
    assert catalog.find(6).status == "ready"
    assert catalog.find(1).status == "partly"  # notebooks are there, its lab is not
    assert catalog.find(2).status == "planned"
    planned = {s.name for s in catalog.skipped() if s.kind == "notebook" and "planned" in s.reason}
    assert planned == {m.code for m in catalog.MODULES} - {"01", "06"}


@pytest.mark.parametrize("name", [6, "6", "06", "rag", "06_rag", "RAG", "06-rag"])
def test_find_takes_every_usual_name(name: str | int) -> None:
    assert catalog.find(name).number == 6


def test_a_wrong_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="no module 'agent'") as caught:
        catalog.find("agent")
    assert "07 (agents)" in caught.value.fix
    with pytest.raises(UsageError) as caught:
        catalog.find_path("finetuning")
    assert "fine-tuning" in caught.value.fix


def test_artifacts_list_what_a_submission_holds(course: Path) -> None:
    names = catalog.artifacts("06")
    assert names[:2] == ("README.md", "lab.ipynb") and "rag_eval_results.json" in names
    assert catalog.artifacts(0) == ()


def test_a_wrong_course_root_says_how_to_fix_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path))
    with pytest.raises(DataError) as caught:
        catalog.repo_root()
    assert "COURSE_ROOT" in caught.value.where and caught.value.fix


def test_rubric_and_paths_of_a_module(course: Path) -> None:
    assert catalog.find(6).rubric is None
    (course / "rubrics/06_rag.yaml").write_text("")
    (course / "rubrics/capstone.yaml").write_text("")
    assert catalog.find(6).rubric == course / "rubrics/06_rag.yaml"
    assert catalog.find(11).rubric == course / "rubrics/capstone.yaml"
    assert set(catalog.find(13).paths) == {"security-risk"}
