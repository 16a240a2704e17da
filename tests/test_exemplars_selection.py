"""Each exemplar of lab 01 loses exactly the points and the gates that its way of failing must cost, said one by one."""

from __future__ import annotations

from pathlib import Path

import exemplars_selection as exemplars
import pytest
from graded import NO_GATE, Expected, assert_loses

from course_lib.grade import grade_submission, rubric_of

# name -> (points lost by criterion, gates not passed with their outcome, points that could not be scored)
EXPECTED: dict[str, Expected] = {
    "passing": ({}, NO_GATE, 0),
    "two_options": ({"options_real": 1}, {"three_options": "fail"}, 0),
    "price_per_thousand": ({"cost_follows": 2}, {"cost_from_registry": "fail"}, 0),
    # Numbers for what nobody measured: no rows behind them, and no mark that they are missing.
    "invented_latency": ({"latency_measured": 1, "unmeasured_marked": 1}, {"no_invented_latency": "fail"}, 0),
    "mean_as_p95": ({"latency_measured": 1}, {"no_invented_latency": "fail"}, 0),
    "too_few_requests": ({"latency_measured": 1}, NO_GATE, 0),
    "choice_against_the_weights": ({"decision_follows": 1}, {"decision_from_weights": "fail"}, 0),
    "weights_after_scores": ({"weights_first": 1}, NO_GATE, 0),
    "guesses_score": ({"decision_follows": 1}, {"decision_from_weights": "fail"}, 0),
    # It was not ruled out, so the choice follows from the scores, and still from no sound table; and no plan is there.
    "retiring_model_chosen": (
        {"lifecycle_flagged": 1, "decision_follows": 1},
        {"living_model": "fail", "decision_from_weights": "fail"}, 0),
    "flips_guessed": ({"sensitivity_known": 1}, NO_GATE, 0),
    "production_without_proof": ({"answers_counted": 1}, {"production_proved": "fail"}, 0),
    "retouched_note": ({"note_complete": 1}, NO_GATE, 0),
    # Half a line in the rows: whatever rests on them could not be scored. The file is not readable, which is a fail.
    "malformed_rows": (
        {"latency_measured": 1, "answers_counted": 1, "unmeasured_marked": 1, "one_run": 1, "packet_complete": 1},
        {"no_invented_latency": "error", "production_proved": "error"}, 4),
    # The dates and the conditions of privacy stand in the note, so they are missing too.
    "missing_note": (
        {"note_complete": 1, "packet_complete": 1, "privacy_residency": 1, "lifecycle_flagged": 1}, NO_GATE, 0),
}  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return exemplars.build_all(tmp_path_factory.mktemp("selections"))


def test_every_exemplar_has_an_expectation() -> None:
    assert set(EXPECTED) == set(exemplars.NAMES)


@pytest.mark.parametrize("name", EXPECTED)
def test_exemplar(name: str, made: dict[str, Path]) -> None:
    assert_loses(grade_submission(made[name], "01"), EXPECTED[name])


def test_findings_show_both_numbers_and_the_place(made: dict[str, Path]) -> None:
    findings = {f.rule: f for f in grade_submission(made["price_per_thousand"], "01").findings}
    said = findings["select.cost_follows"].message
    assert "claims 4200.00 USD" in said and "computed are 4.20" in said
    findings = {f.rule: f for f in grade_submission(made["malformed_rows"], "01").findings}
    assert findings["select.latency_follows"].where == "latency_rows.jsonl:3"


def test_exemplars_are_runs_not_text(made: dict[str, Path]) -> None:
    """A second run of the lab's cells with the same clock and model gives the same bytes."""
    again = exemplars.Run(made["passing"].parent / "again").run()
    for path in sorted(made["passing"].iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_the_rubric_has_six_gates_and_twenty_points() -> None:
    rubric = rubric_of("01")
    assert len(rubric.gates) == 6 and rubric.maximum == 20
    assert sum(c.points for c in rubric.criteria if c.scored_by == "reviewer") == 3
