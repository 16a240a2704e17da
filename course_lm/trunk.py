"""The blocks of course-lm for training on a CPU: the same sums as transformers' Llama, with fewer trips to memory.

A narrow model on a CPU waits for memory, not for arithmetic. So products run in bfloat16, what lies between them is
compiled into single loops (torch.compile; needs a C++ compiler), and attention never holds the scores of a whole
prompt, nor those that a causal mask would throw away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

BLOCK = 128  # queries whose scores are held at a time


def hidden_states(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """What ``LlamaModel`` returns as hidden states for right-padded ``ids`` (batch, length), in float32.

    The input of each block, then the output of the last one after the final norm; all (batch, length, width).
    """
    inner, config = model.model, model.config
    x = inner.embed_tokens(ids)
    turns = inner.rotary_emb(x, torch.arange(ids.shape[1])[None])  # (1, length, size); its halves are equal
    cos, sin = (part[:, :, None, : config.head_dim // 2] for part in turns)
    states = [x]
    for layer in inner.layers:
        attention, feed = layer.self_attn, layer.mlp
        normal = _norm(x, layer.input_layernorm.weight, config.rms_norm_eps)
        three = torch.cat([p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
        heads = functional.linear(normal, three.bfloat16()).unflatten(-1, (3 * config.num_attention_heads, -1))
        mixed = _Attention.apply(*_turn(heads, cos, sin))
        x = x + functional.linear(mixed, attention.o_proj.weight.bfloat16())
        normal = _norm(x, layer.post_attention_layernorm.weight, config.rms_norm_eps)
        gate, up = (functional.linear(normal, p.weight.bfloat16()) for p in (feed.gate_proj, feed.up_proj))
        x = x + functional.linear(_gated(gate, up), feed.down_proj.weight.bfloat16())
        states.append(x)
    states[-1] = _norm(x, inner.norm.weight, config.rms_norm_eps).float()
    return states


@torch.compile(dynamic=True)
def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight).bfloat16()


@torch.compile(dynamic=True)
def _gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return (functional.silu(gate.float()) * up.float()).bfloat16()


@torch.compile(dynamic=True)
def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (batch, heads, length, size) of (batch, length, 3 heads, size): the first two turned by
    their positions, queries divided by the root of the size."""
    query, key, value = heads.float().chunk(3, dim=2)
    found = []
    for part, scale in ((query, heads.shape[-1] ** -0.5), (key, 1.0)):
        left, right = part.chunk(2, dim=-1)
        both = torch.cat((left * cos - right * sin, right * cos + left * sin), -1) * scale
        found.append(both.bfloat16().transpose(1, 2).contiguous())
    return found[0], found[1], value.bfloat16().transpose(1, 2).contiguous()


class _Attention(torch.autograd.Function):
    """Causal attention over (batch, heads, length, size), scaled queries; gives (batch, length, heads * size)."""

    @staticmethod
    def forward(ctx: Any, *parts: torch.Tensor) -> torch.Tensor:
        batch, heads, length, size = parts[0].shape
        query, key, value = (part.reshape(batch * heads, length, size) for part in parts)
        out, kept = torch.empty_like(query), []
        for start in range(0, length, BLOCK):
            stop = min(start + BLOCK, length)
            scores = query[:, start:stop] @ key[:, :stop].transpose(1, 2)
            scores[:, :, start:] += torch.full((stop - start,) * 2, -torch.inf, dtype=scores.dtype).triu(1)
            kept.append(torch.softmax(scores, -1))
            torch.bmm(kept[-1], value[:, :stop], out=out[:, start:stop])
        ctx.save_for_backward(query, key, value, *kept)
        return out.reshape(batch, heads, length, size).transpose(1, 2).reshape(batch, length, heads * size)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        query, key, value, *kept = ctx.saved_tensors
        size, length = query.shape[2], query.shape[1]
        batch = grad.shape[0]
        grad = grad.reshape(batch, length, -1, size).transpose(1, 2).reshape(query.shape)
        queries, keys, values = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for share, start in zip(kept, range(0, length, BLOCK), strict=True):
            stop = start + share.shape[1]
            values[:, :stop].baddbmm_(share.transpose(1, 2), grad[:, start:stop])
            back = grad[:, start:stop] @ value[:, :stop].transpose(1, 2)
            scores = torch._softmax_backward_data(back, share, -1, share.dtype)
            torch.bmm(scores, key[:, :stop], out=queries[:, start:stop])
            keys[:, :stop].baddbmm_(scores.transpose(1, 2), query[:, start:stop])
        return tuple(g.reshape(batch, -1, length, size) for g in (queries, keys, values))
