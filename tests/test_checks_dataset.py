"""The checkers of lab 02, each against a submission that was changed in one place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import exemplars_dataset as exemplars
import graded
import pytest
from exemplars_dataset import DATASET, MANIFEST, QUALITY, replace_row, reseal, rewrite
from graded import edit, edit_row, replace_text, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.catalog import artifacts
from course_lib.checks import checkers, rules
from course_lib.errors import ModelError
from course_lib.grade import context_for, grade_opened, grade_submission, rubric_of
from course_lib.submission import Submission
from course_lib.types import Outcome

RUBRIC = rubric_of("02")
problems = partial(graded.problems, module="02")
LOG, CARD, REPORT, METRICS, SOURCES = ("cleaning_log.jsonl", "data-card.md", "quality-report.md", "metrics.json",
                                       "sources.jsonl")  # fmt: skip
SPLITS = tuple(f"splits/{name}.jsonl" for name in ("train", "validation", "test"))
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="session")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exemplars.Run(tmp_path_factory.mktemp("dataset") / "passing").run()


def test_an_unchanged_copy_passes_every_rule(copy: Path) -> None:
    assert problems(copy) == {}
    assert {f.rule for f in grade_submission(copy, "02").findings} == set(rules("02"))
    assert len(rules("02")) == len(set(rules("02"))) == sum(len(c.rules) for c in checkers("02"))


def said(change: Callable[[str], str], turn: int = 2) -> Change:
    """Changes what one turn of a row says."""

    def apply(row: dict[str, Any]) -> None:
        row["messages"][turn]["content"] = change(row["messages"][turn]["content"])

    return apply


ANSWER = "answer-00"
# What is changed in one row of dataset and split, with new hashes -> rules that must fail; others may follow.
ROW_CHANGES: list[tuple[str, str, Change, set[str]]] = [
    ("another system prompt", ANSWER, said(lambda t: "You are helpful.", 0), {"data.rows_valid"}),
    ("a question without its mark", ANSWER, said(lambda t: t.replace("?", ""), 1), {"data.rows_valid"}),
    ("the question asked once", ANSWER, said(lambda t: t.rpartition("\n\n")[0], 1), {"data.rows_valid"}),
    ("a control token", ANSWER, said(lambda t: t + " <|im_end|>"), {"data.rows_valid"}),
    ("two turns", ANSWER, lambda r: r["messages"].pop(0), {"data.rows_valid"}),
    ("a task that nobody knows", ANSWER, lambda r: r.update(task="translate"), {"data.rows_valid"}),
    ("no document", ANSWER, lambda r: r.update(document=None), {"data.rows_valid"}),
    ("no licence", ANSWER, lambda r: r.update(license="unknown"), {"data.rights", "data.card"}),
    ("a document without a right", ANSWER, lambda r: r.update(document="meridian-retention-policy@1"),
     {"data.rights", "data.card"}),
    ("a document that is none", ANSWER, lambda r: r.update(document="invented@1"), {"data.card"}),
    ("an address in a source", ANSWER, said(lambda t: t.replace("[1] ", "[1] Ask jo@bank.example. "), 1),
     {"data.no_pii"}),
    ("a key in a question", ANSWER, said(lambda t: t.replace("Question: ", "Question: Is AKIAIOSFODNN7EXAMPLE "), 1),
     {"data.no_secrets"}),
]  # fmt: skip


@pytest.mark.parametrize(("story", "name", "change", "wanted"), ROW_CHANGES, ids=[s for s, *_ in ROW_CHANGES])
def test_a_change_in_a_row_is_caught(copy: Path, story: str, name: str, change: Change, wanted: set[str]) -> None:
    assert name in {row["id"] for row in rows(copy, DATASET)}
    replace_row(copy, name, change)
    found = problems(copy)
    assert wanted <= set(found), found


BAD_REPLIES: list[tuple[str, str, Callable[[str], str]]] = [
    ("another sentence", "answer", lambda t: "[1] Nothing of the kind is said."),
    ("the wrong source", "answer", lambda t: "[3" + t[2:] if t[1] != "3" else "[1" + t[2:]),
    ("a source that is none", "answer", lambda t: "[9" + t[2:]),
    ("no citation", "answer", lambda t: t.partition("] ")[2]),
    ("part of a sentence", "answer", lambda t: t[:-8] + "."),
    ("a number changed", "extract", lambda t: t.replace('"source":', '"source":1')),
    ("no JSON", "extract", lambda t: t[:-1]),
    ("a duty invented", "extract", lambda t: t.replace("must", "shall", 1)),
    ("a polite abstention", "abstain", lambda t: "I am sorry. " + t),
    ("an answer instead of a refusal", "refuse", lambda t: "With pleasure."),
]


@pytest.mark.parametrize(("story", "task", "change"), BAD_REPLIES, ids=[s for s, *_ in BAD_REPLIES])
def test_a_reply_that_does_not_follow_is_found(copy: Path, story: str, task: str, change: Callable) -> None:
    from course_lib.artifacts_dataset import SftRow
    from course_lib.datasets import problems as faults

    row = next(row for row in rows(copy, DATASET) if row["task"] == task)
    corpus = context_for(RUBRIC).corpus
    assert faults(SftRow.model_validate(row), corpus) == []
    said(change)(row)
    assert faults(SftRow.model_validate(row), corpus), row["messages"][2]["content"]


def test_an_abstention_must_be_deserved(copy: Path) -> None:
    """The sentence that answers is among the sources, and the row abstains: the template's question gives it away."""
    row = next(row for row in rows(copy, DATASET) if row["task"] == "answer" and row["origin"] == "template")

    def give_up(found: dict[str, Any]) -> None:
        found.update(task="abstain")
        found["messages"][2]["content"] = "The sources do not say."

    from course_lib.artifacts_dataset import SftRow
    from course_lib.datasets import problems as faults

    give_up(row)
    assert "a source answers" in faults(SftRow.model_validate(row), context_for(RUBRIC).corpus)[0]


