"""Preference pairs are plausible and wrong; DPO moves the right way, resumes, and leaves a checkpoint that exports."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from course_lib.errors import DataError
from course_lib.models import model_folder
from course_lm import curriculum as lm_curriculum
from course_lm import dpo as lm_dpo
from course_lm import export as lm_export
from course_lm import tasks as lm_tasks
from course_lm import tokenizer as lm_tokenizer
from course_lm import train as lm_train
from course_lm.data import plain_texts
from course_lm.eval import normalised

TINY = {"width": 64, "layers": 2, "heads": 2, "inner": 96}


def draw(rng: random.Random):
    return sample(rng, 2, "sft")


sample = lm_curriculum.sampler("train", tasks=0.4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny chat model after a dozen steps."""
    texts = [item.messages[1]["content"] + item.reply for item in (lm_tasks.task_item(random.Random(i), "train")
                                                                   for i in range(200))]  # fmt: skip
    tokenizer = lm_tokenizer.train([*plain_texts(200, 1), *texts], vocab_size=1200)
    return lm_train.train("sft", tmp_path_factory.mktemp("dpo") / "start", device="cpu", tokenizer=tokenizer,
                          shape=TINY, steps=12, eval_every=12, batch_tokens=1500, tasks=0.4)  # fmt: skip


def test_rejected_replies_are_wrong_and_of_every_kind(checkpoint: Path) -> None:
    made = list(lm_dpo.pairs(lm_tokenizer.load(checkpoint), draw, 600, seed=3))
    assert made == list(lm_dpo.pairs(lm_tokenizer.load(checkpoint), draw, 600, seed=3))
    kinds = Counter(pair.kind for pair in made)
    for kind in ("obeyed", "answered", "abstained", "wrong number", "drift", "wrong sentence", "changed", "wrong tier"):
        assert kinds[kind] > 3, kinds
    for pair in made:
        assert normalised(pair.rejected) != normalised(pair.chosen) and pair.rejected
        assert pair.prompt.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("task", lm_tasks.TASKS)
def test_every_task_has_wrong_replies(task: str) -> None:
    rng = random.Random(8)
    for _ in range(100):
        item = lm_tasks.task_item(rng, "train", task)
        _, text = lm_dpo.wrong_reply(rng, item)
        assert text and normalised(text) != normalised(item.reply)


def test_own_pairs_hold_what_the_model_says_wrongly() -> None:
    rng, checkpoint = random.Random(4), model_folder() / "instruct"
    items, tokenizer = [draw(rng) for _ in range(12)], lm_tokenizer.load(checkpoint)
    made = {pair.prompt: pair for pair in lm_dpo.own_pairs(checkpoint, items, device="cpu", batch=5, max_tokens=12)}
    same = 0
    for item in items:
        prompt = lm_dpo.prompt_of(tokenizer, item)
        alone = lm_dpo.generate(checkpoint, tokenizer, [prompt], "cpu", 12)[0]
        if prompt in made:
            same += made[prompt].rejected == alone
            assert made[prompt].chosen == lm_dpo.reply_of(item) and made[prompt].kind == "own"
        else:
            same += normalised(alone) == normalised(lm_dpo.reply_of(item))
    assert made and same >= len(items) - 1  # padding changes the arithmetic, which may flip a near tie


def test_training_prefers_the_chosen_and_resumes_the_same_curve(checkpoint: Path, tmp_path: Path) -> None:
    made = list(lm_dpo.pairs(lm_tokenizer.load(checkpoint), draw, 24, seed=1))
    settings = {"device": "cpu", "batch": 4, "lr": 1e-3, "every": 4}
    whole = lm_dpo.train(checkpoint, tmp_path / "whole", made=made, steps=8, **settings)
    logs = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in logs][:2] == [4, 8] and logs[1]["rewards/margins"] > logs[0]["rewards/margins"]
    assert all((whole / name).exists() for name in lm_export.CHECKPOINT_FILES)
    lm_export.write_gguf(whole, tmp_path / "x.gguf")

    class Cut(Exception):
        pass

    def stop(record: dict) -> None:
        if record["step"] == 8:
            raise Cut

    with pytest.raises(Cut):
        lm_dpo.train(checkpoint, tmp_path / "cut", made=made, steps=8, report=stop, **settings)
    lm_dpo.train(checkpoint, tmp_path / "cut", steps=8, **settings)
    last = json.loads((tmp_path / "cut" / "log.jsonl").read_text().splitlines()[-2])
    assert last["step"] == 8 and last["loss"] == pytest.approx(logs[1]["loss"], rel=1e-3)


def test_training_without_pairs_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no preference pairs"):
        lm_dpo.train(checkpoint, tmp_path, steps=1)


def test_the_head_without_triton_computes_what_cross_entropy_does() -> None:
    import torch

    from course_lm.trl_cpu import TorchLogProbs

    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8)
    targets, names = torch.tensor([0, 3, 5, 10, 7]), ("log_probs", "entropy", "mean_logits", "is_top1")
    got, entropy, squares, mean, top = TorchLogProbs.apply(hidden, weight, None, targets, 1.0, 4, None, 1.0, names)
    logits = hidden @ weight.T
    torch.testing.assert_close(got, -torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits).entropy())
    assert squares is None and torch.equal(top, logits.argmax(-1) == targets)
    got.sum().backward()
    assert hidden.grad is not None and mean.shape == (5,)
