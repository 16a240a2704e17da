"""Attacks on time, processes, memory, disk and output. Each is stopped, named, and leaves no survivor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from course_lib.execute import Limits

MB = 1 << 20


def test_a_loop_that_ignores_every_signal_is_killed_and_keeps_what_it_proved(attack: Callable) -> None:
    result = attack(
        "open('proved.txt', 'w').write('yes')",
        "import signal, time\nfor n in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(n, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))\nwhile True:\n    time.sleep(1000)",
        limits=Limits(2, 2, 30),
    )
    assert not result.run.ok and result.run.cause == "time" and result.run.seconds < 10
    assert (result.out / "proved.txt").read_text() == "yes"


def test_sleep_in_c_is_killed(attack: Callable) -> None:
    result = attack("import ctypes\nctypes.CDLL(None).sleep(1000)", limits=Limits(2, 2, 30))
    assert result.run.cause == "time" and result.run.seconds < 10


@pytest.mark.parametrize("source", [
    "import os\nwhile True:\n    os.fork()",
    "import os\nwhile True:\n    try:\n        os.fork() or os.setsid()\n    except OSError:\n        pass",
    "import subprocess\nwhile True:\n    subprocess.Popen(['sleep', '1000'])",
])  # fmt: skip
def test_a_fork_bomb_ends_at_the_cap(attack: Callable, source: str) -> None:
    result = attack(source, limits=Limits(15, 15, 30), processes=20)
    assert not result.run.ok
    assert result.run.cause in ("processes", "memory") or "BlockingIOError" in result.run.error


def test_the_kernel_itself_holds_the_number_of_tasks(attack: Callable) -> None:
    result = attack(
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()",
        processes=20,
    )
    assert "can't start new thread" in result.run.error


def test_a_detached_daemon_does_not_survive(attack: Callable) -> None:
    result = attack(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        open('/proc/self/comm', 'w').write('evil-daemon')\n        while True:\n"
        "            open('/home/learner/out/beat', 'a').write('x')\n            time.sleep(0.01)\n    os._exit(0)\n"
        "time.sleep(0.5)\nprint(os.path.getsize('beat'))"
    )
    assert result.run.ok, "to leave a daemon behind is not an error by itself"
    size = (result.out / "beat").stat().st_size
    names = [p.read_text(errors="replace") for p in Path("/proc").glob("[0-9]*/comm") if p.exists()]
    assert "evil-daemon\n" not in names
    time.sleep(0.1)
    assert (result.out / "beat").stat().st_size == size > 0


def test_fifty_gigabytes_are_refused_at_once(attack: Callable) -> None:
    result = attack("print('before')", "block = bytearray(50 << 30)")
    assert "MemoryError" in result.run.error and "before" in result.text


@pytest.mark.parametrize("source", [
    "kept = []\nwhile True:\n    kept.append(b'x' * (8 << 20))",
    "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 8 << 20))\n    kept[-1].write(b'x' * 8000000)",
    "import os\nfor n in range(6):\n    os.fork()\nkept = []\nwhile True:\n    kept.append(b'x' * (1 << 20))",
])  # fmt: skip
def test_memory_that_adds_up_is_named(attack: Callable, source: str) -> None:
    result = attack(source, memory_bytes=400 * MB)
    assert result.run.cause == "memory" and "memory" in result.run.error


@pytest.mark.parametrize("folder", [".", "/tmp", "/dev/shm", "/home/learner"])
def test_a_full_disk_is_an_error_of_the_cell(attack: Callable, folder: str) -> None:
    result = attack(f"with open('{folder}/fill', 'wb') as f:\n    while True:\n        f.write(b'x' * (1 << 20))",
                    disk_bytes=80 * MB)  # fmt: skip
    assert "No space left" in result.run.error or "File too large" in result.run.error
    assert result.run.cause == ""


@pytest.mark.parametrize("folder", ["/", "/dev", "/run", "/usr/local", "/proc", "/var/tmp"])
def test_nothing_else_can_be_written(attack: Callable, folder: str) -> None:
    result = attack(f"open('{folder}/fill', 'wb')")
    assert not result.run.ok and "Error" in result.run.error


def test_a_million_files_end_at_the_cap(attack: Callable) -> None:
    result = attack("for n in range(1_000_000):\n    open(f'f{n}', 'w').close()", files=3000)
    assert result.run.cause == "files"
    assert len(list(result.out.iterdir())) <= 3001


@pytest.mark.parametrize("source", [
    "while True:\n    print('x' * 100_000)",
    "print('x' * (1 << 28))",
    "from IPython.display import display\nwhile True:\n    display({'text/plain': 'x' * 100_000}, raw=True)",
    "import os\nwhile True:\n    os.write(2, b'x' * 100_000)",
])  # fmt: skip
def test_endless_output_is_cut_off(attack: Callable, source: str) -> None:
    result = attack(source, limits=Limits(20, 20, 30))
    assert not result.run.ok and result.run.cause in ("output", "time", "memory"), result.run
    assert result.run.path.stat().st_size < 16 * MB
    assert result.run.cause == "output" or "os.write" in source, result.run


def test_a_sparse_file_of_terabytes_is_not_copied(attack: Callable) -> None:
    result = attack("import os\nf = open('sparse', 'wb')\nos.truncate('sparse', 1 << 40)", disk_bytes=80 * MB)
    assert not (result.out / "sparse").exists() or (result.out / "sparse").stat().st_size <= 80 * MB
