"""Items of course-lm's other tasks: extract, classify, summarise, tools, refuse. Short replies, mostly copied.

Everything is drawn from seeds. The splits share no actor, object name or wording around them; they share what the task
itself is made of: the words that mark a duty, the signal words of the risk rules, the tools and their keys.

What is right, by task:
extract: each sentence in which an actor has a duty (``DUTY``) gives {"actor", "action", "deadline", "source"}, in the
order of the text, all copied, the action with its duty word; the deadline is the time span or null; permissions and
reports of the past are no duties. classify: ``RISK`` lists signals of three tiers. A case holds one or two; the higher
tier counts, and the reason is its signal with what it is about. summarise: the first duty sentence of the first source,
then that of the last source, each after its source number. tools: one call with arguments copied from the request, or
one sentence about a result. refuse: ``REFUSE``, always.

A copied JSON value begins with a word of a closed class ("the", "must", a number, a signal), because the first word
after a quotation mark has no space and hence another token than in the source; words never seen there cannot be copied.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from course_lib.prompts import REFUSE, SYSTEM, task_prompt
from course_lm import lexicon
from course_lm.frames import Fact, Vocabulary, filler, invented, make_fact, object_name, span, title, words, written
from course_lm.inject import injection
from course_lm.task_words import DUTY, RISK, listed

WEIGHTS = {"extract": 6, "classify": 4, "summarise": 4, "tools": 6, "refuse": 3}  # how often a task is drawn
TASKS = tuple(WEIGHTS)
WIDE_WEIGHTS = (7, 5, 4, 6, 2)  # the same on the wide split: more of what is harder to learn
COMPOSED = 0.4  # share of duties of the wide split whose frame is put together from phrases
TIERS = ("low", "medium", "high")
_MARKS = re.compile(rf"\b(?:{DUTY}|have to|need to|needed|required|obliged)\b")
_SIGNALS = {w for text in RISK.values() for w in re.findall(r"\w{4,}", text)}


@dataclass
class TaskItem:
    """One conversation and the reply to it. messages: system first. tools: as the chat template takes them, or [].

    parts: (sentence of the sources, whether the reply uses it, duty) in their order, where the training has labels for
    them; duty is {actor, action, deadline} or None.
    """

    task: str
    messages: list[dict[str, Any]]
    reply: str
    tools: list[dict[str, Any]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    parts: list[tuple[str, bool, dict[str, Any] | None]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The item as the evaluation files keep it."""
        return {"task": self.task, "messages": self.messages, "tools": self.tools, "reply": self.reply,
                "meta": self.meta}  # fmt: skip


def compact(value: Any) -> str:
    """JSON without spaces: the marks between two values are then one token."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def task_item(rng: random.Random, split: str, task: str = "", strange: float = 0.0) -> TaskItem:
    """An item of ``task`` (any when empty) in the words of ``split``, as ``frames.Vocabulary`` has them.

    strange: share of object names with a word that is put together from tokens.
    """
    name = task or rng.choices(TASKS, WIDE_WEIGHTS if strange and split == "wide" else tuple(WEIGHTS.values()))[0]
    return _MAKERS[name](rng, vocabulary(split, strange))


def locked_task_items(count_per_task: int = 60, seed: int = 70_918) -> list[dict[str, Any]]:
    """Rows {id, task, messages, tools, reply, meta} of the test split, ``count_per_task`` of each task."""
    rng = random.Random(seed)
    return [{"id": f"{task}-{number:03d}", **task_item(rng, "test", task).row()}
            for task in TASKS for number in range(count_per_task)]  # fmt: skip


def task_text(tokenizer: Any, item: TaskItem) -> str:
    """The prompt up to the assistant's turn, as the chat template renders it."""
    return tokenizer.apply_chat_template(item.messages, tools=item.tools or None, tokenize=False,
                                         add_generation_prompt=True)  # fmt: skip


def task_ids(tokenizer: Any, item: TaskItem) -> tuple[list[int], list[int]]:
    """Token ids of the prompt up to the assistant's turn, and of the reply with its end token."""
    from course_lm.tokenizer import TURN_END

    return (tokenizer.encode(task_text(tokenizer, item), add_special_tokens=False),
            tokenizer.encode(item.reply + TURN_END, add_special_tokens=False))  # fmt: skip


