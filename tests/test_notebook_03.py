"""What notebook 03 writes by hand equals the libraries; its calculator answers in a real JupyterLab."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import lab_kit
import numpy as np
import pytest
from notebook_code import sources

from course_lib import catalog
from course_lib import notebooks as nbs
from course_lib.doctor import find_chromium
from course_lib.errors import ModelError
from course_lib.quizzes import load_quiz

NOTEBOOK = catalog.repo_root() / "notebooks" / "03_fine_tuning.ipynb"


@pytest.fixture(scope="module")
def by_hand() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    scope: dict[str, Any] = {"torch": torch, "math": math, "np": np, "NormalDist": NormalDist}
    exec(sources(NOTEBOOK, "LoRALinear", "add_lora", "SHAPES", "TARGETS", "lora_parameters", "nf4_levels", "PUBLISHED",
                 "quantise", "restore", "double", "dpo_loss", "reply_logps", "size_of"), scope)  # fmt: skip
    scope["doubled"] = 4 + 8 / 64 + 32 / (64 * 256)
    exec(sources(NOTEBOOK, "training_memory", "calculator"), scope)
    return scope


def tiny_llama(seed: int = 0) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, **shape)).eval()


@pytest.mark.parametrize(("rank", "alpha", "targets"), [(1, 1, ["q_proj", "v_proj"]), (4, 16, ["down_proj"]),
                                                        (3, 6, ["q_proj", "k_proj", "o_proj", "up_proj"])])  # fmt: skip
def test_lora_equals_peft_in_outputs_gradients_and_merged_weights(by_hand: Any, rank: int, alpha: int,
                                                                  targets: list[str]) -> None:  # fmt: skip
    import torch
    from peft import LoraConfig, get_peft_model

    base = tiny_llama()
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
    ours = by_hand["add_lora"](copy.deepcopy(base), rank, alpha, targets)
    ids = torch.randint(0, 50, (2, 7))
    assert torch.equal(ours(ids).logits, base(ids).logits), "B is zero: nothing changes before training"
    pairs = list(zip((m for m in theirs.modules() if hasattr(m, "lora_A") and hasattr(m, "scaling")),
                     (m for m in ours.modules() if isinstance(m, by_hand["LoRALinear"])), strict=True))  # fmt: skip
    assert len(pairs) == 2 * len(targets)
    for a, b in pairs:
        torch.nn.init.normal_(a.lora_B["default"].weight)
        b.A.data.copy_(a.lora_A["default"].weight)
        b.B.data.copy_(a.lora_B["default"].weight)
    results = [model(ids, labels=ids) for model in (theirs, ours)]
    torch.testing.assert_close(results[0].logits, results[1].logits, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(results[1].logits, base(ids).logits, atol=1e-2)
    for result in results:
        result.loss.backward()
    for a, b in pairs:
        torch.testing.assert_close(a.lora_A["default"].weight.grad, b.A.grad, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(a.lora_B["default"].weight.grad, b.B.grad, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(a.get_delta_weight("default"), b.scale * b.B @ b.A, atol=1e-6, rtol=1e-4)
        assert b.frozen.weight.grad is None and not b.frozen.weight.requires_grad


@pytest.mark.parametrize("rank", [2, 16])
def test_parameters_equal_what_peft_counts(by_hand: Any, rank: int) -> None:
    from peft import LoraConfig, get_peft_model

    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "g": "gate_proj", "u": "up_proj",
             "d": "down_proj"}  # fmt: skip
    shape = {"layers": 2, "width": 32, "kv": 16, "ff": 48}
    for letters in by_hand["TARGETS"].values():
        model = get_peft_model(tiny_llama(), LoraConfig(r=rank, target_modules=[names[t] for t in letters]))
        assert by_hand["lora_parameters"](**shape, r=rank, targets=letters) == model.get_nb_trainable_parameters()[0]


def test_the_published_counts(by_hand: Any) -> None:
    count, eight = by_hand["lora_parameters"], by_hand["SHAPES"]["Llama 3 8B"]
    assert count(**eight, r=16) == 41_943_040 and count(**eight, r=32) == 83_886_080
    assert by_hand["size_of"](**eight) == 8_030_261_248


def test_nf4_levels_are_the_published_ones(by_hand: Any) -> None:
    levels = by_hand["nf4_levels"]()
    assert len(levels) == 16 and levels[7] == 0 and levels.tolist() == sorted(levels.tolist())
    assert (levels - by_hand["PUBLISHED"]).abs().max() < 1e-6


def test_nf4_picks_the_nearest_level_and_keeps_the_largest_weight(by_hand: Any) -> None:
    import torch

    torch.manual_seed(1)
    w, levels = torch.randn(8, 128), by_hand["nf4_levels"]()
    codes, scales = by_hand["quantise"](w, levels)
    back = by_hand["restore"](codes, scales, levels, w.shape)
    blocks, restored = w.reshape(-1, 64), back.reshape(-1, 64)
    top = blocks.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(restored.gather(1, top), blocks.gather(1, top))
    others = ((blocks / scales)[..., None] - levels).abs().amin(-1) * scales
    torch.testing.assert_close((restored - blocks).abs(), others, atol=1e-6, rtol=1e-4)
    assert codes.min() >= 0 and codes.max() <= 15
    spaced = torch.linspace(-1, 1, 16)
    worse = by_hand["restore"](*by_hand["quantise"](w, spaced), spaced, w.shape)
    assert (back - w).norm() < (worse - w).norm()


def test_nf4_equals_bitsandbytes_where_it_is_installed(by_hand: Any) -> None:
    import torch

    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is a package for GPUs")
    torch.manual_seed(2)
    w, levels = torch.randn(64, 256), by_hand["nf4_levels"]()
    packed, state = functional.quantize_4bit(w, blocksize=64, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state)
    ours = by_hand["restore"](*by_hand["quantise"](w, levels), levels, w.shape)
    assert (theirs - ours).abs().max() < 1e-5


@pytest.mark.parametrize("count", [256, 700, 3])
def test_double_quantisation_keeps_scales_within_half_a_step(by_hand: Any, count: int) -> None:
    import torch

    torch.manual_seed(count)
    scales = torch.rand(count, 1) + 0.5
    codes, back = by_hand["double"](scales)
    assert codes.dtype == torch.int8 and back.shape == scales.shape
    assert (back - scales).abs().max() <= 0.5 * (scales - scales.mean()).abs().max() / 127 + 1e-6
    assert not torch.equal(back, scales), "eight bits cannot be exact"


def test_dpo_loss_equals_trl(by_hand: Any, tmp_path: Path) -> None:
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from course_lib.models import model_folder
    from course_lm import tokenizer as lm_tokenizer
    from course_lm import trl_cpu

    trl_cpu.enable()
    tokenizer = lm_tokenizer.load(model_folder() / "base")
    by_hand["tokenizer"] = tokenizer
    policy, reference = (_tiny_for(tokenizer, seed) for seed in (1, 2))
    rows = [{"prompt": f"Who acts in case {n}?\n", "chosen": "The bank.", "rejected": "Nobody acts here."}
            for n in range(3)]  # fmt: skip
    args = DPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=3, beta=0.3, bf16=False, use_cpu=True,
                     report_to="none", gradient_checkpointing=False, max_length=None)  # fmt: skip
    trainer = DPOTrainer(policy, ref_model=reference, args=args, train_dataset=Dataset.from_list(rows),
                         processing_class=tokenizer)  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    trainer.model.eval()
    theirs = trainer.compute_loss(trainer.model, batch)
    sides = [[by_hand["reply_logps"](model, [r["prompt"] for r in rows], [r[side] for r in rows])[0]
              for side in ("chosen", "rejected")] for model in (policy, reference)]  # fmt: skip
    ours = by_hand["dpo_loss"](*sides, 0.3)
    assert math.isclose(ours.item(), theirs.item(), abs_tol=1e-4)
    assert not math.isclose(by_hand["dpo_loss"](*sides[::-1], 0.3).item(), theirs.item(), abs_tol=1e-2)
    assert not math.isclose(by_hand["dpo_loss"](*sides, 1.0).item(), theirs.item(), abs_tol=1e-2)
    zero = [torch.zeros(2), torch.zeros(2)]
    assert math.isclose(by_hand["dpo_loss"](zero, zero, 7.0).item(), math.log(2), abs_tol=1e-6)


def _tiny_for(tokenizer: Any, seed: int) -> Any:
    from course_lm.model import new_model

    model = new_model(tokenizer, seed=seed, circuits=False, width=32, layers=2, heads=2, inner=48)
    return model.eval()


def test_the_memory_of_training_is_arithmetic(by_hand: Any) -> None:
    memory = by_hand["training_memory"]
    full = memory("Llama 3 8B", "full", 16, 0)
    assert math.isclose(sum(full.values()), 16 * 8.030261248, rel_tol=1e-9)
    lora, qlora = (memory("Llama 3 8B", method, 16, 0) for method in ("LoRA", "QLoRA"))
    assert math.isclose(lora["optimiser states"], 8 * 0.04194304) and lora["frozen weights"] > 16
    assert qlora["frozen weights"] < 0.4 * lora["frozen weights"] and qlora["gradients"] == lora["gradients"]


def test_k_quants_are_llama_cpps_and_finer_than_blocks_of_the_same_bits() -> None:
    import gguf

    from course_lm.export import quantise

    pytest.importorskip("xllamacpp")
    array = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    error = {}
    for name in ("Q8_0", "Q6_K", "Q4_K", "Q4_0", "Q2_K"):
        kind = gguf.GGMLQuantizationType[name]
        back = gguf.quants.dequantize(quantise(array, kind), kind)
        assert back.shape == array.shape
        error[name] = float(np.sqrt(((back - array) ** 2).mean()))
    assert error["Q8_0"] < error["Q6_K"] < error["Q4_K"] < error["Q4_0"] < error["Q2_K"] < 0.5


def test_an_adapter_that_is_no_plain_lora_is_refused(tmp_path: Path) -> None:
    from course_lib.models import model_folder
    from course_lm.export import write_adapter

    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true, "lora_alpha": 4}')
    with pytest.raises(ModelError, match="plain LoRA"):
        write_adapter(tmp_path, model_folder() / "base", tmp_path / "x.gguf")


def test_llama_cpp_adds_the_adapter_as_peft_does(tmp_path: Path) -> None:
    import httpx
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    from course_lib.models import model_folder
    from course_lm import tokenizer as lm_tokenizer
    from course_lm.export import write_adapter

    xllamacpp = pytest.importorskip("xllamacpp")
    folder = model_folder()
    tokenizer = lm_tokenizer.load(folder / "base")
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.03)
    tuned.save_pretrained(tmp_path)
    p = xllamacpp.CommonParams()
    p.model.path = str(folder / "base-f16.gguf")
    adapter = write_adapter(tmp_path, folder / "base", tmp_path / "adapter.gguf")
    p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    p.hostnames, p.port, p.ui, p.n_ctx, p.n_parallel, p.verbosity = ["127.0.0.1"], 0, False, 256, 1, -1
    p.fit_params, p.cache_ram_mib, p.cpuparams.n_threads, p.cpuparams_batch.n_threads = False, 0, 1, 1
    server = xllamacpp.Server(p)
    ids = tokenizer("The bank informs the risk officer within two hours of").input_ids
    with torch.no_grad():
        wanted = {1: tuned(torch.tensor([ids])).logits[0, -1].log_softmax(-1)}
        with tuned.disable_adapter():
            wanted[0] = tuned(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    with httpx.Client(base_url=server.listening_address, timeout=60, trust_env=False) as http:
        for scale, expected in wanted.items():
            http.post("/lora-adapters", json=[{"id": 0, "scale": scale}]).raise_for_status()
            body = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 3, "cache_prompt": False}
            top = http.post("/completion", json=body).json()["completion_probabilities"][0]["top_logprobs"]
            for entry in top:
                assert abs(entry["logprob"] - expected[entry["id"]].item()) < 0.05
    assert (wanted[0] - wanted[1]).abs().max() > 0.5, "the adapter must change the answer"


def test_the_quiz_is_complete() -> None:
    assert len(load_quiz("03").questions) >= 12


@pytest.mark.browser
@pytest.mark.skipif(not find_chromium(), reason="no Chromium on this machine; set COURSE_CHROMIUM to its path")
def test_a_learner_moves_the_calculator_in_jupyterlab(jupyterlab: lab_kit.Shared) -> None:
    lines = [sources(NOTEBOOK, "SHAPES", "lora_parameters"), "doubled = 4 + 8 / 64 + 32 / (64 * 256)",
             sources(NOTEBOOK, "size_of", "training_memory", "calculator"), "from course_lib.live import Live"]
    code = [cell.source for _, cell in nbs.code_cells(nbs.read(NOTEBOOK))]
    live = next(source for source in code if "\nLive(calculator" in source)
    lines += ["totals" + live.split("\ntotals", 1)[1]]
    with jupyterlab.cell("live-03", "\n\n".join(lines)) as page:
        box = page.locator(".course-live").first
        lab_kit.run_cell(page, box, jupyterlab.log)
        assert "QLoRA, Llama 3 8B, rank 16, 4,096 tokens a batch" in box.inner_text()
        box.locator("select").nth(1).select_option("full")
        box.get_by_text("full, Llama 3 8B").wait_for(timeout=20_000)
        assert box.get_by_text("64.24 GB").count() == 1, "optimiser states: 8 bytes for each of 8.03 billion"
        box.locator("select").nth(1).select_option("LoRA")
        box.locator("select").nth(2).select_option("64")
        box.get_by_text("LoRA, Llama 3 8B, rank 64").wait_for(timeout=20_000)
        box.get_by_text("1.34 GB").first.wait_for(timeout=20_000)
        box.locator("select").nth(3).select_option("65536")
        box.get_by_text("17.18 GB").wait_for(timeout=20_000)
