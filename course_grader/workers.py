"""Worker processes that may die: each task has one answer, a result or a reason, and a crash costs its own task only.

``map_tasks`` is the seam for other machines: whatever yields ``(task, result or Crash)`` for every task can stand in.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Crash:
    """The task has no result. reason: for a facilitator, in words."""

    reason: str


Call = Callable[[Any], Any]
Mapper = Callable[[Call, Sequence[Any]], Iterator[tuple[Any, Any]]]


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: Any = None
    since: float = 0.0
    ready: bool = False


@dataclass(frozen=True)
class Pool:
    """Processes on this machine. A task that takes longer than ``limit_s`` seconds is stopped with its process.

    warm: called once in each worker before its first task; not part of any task's time. log: file that gets what the
    workers print. preload: modules imported once, in the process that the workers are forked from. call, warm and tasks
    must be picklable.
    """

    workers: int
    limit_s: float
    warm: Callable[[], Any] | None = None
    log: Path | None = None
    preload: tuple[str, ...] = ()
    _running: list[_Worker] = field(default_factory=list, repr=False)

    def map_tasks(self, call: Call, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """(task, result or Crash) for each task, in the order in which they finish."""
        waiting = list(reversed(tasks))
        failed_starts = 0
        try:
            while waiting or any(worker.task is not None for worker in self._running):
                busy = sum(worker.task is not None or not worker.ready for worker in self._running)
                while len(self._running) < min(self.workers, busy + len(waiting)):
                    self._running.append(self._start(call))
                for worker, message in self._messages():
                    if message is None and worker.task is None:
                        failed_starts += 1
                        if failed_starts > self.workers + 2:
                            reason = "the grading process does not start; its log says why"
                            yield from ((task, Crash(reason)) for task in waiting)
                            return
                    elif message is not None and message[0] == "ready":
                        worker.ready = True
                    else:
                        task, worker.task = worker.task, None
                        yield task, Crash(self._reason(worker)) if message is None else message[1]
                for worker in self._running:
                    if waiting and worker.ready and worker.task is None:
                        self._give(worker, waiting)
        finally:
            self._stop()

    def _start(self, call: Call) -> _Worker:
        context = _context(self.preload)
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, call, self.warm, self.log), daemon=False)
        process.start()
        theirs.close()
        return _Worker(process, mine)

    def _give(self, worker: _Worker, waiting: list[Any]) -> None:
        task = waiting.pop()
        try:
            worker.pipe.send(task)
            worker.task, worker.since = task, time.monotonic()
        except OSError:  # it died while it was idle: the task is not to blame
            waiting.append(task)
            worker.ready = False

    def _messages(self) -> list[tuple[_Worker, Any]]:
        """What the workers said; None from one that ended or was stopped, which is then no longer running."""
        by_pipe = {worker.pipe: worker for worker in self._running}
        said: list[tuple[_Worker, Any]] = []
        for pipe in wait(list(by_pipe), TICK_S):
            worker = by_pipe[pipe]
            try:
                said.append((worker, worker.pipe.recv()))
            except (EOFError, OSError):
                said.append((worker, None))
        heard = {id(worker) for worker, _ in said}
        late = [w for w in self._running if w.task is not None and time.monotonic() - w.since > self.limit_s]
        said += [(worker, None) for worker in late if id(worker) not in heard]
        for worker, message in said:
            if message is None:
                self._end(worker)
        return said

    def _reason(self, worker: _Worker) -> str:
        if time.monotonic() - worker.since > self.limit_s:
            return f"the grader was stopped after {self.limit_s:g} s"
        code = worker.process.exitcode
        return f"the grading process ended by signal {-code}" if code and code < 0 else \
            f"the grading process ended with exit code {code}"

    def _end(self, worker: _Worker) -> None:
        """A process that closed its pipe has a moment to end by itself, so that its exit code can be told."""
        self._running.remove(worker)
        worker.process.join(0 if worker.task is not None and time.monotonic() - worker.since > self.limit_s else 2)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()

    def _stop(self) -> None:
        for worker in list(self._running):
            if worker.task is not None:
                worker.process.kill()
            worker.pipe.close()
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._running.clear()


def _context(preload: Sequence[str]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["course_grader.preload", "course_grader.workers", *preload])
    return context


def start_imports(preload: Sequence[str]) -> None:
    """Start the process that workers will be forked from, and do not wait: it imports while this one goes on."""
    if _context(preload).get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()


def _serve(pipe: Connection, call: Call, warm: Callable[[], Any] | None, log: Path | None) -> None:
    """The life of a worker. When the parent is gone the pipe ends, and so does the worker."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
    gc.freeze()
    gc.enable()
    if warm is not None:
        warm()
    try:
        pipe.send(("ready",))
        while True:
            pipe.send(("done", outcome(call, pipe.recv())))
    except (EOFError, OSError):
        return


def outcome(call: Call, task: Any) -> Any:
    """What ``call`` returns, or a Crash that names what it raised."""
    try:
        return call(task)
    except Exception as error:
        return Crash(f"the grader stopped with {type(error).__name__}: {str(error)[:200]}")


def inline(call: Call, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """The same in this process, one after the other: for tests, and where processes cannot be started."""
    return ((task, outcome(call, task)) for task in tasks)
