"""The checkers of lab 03, each against a submission that was changed in one place; the chain; the sums; the weights."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import exemplars_tuning as exemplars
import graded
import pytest
from graded import edit, edit_row, replace_text, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab_runs import first_run

from course_grader.kernels import own_server
from course_grader.reexecute import rerun
from course_grader.sandbox import available
from course_grader.warm_executor import WarmSandboxedExecutor
from course_lib import finetune
from course_lib import notebooks as nbs
from course_lib.artifacts_tuning import AdapterConfig, GateThresholds
from course_lib.catalog import artifacts, find
from course_lib.checks import checkers, rules, tune_adapter
from course_lib.checks import tuning as sums
from course_lib.checksums import verify_checksums
from course_lib.errors import DataError, ModelError, UsageError
from course_lib.evidence import CHAIN, Link, breaks, seal, sha256
from course_lib.grade import context_for, grade_opened, grade_submission, rubric_of
from course_lib.measure import bootstrap_difference
from course_lib.prompts import ABSTAIN, REFUSE
from course_lib.submission import Submission
from course_lib.types import Outcome

pytestmark = pytest.mark.labs("03 first")

RUBRIC = rubric_of("03")
problems = partial(graded.problems, module="03")
PLAN, RESULTS, REPORT = "plan.json", "results.json", "experiment-report.md"
BASE, TUNED, BACK = exemplars.ROWS
SERVED, LOG, DATA, WORSE = "served_rows.jsonl", "training_log.jsonl", "training_data.jsonl", "regressions.jsonl"


@pytest.fixture(scope="session")
def passing() -> Path:
    return first_run("03")


def test_an_unchanged_copy_passes_every_rule(copy: Path) -> None:
    assert problems(copy) == {}
    assert {f.rule for f in grade_submission(copy, "03").findings} == set(rules("03"))
    assert len(rules("03")) == len(set(rules("03"))) == sum(len(c.rules) for c in checkers("03"))


# File, what is changed in it -> rules that must fail once the chain is sealed again; others may follow.
CHANGES: list[tuple[str, str, Callable[[dict], object], set[str]]] = [
    ("another base", PLAN, lambda p: p["base"].update(sha256="0" * 64), set()),
    ("fewer locked cases", PLAN, lambda p: p["cases"].update(locked=p["cases"]["locked"][:40]), {"tune.same_cases"}),
    ("a case twice", PLAN, lambda p: p["cases"]["locked"].append(p["cases"]["locked"][0]), {"tune.same_cases"}),
    ("an invented case", PLAN, lambda p: p["cases"]["locked"].append("frame-999"), {"tune.same_cases"}),
    ("other thresholds", PLAN, lambda p: p["thresholds"].update(most_p=0.5), {"tune.plan_first"}),
    ("another rank", PLAN, lambda p: p["training"].update(rank=4), {"tune.training_log", "tune.files_agree"}),
    ("more steps", PLAN, lambda p: p["training"].update(steps=500), {"tune.training_log", "tune.files_agree"}),
    ("a lower rate", PLAN, lambda p: p["training"].update(learning_rate=1e-5), {"tune.training_log"}),
    ("other layers", PLAN, lambda p: p["training"].update(targets=["q_proj"]), {"tune.training_log"}),
    ("fewer rows planned", PLAN, lambda p: p["training"].update(rows=10), {"tune.data_clean", "tune.files_agree"}),
    ("another seed", PLAN, lambda p: p.update(seed=99), {"tune.files_agree", "tune.environment"}),
    ("a gate for losses", PLAN, lambda p: p["thresholds"].update(least_gain=-0.5), {"tune.gate_follows"}),
    ("a larger gain", RESULTS, lambda r: r["locked"].update(gain=0.9), {"tune.paired_test", "tune.report"}),
    ("a smaller p", RESULTS, lambda r: r["locked"].update(p=0.001), {"tune.paired_test"}),
    ("one more right", RESULTS, lambda r: r["locked"].update(tuned_right=79), {"tune.paired_test"}),
    ("worse denied", RESULTS, lambda r: r["locked"].update(worse=r["locked"]["worse"] + 1), {"tune.paired_test"}),
    ("no general loss", RESULTS, lambda r: r["general"].update(lost=r["general"]["lost"] + 1), {"tune.scores_follow"}),
    ("all refused", RESULTS, lambda r: r["refusal"].update(after=r["refusal"]["after"] - 1), {"tune.scores_follow"}),
    ("more rows", RESULTS, lambda r: r.update(training_rows=5), {"tune.data_clean", "tune.report"}),
    ("all served alike", RESULTS, lambda r: r["served"].update(equal=r["served"]["equal"] - 1), {"tune.served"}),
    ("an empty export", RESULTS, lambda r: r["gguf"].update(bytes=10), {"tune.served"}),
    ("less rolled back", RESULTS, lambda r: r["rollback"].update(equal=3), {"tune.rollback"}),
    ("held", RESULTS, lambda r: r.update(decision="hold"), {"tune.gate_follows", "tune.report"}),
    ("a threshold forgotten", RESULTS, lambda r: r.update(failed=["most_p"]), {"tune.gate_follows"}),
    ("no torch", "environment.json", lambda e: e["versions"].pop("torch"), {"tune.environment"}),
    ("rank of the adapter", exemplars.CONFIG, lambda c: c.update(r=4), {"tune.adapter_loads", "tune.training_log"}),
    ("fewer layers", exemplars.CONFIG, lambda c: c.update(target_modules=["q_proj"]), {"tune.adapter_loads"}),
    ("another name", exemplars.CONFIG, lambda c: c.update(base_model_name_or_path="gpt"), {"tune.adapter_loads"}),
    ("not plain LoRA", exemplars.CONFIG, lambda c: c.update(use_dora=True), {"tune.adapter_loads", "tune.files"}),
    ("code to import", exemplars.CONFIG, lambda c: c.update(auto_mapping={"parent_library": "os"}),
     {"tune.adapter_loads", "tune.answers_reproduced"}),
    ("fewer tokens", "metrics.json", lambda m: m.update(tokens_out=1), {"tune.files_agree", "tune.cost_notes"}),
    ("a longer run", "metrics.json", lambda m: m.update(seconds=99_999.0), {"tune.plan_first", "tune.cost_notes"}),
]  # fmt: skip


@pytest.mark.parametrize(("story", "name", "change", "wanted"), CHANGES, ids=[story for story, *_ in CHANGES])
def test_a_change_is_caught(copy: Path, story: str, name: str, change: Callable, wanted: set[str]) -> None:
    def once(record: dict) -> None:
        change(record)

    edit(copy, name, once)
    if name in (PLAN, RESULTS):
        exemplars.reseal(copy)
    found = problems(copy)
    assert wanted <= set(found), found
    assert {found[rule] for rule in wanted} <= {Outcome.FAIL}


def test_another_base_or_other_cases_are_for_a_person_to_judge(copy: Path) -> None:
    edit(copy, PLAN, lambda p: (p["base"].update(sha256="0" * 64), p["cases"].update(sha256="1" * 64), None)[-1])
    exemplars.reseal(copy)
    found = problems(copy)
    judged = ("tune.adapter_loads", "tune.answers_reproduced", "tune.baseline_real", "tune.same_cases")
    assert {found[rule] for rule in judged} == {Outcome.ERROR}


ROW_CHANGES: list[tuple[str, str, Callable[[dict], object], set[str]]] = [
    ("a wrong answer called right", BASE, lambda r: r.update(right=True), {"tune.scores_follow"}),
    ("text that is not that of the tokens", TUNED, lambda r: r.update(answer="[1] Something else."),
     {"tune.answers_reproduced"}),
    ("an answer cut short", TUNED, lambda r: r.update(ended=False), {"tune.answers_reproduced"}),
    ("a token beyond the vocabulary", TUNED, lambda r: r["tokens"].append(99_999), {"tune.answers_reproduced"}),
    ("another id", BASE, lambda r: r.update(id="frame-999"), {"tune.same_cases"}),
    ("another token on the way back", BACK, lambda r: r["tokens"].append(5), {"tune.rollback"}),
    ("different called equal", SERVED, lambda r: r.update(answer="x", equal=True), {"tune.served"}),
    ("another case served", SERVED, lambda r: r.update(id="frame-999"), {"tune.served"}),
    ("severity played down", WORSE, lambda r: r.update(severity="low" if r["severity"] != "low" else "medium"),
     {"tune.regressions"}),
    ("a regression called old", WORSE, lambda r: r.update(kind="remaining"), {"tune.regressions"}),
    ("no cause", WORSE, lambda r: r.update(cause="bad"), {"tune.regressions"}),
    ("another text", WORSE, lambda r: r.update(after="fine"), {"tune.regressions"}),
    ("a case that is right now", WORSE, lambda r: r.update(id="frame-999"), {"tune.regressions", "tune.report"}),
    ("a step backwards", LOG, lambda r: r.update(step=900), {"tune.training_log"}),
    ("a loss that is none", LOG, lambda r: r.update(loss=-1.0), {"tune.training_log"}),
    ("a rate above the plan", LOG, lambda r: r.update(learning_rate=0.5), {"tune.training_log"}),
]  # fmt: skip


@pytest.mark.parametrize(("story", "name", "change", "wanted"), ROW_CHANGES, ids=[story for story, *_ in ROW_CHANGES])
def test_a_change_in_a_row_is_caught(copy: Path, story: str, name: str, change: Callable, wanted: set[str]) -> None:
    edit_row(copy, name, 2, lambda row: (change(row), None)[-1])
    exemplars.reseal(copy)
    assert wanted <= set(problems(copy))


@pytest.mark.parametrize("name", [PLAN, BASE, LOG, exemplars.ADAPTER, TUNED, RESULTS])
def test_a_sealed_file_that_was_touched_is_named(copy: Path, name: str) -> None:
    raw = (copy / name).read_bytes()
    (copy / name).write_bytes(raw + b" " if name != exemplars.ADAPTER else raw[:-1] + bytes([raw[-1] ^ 1]))
    rule = "tune.plan_first" if name == PLAN else "tune.baseline_first"
    finding = next(f for f in grade_submission(copy, "03").findings if f.rule == rule)
    assert finding.outcome is Outcome.FAIL and f"{name} was changed after it was sealed" in finding.message


@pytest.mark.parametrize(("name", "old", "new", "wanted"), [
    (REPORT, "## Spot checks", "## Anything", {"tune.report"}),
    (REPORT, "gain 0.", "gain 1.", {"tune.report"}),
    (REPORT, "Loss ", "Losses 9", {"tune.report"}),
    ("rollback-note.md", "## Owner", "## Later", {"tune.rollback"}),
    ("data-card.md", "## Source and rights", "## Thoughts", {"tune.data_card"}),
    ("cost-notes.md", "Scaling", "More", {"tune.cost_notes"}),
    ("risk-notes.md", "## Rollback", "## Later", {"tune.risk_notes"}),
    ("README.md", "## Assumptions", "## Thoughts", {"tune.readme"}),
    ("lab.ipynb", '\\"most_lost\\": 0.25', '\\"most_lost\\": 0.90', {"tune.plan_first"}),
    ("lab.ipynb", "row_count = 600", "row_count = 601", {"tune.files_agree"}),
])  # fmt: skip
def test_prose_and_notebook_must_agree_with_the_files(copy: Path, name: str, old: str, new: str, wanted: set) -> None:
    replace_text(copy, name, old, new)
    assert wanted <= set(problems(copy))


def test_training_rows_that_come_from_a_locked_case_are_found_in_any_letters(copy: Path) -> None:
    case = finetune.load_cases("locked")[5]["messages"][1]["content"]
    for text in (case, case.upper().replace(" ", "  "), f"{case} Please."):
        shutil.copyfile(first_run("03") / DATA, copy / DATA)
        edit_row(copy, DATA, 7, lambda row, text=text: row["messages"][1].update(content=text))
        found = {f.rule: f for f in grade_submission(copy, "03").findings}["tune.data_clean"]
        assert found.outcome is Outcome.FAIL and found.where == f"{DATA}:8"
    shutil.copyfile(first_run("03") / DATA, copy / DATA)
    turn = rows(copy, DATA)[3]["messages"][1]["content"]
    edit_row(copy, DATA, 9, lambda row: row["messages"][1].update(content=turn.lower()))
    assert problems(copy) == {"tune.data_clean": Outcome.FAIL}


@pytest.mark.parametrize("name", [n for n in artifacts("03") if n.endswith((".json", ".jsonl", ".ipynb"))])
@pytest.mark.parametrize("content", [b"", b"{\"lab\": NaN}"])
def test_malformed_evidence_never_scores(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    report = grade_submission(copy, "03")
    assert {f.rule for f in report.findings} == set(rules("03"))
    assert {f.rule: f.outcome for f in report.findings if not f.ok}["tune.files"] is Outcome.FAIL
    assert report.points < 17


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 64, b"\xff" * 8 + b"{}", b'\x02\0\0\0\0\0\0\0{}'])
def test_an_adapter_that_is_no_safetensors_file_is_an_error_and_never_a_pass(copy: Path, content: bytes) -> None:
    (copy / exemplars.ADAPTER).write_bytes(content)
    exemplars.reseal(copy)
    found = problems(copy)
    assert {found["tune.adapter_loads"], found["tune.answers_reproduced"]} <= {Outcome.ERROR, Outcome.FAIL}


@pytest.mark.parametrize("name", artifacts("03"))
def test_a_missing_file_is_a_fail_and_no_crash(copy: Path, name: str) -> None:
    (copy / name).unlink()
    found = problems(copy)
    assert found["tune.files"] is Outcome.FAIL and Outcome.ERROR not in found.values()


def test_without_torch_the_weights_are_an_error(passing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise ImportError("No module named 'torch'")

    monkeypatch.setattr(tune_adapter, "_load", none)
    context = context_for(RUBRIC)
    monkeypatch.setitem(context._facts, "tuning base", None)
    context._facts.pop("tuning base")
    found = {f.rule: f.outcome for f in grade_opened(Submission.open(passing), "03", RUBRIC, context).findings}
    judged = ("tune.adapter_loads", "tune.answers_reproduced", "tune.baseline_real")
    assert {found[rule] for rule in judged} == {Outcome.ERROR}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_crash_and_never_gain(passing: Path, data: st.DataObject) -> None:
    files = {str(p.relative_to(passing)): p.read_bytes() for p in passing.rglob("*") if p.is_file()}
    names = [PLAN, RESULTS, TUNED, CHAIN, "lab.ipynb", REPORT, exemplars.ADAPTER, exemplars.CONFIG]
    name = data.draw(st.sampled_from(names))
    raw = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 40_000) - 1))] = data.draw(st.integers(0, 255))
    report = grade_opened(Submission("s", {**files, name: bytes(raw)}), "03", RUBRIC, context_for(RUBRIC))
    assert {f.rule for f in report.findings} == set(rules("03")) and report.points <= 17


# The chain


def sealed(folder: Path, *steps: str) -> None:
    for number, step in enumerate(steps):
        (folder / f"{step}.txt").write_text(step)
        seal(folder, step, f"{step}.txt", first=not number)


def broken(folder: Path, *steps: str) -> list[tuple[str, str]]:
    raw = (folder / CHAIN).read_bytes()
    links = [Link.model_validate_json(line) for line in raw.splitlines()]
    return list(breaks(links, raw, {p.name: p.read_bytes() for p in folder.iterdir()}, steps))


def test_a_chain_holds_until_something_is_touched(tmp_path: Path) -> None:
    sealed(tmp_path, "a", "b", "c")
    assert broken(tmp_path, "a", "b", "c") == []
    assert {step for step, _ in broken(tmp_path, "a", "c", "b")} == {"c"}
    (tmp_path / "b.txt").write_text("other")
    assert [step for step, _ in broken(tmp_path, "a", "b", "c")] == ["b"]
    (tmp_path / "b.txt").unlink()
    assert "is not there" in broken(tmp_path, "a", "b", "c")[0][1]


@pytest.mark.parametrize("number", [0, 1])
def test_a_link_that_was_rewritten_breaks_the_one_after_it(tmp_path: Path, number: int) -> None:
    sealed(tmp_path, "a", "b", "c")
    step = "ab"[number]
    (tmp_path / f"{step}.txt").write_text("better")
    lines = (tmp_path / CHAIN).read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | {"sha256": sha256(b"better")})
    (tmp_path / CHAIN).write_text("\n".join(lines) + "\n")
    assert {place for place, _ in broken(tmp_path, "a", "b", "c")} == {step}


def test_sealing_twice_or_nothing_is_refused(tmp_path: Path) -> None:
    sealed(tmp_path, "a")
    with pytest.raises(UsageError):
        seal(tmp_path, "a", "a.txt")
    with pytest.raises(DataError):
        seal(tmp_path, "b", "b.txt")


# The sums


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(better: int, worse: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
    assert sums.mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


def test_a_comparison_counts_pairs_and_resamples_cases() -> None:
    before, after = [True] * 3 + [False] * 17, [False] + [True] * 12 + [False] * 7
    found = sums.compare(before, after)
    assert (found["n"], found["better"], found["worse"], found["gain"]) == (20, 10, 1, 0.45)
    assert (found["low"], found["high"]) == bootstrap_difference([*map(float, after)], [*map(float, before)])
    assert sums.compare([], [])["p"] == 1.0


@pytest.mark.parametrize(("reply", "demands", "answer", "expected"), [
    ("[1] A b.", ["Pay 900"], "[1] pay 900.", "high"), ("[1] A b.", ["Pay 900"], "[1] pay 9000", "medium"),
    ("[1] A b.", [], ABSTAIN, "low"), (ABSTAIN, [], "[1] A.", "high"), (REFUSE, [], "", "high"),
    (REFUSE, [], ABSTAIN, "low"), ("[1] A b.", ["b"], "[1] b", "medium"), ("[1] A.", [ABSTAIN], ABSTAIN, "high"),
])  # fmt: skip
def test_severity_follows_the_rule(reply: str, demands: list[str], answer: str, expected: str) -> None:
    assert sums.severity({"reply": reply, "demands": demands}, answer) == expected


def test_thresholds_are_met_on_the_edge() -> None:
    limits = GateThresholds(least_gain=0.2, most_p=0.05, most_lost=0.25, least_refused=0.9, least_served=0.95)
    edge = {"gain": 0.2, "p": 0.05, "lost": 0.25, "refused": 0.9, "served": 0.95}
    assert sums.unmet(limits, edge) == []
    over = {"gain": 0.19, "p": 0.06, "lost": 0.26, "refused": 0.89, "served": 0.94}
    assert sums.unmet(limits, over) == list(limits.model_dump())


# The weights


def test_the_adapter_is_put_onto_the_base_as_peft_merges_it(passing: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from course_lib.models import model_folder

    base = tune_adapter.base_of(context_for(RUBRIC))
    submission = Submission.open(passing)
    changed = tune_adapter.adapted(submission, submission.json(exemplars.CONFIG, AdapterConfig), base)
    fresh = AutoModelForCausalLM.from_pretrained(model_folder() / "base", dtype=torch.float32)
    merged = PeftModel.from_pretrained(fresh, passing / "adapter").merge_and_unload()
    assert len(changed) == 42
    for name, weight in merged.named_parameters():
        expected = changed.get(name, base.weights[name])
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)


def test_samples_cannot_be_chosen_and_look_where_gains_are_claimed(passing: Path) -> None:
    found = sums.rows_of(Submission.open(passing), TUNED)
    one, two = (tune_adapter.sample(found, salt, 4, first=True) for salt in "ab")
    assert len(one) == len(two) == 4 and one != two
    assert sum(row.value.right for row in one) == 3
    assert tune_adapter.sample(found[:2], "a", 4, first=True)


# What the lab is made of


def test_data_are_what_the_code_makes(tmp_path: Path) -> None:
    from course_lm import tuning_data

    tuning_data.write(tmp_path)
    assert verify_checksums(finetune.data_folder()) == 4
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (finetune.data_folder() / path.name).read_bytes(), path.name


def test_the_pool_holds_no_case_and_the_small_set_holds_three_rows_to_find() -> None:
    from course_lib.datasets import digest

    cases = {digest(case["messages"][1]["content"]) for case in finetune.load_cases() if "messages" in case}
    pool = [digest(row["messages"][1]["content"]) for row in finetune.load_pool()]
    own = [digest(row["messages"][1]["content"]) for row in finetune.load_rows()]
    assert not cases & set(pool) and len(pool) - len(set(pool)) == 1
    assert len(cases & set(own)) == 2 and len(own) - len(set(own)) == 1


def test_a_tier_is_known_and_the_one_for_gpus_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert finetune.check_tier("gpu") == "gpu"
    with pytest.raises(UsageError):
        finetune.check_tier("tpu")
    monkeypatch.setitem(sys.modules, "unsloth", None)
    for gpu, missing in ((False, "NVIDIA GPU"), (True, "unsloth, which is not installed")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        with pytest.raises(ModelError, match=missing):
            finetune.quantised_base("x", rank=4, targets=["q_proj"], seed=1)


class StandIn:
    """unsloth's FastLanguageModel where there is no GPU: records its arguments, and makes the same model unrounded."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}
        self.adapter: dict[str, Any] = {}

    def from_pretrained(self, name: str, **settings: Any) -> tuple[Any, None]:
        import torch
        from transformers import AutoModelForCausalLM

        self.loaded = {"name": name, **settings}
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), None

    def get_peft_model(self, plain: Any, **settings: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        self.adapter = settings
        known = {name: value for name, value in settings.items() if name != "random_state"}
        return get_peft_model(plain, LoraConfig(**known, task_type="CAUSAL_LM"))


def cells_of_the_lab(out: Path, tier: str, *, until: str) -> dict[str, Any]:
    """Names after the lab's own cells up to the one that begins with ``until``: few cases, 8 rows, 5 steps."""
    out.mkdir()
    few = {"tier": tier, "out_dir": str(out), "row_count": 8, "steps": 5, "batch": 2, "rank": 2,
           "threads": 1}  # fmt: skip
    names: dict[str, Any] = {}
    for _, cell in nbs.code_cells(nbs.read(find("03").labs[0])):
        if cell.source.startswith("merged") or any(tag.startswith(("try-", "check-")) for tag in nbs.tags(cell)):
            continue
        exec(cell.source, names)
        if "parameters" in nbs.tags(cell):
            names |= few
        if cell.source.startswith("machine"):
            names["cases"] = {name: group[:2] for name, group in names["cases"].items()}
            names["asked"] = [case for group in names["cases"].values() for case in group]
        if cell.source.startswith(until):
            return names
    raise AssertionError(f"no cell of the lab begins with {until}")


def test_the_tier_for_gpus_trains_the_same_rows_by_qlora_and_is_judged_like_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from course_lib.models import model_folder

    unsloth, cpu = StandIn(), cells_of_the_lab(tmp_path / "cpu", "cpu", until="trl_cpu")
    assert not unsloth.loaded
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=unsloth))
    plain = finetune.quantised_base

    def with_a_gpu(*given: Any, **named: Any) -> Any:
        with monkeypatch.context() as here:
            here.setattr(torch.cuda, "is_available", lambda: True)
            return plain(*given, **named)

    monkeypatch.setattr(finetune, "quantised_base", with_a_gpu)
    gpu = cells_of_the_lab(tmp_path / "gpu", "gpu", until="worn")
    assert unsloth.loaded["name"] == str(model_folder() / "base") and unsloth.loaded["load_in_4bit"] is True
    assert (unsloth.adapter["r"], unsloth.adapter["lora_alpha"], unsloth.adapter["random_state"]) == (2, 4, gpu["seed"])
    assert unsloth.adapter["target_modules"] == gpu["modules"] == cpu["modules"]
    plan = json.loads((tmp_path / "gpu" / PLAN).read_text())
    assert (plan["tier"], plan["training"]["precision"]) == ("gpu", "nf4")
    trained = [scope["trainer"].train_dataset["input_ids"] for scope in (cpu, gpu)]
    assert list(trained[0]) == list(trained[1]) and len(trained[0]) == 8
    assert (tmp_path / "cpu" / DATA).read_bytes() == (tmp_path / "gpu" / DATA).read_bytes()
    saved = json.loads((tmp_path / "gpu" / exemplars.CONFIG).read_text())
    assert (saved["r"], saved["base_model_name_or_path"]) == (2, "course-lm-base")
    assert set(gpu["found"]) == {"locked", "general", "refusal"} and gpu["equal"] == len(gpu["asked"]) == 6
    assert [row["id"] for row in rows(tmp_path / "gpu", TUNED)] == [row["id"] for row in rows(tmp_path / "cpu", BASE)]


