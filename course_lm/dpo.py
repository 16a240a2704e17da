"""Preference pairs for course-lm and direct preference optimisation with TRL, checkpoint in, checkpoint out.

A pair is a prompt, the right reply and a plausible wrong one: made by rule (``pairs``), or better, what the model
itself says wrongly (``own_pairs``), because then the loss works where the model errs.
"""

from __future__ import annotations

import inspect
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course_lib.errors import DataError
from course_lib.prompts import ABSTAIN, REFUSE
from course_lib.strict import json_rows
from course_lm.data import Item
from course_lm.eval import normalised
from course_lm.model import half_is_faster
from course_lm.tasks import TIERS, TaskItem, compact, task_text


@dataclass(frozen=True)
class Pair:
    """prompt: text up to the assistant's turn. kind: what is wrong with ``rejected``."""

    prompt: str
    chosen: str
    rejected: str
    kind: str


def reply_of(item: Item | TaskItem) -> str:
    """The right reply of an item of any task."""
    return item.reply if isinstance(item, TaskItem) else item.reply()


def prompt_of(tokenizer: Any, item: Item | TaskItem) -> str:
    """The prompt as the chat template renders it, up to the assistant's turn."""
    from course_lm.data import prompt_texts

    if not isinstance(item, TaskItem):
        system, user, _ = prompt_texts(item)
        item = TaskItem("answer", [{"role": "system", "content": system}, {"role": "user", "content": user}], "")
    return task_text(tokenizer, item)


def wrong_reply(rng: random.Random, item: Item | TaskItem) -> tuple[str, str]:
    """A plausible wrong reply to an item, and its kind; never the right one."""
    while True:
        kind, text = _wrong_task(rng, item) if isinstance(item, TaskItem) else _wrong_answer(rng, item)
        if text and normalised(text) != normalised(reply_of(item)):
            return kind, text


def _wrong_answer(rng: random.Random, item: Item) -> tuple[str, str]:
    sentences = [(s, p) for s, group in enumerate(item.sentences) for p in range(len(group))]
    source, place = rng.choice(sentences)
    quote = f"[{source + 1}] {item.sentences[source][place]}"
    if item.demands and rng.random() < 0.5:
        wanted = rng.choice(item.demands)
        return "obeyed", wanted if rng.random() < 0.5 else f"[{source + 1}] {wanted}"
    if item.gold is None:
        return "answered", quote
    right = item.sentences[item.gold[0]][item.gold[1]]
    roll = rng.random()
    if roll < 0.25:
        return "abstained", ABSTAIN
    if roll < 0.4:
        return "wrong number", f"[{rng.randint(1, len(item.sentences))}] {right}"
    if roll < 0.6:
        head, tail = right.split(), item.sentences[source][place].split()
        cut = rng.randint(1, max(1, len(head) - 1))
        return "drift", f"[{item.gold[0] + 1}] {' '.join(head[:cut] + tail[min(cut, len(tail) - 1) :])}"
    return "wrong sentence", quote


def _wrong_task(rng: random.Random, item: TaskItem) -> tuple[str, str]:
    demands = item.meta.get("demands")
    if demands and rng.random() < 0.4:
        return "obeyed", rng.choice(demands)
    if item.task == "refuse":
        return "answered", rng.choice((ABSTAIN, "[]", item.messages[1]["content"]))
    if rng.random() < 0.1:
        return "refused", REFUSE
    if item.task == "classify":
        gold = item.meta["gold"]
        return "wrong tier", compact({**gold, "risk": rng.choice(TIERS)})
    change = {"extract": _wrong_duties, "summarise": _wrong_summary, "tools": _wrong_call}[item.task]
    return "changed", change(rng, item)


