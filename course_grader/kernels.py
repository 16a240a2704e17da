"""Kernels that are forked from a warm process, and kernels in a sandbox, for papermill, nbval and JupyterLab alike.

Importing what a lab needs takes ten seconds; forking a process that has imported it takes milliseconds.
``ForkServer`` is that process. ``CourseProvisioner`` is how every Jupyter program gets a kernel from it: kernelspecs
``course-warm`` and ``course-sandbox`` name it (``install_kernelspecs``). A sandboxed kernel is reached over Unix
sockets that are pinned before the first line of a learner runs. Linux only.

Settings: COURSE_KERNEL_MODULES (what a shared fork server imports), COURSE_KERNEL_LINGER_S (how long it stays idle).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Bool

from course_grader.kernel_fork import MESSAGE
from course_grader.sandbox import FORK, Box, require
from course_grader.sandbox_view import HOME, PACKAGES, environment, package
from course_lib.errors import ExecutionError

MODULES = tuple(
    "ipykernel.kernelapp ipykernel.ipkernel ipywidgets numpy pandas matplotlib.pyplot sklearn.metrics torch"
    " transformers trl sentence_transformers transformers.models.bert.modeling_bert chromadb.api.client anthropic"
    " xllamacpp bm25s course_lib.models course_lib.rag course_lib.retrieval course_lib.corpus".split()
)
KERNELSPECS = {"course-warm": ("Python 3 (course, warm)", {"warm": True, "sandbox": False}),
               "course-sandbox": ("Python 3 (course, sandbox)", {"warm": True, "sandbox": True})}  # fmt: skip
START_S = 600.0


class ForkServer:
    """A process that has imported ``modules``, run nothing of them, and forks kernels. One for many kernels.

    path: a socket to share with other processes; the server then outlives this one for a while. Without it the
    server is this object's own and ends with it. seed: PYTHONHASHSEED of all its kernels; a fork cannot change it.
    """

    def __init__(self, modules: Sequence[str] = MODULES, *, seed: int = 0, path: Path | None = None) -> None:
        self.modules, self.seed, self.shared = tuple(modules), seed, path is not None
        self.path = path or Path()
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ForkServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Import everything, ten seconds on a quiet machine. Raises ExecutionError when an import fails."""
        from course_lib.embeddings import cache_dir

        self._owner, self._folder = os.getpid(), Path(tempfile.mkdtemp(prefix="course-fork-"))
        self.path = self.path if self.shared else self._folder / "socket"
        env = environment() | {
            "HOME": str(self._folder), "TMPDIR": str(self._folder), "PYTHONHASHSEED": str(self.seed),
            "MPLCONFIGDIR": str(cache_dir() / "matplotlib"), "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }  # fmt: skip
        linger = os.environ.get("COURSE_KERNEL_LINGER_S", "300") if self.shared else "0"
        command = [sys.executable, "-P", str(FORK), "--serve", str(self.path), linger, str(self._folder),
                   *self.modules]
        stdin = subprocess.DEVNULL if self.shared else subprocess.PIPE
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log, env=env, cwd="/",
                                             start_new_session=True)
        deadline = time.monotonic() + START_S
        while not self.path.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                reason = (self._folder / "log").read_text(errors="replace").strip().rpartition("\n")[2]
                self.close()
                raise ExecutionError(f"The process that forks kernels did not start: {reason}",
                                     where="course_grader.kernels", fix="Run without warm kernels, or mend the import.")
            time.sleep(0.02)

    def fork(self, job: Mapping[str, Any], pidfd: int | None = None) -> ForkedProcess:
        """A new process for ``job`` (see ``kernel_fork``), inside the sandbox behind ``pidfd`` when one is given."""
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        caller.connect(str(self.path))
        socket.send_fds(caller, [json.dumps(job).encode()], [] if pidfd is None else [pidfd])
        return ForkedProcess(caller)

    def close(self) -> None:
        """End the server if it is this process's own. Kernels that run go on."""
        if self._process is not None and not self.shared and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
            shutil.rmtree(self._folder, ignore_errors=True)


class ForkedProcess:
    """A forked kernel, with the part of ``subprocess.Popen`` that a provisioner uses."""

    stdin = stdout = stderr = None

    def __init__(self, caller: socket.socket) -> None:
        self._caller, self.returncode = caller, None
        first = json.loads(caller.recv(MESSAGE) or b'{"error": "the process that forks kernels has gone"}')
        if "error" in first:
            raise ExecutionError(f"A kernel could not be forked: {first['error']}", where="course_grader.kernel_fork")
        self.pid = int(first["pid"])

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                message = self._caller.recv(MESSAGE, socket.MSG_DONTWAIT)
                self.returncode = json.loads(message)["exit"] if message else 137
                self._caller.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Blocks until the end. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("kernel", timeout or 0)
            time.sleep(0.005)
        return int(self.returncode or 0)

    def send_signal(self, number: int) -> None:
        """To the kernel and what it started in its own session."""
        if self.poll() is None:
            with contextlib.suppress(OSError):
                self._caller.send(json.dumps({"signal": int(number)}).encode())

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def own_server(seed: int) -> ForkServer:
    """This process's fork server, started when first asked for and ended with the process."""
    server = ForkServer(seed=seed)
    atexit.register(server.close)
    server.start()
    return server