def test_few_bad_replies_are_tolerated_and_many_are_not(copy: Path) -> None:
    names = [row["id"] for row in rows(copy, DATASET) if row["task"] == "answer"]
    looked = {row["id"] for row in rows(copy, QUALITY)}
    others = [name for name in names if name not in looked]
    for count in (2, 6):
        for name in others[:count]:
            replace_row(copy, name, said(lambda t: "[1] Nothing of the kind."))
        found = problems(copy)
        assert ("data.replies_hold" in found) == (count == 6), found
        assert "data.sample_good" not in found


def test_the_same_id_twice_and_a_copied_row(copy: Path) -> None:
    first = rows(copy, DATASET)[0]
    rewrite(copy, DATASET, [*rows(copy, DATASET), first])
    found = problems(copy)
    assert {"data.rows_valid", "data.duplicates", "data.split_hashes", "data.counts_follow"} <= set(found)


@pytest.mark.parametrize(("name", "number", "change", "wanted"), [
    (SOURCES, 0, lambda r: r.update(allowed=not r["allowed"]), {"data.rights"}),
    (SOURCES, 3, lambda r: r.update(document="invented@1"), {"data.rights"}),
    (SOURCES, 5, lambda r: r.update(reason="too good"), {"data.rights"}),
    (LOG, 0, lambda r: r.update(step="repeat"), {"data.counts_follow"}),
    (LOG, 0, lambda r: r.update(id="answer-00"), {"data.counts_follow"}),
    (LOG, 0, lambda r: r.update(other="nobody-77"), {"data.counts_follow"}),
    (LOG, 0, lambda r: r.update(reason="mail jo@bank.example"), {"data.no_pii"}),
    (QUALITY, 0, lambda r: r.update(good=False), {"data.counts_follow"}),
    (QUALITY, 0, lambda r: r.update(kept=False), {"data.sample_size", "data.rejections", "data.counts_follow"}),
    (QUALITY, 0, lambda r: r["row"].update(language="de"), {"data.sample_size"}),
    (QUALITY, 10, lambda r: r.update(reasons=[]), {"data.rejections"}),
    (QUALITY, 10, lambda r: r.update(id="nobody-77"), {"data.rejections"}),
])  # fmt: skip
def test_a_change_beside_the_rows_is_caught(copy: Path, name: str, number: int, change: Change, wanted: set) -> None:
    edit_row(copy, name, number, lambda row: change(row))
    assert wanted <= set(problems(copy))


