"""Writes a tiny Llama in GGUF with random weights, so that tests of the server never wait for a trained model.

The vocabulary is byte level: 256 bytes, a few merges and the three ChatML marks. Random weights say noise, the same
noise every time. With a script the weights are a chain of tokens: after the assistant's line break the model says the
script's pieces one by one and stops, whatever it was asked. So tests know what a stream or a tool call must hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}Tools:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call a tool as <tool_call>
{"name": NAME, "arguments": ARGUMENTS}
</tool_call><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) or (m.role == 'assistant' and not m.tool_calls) %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}
{{- '<|im_start|>' + m.role }}
{%- if m.content %}{{- '\\n' + m.content }}{%- endif %}
{%- for c in m.tool_calls %}
{%- if c.function is defined %}{%- set c = c.function %}{%- endif %}
{{- '\\n<tool_call>\\n{"name": "' }}{{- c.name }}{{- '", "arguments": ' }}{{- c.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
MERGES = ["t h", "th e", "i n", "e r", "o n", "a n", "r e", "Ġ t"]


def _byte_symbols() -> list[str]:
    """The 256 printable symbols that byte-level BPE uses for bytes 0 to 255, in byte order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols, spare = {}, 0
    for byte in range(256):
        if byte in kept:
            symbols[byte] = chr(byte)
        else:
            symbols[byte] = chr(256 + spare)
            spare += 1
    return [symbols[b] for b in range(256)]


def write_tiny_gguf(path: Path, *, script: Sequence[str] = (), seed: int = 0) -> Path:
    """Write the model to ``path`` and return it. About 0.3 MB; equal arguments give equal bytes.

    script: pieces of text, each of two bytes or more and all different; each becomes one token.
    """
    import gguf

    symbols = _byte_symbols()
    pieces = ["".join(symbols[b] for b in piece.encode()) for piece in script]
    tokens = symbols + [m.replace(" ", "") for m in MERGES] + pieces + ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    width = -(-len(tokens) // 32) * 32 if script else 64
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name(f"tiny-{seed}")
    w.add_context_length(4096)
    w.add_embedding_length(width)
    w.add_block_count(1)
    w.add_feed_forward_length(128)
    w.add_head_count(2)
    w.add_head_count_kv(2)
    w.add_rope_dimension_count(width // 2)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(len(tokens))
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 3) + [gguf.TokenType.CONTROL] * 3)
    w.add_token_merges(MERGES)
    w.add_bos_token_id(len(tokens) - 3)
    w.add_eos_token_id(len(tokens) - 1)
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)
    for name, array in _weights(tokens, pieces, width, seed).items():
        w.add_tensor(name, array)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _weights(tokens: list[str], pieces: list[str], width: int, seed: int) -> dict[str, np.ndarray]:
    """Name to float32 array. With pieces: one-hot embeddings, a silent block, a head from each token to the next."""
    rng = np.random.default_rng(seed)
    shapes = {"token_embd": (len(tokens), width), "output": (len(tokens), width)}
    shapes |= {f"blk.0.{name}": (width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {"blk.0.ffn_gate": (128, width), "blk.0.ffn_up": (128, width), "blk.0.ffn_down": (width, 128)}
    arrays = {f"{k}.weight": (rng.standard_normal(s) * 0.3).astype(np.float32) for k, s in shapes.items()}
    if pieces:
        arrays = {name: np.zeros_like(array) for name, array in arrays.items()}
        np.fill_diagonal(arrays["token_embd.weight"], 1.0)
        chain = [tokens.index("Ċ"), *map(tokens.index, pieces), len(tokens) - 1]
        for now, after in pairwise(chain):
            arrays["output.weight"][after, now] = 1.0
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        arrays[f"{name}.weight"] = np.ones(width, np.float32)
    return arrays
