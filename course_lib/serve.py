"""The server process itself; ``course_lib.server`` starts it. Reads one JSON object on standard input, then serves.

The key comes by standard input, so that neither the process list nor the environment shows it. Output goes to the log.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from course_lib.server import LOG_BYTES


def parameters(job: dict[str, Any]) -> Any:
    """llama.cpp's settings for one job: greedy, seeded, continuous batching, the model's own chat template."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = job["model"]
    p.model_alias = {job["alias"]}
    p.hostnames, p.port = ["127.0.0.1"], 0
    p.api_keys = [job["api_key"]]
    p.cors_origins = "http://127.0.0.1"
    p.ui = False
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


def write_state(job: dict[str, Any], base_url: str) -> None:
    """Publish the endpoint in one step, readable by this user alone."""
    kept = {name: job[name] for name in ("api_key", "instance", "alias", "model_sha256", "log")}
    record = {**kept, "base_url": base_url, "pid": os.getpid(), "started": time.time()}
    path = Path(job["state"])
    temporary = path.with_suffix(f".{job['instance']}.tmp")
    with open(temporary, "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)) as stream:
        json.dump(record, stream)
    os.replace(temporary, path)


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
            if log.exists() and log.stat().st_size > LOG_BYTES:
                shutil.copy(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)


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

    server = xllamacpp.Server(parameters(job))
    write_state(job, server.listening_address)
    wait_for_last_user(job, float(os.environ.get("COURSE_SERVER_LINGER_S", "30")))


if __name__ == "__main__":
    main()
