"""Items of the other tasks to tensors: weights on what a JSON value chooses, and labels inside the prompt.

The labels say at the end of each sentence whether the reply uses it, at the first word of each duty whose it is, and
what JSON values begin with: at the end of a sentence to extract from, its deadline and its action; at the end of a
prompt for one object, its last value. Duties to extract, and the tokens of their objects, know their number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from course_lm.encode import EARLY, PLACES, Example, token_at, weights
from course_lm.tasks import TaskItem, task_text
from course_lm.tokenizer import TURN_END

NEW = 15.0  # weight of the first token of a JSON value that does not stand in the prompt, so that no copy gives it
VALUE = 3  # tokens of a JSON value that choose


def encode_task(tokenizer: Any, item: TaskItem) -> Example:
    """Ids, weights and labels of one item, through the chat template."""
    text = task_text(tokenizer, item)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    prompt, offsets = list(coded["input_ids"]), coded["offset_mapping"]
    reply = tokenizer(item.reply + TURN_END, add_special_tokens=False)["input_ids"]
    made = Example(prompt + reply, len(prompt), [], [], [], [], weights=weights(prompt + reply, len(prompt)))
    if item.task in ("extract", "classify", "tools"):
        _weigh_json(tokenizer, made, ends=item.task != "extract")
    _label_sentences(made, item, text, offsets)
    if item.task == "extract":
        _label_duties(tokenizer, made, item)
    return made


def _weigh_json(tokenizer: Any, made: Example, *, ends: bool) -> None:
    """Weights on the choices of a JSON reply. ends: whether the end of the prompt knows how the last value begins."""
    prompt, reply = made.ids[: made.reply_at], made.ids[made.reply_at :]
    known, choices = set(prompt) | _quotes(tokenizer)[2], _json_choices(tokenizer, reply)
    for place, begins in choices:
        made.weights[place] = NEW if begins and reply[place] not in known else max(made.weights[place], EARLY)
    starts = [place for place, begins in choices if begins]
    if starts and ends:
        made.begins.append((len(prompt) - 1, reply[starts[-1]]))
        made.then.append((len(prompt) - 1, reply[starts[-1] + 1]))


def _label_sentences(made: Example, item: TaskItem, text: str, offsets: Any) -> None:
    """At each sentence's end, whether it is used; at the first word of a duty, the first two tokens of whose it is."""
    cursor = token = 0
    for sentence, used, duty in item.parts:
        cursor = text.index(sentence, cursor)
        if duty:
            start = cursor + sentence.index(f"{duty['actor']} {duty['action']}")
            owner = token_at(offsets, start + len("the "), token)
            word = token_at(offsets, start + len(duty["actor"]) + 1, owner)
            made.begins.append((word, made.ids[owner]))
            made.then.append((word, made.ids[owner + 1]))
        cursor += len(sentence)
        token = token_at(offsets, cursor - 1, token)
        made.answers.append((token, int(used)))


def _label_duties(tokenizer: Any, made: Example, item: TaskItem) -> None:
    """Numbers of the duties and of the reply's objects; at the end of a duty, what two of its values begin with."""
    number = 0
    for (place, _), (_, _, duty) in zip(made.answers, item.parts, strict=True):
        made.places.append((place, number if duty else PLACES - 1))
        if duty:
            number += 1
            for labels, value in ((made.begins, duty["deadline"] or "null"), (made.then, duty["action"])):
                labels.append((place, tokenizer(value, add_special_tokens=False)["input_ids"][0]))
    opens, number = tokenizer.convert_tokens_to_ids('{"'), -1
    for place, token in enumerate(made.ids[made.reply_at : -1], made.reply_at):
        number += token == opens
        if number >= 0:
            made.copied.append((place, min(number, PLACES - 1)))


def _json_choices(tokenizer: Any, reply: list[int]) -> list[tuple[int, bool]]:
    """Places in a JSON reply at which something is chosen, each with whether a value begins there: the first tokens of
    each value, and the one that ends it."""
    opens, closes, _ = _quotes(tokenizer)
    found: list[tuple[int, bool]] = []
    since = VALUE
    for place, token in enumerate(reply):
        if since < VALUE or token in closes:
            found.append((place, since == 0))
        since = 0 if token in opens else since + 1
    return found


@lru_cache(maxsize=4)
def _quotes(tokenizer: Any) -> tuple[set[int], set[int], set[int]]:
    """Tokens that open a JSON string or number after its key, those that close a string, and articles."""
    texts = {number: tokenizer.decode([number]) for number in range(len(tokenizer))}
    return ({n for n, text in texts.items() if text in ('":"', ' "', '":')},
            {n for n, text in texts.items() if text.startswith('"') and ":" not in text},
            {n for n, text in texts.items() if text.lower() == "the"})  # fmt: skip
