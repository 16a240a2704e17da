"""From asking for a kernel to the course's libraries being imported: a fresh kernel, and a warm one in the sandbox.

    python tests/benchmarks/kernel_start.py [--cold 5] [--warm 20]

Both go through Jupyter's own client by their kernelspec. The warm time includes making the sandbox. What is paid once,
the start of the fork server, is told beside it. Prints JSON; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

IMPORTS = "import torch, transformers, trl, chromadb, sentence_transformers"


def seconds(name: str) -> float:
    """One kernel: start, wait until it is ready, import. Raises RuntimeError when the import fails."""
    from jupyter_client import KernelManager

    manager = KernelManager(kernel_name=name)
    started = time.perf_counter()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=600)
        reply = client.execute(IMPORTS, reply=True, timeout=600)["content"]
        if reply["status"] != "ok":
            raise RuntimeError(f"{name}: {reply['ename']}: {reply['evalue']}")
        return time.perf_counter() - started
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cold", type=int, default=5)
    parser.add_argument("--warm", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as prefix:
        os.environ.update(JUPYTER_PATH=str(Path(prefix, "share", "jupyter")), COURSE_KERNEL_LINGER_S="60",
                          COURSE_RUNTIME_DIR=str(Path(prefix, "run")), OMP_NUM_THREADS="2")  # fmt: skip
        from course_grader.kernels import install_kernelspecs, shared_server
        from course_grader.sandbox import require

        require()
        install_kernelspecs(prefix)
        started = time.perf_counter()
        shared_server()
        server_s = time.perf_counter() - started
        seconds("course-sandbox"), seconds("python3")  # files into the cache, for both
        warm = [seconds("course-sandbox") for _ in range(given.warm)]
        plain = [seconds("course-warm") for _ in range(given.warm)]
        cold = [seconds("python3") for _ in range(given.cold)]
    times = {"cold": cold, "warm_sandboxed": warm, "warm": plain}
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(json.dumps({
        **{f"kernel_start_{name}_p50_s": round(value, 3) for name, value in middle.items()},
        "ratio": round(middle["cold"] / middle["warm_sandboxed"], 1), "fork_server_start_s": round(server_s, 1),
        "cold_s": [round(t, 3) for t in cold], "warm_sandboxed_s": [round(t, 3) for t in warm],
        "load_average": os.getloadavg()[0], "cores": os.cpu_count(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
