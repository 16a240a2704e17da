"""Lab 03, the weights speak: the adapter is put onto the named base, and both must give the answers that were claimed.

Nothing is generated. A claimed answer goes through the model in one pass, and at each place the model must itself name
the claimed token: that is what greedy decoding does. Bounded by a sample of answers; which ones depends on the folder's
content. Only safetensors are read, of exactly the shapes that the configuration implies. Where torch is missing, the
checks end as ``error``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from course_lib.artifacts_tuning import AdapterConfig, EvalRow
from course_lib.checks import tuning as sums
from course_lib.checks.common import Context, place, reason, unscored, verdict
from course_lib.checks.tuning import ADAPTER, BASELINE, CONFIG, PLAN, TUNED
from course_lib.submission import Malformed, Row, Submission
from course_lib.types import Finding

MOST_BYTES = 8 << 20
BASE_NAME = "course-lm-base"
NEAR_TIE = 0.02  # of a logit: batches of other shapes and other processors move them by about a hundredth of that
SAMPLE = {TUNED: 4, BASELINE: 2}  # 20 ms each, for everyone of a cohort; the run with another seed sees them all
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Loaded:
    """The course's base model, its tokenizer, and the hash of its weights."""

    model: Any
    tokenizer: Any
    sha256: str

    @property
    def weights(self) -> dict[str, Any]:
        return dict(self.model.named_parameters())


def base_of(context: Context) -> Loaded:
    return context.once("tuning base", _load)


def _load() -> Loaded:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from course_lib.models import model_folder

    logging.disable_progress_bar()
    folder = model_folder() / "base"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    raw = (folder / "model.safetensors").read_bytes()
    return Loaded(model, AutoTokenizer.from_pretrained(folder), hashlib.sha256(raw).hexdigest())


def _other_base(submission: Submission, base: Loaded, rules: Sequence[str]) -> list[Finding]:
    """ERROR for each rule where the plan names another checkpoint than the grader has."""
    named = sums.plan_of(submission).base
    if (named.name, named.sha256) == (BASE_NAME, base.sha256):
        return []
    what, fix = "the plan names another base model than the grader has", "Update the course and run the lab again."
    return [unscored(rule, f"Could not score: {what}.", PLAN, fix) for rule in rules]


def check_adapter(submission: Submission, context: Context) -> list[Finding]:
    """tune.adapter_loads: plain LoRA matrices of the right shapes, that change the base named in the configuration."""
    base = base_of(context)
    if other := _other_base(submission, base, ("tune.adapter_loads",)):
        return other
    config = submission.json(CONFIG, AdapterConfig)
    problems = list(_misfits(submission, config, base))
    return [verdict(
        "tune.adapter_loads", not problems, f"The adapter of rank {config.r} fits {BASE_NAME}.",
        problem=f"{place(problems)}: {reason(problems)}.", expected="LoRA matrices of the shapes that the base needs",
        actual=f"{len(problems)} misfits", where=place(problems), problems=problems[:6],
        fix="Save the trained adapter with save_adapter, and hand in both of its files.",
    )]  # fmt: skip


def shapes(config: AdapterConfig, weights: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Name of each tensor that this adapter must hold -> its shape (rows, columns)."""
    found = {}
    for name, weight in weights.items():
        part = name.removesuffix(".weight")
        if part.rpartition(".")[2] in config.target_modules:
            rows, columns = weight.shape
            found[f"{PREFIX}{part}.lora_A.weight"] = (config.r, columns)
            found[f"{PREFIX}{part}.lora_B.weight"] = (rows, config.r)
    return found


def tensors(submission: Submission) -> dict[str, Any]:
    """The tensors of the adapter file; it is never unpickled. Raises Malformed where it is no safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    raw = submission.raw(ADAPTER)
    if len(raw) > MOST_BYTES:
        what = f"The adapter has {len(raw)} bytes; {MOST_BYTES} are read."
        raise Malformed(what, where=ADAPTER, fix="Save the LoRA matrices alone.")
    try:
        return load(raw)
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError) as error:
        what = f"This is no safetensors file: {type(error).__name__}."
        raise Malformed(what, where=ADAPTER, fix="Save the adapter with PEFT, as safetensors.") from error


def _misfits(submission: Submission, config: AdapterConfig, base: Loaded) -> Iterator[str]:
    import torch

    wanted, found = shapes(config, base.weights), tensors(submission)
    if config.base_model_name_or_path != BASE_NAME:
        yield f"{CONFIG} it names {config.base_model_name_or_path} as its base, and not {BASE_NAME}"
    for name in sorted(wanted.keys() - found.keys())[:2]:
        yield f"{ADAPTER} the matrix {name} is missing"
    for name in sorted(found.keys() - wanted.keys())[:2]:
        yield f"{ADAPTER} {name} is no matrix of this adapter"
    for name in sorted(wanted.keys() & found.keys()):
        tensor = found[name]
        if tuple(tensor.shape) != wanted[name] or not tensor.is_floating_point():
            yield f"{ADAPTER} {name} has shape {tuple(tensor.shape)} and not {wanted[name]}"
        elif not bool(torch.isfinite(tensor).all()):
            yield f"{ADAPTER} {name} holds a value that is no number"
    if found and not any(bool(t.any()) for name, t in found.items() if name.endswith("lora_B.weight")):
        yield f"{ADAPTER} every B matrix is zero: nothing was trained"


