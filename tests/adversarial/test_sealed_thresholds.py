"""Thresholds edited after the results: found by hash and time in a cohort, whose other learners score as without it.

Every folder is a real run of lab 03; the graders are the course's own, static tier.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import exemplars_tuning as exemplars
import pytest
from graded import edit, replace_text, rows
from lab_runs import first_run

from course_grader.cohort import LabGrader, Options, grade_cohort
from course_grader.gradebook import Row
from course_grader.intake import collect
from course_grader.workers import inline
from course_lib.evidence import CHAIN
from course_lib.types import Outcome

pytestmark = pytest.mark.labs("03 first")

NEIGHBOURS = ("ann", "zoe")
RULE, GATE = "tune.plan_first", "thresholds_before_results"


def honest(folder: Path, name: str) -> Path:
    """A run as it was handed in; the learners differ in their prose."""
    path = Path(shutil.copytree(first_run("03"), folder / name))
    with (path / "README.md").open("a", encoding="utf-8") as page:
        page.write(f"\nHanded in by {name}.\n")
    return path


def graded(top: Path) -> dict[str, Row]:
    run = grade_cohort(collect([top / "subs"]), LabGrader("03"), top / "book", Options(mapper=inline))
    return {row.learner: row for row in run.book.labs[0].rows}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """The rows of the neighbours where nobody attacks."""
    top = tmp_path_factory.mktemp("alone")
    for name in NEIGHBOURS:
        honest(top / "subs", name)
    found = graded(top)
    assert all(row.report and row.report.points == 17 for row in found.values())
    return found


def easier(folder: Path) -> None:
    """The gate that was too high is lowered where it stands."""
    exemplars.edit_thresholds(folder)


def easier_with_its_hash(folder: Path) -> None:
    """The plan's own link gets the new hash, too."""
    easier(folder)
    links = rows(folder, CHAIN)
    links[0]["sha256"] = exemplars.sha256((folder / "plan.json").read_bytes())
    exemplars.write(folder, CHAIN, links)


def easier_with_all_hashes(folder: Path) -> None:
    """Every hash fits again and the times are the old ones; the notebook still shows the old thresholds."""
    easier(folder)
    exemplars.reseal(folder)


def easier_with_the_notebook(folder: Path) -> None:
    """The parameters cell is edited as well, and the chain is written anew in one go."""
    exemplars.edit_and_reseal(folder)
    replace_text(folder, "lab.ipynb", '\\"least_gain\\": 0.20', '\\"least_gain\\": 0.05')


def later_plan(folder: Path) -> None:
    """Hashes and notebook fit, and the time of the plan is when it was really written: after the results."""
    easier(folder)
    replace_text(folder, "lab.ipynb", '\\"least_gain\\": 0.20', '\\"least_gain\\": 0.05')
    exemplars.reseal(folder)
    links = [(e["step"], e["file"], e["at"]) for e in rows(folder, CHAIN)]
    exemplars.chain([("plan", "plan.json", "2099-01-01T00:00:00+00:00"), *links[1:]], folder)


def no_chain(folder: Path) -> None:
    """Without a chain nothing can be broken."""
    easier(folder)
    (folder / CHAIN).unlink()


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "plan.json alone": (easier, "was changed after it was sealed"),
    "and its link": (easier_with_its_hash, "the link of plan was changed after baseline was sealed"),
    "and all links": (easier_with_all_hashes, "other thresholds than the parameters cell"),
    "and the notebook": (easier_with_the_notebook, "the chain was written anew"),
    "with its true time": (later_plan, "not before baseline"),
    "without the chain": (no_chain, "chain.jsonl was not handed in"),
}


@pytest.mark.parametrize(("attack", "words"), ATTACKS.values(), ids=ATTACKS)
def test_thresholds_edited_after_the_results_are_found(
    attack: Callable[[Path], None], words: str, tmp_path: Path, alone: dict[str, Row]
) -> None:
    for name in NEIGHBOURS:
        honest(tmp_path / "subs", name)
    attack(honest(tmp_path / "subs", "mallory"))
    found = graded(tmp_path)
    for name in NEIGHBOURS:
        assert (found[name].report, found[name].final) == (alone[name].report, alone[name].final)
    report = found["mallory"].report
    assert report is not None and report.band == "blocked"
    assert GATE in {gate.id for gate in report.gates if not gate.passed}
    told = [f for f in report.findings if f.rule == RULE]
    assert {f.outcome for f in told} == {Outcome.FAIL}
    assert words in " ".join(f"{f.message} {f.evidence}" for f in told)


def test_a_threshold_that_was_strict_from_the_start_is_no_attack(tmp_path: Path) -> None:
    """The same edit before the run is a plan: sealed, in the notebook, and the decision follows from it."""
    folder = honest(tmp_path / "subs", "strict")
    exemplars.released_anyway(folder)
    edit(folder, "results.json", lambda r: r.update(failed=["least_gain"], decision="hold"))
    replace_text(folder, "experiment-report.md", "pilot. Not met: nothing", "hold. Not met: least_gain")
    exemplars.reseal(folder)
    report = graded(tmp_path)["strict"].report
    assert report is not None and [f.rule for f in report.findings if not f.ok] == [], json.dumps(report.points)