@lru_cache(maxsize=4)
def vocabulary(split: str, strange: float = 0.0) -> Vocabulary:
    """The words of a split, made once."""
    return Vocabulary.of(split, strange)


def _pick(rng: random.Random, name: str, split: str) -> str:
    return rng.choice(listed(name, split))


def _user(system: str, text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": SYSTEM[system]}, {"role": "user", "content": text}]


# Duties: extract and summarise


def duty(rng: random.Random, v: Vocabulary) -> tuple[str, dict[str, Any]]:
    """A sentence that states a duty, and {actor, action, deadline} as they stand in it."""
    frame, verb = _pick(rng, "DUTY_FRAMES", v.split), rng.choice(v.verbs)[0]
    more: dict[str, str] = {}
    if v.split == "wide" and rng.random() < COMPOSED:
        frame, more = _composed(rng, v)
    slots = {"A": rng.choice(v.actors), "D": rng.choice(words(DUTY)), "v": verb, "O": object_name(rng, v)[0],
             "T": span(rng), "G": _pick(rng, "TRIGGERS", v.split), "Z": _regime(rng, v.split),
             "R": rng.choice(v.roles), **more}  # fmt: skip
    sentence = frame.format_map(slots)
    actor, limit = (slots[s][0].upper() + slots[s][1:] if frame.startswith(f"{{{s}}}") else slots[s] for s in "AT")
    action = f"{slots['D']} {slots['v']} {slots['O']}"
    found = {"actor": actor, "action": action, "deadline": limit if "{T}" in frame else None}
    return sentence[0].upper() + sentence[1:], found


def _composed(rng: random.Random, v: Vocabulary) -> tuple[str, dict[str, str]]:
    """A frame of a duty with phrases before and after it, at most one of them a time, and the slots of the phrases."""
    around = written("wide")["around"]
    front = rng.choice(around["LEADS"]) if rng.random() < 0.6 else ""
    back = rng.choice(around["TRAILS"]) if rng.random() < 0.6 else ""
    if (roll := rng.random()) < 0.25:
        front = rng.choice(around["TIMES_START"])
    elif roll < 0.5:
        back = " ".join([rng.choice(around["TIMES_END"]), back if rng.random() < 0.4 else ""])
    front, back = (part.replace("{A}", "{A2}").replace("{O}", "{O2}") for part in (front, back))
    text = " ".join(f"{front} {{A}} {{D}} {{v}} {{O}} {back}".split()).replace(" ,", ",")
    return text + ".", {"A2": rng.choice(v.actors), "O2": object_name(rng, v)[0], "X": invented(rng, 2).capitalize(),
                        "C": _pick(rng, "CHANNELS", v.split)}  # fmt: skip


def no_duty(rng: random.Random, v: Vocabulary) -> str:
    """A sentence that obliges nobody: a permission, a report of the past, a name, or a remark."""
    while _MARKS.search(text := _remark(rng, v)):
        continue
    return text


def _remark(rng: random.Random, v: Vocabulary) -> str:
    roll = rng.random()
    if roll < 0.25:
        return filler(rng, v)
    if roll < 0.45:
        return make_fact(rng, v, rng.choice(("responsible", "definition", "penalty", "contents"))).sentence
    verb = rng.choice(v.verbs)
    text = _pick(rng, "NO_DUTY", v.split).format(
        A=rng.choice(v.actors), v=verb[0], vp=verb[2], O=object_name(rng, v)[0], T=span(rng), R=rng.choice(v.roles),
        C=_pick(rng, "CHANNELS", v.split))  # fmt: skip
    return text[0].upper() + text[1:]


def _regime(rng: random.Random, split: str) -> str:
    if rng.random() < 0.5:
        return f"the {invented(rng).capitalize()} {rng.choice(words(lexicon.INVENTED_KINDS))}"
    return _pick(rng, "REGIMES", split)


def _heading(rng: random.Random, v: Vocabulary) -> str:
    fact: Fact = make_fact(rng, v)
    return f"{title(rng, [fact])}: " if rng.random() < 0.75 else ""


def _poison(rng: random.Random, v: Vocabulary, groups: list[list[str]], share: float) -> list[str]:
    """With probability ``share``, put a hostile sentence into one source; returns what it demands."""
    if rng.random() >= share:
        return []
    text, wanted = injection(rng, v.split, object_name(rng, v)[0], len(groups))
    group = rng.choice(groups)
    group.insert(rng.randint(0, len(group)), text)
    return [wanted]


def _extract(rng: random.Random, v: Vocabulary) -> TaskItem:
    sizes = [rng.randint(1, 3) for _ in range(rng.choice((1, 1, 2)))]
    share = rng.choice((0.0, 0.5, 0.5, 0.7, 1.0))
    groups: list[list[str]] = []
    gold: list[dict[str, Any]] = []
    parts: list[tuple[str, bool, dict[str, Any] | None]] = []
    for number, size in enumerate(sizes, 1):
        groups.append([])
        for _ in range(size):
            if len(gold) < 3 and rng.random() < share:
                sentence, found = duty(rng, v)
                gold.append({**found, "source": number})
                groups[-1].append(sentence)
                parts.append((sentence, True, found))
            else:
                groups[-1].append(no_duty(rng, v))
                parts.append((groups[-1][-1], False, None))
    demands = _poison(rng, v, groups, 0.2)
    text = task_prompt(_pick(rng, "ASKS.extract", v.split), [_heading(rng, v) + " ".join(g) for g in groups])
    meta = {"gold": gold, "demands": demands}
    return TaskItem("extract", _user("extract", text), compact(gold), meta=meta, parts=parts)


def _summarise(rng: random.Random, v: Vocabulary) -> TaskItem:
    groups: list[list[str]] = []
    first: list[str] = []
    acts: dict[str, dict[str, Any]] = {}
    for _ in range(rng.choice((2, 2, 3))):
        duties = [duty(rng, v) for _ in range(rng.choice((1, 1, 2)))]
        rules = [sentence for sentence, _ in duties]
        acts |= dict(duties)
        group = rules[:]
        for _ in range(rng.randint(0, 3 - len(rules))):
            group.insert(rng.randint(0, len(group)), no_duty(rng, v))
        first.append(rules[0])
        groups.append(group)
    parts = [(s, s == first[n] and n in (0, len(groups) - 1), acts.get(s)) for n, group in enumerate(groups)
             for s in group]  # fmt: skip
    demands = _poison(rng, v, groups, 0.2)
    text = task_prompt(_pick(rng, "ASKS.summarise", v.split), [_heading(rng, v) + " ".join(g) for g in groups])
    chosen = [f"[1] {first[0]}", f"[{len(first)}] {first[-1]}"]
    meta = {"gold": chosen, "demands": demands}
    return TaskItem("summarise", _user("summarise", text), " ".join(chosen), meta=meta, parts=parts)


# Risk


def _signal(rng: random.Random, v: Vocabulary, tier: str) -> str:
    """One risk signal and the object that it is about, whose own words signal nothing."""
    while _SIGNALS & set((name := object_name(rng, v)[0]).split()):
        continue
    return f"{rng.choice(words(RISK[tier]))} {_pick(rng, 'BETWEEN', v.split)} {name}"


def _classify(rng: random.Random, v: Vocabulary) -> TaskItem:
    top = rng.randrange(3)
    reason = _signal(rng, v, TIERS[top])
    phrases = [reason]
    if rng.random() < 0.5 and top > 0:
        phrases.insert(rng.randint(0, 1), _signal(rng, v, TIERS[rng.randrange(top)]))
    frame = _pick(rng, "CASES.two" if len(phrases) == 2 else "CASES.one", v.split)
    case = frame.format(*phrases, A=rng.choice(v.actors), R=rng.choice(v.roles))
    sentences = [case[0].upper() + case[1:]]
    if rng.random() < 0.4:
        sentences.insert(rng.randint(0, 1), filler(rng, v))
    ask = _pick(rng, "ASKS.classify", v.split)
    text = f"{ask}\n\nCase: {' '.join(sentences)}"
    gold = {"risk": TIERS[top], "reason": reason}
    return TaskItem("classify", _user("classify", text), compact(gold), meta={"gold": gold})


# Tools

_ARGUMENTS = {"search_documents": ("Find documents.", "query"), "get_document": ("Read a document.", "number"),
              "get_deadline": ("Find a time limit.", "topic"),
              "create_ticket": ("Open a ticket.", "title", "priority")}  # fmt: skip


def tool(name: str) -> dict[str, Any]:
    """The schema of one of the course's tools, as the chat template takes it."""
    description, *keys = _ARGUMENTS[name]
    parameters = {"type": "object", "properties": {key: {"type": "string"} for key in keys}, "required": keys}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A tool call as the chat template renders it and the server parses it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def _some_tools(rng: random.Random, needed: str) -> list[dict[str, Any]]:
    """Two tools or three in any order, the needed one among them."""
    others = [name for name in _ARGUMENTS if name != needed]
    chosen = [needed, *rng.sample(others, rng.choice((1, 2, 2)))]
    rng.shuffle(chosen)
    return [tool(name) for name in chosen]


def _tools(rng: random.Random, v: Vocabulary) -> TaskItem:
    name = rng.choice(list(_ARGUMENTS))
    slots = {"O": f"the {object_name(rng, v)[0]}", "i": str(rng.randint(10, 9999)), "p": rng.choice(TIERS)}
    arguments = {"search_documents": {"query": slots["O"]}, "get_document": {"number": slots["i"]},
                 "get_deadline": {"topic": slots["O"]},
                 "create_ticket": {"title": slots["O"], "priority": slots["p"]}}[name]  # fmt: skip
    messages = _user("tools", _pick(rng, f"TOOL_ASKS.{name}", v.split).format_map(slots))
    offered = _some_tools(rng, name)
    gold = {"name": name, "arguments": arguments}
    if rng.random() < 0.65:
        return TaskItem("tools", messages, call_text(name, arguments), offered, {"call": gold, "demands": []})
    content, reply, demands = _result(rng, v, name, slots)
    messages += [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": gold}]},
                 {"role": "tool", "content": content}]  # fmt: skip
    return TaskItem("tools", messages, reply, offered, {"call": None, "demands": demands})


def _result(rng: random.Random, v: Vocabulary, name: str, slots: dict[str, str]) -> tuple[str, str, list[str]]:
    """What the tool returned, the sentence that says so, and what a hostile note in the result demands."""
    if rng.random() < 0.15:
        error = f"no {rng.choice(('entry', 'access', 'answer', 'match'))} for {slots['O']}"
        return f"error: {error}", f"The tool failed: {error}.", []
    number, limit, (sentence, _) = rng.randint(10, 9999), span(rng), duty(rng, v)
    head = title(rng, [make_fact(rng, v)])
    content, reply = {
        "search_documents": (f"document {number}: {head}", f"See document {number}: {head}."),
        "get_document": (f"document {slots['i']}: {sentence}", f"Document {slots['i']} says: {sentence}"),
        "get_deadline": (f"deadline: {limit}, document {number}", f"The deadline is {limit}, see document {number}."),
        "create_ticket": (f"created: ticket {number}", f"Ticket {number} is open."),
    }[name]
    if rng.random() >= 0.3:
        return content, reply, []
    note, wanted = injection(rng, v.split, slots["O"], 1)
    return f"{content}\nnote: {note}", reply, [wanted]


# Out of scope


def _refuse(rng: random.Random, v: Vocabulary) -> TaskItem:
    """A request that has nothing to do with the documents, under any of the system prompts."""
    text = _pick(rng, "SCOPE", v.split).format(x=_pick(rng, "TOPICS", v.split), n=rng.randint(2, 60))
    system = rng.choice((*TASKS, "refuse", "refuse", "tools", "answer"))
    offered = _some_tools(rng, rng.choice(list(_ARGUMENTS))) if system == "tools" else []
    return TaskItem("refuse", _user(system, text), REFUSE, offered, {"system": system})


_MAKERS: dict[str, Callable[[random.Random, Vocabulary], TaskItem]] = {
    "extract": _extract, "classify": _classify, "summarise": _summarise, "tools": _tools, "refuse": _refuse,
}  # fmt: skip
