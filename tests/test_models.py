"""The model seam: who is connected to, what works through the SDK, and that every id in the course is registered."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import pytest
from fake_messages import serving
from tiny_gguf import write_tiny_gguf

import course_lib
from course_lib import models, server
from course_lib.errors import ModelError, UsageError
from course_lib.registry import Registry, registry

ROOT = Path(__file__).resolve().parent.parent
HELLO = [{"role": "user", "content": "hello"}]
SAYS = ("Hello", " there", " friend", " bye")
CALLS = ("<tool_call>\n", '{"name": "pick", ', '"arguments": {"colour": "red"}}', "\n</tool_call>")
COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
PICK = {"name": "pick", "description": "Pick a colour.", "input_schema": COLOUR}
ID = re.compile(
    r"(?:[\w-]+/)?(?:claude-[a-z0-9.-]*\d|gpt-(?:\d|oss-\d)|llama-\d|qwen[\d.]*-\d|mi[sx]tral-(?:\d|[a-z]+-\d)|gemma-\d|phi-\d"
    r"|smollm\d*-\d|deepseek-[a-z]+\d)[\w.-]*",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_gguf(folder / "says.gguf", script=SAYS)
    write_tiny_gguf(folder / "calls.gguf", script=CALLS)
    write_tiny_gguf(folder / "noise.gguf")
    return folder


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """One runtime folder for the module, so that its servers are started once; all are stopped at the end."""
    pytest.importorskip("xllamacpp", reason="the embedded server needs xllamacpp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_RUNTIME_DIR", str(folder / "run"))
        patch.setenv("COURSE_SERVER_LINGER_S", "1")
        yield patch
        server.stop()


def embedded(runtime: pytest.MonkeyPatch, folder: Path, name: str, **options: Any) -> anthropic.Anthropic:
    runtime.setenv("COURSE_LM_GGUF", str(folder / f"{name}.gguf"))
    return course_lib.connect(**options)


def ask(client: anthropic.Anthropic, **extra: Any) -> Any:
    return client.messages.create(**{"model": "course-lm-instruct", "max_tokens": 20, "messages": HELLO} | extra)


# --- through the SDK against the embedded server


def test_an_answer_has_text_usage_and_a_stop_reason(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    client = embedded(runtime, folder, "says")
    assert type(client) is anthropic.Anthropic
    message = ask(client)
    assert message.content[0].text == "Hello there friend bye" and message.stop_reason == "end_turn"
    assert message.model == "course-lm-instruct" == models.default_model(client)
    assert message.usage.output_tokens == len(SAYS) + 1  # the end mark counts
    counted = client.messages.count_tokens(model="course-lm-instruct", messages=HELLO).input_tokens  # type: ignore[arg-type]
    assert message.usage.input_tokens == counted > 10
    assert ask(client, max_tokens=2).stop_reason == "max_tokens"
    assert ask(client, max_tokens=2).content[0].text == "Hello there"
    assert [m.id for m in client.models.list()] == ["course-lm-instruct"]


def test_a_stop_sequence_ends_the_answer_before_itself(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    message = ask(embedded(runtime, folder, "says"), stop_sequences=["friend"])
    assert message.content[0].text == "Hello there " and message.stop_sequence == "friend"


def test_a_stream_brings_the_pieces_and_the_final_message(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    client = embedded(runtime, folder, "says")
    with client.messages.stream(model="x", max_tokens=20, messages=HELLO) as stream:  # type: ignore[arg-type]
        assert tuple(stream.text_stream) == SAYS
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn" and final.usage.output_tokens == len(SAYS) + 1
    kinds = [event.type for event in ask(client, stream=True)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]


def test_tool_calls_come_as_blocks_and_results_go_back(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    client = embedded(runtime, folder, "calls")
    plain = ask(client, tools=[PICK], max_tokens=40)
    with client.messages.stream(model="x", max_tokens=40, messages=HELLO, tools=[PICK]) as stream:  # type: ignore
        streamed = stream.get_final_message()
    for message in (plain, streamed):
        block = message.content[-1]
        assert message.stop_reason == block.type == "tool_use"
        assert (block.name, block.input) == ("pick", {"colour": "red"})
    call = {"type": "tool_use", "id": block.id, "name": "pick", "input": block.input}
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "noted"}
    turns = [*HELLO, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    assert ask(client, messages=turns, tools=[PICK]).usage.input_tokens > plain.usage.input_tokens


def test_a_prompt_that_does_not_fit_is_an_error_not_a_cut(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(anthropic.BadRequestError, match="exceeds the available context size"):
        ask(embedded(runtime, folder, "noise"), messages=[{"role": "user", "content": "x" * 5000}])


def test_one_and_four_clients_get_the_same_answers(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    client = embedded(runtime, folder, "noise")
    prompts = [f"{'question ' * (3 * n)} {n}" for n in range(12)]

    def probabilities(prompt: str) -> Any:
        turns = [{"role": "user", "content": prompt}]
        answer = models.constrained(client, turns, max_tokens=24, logprobs=True, top_logprobs=2)
        return answer["choices"][0]["message"]["content"], json.dumps(answer["choices"][0].get("logprobs"))

    alone = [probabilities(p) for p in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(probabilities, prompts)) == alone
        assert list(pool.map(probabilities, reversed(prompts))) == alone[::-1]
    assert len({text for text, _ in alone}) > 1


def test_greedy_is_the_default_and_a_grammar_binds(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    client = embedded(runtime, folder, "noise")
    settings = models.sampling(client, "course-lm-instruct", temperature=3.0, seed=1)
    assert ask(client).content == ask(client, **models.sampling(client, "course-lm-instruct")).content
    assert ask(client, **settings).content != ask(client).content
    assert ask(client, **settings).content == ask(client, **settings).content
    choice = models.constrained(client, HELLO, max_tokens=8, grammar='root ::= "yes" | "no"')["choices"][0]
    assert choice["message"]["content"] in ("yes", "no") and choice["finish_reason"] == "stop"
    hot = {models.constrained(client, HELLO, max_tokens=8, temperature=3.0, seed=s, top_k=0, min_p=0.0)["choices"][0]
           ["message"]["content"] for s in range(4)}  # fmt: skip
    assert len(hot) > 1
    shaped = models.constrained(client, HELLO, max_tokens=60, json_schema=COLOUR)["choices"][0]["message"]["content"]
    assert shaped.lstrip().startswith("{") or not shaped.strip()
    assert models.ledger(client).total.requests == 12 and models.ledger(client).total.usd == 0


@pytest.mark.parametrize(
    "extra",
    [
        {"extra_body": {"seed": 1}},
        {"extra_body": {"grammar": "root ::= \"yes\""}},
        {"output_config": {"format": {"type": "json_schema", "schema": COLOUR}}},
        {"tools": [PICK], "tool_choice": {"type": "none"}},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "x"}}]}]},
    ],
)
def test_what_the_embedded_server_would_ignore_is_refused(
    runtime: pytest.MonkeyPatch, folder: Path, extra: dict[str, Any]
) -> None:
    client = embedded(runtime, folder, "says")
    with pytest.raises(UsageError, match="would ignore"):
        ask(client, **extra)
    assert models.ledger(client).total.requests == 0


def test_a_client_outlives_its_server(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    client = embedded(runtime, folder, "says")
    before = ask(client)
    for endpoint in server.status():
        os.kill(endpoint.pid, signal.SIGKILL)
    assert ask(client).content == before.content
    with client.messages.stream(model="x", max_tokens=20, messages=HELLO) as stream:  # type: ignore[arg-type]
        assert "".join(stream.text_stream) == "Hello there friend bye"


def test_a_forked_child_has_its_own_connections(runtime: pytest.MonkeyPatch, folder: Path) -> None:
    code = """
