"""One timed request: what a user waits for, in seconds, as a row that others can compute with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from course_lib.models import sampling

if TYPE_CHECKING:
    import anthropic


def timed_request(
    client: anthropic.Anthropic, model: str, prompt: str, *, system: str = "", max_tokens: int = 80
) -> dict[str, Any]:
    """Streams one greedy answer. Keys: ``ok``, ``error``, ``tokens_in``, ``tokens_out``, ``ttft_s`` (seconds to the
    first text), ``seconds`` (to the end, retries of the SDK included) and ``answer``.

    Tokens are those that the server billed. A request that fails is a row with ``ok`` false and the name of its error,
    because an evaluation that drops failures looks faster than the service is. BudgetExceeded is raised.
    """
    import anthropic

    from course_lib.errors import CourseError

    begun, first = time.perf_counter(), 0.0
    row = {"ok": False, "error": "", "tokens_in": 0, "tokens_out": 0, "answer": ""}
    try:
        with client.messages.stream(model=model, max_tokens=max_tokens, system=system or anthropic.omit,
                                    messages=[{"role": "user", "content": prompt}],
                                    **sampling(client, model)) as stream:  # fmt: skip
            for _ in stream.text_stream:
                first = first or time.perf_counter() - begun
            reply = stream.get_final_message()
    except anthropic.AnthropicError as error:
        if isinstance(error, CourseError):
            raise
        row["error"] = type(error).__name__
    else:
        text = "".join(block.text for block in reply.content if block.type == "text")
        row |= {"ok": True, "tokens_in": reply.usage.input_tokens, "tokens_out": reply.usage.output_tokens,
                "answer": text}  # fmt: skip
    seconds = time.perf_counter() - begun
    return row | {"ttft_s": round(first or seconds, 4), "seconds": round(seconds, 4)}
