"""The network of course-lm: a plain Llama, started with circuits that small models are slow to find by themselves.

The start is hand-made, and training is free to change all of it. All embeddings share one direction, by which heads can
attend without looking at content; tokens of one stem (``report``, `` Reports``) share most of theirs.
Layer 0: heads 0 and 1 look back one and two tokens by rotary position and note what stands there; head 2 notes whether
the nearest mark before a token is ``[`` (a source) or ``Question``.
Layer 1: head 0 notes the number after the nearest ``[``: which source a token stands in, or which one a reply cites;
heads 1 and 3 look for the current token in the question: is this word asked for?
Layer 2: heads 0 and 2 find the place after an earlier copy of the last two tokens, in the source of that number, and
repeat what stands there (induction).
Last two layers: half of the heads compare like with like.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Any

WIDTH, LAYERS, HEADS, FEED_FORWARD, CONTEXT, THETA = 256, 6, 4, 512, 2048, 1e6
# Standard deviation of an embedding entry. Adam moves every weight by about the learning rate per step, so what must
# survive the first hundred steps has to be large beside it; the last norm's weight brings the logits back to scale.
SPREAD = 0.3
NUMBERS = 6  # source numbers that the start tells apart


def config(
    tokenizer: Any, *, width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS, inner: int = FEED_FORWARD
) -> Any:
    """A ``LlamaConfig`` for this tokenizer; input and output embeddings are tied."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, rope_parameters={"rope_type": "default", "rope_theta": THETA},
        attn_implementation="sdpa",
    )  # fmt: skip