def shared_server() -> ForkServer:
    """The user's fork server for this environment and this state of the course: the one that runs, or a new one."""
    from filelock import FileLock

    from course_lib.server import runtime_dir

    modules = tuple(os.environ.get("COURSE_KERNEL_MODULES", "").split()) or MODULES
    folders = (FORK.parent, *map(package, PACKAGES))
    state = [(str(p), p.stat().st_mtime_ns) for folder in folders for p in sorted(folder.rglob("*.py"))]
    key = hashlib.sha256(repr((sys.prefix, modules, state)).encode()).hexdigest()[:16]
    path = runtime_dir() / f"kernels-{key}.socket"
    with FileLock(f"{path}.lock"):
        server = ForkServer(modules, path=path)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            server.start()
    return server


class CourseProvisioner(LocalProvisioner):
    """Starts a kernel warm or cold, in a sandbox or not. warm, sandbox: from the kernelspec's ``config``.

    A kernel manager may bring ``box`` and ``fork_server`` of its own; else a sandboxed kernel gets a box of its own
    that goes when the kernel goes, with all that it wrote.
    """

    warm = Bool(True, config=True)
    sandbox = Bool(True, config=True)
    box: Box | None = None
    _folder = ""
    _pinned: tuple[int, ...] = ()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        km = self.parent
        if self.sandbox:
            await self._let_go()
            require()
            self.box = getattr(km, "box", None) or Box().__enter__()
            self._folder = self._folder or tempfile.mkdtemp(prefix="course-kernel-")
            km.transport, km.ip, km.cache_ports = "ipc", f"{self._folder}/k", False
        return await super().pre_launch(**kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        self.log_file = kwargs.get("stderr")
        if not self.sandbox and not self.warm:
            return await super().launch_kernel(cmd, **kwargs)
        given = kwargs.get("env") or dict(os.environ)
        server = (getattr(self.parent, "fork_server", None) or shared_server()) if self.warm else None
        if self.box is None:
            self.process = server.fork(self._plain_job(given, kwargs.get("cwd")))
        else:
            connection = json.loads(Path(self.parent.connection_file).read_text()) | {"ip": f"{HOME}/run/k"}
            env = environment(given)
            if server is not None:
                self.process = server.fork(self.box.job(None, env, connection=connection), self.box.pidfd)
            else:
                argv = [sys.executable, "-m", "ipykernel_launcher", "-f", f"{HOME}/run/kernel.json",
                        "--HistoryManager.enabled=False"]  # fmt: skip
                self.process = self.box.popen(argv, env, connection)
            await self._pin()
        self.pid, self.pgid = self.process.pid, None
        return self.connection_info

    def _plain_job(self, env: Mapping[str, str], cwd: str | None) -> dict[str, Any]:
        log = self.log_file.fileno() if hasattr(self.log_file, "fileno") else None
        return {"argv": None, "connection": None, "connection_file": self.parent.connection_file, "env": dict(env),
                "cwd": cwd or os.getcwd(), "log": f"/proc/{os.getpid()}/fd/{log}" if log is not None else None,
                "namespaces": 0, "user": None, "limits": {}}  # fmt: skip

    async def _pin(self) -> None:
        """Hold the kernel's sockets themselves: a learner who puts a link in their place later redirects nobody."""
        deadline = time.monotonic() + START_S
        pinned = []
        for port in self.parent.ports:
            path = self.box.path(f"{HOME}/run/k-{port}")
            while not os.path.lexists(path):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise ExecutionError(f"The kernel did not start. {self.box.why()} {self.box.log()}".strip())
                await asyncio.sleep(0.005)
            handle = os.open(path, os.O_PATH | os.O_NOFOLLOW)
            pinned.append(handle)
            if not stat.S_ISSOCK(os.fstat(handle).st_mode):
                raise ExecutionError("The kernel offers no sockets.")
            link = Path(self._folder, f"k-{port}")
            link.unlink(missing_ok=True)
            link.symlink_to(f"/proc/{os.getpid()}/fd/{handle}")
        self._pinned = tuple(pinned)

    async def kill(self, restart: bool = False) -> None:
        """Returns when it has gone, or after a while: Jupyter would look again only a tenth of a second later."""
        await super().kill(restart)
        for _ in range(50):
            if self.process is None or self.process.poll() is not None:
                return
            await asyncio.sleep(0.002)

    async def cleanup(self, restart: bool = False) -> None:
        await super().cleanup(restart)
        if not restart:
            await self._let_go()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _let_go(self) -> None:
        if self.box is not None:
            if hasattr(self.log_file, "write"):
                self.log_file.write(self.box.log().encode())
            if self.box is not getattr(self.parent, "box", None):
                self.box.close()
        for handle in self._pinned:
            os.close(handle)
        self.box, self._pinned = None, ()


def kernelspec(title: str, config: Mapping[str, bool]) -> KernelSpec:
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"]
    provisioner = {"provisioner_name": "course-kernel", "config": dict(config)}
    return KernelSpec(argv=argv, display_name=title, language="python", metadata={"kernel_provisioner": provisioner})


def install_kernelspecs(prefix: Path | str = sys.prefix) -> list[Path]:
    """Write the kernelspecs ``course-warm`` and ``course-sandbox`` below ``prefix``, where Jupyter looks for them."""
    written = []
    for name, (title, config) in KERNELSPECS.items():
        folder = Path(prefix, "share", "jupyter", "kernels", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kernel.json").write_text(json.dumps(kernelspec(title, config).to_dict(), indent=1) + "\n")
        written.append(folder)
    return written
