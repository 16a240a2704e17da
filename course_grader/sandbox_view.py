"""What can be seen inside a sandbox (the system, this Python, the learner's part of the course), and what comes out."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from multiprocessing.util import Finalize
from pathlib import Path

HOME = "/home/learner"
USER = 1000
PACKAGES = ("course_lib", "course_lm")
HIDDEN = ("checks", "rubric.py", "grade.py", "exercises.py", "__pycache__")
LOCKED = ("locked*", "SHA256SUMS")
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime", "mime.types")
KEPT_ENV = ("LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "COURSE_SERVER_THREADS", "PYTHONHASHSEED")
# The same number of threads on every machine, so that sums round alike; and threads that wait give their core away
# soon: two kernels of two threads on two cores, spinning as long as libgomp does by itself, take six times as long.
THREADS = {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"}


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a process in a box: a short list of names from ``given``, and the box's own values."""
    from course_lib.catalog import repo_root

    given = os.environ if given is None else given
    fixed = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "HOME": HOME, "USER": "learner",
             "TMPDIR": f"{HOME}/tmp", "COURSE_ROOT": str(repo_root()), "COURSE_RUNTIME_DIR": f"{HOME}/run/server",
             "COURSE_CACHE_DIR": f"{HOME}/.cache/llm-course", "IPYTHONDIR": f"{HOME}/.ipython", "HF_HUB_OFFLINE": "1",
             "TOKENIZERS_PARALLELISM": "false", "ANONYMIZED_TELEMETRY": "False", "OPENBLAS_NUM_THREADS": "1",
             "JE_ARROW_MALLOC_CONF": "background_thread:false"}  # fmt: skip
    return {"LANG": "C.UTF-8"} | THREADS | {name: given[name] for name in KEPT_ENV if name in given} | fixed


@functools.cache
def stage() -> Path:
    """A copy of the course as a learner may see it, made once per process: package, corpus, open questions, vectors."""
    from course_lib.catalog import repo_root

    top, root = Path(tempfile.mkdtemp(prefix="course-view-")), repo_root()
    Finalize(None, shutil.rmtree, (top, True), exitpriority=1)  # a worker process runs no atexit
    for name in PACKAGES:
        shutil.copytree(package(name), top / name, ignore=shutil.ignore_patterns(*HIDDEN))
    shutil.copytree(root / "data" / "corpus", top / "corpus")
    if (root / "data" / "evals").is_dir():
        shutil.copytree(root / "data" / "evals", top / "evals", ignore=shutil.ignore_patterns(*LOCKED))
    (top / "empty").mkdir()
    (top / "passwd").write_text(f"learner:x:{USER}:{USER}::{HOME}:/bin/sh\nroot:x:0:0::/:/bin/false\n")
    with tarfile.open(top / "vectors.tar", "w") as archive:
        for path, name in _vectors():
            entry = archive.gettarinfo(path, name)
            entry.mode = 0o666
            with path.open("rb") as stream:
                archive.addfile(entry, stream)
    for path in (top, *top.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return top


def _vectors() -> Iterator[tuple[Path, str]]:
    """Embeddings of the corpus, so that each box need not compute them: nothing that the corpus does not say."""
    from course_lib.chunking import chunk_document
    from course_lib.corpus import load_corpus
    from course_lib.embeddings import _key, cache_dir, default_embedder

    embedder = default_embedder()
    chunks = [chunk for document in load_corpus().documents for chunk in chunk_document(document)]
    texts = {text for chunk in chunks for text in (chunk.search_text, *chunk.sentences)}
    if embedder.known(texts) < len(texts):
        embedder.encode(sorted(texts))
    for text in sorted(texts):
        path = embedder._path(_key(text))
        if path.is_file():
            yield path, path.relative_to(cache_dir()).as_posix()


def package(name: str) -> Path:
    """Where a package of the course lies, found without importing it."""
    return Path(importlib.util.find_spec(name).origin).parent


def below_tmp() -> bool:
    """Whether the course or its Python lies below /tmp, which then is a disk of its own instead of a link to HOME."""
    return any(path.startswith("/tmp/") for path in (sys.base_prefix, sys.prefix, str(package("course_lib"))))


def exposed_by() -> str:
    """The folder, of those that a box shows whole, in which the course lies with all that grades; empty: in none."""
    from course_lib.catalog import repo_root

    places = ("/usr", sys.base_prefix, sys.prefix)
    return next((place for place in places if repo_root().is_relative_to(Path(place).resolve())), "")


def arguments() -> list[str]:
    """bubblewrap's arguments for all that can be read: destination after destination, parents first."""
    from course_lib.catalog import repo_root

    top, root = stage(), repo_root()
    usr = [name for name in ("bin", "sbin", "lib", "lib64", "lib32") if Path("/", name).exists()]
    links = [name for name in usr if Path("/", name).is_symlink()]
    shown = {"/usr": "/usr"} | {f"/{n}": f"/{n}" for n in usr if n not in links}
    shown |= {f"/etc/{n}": f"/etc/{n}" for n in ETC if Path("/etc", n).exists()}
    shown |= {"/etc/passwd": str(top / "passwd"), "/sys/devices/system/cpu": "/sys/devices/system/cpu"}
    shown |= {path: path for path in (sys.base_prefix, sys.prefix) if not path.startswith("/usr")}
    shown |= {str(package(name)): str(top / name) for name in PACKAGES} | {f"{root}/data/corpus": str(top / "corpus")}
    data = {"evals": top / "evals", "models": root / "data" / "models"}
    shown |= {f"{root}/data/{name}": str(path) for name, path in data.items() if path.is_dir()}
    shown |= {str(path): str(top / "empty") for path in sorted((root / "data/models").glob("*/*"))
              if path.is_dir() and path.name in ("evals", "data", "runs")}  # fmt: skip
    shown |= {f"{root}/notebooks": str(top / "empty"), "/run/vectors.tar": str(top / "vectors.tar")}
    made, found = {"/"}, []
    for place, source in shown.items():
        for parent in [*reversed(Path(place).parents)]:
            if str(parent) not in made and not any(_inside(parent, other) for other in shown if other != place):
                found += ["--perms", "0755", "--dir", str(parent)]
            made.add(str(parent))
        found += ["--ro-bind", source, place]
    return found + [part for name in links for part in ("--symlink", os.readlink(f"/{name}"), f"/{name}")]


def _inside(path: Path, other: str) -> bool:
    return path == Path(other) or Path(other) in path.parents


def copy_tree(
    folder: int, target: Path, prefix: str, left: list[int], keep: set[str], refused: list[str]
) -> None:  # fmt: skip
    """Copy regular files and folders; name everything else in ``refused``. left: bytes and entries that still may come.

    Nothing runs in the box any more, so nothing moves. No link is followed, not even to look at.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted(os.listdir(folder)):
        left[1] -= 1
        kind = os.stat(name, dir_fd=folder, follow_symlinks=False)
        fits = left[1] >= 0 and kind.st_size <= left[0]
        if stat.S_ISDIR(kind.st_mode) and prefix.count("/") < 16:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                copy_tree(inner, target / name, f"{prefix}{name}/", left, set(), refused)
            finally:
                os.close(inner)
        elif stat.S_ISREG(kind.st_mode) and fits and name not in keep:
            left[0] -= kind.st_size
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            with os.fdopen(handle, "rb") as source, open(target / name, "wb") as copy:
                shutil.copyfileobj(source, copy)
        else:
            refused.append(prefix + name)
