"""Training of course-lm: a curriculum of generated items, labels inside the prompt, resumable checkpoints.

An own loop, because the labels differ from the input and sit on inner layers; TRL's trainers have no place for them.
Stages: ``pretrain`` reads the answer task as plain text (the base model), ``sft`` chat turns of all tasks (instruct).
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from course_lm import rare
from course_lm.data import Item
from course_lm.encode import KINDS, PLACES, Example, collate, encode
from course_lm.optimiser import optimisers
from course_lm.plan import Plan, checked_plan

LOSS_WEIGHTS = {"reply": 1.0, "asked": 0.6, "answers": 0.3, "chosen": 0.6, "begins": 0.2, "spread": 0.15,
                "kind": 0.4, "place": 0.2, "copied": 0.3,
                "soon": 0.1, "then": 0.2}  # fmt: skip
# Inner layers that the probes read: words asked for, sentences that answer (a first guess), the same once refined, and
# the sentence that a reply repeats.
FLAG_LAYER, SENTENCE_LAYER, CHOICE_LAYER, COPY_LAYER = 2, 3, 4, 5


def train(stage: str, out_dir: Path | str, *, device: str = "auto", start: Path | str | None = None,
          tokenizer: Any = None, sampler: Callable[[random.Random, int, str], Item] | None = None,
          real: Callable[..., Item] | None = None,
          report: Callable[[dict[str, Any]], None] | None = None, shape: dict[str, int] | None = None,
          **settings: Any) -> Path:  # fmt: skip
    """Train one stage into ``out_dir`` (safetensors, tokenizer, ``state.pt``, ``log.jsonl``); returns that folder.

    start: a checkpoint folder to begin from. When ``out_dir`` holds ``state.pt`` the run resumes there. settings:
    fields of ``Plan``. report: called with each log record. Raises what ``checked_plan`` raises.
    """
    import torch

    plan, out = checked_plan(stage, settings, Path(out_dir)), Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    run = _Run(plan, out, place, start, tokenizer, sampler or _default_sampler(real, plan.tasks), report, shape or {})
    run.resume()
    while run.done() < 1.0:
        run.advance()
    if run.sums:
        run.look()
    run.save()
    return out


def _default_sampler(real: Callable[..., Item] | None, tasks: float = 0.0) -> Callable[[random.Random, int, str], Item]:
    from course_lm import curriculum as lm_curriculum

    return lm_curriculum.sampler("train", real=real, tasks=tasks)


class _Run:
    """One stage in progress: model, probes, optimiser, curriculum level and the two random streams."""

    def __init__(self, plan: Plan, out: Path, device: str, start: Path | str | None, tokenizer: Any, sampler: Any,
                 report: Any, shape: dict[str, int]) -> None:  # fmt: skip
        import torch

        from course_lm import curriculum as lm_curriculum
        from course_lm import model as lm_model
        from course_lm import tokenizer as lm_tokenizer

        torch.manual_seed(plan.seed)
        self.plan, self.out, self.device, self.report = plan, out, device, report
        source = out if (out / "state.pt").exists() else start
        self.tokenizer = lm_tokenizer.load(source) if source else tokenizer
        if source:
            from transformers import LlamaForCausalLM

            self.model = LlamaForCausalLM.from_pretrained(str(source), dtype=torch.float32)
        else:
            self.model = lm_model.new_model(self.tokenizer, seed=plan.seed, **shape)
        if plan.straighten and not (out / "state.pt").exists():
            rare.straighten(self.model, rare.counts(self.tokenizer))
        self.model.to(device)
        self.half = plan.precision == "bf16" or (plan.precision == "auto" and lm_model.half_is_faster(device))
        self._choose_attention()
        width = self.model.config.hidden_size
        self.probes = torch.nn.ModuleDict({
            "asked": torch.nn.Linear(width, 2), "answers": torch.nn.Linear(width, 2),
            "chosen": torch.nn.Linear(width, 2),
            "begins": torch.nn.Linear(width, width, bias=False), "kind": torch.nn.Linear(width, len(KINDS)),
            "then": torch.nn.Linear(width, width, bias=False), "place": torch.nn.Linear(width, PLACES),
            "soon": torch.nn.Linear(width, PLACES), "copied": torch.nn.Linear(width, PLACES),
        }).to(device)  # fmt: skip
        if start and (Path(start) / "probes.pt").exists():
            known = torch.load(Path(start) / "probes.pt", weights_only=True, map_location="cpu")
            self.probes.load_state_dict(known, strict=False)
        self.parameters = [*self.model.parameters(), *self.probes.parameters()]
        self.optimisers = optimisers(self.model, self.probes, plan.optimiser, plan.lr)
        self.sampler, self.exam = sampler, lm_curriculum.exam_sampler()
        self.rng = random.Random(plan.seed)
        self.step, self.level, self.tokens, self.seconds = 0, plan.level, 0, 0.0
        self.queue: list[list[Example]] = []
        self.sums: dict[str, float] = {}
        self.looked = 0

    def _choose_attention(self) -> None:
        """On a CPU in bf16, eager attention is a quarter faster on short prompts: sdpa's backward is slow there."""
        slow = self.device == "cpu" and self.half
        self.model.set_attn_implementation("eager" if slow else "sdpa")

    def resume(self) -> None:
        """Continue from ``state.pt`` when it is there."""
        import torch

        path = self.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=False, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.probes.load_state_dict(state["probes"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.rng.setstate(state["rng"])
        self.queue = state["queue"]
        self.step, self.level, self.tokens, self.seconds = state["progress"]
        self.looked, self.half = self.step, state["half"]
        self._choose_attention()

    def save(self) -> None:
        """Write the model for use and, beside it, all that a resumed run needs. Each file is replaced whole, the state
        last: a run that is killed here goes on from the state before."""
        import copy

        import torch

        state = {"model": self.model.state_dict(), "probes": self.probes.state_dict(), "queue": self.queue,
                 "optimisers": [o.state_dict() for o in self.optimisers], "rng": self.rng.getstate(),
                 "half": self.half, "progress": (self.step, self.level, self.tokens, self.seconds)}  # fmt: skip
        new = self.out / "saving"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        torch.save(self.probes.state_dict(), new / "probes.pt")
        copy.deepcopy(self.model).to(torch.bfloat16).save_pretrained(str(new))
        self.tokenizer.save_pretrained(str(new))
        (new / "plan.json").write_text(json.dumps(asdict(self.plan), indent=1) + "\n", encoding="utf-8")
        torch.save(state, new / "state.pt")
        for path in sorted(new.iterdir(), key=lambda path: path.name == "state.pt"):
            path.replace(self.out / path.name)
        new.rmdir()

    def _batch(self) -> list[Example]:
        """The next batch; items of like length share one, so that little is padding."""
        if not self.queue:
            share, pool = self.plan.plain_share if self.plan.stage == "sft" else 1.0, []
            for _ in range(512):
                item = self.sampler(self.rng, self.level, self.plan.stage)
                pool.append(encode(self.tokenizer, item, chat=self.rng.random() >= share, rng=self.rng))
            pool.sort(key=lambda e: len(e.ids))
            batch: list[Example] = []
            for example in pool:
                if batch and (len(batch) + 1) * len(example.ids) > self.plan.batch_tokens:
                    self.queue.append(batch)
                    batch = []
                batch.append(example)
            self.queue.append(batch)
            self.rng.shuffle(self.queue)
        return self.queue.pop()

    def done(self) -> float:
        """The share of the run that is over, by steps or by minutes, whichever is further."""
        return max(self.step / self.plan.steps, self.seconds / (60 * self.plan.minutes) if self.plan.minutes else 0.0)

    def _rate(self) -> float:
        """Learning rate of this step: warm-up, flat, then down to a twentieth over the last ``decay`` of the steps."""
        p = self.plan
        rise = min(1.0, (self.step + 1) / max(1, p.warmup))
        left = (1.0 - self.done()) / max(1e-9, p.decay)
        fall = 0.05 + 0.95 * 0.5 * (1 - math.cos(math.pi * left)) if left < 1 else 1.0
        return p.lr * rise * fall

    def advance(self) -> None:
        """One optimiser step, and whatever is due after it."""
        import torch

        began = time.perf_counter()
        data = {k: t.to(self.device) for k, t in collate(self._batch(), self.tokenizer.pad_token_id).items()}
        for group in (g for o in self.optimisers for g in o.param_groups):
            group["lr"] = self._rate() if "probes" in group or self.step >= self.plan.settle else 0.0
        losses = self.losses(data)
        loss = sum(LOSS_WEIGHTS[name] * value for name, value in losses.items())
        loss.backward()
        self._spare_absent(data["ids"])
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        self.tokens += int(data["ids"].numel())
        self.seconds += time.perf_counter() - began
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        if self.step % self.plan.eval_every == 0:
            self.look()

    def _spare_absent(self, ids: Any) -> None:
        """Tokens that are not in the batch are not pushed by it, only by what AdamW remembers and by its decay. Each
        step would push them all away from what is said, one like the other, until those that are rare can be neither
        told apart nor copied."""
        import torch

        grad = self.model.model.embed_tokens.weight.grad
        absent = torch.ones(len(grad), dtype=torch.bool, device=grad.device)
        absent[ids.unique()] = False
        grad[absent] = 0.0

    def _states(self, ids: Any) -> Any:
        """Hidden states: the input of each block, and the output of the last one after the norm."""
        if self.plan.fused and self.half and self.device == "cpu":
            from course_lm import trunk

            return trunk.hidden_states(self.model, ids)
        return self.model.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states

    def losses(self, data: dict[str, Any]) -> dict[str, Any]:
        """The loss terms of one batch. Logits are computed where a label is, and nowhere else."""
        import torch
        from torch.nn.functional import cross_entropy

        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            states, width = self._states(data["ids"]), self.model.config.hidden_size
            last = states[-1].reshape(-1, width)
            inner = [states[min(n, len(states) - 2)].reshape(-1, width)
                     for n in (FLAG_LAYER, SENTENCE_LAYER, CHOICE_LAYER, COPY_LAYER)]  # fmt: skip
            out = {}
            each = cross_entropy(self.model.lm_head(last[data["reply"][0]]).float(), data["reply"][1], reduction="none")
            out["reply"] = (each * data["weight"]).sum() / data["weight"].sum()
            if data["spread"].shape[1]:
                out["spread"] = cross_entropy(self.model.lm_head(last[data["spread"][0]]).float(), data["spread"][1])
            norm = torch.nn.functional.rms_norm
            for name, labels, layer in (("asked", "asked", 0), ("answers", "answers", 1), ("chosen", "answers", 2)):
                if not data[labels].shape[1]:
                    continue  # a batch of other tasks alone may have none
                logits = self.probes[name](norm(inner[layer][data[labels][0]], (width,))).float()
                weight = torch.tensor([1.0, 2.0], device=self.device)
                out[name] = cross_entropy(logits, data[labels][1], weight=weight)
            for name, labels, layer in (("kind", "kinds", 1), ("place", "places", 0), ("soon", "copied", 2),
                                        ("copied", "copied", 3)):  # fmt: skip
                if data[labels].shape[1]:
                    logits = self.probes[name](norm(inner[layer][data[labels][0]], (width,))).float()
                    out[name] = cross_entropy(logits, data[labels][1])
            for name in ("begins", "then"):
                if data[name].shape[1]:
                    token = self.probes[name](norm(inner[1][data[name][0]], (width,)))
                    out[name] = cross_entropy(self.model.lm_head(token).float(), data[name][1])
        return out

    def look(self) -> None:
        """Log the losses and the held-out scores, move up a level when this one is learnt, save."""
        from course_lm.curriculum import LEVELS

        scores = self.score(random.Random(self.step), 96)
        steps, self.looked = self.step - self.looked, self.step
        record = {"step": self.step, "level": self.level, "tokens": self.tokens, "seconds": round(self.seconds, 1),
                  "lr": self._rate(), **{k: round(v / steps, 4) for k, v in self.sums.items()}, **scores}  # fmt: skip
        self.sums = {}
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        if self.report:
            self.report(record)
        if scores["exact"] >= self.plan.pass_mark and self.level < LEVELS - 1:
            self.level += 1
            self.queue = []
        self.save()

    def score(self, rng: random.Random, count: int) -> dict[str, float]:
        """Held-out items of this level: share of replies whose every token is the first choice, and its parts."""
        import torch

        chat = self.plan.stage == "sft"
        exact = cited = answerable = abstained = silent = 0
        self.model.eval()
        for _ in range(max(1, count // 16)):
            items = [self.exam(rng, self.level, self.plan.stage) for _ in range(16)]
            examples = [encode(self.tokenizer, item, chat=chat) for item in items]
            ids = collate(examples, self.tokenizer.pad_token_id)["ids"].to(self.device)
            with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=self.half):
                best = self.model(input_ids=ids, use_cache=False).logits.argmax(-1).cpu()
            for row, (item, e) in enumerate(zip(items, examples, strict=True)):
                right = [int(best[row, p - 1]) == e.ids[p] for p in range(e.reply_at, len(e.ids))]
                exact += all(right)
                if item.gold is None:
                    silent += 1
                    abstained += right[0]
                else:
                    answerable += 1
                    cited += right[0] and right[1]
        self.model.train()
        total = answerable + silent
        return {"exact": round(exact / total, 3), "cited": round(cited / max(1, answerable), 3),
                "abstained": round(abstained / max(1, silent), 3)}  # fmt: skip