def test_a_rejection_must_have_been_one(copy: Path) -> None:
    """A good row of the dataset is shown as rejected for its form, with an entry in the log and without the row."""
    victim = next(row for row in rows(copy, DATASET) if row["id"] == ANSWER)
    for file in (DATASET, *SPLITS):
        rewrite(copy, file, [row for row in rows(copy, file) if row["id"] != ANSWER])
    reseal(copy)
    entry = {"id": ANSWER, "task": "answer", "origin": "template", "step": "form", "reason": "looks odd", "other": ""}
    rewrite(copy, LOG, [*rows(copy, LOG), entry])
    kept = [row for row in rows(copy, QUALITY) if row["kept"] and row["id"] != ANSWER]
    shown = {"id": ANSWER, "row": victim, "good": False, "reasons": ["looks odd"], "kept": False}
    rewrite(copy, QUALITY, [*kept, shown])
    finding = next(f for f in grade_submission(copy, "02").findings if f.rule == "data.rejections")
    assert finding.outcome is Outcome.FAIL and "nothing is wrong with its form" in finding.message


@pytest.mark.parametrize(("change", "wanted"), [
    (lambda m: m.update(dataset_sha256="0" * 64), {"data.split_hashes", "data.files_agree"}),
    (lambda m: m["splits"]["test"].update(sha256="0" * 64), {"data.split_hashes", "data.card"}),
    (lambda m: m["splits"]["train"].update(rows=1), {"data.split_hashes", "data.card"}),
    (lambda m: m["splits"].pop("validation"), {"data.split_hashes"}),
    (lambda m: m.update(made_at="2026-13-40T00:00:00Z"), {"data.split_hashes", "data.files_agree"}),
    (lambda m: m.update(trained_at=m["made_at"]), {"data.split_hashes"}),
    (lambda m: m.update(seed=99), {"data.files_agree"}),
    (lambda m: m.update(near=0.99), {"data.files_agree"}),
    (lambda m: m.update(lab="03"), {"data.files_agree"}),
])  # fmt: skip
def test_a_change_in_the_manifest_is_caught(copy: Path, change: Change, wanted: set[str]) -> None:
    def once(manifest: dict[str, Any]) -> None:
        change(manifest)

    edit(copy, MANIFEST, once)
    found = problems(copy)
    assert wanted <= set(found), found


def test_training_later_than_the_splits_is_fine(copy: Path) -> None:
    edit(copy, MANIFEST, lambda m: m.update(trained_at="2026-11-20T10:00:00+00:00"))
    assert problems(copy) == {}


def test_near_duplicates_across_splits_are_named(copy: Path) -> None:
    """A refusal has no document, so only its words can show that it stands on both sides."""
    refusal = next(row for row in rows(copy, SPLITS[0]) if row["task"] == "refuse")
    other = json.loads(json.dumps(refusal)) | {"id": "refuse-77"}
    other["messages"][1]["content"] = refusal["messages"][1]["content"].upper()
    rewrite(copy, SPLITS[2], [*rows(copy, SPLITS[2]), other])
    rewrite(copy, DATASET, [*rows(copy, DATASET), other])
    reseal(copy)
    findings = {f.rule: f for f in grade_submission(copy, "02").findings}
    assert findings["data.split_near"].outcome is Outcome.FAIL
    assert f"refuse-77 is nearly {refusal['id']} of train" in findings["data.split_near"].message
    assert findings["data.split_overlap"].ok and not findings["data.duplicates"].ok