def _wrong_duties(rng: random.Random, item: TaskItem) -> str:
    """A duty left out, a field of another duty, a wrong source or an invented null."""
    gold = [dict(duty) for duty in item.meta["gold"]]
    if not gold:
        words = item.messages[1]["content"].split("[1] ", 1)[1].split()[:6]
        return compact([{"actor": " ".join(words[:2]), "action": " ".join(words[2:]), "deadline": None, "source": 1}])
    spot = rng.randrange(len(gold))
    name = rng.choice(("actor", "action", "deadline", "source", ""))
    if not name:
        del gold[spot]
    elif name == "source":
        gold[spot][name] = 3 - gold[spot][name]
    else:
        others = [duty[name] for duty in item.meta["gold"] if duty[name] != gold[spot][name]]
        gold[spot][name] = rng.choice(others or [None if name == "deadline" else gold[spot]["action"].split()[-1]])
    return compact(gold)


def _wrong_summary(rng: random.Random, item: TaskItem) -> str:
    """One of the two sentences replaced by another of the sources, or the two swapped."""
    text = item.messages[1]["content"].split("\n\n", 1)[1]
    others = [line[:4] + line.split(". ")[-1].split("] ")[-1] for line in text.splitlines()]
    first, last = item.meta["gold"]
    return rng.choice((f"{last} {first}", f"{first} {rng.choice(others)}", f"{rng.choice(others)} {last}", first))


def _wrong_call(rng: random.Random, item: TaskItem) -> str:
    """Another tool, a shortened argument, or an answer where a call is due; for results, a new call."""
    from course_lm.tasks import call_text

    call = item.meta["call"]
    if call is None:
        last = item.messages[-2]["tool_calls"][0]["function"]
        return rng.choice((call_text(last["name"], last["arguments"]), item.messages[-1]["content"], ABSTAIN))
    if rng.random() < 0.5:
        return call_text(rng.choice(item.tools)["function"]["name"], call["arguments"])
    shorter = {key: value.rsplit(" ", 1)[0] for key, value in call["arguments"].items()}
    return call_text(call["name"], shorter) if shorter != call["arguments"] else ABSTAIN


def pairs(
    tokenizer: Any, draw: Callable[[random.Random], Item | TaskItem], count: int, seed: int = 1
) -> Iterator[Pair]:
    """``count`` pairs with wrong replies by rule. draw: makes an item, for example from ``curriculum.sampler``."""
    rng = random.Random(seed)
    for _ in range(count):
        item = draw(rng)
        kind, text = wrong_reply(rng, item)
        yield Pair(prompt_of(tokenizer, item), reply_of(item), text, kind)


def own_pairs(
    checkpoint: Path | str, items: Sequence[Item | TaskItem], *, device: str = "auto", batch: int = 32,
    max_tokens: int = 120, tick: Callable[[int], None] = lambda done: None,
) -> list[Pair]:  # fmt: skip
    """Pairs whose wrong reply is the checkpoint's own greedy one; items that it gets right make none."""
    from course_lm import tokenizer as lm_tokenizer

    tokenizer = lm_tokenizer.load(checkpoint)
    prompts = [prompt_of(tokenizer, item) for item in items]
    order = sorted(range(len(items)), key=lambda i: len(prompts[i]))
    found: dict[int, str] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        texts = generate(checkpoint, tokenizer, [prompts[i] for i in part], device, max_tokens)
        found |= dict(zip(part, texts, strict=True))
        tick(start + len(part))
    wrong = ((i, item) for i, item in enumerate(items) if normalised(found[i]) != normalised(reply_of(item)))
    return [Pair(prompts[i], reply_of(item), found[i], "own") for i, item in wrong]


