"""The tasks of a cohort on many machines: the seam of ``workers.Mapper``, with Dask behind it.

Files travel with the task, so the machines share no disk. A worker whose course, rubric or data differ refuses, because
its results would not be ours; one that is lost in the middle gives its tasks to the others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from course_grader.cohort import Task, grade_task, result_key
from course_grader.intake import read_entry
from course_grader.workers import Call, Crash, Mapper, outcome
from course_lib.errors import UsageError

AHEAD = 4  # tasks that wait at the scheduler for each worker thread: more would only fill its memory
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def dask_mapper(address: str, workers: int = 2) -> Iterator[Mapper]:
    """What runs tasks on the scheduler at ``address``; ``local`` starts a cluster of ``workers`` processes here.

    Raises UsageError when the scheduler cannot be reached, or Dask is not installed.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError("Dask is not installed.", fix="pip install 'llm-course[dask]'") from error
    cluster = None
    if address == "local":
        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1")
    try:
        client = Client(cluster or address, timeout=5)
    except OSError as error:
        raise UsageError("The scheduler cannot be reached.", where=address,
                         fix="Give its address, such as tcp://127.0.0.1:8786, or use local.") from error  # fmt: skip
    try:
        yield lambda call, tasks: _map(client, call, tasks)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


def _map(client: Any, call: Call, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
    from distributed import as_completed

    assert call is grade_task
    waiting = list(reversed(tasks))
    room = AHEAD * max(1, sum(client.nthreads().values()))
    running: dict[str, Task] = {}
    finished = as_completed()
    while waiting or running:
        while waiting and len(running) < room:
            task = waiting.pop()
            packed = outcome(_packed, task)
            if isinstance(packed, Crash):
                yield task, packed
                continue
            future = client.submit(_grade_here, packed, key=f"course-{task.key}", pure=False)
            running[future.key] = task
            finished.add(future)
        if not running:
            return
        future = next(finished)
        task = running.pop(future.key)
        # waits where the worker was lost with the result: it is worked out again
        yield task, outcome(lambda done: done.result(), future)


def _packed(task: Task) -> Task:
    return replace(task, files=tuple(read_entry(task.entry).files.items()))


def _grade_here(task: Task) -> dict[str, Any]:
    """On the worker. One at a time in each process: indexes are not made for several threads."""
    with _ONE_AT_A_TIME:
        mine = result_key(task.grader.module, task.digest, task.tier, task.grader.identity(task.tier))
        if mine != task.key:
            raise RuntimeError("this worker has another version of the course, its rubric or its data")
        return grade_task(task)
