"""Each exemplar of lab 02 loses exactly the points and the gates that its way of failing must cost, said one by one."""

from __future__ import annotations

from pathlib import Path

import exemplars_dataset as exemplars
import pytest
from graded import NO_GATE, Expected, assert_loses

from course_lib.grade import grade_submission, rubric_of

# name -> (points lost by criterion, gates not passed with their outcome, points that could not be scored)
EXPECTED: dict[str, Expected] = {
    "passing": ({}, NO_GATE, 0),
    "read_means_train": ({"rights_checked": 1}, {"rights_cleared": "fail"}, 0),
    "nothing_is_private": ({"no_personal_data": 1}, {"nothing_private": "fail"}, 0),
    # The rows are clean, and the log of what was removed is the leak.
    "private_text_in_the_log": ({"no_personal_data": 1}, {"nothing_private": "fail"}, 0),
    "copies_kept": ({"duplicates_audited": 1}, NO_GATE, 0),
    "test_trained_on": ({"tests_kept_out": 1}, {"tests_unseen": "fail"}, 0),
    # No wording of the test is there; other questions about its facts are.
    "test_facts_trained_on": ({"tests_kept_out": 1}, {"tests_unseen": "fail"}, 0),
    "rows_split_one_by_one": ({"splits_disjoint": 1}, {"disjoint": "fail"}, 0),
    "too_few_rows": ({"rows_valid": 1}, NO_GATE, 0),
    "answers_only": ({"rows_valid": 1}, NO_GATE, 0),
    "nothing_rejected": ({"sample_inspected": 1}, NO_GATE, 0),
    "claims_do_not_follow": ({"counts_follow": 1}, NO_GATE, 0),
    "trained_before_split": ({"splits_locked": 1}, {"splits_first": "fail"}, 0),
    # A model that cites wrongly, and nobody reads what it wrote: the sample shows it, all rows show it.
    "model_believed": ({"replies_follow": 2, "sample_inspected": 1}, {"quality_proved": "fail"}, 0),
    "test_rows_dropped": (
        {"splits_disjoint": 1, "splits_locked": 1}, {"disjoint": "fail", "splits_first": "fail"}, 0),
    "source_not_named": ({"card_true": 1}, NO_GATE, 0),
    "sample_not_read": ({"sample_inspected": 1}, {"quality_proved": "fail"}, 0),
    # Half a line in the dataset: whatever rests on it could not be scored. Line, hash and file are fails.
    "malformed_rows": (
        {"rows_valid": 1, "replies_follow": 2, "splits_disjoint": 1, "sample_inspected": 1, "duplicates_audited": 1,
         "counts_follow": 1, "rights_checked": 1, "no_personal_data": 1, "tests_kept_out": 1, "card_true": 1,
         "splits_locked": 1, "packet_complete": 1},
        {"every_line_valid": "fail", "quality_proved": "error", "nothing_private": "error", "rights_cleared": "error",
         "disjoint": "error", "splits_first": "fail", "tests_unseen": "error"}, 10),
    "report_retouched": ({"report_complete": 1}, NO_GATE, 0),
    # The card also says of which data it is, so nothing shows that the files come from one run.
    "missing_card": ({"card_true": 1, "splits_locked": 1, "packet_complete": 1}, NO_GATE, 0),
}  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return exemplars.build_all(tmp_path_factory.mktemp("datasets"))


def test_every_exemplar_has_an_expectation() -> None:
    assert set(EXPECTED) == set(exemplars.NAMES)


@pytest.mark.parametrize("name", EXPECTED)
def test_exemplar(name: str, made: dict[str, Path]) -> None:
    assert_loses(grade_submission(made[name], "02"), EXPECTED[name])


def test_findings_name_rows_and_places(made: dict[str, Path]) -> None:
    findings = {f.rule: f for f in grade_submission(made["test_trained_on"], "02").findings}
    assert "is locked-article-18 word for word" in findings["data.leak_copied"].message
    assert "is locked-paraphrase-37 in other words, similarity 0.6" in findings["data.leak_paraphrased"].message
    assert "locked-article-18" not in findings["data.leak_paraphrased"].message, "a pair is named once"
    findings = {f.rule: f for f in grade_submission(made["malformed_rows"], "02").findings}
    assert findings["data.rows_valid"].where == "compliance_sft_dataset.jsonl:3"
    findings = {f.rule: f for f in grade_submission(made["nothing_is_private"], "02").findings}
    said = str([findings[rule] for rule in ("data.no_pii", "data.no_secrets")])
    assert "DE89" not in said and "Novak" not in said and "AKIA" not in said, "a report repeats no personal data"


def test_exemplars_are_runs_not_text(made: dict[str, Path]) -> None:
    """A second run of the lab's cells with the same clock and model gives the same bytes."""
    again = exemplars.Run(made["passing"].parent / "again").run()
    for path in sorted(p for p in made["passing"].rglob("*") if p.is_file()):
        name = path.relative_to(made["passing"])
        assert path.read_bytes() == (again / name).read_bytes(), name


def test_the_rubric_has_seven_gates_and_twenty_points() -> None:
    rubric = rubric_of("02")
    assert len(rubric.gates) == 7 and rubric.maximum == 20
    assert sum(c.points for c in rubric.criteria if c.scored_by == "reviewer") == 3
