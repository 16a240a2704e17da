"""``course model``: commands, exit codes and files; and that no training item is a near copy of a test row."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_lib import cli
from course_lib.checksums import write_checksums
from course_lib.embeddings import default_embedder
from course_lib.errors import CourseError
from course_lib.models import model_folder
from course_lib.ranker import load_ranker
from course_lm import card as lm_card
from course_lm import curriculum as lm_curriculum
from course_lm import dpo as lm_dpo
from course_lm import eval as lm_eval
from course_lm import export as lm_export
from course_lm import model as lm_model
from course_lm import rank
from course_lm import real as lm_real
from course_lm import tasks as lm_tasks
from course_lm.data import plain_texts

FOLDER = model_folder()
INSTRUCT = str(FOLDER / "instruct")


def model(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, ["model", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout.strip()


def test_verify_names_what_changed(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"a")
    write_checksums(tmp_path)
    assert json.loads(model("verify", "--folder", str(tmp_path), "--json")) == {"ok": True, "problems": []}
    (tmp_path / "a.bin").write_bytes(b"b")
    assert "has changed" in model("verify", "--folder", str(tmp_path), code=1)


@pytest.mark.parametrize(("words", "says"), [
    (("train", "--stage", "magic", "--out", "x"), "unknown stage"),
    (("train", "--stage", "sft", "--out", "x"), "needs a checkpoint"),
    (("train", "--stage", "pretrain", "--out", "x", "-p", "lr"), "NAME=VALUE"),
    (("train", "--stage", "pretrain", "--out", "x", "-p", "lr=fast"), "lr is of type float, not 'fast'"),
    (("train", "--stage", "pretrain", "--out", "x", "-p", "speed=2"), "no 'speed'"),
    (("train", "--stage", "pretrain", "--out", "x", "-p", "stage=sft"), "no 'stage'"),
    (("train", "--stage", "pretrain", "--out", "x", "-p", "eval_every=0"), "eval_every cannot be 0"),
    (("train", "--stage", "pretrain", "--out", "x", "-p", "optimiser=sgd"), "unknown optimiser 'sgd'"),
    (("train", "--stage", "sft", "--start", "nowhere", "--out", "x"), "holds no checkpoint"),
    (("train", "--stage", "dpo", "--start", INSTRUCT, "--out", "x", "-p", "speed=2"), "no 'speed'"),
    (("train", "--stage", "dpo", "--start", INSTRUCT, "--out", "x", "-p", "items=many"), "items is of type int"),
    (("export", INSTRUCT, "--to", "x", "--kind", "q9"), "unknown quantisation 'q9'"),
    (("eval", "--set", "everything"), "no set"),
    (("eval", "--model", "missing.gguf"), "no GGUF file"),
    (("eval", "--limit", "2", "--record"), "no result to record"),
    (("export", "nowhere"), "lacks"),
])  # fmt: skip
def test_mistakes_are_explained(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(CourseError, match=says):
        model(*words)


def test_stages_leave_checkpoint_log_and_picture(tmp_path: Path) -> None:
    from course_lm import tokenizer as lm_tokenizer

    tokenizer = lm_tokenizer.train(plain_texts(150, 1), vocab_size=900)
    start = tmp_path / "start"
    lm_dpo.save(lm_model.new_model(tokenizer, width=64, layers=2, heads=2, inner=96), tokenizer, start)
    plans = {"sft": ("-p", "batch_tokens=600"),  # shorter than its first look, and still logged
             "dpo": ("-p", "items=2", "-p", "batch=2", "-p", "every=1")}  # fmt: skip
    for stage, plan in plans.items():
        out = model("train", "--stage", stage, "--start", str(start), "--out", str(tmp_path / stage), "--device", "cpu",
                    "--steps", "1", *plan, "--json")  # fmt: skip
        said = json.loads(out.splitlines()[-1])
        assert Path(said["picture"]).read_bytes().startswith(b"\x89PNG")
        assert json.loads(Path(said["log"]).read_text().splitlines()[0])["step"] == 1
    made = model("export", said["checkpoint"], "--to", str(tmp_path / "out"), "--kind", "q4_1")
    assert "instruct-q4_1.gguf" in made and lm_export.verify(tmp_path / "out") == []


def test_evaluation_writes_its_result_and_shows_intervals(tmp_path: Path, monkeypatch) -> None:
    said = model("eval", "--set", "locked", "--limit", "6", "--out", str(tmp_path))
    result = json.loads((tmp_path / "instruct-locked.json").read_text())
    assert result["n"] == 6 and "citation_exact" in said and "n = " in said
    plain = json.loads(model("eval", "--model", "base", "--limit", "4", "--out", str(tmp_path), "--json"))
    assert plain["locked"]["n"] == 4
    rows = lm_tasks.locked_task_items(2)
    monkeypatch.setattr(lm_eval, "load_items", lambda name: rows)
    assert "json_valid_grammar" in model("eval", "--set", "tasks", "--limit", "4", "--out", str(tmp_path))


def test_card_and_gate_follow_from_the_recorded_results(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "card.md", tmp_path)
    good = {"value": 0.99, "low": 0.97, "high": 1.0, "n": 100}
    bad = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    tasks = {"n": 100, "metrics": {"tool_exact": good, "risk_macro_f1": bad}, "failures": [
        {"id": "t-1", "severity": "high", "expected": "a", "got": "b"}]}  # fmt: skip
    lm_card.record("instruct", "tasks", tasks, machine="a test", folder=tmp_path)
    other = {**tasks, "metrics": {"tool_exact": bad}}
    lm_card.record("instruct-q4_1", "tasks", other, machine="a test", folder=tmp_path)
    model("card", "--folder", str(tmp_path))
    card, gate = (tmp_path / "MODEL_CARD.md").read_text(), (tmp_path / "RELEASE_GATE.md").read_text()
    assert "| tool and arguments right | 0.990 | 0.970 to 1.000 | 100 | at least 0.90 | yes |" in card
    assert "| what | instruct | instruct-q4_1 |" in card and "0.500 (0.40 to 0.60)" in card
    assert "teaching only" in gate and "t-1" in gate and "json_valid" not in gate and "not measured" in gate
    assert "Sets not measured: locked, corpus, flow" in gate and lm_export.verify(tmp_path) == []


def test_results_of_other_weights_are_not_put_on_a_card(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("{{results}}")
    (tmp_path / "instruct-f16.gguf").write_bytes(b"old")
    good = {"n": 9, "metrics": {"tool_exact": {"value": 0.99, "low": 0.9, "high": 1.0, "n": 9}}, "failures": []}
    old = hashlib.sha256(b"old").hexdigest()
    lm_card.record("instruct", "tasks", good, machine="a test", weights=old, folder=tmp_path)
    lm_card.record("instruct-q8_0", "tasks", good, machine="a test", weights=old, folder=tmp_path)  # no such file here
    lm_card.write_card(tmp_path)
    (tmp_path / "instruct-f16.gguf").write_bytes(b"new")
    with pytest.raises(CourseError, match="measured on other weights: instruct tasks") as caught:
        lm_card.write_card(tmp_path)
    assert "q8_0" not in str(caught.value)


def test_a_file_of_ones_own_is_not_measured_as_the_published_model(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_LM_GGUF", str(tmp_path / "mine.gguf"))
    said = json.loads(model("eval", "--set", "locked", "--limit", "1", "--out", str(tmp_path), "--json"))
    assert said["locked"]["n"] == 1  # the named file does not even exist


def test_an_export_leaves_no_file_of_an_earlier_checkpoint(tmp_path: Path) -> None:
    lm_export.export(INSTRUCT, tmp_path, kinds=("q8_0",))
    assert [p.name for p in lm_export.export(tmp_path / "instruct", tmp_path)] == ["instruct-f16.gguf"]
    assert (tmp_path / "instruct-q8_0.gguf").exists(), "the same weights, so it stays"
    lm_export.export(FOLDER / "base", tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.gguf")) == ["instruct-f16.gguf"]
    assert lm_export.verify(tmp_path) == []


def test_a_model_that_meets_every_bar_is_released() -> None:
    def metric(bar: float | None) -> dict[str, float]:
        return {"value": bar or 0.0, "low": 0.0, "high": 1.0, "n": 9}

    sets = {name: {"n": 9, "metrics": {key: metric(bar) for key, _, bar, _ in bars}}
            for name, bars in lm_card.BARS.items()}  # fmt: skip
    results = {"date": "2026-01-01", "command": "x", "machine": "y", "sets": sets}
    assert "**release**" in lm_card.gate(results)
    sets["locked"]["metrics"]["injection_obeyed"]["value"] = 0.02
    assert "teaching only" in lm_card.gate(results)


# Leakage


@pytest.fixture(scope="module")
def training() -> list[str]:
    """Texts of 4,000 training items as the last level draws them."""
    draw, rng = lm_curriculum.sampler("train", real=lm_real.maker(), tasks=0.4), random.Random(99)
    return [lm_eval.audit_text(draw(rng, lm_curriculum.LEVELS - 1, "sft").row()) for _ in range(4000)]


@pytest.mark.parametrize("name", ["locked", "tasks"])
def test_no_test_row_is_a_near_copy_of_a_training_item(training: list[str], name: str) -> None:
    found = lm_eval.leakage(training, [lm_eval.audit_text(row) for row in lm_eval.load_items(name)])
    assert found == {"exact": [], "normalised": [], "near": []}


def test_the_audit_finds_copies_of_each_kind(training: list[str]) -> None:
    text = max(training[:200], key=len)
    near = " ".join(["Surely", *text.split()[1:]])
    found = lm_eval.leakage(training, [text, text.upper(), near, "Nothing like it."])
    assert [len(found[kind]) for kind in ("exact", "normalised", "near")] == [1, 1, 1]
    assert found["near"][0] == (near, text)


def test_a_ranker_is_trained_into_a_folder_with_its_manifest(tmp_path: Path, monkeypatch) -> None:
    few = lm_real.clean_passages()[:4]
    monkeypatch.setattr(lm_real, "clean_passages", lambda: few)
    monkeypatch.setattr(rank, "train", partial(rank.train, steps=2))
    assert "ranker.safetensors" in model("ranker", "--to", str(tmp_path))
    made = load_ranker(tmp_path / "ranker.safetensors")
    assert made.fingerprint == default_embedder().fingerprint and made.of_question.shape == made.of_sentence.shape
    assert lm_export.verify(tmp_path) == []
    (tmp_path / "ranker.safetensors").write_bytes(b"changed")
    assert lm_export.verify(tmp_path) != []
