"""Runs of labs by the command line, as a learner starts them. All tests of a session share them.

A lab computes for a minute, and many tests wait: for a page, a kernel, a limit of time. So the runs that the selected
tests need are made from the beginning of the session on, one after the other, in a process of their own that gives way
to all others; whoever needs one waits until it is there. A run is named by the code of its lab and ``first`` or
``second``, and a test says what it needs: ``pytestmark = pytest.mark.labs("03 first")``.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ALONE = ("01",)  # labs that score their own seconds: they run when a test asks for them, and at full priority
_ahead: dict[str, subprocess.Popen[bytes]] = {}


def run_lab(code: str, out: Path) -> Path:
    """The submission folder of one run with the lab's own parameters."""
    done = subprocess.run(
        [sys.executable, "-c", "from course_lib.cli import main; main()", "run", code, "--out", str(out), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Path(json.loads(done.stdout)["runs"][0]["folder"])


@functools.cache
def lab_run(name: str) -> Path:
    """The submission folder of a run, made once per session of tests: copy it before you change it."""
    while not (found := _result(_top(), name)).exists() and name in _ahead and _ahead[name].poll() is None:
        time.sleep(0.1)
    if not found.exists():
        _make(_top(), name)
    result = json.loads(found.read_text("utf-8"))
    assert "folder" in result, result["error"]
    return Path(result["folder"])


def first_run(code: str) -> Path:
    return lab_run(f"{code} first")


def run_ahead(names: Iterable[str]) -> None:
    """Starts to make these runs, in this order."""
    if not (wanted := [name for name in dict.fromkeys(names) if name[:2] not in ALONE]):
        return
    process = subprocess.Popen([sys.executable, __file__, str(_top()), *wanted], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, process_group=0)  # fmt: skip
    _ahead.update(dict.fromkeys(wanted, process))
    atexit.register(_stop, process)


@functools.cache
def _top() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lab-runs-"))
    atexit.register(shutil.rmtree, folder, True)
    return folder


def _result(top: Path, name: str) -> Path:
    return top / f"{name}.json"


def _make(top: Path, name: str) -> None:
    """Makes a run; its result, a folder or an error, is there at once or not at all."""
    try:
        result = {"folder": str(run_lab(name.split()[0], top / name))}
    except AssertionError as error:
        result = {"error": str(error)}
    (top / f"{name}.part").write_text(json.dumps(result), "utf-8")
    (top / f"{name}.part").rename(_result(top, name))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends what is still running: a session that was stopped leaves nothing behind."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


if __name__ == "__main__":
    os.nice(10)
    for name in sys.argv[2:]:
        _make(Path(sys.argv[1]), name)
