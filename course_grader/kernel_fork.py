"""Runs below the kernels: enters a sandbox, forks kernels from a warm process. Trusted code, standard library only.

Two ways in. ``--enter FD``: a plain Python joins the sandbox behind the pidfd, forks, drops every right and becomes the
command of the job (a cold kernel). ``--serve SOCKET``: the fork server imports what the caller names, runs nothing of
it, and forks one kernel for each job that comes over the socket (a warm kernel).

A job is a JSON object: argv (or null: a kernel in this process), connection, connection_file, env, cwd, log, namespaces
(flags of setns, 0 outside a sandbox), user (id inside, or null), limits (name of an rlimit -> bytes, seconds or count),
group (the cgroup.procs file of the control group to enter, or null).
Between the caller and the learner's code stands one process, the keeper: it stays outside the sandbox's list of
processes, forwards signals and reports the end. When the caller goes, the keeper kills.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from typing import Any, NoReturn

CAP_BYTES = bytes(24)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
LAST_CAP = 63
MESSAGE = 1 << 20
SENT_AT_ONCE = 1 << 20


def join(pidfd: int, namespaces: int) -> None:
    """Move into the namespaces of the process behind ``pidfd``. A new process id namespace counts for children only."""
    _check(_libc().setns(pidfd, namespaces), "setns")


def drop(user: int | None, limits: dict[str, int]) -> None:
    """Become ``user``, without groups or capabilities, now or by executing anything; then take on the limits."""
    libc = _libc()
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if user is None:
        return
    for cap in range(LAST_CAP + 1):
        libc.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0)
    if os.getuid() != user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _check(libc.capset(header, ctypes.create_string_buffer(CAP_BYTES, 24)), "capset")
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")


def become(job: dict[str, Any]) -> NoReturn:
    """The learner's side of the fork, in its own session: drop rights, open the log, run the kernel or the command."""
    os.setsid()
    drop(job["user"], job["limits"])
    _check(_libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    tempfile.tempdir = None  # what the parent found out does not hold in here
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if job["log"] else null
    for number, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, number)
    os.closerange(3, 65536)
    if job["connection"] is not None:
        with open(job["connection_file"], "w", encoding="utf-8") as stream:
            json.dump(job["connection"], stream)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if job["argv"] is not None:
        os.execve(job["argv"][0], job["argv"], job["env"])
    _kernel(job["connection_file"])


def _kernel(connection_file: str) -> NoReturn:
    """An IPython kernel in this process, as ``python -m ipykernel_launcher`` would start it."""
    sys.argv = ["ipykernel_launcher", "-f", connection_file, "--HistoryManager.enabled=False"]
    sys.path_importer_cache.clear()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # siblings must not share the state that the fork copied
    from ipykernel.iostream import OutStream
    from ipykernel.kernelapp import IPKernelApp

    _pace(OutStream)
    IPKernelApp.launch_instance(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)


def _pace(stream: type) -> None:
    """Let a cell that prints megabytes wait at each one: twenty a second are enough for anybody.

    Otherwise messages gather faster than they are read. Each holds eight times its size of address space (orjson's
    doing), and at the limit of that the process ends by a signal, which tells nobody that it printed too much.
    """
    plain = stream.write

    def write(self: Any, string: str) -> int | None:
        if not isinstance(string, str) or len(string) + getattr(self, "_course_unsent", 0) < SENT_AT_ONCE:
            self._course_unsent = getattr(self, "_course_unsent", 0) + len(string)
            return plain(self, string)
        for start in range(0, len(string), SENT_AT_ONCE):
            plain(self, string[start : start + SENT_AT_ONCE])
            self.flush()
            time.sleep(0.05)
        self._course_unsent = 0
        return len(string)

    stream.write = write


def keep(job: dict[str, Any], pidfd: int | None, caller: socket.socket | None) -> int:
    """The keeper: fork the learner's side, serve the caller until one of them ends; the exit status of the kernel.

    Over ``caller``: says ``{"pid": N}`` and at last ``{"exit": N}``, takes ``{"signal": N}``. Without one, this
    process's own SIGINT and SIGTERM are forwarded.
    """
    group = os.open(job["group"], os.O_WRONLY) if job.get("group") else None  # not to be seen from inside
    if pidfd is not None and job["namespaces"]:
        join(pidfd, job["namespaces"])
    child = os.fork()
    if child == 0:
        try:
            if group is not None:
                os.write(group, b"0")
            become(job)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(70)
    if caller is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda given, _: _signal(child, given))
        _, status = os.waitpid(child, 0)
        return _code(status)
    caller.send(json.dumps({"pid": child}).encode())
    _watch(child, caller)
    _, status = os.waitpid(child, 0)
    caller.send(json.dumps({"exit": _code(status)}).encode())
    return 0


def _watch(child: int, caller: socket.socket) -> None:
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([ended, caller], [], [])
        if ended in ready:
            return
        message = caller.recv(MESSAGE)
        _signal(child, json.loads(message)["signal"] if message else signal.SIGKILL)
        if not message:
            return


def _signal(child: int, number: int) -> None:
    """To the kernel's whole session; a process of its own that moved elsewhere is the sandbox's to kill."""
    try:
        os.killpg(child, number)
    except OSError:
        with contextlib.suppress(OSError):
            os.kill(child, number)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def serve(path: str, modules: list[str], linger_s: float, folder: str) -> None:
    """Import, then fork for each job. Ends with standard input (``linger_s`` 0), or after that long without a job, and
    takes ``folder``, which was made for it, along."""
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        sys.exit(f"an import started {len(threads) - 1} threads, so kernels cannot be forked safely")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    listener.bind(f"{path}.new")
    os.chmod(f"{path}.new", 0o600)
    listener.listen(64)
    os.rename(f"{path}.new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    owner = [] if linger_s else [sys.stdin]
    while True:
        ready, _, _ = select.select([listener, *owner], [], [], linger_s or None)
        if listener not in ready:
            break
        caller, _ = listener.accept()
        if os.fork() == 0:
            _serve_one(listener, caller)
        caller.close()
    os.unlink(path)
    shutil.rmtree(folder, ignore_errors=True)


def _serve_one(listener: socket.socket, caller: socket.socket) -> NoReturn:
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        message, fds, _, _ = socket.recv_fds(caller, MESSAGE, 1)
        keep(json.loads(message), fds[0] if fds else None, caller)
    except BaseException as error:
        with contextlib.suppress(OSError):
            caller.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
    os._exit(0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, name: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def userns() -> None:
    """Make a user namespace for the caller to map and keep; inside it nobody can make a further one."""
    _check(_libc().unshare(0x10000000), "unshare")
    os.write(1, b"+")
    os.read(0, 1)
    with open("/proc/sys/user/max_user_namespaces", "w") as stream:
        stream.write("0")
    os.write(1, b"+")
    os.read(0, 1)


def main(arguments: list[str]) -> None:
    if arguments[0] == "--userns":
        userns()
    elif arguments[0] == "--enter":
        os._exit(keep(json.loads(sys.stdin.buffer.read()), int(arguments[1]), None))
    else:
        serve(arguments[1], arguments[4:], float(arguments[2]), arguments[3])


if __name__ == "__main__":
    main(sys.argv[1:])
