"""The doctor is quick, never raises, and every complaint comes with a way out."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from course_lib import catalog, doctor

NAMES = ["Python", "packages", "memory", "disk", "CPU", "write access", "loopback", "model in use", "embedded server",
         "course-lm", "embedder", "GPU", "bubblewrap", "Chromium"]


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data/models/course-lm").mkdir(parents=True)
    (tmp_path / "requirements.lock").write_text("pytest==0.0.1\nnot-a-package==1.0  # via x\n")
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path))
    monkeypatch.delenv("COURSE_LM_GGUF", raising=False)
    return tmp_path


def by_name() -> dict[str, doctor.Check]:
    return {c.name: c for c in doctor.diagnose()}


def test_this_machine_is_diagnosed_completely() -> None:
    checks = doctor.diagnose()
    assert [c.name for c in checks] == NAMES
    for check in checks:
        assert check.found and (check.ok is True or check.fix), check
        assert check.ok is not True or check.fix == ""


def test_it_is_quick_and_loads_nothing_heavy() -> None:
    code = ("import time, sys; start = time.perf_counter(); from course_lib.doctor import diagnose; diagnose(); "
            "heavy = {'torch', 'numpy', 'transformers', 'chromadb', 'anthropic', 'matplotlib'} & set(sys.modules); "
            "assert not heavy, heavy; print(time.perf_counter() - start)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10  # far above the usual fifth of a second: this guards against imports and hangs


def test_what_is_missing_is_named_with_its_fix(course: Path) -> None:
    checks = by_name()
    assert checks["packages"].ok is False and "pytest (want 0.0.1)" in checks["packages"].found
    assert "not-a-package" in checks["packages"].found and "make setup" in checks["packages"].fix
    assert checks["course-lm"].ok is False and checks["course-lm"].fix


def test_model_files_are_compared_with_their_checksums(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = course / "data/models/course-lm"
    (folder / "base").mkdir()
    (folder / "base/model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  base/model.safetensors\n")
    assert by_name()["course-lm"].ok is True
    (folder / "base/model.safetensors").write_bytes(b"other")
    assert by_name()["course-lm"].ok is False and "base/model.safetensors" in by_name()["course-lm"].found
    (folder / "SHA256SUMS").write_text("")
    assert by_name()["course-lm"].ok is False, "an empty list proves nothing"
    (folder / "SHA256SUMS").unlink()
    monkeypatch.setenv("COURSE_LM_GGUF", str(folder / "base/model.safetensors"))
    assert by_name()["course-lm"].ok is True
    monkeypatch.setenv("COURSE_LM_GGUF", str(folder / "nothing.gguf"))
    assert by_name()["course-lm"].ok is False


def test_other_embedder_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"not the weights")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: spec)
    check = by_name()["embedder"]
    assert check.ok is False and "other weights" in check.found


def test_nothing_makes_it_raise(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no")

    (course / "requirements.lock").unlink()
    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(doctor.shutil, "disk_usage", refuse)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", refuse)
    checks = by_name()
    for name in ("packages", "write access", "loopback", "disk", "embedded server", "embedder"):
        assert checks[name].ok is False and "could not look" in checks[name].found and checks[name].fix
    monkeypatch.setenv("COURSE_ROOT", "/nowhere")
    assert len(doctor.diagnose()) == len(NAMES)


def test_small_machines_and_hung_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2 * doctor.GIB, available=doctor.GIB))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=doctor.GIB))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "nvidia-smi" else None)

    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 1)

    monkeypatch.setattr(doctor.subprocess, "run", hang)
    monkeypatch.delenv("COURSE_CHROMIUM", raising=False)
    checks = by_name()
    assert checks["memory"].ok is False and checks["disk"].ok is False
    for optional in ("GPU", "bubblewrap", "Chromium"):
        assert checks[optional].ok is None and checks[optional].fix


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(returncode=0, stdout="NVIDIA Test, 81559 MiB\n")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: done)
    assert by_name()["GPU"].found == "NVIDIA Test, 81559 MiB" and by_name()["GPU"].ok is True


def test_keys_never_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-secret")
        assert "secret" not in repr(doctor.diagnose()) and f"from {name}" in by_name()["model in use"].found
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://user:secret@127.0.0.1:8000")
    assert "secret" not in repr(doctor.diagnose()) and "127.0.0.1:8000" in by_name()["model in use"].found


def test_the_root_is_left_clean() -> None:
    doctor.diagnose()
    assert not list(catalog.repo_root().glob(".doctor-*"))
