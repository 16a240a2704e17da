"""Checkpoint to GGUF, and the manifest of the model files.

llama.cpp stores the query and key rows of Llama models in interleaved rotary order; everything else is copied.

Quantisation is that of the ``gguf`` package, which writes blocks of 32 (Q4_0 to Q8_0) and only reads K-quants. Those
come from llama.cpp itself, whose ``ggml_quantize_chunk`` the server's library exports. The published 4-bit file is
Q4_K_M; Q4_1, which needs no K-quants, takes 5.0 bits a weight where Q4_K takes 4.5. Embeddings, which are the output
matrix too, stay finer (Q8_0; Q6_K beside K-quants, as llama.cpp has it).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from course_lib.errors import DataError, ModelError, UsageError
from course_lib.models import file_sha256, model_folder

# Kind of file: type of the matrices, type of the embeddings; both as gguf names them.
QUANTISATIONS = {"f16": ("F16", "F16"), "q8_0": ("Q8_0", "Q8_0"), "q4_1": ("Q4_1", "Q8_0"),
                 "q4_k_m": ("Q4_K", "Q6_K"), "q2_k": ("Q2_K", "Q6_K")}  # fmt: skip

CHECKPOINT_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                    "tokenizer_config.json", "chat_template.jinja")  # fmt: skip


def export(
    checkpoint: Path | str, out_dir: Path | str, *, name: str = "instruct", kinds: tuple[str, ...] = ("f16",)
) -> list[Path]:
    """Publish a checkpoint: ``out_dir/name/`` with safetensors and tokenizer, and ``out_dir/name-KIND.gguf`` per kind.

    Refreshes the SHA-256 manifest of ``out_dir`` and returns the GGUF files. GGUF files of ``name`` that an earlier
    checkpoint left there are removed. Raises ModelError, before anything is written, for an unknown kind and when a
    file of the checkpoint is missing.
    """
    import shutil

    from course_lib.checksums import write_checksums

    source, target = Path(checkpoint), Path(out_dir) / name
    _check_whole(source)
    for kind in kinds:
        _check_kind(kind)
    target.mkdir(parents=True, exist_ok=True)
    if source.resolve() != target.resolve():
        weights = target / "model.safetensors"
        if weights.exists() and file_sha256(weights) != file_sha256(source / weights.name):
            for stale in Path(out_dir).glob(f"{name}-*.gguf"):
                stale.unlink()
        for file in CHECKPOINT_FILES:
            shutil.copyfile(source / file, target / file)
    made = [
        write_gguf(target, Path(out_dir) / f"{name}-{kind}.gguf", kind=kind, name=f"course-lm-{name}") for kind in kinds
    ]
    write_checksums(out_dir)
    return made


def average(first: Path | str, second: Path | str, out_dir: Path | str, share: float = 0.5) -> Path:
    """A checkpoint whose weights are the mean of two of one lineage, ``share`` of it from the second ("model soup",
    arXiv:2203.05482). Computed in float32, kept in the first one's precision; tokenizer and settings are the first's.

    Raises ModelError for checkpoints of different shapes or tokenizers, UsageError for a share outside 0 to 1.
    """
    import shutil

    from safetensors.torch import load_file, save_file

    if not 0 <= share <= 1:
        raise UsageError(f"share is {share}", fix="take a number from 0 to 1")
    sides = [Path(first), Path(second)]
    for side in sides:
        _check_whole(side)
    left, right = (load_file(side / "model.safetensors") for side in sides)
    alike = {name: t.shape for name, t in left.items()} == {name: t.shape for name, t in right.items()}
    if not alike or file_sha256(sides[0] / "tokenizer.json") != file_sha256(sides[1] / "tokenizer.json"):
        raise ModelError("the two differ in shape or tokenizer", where=str(second), fix="average runs of one lineage")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for file in CHECKPOINT_FILES:
        shutil.copyfile(sides[0] / file, out / file)
    mean = {name: ((1 - share) * t.float() + share * right[name].float()).to(t.dtype) for name, t in left.items()}
    save_file(mean, out / "model.safetensors", metadata={"format": "pt"})
    return out


def write_gguf(checkpoint: Path | str, out: Path | str, *, kind: str = "f16", name: str = "course-lm") -> Path:
    """Write the safetensors checkpoint in folder ``checkpoint`` as one GGUF file ``out``; returns its path.

    kind: ``f16`` (matrices in half precision, norms in float32), ``q8_0`` or ``q4_1`` (where rows divide by 32),
    ``q4_k_m`` or ``q2_k`` (by 256). A matrix whose rows do not divide stays in half precision.
    Raises ModelError when the checkpoint is not a Llama with a fast tokenizer.
    """
    import gguf

    checkpoint, out = Path(checkpoint), Path(out)
    _check_kind(kind)
    config = _json(checkpoint / "config.json")
    if config.get("model_type") != "llama":
        raise ModelError("only Llama checkpoints can be exported", where=str(checkpoint))
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(out), "llama")
    _write_settings(writer, config, kind, name)
    _write_tokenizer(writer, checkpoint)
    _write_tensors(writer, checkpoint, config, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _check_whole(checkpoint: Path) -> None:
    if missing := [f for f in CHECKPOINT_FILES if not (checkpoint / f).exists()]:
        raise ModelError(f"the checkpoint lacks {', '.join(missing)}", where=str(checkpoint), fix="train it to its end")


def _check_kind(kind: str) -> None:
    if kind not in QUANTISATIONS:
        raise ModelError(f"unknown quantisation {kind!r}", fix=f"use one of {', '.join(QUANTISATIONS)}")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("the checkpoint cannot be read", where=str(path), fix="train or restore it") from error


def _write_settings(writer: Any, config: dict[str, Any], kind: str, name: str) -> None:
    import gguf

    head = config["hidden_size"] // config["num_attention_heads"]
    theta = (config.get("rope_parameters") or config).get("rope_theta", 10000.0)
    writer.add_name(name)
    writer.add_license("Apache-2.0")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(theta))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_tokenizer(writer: Any, checkpoint: Path) -> None:
    """Tokens, types, merges, the pre-tokenizer's name and the chat template."""
    import gguf

    from course_lm.tokenizer import PRE_TOKENIZER, load

    tokenizer = load(checkpoint)
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {entry["id"]: entry["special"] for entry in description["added_tokens"]}
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    types = {None: gguf.TokenType.NORMAL, True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list([by_id[i] for i in range(len(by_id))])
    writer.add_token_types([types[added.get(i)] for i in range(len(by_id))])
    writer.add_token_merges(
        [pair if isinstance(pair, str) else " ".join(pair) for pair in description["model"]["merges"]]
    )
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _names(layers: int) -> dict[str, str]:
    """Tensor names: transformers to GGUF."""
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}  # fmt: skip
    parts = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
    for layer in range(layers):
        names |= {f"model.layers.{layer}.{old}.weight": f"blk.{layer}.{new}.weight" for old, new in parts.items()}
    return names