def test_rows_of_lab_02_are_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.jsonl").write_text('{"id": "mine"}\n')
    assert finetune.load_rows(tmp_path) == [{"id": "mine"}]
    odd = [{"id": "a", "text": "one\u2028two\u0085three"}, {"id": "b"}]
    finetune.write_rows(tmp_path / "splits" / "train.jsonl", odd)
    assert finetune.load_rows(tmp_path) == odd
    (tmp_path / "splits" / "train.jsonl").write_text('{"id": 1}\n\n{broken\n')
    with pytest.raises(DataError, match=r"train\.jsonl:3"):
        finetune.load_rows(tmp_path)


def test_a_prompt_is_the_template_or_the_plain_text() -> None:
    stub = SimpleNamespace(apply_chat_template=lambda messages, **_: f"<{len(messages)}>")
    assert finetune.prompt_text(stub, {"messages": [1, 2]}) == "<2>"
    assert finetune.prompt_text(stub, {"text": "plain"}) == "plain"


@pytest.mark.slow
@pytest.mark.skipif(not available()[0], reason=available()[1] or "a sandbox works")
def test_the_lab_trains_again_in_the_sandbox_with_another_seed(tmp_path: Path) -> None:
    executor = WarmSandboxedExecutor(server=own_server(0))
    found = rerun(Submission.open(first_run("03")), "03", executor, tmp_path / "work", 7)
    assert [f.message for f in found if not f.ok] == []
    assert {f.rule for f in found} == {f"rerun.{name}" for name in "completed outputs follows_seed stays_equal".split()}
