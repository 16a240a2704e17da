"""Attacks that reach out: writes, signals, sockets, namespaces, kernels of their own, and lies about the run."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import nbformat as nbf
import pytest

from course_grader.kernels import ForkServer
from course_grader.reexecute import WarmSandboxedExecutor
from course_lib.catalog import repo_root
from course_lib.execute import Limits
from course_lib.submission import Submission


def fingerprint(*folders: Path) -> str:
    files = sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(p).encode() + p.read_bytes() for p in files)).hexdigest()


def test_nothing_of_the_grader_can_be_written(attack: Callable, tmp_path: Path) -> None:
    root = repo_root()
    places = [tmp_path / "gradebook", tmp_path / "sibling"]
    for place in places:
        place.mkdir()
        (place / "results.json").write_text('{"points": 1}')
    site = next(path for path in sys.path if path.endswith("site-packages"))
    inside = ("course_lib/access.py", "figures.json", "rubrics/06_rag.yaml", "data/corpus/users.yaml")
    targets = [*(place / "results.json" for place in places), *(root / name for name in inside)]
    targets += [Path(site) / "evil.pth", Path(site) / "sitecustomize.py", Path(sys.executable)]
    targets += [Path.home() / ".bashrc", Path("/etc/passwd")]
    before = fingerprint(*places, root / "course_lib", root / "rubrics")
    result = attack(
        f"import os\ndone = []\nfor path in {list(map(str, targets))!r}:\n    for mode in ('w', 'a'):\n        try:\n"
        "            os.makedirs(os.path.dirname(path), exist_ok=True)\n            open(path, mode).write('evil')\n"
        "            done.append(path)\n        except OSError:\n            pass\n"
        "print('WROTE', [p for p in done if not p.startswith('/tmp/')])"  # its own /tmp is its own to fill
    )
    assert "WROTE []" in result.text
    assert fingerprint(*places, root / "course_lib", root / "rubrics") == before
    assert not (Path(site) / "evil.pth").exists()


@pytest.mark.parametrize("source", [
    "import os\nos._exit(0)", "import sys\nsys.exit(0)", "raise SystemExit", "import os\nos.abort()",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "import os, signal\nos.killpg(0, signal.SIGTERM)",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "import ctypes\nctypes.string_at(0)", "get_ipython().kernel.do_shutdown(False)\nimport os; os._exit(0)",
])  # fmt: skip
def test_leaving_early_is_never_a_pass(attack: Callable, source: str) -> None:
    result = attack("open('before.txt', 'w').write('1')", source, "open('after.txt', 'w').write('1')")
    assert not result.run.ok and result.run.error
    assert (result.out / "before.txt").exists() and not (result.out / "after.txt").exists()


def test_other_processes_cannot_be_signalled(attack: Callable) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        result = attack(
            f"import os, signal\nfor pid in [1, 2, {os.getpid()}, {bystander.pid}, -1]:\n    try:\n"
            "        os.kill(pid, signal.SIGKILL)\n        print('KILLED', pid)\n    except OSError:\n        pass"
        )
        assert bystander.poll() is None
        bystander.kill()
    if os.getuid() == 0:
        assert result.run.ok and set(result.text.split()) <= {"KILLED", "-1"}, "kill(-1) succeeds and reaches nobody"


def test_no_network_leaves_and_the_tries_are_counted(attack: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, socket.socket(socket.AF_UNIX) as abstract:
        door.settimeout(0.1)
        abstract.bind(f"\0course-test-{os.getpid()}")
        abstract.listen()
        abstract.settimeout(0.1)
        result = attack(
            "import socket, urllib.request\nreached = []\ndef attempt(name, call):\n    try:\n        call()\n"
            "        reached.append(name)\n    except OSError:\n        pass\n"
            "attempt('http', lambda: urllib.request.urlopen('http://93.184.215.14/', timeout=3))\n"
            "attempt('metadata', lambda: urllib.request.urlopen('http://169.254.169.254/latest/', timeout=3))\n"
            "attempt('dns', lambda: socket.getaddrinfo('example.com', 80))\n"
            f"attempt('loopback', lambda: socket.create_connection(('127.0.0.1', {door.getsockname()[1]}), 3))\n"
            "attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53)))\n"
            "attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))\n"
            "attempt('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))\n"
            f"there = chr(0) + 'course-test-{os.getpid()}'\n"
            "attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect(there))\n"
            "print('REACHED', reached)"
        )
        for listener in (door, abstract):
            with pytest.raises(TimeoutError):
                listener.accept()
    assert "REACHED []" in result.text
    assert any("tried to leave" in note for note in result.run.notes), result.run.notes


def test_an_honest_run_is_not_said_to_reach_out(attack: Callable) -> None:
    result = attack("print(seed)")
    assert result.run.ok and result.run.notes == () and result.text == "2\n"


@pytest.mark.parametrize("source", [
    "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "import ctypes\nassert ctypes.CDLL(None).unshare(0x20000) == 0",
    "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/home/learner/tmp', b'tmpfs', 0, None) == 0",
    "import ctypes\nassert ctypes.CDLL(None).umount2(b'/usr', 2) == 0",
    "import ctypes\nassert ctypes.CDLL(None).chroot(b'/home') == 0",
    "import os\nos.setuid(0)",
    "import os\nos.mknod('disk', 0o660 | 0o060000, os.makedev(8, 0))",
    "open('/proc/sys/kernel/hostname', 'w').write('x')",
    "open('/proc/sysrq-trigger', 'w').write('x')",
    "import subprocess\nsubprocess.run(['su', '-c', 'true'], check=True, stdin=subprocess.DEVNULL)",
])  # fmt: skip
def test_no_right_can_be_gained(attack: Callable, source: str) -> None:
    assert not attack(source).run.ok


def test_magics_and_a_kernelspec_of_its_own_stay_in_the_same_sandbox(attack: Callable, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    spec = {"kernelspec": {"name": "evil", "display_name": "evil", "language": "bash",
                           "argv": ["/bin/sh", "-c", f"touch {marker}"]}}  # fmt: skip
    result = attack(
        f"!touch {marker}; id -u; ls /; echo shell-ran", f"%%bash\ntouch {marker}\necho bash-ran; cat /proc/net/dev",
        "import sys\nprint(sys.implementation.name)", metadata=spec,
    )  # fmt: skip
    assert not marker.exists()
    assert "shell-ran" in result.text and "1000" in result.text and "eth" not in result.text
    assert "cpython" in result.text


def test_files_that_python_would_load_are_never_loaded_by_us(attack: Callable, tmp_path: Path) -> None:
    marker = tmp_path / "loaded"
    body = f"open({str(marker)!r}, 'w').write('loaded')"
    names = "json.py sitecustomize.py usercustomize.py conftest.py evil.pth course_lib.py nbformat.py".split()
    result = attack(
        f"for name in {names!r}:\n    open(name, 'w').write({body!r})\n"
        "import pickle\nclass Evil:\n    def __reduce__(self):\n        return (exec, (" + repr(body) + ",))\n"
        "open('state.pkl', 'wb').write(pickle.dumps(Evil()))"
    )
    assert result.run.ok and set(names) <= {p.name for p in result.out.iterdir()}
    Submission.open(result.out).digest()
    assert Path(json.__file__).parent != result.out and not marker.exists()


def test_links_and_pipes_stay_behind_and_are_named(attack: Callable) -> None:
    result = attack("import os\nos.symlink('/etc/shadow', 'README.md')\nos.mkfifo('config.json')\nos.mkdir('d')\n"
                    "os.symlink('..', 'd/up')\nopen('ok.txt', 'w').write('ok')")  # fmt: skip
    assert sorted(p.name for p in result.out.rglob("*")) == ["d", "lab.ipynb", "ok.txt"]
    assert "README.md" in result.run.notes[0] and "d/up" in result.run.notes[0]


def test_the_executed_notebook_is_ours(attack: Callable) -> None:
    result = attack("open('lab.ipynb', 'w').write('{\"cells\": []}')\nprint('mine')")
    assert len(json.loads((result.out / "lab.ipynb").read_text())["cells"]) == 3
    assert any("lab.ipynb" in note for note in result.run.notes)


def test_forged_outputs_do_not_survive_the_run(server: ForkServer, tmp_path: Path) -> None:
    stream = nbf.v4.new_output("stream", text="ALL TESTS PASSED, 20 of 20 points\n")
    cells = [nbf.v4.new_code_cell(source, outputs=[stream], execution_count=n)
             for n, source in enumerate(("1 + 1", "raise ValueError('no')", "print('never')"), 1)]  # fmt: skip
    source = tmp_path / "lab.ipynb"
    nbf.write(nbf.v4.new_notebook(cells=cells), source)
    run = WarmSandboxedExecutor(server=server).run(source, {}, Limits(30, 10, 30), tmp_path / "out")
    assert not run.ok and "ALL TESTS PASSED" not in run.path.read_text()


@pytest.mark.parametrize("patch", [
    "get_ipython().showtraceback = lambda *a, **k: print('20 of 20 points')",
    "get_ipython()._showtraceback = lambda *a, **k: None",
    "import builtins, json\nbuiltins.print = builtins.repr = json.dumps = lambda *a, **k: '{}'",
    "import builtins\nbuiltins.AssertionError = builtins.Exception = type('E', (BaseException,), {})",
    "import sys\nsys.excepthook = lambda *a: None",
])  # fmt: skip
def test_a_failing_cell_fails_however_its_report_is_patched(attack: Callable, patch: str) -> None:
    result = attack(patch, "assert False, 'this fails'", "open('after.txt', 'w').write('1')")
    assert not result.run.ok and result.run.error
    assert not (result.out / "after.txt").exists()


def test_a_link_in_place_of_the_kernels_sockets_leads_nowhere(attack: Callable, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "door"))
        door.listen()
        door.settimeout(0.2)
        result = attack(
            "import os\nfor n in range(1, 6):\n    os.unlink(f'/home/learner/run/k-{n}')\n"
            f"    os.symlink({str(tmp_path / 'door')!r}, f'/home/learner/run/k-{{n}}')",
            "print('still talking to the kernel itself')",
        )
        with pytest.raises(TimeoutError):
            door.accept()
    assert result.run.ok and "still talking" in result.text


def test_nonsense_on_the_kernels_channels_is_an_error_of_the_run(attack: Callable) -> None:
    result = attack(
        "kernel = get_ipython().kernel\nsession = kernel.session\n"
        "header = session.msg('stream', parent=kernel.get_parent())\n"
        "parts = session.serialize(header)\nparts[-1] = b'[' * 100_000\n"
        "for message in (parts, [b'x'] * 9) * 50:\n    kernel.iopub_socket.send_multipart(message)",
        limits=Limits(10, 5, 30),
    )
    assert not result.run.ok


HONEST = ("import random, hashlib\nrandom.seed(seed)\nrows = [random.random() for _ in range(1000)]",
          "open('rows.txt', 'w').write(repr(rows))\nprint(hashlib.sha256(repr(rows).encode()).hexdigest())")
EVIL = ("import os\nopen('/tmp/shared', 'w').write('evil')\nwhile True:\n    os.fork()",
        "kept = []\nwhile True:\n    kept.append(b'x' * (8 << 20))",
        "while True:\n    print('x' * 100_000)")  # fmt: skip


def test_a_neighbour_scores_as_if_alone(attack: Callable) -> None:
    alone = attack(*HONEST, name="alone")
    done: dict[str, object] = {}

    def run(name: str, *sources: str, **caps: int) -> None:
        done[name] = attack(*sources, name=name, **caps)

    jobs = [("honest", *HONEST), *((f"evil-{n}", source) for n, source in enumerate(EVIL))]
    threads = [threading.Thread(target=run, args=job, kwargs={"processes": 20, "memory_bytes": 400 << 20} if n else {})
               for n, job in enumerate(jobs)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done["honest"].run.ok
    for name in ("lab.ipynb", "rows.txt"):
        assert (done["honest"].out / name).read_bytes() == (alone.out / name).read_bytes()
    assert not any(done[f"evil-{n}"].run.ok for n in range(len(EVIL)))
