"""JSON from strangers: no NaN, no infinity, no repeated key, no lone surrogate, bounded depth; a mistake has a line."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

MAX_DEPTH = 40
MAX_DIGITS = 300
BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(r"\\u[dD]|[\ud800-\udfff]")  # what else has neither depth nor half of a pair need not be walked


class BadJson(ValueError):
    """Why the bytes are refused. line counts from 1 within the bytes given; 0 when it is not known."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


class _Token(ValueError):
    """A mistake that a decoder hook saw, with a pattern that finds it again in the text."""

    def __init__(self, reason: str, pattern: str, occurrence: int = 1) -> None:
        super().__init__(reason)
        self.reason, self.pattern, self.occurrence = reason, pattern, occurrence


def decode(raw: bytes) -> str:
    """UTF-8 text without byte order mark, carriage return or NUL. Raises BadJson with the line."""
    if raw.startswith(BOM):
        raise BadJson("the file begins with a byte order mark", 1)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadJson(f"byte 0x{raw[error.start]:02x} is not UTF-8", line) from error
    for character, name in (("\r", "a carriage return (Windows line ending)"), ("\0", "a NUL character")):
        position = text.find(character)
        if position >= 0:
            raise BadJson(f"the file holds {name}", text.count("\n", 0, position) + 1)
    return text


def parse_json(text: str) -> Any:
    """The value of one JSON document. Raises BadJson, and nothing else, for anything that is not strict JSON."""
    try:
        value = _DECODER.decode(text)
    except _Token as error:
        raise BadJson(error.reason, _line(text, error)) from None
    except json.JSONDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:]
        raise BadJson(f"{reason} (column {error.colno})", error.lineno) from None
    except RecursionError:
        raise BadJson(f"nested deeper than {MAX_DEPTH} levels", 1) from None
    if _SURROGATE.search(text) or text.count("[") + text.count("{") >= MAX_DEPTH:
        _walk(value)
    return value


def _constant(name: str) -> None:
    raise _Token(f"{name} is not a JSON number", re.escape(name))


def _float(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise _Token(f"the number {token[:20]} is too large", re.escape(token[:60]))
    return value


def _int(token: str) -> int:
    if len(token) > MAX_DIGITS:
        raise _Token(f"a number has {len(token)} digits", re.escape(token[:60]))
    return int(token)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Token(f"the key {twice[:60]!r} stands twice", rf'"{re.escape(twice[:60])}', 2)
    return out


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_pairs)


def _line(text: str, token: _Token) -> int:
    """Line of the token, or of the nearest thing like it; good enough to look there."""
    places = [match.start() for match in itertools.islice(re.finditer(token.pattern, text), token.occurrence)]
    return text.count("\n", 0, places[-1]) + 1 if places else 1


def _walk(value: Any) -> None:
    """Depth and characters, without recursion."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise BadJson(f"nested deeper than {MAX_DEPTH} levels", 1)
        if isinstance(item, str):
            _characters(item)
        elif isinstance(item, dict):
            for name in item:
                _characters(name)
            stack.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list):
            stack.extend((child, depth + 1) for child in item)


def _characters(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BadJson("a string holds half of a surrogate pair", 1)
