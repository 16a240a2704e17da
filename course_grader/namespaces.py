"""A user namespace for a sandbox: made by a helper, mapped from outside, and closed to further ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from course_grader.sandbox_view import USER
from course_lib.errors import ExecutionError

FORK = Path(__file__).with_name("kernel_fork.py")
OUTER_USER = 64999  # when we are root: a user of no account, whom the kernel does hold to a limit of processes


def user_namespace() -> int:
    """A file descriptor of a new user namespace in which nobody can make another one.

    When we are root, root stays root in it to build the mounts, and the learner's user is one that owns nothing.
    """
    me = os.getuid()
    mapping = f"0 0 1\n{USER} {OUTER_USER} 1\n" if me == 0 else f"{USER} {me} 1\n"
    group = f"0 0 1\n{USER} {OUTER_USER} 1\n" if me == 0 else f"{USER} {os.getgid()} 1\n"
    maker = subprocess.Popen([sys.executable, "-I", "-S", str(FORK), "--userns"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={})
    try:
        _expect(maker)
        if me:
            Path(f"/proc/{maker.pid}/setgroups").write_text("deny")
        for name, text in (("uid_map", mapping), ("gid_map", group)):
            Path(f"/proc/{maker.pid}/{name}").write_text(text)
        handle = os.open(f"/proc/{maker.pid}/ns/user", os.O_RDONLY)
        maker.stdin.write(b"+")
        maker.stdin.flush()
        _expect(maker)
        return handle
    except OSError as error:
        what = f"A user namespace cannot be mapped: {error}."
        raise ExecutionError(what, fix="Allow user namespaces on this system.") from error
    finally:
        maker.communicate()


def _expect(maker: subprocess.Popen[bytes]) -> None:
    if maker.stdout.read(1) != b"+":
        reason = maker.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        raise ExecutionError(f"A user namespace cannot be made: {reason}", fix="Allow user namespaces on this system.")