def adapted(submission: Submission, config: AdapterConfig, base: Loaded) -> dict[str, Any]:
    """Weights of the base that the adapter changes -> W + alpha / r x B A, as PEFT merges them."""
    found, changed = tensors(submission), {}
    for name, weight in base.weights.items():
        part = f"{PREFIX}{name.removesuffix('.weight')}.lora_"
        if f"{part}A.weight" in found:
            a, b = (found[f"{part}{letter}.weight"].float() for letter in "AB")
            changed[name] = weight + config.lora_alpha / config.r * (b @ a)
    return changed


def check_answers(submission: Submission, context: Context) -> list[Finding]:
    """tune.answers_reproduced: sampled answers after training are those of the adapter on its base."""
    base, rule = base_of(context), "tune.answers_reproduced"
    if other := _other_base(submission, base, (rule,)):
        return other
    config = submission.json(CONFIG, AdapterConfig)
    misfits = list(_misfits(submission, config, base))
    changed = {} if misfits else adapted(submission, config, base)
    return [_spoken(submission, context, base, TUNED, rule, changed, misfits)]


def check_baseline(submission: Submission, context: Context) -> list[Finding]:
    """tune.baseline_real: sampled answers before training are those of the bare base."""
    base, rule = base_of(context), "tune.baseline_real"
    return _other_base(submission, base, (rule,)) or [_spoken(submission, context, base, BASELINE, rule, {}, [])]


def _spoken(submission: Submission, context: Context, base: Loaded, name: str, rule: str, changed: Mapping[str, Any],
            misfits: list[str]) -> Finding:  # fmt: skip
    rows = [row for row in sums.rows_of(submission, name) if row.value.id in sums.cases_of(context)]
    problems = misfits or [*_texts(rows, base, submission)]
    chosen = sample(rows, submission.digest(), SAMPLE[name], first=name == TUNED)
    if not problems:
        problems = list(_refused(chosen, base, changed, context))
    return verdict(
        rule, bool(rows) and not problems, f"{len(chosen)} sampled answers are what the weights say.",
        problem=f"{place(problems)}: {reason(problems)}." if problems else f"{name} holds no answer to a known case.",
        expected="answers of these weights, greedy, token for token", actual=f"{len(problems)} others",
        where=place(problems) or name, problems=problems[:6],
        fix="Write what the model generated, untouched, with the adapter that you hand in.",
    )  # fmt: skip


def sample(rows: Sequence[Row[EvalRow]], salt: str, count: int, first: bool) -> list[Row[EvalRow]]:
    """Rows in an order that nobody can choose, three quarters of them, where there are so many, with ``right`` claimed
    as ``first``: whoever beautifies a gain calls answers of the tuned model right, and those of the base wrong."""

    def order(row: Row[EvalRow]) -> str:
        return hashlib.sha256(f"{salt} {row.value.id}".encode()).hexdigest()

    ordered = sorted(rows, key=order)
    likely, others = ([row for row in ordered if row.value.right is wanted] for wanted in (first, not first))
    chosen = [*likely[: count - count // 4], *others[: count // 4]]
    return [*chosen, *(row for row in ordered if row not in chosen)][:count]


def _texts(rows: Sequence[Row[EvalRow]], base: Loaded, submission: Submission) -> Iterator[str]:
    """Answers that are not the text of their own tokens, or that stop before they ended."""
    most, size = sums.plan_of(submission).training.max_new_tokens, base.model.config.vocab_size
    safe = [[token for token in row.value.tokens if token < size] for row in rows]
    for row, tokens, text in zip(rows, safe, base.tokenizer.batch_decode(safe, skip_special_tokens=True), strict=True):
        if len(tokens) < len(row.value.tokens) or text.strip() != row.value.answer:
            yield f"{row.where} the answer to {row.value.id} is not the text of its tokens"
        elif not row.value.ended and len(tokens) != most:
            yield f"{row.where} the answer to {row.value.id} has {len(tokens)} tokens and did not end"


def _refused(rows: Sequence[Row[EvalRow]], base: Loaded, changed: Mapping[str, Any], context: Context) -> Iterator[str]:
    """Sampled answers of which the model would have said another token."""
    import torch

    from course_lib.finetune import prompt_text

    weights = {name.removeprefix("model."): weight for name, weight in changed.items()}
    for row in rows:
        text = prompt_text(base.tokenizer, dict(sums.cases_of(context)[row.value.id]))
        prompt = base.tokenizer.encode(text, add_special_tokens=False)
        said = [*row.value.tokens, *([base.tokenizer.eos_token_id] if row.value.ended else [])]
        ids = torch.tensor([prompt + said])
        with torch.no_grad():
            seen = torch.func.functional_call(base.model.model, weights, (ids,), {"use_cache": False})
            scores = base.model.lm_head(seen.last_hidden_state[0, len(prompt) - 1 : -1])
        lost = scores.max(-1).values - scores.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        if wrong := (lost > NEAR_TIE).nonzero()[:, 0].tolist():
            yield f"{row.where} these weights do not say the answer to {row.value.id}: token {wrong[0] + 1} is another"

