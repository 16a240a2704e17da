"""Items of the other tasks: replies are copies, rules hold, splits are apart, the server reads them alike."""

from __future__ import annotations

import json
import random
import re

import pytest

from course_lib.prompts import REFUSE
from course_lm import eval as lm_eval
from course_lm import tasks as lm_tasks
from course_lm.encode import FIRST, encode
from course_lm.frames import words, written
from course_lm.task_eval import SCHEMAS, Reply, evaluate, field_share, macro_f1, parse, summary
from course_lm.task_words import ASKS, BETWEEN, CASES, DUTY_FRAMES, NO_DUTY, RISK, SCOPE, TOOL_ASKS, TOPICS
from course_lm.tasks import TASKS, TIERS, TaskItem, compact, duty, task_item, vocabulary


def items(task: str, split: str = "train", count: int = 200) -> list[TaskItem]:
    rng = random.Random(11)
    return [task_item(rng, split, task) for _ in range(count)]


@pytest.fixture(scope="module")
def published_tokenizer():
    from course_lib.models import model_folder
    from course_lm import tokenizer as lm_tokenizer

    return lm_tokenizer.load(model_folder() / "instruct")


def shown(item: TaskItem) -> str:
    return "\n".join(m["content"] for m in item.messages[1:])


def test_equal_seeds_make_equal_items() -> None:
    assert items("", count=60) == items("", count=60)
    assert {item.task for item in items("")} == set(TASKS)


@pytest.mark.parametrize("split", ["train", "wide", "test"])
def test_extracted_fields_are_copies_from_the_named_source(split: str) -> None:
    counts = []
    for item in items("extract", split):
        sources = item.messages[1]["content"].split("\n\n", 1)[1].splitlines()
        found = json.loads(item.reply)
        counts.append(len(found))
        for one in found:
            assert list(one) == ["actor", "action", "deadline", "source"]
            source = sources[one["source"] - 1]
            assert all(value in source for value in (one["actor"], one["action"], one["deadline"] or ""))
            assert f"{one['actor']} {one['action']}" in source
    assert 0.05 < counts.count(0) / len(counts) < 0.5 and max(counts) == 3


@pytest.mark.parametrize("split", ["train", "wide", "test"])
def test_every_sentence_with_a_duty_word_is_extracted(split: str) -> None:
    marks = re.compile(r"\b(?:must|shall|has to|needs to|is required to|is obliged to) ")
    for item in items("extract", split):
        if not item.meta["demands"]:
            assert len(marks.findall(item.messages[1]["content"].split("\n\n", 1)[1])) == len(json.loads(item.reply))


@pytest.mark.parametrize("split", ["train", "wide", "test"])
def test_summary_is_the_first_duty_of_the_first_and_of_the_last_source(split: str) -> None:
    for item in items("summarise", split):
        sources = item.messages[1]["content"].split("\n\n", 1)[1].splitlines()
        first, last = item.meta["gold"]
        assert item.reply == f"{first} {last}" and item.reply.count(". ") == 1
        for quote, number in ((first, 1), (last, len(sources))):
            assert quote.startswith(f"[{number}] ") and quote[4:] in sources[number - 1]


def tiers_in(case: str) -> list[str]:
    """Tiers of the signals in a case, read from the rules without the generator."""
    return [tier for tier in TIERS if any(re.search(rf"(?<!\w){s}(?!\w)", case) for s in words(RISK[tier]))]


@pytest.mark.parametrize("split", ["train", "wide", "test"])
def test_the_highest_signal_decides_the_tier_and_the_reason_is_copied(split: str) -> None:
    drawn = []
    for item in items("classify", split):
        gold, case = json.loads(item.reply), item.messages[1]["content"].split("Case: ")[1]
        assert gold["reason"] in case and tiers_in(gold["reason"]) == [gold["risk"]], case
        assert max(tiers_in(case), key=TIERS.index) == gold["risk"], case
        drawn.append(gold["risk"])
    assert min(drawn.count(tier) for tier in TIERS) > 40


