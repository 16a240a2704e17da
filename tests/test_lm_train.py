"""Data to training to export to serving, on a tiny model; and that server and transformers read prompts alike."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest

from course_lib import server
from course_lib.errors import ModelError, UsageError
from course_lm import export as lm_export
from course_lm import rare
from course_lm import tokenizer as lm_tokenizer
from course_lm import train as lm_train
from course_lm.data import plain_texts
from course_lm.encode import Example
from course_lm.mistakes import first_mistakes, kind_of

TINY = {"width": 64, "layers": 2, "heads": 2, "inner": 96}
TOOL = {"type": "function", "function": {"name": "lookup", "description": "Find a document.", "parameters": {
    "type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}}}  # fmt: skip
CHATS = {
    "system and user": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who? 72 hours."}],
    "user alone": [{"role": "user", "content": "Grüße, naïve café — 1,234.5 %\n\n[1] x: y."}],
    "several turns": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                      {"role": "user", "content": "c"}],
    "tool use and result": [
        {"role": "user", "content": "Find K-7."},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "lookup", "arguments": {"key": "K-7"}}}]},
        {"role": "tool", "tool_call_id": "1", "content": "K-7: kept for 5 years."},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny chat model after a dozen steps, in one second or so."""
    tokenizer = lm_tokenizer.train(plain_texts(200, 1), vocab_size=900)
    out = tmp_path_factory.mktemp("lm") / "run"
    return lm_train.train(
        "sft", out, device="cpu", tokenizer=tokenizer, shape=TINY, steps=12, eval_every=6, batch_tokens=1500
    )


@pytest.fixture(scope="module")
def endpoint(checkpoint: Path):
    gguf, small = lm_export.export(checkpoint, checkpoint.parent / "published", name="tiny", kinds=("f16", "q8_0"))
    assert small.stat().st_size < gguf.stat().st_size and lm_export.verify(gguf.parent) == []
    return server.ensure(server.ServerConfig(model=gguf, alias="tiny"))


