"""Each exemplar loses exactly the points and the gates that its way of failing must cost, said one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import exemplars
import pytest
from graded import NO_GATE, Expected, assert_loses

from course_lib.grade import grade_submission, rubric_of

pytest_plugins = ("exemplar_fixtures",)  # the fixtures made and passing

# name -> (points lost by criterion, gates not passed with their outcome, points that could not be scored)
EXPECTED: dict[str, Expected] = {
    "passing": ({}, NO_GATE, 0),
    # Search saw everything and the answer was filtered afterwards: forbidden chunks are in the rows, and our own
    # search, which decides first, returns others.
    "access_after_generation": (
        {"retrieval_works": 2, "access_enforced": 1},
        {"no_restricted_chunk": "fail", "no_cross_tenant_chunk": "fail"}, 0),
    # Nobody knows who asked: access cannot be judged, so both gates stay shut; no audit record can be matched either.
    "missing_acl_field": (
        {"access_enforced": 1, "audit_safe": 1, "packet_agrees": 1},
        {"no_restricted_chunk": "fail", "no_cross_tenant_chunk": "fail"}, 0),
    # The model cites the source after the right one, and the claim counts every answer as cited.
    "citations_not_checked": (
        {"citations_hold": 2, "claims_follow": 2}, {"citations_approved": "fail"}, 0),
    "claim_does_not_follow": ({"claims_follow": 2}, NO_GATE, 0),
    "injection_obeyed": ({"injection_tested": 1}, {"injection_ignored": "fail"}, 0),
    # Only the vector store forgot: keyword search still finds it, and the record does not look there.
    "deleted_still_found": ({"deletion_proved": 1}, {"deleted_source_gone": "fail"}, 0),
    "full_documents_logged": ({"audit_safe": 1}, NO_GATE, 0),
    "fewer_than_ten_cases": ({"cases_cover": 1}, NO_GATE, 0),
    # Half a line in the rows: whatever rests on them could not be scored. No point is earned, and none is a fail.
    "malformed_jsonl": (
        {"packet_agrees": 1, "retrieval_works": 2, "citations_hold": 2, "claims_follow": 2, "access_enforced": 1,
         "injection_tested": 1, "audit_safe": 1},
        {"source_in_top_3": "error", "citations_approved": "error", "no_restricted_chunk": "error",
         "no_cross_tenant_chunk": "error", "injection_ignored": "error"}, 9),
    "missing_readme": ({"packet_complete": 1, "packet_agrees": 1}, NO_GATE, 0),
}  # fmt: skip


def test_every_exemplar_has_an_expectation() -> None:
    assert set(EXPECTED) == set(exemplars.NAMES)


@pytest.mark.parametrize("name", EXPECTED)
def test_exemplar(name: str, made: dict[str, Path]) -> None:
    assert_loses(grade_submission(made[name]), EXPECTED[name])


def test_the_claim_that_does_not_follow_shows_both_numbers(made: dict[str, Path]) -> None:
    report = grade_submission(made["claim_does_not_follow"])
    finding = next(f for f in report.findings if f.rule == "rag.results_follow")
    assert "hit_rate: claimed 1.0" in finding.actual or "hits: claimed" in finding.actual
    assert "hits 1" in finding.expected and finding.where == "rag_eval_results.json"


def test_findings_name_the_place(made: dict[str, Path]) -> None:
    findings = {f.rule: f for f in grade_submission(made["malformed_jsonl"]).findings}
    assert findings["rag.hit_rate"].where == "rag_eval_rows.jsonl:3"
    findings = {f.rule: f for f in grade_submission(made["missing_acl_field"]).findings}
    assert findings["rag.restricted_chunks"].where == "access_probes.jsonl:1"
    assert "'user'" in findings["rag.restricted_chunks"].message


def test_exemplars_are_runs_not_text(made: dict[str, Path]) -> None:
    """The passing one and the failing ones come from the same flow; a second run gives the same bytes, times aside."""
    folder = made["passing"].parent / "again"
    again = exemplars.Flow(folder).run()
    for path in sorted(made["passing"].iterdir()):
        if path.name != "lab.ipynb":
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_a_report_does_not_depend_on_the_order_of_sets(made: dict[str, Path]) -> None:
    """Two processes with other hash seeds write the same bytes."""
    code = "import sys; from course_lib.grade import grade_submission as g; print(g(sys.argv[1]).to_json())"
    folder = str(made["access_after_generation"])
    runs = [subprocess.run([sys.executable, "-c", code, folder], env={**os.environ, "PYTHONHASHSEED": seed},
                           capture_output=True, check=True).stdout for seed in "12"]  # fmt: skip
    assert runs[0] == runs[1] and b"no_cross_tenant_chunk" in runs[0]


def test_the_rubric_has_six_gates_and_twenty_points() -> None:
    rubric = rubric_of("06")
    assert len(rubric.gates) == 6 and rubric.maximum == 20
    assert sum(c.points for c in rubric.criteria if c.scored_by == "reviewer") == 3
