"""Due dates, lateness, extensions, attempts and drops: small pure rules with their reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_grader.policy import Policy, counted, deduction, load_policy, total
from course_lib.errors import DataError

TEXT = """
due: {"06": 2026-11-15T12:00:00+00:00}
late: {grace_hours: 2, per_day: 0.1, at_most: 0.25, closed_after_days: 10}
extensions:
  - {learner: ann, lab: "06", until: 2026-11-20T12:00:00+00:00, reason: moved house}
retries: {keep: best, attempts: 2}
drop_lowest: 1
"""


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    (tmp_path / "policy.yaml").write_text(TEXT)
    return load_policy(tmp_path / "policy.yaml")


@pytest.mark.parametrize(("submitted", "points", "reason"), [
    ("2026-11-15T11:59:59+00:00", 0, ""),
    ("2026-11-15T13:59:00+00:00", 0, ""),
    ("2026-11-15T15:00:00+01:00", 0, ""),
    ("2026-11-15T15:00:00+00:00", 1.7, "1 day late, 10% taken off"),
    ("2026-11-17T11:00:00+00:00", 3.4, "2 days late, 20% taken off"),
    ("2026-11-20T12:00:00+00:00", 4.25, "5 days late, 25% taken off"),
    ("2026-12-20T12:00:00+00:00", 17, "35 days late; closed after 10 days"),
    ("", 0, ""),
])  # fmt: skip
def test_lateness(policy: Policy, submitted: str, points: float, reason: str) -> None:
    found = deduction(policy, "bob", "06", 17.0, submitted)
    assert (found.points, found.reason) == (points, reason)
    assert deduction(policy, "bob", "07", 17.0, submitted).points == 0, "a lab without a due date has none"


def test_an_extension_moves_the_date_of_one_learner(policy: Policy) -> None:
    found = deduction(policy, "ann", "06", 10.0, "2026-11-21T20:00:00+00:00")
    assert (found.points, found.reason) == (
        2, "2 days late, 20% taken off (extended to 2026-11-20 12:00 UTC, moved house)")  # fmt: skip
    assert deduction(policy, "ann", "06", 10.0, "2026-11-19T00:00:00+00:00").points == 0


@given(st.floats(0, 20), st.integers(0, 40), st.floats(0, 1), st.floats(0, 1))
def test_a_deduction_never_exceeds_what_was_earned(earned: float, days: int, per_day: float, at_most: float) -> None:
    policy = Policy.model_validate({"due": {"06": "2026-11-01T00:00:00Z"},
                                    "late": {"per_day": per_day, "at_most": at_most}})  # fmt: skip
    found = deduction(policy, "a", "06", earned, f"2026-{11 + days // 28:02d}-{1 + days % 28:02d}T00:00:00+00:00")
    assert 0 <= found.points <= round(earned, 2) + 0.005


def test_attempts_and_totals(policy: Policy) -> None:
    attempts = [(1, 12.0, "first"), (2, 12.0, "second"), (3, 20.0, "third")]
    assert counted(policy, attempts) == "first", "two are taken; of equal ones the earlier"
    assert counted(Policy(), attempts) == "third"
    labs = [("06", 10.0, 20.0), ("07", 4.0, 20.0), ("08", 9.0, 10.0)]
    assert total(policy, labs) == (19.0, 30.0, ("07",))
    assert total(Policy(), labs) == (23.0, 50.0, ()) and total(policy, labs[:1]) == (10.0, 20.0, ())


@pytest.mark.parametrize(("text", "says"), [
    ("due: {'06': 2026-11-15}", "due.06"),
    ("due: {'06': 2026-11-15T12:00:00}", "due.06"),
    ("late: {per_day: 2}", "late.per_day"),
    ("late: {per_hour: 1}", "late.per_hour"),
    ("extensions: [{learner: a, lab: '07', until: 2026-11-15T12:00:00Z, reason: ill}]", "no due date"),
    ("late: {per_day: 0.1}\nlate: {}", "stands twice"),
    ("- 1", "mapping"),
])  # fmt: skip
def test_mistakes_name_file_and_field(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_policy(path)
    assert says in caught.value.what and str(path) in caught.value.where and caught.value.fix
    assert load_policy(None) == Policy()
