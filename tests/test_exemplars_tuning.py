"""Each exemplar of lab 03 loses exactly the points and the gates that its way of failing must cost, said one by one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import exemplars_tuning as exemplars
import pytest
from graded import NO_GATE, Expected, assert_loses

from course_lib.grade import grade_submission, rubric_of

pytestmark = pytest.mark.labs("03 first")

# name -> (points lost by criterion, gates not passed with their outcome, points that could not be scored)
EXPECTED: dict[str, Expected] = {
    "passing": ({}, NO_GATE, 0),
    "thresholds_edited": ({"thresholds_first": 1}, {"thresholds_before_results": "fail"}, 0),
    "thresholds_edited_and_resealed": ({"thresholds_first": 1}, {"thresholds_before_results": "fail"}, 0),
    "baseline_after_training": ({"baseline_saved": 1}, {"baseline_before_training": "fail"}, 0),
    "baseline_silenced": ({"baseline_saved": 1}, {"baseline_before_training": "fail"}, 0),
    "another_adapter": ({"adapter_real": 1}, {"adapter_answers": "fail"}, 0),
    # The configuration contradicts the matrices, and the plan.
    "other_rank": (
        {"adapter_real": 1, "training_recorded": 1},
        {"adapter_answers": "fail", "recorded_and_reversible": "fail"}, 0),
    # Nobody opens it: what cannot be read as safetensors is for a person, and never a pass.
    "pickled_adapter": ({"adapter_real": 1}, {"adapter_answers": "error"}, 1),
    "kind_judge": ({"paired": 1}, {"adapter_answers": "fail"}, 0),
    "unpaired_interval": ({"paired": 1}, NO_GATE, 0),
    # Not the same cases; fewer pairs than the results say; and ten served answers that equal no tested one any more.
    "hard_cases_left_out": (
        {"baseline_saved": 1, "paired": 1, "served": 1, "decision_follows": 1},
        {"same_locked_cases": "fail", "decision_from_thresholds": "fail"}, 0),
    "leaked_rows": ({"data_governed": 1}, {"same_locked_cases": "fail"}, 0),
    "damage_hidden": ({"regressions_listed": 1}, NO_GATE, 0),
    "never_rolled_back": ({"rollback_works": 1}, {"recorded_and_reversible": "fail"}, 0),
    "released_anyway": ({"decision_follows": 1}, {"decision_from_thresholds": "fail"}, 0),
    # Refusals that nobody asked for are not met, so the decision does not follow; the report still speaks of them.
    "no_spot_checks": (
        {"spot_checked": 1, "decision_follows": 1, "report_numbers": 1},
        {"spot_checks_done": "fail", "decision_from_thresholds": "fail"}, 0),
    "log_cut": ({"training_recorded": 1}, {"recorded_and_reversible": "fail"}, 0),
    "no_versions": ({"environment_recorded": 1}, {"recorded_and_reversible": "fail"}, 0),
    # Half a line: whatever rests on the tuned rows could not be scored. The file is not readable, which is a fail.
    "malformed_rows": (
        {"adapter_real": 1, "adapter_improves": 1, "served": 1, "baseline_saved": 1, "paired": 1, "spot_checked": 1,
         "decision_follows": 1, "regressions_listed": 1, "one_run": 1},
        {"same_locked_cases": "error", "adapter_answers": "error", "spot_checks_done": "error",
         "decision_from_thresholds": "error"}, 8),
    "missing_report": ({"report_numbers": 1, "one_run": 1}, NO_GATE, 0),
}  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return exemplars.build_all(tmp_path_factory.mktemp("tunings"))


def test_every_exemplar_has_an_expectation() -> None:
    assert set(EXPECTED) == set(exemplars.NAMES)


@pytest.mark.parametrize("name", EXPECTED)
def test_exemplar(name: str, made: dict[str, Path]) -> None:
    assert_loses(grade_submission(made[name], "03"), EXPECTED[name])


def test_findings_name_the_mistake_and_the_place(made: dict[str, Path]) -> None:
    def said(name: str, rule: str) -> str:
        finding = next(f for f in grade_submission(made[name], "03").findings if f.rule == rule and not f.ok)
        return f"{finding.message} {finding.where}"

    assert "plan.json was changed after it was sealed as plan at 20" in said("thresholds_edited", "tune.plan_first")
    late = said("thresholds_edited_and_resealed", "tune.plan_first")
    assert "other thresholds than the parameters cell" in late
    assert "baseline" in said("baseline_after_training", "tune.baseline_first")
    other = re.search(r"do not say the answer to (\S+): .* tuned_rows\.jsonl:(\d+)$",
                      said("another_adapter", "tune.answers_reproduced"))  # fmt: skip
    rows = (made["another_adapter"] / "tuned_rows.jsonl").read_text("utf-8").splitlines()
    assert other and json.loads(rows[int(other[2]) - 1])["id"] == other[1]
    assert "training_data.jsonl:1" in said("leaked_rows", "tune.data_clean")
    assert "tuned_rows.jsonl:3" in said("malformed_rows", "tune.scores_follow")


def test_nobody_opened_the_pickle(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grade_submission(made["pickled_adapter"], "03")
    assert not (tmp_path / "opened").exists()


def test_the_rubric_has_seven_gates_and_twenty_points() -> None:
    rubric = rubric_of("03")
    assert len(rubric.gates) == 7 and rubric.maximum == 20
    assert sum(c.points for c in rubric.criteria if c.scored_by == "reviewer") == 3
