"""Cases of the locked tests handed in as training data, in whatever words: the pairs are named, and nobody else pays.

Each attack is a folder of lab 02 in which everything else is right: dataset, splits, hashes and card agree with the
planted row. The cohort is graded by the course's own checkers, and the neighbours score as they do without the attack.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exemplars_dataset as exemplars
import pytest

from course_grader.cohort import LabGrader, Options, grade_cohort
from course_grader.gradebook import Row, slug
from course_grader.intake import collect
from course_grader.workers import inline
from course_lib.corpus import load_corpus, load_questions
from course_lib.datasets import make_row, sentences_of
from course_lib.leaks import SETS
from course_lib.models import model_folder
from course_lib.types import Outcome

SEEDS = {"ann": 2, "zoe": 3}
NOTE = "gdpr-breach-notification@1"
VICTIM = "answer-00"  # the row that is replaced
RULES = ("data.leak_copied", "data.leak_paraphrased", "data.leak_unanswerable")
LOCKED = {question.id: question for question in load_questions("locked_test")}
Plant = Callable[[], dict[str, Any]]


def on_corpus(case: str, question: str = "", document: str = "") -> dict[str, Any]:
    """A row with the right answer to a locked case of retrieval, in the case's words or in others."""
    known = LOCKED[case]
    source = load_corpus().document(known.expected_docs[0])
    gold = next(s for s in sentences_of(source) if any(answer in s for answer in known.answers))
    others = [s for s in sentences_of(source) if s != gold][:2]
    sources = [f"{source.title}: {s}" for s in (*others, gold)]
    asked, key = question or known.question, document or source.key
    return make_row(VICTIM, "answer", asked, sources, f"[3] {gold}", key, "hand")


def of_the_model(case: str, change: Callable[[str], str] = str) -> dict[str, Any]:
    """A locked case of course-lm as a row."""
    lines = [line for name in SETS for line in (model_folder() / "evals" / f"{name}.jsonl").read_text().splitlines()]
    row = next(json.loads(line) for line in lines if f'"{case}"' in line)
    if "question" in row:
        return make_row(VICTIM, "answer", change(row["question"]), row["sources"], row["reply"], NOTE, "hand")
    ask, _, body = row["messages"][1]["content"].partition("\n\n")
    made = make_row(VICTIM, row["task"], ask, ["x"], row["reply"], NOTE, "hand")
    made["messages"][1]["content"] = f"{ask}\n\n{change(body)}"
    return made


def dressed(text: str) -> str:
    return text.upper().replace("?", " ?!?").replace(" ", "  ")


def invisible(text: str) -> str:
    """Marks without width between letters, and letters of double width."""
    return "\u200b".join(text).replace("o", "\uff4f")