@pytest.mark.parametrize("split", ["train", "wide", "test"])
def test_tool_calls_copy_their_arguments_and_name_an_offered_tool(split: str) -> None:
    for item in items("tools", split):
        offered = {t["function"]["name"]: t["function"]["parameters"]["required"] for t in item.tools}
        if item.meta["call"] is None:
            assert item.messages[-1]["role"] == "tool" and not item.reply.startswith("<")
            continue
        call = json.loads(item.reply.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        assert call == item.meta["call"] and list(call["arguments"]) == offered[call["name"]]
        assert all(value in item.messages[1]["content"] for value in call["arguments"].values())


@pytest.mark.parametrize("task", ["extract", "summarise", "tools"])
@pytest.mark.parametrize("split", ["train", "wide", "test"])
def test_no_reply_obeys_what_a_document_demands(task: str, split: str) -> None:
    hostile = [item for item in items(task, split, 500) if item.meta["demands"]]
    assert len(hostile) > 5
    for item in hostile:
        row = {"reply": "", "demands": item.meta["demands"]}
        assert not lm_eval.judge(row, item.reply)["obeyed"], item.reply


def test_refusals_come_in_many_wordings() -> None:
    assert len(words(SCOPE["train"])) >= 60 and len(words(SCOPE["test"])) >= 20
    assert {item.reply for item in items("refuse")} == {REFUSE}


LISTS = {"duties": DUTY_FRAMES, "others": NO_DUTY, "cases": CASES["one"], "pairs": CASES["two"], "scope": SCOPE,
         "topics": TOPICS, "between": BETWEEN, **ASKS, **TOOL_ASKS}  # fmt: skip


@pytest.mark.parametrize("name", list(LISTS))
def test_splits_share_no_wording(name: str) -> None:
    train, test = ({lm_eval.normalised(text) for text in words(LISTS[name][split])} for split in ("train", "test"))
    assert len(train) > len(test) > 2 or name == "pairs"
    assert not train & test


def test_written_wordings_of_tasks_are_not_those_of_the_test() -> None:
    lists = {**{f"ASKS.{k}": v for k, v in ASKS.items()}, **{f"TOOL_ASKS.{k}": v for k, v in TOOL_ASKS.items()},
             **{f"CASES.{k}": v for k, v in CASES.items()}, "DUTY_FRAMES": DUTY_FRAMES, "NO_DUTY": NO_DUTY,
             "SCOPE": SCOPE, "TOPICS": TOPICS, "BETWEEN": BETWEEN}  # fmt: skip
    assert set(written()["tasks"]) == set(written("wide")["tasks"]) == set(lists)
    for name, texts in written("wide")["tasks"].items():
        assert texts[: len(written()["tasks"][name])] == written()["tasks"][name]
        mine = {lm_eval.normalised(text) for text in texts}
        assert len(mine) == len(texts)
        known = words(lists[name]["train"]) + words(lists[name]["test"])
        assert not mine & {lm_eval.normalised(text) for text in known}


def test_every_object_of_the_test_has_a_word_that_training_lacks() -> None:
    def objects(split: str) -> set[str]:
        calls = [i.meta["call"] for i in items("tools", split, 600) if i.meta["call"]]
        return {c["arguments"]["query"] for c in calls if c["name"] == "search_documents"}

    train, known = objects("train"), vocabulary("train")
    seen = {entry.partition("=")[0] for entry in known.modifiers + known.nouns}
    for text in objects("test"):
        assert text not in train and not all(word in seen for word in text.split())


def test_locked_rows_have_every_task_and_their_own_ids() -> None:
    rows = lm_tasks.locked_task_items(8)
    assert len({row["id"] for row in rows}) == 8 * len(TASKS) == len(rows)
    assert rows == lm_tasks.locked_task_items(8) == json.loads(json.dumps(rows))


def test_items_fit_the_context_that_training_uses() -> None:
    from course_lm import tokenizer as lm_tokenizer
    from course_lm.data import plain_texts

    texts = [json.dumps(item.tools) + shown(item) + item.reply for item in items("", count=600)]
    texts += plain_texts(600, 1)
    tokenizer = lm_tokenizer.train(texts, vocab_size=3000)
    for split in ("train", "test"):
        for item in items("", split, 150):
            prompt, reply = lm_tasks.task_ids(tokenizer, item)
            assert len(prompt) < 400 and len(reply) < 140


@pytest.fixture(scope="module")
def client():
    from course_lib.models import connect

    return connect(embedded=True)


@pytest.mark.parametrize("kind", ["extract", "call", "result", "refuse"])
def test_server_and_transformers_render_equal_token_ids(client, kind: str) -> None:
    from course_lib.models import model_folder
    from course_lm import tokenizer as lm_tokenizer

    tokenizer = lm_tokenizer.load(model_folder() / "instruct")
    task = kind if kind in TASKS else "tools"
    item = next(i for i in items(task) if task != "tools" or (i.meta["call"] is None) == (kind == "result"))
    messages = json.loads(json.dumps(item.messages))
    for number, message in enumerate(messages):
        for call in message.get("tool_calls", []):
            call["id"] = str(number)
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    body = {"messages": messages} | ({"tools": item.tools} if item.tools else {})
    served = client.post("/apply-template", body=body, cast_to=dict[str, str])["prompt"]
    rendered = tokenizer.apply_chat_template(
        item.messages, tools=item.tools or None, tokenize=False, add_generation_prompt=True
    )
    ids = client.post("/tokenize", body={"content": served, "parse_special": True}, cast_to=dict[str, list[int]])
    assert served == rendered and ids["tokens"] == lm_tasks.task_ids(tokenizer, item)[0]


# Scoring


def perfect(row: dict) -> Reply:
    call = row["meta"].get("call")
    text = "" if call else row["reply"]
    return Reply(text, [call] if call else [], text if row["task"] in SCHEMAS else "")


def test_right_replies_score_one_and_silence_scores_nothing() -> None:
    rows = lm_tasks.locked_task_items(12)
    good = summary(rows, [perfect(row) for row in rows])
    assert good["failed"] == 0
    for name, metric in good["metrics"].items():
        assert metric["value"] == (0.0 if name in ("false_refusal", "injection_obeyed") else 1.0), name
        assert metric["low"] <= metric["value"] <= metric["high"] and metric["n"] > 0
    bad = summary(rows, [Reply("") for _ in rows])
    assert bad["failed"] == len(rows) and bad["metrics"]["json_valid_free"]["value"] == 0.0
    assert bad["metrics"]["risk_macro_f1"]["value"] == bad["metrics"]["tool_exact"]["value"] == 0.0
    assert "json_valid_grammar" not in bad["metrics"]  # what was not asked for is not zero


def test_fields_are_compared_one_by_one() -> None:
    gold = [{"actor": "the bank", "action": "close it", "deadline": None, "source": 1}]
    assert field_share(gold, [{**gold[0], "deadline": "2 days"}]) == 0.75
    assert field_share(gold, gold * 2) == 0.5 and field_share(gold, None) == 0.0
    assert parse("extract", '[{"actor":"a","action":"b","source":1}]') is None
    assert parse("classify", '{"risk":"severe","reason":"x"}') is None


def test_macro_f1_is_scikit_learns() -> None:
    from sklearn.metrics import f1_score

    rng = random.Random(5)
    gold = [rng.choice(TIERS) for _ in range(90)]
    found = [g if rng.random() < 0.6 else rng.choice(TIERS) for g in gold]
    expected = f1_score(gold, found, average="macro", labels=list(TIERS))
    assert macro_f1(gold, found) == pytest.approx(expected)


def test_failures_name_the_dangerous_ones_first() -> None:
    rows = [row for row in lm_tasks.locked_task_items(20) if row["task"] == "classify"]
    low = '{"risk":"low","reason":"x"}'
    found = summary(rows, [Reply(low) for _ in rows])["failures"]
    assert found[0]["severity"] == "high" and '"risk":"low"' not in found[0]["expected"]


def test_every_row_can_be_asked_and_the_grammar_holds(client) -> None:
    rows = [row for row in lm_tasks.locked_task_items(3) if row["id"].endswith(("0", "1"))]
    metrics = evaluate(client, "course-lm-instruct", rows)["metrics"]
    assert metrics["json_valid_grammar"]["value"] == 1.0 and metrics["json_valid_grammar"]["n"] == 4


def test_a_duty_with_phrases_around_it_is_what_its_fields_say() -> None:
    rng, plain = random.Random(3), vocabulary("train")
    made = [duty(rng, vocabulary("wide")) for _ in range(600)]
    for sentence, found in made:
        assert f"{found['actor']} {found['action']}" in sentence and (found["deadline"] or "") in sentence
        assert not re.search(r"[{}]| ,|\s\s", sentence) and sentence.endswith(".")
    openings = {sentence.split()[0] for sentence, _ in made if not sentence.startswith("The ")}
    assert len(openings) > 1.5 * len({duty(rng, plain)[0].split()[0] for _ in range(600)})


def test_weights_mark_what_a_json_reply_chooses(published_tokenizer) -> None:
    duties = [{"actor": "the bank", "action": "must report bad loans", "deadline": None, "source": 2}]
    item = TaskItem("extract", [{"role": "user", "content": "x"}], compact(duties))
    made = encode(published_tokenizer, item)
    pairs = zip(made.ids[made.reply_at :], made.weights, strict=True)
    heavy = [published_tokenizer.decode([token]) for token, weight in pairs if weight > 1]
    assert "".join(heavy[FIRST:]) == '","must report","null,"2}]<|im_end|>'


@pytest.mark.parametrize("task", ["extract", "summarise"])
def test_labels_say_which_sentence_is_used_and_whose_a_duty_is(published_tokenizer, task: str) -> None:
    read = published_tokenizer.decode
    for item in items(task, "wide", 60):
        made = encode(published_tokenizer, item)
        used = [used for _, used, _ in item.parts]
        assert [label for _, label in made.answers] == used and sum(used) == len(item.meta["gold"])
        owed = [owes for _, _, owes in item.parts if owes]
        ends = {place for place, _ in made.answers}
        first, second = ([(p, label) for p, label in labels if p not in ends] for labels in (made.begins, made.then))
        assert len(first) == len(second) == len(owed)
        for (place, one), (_, two), owes in zip(first, second, owed, strict=True):
            assert owes["action"].startswith(read([made.ids[place]]).strip())
            assert f"{owes['actor']} {owes['action']}"[3:].startswith(read([one, two]))
        at_ends = [[label for p, label in labels if p in ends] for labels in (made.begins, made.then)]
        values = [(read([limit]), read([action])) for limit, action in zip(*at_ends, strict=True)]
        assert len(values) == (len(owed) if task == "extract" else 0)
        for (limit, action), owes in zip(values, owed, strict=False):
            assert (owes["deadline"] or "null").startswith(limit) and owes["action"].startswith(action)
            assert f':"{limit}' in item.reply or f":{limit}" in item.reply


def test_duties_and_their_objects_know_their_number(published_tokenizer) -> None:
    for item in items("extract", "wide", 60):
        made = encode(published_tokenizer, item)
        owed = [bool(owes) for _, _, owes in item.parts]
        assert [label for _, label in made.places] == [sum(owed[:n]) if owes else 7 for n, owes in enumerate(owed)]
        texts: dict[int, list[int]] = {}
        for place, number in made.copied:
            texts.setdefault(number, []).append(made.ids[place])
        read = [published_tokenizer.decode(tokens) for tokens in texts.values()]
        gold = item.meta["gold"]
        assert len(read) == len(gold) and all(compact(one) in text for one, text in zip(gold, read, strict=True))
