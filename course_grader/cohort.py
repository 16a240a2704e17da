"""Grading a cohort: read what was handed in, grade what no journal knows yet, derive the gradebook from the journal.

Static checks come first for everyone, then re-execution where the grader offers it. Each result is in the journal,
fsynced, before the next step relies on it; a run that is killed anywhere goes on from there, and nothing that was
finished is graded again. Results are found by content: submission, rubric, environment and grader.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from course_grader.gradebook import Book, Change, build, changes, last_policy, slug
from course_grader.intake import Entry, read_entry
from course_grader.journal import Journal
from course_grader.policy import Policy
from course_grader.workers import Crash, Mapper, Pool, start_imports
from course_lib.checks import LABS
from course_lib.errors import ArtifactError, CourseError, UsageError
from course_lib.rubric import Rubric
from course_lib.submission import Submission
from course_lib.types import Finding

STATIC_LIMIT_S = 120.0
EXECUTED_LIMIT_S = 900.0
STATIC, EXECUTED = "static", "executed"
PRELOAD = (*LABS.values(), "course_grader.similarity", "bm25s", "sentence_transformers")
JOURNAL = "journal.jsonl"
Reexecute = Callable[[Path, str, int, Path], "list[Finding]"]
Event = Mapping[str, Any]


class Grader(Protocol):
    """What grades one lab; picklable. identity: by tier, all that a result depends on beside the submission.
    preload: what worker processes import before they are forked; nothing of it may start a thread."""

    module: str
    stamp: str
    preload: tuple[str, ...]

    @property
    def tiers(self) -> tuple[str, ...]: ...

    def rubric(self) -> Rubric: ...

    def identity(self, tier: str) -> dict[str, str]: ...

    def warm(self) -> None: ...

    def grade(self, submission: Submission, tier: str) -> list[Finding]: ...


@functools.cache
def cached_rubric(module: str) -> Rubric:
    """The rubric of a module, read once per process: a run must not mix two versions of a file."""
    from course_lib.grade import rubric_of

    return rubric_of(module)


@dataclass(frozen=True)
class LabGrader:
    """The course's own checkers; with ``reexecute`` also the second tier. work: where re-executions leave their files.

    stamp: printed on the gradebook, for example when code ran without a sandbox.
    """

    module: str
    reexecute: Reexecute | None = None
    seed: int = 7
    work: Path = Path("executions")
    stamp: str = ""
    preload: tuple[str, ...] = PRELOAD

    @property
    def tiers(self) -> tuple[str, ...]:
        return (STATIC, EXECUTED) if self.reexecute else (STATIC,)

    def rubric(self) -> Rubric:
        return cached_rubric(self.module)

    def identity(self, tier: str) -> dict[str, str]:
        from course_lib.grade import environment_digest, grader_digest

        executed = tier == EXECUTED
        same = {"rubric": self.rubric().sha256, "grader": grader_digest(executed), "environment": environment_digest()}
        return same | ({"seed": str(self.seed), "stamp": self.stamp} if executed else {})

    def warm(self) -> None:
        from course_lib.grade import context_for

        context_for(self.rubric())

    def grade(self, submission: Submission, tier: str) -> list[Finding]:
        if tier == STATIC:
            from course_grader.hardcoded import constants
            from course_grader.persuasion import speaks_to_the_grader
            from course_lib.grade import context_for, grade_opened

            rubric = self.rubric()
            found = list(grade_opened(submission, self.module, rubric, context_for(rubric)).findings)
            found += constants(submission, rubric.rerun) if rubric.rerun else []
            return found + speaks_to_the_grader(submission)
        assert self.reexecute is not None
        with tempfile.TemporaryDirectory(prefix="submission-") as folder:
            return self.reexecute(written(submission, Path(folder) / "submission"), self.module, self.seed,
                                  self.work / submission.digest()[:16])  # fmt: skip


def written(submission: Submission, folder: Path) -> Path:
    """The files of a submission as plain files in a new folder. Their names were checked when it was opened."""
    for name, content in submission.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True)
class Task:
    """One tier of one submission. digest: what the parent read; a worker that reads something else refuses.
    files: the content itself, for a worker on another machine."""

    entry: Entry
    digest: str
    tier: str
    key: str
    grader: Grader
    files: tuple[tuple[str, bytes], ...] | None = None


def grade_task(task: Task) -> dict[str, Any]:
    """Runs in a worker: findings, the fingerprint of the code, and the seconds that it took."""
    from course_grader.similarity import fingerprint

    start = time.perf_counter()
    submission = read_entry(task.entry) if task.files is None else Submission(task.entry.learner, dict(task.files))
    if submission.digest() != task.digest:
        raise ArtifactError("The submission changed while it was graded.", where=task.entry.source, fix="Grade again.")
    findings = [asdict(finding) for finding in task.grader.grade(submission, task.tier)]
    code = fingerprint(submission, task.grader.module).packed() if task.tier == STATIC else None
    return {"findings": findings, "code": code, "seconds": round(time.perf_counter() - start, 3)}


@dataclass(frozen=True, slots=True)
class Options:
    """regrade: results of another rubric, grader or environment may be replaced. commit: write the gradebook.
    policy: None for that of the last run, no rules where there is none. mapper: what runs the tasks, in place of worker
    processes on this machine."""

    workers: int = 2
    regrade: bool = False
    commit: bool = True
    policy: Policy | None = None
    mapper: Mapper | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What a run did. graded: results made now, over all tiers. changes: against the last committed gradebook."""

    book: Book
    changes: tuple[Change, ...]
    graded: int
    reused: int
    committed: bool


