"""Cohorts for the tests of the cohort grader, and a grader that is cheap and says when it was called.

    python tests/cohort_kit.py SUBMISSIONS OUT CALLS SECONDS        grades with the cheap grader, to be killed
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from course_grader.cohort import JOURNAL, Options, Run, cached_rubric, grade_cohort
from course_grader.gradebook import slug
from course_grader.intake import collect
from course_grader.journal import read_journal
from course_grader.workers import inline
from course_lib.rubric import Rubric
from course_lib.submission import Submission
from course_lib.types import Finding, Outcome

CELL = "def {name}(rows):\n    total = 0\n    for row in rows:\n        total += {start} * row\n    return total\n"


@dataclass(frozen=True)
class CheapGrader:
    """Rules fail where ``outcomes.json`` says so. calls: a file that gets a line for each grading. act: what
    ``act.txt`` of a submission may ask for: ``exit``, ``hang``, ``raise``."""

    calls: Path | None = None
    seconds: float = 0.0
    version: str = "1"
    module: str = "06"
    stamp: str = ""
    preload: tuple[str, ...] = ("course_grader.similarity",)
    harder: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ("static",)

    def rubric(self) -> Rubric:
        return cached_rubric(self.module)

    def identity(self, tier: str) -> dict[str, str]:
        return {"grader": self.version, "rubric": self.rubric().sha256, "environment": "test"}

    def warm(self) -> None:
        return

    def grade(self, submission: Submission, tier: str) -> list[Finding]:
        if self.calls:
            with self.calls.open("a") as stream:
                stream.write(f"{submission.digest()}\n")
        time.sleep(self.seconds)
        act = submission.text("act.txt").strip() if submission.has("act.txt") else ""
        if act == "exit":
            os._exit(3)
        if act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "raise":
            raise RuntimeError("planted")
        if act == "hang":
            time.sleep(600)
        asked = submission.value("outcomes.json") if submission.has("outcomes.json") else {}
        rubric = self.rubric()
        rules = {rule for part in (*rubric.criteria, *rubric.gates) for rule in part.rules}
        return [_finding(rule, "fail" if rule in self.harder else asked.get(rule, "pass")) for rule in sorted(rules)]


def _finding(rule: str, outcome: str) -> Finding:
    return Finding(rule, Outcome(outcome), f"{rule} says {outcome}.", "this", "that", "config.json:1",
                   "" if outcome == "pass" else "Do it again.")  # fmt: skip


def notebook(*cells: str) -> str:
    """A notebook of code cells, as JSON."""
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": i + 1, "source": cell}
        for i, cell in enumerate(cells)]})  # fmt: skip


def tiny(folder: Path, number: int, fails: tuple[str, ...] = (), **files: str) -> Path:
    """One small submission; ``fails``: rules that fail in it; files: more files, a dot written as two underscores."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"# Work of {number}\n\nMy number is {number}.\n")
    (folder / "lab.ipynb").write_text(notebook(CELL.format(name=f"f{number}", start=number)))
    (folder / "outcomes.json").write_text(json.dumps(dict.fromkeys(fails, "fail")))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def cohort(folder: Path, size: int, seed: int = 1) -> Path:
    """``size`` small submissions with different failures."""
    draw = random.Random(seed)
    rules = sorted({rule for part in cached_rubric("06").criteria for rule in part.rules})
    for number in range(size):
        tiny(folder / f"learner-{number:02d}", number, tuple(draw.sample(rules, draw.randrange(6))))
    return folder


def grade(folder: Path, out: Path, grader: CheapGrader | None = None, **options: object) -> Run:
    """In this process, without workers."""
    return grade_cohort(collect([folder]), grader or CheapGrader(), out, Options(mapper=inline, **options))  # type: ignore[arg-type]


def page(out: Path, learner: str) -> str:
    """The page of a learner in a gradebook of lab 06."""
    return (out / "learners" / f"{slug(learner)}-06.html").read_text("utf-8")


def derived(out: Path) -> dict[str, bytes]:
    """All files of a gradebook that are derived: everything but journal, lock and logs."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*"))
            if p.is_file() and p.name not in (JOURNAL, f"{JOURNAL}.lock") and "logs" not in p.parts}  # fmt: skip


def finished(out: Path) -> int:
    """How many results the journal holds."""
    path = out / JOURNAL
    return sum(record["kind"] == "result" for record in read_journal(path)) if path.exists() else 0


def kill_and_resume(folder: Path, work: Path, kills: int, seed: int = 5, seconds: float = 0.01) -> dict[str, int]:
    """Kills runs of one cohort at random points until ``kills`` have been made; a finished one starts over.

    Returns the kills, how often a finished gradebook differed from the undisturbed one, how many submissions were
    graded again although the journal had them, and how many gradebooks were finished.
    """
    draw = random.Random(seed)
    grade(folder, work / "undisturbed")
    expected = derived(work / "undisturbed")
    made = mismatches = again = rounds = 0
    while made < kills:
        out, calls = work / f"round-{rounds}", work / f"calls-{rounds}"
        while True:
            before = finished(out)
            graded_before = Counter(calls.read_text().split()) if calls.exists() else Counter()
            known = {line for line in graded_before if line in _digests(out)}
            target = before + draw.randint(0, 14) if made < kills else 10**6
            done = _run(folder, out, calls, target, seconds, draw)
            now = Counter(calls.read_text().split()) if calls.exists() else Counter()
            again += sum(now[digest] > graded_before[digest] for digest in known)
            if done:
                break
            made += 1
        mismatches += derived(out) != expected
        rounds += 1
        shutil.rmtree(out)
    return {"kill_points": made, "kill_mismatches": mismatches, "graded_twice": again, "rounds": rounds}


def _digests(out: Path) -> set[str]:
    """Submissions that the journal has a result for. The cheap grader's key leads back to the digest."""
    from course_grader.cohort import result_key

    keys = {record["key"] for record in read_journal(out / JOURNAL) if record["kind"] == "result"} \
        if (out / JOURNAL).exists() else set()
    calls = out.parent / out.name.replace("round", "calls")
    seen = set(calls.read_text().split()) if calls.exists() else set()
    identity = CheapGrader().identity("static")
    return {digest for digest in seen if result_key("06", digest, "static", identity) in keys}


def _run(folder: Path, out: Path, calls: Path, target: int, seconds: float, draw: random.Random) -> bool:
    """Starts a run and kills it when the journal has ``target`` results, some milliseconds later. True: it finished."""
    process = subprocess.Popen([sys.executable, __file__, str(folder), str(out), str(calls), str(seconds)],
                               start_new_session=True, stdout=subprocess.DEVNULL)  # fmt: skip
    while process.poll() is None and finished(out) < target:
        time.sleep(0.005)
    time.sleep(draw.random() * 0.03)
    if process.poll() is None:
        if draw.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)  # the workers too, as when the machine dies
        else:
            process.kill()
    code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the run ended with {code}")
    time.sleep(0.05)  # a worker may outlive its parent for a moment; it must be gone before its calls are counted
    return code == 0


if __name__ == "__main__":
    grade_cohort(collect([sys.argv[1]]), CheapGrader(Path(sys.argv[3]), float(sys.argv[4])), Path(sys.argv[2]),
                 Options(workers=2))  # fmt: skip
