"""Warm kernels: forked quickly, alike to fresh ones, independent of each other, for every Jupyter program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import lab_kit
import nbformat as nbf
import pytest
from jupyter_client import KernelManager
from typer.testing import CliRunner

from course_grader import kernels
from course_grader.kernels import KERNELSPECS, ForkServer, install_kernelspecs
from course_grader.reexecute import WarmSandboxedExecutor
from course_grader.sandbox import available
from course_lib import cli
from course_lib import notebooks as nbs
from course_lib.doctor import find_chromium
from course_lib.errors import ExecutionError, UsageError
from course_lib.execute import Execution, Limits, PapermillExecutor

LIGHT = ("ipykernel.kernelapp", "ipykernel.ipkernel", "numpy")
LIMITS = Limits(60, 30, 30)
SOURCES = (
    "import numpy\nprint(hash('text'), {'a', 'b', 'c'}, numpy.arange(3))",
    "print(__name__)\nopen('made.txt', 'w').write('1')",
    "from concurrent.futures import ThreadPoolExecutor\nprint(list(ThreadPoolExecutor(4).map(abs, range(-4, 0))))",
    "import subprocess\nprint(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout)",
    "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p:\n    print(p.map(abs, [-1, -2]))",
    "%matplotlib inline\nimport matplotlib\nprint(matplotlib.get_backend())",
    "1 / 0",
)
IS_WARM = "import sys\nprint('numpy' in sys.modules)"
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forking kernels needs Linux")
needs_sandbox = pytest.mark.skipif(not available()[0], reason=available()[1] or "a sandbox works")
both = pytest.mark.parametrize("name", ["course-warm", pytest.param("course-sandbox", marks=needs_sandbox)])
pytestmark = needs_linux


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(LIGHT) as running:
        yield running


def notebook(path: Path, *sources: str) -> Path:
    nbf.write(nbf.v4.new_notebook(cells=[nbf.v4.new_code_cell(source) for source in sources]), path)
    return path


def text(path: Path) -> str:
    return "".join(o.get("text", "") for c in nbs.read(path).cells for o in c.get("outputs", []))


@pytest.fixture(params=[False, pytest.param(True, marks=needs_sandbox)], ids=["plain", "sandboxed"])
def executor(request: pytest.FixtureRequest, server: ForkServer) -> WarmSandboxedExecutor:
    return WarmSandboxedExecutor(sandboxed=request.param, unsafe=not request.param, server=server)


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Execution:
    folder = tmp_path_factory.mktemp("cold")
    return PapermillExecutor().run(notebook(folder / "n.ipynb", *SOURCES), {}, LIMITS, folder / "out")


def test_warm_and_cold_write_the_same_notebook(
    executor: WarmSandboxedExecutor, cold: Execution, tmp_path: Path
) -> None:
    warm = executor.run(notebook(tmp_path / "n.ipynb", *SOURCES), {}, LIMITS, tmp_path / "out")
    assert not warm.ok and "ZeroDivisionError" in warm.error and warm.error == cold.error
    assert text(warm.path) == text(cold.path)
    assert (tmp_path / "out" / "made.txt").exists()


def test_kernels_of_one_server_share_nothing(executor: WarmSandboxedExecutor, tmp_path: Path) -> None:
    source = notebook(tmp_path / "n.ipynb", "import numpy as np, os, sys\nprint(np.random.rand(), 'mark' in dir(sys))\n"
                      "sys.mark = os.environ['MARK'] = 'x'\nnp.random.rand = None")  # fmt: skip
    shown = [text(executor.run(source, {}, LIMITS, tmp_path / name).check().path) for name in ("one", "two")]
    assert all(line.endswith("False\n") for line in shown)
    assert shown[0] != shown[1], "the random state that a fork copies must be replaced"


@pytest.mark.parametrize("sandboxed", [False, pytest.param(True, marks=needs_sandbox)], ids=["plain", "sandboxed"])
def test_a_kernel_looks_for_a_temporary_folder_of_its_own(
    sandboxed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows one already, as after an import that wrote a temporary file; a kernel must not go by that."""
    (tmp_path / "finds_out.py").write_text("import tempfile\nwhere = tempfile.gettempdir()")
    ours = kernels.environment
    monkeypatch.setattr(kernels, "environment", lambda *given: {**ours(*given), "PYTHONPATH": str(tmp_path)})
    source = notebook(tmp_path / "n.ipynb", "import os, sys, tempfile\nmade = os.path.dirname(tempfile.mkdtemp())\n"
                      "known = sys.modules['finds_out'].where\n"
                      "print(made == os.environ.get('TMPDIR', '/tmp'), made == known)")  # fmt: skip
    with ForkServer((*LIGHT, "finds_out")) as running:
        executor = WarmSandboxedExecutor(sandboxed=sandboxed, unsafe=not sandboxed, server=running)
        assert text(executor.run(source, {}, LIMITS, tmp_path / "out").check().path) == "True False\n"


