"""What notebook 02 writes by hand equals the libraries, its helpers do what they say, its live parts answer clicks."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import lab_kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_code import cells, functions

from course_lib import catalog, pictures, raw_rows, tiny_train
from course_lib.doctor import find_chromium
from course_lib.errors import UsageError
from course_lib.prompts import ABSTAIN, SYSTEM, answer_prompt

PATH = catalog.repo_root() / "notebooks" / "02_datasets.ipynb"
WORDS = st.text("abcdefghij AEIOU.,?€ü", min_size=1, max_size=60).filter(str.strip)
TALKS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3).map(lambda pairs: [
    {"role": "system", "content": "Be brief."},
    *({"role": role, "content": text} for pair in pairs
      for role, text in zip(("user", "assistant"), pair, strict=True))])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    from course_lib.models import model_folder

    return AutoTokenizer.from_pretrained(model_folder() / "instruct")


@pytest.fixture(scope="module")
def training() -> str:
    """The training template of the notebook."""
    scope: dict[str, Any] = {}
    exec(cells(PATH, "TRAINING =")[0].split('"""\n')[0] + '"""', scope)
    return str(scope["TRAINING"])


def row(number: int, question: str = "", reply: str = "") -> dict[str, Any]:
    sources = [f"Rule {number} holds for {number + 2} days.", f"Desk {number} answers by mail."]
    asked = answer_prompt(question or f"How long does rule {number} hold?", sources)
    turns = ("system", SYSTEM["answer"]), ("user", asked), ("assistant", reply or f"[1] {sources[0]}")
    return {"id": f"hand-{number:03}", "task": "answer", "document": "gdpr-notes@1", "origin": "hand",
            "messages": [{"role": role, "content": text} for role, text in turns]}


# ---- templates and labels --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(TALKS)
def test_templates_by_hand_equal_apply_chat_template(tokenizer: Any, talk: list[dict[str, str]]) -> None:
    from trl.chat_template_utils import llama3_chat_template

    ours = functions(PATH, "chatml", "llama3")
    for opened, turns in ((False, talk), (True, talk[:-1])):
        given_ = {"tokenize": False, "add_generation_prompt": opened}
        assert ours["chatml"](turns, opened) == tokenizer.apply_chat_template(turns, **given_)
        theirs = tokenizer.apply_chat_template(
            turns, chat_template=llama3_chat_template, bos_token="<|begin_of_text|>", **given_)  # fmt: skip
        assert ours["llama3"](turns, opened) == theirs
        assert ours["chatml"](turns, not opened) != tokenizer.apply_chat_template(turns, **given_), "it can fail"


def test_alpaca_has_headings_and_no_control_token() -> None:
    alpaca = functions(PATH, "alpaca")["alpaca"]
    turns = [{"role": "system", "content": "Do it."}, {"role": "user", "content": "This."}]
    assert alpaca(turns) == "### Instruction:\nDo it.\n\n### Input:\nThis.\n\n### Response:\n"
    assert "<|" not in alpaca(turns, False) and not alpaca(turns, False).endswith("Response:\n")


@settings(max_examples=40, deadline=None)
@given(TALKS)
def test_labels_by_hand_equal_the_assistant_mask(tokenizer: Any, training: str, talk: list[dict[str, str]]) -> None:
    ids, labels = functions(PATH, "masked", tokenizer=tokenizer)["masked"](talk)
    theirs = tokenizer.apply_chat_template(
        talk, chat_template=training, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)  # fmt: skip
    assert ids == theirs["input_ids"] == tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)
    assert labels == [i if m else -100 for i, m in zip(ids, theirs["assistant_masks"], strict=True)]
    assert labels.count(tokenizer.eos_token_id) == len(talk) // 2, "each reply teaches its end"


def test_labels_by_hand_equal_those_that_trl_trains_on(tokenizer: Any, training: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from course_lib.models import model_folder

    masked = functions(PATH, "masked", tokenizer=tokenizer)["masked"]
    learner = AutoTokenizer.from_pretrained(model_folder() / "instruct", chat_template=training)
    plain = SFTConfig(str(tmp_path), max_length=None, use_cpu=True, bf16=False, report_to="none")
    rows = Dataset.from_list([{"messages": row(n)["messages"]} for n in range(3)])
    prepared = {}
    for only in (True, False):
        plain.assistant_only_loss = only
        model = tiny_train.small_llama(tokenizer)
        trainer = SFTTrainer(model, args=plain, processing_class=learner, train_dataset=rows)
        prepared[only] = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])["labels"]
    for n in range(3):
        labels = masked(row(n)["messages"])[1]
        assert prepared[True][n, : len(labels)].tolist() == labels
        assert prepared[False][n, : len(labels)].tolist() != labels, "without the option every token counts"


def test_a_preference_pair_rejects_the_other_source() -> None:
    preference = functions(PATH, "preference", re=re, ABSTAIN=ABSTAIN)["preference"]
    pair = preference(row(4))
    assert pair["chosen"][0]["content"] == "[1] Rule 4 holds for 6 days."
    assert pair["rejected"][0]["content"] == "[2] Desk 4 answers by mail."
    assert preference(row(4), hard=False)["rejected"][0]["content"] == ABSTAIN
    assert pair["prompt"] == row(4)["messages"][:2]


# ---- duplicates ------------------------------------------------------------------------------------------------------


def by_hand() -> dict[str, Any]:
    import numpy as np

    scope = functions(PATH, "shingles", "mixed", "signature", np=np, hashlib=hashlib, re=re)
    exec(re.search(r"^jaccard = .*$", cells(PATH, "def shingles")[0], re.M)[0], scope)
    return scope


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=80), st.sampled_from([16, 128]), st.integers(1, 5))
def test_signatures_equal_datasketch(text: str, places: int, seed: int) -> None:
    from datasketch import MinHash

    ours, theirs = by_hand(), MinHash(num_perm=places, seed=seed)
    pieces = ours["shingles"](text)
    theirs.update_batch([p.encode() for p in pieces])
    a, b = theirs.permutations
    assert (ours["signature"](pieces, a, b) == theirs.hashvalues).all()
    assert not (ours["signature"](pieces, b | 1, a) == theirs.hashvalues).all(), "the functions matter"


def test_the_estimate_is_near_the_exact_similarity() -> None:
    from datasketch import MinHash

    ours = by_hand()
    sets = [ours["shingles"](f"How long does the bank keep {what} of its customers?") for what in ("calls", "letters")]
    a, b = (ours["signature"](s, *MinHash(num_perm=1024, seed=1).permutations) for s in sets)
    assert abs((a == b).mean() - ours["jaccard"](*sets)) < 0.06
    assert ours["jaccard"](sets[0], sets[0]) == 1 and ours["jaccard"]({"a"}, {"b"}) == 0


# ---- filters ---------------------------------------------------------------------------------------------------------


def test_language_and_personal_data_by_rule() -> None:
    import phonenumbers
    from stdnum import iban, luhn

    scope: dict[str, Any] = {"re": re}
    exec(cells(PATH, "SMALL =")[0].split("RULES =")[0], scope)
    assert scope["language"]("Wer gibt die Zahlung frei?") == "de" and scope["language"]("Who signs it?") == "en"
    personal = functions(PATH, "personal", re=re, iban=iban, luhn=luhn, phonenumbers=phonenumbers)["personal"]
    assert personal("DE89 3704 0044 0532 0130 00, please") == {"IBAN"}
    assert personal("GB29 NWBK 6016 1331 9268 18, please") == set(), "a wrong checksum is no IBAN"
    assert personal("card 4111 1111 1111 1111") == {"card"} and personal("card 4111 1111 1111 1112") == set()
    assert personal("+44 20 7946 0018 or a@example.com") == {"telephone", "e-mail"}
    assert personal("I am Erika Invented, born 12 August 1964") == set(), "the notebook says so"


def test_a_quotation_must_stand_in_its_source() -> None:
    sources = lambda r: re.findall(r"^\[\d\] (.+)$", r["messages"][1]["content"], re.M)  # noqa: E731
    scope = {"re": re, "ABSTAIN": ABSTAIN, "reply_of": raw_rows.reply_of, "sources_of": sources}
    grounded = functions(PATH, "grounded", **scope)["grounded"]
    both = "[1] Rule 4 holds for 6 days. [2] Desk 4 answers by mail."
    assert grounded(row(4)) and grounded(row(4, reply=ABSTAIN)) and grounded(row(4, reply=both))
    half = "[1] Rule 4 holds for 6 days. [2] Desk 4 answers never."
    for wrong in (half, "[2] Rule 4 holds for 6 days.", "[7] See above.", "It depends.", "[1] Rule 4 holds for ever."):
        assert not grounded(row(4, reply=wrong)), wrong


def test_a_document_is_on_one_side_of_the_split() -> None:
    split_of = functions(PATH, "split_of", hashlib=hashlib)["split_of"]
    names = [split_of({"document": f"d{n}@1"}) for n in range(300)]
    assert names == [split_of({"document": f"d{n}@1"}) for n in range(300)]
    assert names != [split_of({"document": f"d{n}@1"}, 7) for n in range(300)], "another salt, another split"
    assert set(names) == {"train", "validation", "test"} and names.count("train") > 160 and names.count("test") > 40


# ---- raw rows --------------------------------------------------------------------------------------------------------


def test_defects_are_planted_and_named() -> None:
    clean = [row(n) for n in range(120)]
    before = json.dumps(clean)
    rows, wrong = raw_rows.spoil(clean, seed=3)
    assert (rows, wrong) == raw_rows.spoil(clean, seed=3) != raw_rows.spoil(clean, seed=4)
    assert json.dumps(clean) == before and set(wrong.values()) == set(raw_rows.KINDS)
    assert len({r["id"] for r in rows}) == len(rows) and all(r in rows for r in clean)
    kinds = [wrong.get(r["id"], "") for r in rows]
    first = min(i for i, kind in enumerate(kinds) if kind.endswith("copy"))
    assert all(kind.endswith("copy") for kind in kinds[first:]), "copies come last"
    by_kind = {wrong.get(r["id"]): r for r in rows}
    assert raw_rows.reply_of(by_kind["personal data"]) == ABSTAIN
    assert raw_rows.question_of(raw_rows.with_question(row(1), "New?")) == "New?"
    with pytest.raises(UsageError):
        raw_rows.spoil(clean[:5])


def test_invented_persons_are_evidently_invented() -> None:
    from stdnum import iban

    text = "\n".join(raw_rows._PERSONAL)
    assert all(m.endswith("example.com") for m in re.findall(r"@([\w.-]+\w)", text))
    published = {"DE89370400440532013000", "GB29NWBK60161331926819", "NL91ABNA0417164300",
                 "FR1420041010050500013M02606"}  # fmt: skip
    found = {re.sub(r" ", "", m) for m in re.findall(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}\b", text)}
    assert found == published and all(map(iban.is_valid, found))


# ---- the training loop -----------------------------------------------------------------------------------------------


def examples(tokenizer: Any) -> list[tiny_train.Example]:
    return [tiny_train.example(tokenizer, f"Say {word}:\n", word) for word in ("pay", "a much longer reply", "no")]


def test_the_loss_of_a_padded_batch_equals_the_library_one_by_one(tokenizer: Any) -> None:
    import torch

    model, rows = tiny_train.small_llama(tokenizer, seed=1).eval(), examples(tokenizer)
    with torch.no_grad():
        alone = [model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() for ids, labels in rows]
    sizes = [sum(label != -100 for label in labels) for _, labels in rows]
    assert tiny_train.losses_of(model, rows) == pytest.approx(alone, abs=1e-4)
    mean = sum(a * n for a, n in zip(alone, sizes, strict=True)) / sum(sizes)
    assert tiny_train.loss_of(model, rows) == pytest.approx(mean, abs=1e-4)
    assert tiny_train.plain(tokenizer, "pay")[0] == tiny_train.plain(tokenizer, "pay")[1]


def test_fit_learns_repeats_and_is_judged_as_generate_would(tokenizer: Any) -> None:
    import torch

    rows, seen, runs = examples(tokenizer), [], []
    for _ in range(2):
        model = tiny_train.small_llama(tokenizer, width=32, seed=1)
        assert not any(tiny_train.replies_right(model, rows))
        runs.append(tiny_train.fit(model, rows, epochs=60, rate=1e-2, batch=2, seed=1, after=seen.append))
    assert runs[0] == runs[1] and runs[0][-1] < 0.2 < runs[0][0] and seen[:60] == list(range(1, 61))
    assert all(tiny_train.replies_right(model, rows)) and all(tiny_train.starts_right(model, rows))
    prompt = torch.tensor([tokenizer.encode("Say no:\n", add_special_tokens=False)])
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(out[0, prompt.shape[1] :]) == "no<|im_end|>"
    wrong = [tiny_train.example(tokenizer, "Say no:\n", "pay")]
    assert tiny_train.replies_right(model, wrong) == tiny_train.starts_right(model, wrong) == [False]
    with pytest.raises(UsageError):
        tiny_train.fit(model, [], epochs=1, rate=0.1)


# ---- pictures and live parts -----------------------------------------------------------------------------------------


def test_pictures(tokenizer: Any) -> None:
    import matplotlib.pyplot as plt

    with pytest.raises(UsageError):
        pictures.share_bars({"empty": []}, "t", "x")
    bars = pictures.share_bars({"a": [True, False], "b": [True]}, "Title", "share")
    assert [t.get_text() for t in bars.axes[0].texts] == ["50%", "100%"] and bars.axes[0].get_title() == "Title"
    steps = pictures.funnel({"raw": 10, "exact": 7, "near": 7}, "Title")
    assert [t.get_text() for t in steps.axes[0].texts] == ["10", "7  (-3)", "7"]
    plt.close(bars)
    plt.close(steps)
    assert "<b>" not in pictures.side_by_side({"<b>": "<b>x</b>"})
    ids = tokenizer.encode("<b> x", add_special_tokens=False)
    boxes = pictures.token_boxes(tokenizer, ids, [i == 0 for i in range(len(ids))])
    assert "<b>" not in boxes and boxes.count("#333") == 1


def live_cell() -> str:
    """One cell with the two live parts of the notebook; the slider gets similarities made up here."""
    templates, viewer, slider = cells(PATH, "def chatml", "TEMPLATES =", "nearest =")
    made_up = """import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from course_lib.live import Live