def new_model(tokenizer: Any, *, seed: int = 0, circuits: bool = True, **shape: int) -> Any:
    """An untrained model in float32; ``circuits=False`` leaves the start to chance."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(tokenizer, **shape))
    with torch.no_grad():
        _spread(model)
        if circuits:
            _wire(model, tokenizer)
    return model


def _spread(model: Any) -> None:
    """Weights at the scale that a narrow model needs; layers write softly into the residual stream at first."""
    width = model.config.hidden_size
    model.model.embed_tokens.weight.normal_(0.0, SPREAD)
    model.model.norm.weight.fill_(0.04 / SPREAD)
    for number, layer in enumerate(model.model.layers):
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj,
                     layer.mlp.gate_proj, layer.mlp.up_proj):  # fmt: skip
            part.weight.normal_(0.0, 1.0 / math.sqrt(width))
        layer.self_attn.o_proj.weight.normal_(0.0, 0.1 * SPREAD if number else 0.04 * SPREAD)
        layer.mlp.down_proj.weight.normal_(0.0, 0.1 * SPREAD if number else 0.04 * SPREAD)


def _directions(model: Any, counts: dict[str, int]) -> dict[str, Any]:
    """Orthonormal rows under names: directions of the residual stream that do not disturb one another."""
    import torch

    width = model.config.hidden_size
    rows = torch.linalg.qr(torch.randn(width, min(width, sum(counts.values()))))[0].T
    return dict(zip(counts, rows.split(list(counts.values())), strict=True))


def _head(model: Any, index: int) -> slice:
    size = model.config.hidden_size // model.config.num_attention_heads
    return slice(index * size, (index + 1) * size)


def _wire(model: Any, tokenizer: Any) -> None:
    """All circuits of the start. Needs four heads of at least 32 and three layers; smaller shapes start by chance."""
    c = model.config
    size = c.hidden_size // c.num_attention_heads
    if c.num_attention_heads < 4 or size < 32 or c.num_hidden_layers < 4:
        return
    one, two = size * 5 // 8, size * 3 // 8
    named = _directions(model, {"shared": 1, "inside": 1, "posed": 1, "asked": 1, "tag": NUMBERS, "before": one,
                                "earlier": two})  # fmt: skip
    _share_stems(model, tokenizer)
    _prepare_embeddings(model, named)
    code = _fresh(model, one, named)
    for back, name in ((1, "before"), (2, "earlier")):
        _look_back(model, named, code, back, name)
    _mark_regions(model, named, tokenizer, 2)
    _number_sources(model, named, tokenizer, code, 0)
    _induction(model, named, code, size)
    for index in (1, 3):
        _find_asked(model, named, tokenizer, index, size)
    for layer in model.model.layers[-2:]:
        for index in range(0, c.num_attention_heads, 2):
            same = 0.8 * _directions(model, {"same": size})["same"]
            layer.self_attn.q_proj.weight[_head(model, index)] = same
            layer.self_attn.k_proj.weight[_head(model, index)] = same


def _share_stems(model: Any, tokenizer: Any) -> None:
    """Tokens that differ by a space, a capital or an ending start with vectors that are alike (cosine about .6)."""
    import torch

    embedding = model.model.embed_tokens.weight
    families: dict[str, Any] = {}
    for index in range(len(tokenizer)):
        word = tokenizer.decode([index]).strip().lower()
        if len(word) < 4 or not word.isalpha():
            continue
        for ending in ("ing", "ied", "ies", "ed", "es", "s", "e", "y"):
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                word = word[: -len(ending)]
                break
        own = families.setdefault(word, torch.randn(embedding.shape[1]) * SPREAD)
        embedding[index] = math.sqrt(0.6) * own + math.sqrt(0.4) * embedding[index]


def _prepare_embeddings(model: Any, named: dict[str, Any]) -> None:
    """Equal norms, one shared direction, and nothing in the directions that the circuits write to."""
    import torch

    embedding = model.model.embed_tokens.weight
    busy = torch.cat(list(named.values()))
    embedding -= (embedding @ busy.T) @ busy
    norm = SPREAD * math.sqrt(model.config.hidden_size)
    embedding *= norm / embedding.norm(dim=-1, keepdim=True)
    embedding += named["shared"] * norm


def _fresh(model: Any, count: int, named: dict[str, Any]) -> Any:
    """``count`` orthonormal directions away from all that ``named`` holds."""
    import torch

    busy = torch.cat(list(named.values()))
    rows = torch.randn(count, model.config.hidden_size)
    rows -= (rows @ busy.T) @ busy
    return torch.linalg.qr(rows.T)[0].T


def _slow_dims(rows: slice, size: int) -> Any:
    """Dimensions of a head that turn so slowly that tokens 250 apart still compare; the slowest pair is left out."""
    import torch

    half = size // 2
    slow = [i for i in range(half - 1) if THETA ** (-2 * i / size) < 1 / 250]
    return torch.tensor([rows.start + d for i in slow for d in (i, i + half)])


def _token(model: Any, tokenizer: Any, text: str, named: dict[str, Any]) -> Any:
    """Unit vector of what is special in the embedding of a token, without the shared direction."""
    row = model.model.embed_tokens.weight[tokenizer.encode(text, add_special_tokens=False)[0]].clone()
    row -= (row @ named["shared"][0]) * named["shared"][0]
    return row / row.norm()


def _look_back(model: Any, named: dict[str, Any], code: Any, back: int, name: str) -> None:
    """Head ``back - 1`` of layer 0 attends ``back`` tokens back and writes that token's code to ``name``."""
    import torch

    rows, count = _head(model, back - 1), len(named[name])
    size = rows.stop - rows.start
    theta = THETA ** (-torch.arange(0, size, 2) / size)
    fast = (theta > 0.05).float()  # the slow dimensions cannot tell one token from the next
    query = torch.cat([fast * torch.cos(back * theta), -fast * torch.sin(back * theta)])
    key = torch.cat([fast, torch.zeros(size // 2)])
    attention = model.model.layers[0].self_attn
    attention.q_proj.weight[rows] = 0.85 * query[:, None] * named["shared"][0]
    attention.k_proj.weight[rows] = 0.85 * key[:, None] * named["shared"][0]
    attention.v_proj.weight[rows] *= 0.1
    attention.o_proj.weight[:, rows] *= 0.1
    attention.v_proj.weight[rows.start : rows.start + count] = code[:count]
    attention.o_proj.weight[:, rows.start : rows.start + count] = 3.0 * SPREAD * named[name].T


def _find_nearest(attention: Any, rows: slice, query: Any, key: Any) -> None:
    """Make a head attend to the nearest earlier token that has ``key``; what it writes is left to the caller.

    A sum of rotary cosines over many speeds falls like the logarithm of the distance, so the nearest one wins.
    """
    import torch

    size = rows.stop - rows.start
    theta = THETA ** (-torch.arange(0, size, 2) / size)
    speeds = torch.arange(size // 2)[(theta < 0.3) & (theta > 0.001)] + rows.start
    for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        (part.weight[:, rows] if part is attention.o_proj else part.weight[rows]).mul_(0.1)
    attention.q_proj.weight[speeds], attention.k_proj.weight[speeds] = query, key


def _mark_regions(model: Any, named: dict[str, Any], tokenizer: Any, index: int) -> None:
    """A head of layer 0 that finds the nearest earlier ``[`` or ``Question`` and writes ``inside`` or ``posed``."""
    attention, rows = model.model.layers[0].self_attn, _head(model, index)
    bracket, question = (_token(model, tokenizer, text, named) for text in ("[", "Question"))
    _find_nearest(attention, rows, 0.45 * named["shared"][0], 0.45 * (bracket + question))
    for place, (text, name) in enumerate(((bracket, "inside"), (question, "posed"))):
        attention.v_proj.weight[rows.start + place] = text
        attention.o_proj.weight[:, rows.start + place] = 1.25 * SPREAD * named[name][0]


def _number_sources(model: Any, named: dict[str, Any], tokenizer: Any, code: Any, index: int) -> None:
    """A head of layer 1 that finds the nearest token after a ``[`` and writes which of the first numbers it is."""
    attention, rows = model.model.layers[1].self_attn, _head(model, index)
    after = code @ _token(model, tokenizer, "[", named)
    mark = 0.62 * (after / after.norm()) @ named["before"]
    _find_nearest(attention, rows, 0.62 * named["shared"][0], mark)
    for place in range(NUMBERS):
        attention.v_proj.weight[rows.start + place] = _token(model, tokenizer, str(place + 1), named)
        attention.o_proj.weight[:, rows.start + place] = 1.5 * SPREAD * named["tag"][place]


def _induction(model: Any, named: dict[str, Any], code: Any, size: int) -> None:
    """Heads 0 and 2 of layer 2 copy what followed an earlier copy of the last two tokens in the source of the same
    number, each a part of the space."""
    free = model.config.hidden_size - sum(map(len, named.values()))
    copies = _fresh(model, min(2 * size, free), named).split(size)
    for copy, index in zip(copies, (0, 2), strict=False):
        attention, rows = model.model.layers[2].self_attn, _head(model, index)
        dims = _slow_dims(rows, size)
        dims, tags = dims[:-NUMBERS], dims[-NUMBERS:]
        count = len(dims) * 2 // 3
        more = min(len(dims) - count, len(named["earlier"]))
        for part in (attention.q_proj, attention.k_proj):
            part.weight[rows] *= 0.1
        attention.q_proj.weight[dims[:count]] = 2.3 * code[:count]
        attention.k_proj.weight[dims[:count]] = 3.1 * named["before"][:count]
        attention.q_proj.weight[dims[count : count + more]] = 2.0 * named["before"][:more]
        attention.k_proj.weight[dims[count : count + more]] = 2.0 * named["earlier"][:more]
        attention.q_proj.weight[tags] = attention.k_proj.weight[tags] = 1.5 * named["tag"]
        last = rows.start + size // 2 - 1  # a question holds the same words: copy from sources, never from there
        attention.q_proj.weight[last] = named["shared"][0]
        attention.k_proj.weight[last] = 1.5 * named["inside"][0] - 1.5 * named["posed"][0]
        attention.v_proj.weight[rows.start : rows.start + len(copy)] = copy
        attention.o_proj.weight[:, rows.start : rows.start + len(copy)] = 8.0 * SPREAD * copy.T


def _find_asked(model: Any, named: dict[str, Any], tokenizer: Any, index: int, size: int) -> None:
    """A head of layer 1 that writes ``asked`` where the current token also stands in the question.

    It compares tokens in the slow rotary dimensions, keeps to the question, and rests on ``Question`` otherwise.
    """
    attention, rows = model.model.layers[1].self_attn, _head(model, index)
    dims = _slow_dims(rows, size)
    compare = _fresh(model, len(dims), named)
    question, last = _token(model, tokenizer, "Question", named), rows.start + size // 2 - 1
    for part in (attention.q_proj, attention.k_proj, attention.v_proj):
        part.weight[rows] *= 0.1
    attention.q_proj.weight[dims] = attention.k_proj.weight[dims] = 3.0 * compare
    attention.q_proj.weight[last] = named["shared"][0]
    attention.k_proj.weight[last] = 1.8 * question + 2.0 * named["posed"][0] - 3.0 * named["inside"][0]
    attention.v_proj.weight[rows.start] = named["shared"][0] - question - 1.3 * named["inside"][0]
    attention.o_proj.weight[:, rows.start] = 1.5 * SPREAD * named["asked"][0]


@functools.cache
def half_is_faster(device: str) -> bool:
    """Whether bfloat16 products beat float32 here: many CPUs read bf16 and have no units that multiply it."""
    import torch

    if device != "cpu":
        return True
    took = {}
    for kind in (torch.float32, torch.bfloat16):
        left, right = torch.ones(2048, 256, dtype=kind), torch.ones(256, 512, dtype=kind)
        for _ in range(8):
            began = time.perf_counter()
            left @ right
            took[kind] = min(took.get(kind, math.inf), time.perf_counter() - began)
    return took[torch.bfloat16] < took[torch.float32]
