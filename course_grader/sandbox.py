"""A bubblewrap sandbox for what strangers wrote: no network, a read-only system, and hard limits.

A ``Box`` is a set of namespaces that bubblewrap builds and one quiet process of ours holds open; kernels, cold or
forked from a warm process, join it (``kernel_fork``). Inside: the system, this Python, and of the course what a learner
may see. Everything that can be written is one folder in memory, capped, gone when the box is closed. Rubrics, checkers,
locked questions, tests, other submissions and this process's environment are not there at all.

Limits that the kernel enforces: processes, bytes and size of files, open files, CPU time, private memory of a process;
and, where a control group can be made (``cgroups``), memory and tasks of all processes together. A watcher looks ten
times a second at what adds up: memory of all processes, files, processes, the clock. Without a control group memory
can pass its limit for the tenth of a second that the watcher needs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_grader.cgroups import Group, make_group
from course_grader.namespaces import FORK, user_namespace
from course_grader.sandbox_view import HOME, USER, arguments, below_tmp, copy_tree, environment, exposed_by
from course_lib.errors import CourseError, ExecutionError

OUT, RUN = f"{HOME}/out", f"{HOME}/run"
NAMESPACES = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000,
              "uts": 0x4000000, "cgroup": 0x2000000}  # fmt: skip
CAUSES = {"memory": "it used more than {memory_bytes} bytes of memory", "files": "it made more than {files} files",
          "processes": "it started more than {processes} processes", "time": "its time was over",
          "output": "it printed more than {output_bytes} bytes"}  # fmt: skip
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Caps:
    """What everything in one box may use together; some 10 MB of the disk hold the corpus's vectors from the start.

    cpu_s is per process; output_bytes: what cells print and show.
    """

    memory_bytes: int = 4 << 30
    processes: int = 256
    disk_bytes: int = 1 << 30
    files: int = 20_000
    output_bytes: int = 10 << 20
    open_files: int = 1024
    cpu_s: int = 900
    wall_s: float = 3600.0

    def rlimits(self) -> dict[str, int]:
        """The part that the kernel holds each process to. Threads count as processes there, so it is wider."""
        return {"RLIMIT_DATA": self.memory_bytes + (2 << 30), "RLIMIT_NPROC": self.processes * 4, "RLIMIT_CORE": 0,
                "RLIMIT_FSIZE": self.disk_bytes, "RLIMIT_NOFILE": self.open_files, "RLIMIT_CPU": self.cpu_s}


@functools.cache
def available() -> tuple[bool, str]:
    """Whether a sandbox works on this system, tried by running one; the reason when it does not."""
    if not sys.platform.startswith("linux"):
        return False, "sandboxes need Linux (inside WSL 2 it works)"
    if shutil.which("bwrap") is None:
        return False, "bubblewrap is not installed (Debian, Ubuntu: apt install bubblewrap)"
    try:
        if place := exposed_by():
            return False, f"the course lies inside {place}, which a sandbox shows, with rubrics and tests"
        with Box() as box:
            if box.popen([sys.executable, "-c", "import course_lib.errors"]).wait(timeout=20):
                return False, f"Python does not run inside: {box.log().strip()[-200:] or 'is it readable by everyone?'}"
    except (CourseError, OSError, subprocess.SubprocessError) as error:
        return False, f"bubblewrap cannot make its namespaces here: {str(error).splitlines()[0]}"
    return True, ""


def require() -> None:
    """Raises ExecutionError, with the reason, where no sandbox works."""
    ok, reason = available()
    if not ok:
        raise ExecutionError("Notebooks of learners are not executed without a sandbox.", where=reason,
                             fix="Install what is missing (Debian, Ubuntu: apt install bubblewrap; course doctor says "
                             "more), or grade with --static, or accept the risk with --unsafe-no-sandbox (recorded).")


class Box:
    """One sandbox, from ``with`` to the end of the block. ``cause`` says which limit ended it, else it is empty.

    Raises ExecutionError when bubblewrap cannot build the namespaces.
    """

    def __init__(self, caps: Caps | None = None) -> None:
        self.caps, self.cause = caps or Caps(), ""
        self._fds: list[int] = []
        self._checked = 0.0
        self.group: Group | None = None

    def __enter__(self) -> Box:
        self._fds.append(space := user_namespace())
        reader, writer = os.pipe()
        self._holder = subprocess.Popen(
            self._command(space, writer), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=[space, writer], env={},
        )  # fmt: skip
        os.close(writer)
        with open(reader, "rb") as stream:
            said = stream.read()
        if not self._holder.stdout.read(1):
            reason = self._holder.stderr.read().decode(errors="replace").strip()
            self.close()
            raise ExecutionError(f"bubblewrap ended: {reason}", where="bwrap", fix="Allow user namespaces here.")
        self._open(json.loads(said)["child-pid"])
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _command(self, space: int, info: int) -> list[str]:
        """bubblewrap, holding everything open with a shell that waits for the end of its input."""
        user, tmpfs = "0" if os.getuid() == 0 else str(USER), ("--perms", "0777", "--size")
        folders = [("--perms", "0777", "--dir", f"{HOME}/{name}") for name in ("out", "tmp", "run", ".cache")]
        disk = (*tmpfs, str(self.caps.disk_bytes), "--tmpfs")
        return [
            shutil.which("bwrap") or "bwrap", "--userns", str(space), "--unshare-pid", "--unshare-net", "--unshare-ipc",
            "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "sandbox",
            "--clearenv", "--cap-drop", "ALL", "--uid", user, "--gid", user, "--info-fd", str(info),
            *([*disk, "/tmp"] if below_tmp() else []), *arguments(), "--proc", "/proc", "--dev", "/dev",
            *tmpfs, str(64 << 20), "--tmpfs", "/dev/shm", *disk, HOME, *(part for f in folders for part in f),
            *([] if below_tmp() else ["--symlink", f"{HOME}/tmp", "/tmp"]),
            "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/",
            "/bin/sh", "-c", f"cd {HOME}/.cache && mkdir -m 777 llm-course && cd llm-course && umask 0 && "
            "tar -xpf /run/vectors.tar; cd /; echo; exec cat >/dev/null",
        ]  # fmt: skip

    def _open(self, pid: int) -> None:
        self.pid, self.pidfd = pid, os.pidfd_open(pid)
        self.namespaces = sum(flag for name, flag in NAMESPACES.items()
                              if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"))
        disks = (HOME, "/dev/shm", "/tmp") if below_tmp() else (HOME, "/dev/shm")
        folders = (OUT, RUN, *disks)
        self._out, self._run, *self._disks = (os.open(self.path(p), os.O_RDONLY | os.O_DIRECTORY) for p in folders)
        self._snmp = os.open(f"/proc/{pid}/net/snmp", os.O_RDONLY)
        self._fds += [self.pidfd, self._out, self._run, *self._disks, self._snmp]
        self.group = make_group(self.caps.memory_bytes, self.caps.rlimits()["RLIMIT_NPROC"])
        self._deadline = time.monotonic() + self.caps.wall_s
        self._made = self._files()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="sandbox-watcher")
        self._watcher.start()

    def path(self, inside: str) -> str:
        """How this process reaches a path of the box, while the box runs. Links in there lead astray: do not follow."""
        return f"/proc/{self.pid}/root{inside}"

    def job(self, argv: Sequence[str] | None, env: Mapping[str, str] | None = None, log: str = f"{RUN}/log",
            connection: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What ``kernel_fork`` needs to run something in here. env: replaces ``environment()``."""
        return {"argv": argv, "env": dict(env or environment()), "cwd": OUT, "log": log, "namespaces": self.namespaces,
                "user": USER, "limits": self.caps.rlimits(), "connection": connection,
                "group": self.group.procs if self.group else None,
                "connection_file": f"{RUN}/kernel.json"}  # fmt: skip

    def popen(self, argv: Sequence[str], env: Mapping[str, str] | None = None,
              connection: Mapping[str, Any] | None = None) -> subprocess.Popen[bytes]:
        """Start a command in the box. The process that is returned keeps it: same exit status, signals forwarded."""
        command = [sys.executable, "-I", "-S", str(FORK), "--enter", str(self.pidfd)]
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[self.pidfd], start_new_session=True, env={})
        keeper.stdin.write(json.dumps(self.job(list(argv), env, connection=connection)).encode())
        keeper.stdin.close()
        return keeper

    def log(self) -> str:
        """The end of what the kernel's process wrote to its own output, for a person. Never trusted."""
        with contextlib.suppress(OSError):
            handle = os.open("log", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._run)
            with os.fdopen(handle, "rb") as stream:
                stream.seek(max(0, os.fstat(handle).st_size - 2000))
                return stream.read(2000).decode(errors="replace")
        return ""

    def stop(self, cause: str = "") -> None:
        """Kill all that runs inside, at once and without exception; returns when none is left."""
        self.cause = self.cause or cause
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def why(self) -> str:
        """The sentence about ``cause``."""
        return CAUSES[self.cause].format(**{n: getattr(self.caps, n) for n in Caps.__slots__}) if self.cause else ""

    def collect(self, target: Path, keep: Sequence[str] = ()) -> list[str]:
        """Stop, then copy what lies in the output folder to ``target``; the names in ``keep`` are left as they are.

        Copies regular files and folders alone. Returns what was left behind: links, pipes, and names in ``keep``.
        """
        self.stop()
        self._holder.wait()
        self.cause = self.cause or (self.group.cause() if self.group else "")
        refused: list[str] = []
        copy_tree(self._out, target, "", [self.caps.disk_bytes, self.caps.files], set(keep), refused)
        return refused

    def close(self) -> None:
        """Stop, and give the memory back."""
        if hasattr(self, "pidfd"):
            self._done.set()
            self.stop()
            self._watcher.join()
        self._holder.kill()
        self._holder.communicate()
        for handle in self._fds:
            os.close(handle)
        self._fds.clear()
        if self.group:
            self.group.close()

    def outward(self) -> int:
        """Packets that tried to leave and found no way, and look-ups of names: the kernel's count for this box."""
        rows = [line.split() for line in os.pread(self._snmp, 1 << 16, 0).decode().splitlines()]
        counts = {(names[0], name): int(value) for names, values in zip(rows[::2], rows[1::2], strict=True)
                  for name, value in zip(names[1:], values[1:], strict=True)}  # fmt: skip
        return counts["Ip:", "OutNoRoutes"] + counts["Udp:", "NoPorts"]

    def _files(self) -> int:
        return sum(disk.f_files - disk.f_ffree for disk in map(os.fstatvfs, self._disks))

    def _watch(self) -> None:
        while not self._done.wait(POLL_S):
            try:
                cause = self._over()
            except OSError:  # it ended while we looked
                continue
            if cause:
                self.stop(cause)
                return

    def _over(self) -> str:
        if time.monotonic() > self._deadline:
            return "time"
        disks = list(map(os.fstatvfs, self._disks))
        if self._files() - self._made > self.caps.files:
            return "files"
        proc = self.path("/proc")
        running = [name for name in os.listdir(proc) if name.isdigit()]
        if len(running) - 2 > self.caps.processes:
            return "processes"
        stored = sum((disk.f_blocks - disk.f_bfree) * disk.f_frsize for disk in disks)
        if stored + _memory(proc, running, "status", ("RssAnon", "RssShmem")) <= self.caps.memory_bytes:
            return ""
        if time.monotonic() - self._checked < 5 * POLL_S:
            return ""
        self._checked = time.monotonic()  # pages that a fork shares count once here, which takes longer to find out
        exact = stored + _memory(proc, running, "smaps_rollup", ("Pss_Anon", "Pss_Shmem"))
        return "memory" if exact > self.caps.memory_bytes else ""


def _memory(proc: str, running: Sequence[str], name: str, fields: tuple[str, ...]) -> int:
    total = 0
    for number in running:
        with contextlib.suppress(OSError), open(f"{proc}/{number}/{name}") as stream:
            total += sum(int(line.split()[1]) for line in stream if line.startswith(fields))
    return total * 1024
