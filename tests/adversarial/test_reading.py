"""Attacks that look for what a learner must not see: rubrics, checkers, keys, other submissions, secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from course_lib.catalog import repo_root

CANARY = "CANARY-7f3e9a52"
SEARCH = """
import gc, inspect, os, sys
needles = {needles!r}  # spelt backwards, so that the search does not find itself
found = []
for top, folders, files in os.walk("/"):
    if top.startswith(("/usr", "/sys", sys.prefix, sys.base_prefix)) or top.count("/") > 12:
        folders[:] = []
        continue
    for name in files:
        path = os.path.join(top, name)
        if not os.path.isfile(path):
            continue
        try:
            with open(path, "rb") as stream:
                readable = not top.startswith("/proc") or name in ("environ", "cmdline", "maps")
                data = stream.read(1 << 20) if readable else b""
        except OSError:
            continue
        found += [(path, word[:8]) for word in needles if word.encode() in data[::-1]]
words = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
texts = [v for o in words for v in (o.values() if isinstance(o, dict) else o) if isinstance(v, str) and len(v) < 100000]
frame = inspect.currentframe()
while frame:
    texts += [v for v in {{**frame.f_globals, **frame.f_locals}}.values() if isinstance(v, str)]
    frame = frame.f_back
texts += list(os.environ.values()) + sys.argv
found += [("memory", word[:8]) for word in needles for text in texts if word in text[::-1]]
print("FOUND", found)
"""


def test_no_canary_of_the_grader_is_in_sight(
    attack: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = json.loads((repo_root() / "data/evals/rag/locked_test.jsonl").read_text().splitlines()[0])["question"]
    guidance = "A list of ids without causes earns nothing"
    assert guidance in " ".join((repo_root() / "rubrics/06_rag.yaml").read_text().split())
    checker = "Outputs are read and prove nothing"
    assert checker in (repo_root() / "course_lib/checks/rag_packet.py").read_text()
    monkeypatch.setenv("COURSE_SECRET", CANARY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    (tmp_path / "sibling").mkdir()
    (tmp_path / "sibling" / "answers.json").write_text(CANARY)
    needles = [text[::-1] for text in (CANARY, locked, guidance, checker)]
    result = attack(SEARCH.format(needles=needles))
    assert result.run.ok, result.run.error
    assert "FOUND []" in result.text


def test_the_search_would_find_a_canary_that_is_there(attack: Callable) -> None:
    planted = f"open('/home/learner/tmp/x', 'w').write({CANARY!r}); kept = {{'a': {CANARY!r}}}"
    result = attack(planted, SEARCH.format(needles=[CANARY[::-1]]))
    assert "/home/learner/tmp/x" in result.text and "memory" in result.text


def test_hidden_parts_are_absent_by_name(attack: Callable, tmp_path: Path) -> None:
    root = repo_root()
    hidden = [root / name for name in ("rubrics", "tests", "labs", ".git", "data/evals/rag/locked_test.jsonl",
                                       "course_lib/checks", "course_lib/rubric.py", "course_lib/grade.py")]  # fmt: skip
    hidden += [tmp_path, Path("/etc/shadow"), Path("/root/.ssh"), Path("/var")]
    result = attack(
        f"import os\nprint('SEEN', [p for p in {list(map(str, hidden))!r} if os.path.lexists(p)])",
        "import importlib\ndef can(name):\n    try:\n        importlib.import_module(name)\n        return True\n"
        "    except ImportError:\n        return False\n"
        "print('IMPORTED', [n for n in ('course_lib.checks', 'course_lib.rubric', 'course_lib.grade') if can(n)])",
        "from course_lib.corpus import load_corpus, load_questions\nload_corpus(), load_questions('dev')",
        "load_questions('locked_test')",
    )
    assert "SEEN []" in result.text and "IMPORTED []" in result.text
    assert result.run.error_cell == 5, "what a lab needs is there, the locked questions are not"


def test_the_environment_is_a_short_list(attack: Callable) -> None:
    allowed = {
        "PATH", "HOME", "USER", "TMPDIR", "LANG", "LC_ALL", "TZ", "COURSE_ROOT", "COURSE_RUNTIME_DIR",
        "COURSE_CACHE_DIR", "IPYTHONDIR", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "ANONYMIZED_TELEMETRY",
        "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "COURSE_SERVER_THREADS", "PYTHONHASHSEED",
        "JE_ARROW_MALLOC_CONF",
    }  # fmt: skip
    given = "TERM CLICOLOR FORCE_COLOR CLICOLOR_FORCE PAGER GIT_PAGER MPLBACKEND JPY_PARENT_PID PYDEVD_USE_FRAME_EVAL"
    result = attack("import os\nprint('ENV', *sorted(os.environ))")
    names = set(result.text.split("ENV ")[1].split())
    assert names <= allowed | set(given.split()), names - allowed


def test_only_its_own_processes_are_listed(attack: Callable) -> None:
    result = attack(
        "import os\nfor n in sorted(filter(str.isdigit, os.listdir('/proc')), key=int):\n"
        "    print(n, open(f'/proc/{n}/cmdline').read().replace(chr(0), ' ')[:60])",
        "for n in (1, 2):\n    for part in ('environ', 'root/etc/hostname', 'cwd', 'fd'):\n"
        "        path = f'/proc/{n}/{part}'\n"
        "        try:\n            os.listdir(path) if part in ('cwd', 'fd') else open(path).read()\n"
        "            print('REACHED', n, part)\n        except OSError:\n            pass",
    )
    assert result.run.ok
    assert len(result.text.strip().splitlines()) <= 5
    assert "pytest" not in result.text
    assert os.getuid() or "REACHED" not in result.text
