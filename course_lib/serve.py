"""The server process itself; ``course_lib.server`` starts it. Reads one JSON object on standard input, then serves.

The key comes by standard input, so that neither the process list nor the environment shows it. Output goes to the log.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from course_lib.errors import ModelError
from course_lib.files import write_text

LOG_BYTES = 4_000_000
LOGS_KEPT = 3


def check_model(path: Path) -> None:
    """Raise ModelError for what can be seen before a start: no xllamacpp, or a file that is no GGUF."""
    import importlib.util

    if importlib.util.find_spec("xllamacpp") is None:
        fix = "install it (pip install xllamacpp), or set ANTHROPIC_API_KEY or ANTHROPIC_BASE_URL"
        raise ModelError("the embedded server needs the package xllamacpp", fix=fix)
    with open(path, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError("the model file is not a GGUF file", where=str(path), fix="fetch the model file again")


def explain(child: subprocess.Popen[bytes], log: Path, model: Path) -> ModelError:
    """Why the server did not come up, from its exit status and the end of its log. Ends a child that still tries."""
    code = child.poll()
    if code is None:
        child.kill()
        child.wait()
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if code is None:
        what, fix = "the embedded server did not become ready in time", "raise the timeout, or look into the log"
    elif "failed to load model" in text:
        what, fix = "the model file cannot be loaded", f"fetch it again or check its checksum: {model}"
    elif "couldn't bind" in text:
        what, fix = "the embedded server was refused a loopback port", "lift the rule that forbids it, or free a port"
    else:
        what, fix = f"the embedded server ended with status {code}", "look into the log"
    lines = text.splitlines()
    shown = [line for line in lines if " E " in line or "GGML_ASSERT" in line] or lines
    tail = "\n".join(f"  | {line}" for line in shown[-8:])
    return ModelError(f"{what}; from its log:\n{tail}", where=str(log), fix=fix)


def rotate(log: Path) -> None:
    """Move log to log.1, log.1 to log.2 and so on; LOGS_KEPT old ones stay."""
    for number in range(LOGS_KEPT, 0, -1):
        newer = log.with_suffix(f".log.{number - 1}") if number > 1 else log
        if newer.exists():
            shutil.move(newer, log.with_suffix(f".log.{number}"))


def parameters(job: dict[str, Any]) -> Any:
    """llama.cpp's settings for one job: greedy, seeded, continuous batching, the model's own chat template."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = job["model"]
    p.model_alias = {job["alias"]}
    p.hostnames, p.port = ["127.0.0.1"], 0
    p.api_keys = [job["api_key"]]
    p.cors_origins = "http://127.0.0.1"
    p.ui, p.warmup = False, True
    p.endpoint_metrics = p.endpoint_slots = True
    p.n_ctx, p.n_parallel = job["ctx"] * job["parallel"], job["parallel"]
    p.fit_params, p.kv_unified, p.cont_batching = False, False, True
    p.cache_prompt = job["cache_prompt"]
    p.cache_ram_mib = 0
    p.use_jinja = True
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = job["threads"]
    p.n_threads_http = job["parallel"] * 2 + 4
    p.sampling.temp, p.sampling.seed = 0.0, job["seed"]
    return p


def bound(log: Path) -> None:
    """Keep a running server's log below about LOG_BYTES: what was written moves to log.1, while it is appended to."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copy(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def write_state(job: dict[str, Any], base_url: str) -> None:
    """Publish the endpoint in one step, readable by this user alone."""
    kept = {name: job[name] for name in ("api_key", "instance", "alias", "model_sha256", "log")}
    record = {**kept, "base_url": base_url, "pid": os.getpid(), "started": time.time()}
    write_text(Path(job["state"]), json.dumps(record), mode=0o600)


def remove_state(job: dict[str, Any]) -> None:
    """Remove the state file if it is still ours; a newer server may have written its own."""
    path = Path(job["state"])
    try:
        if json.loads(path.read_text(encoding="utf-8"))["instance"] == job["instance"]:
            path.unlink()
    except (OSError, ValueError, KeyError):
        pass


def wait_for_last_user(job: dict[str, Any], linger_s: float) -> None:
    """Return when nobody held the lease for ``linger_s`` seconds; on return this process holds it alone.

    Holding it keeps a newcomer waiting until this process is gone, so nobody is handed a server that is leaving.
    """
    import fcntl

    pause = min(1.0, max(0.05, linger_s / 4))
    log = Path(job["log"])
    idle_since: float | None = None
    with open(job["lease"], "a", encoding="utf-8") as lease:
        while True:
            time.sleep(pause)
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                idle_since = None
            else:
                now = time.time()
                idle_since = max(now if idle_since is None else idle_since, min(now, os.fstat(lease.fileno()).st_mtime))
                if now - idle_since >= linger_s:
                    leave(job, "the last user has gone")
                fcntl.flock(lease, fcntl.LOCK_UN)
            bound(log)


def leave(job: dict[str, Any], reason: str) -> None:
    """Remove the state and end at once: there is nothing to save, and requests of nobody need no answer."""
    remove_state(job)
    print(f"leaving: {reason}", flush=True)
    os._exit(0)


def main() -> None:
    """Serve until the last user has gone or a signal asks to stop."""
    job = json.loads(sys.stdin.read())
    os.umask(0o077)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda number, frame: leave(job, f"signal {number}"))
    import xllamacpp

    try:
        server = xllamacpp.Server(parameters(job))
    except RuntimeError:  # its own log says why
        sys.exit(3)
    write_state(job, server.listening_address)
    wait_for_last_user(job, float(os.environ.get("COURSE_SERVER_LINGER_S", "30")))


if __name__ == "__main__":
    main()
