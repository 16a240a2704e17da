"""From findings to points, gates and a band."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from course_lib.errors import RubricError
from course_lib.rubric import LAB_AREAS, load_rubric, score
from course_lib.types import Finding, Outcome

RULES = ("a.one", "a.two", "a.three")


def small(**changes: object) -> dict:
    criteria = [
        {"id": "both", "area": "technical correctness", "title": "Both of them", "points": 5, "scored_by": "auto",
         "rules": ["a.one", "a.two"], "remediation": "Do it."},
        {"id": "shared", "area": "measurement", "title": "Each its part", "points": 4, "scored_by": "auto",
         "combine": "share", "rules": ["a.one", "a.three"], "remediation": "Do it."},
    ]
    criteria += [
        {"id": f"review{n}", "area": area, "title": "A person looks", "points": points, "scored_by": "reviewer",
         "guidance": "Look.", "remediation": "Do it."}
        for n, (area, points) in enumerate(list(LAB_AREAS.items())[2:])
    ]
    gates = [{"id": "gate", "title": "It must hold", "rules": ["a.one"], "remediation": "Do it."}]
    whole = {"lab": "06", "title": "A lab", "criteria": criteria, "gates": gates, "thresholds": {"a.one": 0.5}}
    return whole | changes


def write(tmp_path: Path, values: dict) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


@pytest.fixture
def rubric(tmp_path: Path):
    return load_rubric(write(tmp_path, small()), RULES)


def found(*outcomes: Outcome) -> list[Finding]:
    return [Finding(rule, outcome, f"{rule} {outcome}") for rule, outcome in zip(RULES, outcomes, strict=False)]


P, F, E, S = Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.SKIPPED


def test_everything_passes_and_the_rest_is_pending(rubric) -> None:
    report = score(rubric, found(P, P, P))
    assert (report.points, report.pending, report.unscored, report.maximum) == (9, 11, 0, 20)
    assert report.gates[0].passed and report.band == "redo" and report.needs_review


def test_reviewer_points_count_when_they_are_given(rubric) -> None:
    report = score(rubric, found(P, P, P), {"review0": 4, "review1": 3, "review2": 0, "review3": 1.5})
    assert (report.points, report.pending, report.band) == (17.5, 0, "enterprise-ready")
    assert not report.needs_review
    for bad in ({"both": 5}, {"review0": 4.5}, {"review0": -1}, {"nobody": 1}):
        with pytest.raises(RubricError):
            score(rubric, found(P, P, P), bad)


def test_a_fail_loses_the_points_of_all_and_its_share_of_share(rubric) -> None:
    report = score(rubric, found(P, F, F))
    assert [c.earned for c in report.criteria[:2]] == [0, 2]
    assert report.gates[0].passed


def test_a_failed_gate_blocks_the_band_whatever_the_points(rubric) -> None:
    reviews = {"review0": 4, "review1": 3, "review2": 2, "review3": 2}
    assert score(rubric, found(P, P, P), reviews).band == "enterprise-ready"
    report = score(rubric, found(F, P, P), reviews)
    assert (report.points, report.band, report.band_by_points) == (13, "blocked", "acceptable, with remediation "
                                                                   "before the capstone")
    assert report.gates[0].problems == ("a.one fail",)


def test_could_not_score_is_no_point_no_loss_and_no_gate(rubric) -> None:
    report = score(rubric, found(E, P, P))
    assert [(c.outcome, c.earned, c.unscored) for c in report.criteria[:2]] == [(E, 0, 5), (E, 2, 2)]
    assert not report.gates[0].passed and report.gates[0].outcome is E and report.needs_review


def test_a_rule_without_a_finding_could_not_be_scored(rubric) -> None:
    report = score(rubric, [])
    assert report.points == 0 and report.unscored == 9 and report.gates[0].outcome is E


def test_a_skipped_rule_is_pending_and_its_gate_not_passed(rubric) -> None:
    report = score(rubric, found(S, P, P))
    assert (report.points, report.pending, report.unscored) == (2, 18, 0)
    assert not report.gates[0].passed


def test_the_worst_of_several_findings_counts(rubric) -> None:
    for others in itertools.permutations([P, E, F]):
        findings = [Finding("a.one", outcome, "x") for outcome in others] + found(P, P, P)[1:]
        assert score(rubric, findings).criteria[0].outcome is F


@given(st.lists(st.tuples(st.sampled_from(RULES), st.sampled_from(list(Outcome))), max_size=12))
def test_points_never_exceed_what_there_is(pairs: list[tuple[str, Outcome]]) -> None:
    from course_lib.rubric import Rubric

    report = score(Rubric.model_validate(small()), [Finding(rule, outcome, "x") for rule, outcome in pairs])
    for criterion in report.criteria:
        assert 0 <= criterion.earned + criterion.pending + criterion.unscored <= criterion.points
    passed = {rule for rule in RULES if {o for r, o in pairs if r == rule} == {P}}
    assert report.gates[0].passed == ("a.one" in passed)
    assert (report.criteria[0].earned == 5) == ({"a.one", "a.two"} <= passed)
    assert json.loads(report.to_json()) == json.loads(report.to_json())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["criteria"][0].update(points=4), "technical correctness"),
        (lambda r: r["criteria"][0].update(area="charm"), "charm"),
        (lambda r: r["criteria"][0]["rules"].append("a.four"), "a.four is unknown"),
        (lambda r: r["criteria"][1]["rules"].remove("a.three"), "never used"),
        (lambda r: r["criteria"][0].update(scored_by="reviewer"), "reviewer"),
        (lambda r: r["criteria"][2].update(guidance=""), "guidance"),
        (lambda r: r["criteria"][1].update(id="both"), "twice"),
        (lambda r: r["gates"][0].update(id="both"), "twice"),
        (lambda r: r["gates"][0].update(rules=["a.five"]), "a.five"),
        (lambda r: r["criteria"][0].update(surprise=1), "surprise"),
        (lambda r: r["criteria"][0].update(points="5"), "points"),
        (lambda r: r["criteria"][0].update(rules=["a.one", "a.one", "a.two"]), "twice"),
        (lambda r: r.update(thresholds={"a.six": 1}), "a.six"),
        (lambda r: r.update(gates=[]), "gates"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, change, reason: str) -> None:
    values = small()
    change(values)
    with pytest.raises(RubricError, match=reason):
        load_rubric(write(tmp_path, values), RULES)


def test_an_unreadable_rubric_is_an_error_of_the_rubric(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for content in (b"[]", b"\xff", b"a: 1\na: 2\n", b"a: [", None):
        path.write_bytes(content) if content is not None else path.unlink()
        with pytest.raises(RubricError):
            load_rubric(path, RULES)
