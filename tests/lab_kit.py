"""A JupyterLab for a test, and what a person does in it: open a notebook, run a cell."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat as nbf

from course_lib import catalog
from course_lib import notebooks as nbs

OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@contextlib.contextmanager
def lab_server(root: Path, work: Path, **env: str) -> Iterator[str]:
    """Serves ``root``; settings, workspaces and the log lie in ``work``. Yields the address."""
    work.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings",
               "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTER_DATA_DIR": "data"}  # fmt: skip
    quiet = work / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # a question in the corner hides buttons
    own = {name: str(work / folder) for name, folder in folders.items()}
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token=", "--allow-root",
               f"--ServerApp.root_dir={root}", "--ServerApp.disable_check_xsrf=True",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"]  # fmt: skip
    with (work / "server.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log,
                                  env=os.environ | {"COURSE_ROOT": str(catalog.repo_root()), **own, **env})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{url}/api/status", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (work / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(20)


@contextlib.contextmanager
def open_page(url: str, notebook: str, width: int = 1200, height: int = 1400) -> Iterator[Any]:
    """A page of headless Chromium on a notebook whose kernel is idle. Nothing beyond this machine can be reached."""
    from playwright.sync_api import sync_playwright

    from course_lib.doctor import find_chromium

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", OFFLINE])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(f"{url}/lab/tree/{notebook}?reset", timeout=60_000)
        idle(page)
        yield page
        browser.close()


@dataclass(frozen=True)
class Shared:
    """A JupyterLab that runs for many tests: its address, the folder that it serves, and its log."""

    url: str
    root: Path
    log: Path

    @contextlib.contextmanager
    def cell(self, name: str, source: str) -> Iterator[Any]:
        """A page on a new notebook ``name`` with one code cell. Its kernel ends with the test."""
        nbs.write(nbs.normalise(nbf.v4.new_notebook(cells=[nbf.v4.new_code_cell(source)])), self.root / f"{name}.ipynb")
        with open_page(self.url, f"{name}.ipynb") as page:
            yield page
        for session in json.load(urllib.request.urlopen(f"{self.url}/api/sessions")):
            end = urllib.request.Request(f"{self.url}/api/sessions/{session['id']}", method="DELETE")
            urllib.request.urlopen(end).close()


def idle(page: Any) -> None:
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(timeout=90_000)


def choose_kernel(page: Any, title: str) -> None:
    """By the button with the kernel's name and the dialog that it opens."""
    name = page.locator(".jp-KernelName", has_text=title)
    for _ in range(8):
        if not _asked(page, title):
            _patiently(lambda: page.locator(".jp-KernelName").first.click(timeout=10_000))
            _patiently(lambda: page.locator(".jp-Dialog").wait_for(timeout=10_000))
            _asked(page, title)
        if _patiently(lambda: name.wait_for(timeout=15_000)):
            break
    assert name.is_visible(), page.locator(".jp-KernelName").all_inner_texts()
    idle(page)


def run_cell(page: Any, shown: Any, log: Path, title: str = "", cell: int = 0) -> None:
    """Runs a code cell until ``shown``, a locator, is there: a key press while the page settles is lost.

    title: the kernel to answer with where the page asks for one. cell: its position among the code cells.
    """
    for _ in range(8):
        _asked(page, title)
        if _patiently(lambda: page.locator(".jp-CodeCell .cm-content").nth(cell).click(timeout=15_000)):
            page.keyboard.press("Shift+Enter")
            if _patiently(lambda: shown.wait_for(timeout=30_000)):
                break
    assert shown.is_visible(), log.read_text()[-2000:]


def _asked(page: Any, title: str = "") -> bool:
    """Answers the question for a kernel, which JupyterLab also asks by itself on a slow machine."""
    ask = page.locator(".jp-Dialog", has_text="Select Kernel")
    if not ask.is_visible():
        return False
    if title:
        ask.locator("select").select_option(label=title)
    ask.locator("button.jp-mod-accept").click()
    return _patiently(lambda: ask.wait_for(state="detached", timeout=15_000))


def _patiently(action: Callable[[], Any]) -> bool:
    """Whether an action was done in its time."""
    from playwright.sync_api import TimeoutError

    try:
        action()
    except TimeoutError:
        return False
    return True
