"""The embedded server: started once, shared, stopped with its last user, and recovered after every kind of crash."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_gguf import write_tiny_gguf

from course_lib import serve, server
from course_lib.errors import ModelError
from course_lib.server import Endpoint, ServerConfig

pytest.importorskip("xllamacpp", reason="the embedded server needs xllamacpp")
ROOT = Path(__file__).resolve().parent.parent
LINGER_S = 0.6
USER = """
import json, sys, time
from pathlib import Path
from course_lib import serve, server
e = server.ensure(server.ServerConfig(Path(sys.argv[1]), "course-lm-instruct"))
print(json.dumps([e.pid, e.base_url, e.instance]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "run"
    monkeypatch.setenv("COURSE_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("COURSE_SERVER_LINGER_S", str(LINGER_S))
    monkeypatch.setattr(server, "_leases", {})
    yield folder
    for lease in server._leases.values():
        lease.close()
    server.stop()


@pytest.fixture
def user(gguf: Path, runtime: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that connects and then waits; its first line says which server it got."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", USER, str(gguf)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        started.append(subprocess.Popen(command, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _got(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    assert process.stdout is not None
    pid, url, instance = json.loads(process.stdout.readline())
    return pid, url, instance


def _gone(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def _ensure(gguf: Path, **settings: Any) -> Endpoint:
    return server.ensure(ServerConfig(gguf, "course-lm-instruct", **settings), timeout_s=30)


def test_six_processes_at_once_get_one_server_and_it_leaves_with_the_last(user: Callable[[], Any]) -> None:
    users = [user() for _ in range(6)]
    got = {_got(process) for process in users}
    assert len(got) == 1
    pid = got.pop()[0]
    for process in users[:-1]:
        process.kill()  # kill -9: nothing in the user process can clean up
        process.wait()
    time.sleep(3 * LINGER_S)
    assert not _gone(pid, 0.1), "one user is left, the server must stay"
    users[-1].kill()
    users[-1].wait()
    assert _gone(pid), "the last user is gone, the server must leave"
    assert server.status() == []


def test_an_idle_server_serves_a_user_who_comes_back_within_the_linger(
    user: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURSE_SERVER_LINGER_S", "20")
    first = user()
    got = _got(first)
    first.kill()
    first.wait()
    assert _got(user()) == got


def test_a_killed_server_is_replaced_although_its_state_file_stays(gguf: Path, runtime: Path) -> None:
    before = _ensure(gguf)
    os.kill(before.pid, signal.SIGKILL)
    assert _gone(before.pid)
    assert list(runtime.glob("*.json")), "kill -9 leaves the state behind"
    after = _ensure(gguf)
    assert after.pid != before.pid and after.api_key != before.api_key


def test_a_hung_server_is_replaced(gguf: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _ensure(gguf)
    os.kill(before.pid, signal.SIGSTOP)
    while psutil.Process(before.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    monkeypatch.setattr(server, "_answers", _impatient(server._answers))
    after = _ensure(gguf)
    assert after.pid != before.pid and _gone(before.pid)


def _impatient(answers: Callable[[str, float], bool]) -> Callable[[str, float], bool]:
    return lambda url, timeout_s: answers(url, 0.3)


def test_a_state_file_that_names_another_program_or_is_torn_is_not_believed(gguf: Path, runtime: Path) -> None:
    before = _ensure(gguf)
    state = next(runtime.glob("*.json"))
    record = json.loads(state.read_text())
    os.kill(before.pid, signal.SIGKILL)
    _gone(before.pid)
    state.write_text(json.dumps(record | {"pid": os.getpid()}))  # the number now belongs to this test
    assert server.status() == []
    middle = _ensure(gguf)
    assert middle.pid != os.getpid() and psutil.pid_exists(os.getpid())
    state.write_text(state.read_text()[:40])
    assert server.status() == []
    os.kill(middle.pid, signal.SIGKILL)
    assert _ensure(gguf).pid != middle.pid


def test_other_bytes_or_settings_get_a_server_of_their_own(gguf: Path, runtime: Path, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(gguf.read_bytes())
    first = _ensure(gguf)
    assert _ensure(copy).pid == first.pid, "equal bytes are the same model, whatever the file is called"
    assert _ensure(other).pid != first.pid
    assert _ensure(gguf, parallel=4).pid != first.pid
    assert len(server.status()) == 3


def test_the_key_is_needed_and_hidden(gguf: Path, runtime: Path) -> None:
    import http.client

    endpoint = _ensure(gguf)
    host = endpoint.base_url.removeprefix("http://")

    def ask(headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", "/slots", headers=headers)
        return connection.getresponse().status

    assert ask({}) == 401 and ask({"x-api-key": "guess"}) == 401
    assert ask({"x-api-key": endpoint.api_key}) == 200
    process = psutil.Process(endpoint.pid)
    assert endpoint.api_key not in " ".join(process.cmdline()) + str(process.environ()) + repr(endpoint)
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in [*runtime.glob("*.json"), *runtime.glob("*.log")])
    assert host.startswith("127.0.0.1:")


def test_a_program_that_a_user_starts_does_not_hold_the_lease(user: Callable[[], Any], gguf: Path) -> None:
    endpoint = _ensure(gguf)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        for lease in server._leases.values():
            lease.close()
        server._leases.clear()
        assert _gone(endpoint.pid)
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:100_000], "cannot be loaded"),
        (lambda data: b"not a model" * 500, "not a GGUF file"),
        (lambda data: b"", "not a GGUF file"),
    ],
)
def test_a_corrupt_model_is_an_error_that_says_so(
    gguf: Path, runtime: Path, tmp_path: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damage(gguf.read_bytes()))
    with pytest.raises(ModelError, match=says) as caught:
        _ensure(bad)
    assert caught.value.where and caught.value.fix
    assert server.status() == []
    assert _ensure(gguf).pid, "a failed start must not block the next"


def test_the_error_of_a_failed_start_shows_the_end_of_the_log(gguf: Path, runtime: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(gguf.read_bytes()[:100_000])
    with pytest.raises(ModelError) as caught:
        _ensure(bad)
    assert "failed to load model" in str(caught.value)
    assert Path(caught.value.where).is_file() and Path(caught.value.where).parent == runtime


def test_a_missing_file_and_a_missing_package_are_named(
    gguf: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="there is no model file"):
        _ensure(gguf.with_name("absent.gguf"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package xllamacpp"):
        _ensure(gguf)


def test_logs_are_rotated_and_bounded_in_number(gguf: Path, runtime: Path) -> None:
    for _ in range(6):
        endpoint = _ensure(gguf)
        os.kill(endpoint.pid, signal.SIGKILL)
        _gone(endpoint.pid)
    logs = sorted(path.name.split(".", 1)[1] for path in runtime.glob("*.log*"))
    assert logs == ["log", "log.1", "log.2", "log.3"]


def test_the_log_of_a_running_server_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "LOG_BYTES", 100)
    log = tmp_path / "x.log"
    with open(log, "ab", buffering=0) as sink:
        for number in range(30):
            sink.write(b"%09d\n" % number)
            serve.bound(log)
    assert log.stat().st_size <= 100 and log.read_bytes().endswith(b"000000029\n")
    assert log.with_suffix(".log.1").stat().st_size <= 120


def test_a_foreign_runtime_folder_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ModelError, match="belongs to another user"):
        patch.setattr(os, "getuid", lambda: 424242)
        server.runtime_dir()
    (runtime.parent / "file").write_text("")
    with monkeypatch.context() as patch, pytest.raises(ModelError, match="cannot be made"):
        patch.setenv("COURSE_RUNTIME_DIR", str(runtime.parent / "file" / "run"))
        server.runtime_dir()


def test_a_forked_child_shares_the_lease_and_ends_it_only_with_both(gguf: Path, runtime: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from course_lib import serve, server
e = server.ensure(server.ServerConfig(Path(sys.argv[1]), "course-lm-instruct"))
if os.fork():
    print(e.pid, flush=True)
    os._exit(0)
time.sleep(2.0)
again = server.ensure(server.ServerConfig(Path(sys.argv[1]), "course-lm-instruct"))
print(again.pid, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code, str(gguf)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    parent, child = done.stdout.split()
    assert parent == child, "the child outlived its parent by more than the linger and kept the server"
    assert _gone(int(parent))