def post(endpoint, path: str, body: dict) -> dict:
    request = urllib.request.Request(endpoint.base_url + path, json.dumps(body).encode(), {
        "Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"})  # fmt: skip
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
        return json.loads(reply.read())


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_training_lowers_the_loss_and_resumes_the_same_curve(checkpoint: Path, tmp_path: Path, optimiser: str) -> None:
    log = [json.loads(line) for line in (checkpoint / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [6, 12] and log[1]["reply"] < log[0]["reply"]
    tokenizer = lm_tokenizer.load(checkpoint)
    settings = {"device": "cpu", "tokenizer": tokenizer, "shape": TINY, "eval_every": 3, "batch_tokens": 800, "seed": 5,
                "optimiser": optimiser}  # fmt: skip
    whole = lm_train.train("pretrain", tmp_path / "whole", steps=6, **settings)
    plan = lm_train.Plan(stage="pretrain", steps=6, eval_every=3, batch_tokens=800, seed=5, optimiser=optimiser)
    run = lm_train._Run(plan, tmp_path / "cut",
                        "cpu", None, tokenizer, lm_train._default_sampler(None), None, TINY)  # fmt: skip
    run.out.mkdir()
    for _ in range(3):
        run.advance()
    assert len(run.optimisers) == (2 if optimiser == "muon" else 1)
    resumed = lm_train.train("pretrain", tmp_path / "cut", steps=6, **settings)
    last = [json.loads((folder / "log.jsonl").read_text().splitlines()[-1]) for folder in (whole, resumed)]
    assert {k: v for k, v in last[0].items() if k != "seconds"} == {k: v for k, v in last[1].items() if k != "seconds"}


def test_tokens_that_are_not_in_a_batch_are_not_pushed_away(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = lm_tokenizer.load(checkpoint)
    plan = lm_train.Plan(stage="pretrain", steps=4, batch_tokens=800)
    run = lm_train._Run(plan, tmp_path, "cpu", None, tokenizer, lm_train._default_sampler(None), None, TINY)
    table = run.model.model.embed_tokens.weight
    before, batch = table.detach().clone(), run._batch()
    run.queue.append(batch)
    run.advance()
    moved = {i for i, change in enumerate((table.detach() - before).norm(dim=-1).tolist()) if change > 1e-4}
    said = {token for example in batch for token in example.ids} | {tokenizer.pad_token_id}
    assert moved and moved <= said and len(said) < len(table)


def test_a_folder_holds_one_kind_of_run_and_survives_a_kill_while_saving(
    checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    import torch

    with pytest.raises(UsageError, match="holds a run with stage sft, not pretrain"):
        lm_train.train("pretrain", checkpoint)
    with pytest.raises(UsageError, match="optimiser adamw, not muon"):
        lm_train.train("sft", checkpoint, optimiser="muon")
    shutil.copytree(checkpoint, tmp_path / "cut")
    plan = lm_train.Plan(**json.loads((checkpoint / "plan.json").read_text()))

    def run() -> lm_train._Run:
        found = lm_train._Run(plan, tmp_path / "cut", "cpu", None, None, lm_train._default_sampler(None), None, {})
        found.resume()
        return found

    first = run()
    first.step += 1
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(torch, "save", Mock(side_effect=[None, KeyboardInterrupt]))
        first.save()
    assert run().step == first.step - 1
    first.save()
    assert run().step == first.step and not (tmp_path / "cut" / "saving").exists()


def test_two_checkpoints_are_averaged(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(checkpoint, tmp_path / "other")
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: t + 1 for name, t in weights.items()}, other / "model.safetensors", metadata={"format": "pt"})
    mean = load_file(lm_export.average(checkpoint, other, tmp_path / "mean", 0.25) / "model.safetensors")
    for name, tensor in weights.items():
        assert mean[name].dtype == tensor.dtype
        assert (mean[name] - tensor).float().mean().item() == pytest.approx(0.25, abs=0.01)
    with pytest.raises(UsageError, match="share is 2"):
        lm_export.average(checkpoint, other, tmp_path / "x", 2)
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="shape or tokenizer"):
        lm_export.average(checkpoint, other, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_probes_can_settle_before_the_model_moves(checkpoint: Path, tmp_path: Path) -> None:
    import torch

    plan = lm_train.Plan(stage="pretrain", steps=4, batch_tokens=800, settle=2, optimiser="muon")
    run = lm_train._Run(plan, tmp_path, "cpu", checkpoint, None, lm_train._default_sampler(None), None, TINY)

    def state() -> list[torch.Tensor]:
        return [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in (run.model, run.probes)]

    first = state()
    run.advance(), run.advance()
    second = state()
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    run.advance()
    assert not torch.equal(second[0], state()[0])


def test_the_fused_blocks_are_those_of_transformers(checkpoint: Path, monkeypatch) -> None:
    """Not compiled here: the sums are what counts, on more than one block of queries."""
    import torch
    from transformers import AutoModelForCausalLM

    from course_lm import trunk

    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32)
    monkeypatch.setattr(trunk, "BLOCK", 32)
    ids = torch.randint(5, 800, (3, 80), generator=torch.Generator().manual_seed(1))

    def run(states_of) -> tuple[list, torch.Tensor]:
        model.zero_grad()
        states = states_of()
        torch.stack([s.mul(torch.sin(torch.arange(s.numel()).view_as(s))).sum() for s in states]).sum().backward()
        return [s.detach() for s in states], torch.cat([p.grad.flatten() for p in model.parameters()])

    exact, slopes = run(lambda: model.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states)
    with torch.compiler.set_stance("force_eager"):
        near, found = run(lambda: trunk.hidden_states(model, ids))
    assert len(near) == len(exact)
    for one, other in zip(near, exact, strict=True):
        assert (one - other).norm() < 0.03 * other.norm()
    assert torch.nn.functional.cosine_similarity(found, slopes, dim=0) > 0.995


def test_rare_tokens_are_moved_apart_from_what_they_share(checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32)
    table, found = model.model.embed_tokens.weight, Counter(dict.fromkeys(range(700), rare.SELDOM))
    with torch.no_grad():
        table[700:] += 3 * table.norm(dim=-1).mean() * torch.nn.functional.normalize(torch.ones(table.shape[1]), dim=0)
    common = table[:700].detach().clone()
    alike = torch.nn.functional.cosine_similarity(table[700], table[701:].detach()).mean()
    assert rare.straighten(model, found) == len(table) - 700
    assert torch.equal(table[:700], common) and alike > 0.8
    assert torch.nn.functional.cosine_similarity(table[700], table[701:].detach()).mean() < 0.3


def test_first_mistakes_are_named_by_their_kind() -> None:
    example = Example([5, 6, 7, 5, 8, 1, 2, 3, 5, 6, 7], 5, [], [], [], [])
    right = [*example.ids[1:], 0]

    def said(place: int, token: int, answerable: bool = True) -> str:
        return kind_of(example, [*right[: place - 1], token, *right[place:]], answerable)

    assert kind_of(example, right, True) == "right" and said(5, 9, False) == "missing abstention"
    assert [said(p, 9) for p in (5, 6, 7, 9)] == ["wrong abstention", "wrong source", "first words", "other"]
    assert said(9, 8) == "jump", "5 is followed by 6 here, and by 8 elsewhere"


def test_first_mistakes_of_a_checkpoint_add_up(checkpoint: Path) -> None:
    found = first_mistakes(checkpoint, 3, count=12)
    assert found.total() == 12 and found["right"] < 12
    assert first_mistakes(checkpoint, 1, count=6, of="train", said="test").total() == 6


def test_unknown_stage_and_unknown_kind_are_refused(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UsageError, match="unknown stage"):
        lm_train.train("magic", tmp_path)
    with pytest.raises(UsageError, match="unknown optimiser 'sgd'"):
        lm_train.train("sft", tmp_path, optimiser="sgd")
    with monkeypatch.context() as bare, pytest.raises(UsageError, match="C\\+\\+ compiler"):
        bare.setenv("PATH", str(tmp_path))
        lm_train.train("sft", tmp_path, fused=True)
    with pytest.raises(ModelError, match="unknown quantisation"):
        lm_export.write_gguf(checkpoint, tmp_path / "x.gguf", kind="q1")


@pytest.mark.parametrize("name", list(CHATS))
def test_server_and_transformers_see_equal_token_ids(checkpoint: Path, endpoint, name: str) -> None:
    tokenizer, chat = lm_tokenizer.load(checkpoint), CHATS[name]
    tools = [TOOL] if "tool" in name else None
    expected = tokenizer.apply_chat_template(chat, tools=tools, add_generation_prompt=True, tokenize=False)
    sent = [dict(m) for m in chat]
    for message in sent:
        for call in message.get("tool_calls", []):
            function = call["function"]
            call["function"] = {**function, "arguments": json.dumps(function["arguments"])}
    body = {"messages": sent} | ({"tools": tools} if tools else {})
    served = post(endpoint, "/apply-template", body)["prompt"]
    ids = post(endpoint, "/tokenize", {"content": served, "parse_special": True, "add_special": True})["tokens"]
    assert served == expected
    assert ids == tokenizer.encode(expected, add_special_tokens=False)


def test_server_and_transformers_agree_on_the_next_token(checkpoint: Path, endpoint) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = lm_tokenizer.load(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32)
    same = 0
    texts = [
        "Question: Who approves supplier contracts?",
        "[1] Card logs are kept",
        "The bank must",
        "Within 72 hours the",
    ]
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        got = post(endpoint, "/completion", {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 1})
        same += got["completion_probabilities"][0]["id"] == best
    assert same >= len(texts) - 1  # half precision may flip a near tie of an untrained model


def test_manifest_names_a_changed_file(tmp_path: Path) -> None:
    from course_lib.checksums import write_checksums

    (tmp_path / "a.bin").write_bytes(b"a")
    write_checksums(tmp_path)
    assert lm_export.verify(tmp_path) == []
    (tmp_path / "a.bin").write_bytes(b"b")
    assert "has changed" in lm_export.verify(tmp_path)[0]