import os, course_lib
client = course_lib.connect(max_retries=0)

def say(word):
    turn = {"role": "user", "content": word}
    return client.messages.create(model="x", max_tokens=20, messages=[turn]).content[0].text

expected = {word: say(word) for word in ("parent", "child")}
assert expected["parent"] != expected["child"]
pid = os.fork()
word = "parent" if pid else "child"
good = all(say(word) == expected[word] for _ in range(40))
if pid == 0:
    os._exit(not good)
raise SystemExit(os.waitpid(pid, 0)[1] or not good)
"""
    runtime.setenv("COURSE_LM_GGUF", str(folder / "noise.gguf"))
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# --- who is connected to


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "COURSE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_key_means_claude(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("ANTHROPIC_API_KEY", "sk-test")
    client = models.connect()
    assert str(client.base_url) == "https://api.anthropic.com" and client.api_key == "sk-test"
    assert models.kind_of(client) == "claude" and models.default_model(client) == registry().default_hosted
    assert models.sampling(client, registry().default_hosted) == {}
    assert models.default_model() == registry().default_hosted
    with pytest.raises(ModelError, match="not in the registry"):
        models.sampling(client, "claude-haiku-55")


def test_a_base_url_comes_before_a_key_and_needs_none(clean: pytest.MonkeyPatch) -> None:
    with serving() as fake:
        clean.setenv("ANTHROPIC_BASE_URL", fake.url)
        client = models.connect()
        assert ask(client).content[0].text == "fine"
        assert models.kind_of(client) == "compatible" and models.default_model(client) == "served-model"
        assert models.sampling(client, "served-model", seed=3) == {"extra_body": {"temperature": 0.0, "seed": 3}}
        clean.setenv("ANTHROPIC_API_KEY", "sk-test")
        ask(models.connect(), **models.sampling(client, "served-model"))
        assert fake.headers[-1]["authorization"] == "Bearer sk-test" and fake.bodies[-1]["temperature"] == 0.0
        clean.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        ask(models.connect())  # a proxy of the environment is not asked for an address on this machine


def test_arguments_come_before_the_environment(clean: pytest.MonkeyPatch, runtime: Any, folder: Path) -> None:
    clean.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    clean.setenv("ANTHROPIC_API_KEY", "sk-test")
    with serving() as fake:
        client = models.connect(base_url=fake.url, api_key="mine")
        ask(client)
        assert fake.headers[-1]["authorization"] == "Bearer mine"
    inside = embedded(runtime, folder, "says", embedded=True)
    assert models.kind_of(inside) == "embedded" and inside.api_key != "sk-test"
    assert ask(inside).content[0].text.startswith("Hello")


def test_wrong_arguments_are_refused(clean: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="switched off"):
        models.connect(embedded=False)
    with pytest.raises(UsageError, match="exclude each other"):
        models.connect(embedded=True, base_url="http://127.0.0.1:9")
    with pytest.raises(UsageError, match="zero or more"):
        models.connect(budget_usd=float("nan"))
    with pytest.raises(ModelError, match="did you mean course-lm-instruct"):
        models.connect(model="course-lm-instrukt")
    with pytest.raises(ModelError, match="is not an embedded model"):
        models.connect(model=registry().default_hosted)
    with pytest.raises(UsageError, match="keeps no ledger"):
        models.ledger(anthropic.Anthropic(api_key="x"))


def test_a_model_file_that_does_not_match_its_checksum_is_refused(
    clean: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    home = tmp_path / "data" / "models" / "course-lm"
    home.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data" / "models" / "registry.yaml").write_text((ROOT / "data/models/registry.yaml").read_text())
    clean.setenv("COURSE_ROOT", str(tmp_path))
    clean.delenv("COURSE_LM_GGUF", raising=False)
    with pytest.raises(ModelError, match="there is no model file"):
        models.gguf_path("course-lm-instruct")
    gguf = home / "instruct-f16.gguf"
    gguf.write_bytes((folder / "says.gguf").read_bytes())
    assert models.gguf_path("course-lm-instruct") == gguf.resolve()
    (home / "SHA256SUMS").write_text(f"{server.file_sha256(gguf)}  instruct-f16.gguf\n")
    assert models.gguf_path("course-lm-instruct") == gguf.resolve()
    (home / "SHA256SUMS").write_text(f"{'0' * 64}  instruct-f16.gguf\n")
    with pytest.raises(ModelError, match="does not match its checksum"):
        models.gguf_path("course-lm-instruct")


# --- the registry


def test_the_registry_is_sound_and_covers_the_sdk() -> None:
    book = registry()
    from anthropic.resources.messages.messages import DEPRECATED_MODELS
    from anthropic.types.model import Model

    listed = set(Model.__args__[0].__args__)  # type: ignore[attr-defined]
    assert listed and not [name for name in listed if name not in book]
    dated = {name: text for name, text in DEPRECATED_MODELS.items() if name in book}
    for name, text in dated.items():
        day = dt.datetime.strptime(re.sub(r"(\d)(st|nd|rd|th)", r"\1", text), "%B %d, %Y").date()
        assert book.get(name).retires == day, name
    assert not book.get(book.default_hosted).retired(book.as_of)
    assert {entry.kind for entry in book.models} == {"embedded", "hosted", "open weights"}
    for entry in book.models:
        assert entry.as_of <= book.as_of and (entry.price is None or entry.price.as_of <= book.as_of)
        assert entry.kind != "embedded" or (entry.price and entry.price.input == entry.price.output == 0)


def test_an_unknown_id_names_its_neighbours() -> None:
    with pytest.raises(ModelError, match="not in the registry") as caught:
        registry().get("claude-sonet-4-6")
    assert "claude-sonnet-4-6" in caught.value.fix
    assert registry().get("claude-haiku-4-5").id == "claude-haiku-4-5-20251001"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"context": -1}, "context"),
        ({"price": None, "notes": ""}, "needs its reason"),
        ({"price": {"input": 1, "output": 1}}, "as_of"),
        ({"kind": "embedded"}, "needs a file"),
        ({"colour": "red"}, "colour"),
        ({"max_output": 10**9}, "larger than context"),
        ({"id": "course-lm-base"}, "named twice"),
    ],
)
def test_a_malformed_entry_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    import yaml

    data = yaml.safe_load((ROOT / "data" / "models" / "registry.yaml").read_text())
    next(m for m in data["models"] if m["kind"] == "hosted").update(change)
    path = tmp_path / "registry.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ModelError, match=says):
        registry(path)


# --- the whole course


def _texts() -> Iterator[tuple[str, str]]:
    """(place, text) of everything that may name a model: code, cells and configuration; not the registry, not tests."""
    for folder in ("course_lib", "notebooks", "labs", "rubrics", "colab"):
        for path in sorted((ROOT / folder).rglob("*")):
            name = str(path.relative_to(ROOT))
            if path.suffix == ".ipynb":
                for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
                    yield f"{name} cell {number}", "".join(cell["source"])
            elif path.suffix in (".py", ".yaml", ".yml", ".toml", ".json", ".html", ".md"):
                yield name, path.read_text(encoding="utf-8")


def _named(text: str) -> set[str]:
    return {found.group().rstrip(".-") for found in ID.finditer(text)}


def _known(book: Registry) -> set[str]:
    names = {name.lower() for entry in book.models for name in (entry.id, *entry.aliases)}
    return names | {name.rpartition("/")[2] for name in names}


def test_the_scan_finds_ids() -> None:
    text = "claude-opus-9-9, gpt-4o, meta-llama/Llama-3.1-8B or Qwen3-9B. But: llama-server, llama-bpe, qwen2 and gpt2."
    assert _named(text) == {"claude-opus-9-9", "gpt-4o", "meta-llama/Llama-3.1-8B", "Qwen3-9B"}


def test_every_model_id_in_the_course_is_registered() -> None:
    known = _known(registry())
    unknown = {(place, name) for place, text in _texts() for name in _named(text) if name.lower() not in known}
    assert not unknown, f"add these to data/models/registry.yaml, or use an id from it: {sorted(unknown)}"


def test_code_and_labs_use_no_retired_model() -> None:
    book = registry()
    gone = {n for e in book.models if e.retired(book.as_of) for n in (e.id, *e.aliases)}
    places = [(place, text) for place, text in _texts() if not place.startswith("notebooks")]  # a lesson may name them
    used = {(place, name) for place, text in places for name in _named(text) & gone}
    assert not used, f"these models no longer answer: {sorted(used)}"


def test_importing_the_seam_loads_nothing_heavy() -> None:
    code = (
        "import sys, course_lib.models, course_lib.server, course_lib.serve, course_lib.budget, course_lib.transport\n"
        "heavy = ('anthropic', 'httpx2', 'xllamacpp', 'torch', 'numpy', 'yaml', 'filelock')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
