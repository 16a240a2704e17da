"""Benchmarks of course-lm: agreement of transformers and server, speed beside what memory allows, LoRA in 200 steps.

Each function returns a dict of plain numbers; nothing is recorded here. Times are of the machine as it is: run alone.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_lm.data import Item
    from course_lm.tasks import TaskItem

CONTINUE = 24  # tokens that the server generates from each prompt


def _completion(client: Any, ids: list[int], count: int, **settings: Any) -> dict[str, Any]:
    """A greedy continuation by the server of ``client``, without a chat template."""
    body = {"prompt": ids, "n_predict": count, "temperature": 0, "cache_prompt": False, **settings}
    return client.post("/completion", body=body, cast_to=dict[str, Any])


def _prompts(tokenizer: Any, seed: int = 3) -> Any:
    """Endless token lists: prompts of all tasks, half of them cut at a random place."""
    from course_lm.tasks import task_ids, task_item

    rng = random.Random(seed)
    while True:
        prompt, reply = task_ids(tokenizer, task_item(rng, "test"))
        yield prompt if rng.random() < 0.5 else (prompt + reply)[: rng.randint(8, len(prompt))]


def top1_agreement(client: Any, checkpoint: Path | str, positions: int = 2000) -> dict[str, Any]:
    """Share of positions where server and transformers name the same next token: {value, low, high, n}.

    The server continues prompts greedily; transformers reads prompt and continuation (float32, from the safetensors)
    and names its own first choice at each generated position, so both have equal contexts.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from course_lm import tokenizer as lm_tokenizer
    from course_lm.eval import share

    tokenizer = lm_tokenizer.load(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    same: list[bool] = []
    for ids in _prompts(tokenizer):
        got = _completion(client, ids, CONTINUE, n_probs=1)
        said = [entry["id"] for entry in got["completion_probabilities"]]
        if not said:
            continue
        with torch.no_grad():
            best = model(torch.tensor([ids + said])).logits[0, len(ids) - 1 : -1].argmax(-1).tolist()
        same += [a == b for a, b in zip(said, best, strict=True)]
        if len(same) >= positions:
            return share(same[:positions]) or {}
    raise AssertionError("prompts do not end")


def bandwidth_bytes_per_s(cores: int = 1, megabytes: int = 256, repeats: int = 7) -> float:
    """Bytes per second that ``cores`` threads read and write when each copies more than the caches hold; the best."""
    import numpy as np

    count = megabytes * 131_072 // cores
    pairs = [(np.ones(count), np.empty(count)) for _ in range(cores)]
    best = float("inf")
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            best = min(best, time.perf_counter() - began)
    return 2 * cores * 8 * count / best


def speed(
    client: Any, gguf: Path | str, checkpoint: Path | str, *, cores: int = 1, tokens: int = 256, repeats: int = 7
) -> dict[str, Any]:
    """Tokens per second of one stream through HTTP, its range, and what the bandwidth of ``cores`` alone would allow.

    floor_tokens_per_s: bandwidth over file size, because each token reads every weight once. A file that fits into the
    processor's cache may pass it.
    """
    from course_lm import tokenizer as lm_tokenizer

    ids = next(_prompts(lm_tokenizer.load(checkpoint)))
    rates = []
    for _ in range(repeats + 1):  # the first warms up
        began = time.perf_counter()
        got = _completion(client, ids, tokens, ignore_eos=True)
        rates.append(got["tokens_predicted"] / (time.perf_counter() - began))
    rates = rates[1:]
    bandwidth = bandwidth_bytes_per_s(cores)
    return {"tokens_per_s": statistics.median(rates), "low": min(rates), "high": max(rates), "n": repeats,
            "bandwidth_bytes_per_s": bandwidth,
            "floor_tokens_per_s": bandwidth / Path(gguf).stat().st_size}  # fmt: skip


def lora_sft(
    base: Path | str, out_dir: Path | str, items: Sequence[Item | TaskItem], *, steps: int = 200, batch: int = 8,
    lr: float = 2e-3, rank: int = 16, seed: int = 1,
) -> float:  # fmt: skip
    """LoRA on every linear layer of ``base`` with TRL and PEFT, merged into a checkpoint in ``out_dir``.

    Returns the seconds of training, without loading and merging.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from course_lm import dpo as lm_dpo
    from course_lm import tokenizer as lm_tokenizer
    from course_lm import trl_cpu
    from course_lm.model import half_is_faster

    trl_cpu.enable()
    tokenizer, place = lm_tokenizer.load(base), lm_dpo.place("auto")
    rows = [{"prompt": lm_dpo.prompt_of(tokenizer, item), "completion": lm_dpo.reply_of(item)} for item in items]
    settings = SFTConfig(
        output_dir=str(Path(out_dir) / "states"), max_steps=steps, per_device_train_batch_size=batch, learning_rate=lr,
        lr_scheduler_type="cosine", warmup_steps=steps // 20 + 1, logging_steps=max(1, steps // 10), save_strategy="no",
        max_length=None, seed=seed, data_seed=seed, bf16=half_is_faster(place), use_cpu=place == "cpu",
        gradient_checkpointing=False, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(str(base), dtype="float32"), args=settings, processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    lm_dpo.save(trainer.model.merge_and_unload(), tokenizer, out_dir)
    return seconds


def lora_gain(base: Path | str, out_dir: Path | str, *, steps: int = 200, held_out: int = 120) -> dict[str, Any]:
    """Teach ``base`` chat turns by LoRA: questions on one to three sources of one sentence, a fifth without an answer.

    Returns {seconds, before, after, gain, low, high, n}: shares of whole replies right on items of the test split, and
    the paired 95 % interval of the gain. ``base`` reads the same chat prompts; it was trained on plain text.
    """
    from course_lib.measure import bootstrap_difference
    from course_lm import tokenizer as lm_tokenizer
    from course_lm.data import frame_item
    from course_lm.dpo import generate, prompt_of, reply_of
    from course_lm.eval import normalised
    from course_lm.frames import Vocabulary

    rng, tokenizer = random.Random(5), lm_tokenizer.load(base)

    def draw(v: Vocabulary) -> Item:
        return frame_item(rng, v, sources=rng.randint(1, 3), most=1, answerable=rng.random() >= 0.2, hostile=False)

    train, test = Vocabulary.of("train"), [draw(Vocabulary.of("test")) for _ in range(held_out)]
    seconds = lora_sft(base, out_dir, [draw(train) for _ in range(steps * 8)], steps=steps)
    right = []
    for checkpoint in (base, out_dir):
        said = generate(checkpoint, tokenizer, [prompt_of(tokenizer, item) for item in test], "auto", 60)
        right.append([float(normalised(s) == normalised(reply_of(i))) for s, i in zip(said, test, strict=True)])
    low, high = bootstrap_difference(right[1], right[0])
    before, after = (sum(flags) / held_out for flags in right)
    return {"seconds": seconds, "before": before, "after": after, "gain": after - before, "low": low, "high": high,
            "n": held_out}  # fmt: skip


def files_mb(folder: Path | str) -> float:
    """Megabytes (1e6 bytes) of the published weights: safetensors and GGUF files below ``folder``."""
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.suffix in (".safetensors", ".gguf")) / 1e6
