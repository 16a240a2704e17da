"""A timed request is a row whatever happens: the first text, the end, the server's tokens, and failures by name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anthropic
import pytest

from course_lib.budget import through_sdk
from course_lib.errors import BudgetExceeded
from course_lib.latency import timed_request


class Stream:
    """As much of the SDK's stream as is used: two pieces of text, each after a while."""

    def __init__(self, wait_s: float, error: Exception | None = None) -> None:
        self.wait_s, self.error = wait_s, error

    def __enter__(self) -> Stream:
        if self.error:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @property
    def text_stream(self) -> Iterator[str]:
        for piece in ("[1] ", "yes."):
            time.sleep(self.wait_s)
            yield piece

    def get_final_message(self) -> Any:
        block = SimpleNamespace(type="text", text="[1] yes.")
        return SimpleNamespace(content=[block], usage=SimpleNamespace(input_tokens=41, output_tokens=7))


def client(stream: Stream, seen: list[dict[str, Any]] | None = None) -> Any:
    def make(**given: Any) -> Stream:
        (seen if seen is not None else []).append(given)
        return stream

    inner = SimpleNamespace(endpoint=object())  # the course's own server
    return SimpleNamespace(_client=inner, messages=SimpleNamespace(stream=make))


def test_the_first_text_comes_before_the_end_and_tokens_are_the_server_s() -> None:
    seen: list[dict[str, Any]] = []
    row = timed_request(client(Stream(0.05), seen), "m", "Is it?", system="Quote.", max_tokens=9)
    assert row | {"ttft_s": 0, "seconds": 0} == {"ok": True, "error": "", "tokens_in": 41, "tokens_out": 7,
                                                 "answer": "[1] yes.", "ttft_s": 0, "seconds": 0}  # fmt: skip
    assert 0.05 <= row["ttft_s"] <= row["seconds"] - 0.04
    assert (seen[0]["model"], seen[0]["max_tokens"], seen[0]["system"]) == ("m", 9, "Quote.")
    assert seen[0]["extra_body"]["temperature"] == 0


def test_a_failure_is_a_row_with_its_name() -> None:
    error = anthropic.APIConnectionError(request=None)  # type: ignore[arg-type]
    row = timed_request(client(Stream(0, error)), "m", "Is it?")
    assert (row["ok"], row["error"], row["tokens_in"], row["answer"]) == (False, "APIConnectionError", 0, "")


def test_an_exhausted_budget_is_no_measurement() -> None:
    with pytest.raises(BudgetExceeded):
        timed_request(client(Stream(0, through_sdk(BudgetExceeded)("no money is left"))), "m", "Is it?")