def grade_cohort(entries: Sequence[Entry], grader: Grader, out: Path, options: Options | None = None,
                 on_event: Callable[[Event], None] = lambda event: None) -> Run:
    """Grades, commits and writes the gradebook. Raises UsageError when the committed gradebook was made by another
    rubric, grader or environment and ``regrade`` is not set."""
    options = options or Options()
    out.mkdir(parents=True, exist_ok=True)
    with Journal(out / JOURNAL) as journal:
        before = build(journal.records)
        identity = {tier: grader.identity(tier) for tier in grader.tiers}
        last = last_run(journal.records, grader.module)
        if last and last["identity"] != identity and not options.regrade:
            raise UsageError(f"This gradebook was made with another {_different(last['identity'], identity)}.",
                             where=str(out), fix="See who would change with --regrade; write it with --regrade "
                             "--commit, or choose another --out.")  # fmt: skip
        if options.mapper is None and not any(record["kind"] == "result" for record in journal.records):
            start_imports(grader.preload)
        rows = [_row(entry, grader.module, identity) for entry in sorted(entries, key=lambda e: (e.learner, e.attempt))]
        graded, reused = _grade_all(journal, rows, grader, out, options, on_event)
        known = last_policy(journal.records)
        policy = (options.policy or known).model_dump(mode="json")
        run = {"module": grader.module, "identity": identity, "stamp": grader.stamp,
               "rubric": grader.rubric().model_dump(mode="json"), "policy": policy,
               "entries": [row.record for row in rows]}  # fmt: skip
        after = build([*journal.records, {"kind": "run", **run}])
        if options.commit:
            if last is None or {"kind": "run", **run} != last or policy != known.model_dump(mode="json"):
                journal.append("run", **run)
            write_book(after, out)
        return Run(after, changes(before, after, grader.module), graded, reused, options.commit)


def write_book(book: Book, out: Path) -> None:
    """Pages, tables and JSON; derived, and equal for equal journals."""
    from course_grader.bookpages import write_pages
    from course_grader.exports import write_exports

    write_pages(book, out)
    write_exports(book, out)


def last_run(records: Iterable[Mapping[str, Any]], module: str) -> dict[str, Any] | None:
    """The committed run of a lab that the gradebook shows."""
    runs = [dict(r) for r in records if r["kind"] == "run" and r["module"] == module]
    return runs[-1] if runs else None


