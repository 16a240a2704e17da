"""The box itself: where it cannot work, what it lets out, how it ends. Attacks are in tests/adversarial."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from course_grader import sandbox_view
from course_grader.namespaces import OUTER_USER
from course_grader.sandbox import Box, Caps, available, require
from course_grader.sandbox_view import HIDDEN, HOME, environment, stage
from course_lib.catalog import repo_root
from course_lib.errors import ExecutionError

needs_sandbox = pytest.mark.skipif(not available()[0], reason=available()[1] or "a sandbox works")


def python(box: Box, source: str) -> tuple[int, str]:
    status = box.popen([sys.executable, "-c", source]).wait(timeout=30)
    return status, box.log()


def test_without_bubblewrap_nothing_is_executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    available.cache_clear()
    try:
        assert available()[0] is False
        with pytest.raises(ExecutionError, match="without a sandbox") as caught:
            require()
        assert "--unsafe-no-sandbox" in caught.value.fix
        assert "bubblewrap is not installed" in caught.value.where or not sys.platform.startswith("linux")
    finally:
        available.cache_clear()


@needs_sandbox
def test_a_bubblewrap_that_cannot_work_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    available.cache_clear()
    try:
        ok, reason = available()
        assert not ok and "No permissions" in reason
    finally:
        available.cache_clear()


@needs_sandbox
@pytest.mark.parametrize("name", ["prefix", "base_prefix"])
def test_a_course_inside_what_every_box_shows_has_no_sandbox(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert sandbox_view.exposed_by() == ""
    monkeypatch.setattr(sandbox_view.sys, name, str(repo_root().parent))
    available.cache_clear()
    try:
        ok, reason = available()
        assert not ok and f"the course lies inside {repo_root().parent}, which a sandbox shows" in reason
    finally:
        available.cache_clear()


def test_the_environment_is_made_and_not_inherited() -> None:
    made = environment({"ANTHROPIC_API_KEY": "secret", "LANG": "de_DE", "PYTHONPATH": "/x", "LD_PRELOAD": "/x.so"})
    assert made["LANG"] == "de_DE" and "secret" not in made.values()
    assert not {"PYTHONPATH", "LD_PRELOAD", "ANTHROPIC_API_KEY"} & set(made)


def test_the_view_of_the_course_leaves_out_what_grades() -> None:
    package = {p.name for p in (stage() / "course_lib").iterdir()}
    assert {"access.py", "retrieval.py", "models.py"} <= package
    assert not package & {"checks", "rubric.py", "grade.py", "exercises.py"} and "checks" in HIDDEN
    assert (stage() / "course_lm" / "model.py").is_file() and not (stage() / "course_grader").exists()
    assert {p.name for p in (stage() / "evals/rag").iterdir()} == {"DATA_CARD.md", "dev.jsonl", "hostile.json"}


def staged_in(folder: Path) -> None:
    stage.cache_clear()
    tempfile.tempdir = str(folder)
    assert stage().parent == folder


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="workers are spawned here")
def test_a_worker_takes_its_view_of_the_course_along(tmp_path: Path) -> None:
    worker = multiprocessing.get_context("forkserver").Process(target=staged_in, args=(tmp_path,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0 and list(tmp_path.iterdir()) == []


@needs_sandbox
def test_exit_status_and_signals_pass_through() -> None:
    with Box() as box:
        assert python(box, "raise SystemExit(7)")[0] == 7
        waiting = box.popen([sys.executable, "-c", "import time\nprint('up', flush=True)\ntime.sleep(60)"])
        while "up" not in box.log():
            time.sleep(0.01)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=10) in (1, 128 + signal.SIGINT)
        assert "KeyboardInterrupt" in box.log()


@needs_sandbox
def test_the_log_is_the_one_of_the_box_whatever_its_folder_becomes(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file of the host")
    with Box() as box:
        status, log = python(box, f"import os\nprint('mine', flush=True)\nos.rename('{HOME}/run', '{HOME}/away')\n"
                                  f"os.symlink({str(tmp_path)!r}, '{HOME}/run')")  # fmt: skip
    assert (status, log) == (0, "mine\n")


@needs_sandbox
def test_only_plain_files_come_out_and_only_once_nothing_runs(tmp_path: Path) -> None:
    with Box() as box:
        python(box, "import os\nos.makedirs('a/b')\nopen('a/b/c.txt', 'w').write('c')\n"
                    "os.symlink('c.txt', 'a/b/link')\nos.mkfifo('pipe')\nopen('kept.txt', 'w').write('evil')")
        (tmp_path / "kept.txt").write_text("ours")
        left = box.collect(tmp_path, keep=("kept.txt",))
        with pytest.raises(OSError):
            os.listdir(box.path("/"))
    assert left == ["a/b/link", "kept.txt", "pipe"]
    assert (tmp_path / "a/b/c.txt").read_text() == "c" and (tmp_path / "kept.txt").read_text() == "ours"


@needs_sandbox
def test_copying_out_stops_at_the_caps(tmp_path: Path) -> None:
    with Box(Caps(disk_bytes=32 << 20)) as box:
        python(box, "for name in ('sparse-1', 'sparse-2'):\n    open(name, 'wb').truncate(20 << 20)")
        assert box.collect(tmp_path) == ["sparse-2"]


@needs_sandbox
def test_memory_that_forks_share_counts_once() -> None:
    source = ("import os, time\nblock = bytearray(os.urandom(1 << 20) * 120)\nfor n in range(5):\n"
              "    os.fork() or time.sleep(2) or os._exit(0)\ntime.sleep(1.5)\nprint('done')")  # fmt: skip
    with Box(Caps(memory_bytes=300 << 20)) as box:
        assert python(box, source) == (0, "done\n") and box.cause == ""


@needs_sandbox
def test_the_clock_of_a_box_is_a_limit_of_its_own() -> None:
    with Box(Caps(wall_s=0.5)) as box:
        status, _ = python(box, "import time\ntime.sleep(60)")
    assert status == 128 + signal.SIGKILL and box.cause == "time" and "time was over" in box.why()


@needs_sandbox
def test_a_box_ends_with_the_process_that_made_it() -> None:
    source = ("import sys, time\nfrom course_grader.sandbox import Box\nbox = Box().__enter__()\n"
              "box.popen(['/bin/sleep', '61'])\nprint(box.pid, flush=True)\ntime.sleep(60)")  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as maker:
        pid = int(maker.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        maker.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
    owners = [p.stat().st_uid for p in Path("/proc").glob("[0-9]*") if p.exists()]
    assert OUTER_USER not in owners or os.getuid() != 0


@needs_sandbox
def test_two_boxes_do_not_see_each_other() -> None:
    with Box() as one, Box() as two:
        python(one, "import time\nopen('/tmp/mine', 'w').write('1')")
        status, said = python(two, "import os\nprint('mine' in os.listdir('/tmp'))\nprint(os.listdir('.') == [])")
    assert (status, said) == (0, "False\nTrue\n")
    assert one.cause == two.cause == ""


@needs_sandbox
def test_course_lm_answers_inside_and_nothing_else_does() -> None:
    source = ("from course_lib import connect\nfrom course_lib.models import default_model\nc = connect()\n"
              "said = [{'role': 'user', 'content': 'Hi'}]\n"
              "m = c.messages.create(model=default_model(c), max_tokens=8, messages=said)\n"
              "print(m.usage.output_tokens > 0, c.base_url.host)")  # fmt: skip
    with Box() as box:
        status, said = python(box, source)
    assert status == 0 and said.strip().endswith("True 127.0.0.1"), said


@needs_sandbox
def test_the_box_is_what_the_defaults_say() -> None:
    caps = Caps()
    assert (caps.memory_bytes, caps.processes, caps.disk_bytes, caps.output_bytes) == (4 << 30, 256, 1 << 30, 10 << 20)
    source = ("import os, resource as r\ns = os.statvfs('/home/learner')\nprint(s.f_blocks * s.f_frsize)\n"
              "print([r.getrlimit(n)[1] for n in (r.RLIMIT_NPROC, r.RLIMIT_CORE)])")  # fmt: skip
    with Box() as box:
        assert python(box, source) == (0, f"{1 << 30}\n[1024, 0]\n")