# story -> (the row, the rule that must fail, the case that must be named)
ATTACKS: dict[str, tuple[Plant, str, str]] = {
    "word for word": (lambda: on_corpus("locked-paraphrase-02"), RULES[0], "locked-paraphrase-02"),
    "in capitals": (lambda: on_corpus("locked-paraphrase-13", dressed(LOCKED["locked-paraphrase-13"].question)),
                    RULES[0], "locked-paraphrase-13"),
    "with invisible marks": (
        lambda: on_corpus("locked-paraphrase-13", invisible(LOCKED["locked-paraphrase-13"].question)),
        RULES[0], "locked-paraphrase-13"),
    "one word more": (lambda: on_corpus("locked-paraphrase-13", "And " + LOCKED["locked-paraphrase-13"].question),
                      RULES[0], "locked-paraphrase-13"),
    "a paraphrase": (lambda: on_corpus("locked-paraphrase-25", "For how long does a deployer of a high-risk AI system "
                                       "have to keep its logs?"), RULES[1], "locked-paraphrase-25"),
    "a paraphrase of a note": (
        lambda: on_corpus("locked-paraphrase-12", "What percentage of clients has to be affected for an incident to "
                          "meet the client criterion?"), RULES[1], "locked-paraphrase-12"),
    "a paraphrase under another document's name": (
        lambda: on_corpus("locked-paraphrase-27", "How quickly must an instant credit transfer reach the payee?",
                          NOTE), RULES[1], "locked-paraphrase-27"),
    "a case of the model": (lambda: of_the_model("frame-003"), RULES[0], "frame-003"),
    "a case of the model in capitals": (lambda: of_the_model("frame-005", str.upper), RULES[0], "frame-005"),
    "a duty of the model's test": (lambda: of_the_model("extract-000"), RULES[0], "extract-000"),
}  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three honest runs of the lab, each with another seed."""
    top = tmp_path_factory.mktemp("honest")
    return {name: exemplars.Run(top / name, parameters={"seed": seed}).run()
            for name, seed in {**SEEDS, "mallory": 5}.items()}  # fmt: skip


def graded(folder: Path, out: Path) -> dict[str, Row]:
    run = grade_cohort(collect([folder]), LabGrader("02"), out, Options(mapper=inline))
    return {row.learner: row for row in run.book.labs[0].rows}


@pytest.fixture(scope="module")
def before(honest: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """The rows of a cohort in which nobody attacks: all pass."""
    top = tmp_path_factory.mktemp("before")
    for name, folder in honest.items():
        shutil.copytree(folder, top / "subs" / name)
    rows = graded(top / "subs", top / "book")
    assert all(f.ok for row in rows.values() if row.report for f in row.report.findings if f.rule.startswith("data."))
    return rows


@pytest.mark.parametrize(("plant", "rule", "case"), ATTACKS.values(), ids=ATTACKS)
def test_a_locked_case_in_the_training_data_is_named(
    plant: Plant, rule: str, case: str, honest: dict[str, Path], before: dict[str, Row], tmp_path: Path
) -> None:
    for name, folder in honest.items():
        shutil.copytree(folder, tmp_path / "subs" / name)

    def change(row: dict[str, Any]) -> None:
        row.clear()
        row.update(planted)

    planted = plant()
    exemplars.replace_row(tmp_path / "subs" / "mallory", VICTIM, change)
    rows = graded(tmp_path / "subs", tmp_path / "book")
    for name in SEEDS:
        assert not rows[name].error
        assert (rows[name].report, rows[name].final) == (before[name].report, before[name].final)
    report = rows["mallory"].report
    assert report is not None and report.band == "blocked"
    found = {f.rule: f for f in report.findings if f.rule in RULES}
    assert found[rule].outcome is Outcome.FAIL
    named = " ".join(found[rule].evidence["pairs"])
    assert VICTIM in named and f"is {case} " in named and "compliance_sft_dataset.jsonl:" in found[rule].message
    gate = next(gate for gate in report.gates if gate.id == "tests_unseen")
    assert gate.outcome is Outcome.FAIL and any(case in problem for problem in gate.problems)
    page = (tmp_path / "book" / "learners" / f"{slug('mallory')}-02.html").read_text("utf-8")
    assert case in page and VICTIM in page


def test_a_case_hidden_in_a_split_alone_is_named(honest: dict[str, Path], tmp_path: Path) -> None:
    """The dataset is clean, and what is trained on is not."""
    folder = Path(shutil.copytree(honest["mallory"], tmp_path / "mallory"))
    part = next(n for n in ("train", "validation", "test")
                if any(r["id"] == VICTIM for r in exemplars.rows(folder, f"splits/{n}.jsonl")))  # fmt: skip
    kept = [r if r["id"] != VICTIM else on_corpus("locked-paraphrase-02") for r in
            exemplars.rows(folder, f"splits/{part}.jsonl")]  # fmt: skip
    exemplars.rewrite(folder, f"splits/{part}.jsonl", kept)
    exemplars.reseal(folder)
    report = graded(tmp_path, tmp_path.with_name("book-of-splits"))["mallory"].report
    assert report is not None
    found = {f.rule: f for f in report.findings}
    assert "locked-paraphrase-02" in found["data.leak_copied"].message
    assert f"splits/{part}.jsonl:" in found["data.leak_copied"].message
    assert not found["data.split_overlap"].ok, "and it is not the row of the dataset"