def _write_tensors(writer: Any, checkpoint: Path, config: dict[str, Any], kind: str) -> None:
    import gguf
    import numpy as np
    from safetensors.torch import load_file

    names = _names(config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in load_file(str(checkpoint / "model.safetensors")).items():
        if name not in names:
            raise ModelError(f"unknown tensor {name}", where=str(checkpoint), fix="export Llama checkpoints only")
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        array = tensor.float().numpy()
        for part, count in heads.items():
            if part in name:
                array = _interleave(array, count)
        if array.ndim == 1:
            writer.add_tensor(names[name], array.astype(np.float32))
            continue
        chosen = gguf.GGMLQuantizationType[_type_of(name, kind, config["num_hidden_layers"])]
        if array.shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0]:
            chosen = gguf.GGMLQuantizationType.F16
        writer.add_tensor(names[name], quantise(array, chosen), raw_dtype=chosen)


def _type_of(name: str, kind: str, layers: int) -> str:
    """The gguf type of a matrix. Q4_K_M keeps values and down projections of some layers finer, as llama.cpp does."""
    if "embed_tokens" in name or "lm_head" in name:
        return QUANTISATIONS[kind][1]
    if kind == "q4_k_m" and ("v_proj" in name or "down_proj" in name):
        layer = int(name.split(".")[2])
        if layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2:
            return "Q6_K"
    return QUANTISATIONS[kind][0]


