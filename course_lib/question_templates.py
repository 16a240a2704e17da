"""Questions from sentences by rule: a few sentence forms whose question can be built without guessing.

A template that is tried on every sentence asks nonsense, so each form is narrow and everything else gives None.
"""

from __future__ import annotations

import re
from typing import Any

_NUMBER = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fourteen|fifteen|twenty|thirty)"
_UNIT = r"(?:millisecond|second|minute|hour|day|week|month|year)s?"
_TIME = rf"{_NUMBER} (?:further |working |business |calendar |banking )?{_UNIT}"
_SPAN = (rf"(?P<prep>within|for|after|every) (?:at least |at most |up to )?"
         rf"(?:(?<=every )(?:\w+ )?(?:day|week|month|quarter|year)s?|{_TIME})(?P<rest>[^.]*)")  # fmt: skip
_ASK = {"within": "Within what time", "for": "For how long", "after": "After what time", "every": "How often"}
_VERBS = ("keeps stores reports confirms answers reviews sends deletes approves releases holds tests gives decides "
          "receives checks finishes returns informs").split()  # fmt: skip
_PROPER = frozenset("Meridian Halden Art. Member Commission European Delegated Regulation Directive EU".split())
_PASSIVE = re.compile(rf"(?P<s>[A-Z][^,;:.]{{2,70}}?) (?P<aux>is|are|must be) (?P<tail>[a-z][^,;:.]*?) {_SPAN}\.")
_ACTIVE = re.compile(rf"(?P<s>[A-Z][^,;:.]{{2,60}}?) (?P<verb>{'|'.join(_VERBS)}) (?P<tail>[^,;:.]*?) ?{_SPAN}\.")
_MODAL = re.compile(rf"(?P<s>[A-Z][^,;:.]{{2,60}}?) (?P<aux>must|may|can) (?P<tail>(?!not )[a-z][^,;:.]*?) {_SPAN}\.")
_MONEY = re.compile(r"(?P<s>[A-Z][^,;:.]{2,60}?) (?P<aux>may|can) (?P<tail>[a-z][^,;:.]*?)(?: worth| of)? "
                    r"up to (?P<amount>EUR [\d,.]+(?: million)?)(?P<rest>[^.]*)\.")  # fmt: skip
_WHAT = re.compile(rf"(?P<s>The [^,;:.]+? of [^,;:.]+?) is (?P<rest>EUR [^;:]*|{_NUMBER} [^;:]*|\d[^;:]*)\.")
_ARTICLE = re.compile(r"(?P<law>Art\. \d+[a-z]?(?:\(\w+\))* (?:GDPR|PSD2|DORA|MiFID II|AI Act|CRR|CRD|AMLD|AMLR)) "
                      r"(?P<verb>requires|prohibits|forbids|sets|lists|limits|grants|allows|asks for) .+\.")
_BASE = {"asks for": "ask for"}
_CLAUSE = re.compile(r"\b(?:and|that|which|who|when|whether|where|because|but|or)\b")
_DUTY = re.compile(rf"(?P<actor>[A-Z][^,;:.]*?) (?P<action>must (?!not\b|also\b|then\b)[a-z]+ [^,;:.]+?)"
                   rf"(?: within (?P<deadline>{_TIME})(?: of [^,;:.]*)?)?\.")  # fmt: skip


def _low(subject: str) -> str:
    first = subject.split()[0]
    return subject if first in _PROPER or first[1:].lower() != first[1:] else subject[0].lower() + subject[1:]


def _base(verb: str) -> str:
    return _BASE.get(verb) or (verb[:-2] if verb.endswith("shes") else verb[:-1])


def question_for(sentence: str) -> str | None:
    """A question that the sentence answers, or None where no form fits."""
    if sentence.split(" ", 1)[0] in ("After", "They", "Under", "Before") or " then " in sentence:
        return None
    if match := _ARTICLE.fullmatch(sentence):
        return f"What does {match['law']} {_base(match['verb'])}?"
    if match := _WHAT.fullmatch(sentence):
        return f"What is {_low(match['s'])}?"
    if match := _MONEY.fullmatch(sentence):
        plain = not _CLAUSE.search(f"{match['s']} {match['tail']}")
        return f"Up to what amount {match['aux']} {_low(match['s'])} {match['tail']}?" if plain else None
    for form in (_PASSIVE, _MODAL, _ACTIVE):
        match = form.fullmatch(sentence)
        if match and not _CLAUSE.search(f"{match['s']} {match['tail']}"):
            return _timed(match.groupdict())
    return None


def _timed(part: dict[str, Any]) -> str:
    ask, subject = _ASK[part["prep"]], _low(part["s"])
    if verb := part.get("verb"):
        return " ".join(f"{ask} does {subject} {_base(verb)} {part['tail']}".split()) + "?"
    aux, _, be = part["aux"].partition(" ")
    return " ".join(f"{ask} {aux} {subject} {be} {part['tail']}".split()) + "?"


def duty_in(sentence: str) -> dict[str, str | None] | None:
    """{actor, action, deadline} of a sentence with one plain ``must``, in its own words; None where none fits."""
    match = _DUTY.fullmatch(sentence)
    if not match or sentence.count(" must ") != 1 or match["actor"].split()[0] in ("They", "At"):
        return None
    if _CLAUSE.search(match["actor"]):
        return None
    if re.search(_TIME, match["action"]):  # a time limit in another form than "within"
        return None
    return {"actor": match["actor"], "action": match["action"], "deadline": match["deadline"]}
