"""The checkers of lab 01, each against a submission that was changed in one place; and the sums they compute with."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import exemplars_selection as exemplars
import graded
import numpy as np
import pytest
from graded import edit, edit_row, replace_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.artifacts_selection import LatencyRow, SelectionFacts, SelectionTargets
from course_lib.catalog import artifacts
from course_lib.checks import checkers, rules
from course_lib.checks import selection as sums
from course_lib.checks.select_prose import lines_about
from course_lib.grade import context_for, grade_opened, grade_submission, rubric_of
from course_lib.registry import LongPrompt, Price, registry
from course_lib.submission import Submission
from course_lib.types import Outcome

RUBRIC = rubric_of("01")
problems = partial(graded.problems, module="01")
OPTIONS, ROWS, NOTE = "options.json", "latency_rows.jsonl", "model-selection-note.md"
WEIGHTS = {"privacy": 0.3, "cost": 0.25, "latency": 0.2, "deployment": 0.15, "context": 0.1}


@pytest.fixture(scope="session")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exemplars.Run(tmp_path_factory.mktemp("selection") / "passing").run()


def option(record: dict, name: str) -> dict:
    return next(o for o in record["options"] if o["id"] == name)


def test_an_unchanged_copy_passes_every_rule(copy: Path) -> None:
    assert problems(copy) == {}
    assert {f.rule for f in grade_submission(copy, "01").findings} == set(rules("01"))
    assert len(rules("01")) == len(set(rules("01"))) == sum(len(c.rules) for c in checkers("01"))


def stranger(r: dict) -> None:
    option(r, "claude-haiku-5-5")["id"] = "gpt-imaginary"


def embellish_rank(r: dict) -> None:
    r["decision"]["ranking"][0]["total"] = 9.9


def swap_choice(r: dict) -> None:
    r["decision"]["chosen"] = r["decision"]["ranking"][1]["id"]


# What is changed in options.json -> rules that must fail; others may follow from the same change.
CHANGES: list[tuple[str, Callable[[dict], object], set[str]]] = [
    ("an id that no registry knows", stranger, {"select.option_count"}),
    ("an alias instead of an id", lambda r: option(r, "claude-sonnet-4-5-20250929").update(id="claude-sonnet-4-5"),
     {"select.option_count"}),
    ("one option three times", lambda r: r.update(options=[r["options"][0]] * 3), {"select.option_count"}),
    ("a larger window", lambda r: option(r, "course-lm-instruct").update(context=1_000_000),
     {"select.registry_facts", "select.scores_follow"}),
    ("another licence", lambda r: option(r, "meta-llama/Llama-3.1-8B-Instruct").update(licence="MIT"),
     {"select.registry_facts"}),
    ("another price", lambda r: option(r, "claude-haiku-5-5")["price"].update(input=0.01), {"select.registry_facts"}),
    ("less memory", lambda r: option(r, "meta-llama/Llama-3.1-8B-Instruct").update(memory_gb=4.0),
     {"select.registry_facts"}),
    ("a cost typed in", lambda r: option(r, "claude-haiku-5-5").update(cost_usd_month=4.9),
     {"select.cost_follows", "select.note_numbers", "select.cost_notes"}),
    ("a cost that is not known", lambda r: option(r, "claude-haiku-5-5").update(cost_usd_month=None),
     {"select.cost_follows", "select.scores_follow"}),
    ("a P95 below the rows", lambda r: r["latency"]["course-lm-instruct"].update(p95_s=0.01),
     {"select.latency_follows", "select.note_numbers"}),
    ("a missing percentile", lambda r: r["latency"]["course-lm-instruct"].update(ttft_p50_s=None),
     {"select.latency_follows"}),
    ("a number without a row", lambda r: r["latency"]["claude-haiku-5-5"].update(p95_s=1.0),
     {"select.unmeasured_marked"}),
    ("no word on what it would take", lambda r: r["latency"]["claude-haiku-5-5"].update(needed="time"),
     {"select.unmeasured_marked"}),
    ("an option without latency", lambda r: r["latency"].pop("claude-haiku-5-5"), {"select.unmeasured_marked"}),
    ("measured rows denied", lambda r: r["latency"].update({"course-lm-instruct": {
        "measured": False, "needed": "a machine with more memory than this"}}), {"select.unmeasured_marked"}),
    ("one right answer more", lambda r: r["answers"]["course-lm-instruct"].update(
        right=r["answers"]["course-lm-instruct"]["right"] - 1), {"select.answers_follow"}),
    ("answers of nobody", lambda r: r["answers"].update({"claude-haiku-5-5": {"n": 30, "right": 30}}),
     {"select.answers_follow"}),
    ("a state against the date", lambda r: option(r, "claude-sonnet-4-5-20250929").update(lifecycle="ok"),
     {"select.lifecycle"}),
    ("a shorter use", lambda r: r.update(use_until="2026-11-25"), {"select.lifecycle"}),
    ("a provider called own", lambda r: option(r, "claude-haiku-5-5").update(data_goes_to="own machines"),
     {"select.privacy", "select.scores_follow"}),
    ("weights of another run", lambda r: r.update(weights={**WEIGHTS, "cost": 0.3, "privacy": 0.25}),
     {"select.weights_first", "select.ranking_follows"}),
    ("weights beyond one", lambda r: r.update(weights={**WEIGHTS, "cost": 0.5}),
     {"select.weights_first", "select.ranking_follows", "select.sensitivity"}),
    ("a criterion left out", lambda r: r.update(weights={"privacy": 1.0}),
     {"select.weights_first", "select.ranking_follows"}),
    ("a point given away", lambda r: r["scores"]["claude-haiku-5-5"].update(latency=10.0), {"select.scores_follow"}),
    ("a reason removed", lambda r: r["blockers"].update({"claude-sonnet-4-5-20250929": []}), {"select.scores_follow"}),
    ("a rival ruled out", lambda r: r["blockers"].update({"claude-haiku-5-5": ["nobody likes it"]}),
     {"select.scores_follow"}),
    ("a total typed in", embellish_rank, {"select.ranking_follows"}),
    ("the second one chosen", swap_choice, {"select.ranking_follows"}),
    ("nobody ranked", lambda r: r["decision"].update(ranking=[]), {"select.ranking_follows"}),
    ("something chosen that is no option", lambda r: r["decision"].update(chosen="claude-opus-5-5"),
     {"select.ranking_follows", "select.chosen_lives"}),
    ("production without proof", lambda r: r["decision"].update(production="allowed"), {"select.answers_follow"}),
    ("a flip moved", lambda r: r["sensitivity"]["cost"].update(at=0.9), {"select.sensitivity"}),
    ("a flip forgotten", lambda r: r["sensitivity"].update(context=None), {"select.sensitivity"}),
    ("a criterion without its flip", lambda r: r["sensitivity"].pop("privacy"), {"select.sensitivity"}),
    ("another best case", lambda r: r["best_case"].update(leader="claude-haiku-5-5", changes=True),
     {"select.sensitivity"}),
    ("another seed", lambda r: r.update(seed=99), {"select.files_agree"}),
    ("another workload", lambda r: r["workload"].update(requests_per_day=1), {"select.files_agree",
                                                                               "select.cost_follows"}),
]  # fmt: skip


@pytest.mark.parametrize(("story", "change", "wanted"), CHANGES, ids=[story for story, _, _ in CHANGES])
def test_a_change_in_the_comparison_is_caught(copy: Path, story: str, change: Callable, wanted: set[str]) -> None:
    def once(record: dict) -> None:
        change(record)

    edit(copy, OPTIONS, once)
    found = problems(copy)
    assert wanted <= set(found), found
    assert {found[rule] for rule in wanted} == {Outcome.FAIL}


@pytest.mark.parametrize(("change", "wanted"), [
    (lambda r: r.update(option="claude-opus-5-5"), {"select.latency_rows"}),
    (lambda r: r.update(question="dev-imaginary-01"), {"select.latency_rows", "select.answers_follow"}),
    (lambda r: r.update(ttft_s=r["seconds"] + 1), {"select.latency_rows"}),
    (lambda r: r.update(seconds=0.0), {"select.latency_rows", "select.latency_follows"}),
    (lambda r: r.update(tokens_out=0), {"select.latency_rows", "select.files_agree"}),
    (lambda r: r.update(answer=""), {"select.latency_rows"}),
    (lambda r: r.update(warmup=True), {"select.latency_follows", "select.answers_follow"}),
    (lambda r: r.update(ok=False), {"select.latency_follows", "select.answers_follow"}),
])  # fmt: skip
def test_a_change_in_a_row_is_caught(copy: Path, change: Callable, wanted: set[str]) -> None:
    edit_row(copy, ROWS, 5, lambda row: change(row))
    assert wanted <= set(problems(copy))


def test_invented_rows_with_one_time_or_one_question_are_caught(copy: Path) -> None:
    lines = [json.loads(line) for line in (copy / ROWS).read_text().splitlines()]
    for same in ({"seconds": 0.5, "ttft_s": 0.1}, {"question": lines[5]["question"]}):
        (copy / ROWS).write_text("".join(json.dumps(row | same) + "\n" for row in lines))
        assert problems(copy)["select.latency_rows"] is Outcome.FAIL


@pytest.mark.parametrize(("name", "old", "new", "wanted"), [
    (NOTE, "## Sensitivity", "## Anything", {"select.note_numbers"}),
    (NOTE, "- cost, weight 0.25", "- cost, weight 0.35", {"select.note_numbers"}),
    (NOTE, "2026-11-30", "2028-11-30", {"select.lifecycle"}),
    (NOTE, "| not measured | not measured | 1000000", "| 0.5 s | 0.9 s | 1000000", {"select.note_numbers"}),
    (NOTE, "## Privacy and data residency", "## Odds and ends", {"select.privacy", "select.note_numbers"}),
    ("cost-notes.md", "| claude-haiku-5-5 | 4.20 |", "| claude-haiku-5-5 | 2.40 |", {"select.cost_notes"}),
    ("cost-notes.md", "seconds", "duration", {"select.cost_notes"}),
    ("risk-notes.md", "## Rollback", "## Later", {"select.risk_notes"}),
    ("README.md", "## Assumptions", "## Thoughts", {"select.readme"}),
    ("lab.ipynb", '\\"input_tokens\\": 400', '\\"input_tokens\\": 500', {"select.files_agree"}),
    ("lab.ipynb", '\\"privacy\\": 0.30', '\\"privacy\\": 0.35', {"select.weights_first"}),
    ("metrics.json", '"seconds": 60.0', '"seconds": 1.0', {"select.files_agree", "select.cost_notes"}),
])  # fmt: skip
def test_prose_and_notebook_must_agree_with_the_files(copy: Path, name: str, old: str, new: str, wanted: set) -> None:
    replace_text(copy, name, old, new)
    assert wanted <= set(problems(copy))


@pytest.mark.parametrize("name", [n for n in artifacts("01") if n.endswith((".json", ".jsonl", ".ipynb"))])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"lab": NaN}', b"null"])
def test_malformed_evidence_never_scores(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    report = grade_submission(copy, "01")
    assert {f.rule for f in report.findings} == set(rules("01"))
    found = {f.rule: f.outcome for f in report.findings}
    assert found["select.files"] is Outcome.FAIL
    if name == OPTIONS:
        scored = {"select.files", "select.notebook", "select.readme", "select.risk_notes"}
        assert not [rule for rule, outcome in found.items() if outcome is Outcome.PASS and rule not in scored]


@pytest.mark.parametrize("name", artifacts("01"))
def test_a_missing_file_is_a_fail_and_no_crash(copy: Path, name: str) -> None:
    (copy / name).unlink()
    found = problems(copy)
    assert found["select.files"] is Outcome.FAIL and Outcome.ERROR not in found.values()


def test_another_registry_is_for_a_person_to_judge(copy: Path) -> None:
    def older(record: dict) -> None:
        record["registry_as_of"] = "2026-01-01"

    edit(copy, OPTIONS, older)
    found = problems(copy)
    judged = ("select.registry_facts", "select.cost_follows", "select.lifecycle", "select.chosen_lives")
    assert {found[rule] for rule in judged} == {Outcome.ERROR}
    assert not all(gate.passed for gate in grade_submission(copy, "01").gates)


def test_a_retiring_model_may_be_chosen_with_a_plan_that_holds(tmp_path: Path) -> None:
    settings_ = exemplars.RUNS["retiring_model_chosen"]
    plan = '{"successor": "claude-sonnet-5-5", "switch_by": "2026-11-28", "owner": "platform team"}'
    folder = exemplars.Run(tmp_path / "planned", **{**settings_, "edits": {
        **settings_["edits"], '"migration": None': f'"migration": {plan}'}}).run()  # fmt: skip
    assert problems(folder) == {}
    for change in ({"switch_by": "2026-11-30"}, {"successor": "claude-sonnet-4-5-20250929"}, {"successor": "nobody"},
                   {"switch_by": "2026-99-99"}):  # fmt: skip
        again = Path(shutil.copytree(folder, tmp_path / str(len(list(tmp_path.iterdir())))))
        edit(again, OPTIONS, lambda r, change=change: r["decision"]["migration"].update(change))
        assert problems(again) == {"select.chosen_lives": Outcome.FAIL}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_crash_and_never_gain(passing: Path, data: st.DataObject) -> None:
    files = {p.name: p.read_bytes() for p in passing.iterdir()}
    name = data.draw(st.sampled_from([OPTIONS, ROWS, "lab.ipynb", NOTE, "metrics.json"]))
    raw = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    report = grade_opened(Submission("s", {**files, name: bytes(raw)}), "01", RUBRIC, context_for(RUBRIC))
    assert {f.rule for f in report.findings} == set(rules("01")) and report.points <= 17


def row(seconds: float, *, warmup: bool = False, ok: bool = True, tokens: int = 10) -> LatencyRow:
    return LatencyRow(option="a", question="q", warmup=warmup, ok=ok, tokens_in=5, tokens_out=tokens, answer="x",
                      ttft_s=seconds / 2, seconds=seconds)  # fmt: skip


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=60), st.floats(1, 100))
def test_percentiles_are_numpy_s_nearest_rank(values: list[float], q: float) -> None:
    assert sums.percentile(values, q) == np.percentile(values, q, method="inverted_cdf")


def test_summaries_leave_warm_up_and_failures_out() -> None:
    rows = [row(90, warmup=True), row(70, ok=False), *(row(float(s)) for s in range(1, 21))]
    found = sums.summary(rows)
    assert (found["n"], found["failed"], found["p50_s"], found["p95_s"], found["ttft_p50_s"]) == (20, 1, 10, 19, 5)
    assert found["tokens_per_s"] == 200 / 210


def test_states_follow_from_dates_and_kind() -> None:
    start, end = dt.date(2026, 6, 1), dt.date(2027, 6, 1)
    hosted = registry().get(registry().default_hosted).model_copy(update={"retires": None, "retires_not_before": None})
    for changes, state in (({"retires": start}, "retired"), ({"retires": end}, "retires"), ({}, "watch"),
                           ({"retires": end + dt.timedelta(1)}, "ok"), ({"retires_not_before": end}, "ok"),
                           ({"retires_not_before": start}, "watch")):  # fmt: skip
        assert sums.lifecycle(hosted.model_copy(update=changes), start, end) == state, changes
    assert sums.lifecycle(registry().get(registry().default_embedded), start, end) == "ok"


def test_prices_know_bands_and_what_is_unknown(passing: Path) -> None:
    from course_lib.checks.select_options import load

    selection = load(Submission.open(passing))
    band = LongPrompt(above_tokens=100, input=10, output=20)
    price = Price(input=1, output=2, long_prompt=band, as_of=dt.date(2026, 1, 1), source="a test")
    hosted = registry().get(registry().default_hosted).model_copy(update={"price": price})
    assert sums.monthly_cost(hosted, selection) == pytest.approx(60_000 * (400 * 10 + 60 * 20) / 1e6)
    assert sums.monthly_cost(hosted.model_copy(update={"price": None}), selection) is None
    assert sums.monthly_cost(next(registry().entries("open weights")), selection) == pytest.approx(1.5 * 730)


def test_what_is_not_known_scores_nothing_and_may_rule_out() -> None:
    fact = SelectionFacts(id="a", kind="hosted", licence="x", context=None, price=None, retires=None,
                          lifecycle="retires", cost_usd_month=None, data_goes_to="provider without contract",
                          runs_on="provider", memory_gb=None)  # fmt: skip
    goal = SelectionTargets(p95_s=2.0, budget_usd_month=100.0, use_days=365, right_share=0.9)
    found = sums.scores(fact, None, 100, goal)
    assert (found["cost"], found["latency"], found["context"]) == (0, 0, 0)
    assert len(sums.blocked(fact, 100, 24)) == 3 and len(sums.blocked(fact, 100, 24, planned="a")) == 2


tables = st.dictionaries(st.sampled_from("abcd"), st.fixed_dictionaries(
    {c: st.sampled_from([0.0, 3.0, 6.0, 10.0]) for c in sums.CRITERIA}), min_size=2)  # fmt: skip


@given(tables)
def test_a_flip_is_the_nearest_weight_at_which_another_leads(table: dict) -> None:
    leader = sums.rank(table, WEIGHTS)[0][0]
    for name, flip in sums.flips(table, WEIGHTS).items():
        others = [i / 100 for i in range(101)
                  if sums.rank(table, sums.reweighted(WEIGHTS, name, i / 100))[0][0] != leader]  # fmt: skip
        assert math.isclose(sum(sums.reweighted(WEIGHTS, name, 0.37).values()), 1)
        assert (flip is None) == (not others)
        if flip:
            assert abs(flip[0] - WEIGHTS[name]) == pytest.approx(min(abs(w - WEIGHTS[name]) for w in others))


def test_lines_about_an_option_are_not_those_of_a_longer_id() -> None:
    text = "| course-lm-instruct-q8_0 | 1 |\n| course-lm-instruct | 2 |\nChosen: course-lm-instruct."
    assert lines_about(text, "course-lm-instruct") == "| course-lm-instruct | 2 |\nChosen: course-lm-instruct."
    assert lines_about(text, "course-lm-instruct-q8_0").count("\n") == 0