def quantise(array: Any, kind: Any) -> Any:
    """A float32 matrix as the bytes of a ``gguf.GGMLQuantizationType``: by gguf where it can, else by llama.cpp."""
    import ctypes

    import gguf
    import numpy as np

    try:
        return gguf.quants.quantize(array, kind)
    except NotImplementedError:
        rows, width = array.shape
        source = np.ascontiguousarray(array, dtype=np.float32)
        target = np.empty(gguf.quant_shape_to_byte_shape((rows, width), kind), dtype=np.uint8)
        pointers = (ctypes.c_void_p(a.ctypes.data) for a in (source, target))
        written = _llama_cpp().ggml_quantize_chunk(int(kind), *pointers, 0, rows, width, None)
        if written != target.nbytes:
            raise ModelError(f"llama.cpp wrote {written} bytes of {target.nbytes}", where=kind.name) from None
        return target


@lru_cache(maxsize=1)
def _llama_cpp() -> Any:
    """llama.cpp's C functions in the library of xllamacpp. Raises ModelError where it does not show them."""
    import ctypes
    import importlib

    library = ctypes.CDLL(importlib.import_module("xllamacpp.xllamacpp").__file__)
    if not hasattr(library, "ggml_quantize_chunk"):
        raise ModelError("this build of xllamacpp has no quantiser", fix="use f16, q8_0 or q4_1")
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3,
                                            ctypes.c_void_p]  # fmt: skip
    return library


def write_adapter(adapter: Path | str, checkpoint: Path | str, out: Path | str) -> Path:
    """Write a LoRA that PEFT saved in folder ``adapter`` as a GGUF adapter for the model in ``checkpoint``.

    llama.cpp adds ``scale * alpha / r`` times B A to the model's own matrix. Raises ModelError for an adapter that is
    no plain LoRA on the matrices of a Llama.
    """
    import gguf
    from safetensors.torch import load_file

    adapter, config = Path(adapter), _json(Path(checkpoint) / "config.json")
    settings = _json(adapter / "adapter_config.json")
    if settings.get("peft_type") != "LORA" or settings.get("use_dora") or settings.get("use_rslora"):
        raise ModelError("only plain LoRA adapters can be exported", where=str(adapter))
    names = _names(config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(settings["lora_alpha"]))
    for key, tensor in load_file(str(adapter / "adapter_model.safetensors")).items():
        name, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if f"{name}.weight" not in names or side not in ("lora_A", "lora_B"):
            raise ModelError(f"unknown tensor {key}", where=str(adapter), fix="train LoRA on linear layers of a Llama")
        array = tensor.float().numpy()
        if side == "lora_B" and (count := next((n for part, n in heads.items() if part in name), 0)):
            array = _interleave(array, count)
        writer.add_tensor(f"{names[f'{name}.weight']}.{side.lower()}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(out)


def _interleave(array: Any, heads: int) -> Any:
    """Rows of each head from halves (transformers) to pairs (llama.cpp); shape (heads * d, width) stays."""
    rows, width = array.shape
    return array.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width).copy()


def verify(folder: Path | str | None = None) -> list[str]:
    """Problems of the model files against their SHA-256 manifest, one sentence each; empty when all is well."""
    from course_lib.checksums import verify_checksums

    try:
        verify_checksums(folder or model_folder())
    except DataError as error:
        return [f"{error.what} {error.where}"]
    return []
