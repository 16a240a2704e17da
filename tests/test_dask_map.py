"""A cohort on Dask: equal to the local run byte for byte, also when a worker dies in the middle."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cohort_kit as kit
import pytest
from distributed import default_client

from course_grader.cohort import Options, grade_cohort
from course_grader.dask_map import dask_mapper
from course_grader.intake import collect
from course_grader.workers import Call
from course_lib.errors import UsageError


def test_a_lost_worker_changes_nothing(tmp_path: Path) -> None:
    subs = kit.cohort(tmp_path / "subs", 24)
    (subs / "bad.zip").write_bytes(b"no")
    kit.tiny(subs / "raises", 99, act__txt="raise")
    kit.grade(subs, tmp_path / "a")
    killed: list[int] = []

    with dask_mapper("local", 2) as mapper:
        def kill_one(event: dict[str, object]) -> None:
            if event.get("done") == 5:
                killed.extend(default_client().run(os.getpid).values())
                os.kill(killed[0], signal.SIGKILL)

        grader = kit.CheapGrader(tmp_path / "calls", seconds=0.02)
        run = grade_cohort(collect([subs]), grader, tmp_path / "b", Options(mapper=mapper), kill_one)
    assert len(killed) == 2 and run.graded == 25
    assert kit.derived(tmp_path / "a") == kit.derived(tmp_path / "b")


@dataclass(frozen=True)
class Elsewhere(kit.CheapGrader):
    """Its identity is another one in another process, as with an older course."""

    home: int = 0

    def identity(self, tier: str) -> dict[str, str]:
        return {**super().identity(tier), "process": str(os.getpid() == self.home)}


def test_a_worker_with_another_course_refuses(tmp_path: Path) -> None:
    subs = kit.cohort(tmp_path / "subs", 2)
    with dask_mapper("local", 1) as mapper:
        run = grade_cohort(collect([subs]), Elsewhere(home=os.getpid()), tmp_path / "b", Options(mapper=mapper))
    assert all("another version of the course" in row.error for row in run.book.labs[0].rows)


def test_a_submission_that_has_gone_costs_itself_only(tmp_path: Path) -> None:
    subs = kit.cohort(tmp_path / "subs", 3)

    def shrinking(call: Call, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for name in ("learner-00", "learner-02"):
            shutil.rmtree(subs / name)
        return mapper(call, tasks)

    with dask_mapper("local", 1) as mapper:
        run = grade_cohort(collect([subs]), kit.CheapGrader(), tmp_path / "b", Options(mapper=shrinking))
    errors = [row.error for row in run.book.labs[0].rows]
    assert errors[1] == "" and all(error.startswith("Not scored: the grader stopped") for error in errors[::2])


def test_a_scheduler_that_is_not_there_is_explained() -> None:
    with pytest.raises(UsageError, match="cannot be reached"), dask_mapper("tcp://127.0.0.1:9"):
        pass
