"""The whole way on a tiny model in under a minute: pretrain, SFT, DPO, LoRA and merge, export, reload, serve."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from course_lib.models import connect
from course_lm import bench as lm_bench
from course_lm import dpo as lm_dpo
from course_lm import export as lm_export
from course_lm import task_eval as lm_task_eval
from course_lm import tasks as lm_tasks
from course_lm import tokenizer as lm_tokenizer
from course_lm import train as lm_train
from course_lm.data import plain_texts

TINY = {"width": 64, "layers": 2, "heads": 2, "inner": 96}
QUICK = {"device": "cpu", "batch_tokens": 1500}


def known() -> list[lm_tasks.TaskItem]:
    """A tool call, a reply to a result, a refusal and a case, which even a tiny model learns by heart."""
    rng = random.Random(6)
    used = [lm_tasks.task_item(rng, "train", "tools") for _ in range(20)]
    call = next(item for item in used if item.meta["call"])
    result = next(item for item in used if not item.meta["call"])
    return [call, result, lm_tasks.task_item(rng, "train", "refuse"), lm_tasks.task_item(rng, "train", "classify")]


KNOWN = known()


def few(rng: random.Random, level: int = 0, stage: str = "sft") -> lm_tasks.TaskItem:
    return rng.choice(KNOWN)


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, Path]:
    """Checkpoint folders of each stage, every one started from the one before."""
    root = tmp_path_factory.mktemp("smoke")
    rng = random.Random(1)
    texts = [json.dumps(i.tools) + i.messages[1]["content"] + i.reply for i in KNOWN]
    tokenizer = lm_tokenizer.train([*plain_texts(150, 1), *texts * 25], vocab_size=1000)
    made = {"pretrain": lm_train.train("pretrain", root / "pretrain", tokenizer=tokenizer, shape=TINY, steps=6,
                                       eval_every=6, **QUICK)}  # fmt: skip
    made["sft"] = lm_train.train("sft", root / "sft", start=made["pretrain"], sampler=few, steps=300, eval_every=100,
                                 lr=6e-3, warmup=5, **QUICK)  # fmt: skip
    pairs = list(lm_dpo.pairs(tokenizer, few, 16))
    made["dpo"] = lm_dpo.train(made["sft"], root / "dpo", made=pairs, device="cpu", steps=4, batch=4, every=2, lr=1e-5)
    lm_bench.lora_sft(made["dpo"], root / "lora", [few(rng) for _ in range(16)], steps=4, batch=4, lr=1e-4, rank=4)
    return made | {"lora": root / "lora"}


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "lora"])
def test_each_stage_leaves_a_whole_checkpoint_that_moved(stages: dict[str, Path], stage: str) -> None:
    from transformers import AutoModelForCausalLM

    assert all((stages[stage] / name).exists() for name in lm_export.CHECKPOINT_FILES)
    weight = AutoModelForCausalLM.from_pretrained(str(stages[stage])).get_input_embeddings().weight
    assert weight.shape == (len(lm_tokenizer.load(stages[stage])), TINY["width"])
    before = {"sft": "pretrain", "dpo": "sft", "lora": "dpo"}.get(stage)
    if before:
        assert (stages[stage] / "model.safetensors").read_bytes() != (stages[before] / "model.safetensors").read_bytes()


def test_losses_fall(stages: dict[str, Path]) -> None:
    log = [json.loads(line) for line in (stages["sft"] / "log.jsonl").read_text().splitlines()]
    assert log[-1]["reply"] < 0.5 * log[0]["reply"]


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_the_merged_model_is_served_and_calls_a_tool(stages, tmp_path: Path, monkeypatch, kind: str) -> None:
    gguf = lm_export.export(stages["lora"], tmp_path / "out", name="tiny", kinds=(kind,))[0]
    assert lm_export.verify(tmp_path / "out") == []
    monkeypatch.setenv("COURSE_LM_GGUF", str(gguf))
    client = connect(embedded=True)
    rows = [{"id": str(number), **item.row()} for number, item in enumerate(KNOWN)]
    replies = [lm_task_eval.ask(client, "course-lm-instruct", row) for row in rows]
    right = [lm_task_eval.right(row, reply) for row, reply in zip(rows, replies, strict=True)]
    assert right[0] and replies[0].calls == [KNOWN[0].meta["call"]], replies
    assert sum(right) >= 3, replies
