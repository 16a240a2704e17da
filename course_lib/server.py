"""llama.cpp's server in a process of its own, shared by all processes of one user, gone when the last of them is.

Who may use it: the port is on loopback and every request needs a random key that only this user's files hold.
How it ends: each user process holds a shared lock (the lease) until it exits, however it exits. The server stops when
it could take that lock alone for COURSE_SERVER_LINGER_S seconds. A forked child shares its parent's lease; a program
that is executed does not inherit it.

Settings: COURSE_RUNTIME_DIR (state, locks, logs), COURSE_SERVER_LINGER_S (default 30), COURSE_SERVER_THREADS.
Not promised: Windows without WSL (the lease needs ``flock``), or a runtime folder on a network file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from course_lib.errors import ModelError

SMALL_MODEL_BYTES = 100_000_000
_guards: dict[int, threading.Lock] = {}
_leases: dict[str, IO[str]] = {}
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class ServerConfig:
    """What to serve and how. Two users with equal configurations share one server.

    model: a GGUF file. alias: the model id that clients see. ctx: tokens per request, prompt and answer together.
    parallel: requests decoded at once; more wait in line. cache_prompt: reuse the KV cache of an equal prefix.

    The defaults make an answer depend on its request alone. With more slots, or with the prompt cache, llama.cpp
    computes the same numbers in batches of other sizes, and log-probabilities move by about 1e-3: a near tie can flip.
    """

    model: Path
    alias: str
    ctx: int = 2048
    parallel: int = 1
    cache_prompt: bool = False
    seed: int = 7

    @property
    def key(self) -> str:
        """Names the state, lock and log files: 16 hex digits over the model's bytes and every setting."""
        settings = {**asdict(self), "model": file_sha256(self.model), "threads": threads(self.model)}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Endpoint:
    """A server that answered its health check. ``api_key`` stays within this user's processes."""

    base_url: str
    api_key: str
    pid: int
    instance: str
    alias: str
    model_sha256: str
    started: float
    log: str

    def __repr__(self) -> str:
        return f"Endpoint({self.alias} at {self.base_url}, pid {self.pid})"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex; remembered per process while size and modification time stay the same."""
    try:
        stat = path.stat()
    except OSError as error:
        fix = "build or fetch the model file, or set COURSE_LM_GGUF to a GGUF file"
        raise ModelError(f"there is no model file {path.name}", where=str(path), fix=fix) from error
    return _hash(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _hash(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def threads(model: Path) -> int:
    """One thread for a small model, else the physical cores that we may use; COURSE_SERVER_THREADS overrides.

    llama.cpp's threads wait for each other by spinning, hundreds of times per token. Next to a busy notebook a second
    thread made a model of 4 M parameters several times slower.
    """
    if text := os.environ.get("COURSE_SERVER_THREADS"):
        return max(1, int(text))
    if model.stat().st_size < SMALL_MODEL_BYTES:
        return 1
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def runtime_dir() -> Path:
    """The folder of this user's server files, mode 0700. Refused when it belongs to somebody else."""
    if text := os.environ.get("COURSE_RUNTIME_DIR"):
        folder = Path(text)
    elif (text := os.environ.get("XDG_RUNTIME_DIR")) and os.access(text, os.W_OK):
        folder = Path(text) / "llm-course"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-course" / "run"
    fix = "set COURSE_RUNTIME_DIR to a folder of your own"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ModelError(f"the server's runtime folder cannot be made: {error}", where=str(folder), fix=fix) from error
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise ModelError("the server's runtime folder belongs to another user", where=str(folder), fix=fix)
    folder.chmod(0o700)
    return folder


def ensure(config: ServerConfig, *, timeout_s: float = 60.0) -> Endpoint:
    """A healthy server for ``config``: the one that runs, or a new one. Holds the lease until this process exits.

    timeout_s: seconds for all of it. Raises ModelError with the log's last lines when the server cannot start.
    Safe to call from many threads and processes at once; exactly one server starts.
    """
    deadline = time.monotonic() + timeout_s
    key, folder = config.key, runtime_dir()
    with _guards.setdefault(os.getpid(), threading.Lock()):  # by process: a fork may copy a lock that is held
        _children[:] = [child for child in _children if child.poll() is None]
        _take_lease(folder / f"{key}.lease", deadline)
        with _start_lock(folder / f"{key}.lock", deadline):
            found = _read_state(folder / f"{key}.json")
            if found is not None and _healthy(found, deadline):
                return found
            if found is not None:
                _kill(found)
            (folder / f"{key}.json").unlink(missing_ok=True)
            return _start(config, key, folder, deadline)