@pytest.mark.parametrize(("name", "old", "new", "wanted"), [
    (CARD, "## Retention", "## Anything", {"data.card"}),
    (CARD, "2032-12-31", "2052-12-31", {"data.card"}),
    (CARD, "Up to internal", "Up to public", {"data.card"}),
    (CARD, "Apache-2.0", "free", {"data.card"}),
    (CARD, "Pending:", "Of course:", {"data.card"}),
    (CARD, "## Deletion", "## Never", {"data.card"}),
    (CARD, " template", " templates", set()),
    (REPORT, "72.2 %", "92.2 %", {"data.report_numbers"}),
    (REPORT, "| privacy | 3 |", "| privacy | 0 |", {"data.report_numbers"}),
    (REPORT, "## Limits", "## Praise", {"data.report_numbers"}),
    ("README.md", "- Date: 2026-11-20", "- Date: recently", {"data.files_agree"}),
    ("README.md", "- Model: ", "- By: ", {"data.readme"}),
    ("README.md", "Quote the sentence that answers", "Answer", {"data.readme"}),
    ("risk-notes.md", "## Rollback", "## Later", {"data.risk_notes"}),
    ("cost-notes.md", "60.0", "6.0", {"data.cost_notes"}),
    ("lab.ipynb", "seed = 1", "seed = 2", {"data.files_agree"}),
])  # fmt: skip
def test_prose_and_notebook_must_agree_with_the_files(copy: Path, name: str, old: str, new: str, wanted: set) -> None:
    replace_text(copy, name, old, new)
    assert set(problems(copy)) == wanted


@pytest.mark.parametrize("field", ["candidates", "kept", "drafted", "drafted_kept", "inspected", "rejected"])
def test_a_count_that_does_not_follow_shows_both_numbers(copy: Path, field: str) -> None:
    edit(copy, METRICS, lambda m: m.update({field: m[field] + 1}))
    finding = next(f for f in grade_submission(copy, "02").findings if f.rule == "data.counts_follow")
    assert finding.outcome is Outcome.FAIL and f"{field} is claimed as" in finding.message


@pytest.mark.parametrize("name", [n for n in artifacts("02") if n.endswith((".json", ".jsonl", ".ipynb"))])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"lab": NaN}', b"null"])
def test_malformed_evidence_never_scores(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    report = grade_submission(copy, "02")
    found = {f.rule: f.outcome for f in report.findings}
    assert set(found) == set(rules("02")) and found["data.files"] is Outcome.FAIL
    if name == DATASET:
        rests_not_on_it = {"data.notebook", "data.readme", "data.risk_notes", "data.cost_notes", "data.report_numbers",
                           "data.files_agree"}  # fmt: skip
        assert {rule for rule, outcome in found.items() if outcome is Outcome.PASS} <= rests_not_on_it


@pytest.mark.parametrize("name", artifacts("02"))
def test_a_missing_file_is_a_fail_and_no_crash(copy: Path, name: str) -> None:
    (copy / name).unlink()
    found = problems(copy)
    assert found["data.files"] is Outcome.FAIL and Outcome.ERROR not in found.values()


class NoWeights:
    """An embedder whose weights are not there."""

    name = fingerprint = "none"

    def encode(self, texts: Any, *, persist: bool = True) -> Any:
        raise ModelError("The weights are missing.", fix="Install them.")


@pytest.mark.parametrize("embedder", [NoWeights(), None], ids=["no weights", "no embedder"])
def test_without_an_embedder_paraphrases_are_an_error_and_never_a_pass(copy: Path, embedder: Any) -> None:
    context = replace(context_for(RUBRIC), embedder=embedder)
    report = grade_opened(Submission.open(copy), "02", RUBRIC, context)
    found = {f.rule: f for f in report.findings}
    for rule in ("data.leak_paraphrased", "data.leak_unanswerable"):
        assert found[rule].outcome is Outcome.ERROR and "no paraphrase was looked for" in found[rule].message
    assert found["data.leak_copied"].ok
    gate = next(gate for gate in report.gates if gate.id == "tests_unseen")
    assert str(gate.outcome) == "error" and report.band == "blocked"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_crash_and_never_gain(passing: Path, data: st.DataObject) -> None:
    files = {p.relative_to(passing).as_posix(): p.read_bytes() for p in passing.rglob("*") if p.is_file()}
    name = data.draw(st.sampled_from([DATASET, MANIFEST, QUALITY, LOG, "lab.ipynb", CARD, METRICS, SPLITS[0]]))
    raw = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    report = grade_opened(Submission("s", {**files, name: bytes(raw)}), "02", RUBRIC, context_for(RUBRIC))
    assert {f.rule for f in report.findings} == set(rules("02")) and report.points <= 17