from course_lib.pictures import side_by_side

wrong = {n: "near copy" for n in range(4)}
steps = {"exact duplicates": [{"id": n} for n in range(8)]}
exact = np.eye(8) + np.tril(np.full((8, 8), 0.1), -1)
exact[[1, 2, 3, 7], [0, 0, 0, 6]] = 0.95, 0.72, 0.57, 0.62"""
    shown = [re.sub(r"(?m)^Live\(", f"live_{n} = Live(", part) for n, part in enumerate((viewer, slider))]
    return "\n\n".join([made_up, templates, *shown, "display(live_0)\ndisplay(live_1)"])


@pytest.mark.browser
@pytest.mark.skipif(not find_chromium(), reason="no Chromium on this machine; set COURSE_CHROMIUM to its path")
def test_a_learner_moves_both_live_parts_in_jupyterlab(jupyterlab: lab_kit.Shared) -> None:
    with jupyterlab.cell("live-02", live_cell()) as page:
        lab_kit.run_cell(page, page.locator(".course-live").nth(1), jupyterlab.log)
        viewer, slider = (page.locator(".course-live").nth(i) for i in range(2))
        assert viewer.locator("pre").count() == 3 and "### Response:" in viewer.inner_text()
        viewer.locator("input[type=text]").fill("<b>Who</b> pays?")
        viewer.locator("input[type=text]").press("Enter")
        viewer.get_by_text("<b>Who</b> pays?").first.wait_for(timeout=20_000)
        assert viewer.locator("pre b").count() == 0, "what a learner types is shown, never rendered"
        viewer.locator("select").select_option("Llama 3")
        viewer.get_by_text("### Response:").wait_for(state="detached", timeout=20_000)
        assert viewer.locator("pre").count() == 1

        image = slider.locator("img")
        before = image.get_attribute("src")
        slider.get_by_role("slider").focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        page.wait_for_function("([node, old]) => node.src !== old", arg=[image.element_handle(), before])
        assert image.evaluate("node => node.naturalWidth") > 400
        assert slider.locator(".widget-readout").inner_text() == "75"