@needs_sandbox
def test_a_cold_kernel_fits_into_the_same_sandbox(tmp_path: Path) -> None:
    source = notebook(tmp_path / "n.ipynb", "import os\nprint(os.getuid(), os.listdir('/home'))")
    run = WarmSandboxedExecutor(warm=False).run(source, {}, LIMITS, tmp_path / "out").check()
    assert text(run.path) == "1000 ['learner']\n"


def test_running_without_a_sandbox_must_be_asked_for_and_is_said() -> None:
    with pytest.raises(UsageError):
        WarmSandboxedExecutor(sandboxed=False)
    assert WarmSandboxedExecutor(sandboxed=False, unsafe=True).isolation == "none"
    assert WarmSandboxedExecutor().isolation == "bubblewrap"


def test_an_import_that_starts_a_thread_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    for body, reason in ((thread, "thread"), ("raise ImportError('not here')", "not here")):
        (tmp_path / "starts_a_thread.py").write_text(body)
        monkeypatch.setattr("course_grader.kernels.environment", lambda: {"PYTHONPATH": str(tmp_path), "PATH": "/bin"})
        with pytest.raises(ExecutionError, match=reason):
            ForkServer(("starts_a_thread",)).start()


def test_a_server_that_has_gone_is_named(tmp_path: Path) -> None:
    server = ForkServer(("json",))
    server.start()
    server.close()
    run = WarmSandboxedExecutor(sandboxed=False, unsafe=True, server=server).run(
        notebook(tmp_path / "n.ipynb", "1"), {}, LIMITS, tmp_path / "out")
    assert not run.ok and not server.path.exists()


def test_a_shared_server_belongs_to_one_state_of_every_package_it_imports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has imported them: after an edit its kernels would run what the files no longer say."""
    monkeypatch.setenv("COURSE_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(kernels.ForkServer, "start", lambda self: None)
    monkeypatch.setattr(kernels, "package", lambda name: tmp_path / name)
    sources = [tmp_path / name / "inner" / "__init__.py" for name in kernels.PACKAGES]
    seen = {kernels.shared_server().path}
    for number, source in enumerate(sources):
        source.parent.mkdir(parents=True)
        source.touch()
        seen.add(kernels.shared_server().path)
        os.utime(source, ns=(number, number))
        seen.add(kernels.shared_server().path)
    assert len(seen) == 1 + 2 * len(sources) and kernels.shared_server().path in seen


@pytest.mark.parametrize("shared", [True, False])
def test_a_server_that_nobody_closes_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: bool
) -> None:
    """A shared one ends by itself, one of a process's own with that process."""
    monkeypatch.setenv("COURSE_KERNEL_LINGER_S", "0.2")
    server = ForkServer(("json",), path=tmp_path / "socket" if shared else None)
    server.start()
    if not shared:
        server._process.stdin.close()
    assert server._process.wait(timeout=10) == 0
    assert not server.path.exists() and not server._folder.exists()


