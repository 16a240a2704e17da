"""A control group (cgroup v2) for one sandbox, where this process may make one: limits that the kernel itself holds.

With it, memory and tasks of everything in a box stay below their limits at every moment; without it, a watcher looks
ten times a second. A group can be made below our own or one above it that already passes on the controllers, as a
container's root or a delegated systemd unit does: ``systemd-run --user --scope -p Delegate=yes course grade ...``.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from pathlib import Path

CONTROLLERS = frozenset({"memory", "pids"})
ENDS_S = 5.0
_numbers = itertools.count()


class Group:
    """A group of its own, from its making to ``close``. Raises OSError when it cannot be made."""

    def __init__(self, parent: Path, memory_bytes: int, tasks: int) -> None:
        self.path = parent / f"course-{os.getpid()}-{next(_numbers)}"
        self.path.mkdir()
        try:
            self._write("memory.max", memory_bytes)
            self._write("pids.max", tasks)
            for name, value in (("memory.swap.max", 0), ("memory.oom.group", 1)):  # not on every kernel
                with contextlib.suppress(OSError):
                    self._write(name, value)
        except OSError:
            self.close()
            raise

    @property
    def procs(self) -> str:
        """The file that takes a process in: a process writes ``0`` to it, before it joins any namespace."""
        return str(self.path / "cgroup.procs")

    def cause(self) -> str:
        """Which limit was met: ``memory`` when the kernel killed for it, else nothing."""
        with contextlib.suppress(OSError):
            for line in (self.path / "memory.events").read_text().splitlines():
                name, _, number = line.partition(" ")
                if name in ("oom_kill", "oom_group_kill") and int(number):
                    return "memory"
        return ""

    def close(self) -> None:
        """Kill what is left in it, and remove it. A group that is still busy after a while stays behind, empty."""
        deadline = time.monotonic() + ENDS_S
        while self.path.is_dir():
            with contextlib.suppress(OSError):
                self._write("cgroup.kill", 1)
            try:
                self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)

    def _write(self, name: str, value: int) -> None:
        handle = os.open(self.path / name, os.O_WRONLY)
        try:
            os.write(handle, str(value).encode())
        finally:
            os.close(handle)


@functools.cache
def parent_group() -> tuple[Path | None, str]:
    """Where groups can be made, tried by making one; or why there is no such place."""
    here, top = _own_group()
    if here is None or top is None:
        return None, "there is no cgroup v2 here"
    reason = "the cgroup v2 hierarchy passes memory and pids on to none of our groups"
    for place in (here, *here.parents):
        if place != top and top not in place.parents:
            break
        with contextlib.suppress(OSError):
            if set((place / "cgroup.subtree_control").read_text().split()) >= CONTROLLERS:
                try:
                    Group(place, 1 << 30, 64).close()
                    return place, ""
                except OSError as error:
                    reason = f"no group can be made in a place that would pass them on ({error.strerror})"
    return None, reason


def _own_group(proc: Path = Path("/proc/self")) -> tuple[Path | None, Path | None]:
    """Our own group and the top of the hierarchy, as folders."""
    try:
        own = next(line[3:] for line in (proc / "cgroup").read_text().splitlines() if line.startswith("0::"))
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    except (OSError, StopIteration):
        return None, None
    for fields in mounts:
        if "cgroup2" in fields[fields.index("-") :]:
            root, place = fields[3], Path(fields[4])
            inside = own.removeprefix(root.rstrip("/")) if root != "/" else own
            return Path(f"{place}/{inside.strip('/')}".rstrip("/")), place
    return None, None


def make_group(memory_bytes: int, tasks: int) -> Group | None:
    """A group with these limits; None where there is no place for one."""
    parent, _ = parent_group()
    if parent is None:
        return None
    with contextlib.suppress(OSError):
        return Group(parent, memory_bytes, tasks)
    return None
