"""A training loop for lessons that change the data and leave the loop alone: models that learn in seconds.

Notebook 01b builds this loop by hand and proves it equal to the libraries; here it only has to be short and repeatable.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from course_lib.errors import UsageError

IGNORED = -100
Example = tuple[list[int], list[int]]


def example(tokenizer: Any, prompt: str, reply: str) -> Example:
    """(ids, labels) of one prompt and reply. Only the reply and the end of its turn are learnt; the rest is -100."""
    first, then = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, reply + tokenizer.eos_token))
    return first + then, [IGNORED] * len(first) + then


def plain(tokenizer: Any, text: str) -> Example:
    """(ids, labels) of a text of which every token is learnt, as in pretraining."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ids, list(ids)


def small_llama(tokenizer: Any, *, width: int = 64, layers: int = 2, heads: int = 2, seed: int = 0) -> Any:
    """An untrained ``LlamaForCausalLM`` for this tokenizer, in float32; a third of a million weights by default."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))  # fmt: skip


def fit(
    model: Any, examples: Sequence[Example], *, epochs: int, rate: float, batch: int = 32, seed: int = 0,
    after: Callable[[int], None] | None = None,
) -> list[float]:  # fmt: skip
    """Train in place with AdamW, a warm-up of a tenth of the steps, then a straight line down to zero.

    after: called at the end of each epoch with its number from 1. Returns the mean training loss of each epoch, in nats
    per learnt token. The same seed, threads and machine give the same weights. Raises UsageError without examples.
    """
    import torch

    if not examples or epochs < 1:
        raise UsageError("There is nothing to train on.", where="fit", fix="Pass examples and at least one epoch.")
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    total = epochs * -(-len(examples) // batch)
    warm = max(1, total // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (total - step) / max(1, total - warm)))  # fmt: skip
    order, rng, losses = list(range(len(examples))), random.Random(seed), []
    for epoch in range(1, epochs + 1):
        model.train()
        rng.shuffle(order)
        seen = summed = 0.0
        for start in range(0, len(order), batch):
            ids, labels = _padded([examples[i] for i in order[start : start + batch]])
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            counted = int((labels[:, 1:] != IGNORED).sum())
            seen, summed = seen + counted, summed + loss.item() * counted
        losses.append(summed / seen)
        model.eval()
        if after:
            after(epoch)
    return losses


def loss_of(model: Any, examples: Sequence[Example]) -> float:
    """Mean loss over all learnt tokens, in nats; its exponential is the perplexity."""
    counted = [(losses, hits) for losses, hits in _scored(model, examples)]
    return sum(sum(losses) for losses, _ in counted) / sum(len(losses) for losses, _ in counted)


def losses_of(model: Any, examples: Sequence[Example]) -> list[float]:
    """The mean loss of each example over its learnt tokens, in nats."""
    return [sum(losses) / len(losses) for losses, _ in _scored(model, examples)]


def replies_right(model: Any, examples: Sequence[Example]) -> list[bool]:
    """Whether greedy decoding of the prompt would write exactly this reply and then end the turn, for each example.

    One pass suffices: it would, if at every place of the reply the likeliest token is the one that stands there.
    """
    return [all(hits) for _, hits in _scored(model, examples)]


def starts_right(model: Any, examples: Sequence[Example]) -> list[bool]:
    """Whether the first token of the reply is the likeliest one, for each example."""
    return [hits[0] for _, hits in _scored(model, examples)]


def _padded(chosen: Sequence[Example]) -> tuple[Any, Any]:
    """ids and labels, both (examples, longest). Padding stands on the right, where a causal model never looks back."""
    import torch

    longest = max(len(ids) for ids, _ in chosen)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in chosen])
    labels = torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in chosen])
    return ids, labels


def _scored(model: Any, examples: Sequence[Example], batch: int = 32) -> list[tuple[list[float], list[bool]]]:
    """For each example the loss of every learnt token and whether it was the likeliest one."""
    import torch

    out: list[tuple[list[float], list[bool]]] = [([], [])] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]))
    model.eval()
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        ids, labels = _padded([examples[i] for i in rows])
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        for row, i in enumerate(rows):
            at = (labels[row, 1:] != IGNORED).nonzero()[:, 0]
            scores, wanted = logits[row, at], labels[row, 1:][at]
            losses = torch.nn.functional.cross_entropy(scores, wanted, reduction="none")
            out[i] = (losses.tolist(), (scores.argmax(-1) == wanted).tolist())
    return out