@pytest.fixture
def jupyter(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A prefix with our kernelspecs, and a shared fork server that is light and short-lived."""
    prefix = tmp_path_factory.mktemp("prefix")
    install_kernelspecs(prefix)
    monkeypatch.setenv("JUPYTER_PATH", str(prefix / "share" / "jupyter"))
    monkeypatch.setenv("COURSE_RUNTIME_DIR", str(prefix / "run"))
    monkeypatch.setenv("COURSE_KERNEL_MODULES", " ".join(LIGHT))
    monkeypatch.setenv("COURSE_KERNEL_LINGER_S", "5")
    yield prefix


@both
def test_interrupt_restart_and_end_by_jupyters_own_client(jupyter: Path, name: str) -> None:
    manager = KernelManager(kernel_name=name)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        running = client.execute("import time\ntime.sleep(60)")
        time.sleep(0.5)
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=10)["content"]["ename"] == "KeyboardInterrupt"
        assert running
        client.execute("kept = 1", reply=True, timeout=10)
        client.stop_channels()
        manager.restart_kernel(now=True)
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=30)
        reply = client.execute("kept", reply=True, timeout=10)
        assert reply["content"]["ename"] == "NameError"
        assert manager.is_alive()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert not manager.is_alive()


@both
def test_papermill_takes_the_kernelspec(jupyter: Path, tmp_path: Path, name: str) -> None:
    source, done = notebook(tmp_path / "n.ipynb", IS_WARM), tmp_path / "done.ipynb"
    papermill = [sys.executable, "-m", "papermill", "-k", name, str(source), str(done)]
    subprocess.run(papermill, check=True, capture_output=True, timeout=60)
    assert text(done) == "True\n", "the module was there before the kernel was asked for it"


@both
def test_nbval_takes_the_kernelspec(jupyter: Path, tmp_path: Path, name: str) -> None:
    source = nbf.v4.new_code_cell(IS_WARM, outputs=[nbf.v4.new_output("stream", text="True\n")], execution_count=1)
    nbf.write(nbf.v4.new_notebook(cells=[source]), tmp_path / "n.ipynb")
    nbval = f"pytest -p no:cacheprovider -q --nbval --nbval-kernel-name {name} n.ipynb".split()
    result = subprocess.run([sys.executable, "-m", *nbval], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "1 passed" in result.stdout, result.stdout


@pytest.mark.browser
@pytest.mark.skipif(not find_chromium(), reason="no Chromium on this machine; set COURSE_CHROMIUM to its path")
@both
def test_a_person_chooses_the_kernel_in_jupyterlab(jupyter: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "root").mkdir()
    source = "import os, sys\nprint('numpy' in sys.modules, os.path.isdir('/home/learner'))"
    notebook(tmp_path / "root" / "n.ipynb", source, "21 * 2")
    with (lab_kit.lab_server(tmp_path / "root", tmp_path / "lab") as url,
          lab_kit.open_page(url, "n.ipynb") as page):  # fmt: skip
        lab_kit.choose_kernel(page, KERNELSPECS[name][0])
        shown = page.locator(".jp-OutputArea-output")
        expected = shown.get_by_text(f"True {name == 'course-sandbox'}")
        log = tmp_path / "lab" / "server.log"
        lab_kit.run_cell(page, expected, log, KERNELSPECS[name][0])
        lab_kit.run_cell(page, shown.get_by_text("42", exact=True), log, cell=1)
        if target := os.environ.get("COURSE_SCREENSHOT"):
            page.screenshot(path=target)
        sessions = json.load(urllib.request.urlopen(f"{url}/api/sessions"))
    assert [(session["path"], session["kernel"]["name"]) for session in sessions] == [("n.ipynb", name)]


def test_the_command_offers_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("course_grader.kernels.install_kernelspecs", lambda: install_kernelspecs(tmp_path))
    done = CliRunner().invoke(cli.app, ["kernels"])
    assert done.exit_code == 0 and "course-warm: Python 3 (course, warm)" in done.stdout, done.output
    assert {p.name for p in (tmp_path / "share" / "jupyter" / "kernels").iterdir()} == {"course-warm", "course-sandbox"}


def test_the_kernelspecs_name_the_provisioner(tmp_path: Path) -> None:
    specs = {folder.name: json.loads((folder / "kernel.json").read_text()) for folder in install_kernelspecs(tmp_path)}
    assert set(specs) == {"course-warm", "course-sandbox"}
    for spec in specs.values():
        assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "course-kernel"


def test_a_kernel_ends_with_the_process_that_asked_for_it(server: ForkServer) -> None:
    job = {"argv": ["/bin/sleep", "60"], "connection": None, "connection_file": "", "env": {}, "cwd": "/", "log": None,
           "namespaces": 0, "user": None, "limits": {}}  # fmt: skip
    process = server.fork(job)
    os.kill(process.pid, 0)
    process._caller.close()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{process.pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{process.pid}").exists()
    other = server.fork(job)
    other.send_signal(signal.SIGTERM)
    assert other.wait(timeout=5) == 128 + signal.SIGTERM and other.poll() == other.returncode
