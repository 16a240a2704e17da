"""What 01c and 01d write by hand equals the libraries; their three live parts answer in a real JupyterLab."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import lab_kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_code import cells, functions

from course_lib import catalog
from course_lib.doctor import find_chromium
from course_lib.errors import UsageError
from course_lib.live import Live

FOLDER = catalog.repo_root() / "notebooks"
TOKENS, CONTEXT = FOLDER / "01c_tokens.ipynb", FOLDER / "01d_context_embeddings_transformers.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


BPE = functions(TOKENS, "merge", "train_bpe", "encode", Counter=Counter)


def library_bpe(text: str, merges: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    size = len(set("".join(text.split()))) + merges
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=size, show_progress=False))
    return tokenizer


def test_merge_joins_from_the_left_and_only_that_pair() -> None:
    assert BPE["merge"](list("aaaaa"), ("a", "a")) == ["aa", "aa", "a"]
    assert BPE["merge"](list("abcab"), ("a", "b")) == ["ab", "c", "ab"]
    assert BPE["merge"]([], ("a", "b")) == [] and BPE["merge"](["b", "a"], ("a", "b")) == ["b", "a"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("paymentrs", min_size=1, max_size=9), min_size=1, max_size=25), st.integers(1, 25))
def test_bpe_learns_and_applies_what_the_library_does(words: list[str], merges: int) -> None:
    library = library_bpe(" ".join(words), merges)
    theirs = [tuple(pair) for pair in json.loads(library.to_str())["model"]["merges"]]
    rules, lengths = BPE["train_bpe"](Counter(words), merges)
    assert rules[: len(theirs)] == theirs and lengths == sorted(lengths, reverse=True)
    rank = {rule: i for i, rule in enumerate(theirs)}
    for word in [*words, "paymentspayers"[: len(words) + 2]]:
        if set(word) <= set("".join(words)):
            assert BPE["encode"](word, rank) == library.encode(word).tokens


def test_the_claim_can_fail() -> None:
    rules, _ = BPE["train_bpe"](Counter({"pay": 2, "may": 1}), 1)
    assert rules == [("a", "y")]
    assert BPE["encode"]("pay", {("p", "a"): 0, ("a", "y"): 1}) == ["pa", "y"], "rank decides, not the right end"


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1), (8, 2)])
def test_attention_equals_transformers(heads: int, kv_heads: int) -> None:
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    attention = functions(CONTEXT, "rope", "attention", torch=torch)["attention"]
    torch.manual_seed(heads)
    config = LlamaConfig(hidden_size=8 * heads, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=8,
                         rope_parameters={"rope_type": "default", "rope_theta": 500.0}, attn_implementation="eager")
    theirs, x = LlamaAttention(config, layer_idx=0).eval(), torch.randn(1, 13, 8 * heads)
    mask = torch.full((13, 13), float("-inf")).triu(1)[None, None]
    with torch.no_grad():
        turned = LlamaRotaryEmbedding(config)(x, torch.arange(13)[None])
        out, weights = theirs(x, position_embeddings=turned, attention_mask=mask)
        matrices = [p.weight for p in (theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj)]
        ours, our_weights = attention(x[0], *matrices, heads=heads, kv_heads=kv_heads, base=500.0)
        other, _ = attention(x[0], *matrices, heads=heads, kv_heads=kv_heads, base=10.0)
    assert torch.allclose(ours, out[0], atol=1e-5) and torch.allclose(our_weights, weights[0], atol=1e-5)
    assert not torch.allclose(other, out[0], atol=1e-5), "the base of the positions must matter"


@pytest.mark.parametrize(("tied", "kv_heads"), [(True, 2), (False, 4), (False, 1)])
def test_the_whole_transformer_equals_transformers(tied: bool, kv_heads: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    given = functions(CONTEXT, "rope", "attention", "norm", "transformer", torch=torch, LlamaConfig=LlamaConfig)
    torch.manual_seed(kv_heads)
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=kv_heads, vocab_size=70, tie_word_embeddings=tied,
                         attn_implementation="eager")  # fmt: skip
    theirs, ids = LlamaForCausalLM(config).eval(), torch.randint(0, 70, (11,))
    with torch.no_grad():
        for name, scale in theirs.named_parameters():
            if name.endswith("norm.weight"):
                scale.uniform_(0.5, 1.5)
        seen = theirs(ids[None], output_attentions=True)
    scores, maps = given["transformer"](ids, theirs.state_dict(), config)
    assert torch.allclose(scores, seen.logits[0], atol=1e-5)
    assert torch.allclose(maps, torch.stack(seen.attentions)[:, 0], atol=1e-5)
    config.rms_norm_eps = 1.0
    wrong, _ = given["transformer"](ids, theirs.state_dict(), config)
    assert not torch.allclose(wrong, seen.logits[0], atol=1e-3), "the normalisation must matter"


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_equal_what_the_library_builds(tied: bool) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    count = functions(CONTEXT, "parameters")["parameters"]
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=500, tie_word_embeddings=tied))  # fmt: skip
        mixed = MixtralForCausalLM(MixtralConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=500, num_local_experts=5))  # fmt: skip
    shape = {"layers": 3, "width": 64, "ff": 96, "heads": 4, "kv_heads": 2, "d": 16, "vocab": 500}
    assert sum(count(**shape, tied=tied).values()) == plain.num_parameters()
    assert sum(count(**shape, experts=5).values()) == mixed.num_parameters()


def test_the_calculator_has_the_numbers_of_llama_3() -> None:
    scope = functions(CONTEXT, "parameters", "kv_bytes", "memory", "fitting",
                      BYTES={"16 bit": 2.0, "8 bit": 1.0, "4 bit": 0.5})  # fmt: skip
    scope["SHAPES"] = {"l": {"layers": 32, "width": 4096, "ff": 14336, "heads": 32, "kv_heads": 8, "d": 128,
                             "vocab": 128256}}  # fmt: skip
    memory = scope["memory"]
    assert round(memory("l", "16 bit", 4096, 1)["KV cache"], 2) == 0.54
    assert round(memory("l", "16 bit", 131072, 1)["KV cache"]) == 17
    assert round(memory("l", "4 bit", 1, 1)["weights"], 1) == 4.0
    assert memory("l", "4 bit", 1024, 8, "8 bit")["KV cache"] == memory("l", "4 bit", 4096, 1)["KV cache"]
    fits = scope["fitting"]("l", "16 bit", 4096, "16 bit", 24)
    held = [1.2 * sum(memory("l", "16 bit", 4096, n).values()) for n in (fits, fits + 1)]
    assert held[0] <= 24 < held[1] and scope["fitting"]("l", "16 bit", 4096, "16 bit", 16) == 0


def test_the_notices_are_parallel_and_japanese_is_counted_without_its_marks() -> None:
    import numpy as np

    notices = json.loads((catalog.repo_root() / "data" / "parallel" / "notices.json").read_text("utf-8"))
    assert {len(texts) for texts in notices.values()} == {12} and list(notices)[:4] == [
        "English", "German", "French", "Japanese"]  # fmt: skip
    assert all(len(set(texts)) == 12 for texts in notices.values())

    class Letters:
        tokenize = staticmethod(list)

    count = functions(TOKENS, "tokens", np=np, notices=notices)["tokens"]
    assert count(Letters, "Japanese").tolist() == [len(text.replace(" ", "")) for text in notices["Japanese"]]
    assert count(Letters, "German").tolist() == [len(text) for text in notices["German"]]


def test_a_live_view_has_a_still_picture_that_needs_no_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live(lambda text, n: f"<b>{text * n}</b>", "still", text="ab", n=range(2, 5))
    bundle = live._repr_mimebundle_()
    assert bundle["text/html"] == "<b>abab</b>" and bundle["text/plain"] == "still" and WIDGET in bundle
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(live._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_a_live_view_follows_its_controls_and_survives_its_errors() -> None:
    box = Live(lambda a, b: f"<p>{12 // a} {b}</p>", "still", a=(3, 4, 0), b="x").widget()
    (choice, text), page = box.children[0].children, box.children[1]
    assert page.value == "<p>4 x</p>"
    choice.value = 4
    text.value = "y"
    assert page.value == "<p>3 y</p>"
    choice.value = 0
    assert "cannot be shown" in page.value and "zero" in page.value
    choice.value = 3
    assert page.value == "<p>4 y</p>"


def test_a_figure_becomes_a_picture() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()  # other tests may leave theirs
    live = Live(lambda n: plt.figure(figsize=(1, 1)), "a figure", n=range(1, 3))
    bundle = live._repr_mimebundle_()
    assert bundle["image/png"].startswith("iVBOR") and "text/html" not in bundle
    assert bytes(live.widget().children[2].value).startswith(b"\x89PNG") and plt.get_fignums() == before


@pytest.mark.parametrize("controls", [{}, {"a": ()}, {"a": range(0)}])
def test_a_live_view_without_choices_is_refused(controls: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Live(lambda: "", "still", **controls)


def live_cells() -> str:
    """One cell with what the three live parts need, taken from the notebooks, and the three of them shown."""
    strips = cells(TOKENS, "printable =", "minilm =", "import html", "def strip(", "from course_lib.live", "start =")
    maps = cells(CONTEXT, "path = repo_root()", "example =", "layers, heads", "from course_lib.live", "opening =")
    calculator = cells(CONTEXT, "def parameters", "SHAPES =", "def kv_bytes", "BYTES =", "def fitting")
    setup = cells(TOKENS, "import json")[0] + "\n" + "\n".join(
        line for line in cells(CONTEXT, "import random")[0].splitlines() if line.startswith(("import", "from")))
    between = "from course_lib.prompts import SYSTEM, answer_prompt"
    shown = [*strips, between, *maps, "shape = model.config", *calculator]
    lines = "\n\n".join([setup, "from IPython.display import display", *shown]).splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Live(")]
    assert len(starts) == 3, "each live part is the last expression of its cell"
    for number, i in enumerate(starts):
        lines[i] = f"live_{number} = " + lines[i]
    return "\n".join([*lines, *(f"display(live_{number})" for number in range(3))])


@pytest.mark.browser
@pytest.mark.skipif(not find_chromium(), reason="no Chromium on this machine; set COURSE_CHROMIUM to its path")
def test_a_learner_moves_the_three_live_parts_in_jupyterlab(jupyterlab: lab_kit.Shared) -> None:
    with jupyterlab.cell("live-01cd", live_cells()) as page:
        lab_kit.run_cell(page, page.locator(".course-live").nth(2), jupyterlab.log)
        strip, picture, calculator = (page.locator(".course-live").nth(i) for i in range(3))

        assert "course-lm (byte-level BPE):" in strip.inner_text() and "MiniLM (WordPiece):" in strip.inner_text()
        strip.locator("input[type=text]").fill("<b>Gebühr</b>")
        strip.locator("input[type=text]").press("Enter")
        strip.get_by_text("tokens, 13 characters").first.wait_for(timeout=20_000)
        assert strip.locator("b").count() == 0, "what a learner types is shown, never rendered"
        strip.locator("select").select_option("MiniLM (WordPiece)")
        strip.get_by_text("course-lm (byte-level BPE):").wait_for(state="detached", timeout=20_000)

        image = picture.locator("img")
        before = image.get_attribute("src")
        head = picture.locator("select").nth(1)
        head.select_option(index=1)
        page.wait_for_function("([node, old]) => node.src !== old", arg=[image.element_handle(), before])
        assert image.evaluate("node => node.naturalWidth") > 400

        assert "16.06 GB" in calculator.inner_text() and "0.54 GB" in calculator.inner_text()
        calculator.locator("select").nth(2).select_option("131072")
        calculator.get_by_text("17.18 GB").wait_for(timeout=20_000)
        calculator.locator("select").nth(1).select_option("4 bit")
        calculator.get_by_text("4.02 GB").wait_for(timeout=20_000)