@dataclass(frozen=True, slots=True)
class _Row:
    entry: Entry
    record: dict[str, Any]


def _row(entry: Entry, module: str, identity: Mapping[str, Mapping[str, str]]) -> _Row:
    """The entry as the journal keeps it: no path of this machine, the digest of what was read, and a key a tier."""
    error, digest = entry.error, ""
    try:
        digest = read_entry(entry).digest()
    except CourseError as problem:
        error = problem.what
    record = {name: value for name, value in asdict(replace(entry, error=error)).items()
              if name not in ("path", "files")}  # fmt: skip
    keys = {tier: result_key(module, digest, tier, parts) for tier, parts in identity.items()} if digest else {}
    return _Row(entry, {**record, "digest": digest, "keys": keys})


def result_key(module: str, digest: str, tier: str, identity: Mapping[str, str]) -> str:
    """SHA-256 over all that a result depends on."""
    return hashlib.sha256(json.dumps([module, digest, tier, sorted(identity.items())]).encode()).hexdigest()


def _grade_all(journal: Journal, rows: Sequence[_Row], grader: Grader, out: Path, options: Options,
               on_event: Callable[[Event], None]) -> tuple[int, int]:
    """Tier by tier over everyone; equal submissions are graded once. Returns (graded now, taken from the journal)."""
    done = {record["key"] for record in journal.records if record["kind"] == "result"}
    tasks: dict[str, list[Task]] = {tier: [] for tier in grader.tiers}
    reused, planned = 0, set()
    for row in rows:
        for tier, key in row.record["keys"].items():
            if key in done:
                reused += 1
            elif key not in planned:
                planned.add(key)
                tasks[tier].append(Task(row.entry, row.record["digest"], tier, key, grader))
    on_event({"event": "start", "module": grader.module, "entries": len(rows), "to_grade": len(planned),
              "from_journal": reused, "refused": sum(not row.record["digest"] for row in rows)})  # fmt: skip
    number, start = 0, time.monotonic()
    for tier in grader.tiers:
        limit = STATIC_LIMIT_S if tier == STATIC else EXECUTED_LIMIT_S
        pool = Pool(options.workers, limit, grader.warm if tier == STATIC else None, out / "logs" / "workers.log",
                    grader.preload)  # fmt: skip
        for task, result in (options.mapper or pool.map_tasks)(grade_task, tasks[tier]):
            number += 1
            _keep(journal, task, result, out)
            spent = time.monotonic() - start
            on_event({"event": "graded", "tier": tier, "learner": task.entry.learner, "source": task.entry.source,
                      "ok": not isinstance(result, Crash), "done": number, "total": len(planned),
                      "left_s": round(spent / number * (len(planned) - number), 1)})  # fmt: skip
    return number, reused


def _keep(journal: Journal, task: Task, result: dict[str, Any] | Crash, out: Path) -> None:
    if isinstance(result, Crash):
        journal.append("crash", key=task.key, tier=task.tier, reason=result.reason)
        lines = [f"not scored: {result.reason}"]
    else:
        kept = {name: value for name, value in result.items() if name != "seconds"}
        journal.append("result", key=task.key, tier=task.tier, **kept)
        lines = [f"{f['outcome']:8} {f['rule']}: {f['message']}" for f in result["findings"]]
        lines = [f"{result['seconds']} s", *lines]
    log = out / "logs" / f"{slug(task.entry.learner)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    head = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {task.tier} {task.entry.source!a} sha256 {task.digest}"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644), "a") as stream:
        stream.write("\n  ".join([head, *(ascii(line)[1:-1] for line in lines)]) + "\n")


def _different(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> str:
    names = {name for tier in {*old} & {*new} for name in {*old[tier], *new[tier]}
             if old[tier].get(name) != new[tier].get(name)}  # fmt: skip
    names |= {"set of tiers"} if set(old) != set(new) else set()
    return " and ".join(sorted(names))
