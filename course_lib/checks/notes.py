"""Prose artifacts: which sections a markdown file has and which numbers it states, never what it asks for."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$|^\s*(?:\*\*|__)([^*_]{2,60}?)(?:\*\*|__):?\s*$")
MAX_HEADING = 300
_FENCE = re.compile(r"^\s*(```|~~~)")
_NUMBER = re.compile(r"(?<![\w.])\d[\d,_\u202f\u00a0]*(?:\.\d+)?(?:[eE]-?\d{1,2})?")


def sections(text: str) -> dict[str, str]:
    """Heading in lower case -> the text below it, up to the next heading of any level; code fences hold no headings."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    fenced = False
    for line in text.split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
        match = None if fenced or len(line) > MAX_HEADING else _HEADING.match(line)
        if match:
            current = found.setdefault((match[1] or match[2]).lower(), [])
        else:
            current.append(line)
    return {heading: "\n".join(lines) for heading, lines in found.items()}


def missing_sections(text: str, wanted: dict[str, tuple[str, ...]], least_words: int) -> list[str]:
    """Names of the parts without a heading that holds one of their words, or with fewer words below it than needed.

    wanted: name of the part -> words, in lower case, of which one must stand in its heading.
    """
    parts = sections(text)
    problems = []
    for name, words in wanted.items():
        bodies = [body for heading, body in parts.items() if any(word in heading for word in words)]
        if not bodies:
            problems.append(f"no section on {name}")
        elif max(len(set(body.split())) for body in bodies) < least_words:
            problems.append(f"fewer than {least_words} different words on {name}")
    return problems


def numbers(text: str) -> list[str]:
    """The numbers of a text as written, without thousands separators."""
    return [re.sub(r"[,_\u202f\u00a0]", "", token).rstrip(".") for token in _NUMBER.findall(text)]


def states(text: str, value: float) -> bool:
    """Whether the text states ``value``, rounded as the author liked: 1234.5 may stand as 1,234.5 or 1235, not 1200."""
    for token in numbers(text):
        mantissa, _, exponent = token.lower().partition("e")
        decimals = len(mantissa.partition(".")[2])
        half = 0.5 * 10.0 ** (int(exponent or 0) - decimals)
        if abs(float(token) - value) <= half * 1.0001 and (float(token) or abs(value) < 0.005):
            return True
    return False