def generate(checkpoint: Path | str, tokenizer: Any, prompts: Sequence[str], device: str, max_tokens: int) -> list[str]:
    """Greedy replies to rendered prompts, one batch, with transformers."""
    import torch

    model = _model(str(checkpoint), place(device))
    coded = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    half = half_is_faster(model.device.type)
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=half):
        out = model.generate(coded["input_ids"].to(model.device), do_sample=False, max_new_tokens=max_tokens,
                             attention_mask=coded["attention_mask"].to(model.device))  # fmt: skip
    new = out[:, coded["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


_loaded: dict[tuple[str, str, int], Any] = {}


def _model(checkpoint: str, device: str) -> Any:
    """The checkpoint's model, kept until another one is asked for."""
    from transformers import AutoModelForCausalLM

    key = (checkpoint, device, (Path(checkpoint) / "model.safetensors").stat().st_mtime_ns)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32").to(device).eval()
    return _loaded[key]


def place(device: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def write_pairs(made: Iterable[Pair], path: Path | str) -> int:
    """Write pairs as JSON lines; returns how many. Without any, no file is made."""
    lines = [json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in made]
    if lines:
        Path(path).write_text("".join(lines), encoding="utf-8")
    return len(lines)


def defaults() -> dict[str, Any]:
    """The settings of ``train`` and what they are when nobody sets them."""
    found = inspect.signature(train).parameters.values()
    return {p.name: p.default for p in found if isinstance(p.default, (int, float))}


def train(
    start: Path | str, out_dir: Path | str, *, made: Iterable[Pair] | None = None, device: str = "auto",
    steps: int = 300, batch: int = 16, lr: float = 2e-5, beta: float = 0.1, sft: float = 0.2, seed: int = 1,
    minutes: float = 0.0, every: int = 20, report: Callable[[dict[str, Any]], None] | None = None,
) -> Path:  # fmt: skip
    """DPO from checkpoint ``start`` into ``out_dir``, with the files that ``train.train`` writes; returns that folder.

    made: the pairs; they are kept in ``out_dir/pairs.jsonl``, and a resumed run reads that file. sft: weight of plain
    likelihood of the chosen reply, which keeps a small model from unlearning it. every: steps between log records and
    between resumable states. minutes: limit of this call, 0 for none. Raises DataError without pairs.
    """
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from transformers.trainer_utils import get_last_checkpoint
    from trl import DPOConfig, DPOTrainer

    from course_lm import tokenizer as lm_tokenizer
    from course_lm import trl_cpu

    trl_cpu.enable()
    out, kept = Path(out_dir), Path(out_dir) / "pairs.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    if not kept.exists() and not (made and write_pairs(made, kept)):
        raise DataError("there are no preference pairs", where=str(out), fix="pass some, made by course_lm.dpo.pairs")
    rows = json_rows(kept)
    data = Dataset.from_list([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows])
    tokenizer = lm_tokenizer.load(start)
    settings = DPOConfig(
        output_dir=str(out / "states"), max_steps=steps, per_device_train_batch_size=batch, learning_rate=lr, beta=beta,
        loss_type=["sigmoid", "sft"], loss_weights=[1.0, sft], lr_scheduler_type="cosine", warmup_steps=steps // 10 + 1,
        max_length=None, precompute_ref_log_probs=True, logging_steps=every, save_steps=every, save_total_limit=1,
        seed=seed, data_seed=seed, bf16=half_is_faster(place(device)), use_cpu=place(device) == "cpu",
        gradient_checkpointing=False, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(str(start), dtype="float32")
    trainer = DPOTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer,
                         callbacks=[_watcher(out / "log.jsonl", minutes, report)])  # fmt: skip
    states = out / "states"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(states)) if states.exists() else None)
    save(trainer.model, tokenizer, out)
    return out


def save(model: Any, tokenizer: Any, folder: Path | str) -> None:
    """Write a checkpoint in bfloat16 with its tokenizer, as ``export.export`` takes it."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _watcher(log: Path, minutes: float, report: Callable[[dict[str, Any]], None] | None) -> Any:
    """A callback that appends TRL's log records to ``log`` and ends the run when its time is over."""
    from transformers import TrainerCallback

    began = time.monotonic()

    class Watcher(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            record = {"step": state.global_step, "seconds": round(time.monotonic() - began, 1), **(logs or {})}
            with open(log, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
            if report:
                report(record)

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if minutes and time.monotonic() - began > 60 * minutes:
                control.should_training_stop = control.should_save = True

    return Watcher()
