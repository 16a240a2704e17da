"""The learner's progress file: quiz answers and lab results of one person on one machine, as small JSON.

It lies at ``COURSE_PROGRESS`` when set, else at ``work/progress.json`` of the course. Nothing of it is sent anywhere,
and no grade depends on it: a learner may edit or delete it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from course_lib.catalog import repo_root
from course_lib.errors import DataError
from course_lib.files import write_text

VERSION = 1


def progress_path() -> Path:
    """Where the progress file is or will be."""
    named = os.environ.get("COURSE_PROGRESS")
    return Path(named).expanduser() if named else repo_root() / "work" / "progress.json"


def read_progress() -> dict[str, Any]:
    """``{"version": 1, "modules": {"06": {"quiz": "7 of 11", "answers": {question id: answer}, "lab": {...}}}}``.

    Empty modules when there is no file. quiz counts the questions whose latest answer is right.

    Raises DataError when the file is not what this course wrote.
    """
    path = progress_path()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _empty()
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from error
    modules = data.get("modules") if isinstance(data, dict) else None
    if not isinstance(modules, dict) or not all(isinstance(m, dict) for m in modules.values()):
        raise _broken(path, "it holds no modules")
    if data.get("version") != VERSION:
        raise _broken(path, f"its version is {data.get('version')!r}, not {VERSION}")
    return data


def answers_of(module: str) -> dict[str, dict[str, Any]]:
    """Question id to the record of its latest answer, for one module's code such as ``06``."""
    answers = read_progress()["modules"].get(module, {}).get("answers", {})
    return {k: v for k, v in answers.items() if isinstance(v, dict)} if isinstance(answers, dict) else {}


def record_answer(module: str, question: str, choice: str, right: bool, total: int) -> dict[str, Any]:
    """Note an answer; returns its record ``{choice, right, first_right, tries, on}``. total: questions of the quiz.

    first_right tells whether the *first* try was right: later tries are learning, not evidence. on: date, ISO format.
    """
    record: dict[str, Any] = {}

    def change(data: dict[str, Any]) -> None:
        mine = data["modules"].setdefault(module, {})
        answers = mine.setdefault("answers", {})
        old = answers.get(question, {})
        record.update(choice=choice, right=right, first_right=old.get("first_right", right),
                      tries=int(old.get("tries", 0)) + 1, on=date.today().isoformat())
        answers[question] = record
        mine["quiz"] = f"{sum(bool(a['right']) for a in answers.values())} of {total}"

    _update(change)
    return record


def record_lab(module: str, **result: Any) -> None:
    """Merge ``result`` (JSON-serialisable, for example ``points=17``) into the record of the module's lab."""
    _update(lambda data: data["modules"].setdefault(module, {}).setdefault("lab", {}).update(result))


def _update(change: Callable[[dict[str, Any]], None]) -> None:
    from filelock import FileLock

    path = progress_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=10):
        data = read_progress()
        change(data)
        write_text(path, json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False), mode=None, sync=True)


def _empty() -> dict[str, Any]:
    return {"version": VERSION, "modules": {}}


def _broken(path: Path, why: str) -> DataError:
    return DataError(f"The progress file cannot be read: {why}.", where=str(path),
                     fix="Move it away; the course then starts a new one.")
