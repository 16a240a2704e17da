"""Control groups of sandboxes: for real where one can be made, and on a made-up hierarchy everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from course_grader import cgroups
from course_grader.cgroups import Group, make_group, parent_group
from course_grader.sandbox import Box, Caps, available

REAL = pytest.mark.skipif(parent_group()[0] is None, reason=parent_group()[1] or "a group can be made")
SANDBOX = pytest.mark.skipif(not available()[0], reason=available()[1] or "a sandbox works")
HUNGRY = "kept = []\nwhile True:\n    kept.append(b'x' * (1 << 20))"


def hierarchy(top: Path, own: str, *, passes_on: str) -> Path:
    """Folders and files as the kernel would show them; ``passes_on``: the group that hands the controllers down."""
    place = top / "fs"
    for group in ("", *own.strip("/").split("/")):
        place = place / group
        place.mkdir(parents=True, exist_ok=True)
        (place / "cgroup.subtree_control").write_text("memory pids cpu" if place.name == passes_on else "cpu")
    (top / "cgroup").write_text(f"4:memory:/elsewhere\n0::/{own}\n")
    (top / "mountinfo").write_text(f"30 23 0:26 / {top}/fs rw shared:4 - cgroup2 cgroup2 rw\n")
    return place


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A folder is no kernel: what would be written to the files of a group is noted instead."""
    values: dict[str, int] = {}
    monkeypatch.setattr(Group, "_write", lambda self, name, value: values.update({name: value}))
    return values


@pytest.mark.parametrize(("passes_on", "found"), [("scope", "slice/scope"), ("slice", "slice"), ("nobody", None)])
def test_the_nearest_group_that_passes_the_controllers_on_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: dict[str, int], passes_on: str, found: str | None
) -> None:
    hierarchy(tmp_path, "slice/scope", passes_on=passes_on)
    own = cgroups._own_group(tmp_path)
    assert own == (tmp_path / "fs/slice/scope", tmp_path / "fs")
    monkeypatch.setattr(cgroups, "_own_group", lambda: own)
    place, reason = parent_group.__wrapped__()
    assert place == (tmp_path / "fs" / found if found else None) and bool(reason) == (found is None)
    assert not list((tmp_path / "fs").rglob("course-*")), "the trial is removed"


def test_without_cgroup_v2_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/x\n")
    own = cgroups._own_group(tmp_path)
    monkeypatch.setattr(cgroups, "_own_group", lambda: own)
    assert parent_group.__wrapped__() == (None, "there is no cgroup v2 here")


def test_a_group_has_its_limits_says_why_it_killed_and_goes(tmp_path: Path, written: dict[str, int]) -> None:
    group = Group(tmp_path, 1 << 20, 9)
    assert written == {"memory.max": 1 << 20, "pids.max": 9, "memory.swap.max": 0, "memory.oom.group": 1}
    assert group.cause() == ""
    events = group.path / "memory.events"
    events.write_text("low 0\nmax 12\noom_kill 0\n")
    assert group.cause() == ""
    events.write_text("low 0\nmax 12\noom_kill 2\n")
    assert group.cause() == "memory"
    events.unlink()
    group.close()
    assert written["cgroup.kill"] == 1 and not group.path.exists()
    group.close()


@SANDBOX
def test_a_process_enters_the_group_before_anything_of_a_learner_runs(tmp_path: Path) -> None:
    """A plain file in place of the kernel's: what is written there, and that the learner's side cannot reach it."""
    (tmp_path / "cgroup.procs").touch()
    with Box() as box:
        box.group = type("Fake", (), {"procs": str(tmp_path / "cgroup.procs"), "cause": lambda self: "",
                                      "close": lambda self: None})()  # fmt: skip
        code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
        assert box.popen([sys.executable, "-c", code]).wait(60) == 0
        shown = box.log()
    assert (tmp_path / "cgroup.procs").read_text() == "0" and shown.strip() == "['0', '1', '2', '3']", shown


@REAL
def test_the_kernel_ends_what_passes_its_memory() -> None:
    group = make_group(64 << 20, 32)
    assert group is not None
    enter = f"import os; open({group.procs!r}, 'w').write('0')\n"
    try:
        assert subprocess.run([sys.executable, "-c", enter + HUNGRY]).returncode < 0 and group.cause() == "memory"
    finally:
        group.close()
    assert not group.path.exists() and not list(group.path.parent.glob(f"course-{os.getpid()}-*"))


@REAL
@SANDBOX
def test_in_a_box_memory_never_passes_the_limit(tmp_path: Path) -> None:
    with Box(Caps(memory_bytes=200 << 20)) as box:
        assert box.popen([sys.executable, "-c", HUNGRY]).wait(60) != 0
        peak = box.group.path / "memory.peak"  # since Linux 5.19
        assert not peak.exists() or int(peak.read_text()) <= 200 << 20
        box.collect(tmp_path / "out")
    assert box.cause == "memory"