def status() -> list[Endpoint]:
    """This user's servers that run now, oldest first. Starts nothing and takes no lease."""
    states = (_read_state(path) for path in runtime_dir().glob("*.json"))
    return sorted((s for s in states if s is not None and _process(s) is not None), key=lambda s: s.started)


def stop() -> int:
    """Stop every server of this user now, whoever uses it; returns how many ran. ``ensure`` starts a new one."""
    running = status()
    for endpoint in running:
        _kill(endpoint)
    return len(running)


def _take_lease(path: Path, deadline: float) -> None:
    """Hold a shared lock on ``path`` for the life of this process. A server that is just leaving has it alone: wait."""
    if str(path) in _leases:
        return
    try:
        import fcntl
    except ImportError as error:
        fix = "run the course inside WSL, or set ANTHROPIC_BASE_URL to a server that you start yourself"
        raise ModelError("the embedded server needs a POSIX system", fix=fix) from error
    lease = open(path, "a", encoding="utf-8")  # noqa: SIM115 - kept open on purpose, until the process exits
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
            break
        if time.monotonic() > deadline:
            lease.close()
            raise ModelError("a leaving server did not let go of its lease", where=str(path), fix="try again")
        time.sleep(0.01)
    os.utime(path)  # tells the server that somebody came, even if they leave before it looks again
    _leases[str(path)] = lease


@contextlib.contextmanager
def _start_lock(path: Path, deadline: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
    except Timeout as error:
        fix = "wait for the other process, or raise the timeout"
        raise ModelError("another process is still starting the server", where=str(path), fix=fix) from error
    try:
        yield
    finally:
        lock.release()


def _read_state(path: Path) -> Endpoint | None:
    """The recorded server, or None when there is no record or it is unreadable (a crash while writing)."""
    try:
        return Endpoint(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _process(endpoint: Endpoint) -> Any:
    """The server's process, or None when it is gone and its number may belong to another program by now."""
    import psutil

    try:
        process = psutil.Process(endpoint.pid)
        if process.status() == psutil.STATUS_ZOMBIE or endpoint.instance not in process.cmdline():
            return None
        return process
    except psutil.Error:
        return None


def _healthy(endpoint: Endpoint, deadline: float) -> bool:
    """True when the recorded process lives and answers /health; asked up to three times, five seconds each."""
    for _ in range(3):
        if _process(endpoint) is None:
            return False
        if _answers(endpoint.base_url, min(5.0, max(0.5, deadline - time.monotonic()))):
            return True
        time.sleep(0.1)
    return False


def _answers(base_url: str, timeout_s: float) -> bool:
    """Ask /health without the proxy settings of the environment: this address is on the machine."""
    import http.client

    host, _, port = base_url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _kill(endpoint: Endpoint) -> None:
    import psutil

    process = _process(endpoint)
    if process is None:
        return
    with contextlib.suppress(psutil.Error):
        process.terminate()
        try:
            process.wait(timeout=3)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout=3)


def _start(config: ServerConfig, key: str, folder: Path, deadline: float) -> Endpoint:
    """Start the process and wait for its state file. The caller holds the lease and the start lock."""
    from course_lib.serve import check_model, explain, rotate

    check_model(config.model)
    state, log, instance = folder / f"{key}.json", folder / f"{key}.log", secrets.token_hex(8)
    rotate(log)
    files = {"state": str(state), "log": str(log), "lease": str(folder / f"{key}.lease")}
    job = asdict(config) | files | {"model": str(config.model.resolve()), "threads": threads(config.model)}
    job |= {"instance": instance, "api_key": secrets.token_urlsafe(32), "model_sha256": file_sha256(config.model)}
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    env["GGML_NO_BACKTRACE"] = "1"  # a failed assertion would start a debugger, if there is one
    root = str(Path(__file__).resolve().parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "course_lib.serve", "--instance", instance]
    with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as sink:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=sink, stderr=sink, cwd=folder, env=env, start_new_session=True
        )
    _children.append(child)
    with contextlib.suppress(BrokenPipeError), child.stdin as pipe:  # type: ignore[union-attr]
        pipe.write(json.dumps(job).encode())
    while time.monotonic() < deadline:
        found = _read_state(state)
        if found is not None and found.instance == instance and _answers(found.base_url, 2.0):
            return found
        if child.poll() is not None:
            break
        time.sleep(0.02)
    raise explain(child, log, config.model)
