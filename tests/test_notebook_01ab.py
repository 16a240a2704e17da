"""What 01a and 01b write by hand equals the libraries; the sliders of 01b move in a real JupyterLab."""

from __future__ import annotations

import math
from typing import Any

import lab_kit
import pytest
from notebook_code import functions, sources

from course_lib import catalog
from course_lib.doctor import find_chromium
from course_lib.errors import UsageError
from course_lib.sampling_view import SamplingView

FOLDER = catalog.repo_root() / "notebooks"
FIRST, SECOND = FOLDER / "01a_what_is_an_llm.ipynb", FOLDER / "01b_how_models_work.ipynb"


@pytest.fixture(scope="module")
def by_hand() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return functions(SECOND, "softmax", "sampling_distribution", "language_loss", "adamw", "forward",
                        "loss_of", "backward", "count_pairs", torch=torch, math=math, letters=list("ab."))


def test_softmax_equals_torch_also_for_large_scores(by_hand: dict[str, Any]) -> None:
    import torch

    for scores in (torch.randn(50), torch.tensor([1000.0, 999.0, -1000.0]), torch.zeros(3)):
        assert torch.allclose(by_hand["softmax"](scores), scores.softmax(-1), atol=1e-7)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_temperature_and_top_p_equal_transformers(by_hand: dict[str, Any], temperature: float, top_p: float) -> None:
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    for seed in range(5):
        scores = torch.randn(1, 200, generator=torch.Generator().manual_seed(seed)) * 3
        theirs = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, scores)).softmax(-1)[0]
        ours = by_hand["sampling_distribution"](scores[0], temperature, top_p)
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_shifted_loss_equals_transformers_on_a_tiny_llama(by_hand: dict[str, Any]) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, num_key_value_heads=1, **shape)).eval()
    ids = torch.randint(0, 40, (2, 9))
    with torch.no_grad():
        logits, theirs = model(ids).logits, model(ids, labels=ids).loss
    assert torch.isclose(by_hand["language_loss"](logits[:, :-1], ids[:, 1:]), theirs, atol=1e-5)
    assert not torch.isclose(by_hand["language_loss"](logits, ids), theirs, atol=1e-3), "the shift must matter"


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.3])
def test_adamw_equals_torch_over_many_steps(by_hand: dict[str, Any], decay: float) -> None:
    import torch

    start = torch.randn(7, 3, dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    optimiser = torch.optim.AdamW([theirs], lr=0.02, betas=(0.9, 0.99), eps=1e-8, weight_decay=decay)
    ours, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for t in range(1, 30):
        theirs.grad = torch.sin(start * t)
        optimiser.step()
        ours, m, v = by_hand["adamw"](ours, torch.sin(start * t), m, v, t, rate=0.02, beta2=0.99, decay=decay)
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert not torch.allclose(ours, start, atol=0.01)


def test_backpropagation_equals_autograd(by_hand: dict[str, Any]) -> None:
    import torch

    x, y = torch.randn(11, 2, dtype=torch.float64), torch.randint(0, 2, (11,)).double()
    shapes = {"W1": (2, 5), "b1": (5,), "W2": (5, 1), "b2": (1,)}
    net = {name: torch.randn(s, dtype=torch.float64).requires_grad_() for name, s in shapes.items()}
    by_hand["loss_of"](by_hand["forward"](x, net)[1], y).backward()
    ours = by_hand["backward"](x, y, {name: t.detach() for name, t in net.items()})
    assert all(torch.allclose(ours[name], t.grad, atol=1e-12) for name, t in net.items())


def test_pairs_are_counted(by_hand: dict[str, Any]) -> None:
    assert by_hand["count_pairs"]("abab.").tolist() == [[0, 2, 0], [1, 0, 1], [0, 0, 0]]


def test_counted_probabilities_are_a_distribution() -> None:
    from collections import Counter

    counted = functions(FIRST, "counted")["counted"]
    tables = [{(): Counter([0, 0, 1, 2])}, {(0,): Counter([3, 3, 3, 1])}, {(1, 0): Counter([2])}]
    for context in ((1, 0), (0, 0), (0, 4)):  # known to the end, known in part, known not at all
        for used in range(4):
            assert math.isclose(sum(counted(tables[:used], context, letter, 1 / 5) for letter in range(5)), 1)
    assert counted(tables, (4, 0), 3, 1 / 5) > counted(tables[:1], (4, 0), 3, 1 / 5)
    assert counted(tables, (4, 4), 3, 1 / 5) == counted(tables[:1], (4, 4), 3, 1 / 5), "an unknown context falls back"


def test_contexts_never_seen_are_counted() -> None:
    import re

    import numpy as np

    scope = functions(FIRST, "words", "runs", "unseen_share", re=re, np=np, kept_aside=["a b c d"])
    assert scope["unseen_share"](["a b. c d"], 1) == 0
    assert math.isclose(scope["unseen_share"](["a b. c d"], 2), 1 / 3)


def view(by_hand: dict[str, Any]) -> SamplingView:
    places = {"one place": [3.0, 2.0, 0.0, -4.0]}
    return SamplingView(places, "abcd".__getitem__, by_hand["sampling_distribution"], show=3)


def test_the_view_shows_what_the_function_returns(by_hand: dict[str, Any]) -> None:
    rows, kept, bits = view(by_hand).rows("one place", 1.0, 0.9)
    assert [token for token, _ in rows] == ["a", "b", "c"] and rows[2][1] == 0 and kept == 2
    assert 0 < bits < 1
    assert view(by_hand).draw("one place", 1.0, 0.5, 5, seed=1) == ["a"] * 5
    bundle = view(by_hand)._repr_mimebundle_()
    assert "temperature 0.3<" in bundle["text/html"] and "temperature 2, top-p 0.9" in bundle["text/html"]
    assert "<s><code>c</code></s>" in view(by_hand).table("one place", 1.0, 0.9)
    assert "T=2 top-p=0.9" in bundle["text/plain"] and len(bundle) == 3


def test_the_view_refuses_what_is_no_distribution(by_hand: dict[str, Any]) -> None:
    for wrong in (lambda scores, t, p: [1.0, 1.0, 0.0, 0.0], lambda scores, t, p: [1.0]):
        with pytest.raises(UsageError, match="no distribution"):
            SamplingView({"x": [3.0, 2.0, 0.0, -4.0]}, str, wrong).rows("x", 1.0, 1.0)
    with pytest.raises(UsageError):
        SamplingView({}, str, by_hand["sampling_distribution"])


def test_tokens_are_escaped(by_hand: dict[str, Any]) -> None:
    page = SamplingView({"<i>": [1.0, 0.0]}, ["<b>", "\n "].__getitem__, by_hand["sampling_distribution"]).html()
    assert "<b>" not in page and "<i>" not in page and "&lt;b&gt;" in page and "↵·" in page


@pytest.mark.browser
@pytest.mark.skipif(not find_chromium(), reason="no Chromium on this machine; set COURSE_CHROMIUM to its path")
def test_a_learner_moves_the_sliders_in_jupyterlab(jupyterlab: lab_kit.Shared) -> None:
    """The cell holds the notebook's own functions, so that what moves is what the lesson proves."""
    cell = "\n\n".join([
        "import torch\n\nfrom course_lib.sampling_view import SamplingView",
        sources(SECOND, "softmax", "sampling_distribution"),
        "places = {'certain': [9.0, 1.0, 0.0, 0.0], 'open': [2.0, 1.5, 1.0, -1.0]}\n"
        "SamplingView(places, ['one', ' two', 'three', 'four'].__getitem__, sampling_distribution)"])  # fmt: skip
    with jupyterlab.cell("sliders", cell) as page:
        box = page.locator(".course-sampling").first
        lab_kit.run_cell(page, box, jupyterlab.log)
        caption = box.locator("caption")
        caption.get_by_text("temperature 1.0, top-p 1.00").wait_for(timeout=20_000)
        box.locator("select").select_option("open")
        caption.get_by_text("1.6 bits").wait_for(timeout=20_000)
        temperature, top_p = box.get_by_role("slider").all()
        temperature.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        caption.get_by_text("temperature 1.5, top-p 1.00: 4 tokens").wait_for(timeout=20_000)
        bar = top_p.bounding_box()
        page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
        page.mouse.down()
        page.mouse.move(bar["x"] - 110, bar["y"] + bar["height"] / 2, steps=4)
        page.mouse.up()
        box.locator("s").first.wait_for(timeout=20_000)
        assert "top-p 1.00" not in caption.inner_text()
        box.get_by_role("button", name="Draw 12 tokens").click()
        box.get_by_text("drawn:").wait_for(timeout=20_000)
        drawn = box.locator("p[role=status] code").all_inner_texts()
        assert len(drawn) == 12 and set(drawn) <= {"one", "·two", "three"}
