"""Runs of labs by the command line, as a learner starts them; the first run of each lab is shared by all tests."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def run_lab(code: str, out: Path) -> Path:
    """The submission folder of one run with the lab's own parameters."""
    done = subprocess.run(
        [sys.executable, "-c", "from course_lib.cli import main; main()", "run", code, "--out", str(out), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Path(json.loads(done.stdout)["runs"][0]["folder"])


@functools.cache
def first_run(code: str) -> Path:
    """One run of a lab, made once per session of tests: copy the folder before you change it."""
    top = Path(tempfile.mkdtemp(prefix=f"lab-{code}-"))
    atexit.register(shutil.rmtree, top, True)
    return run_lab(code, top)
