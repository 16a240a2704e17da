"""The budget guard: refuses a request whose worst case would pass what is left, and keeps the ledger.

It sits in the HTTP client below the SDK, so retries, streams and copies made with ``with_options`` go through it. The
worst case of a request is every byte of its JSON as one token (a byte-level tokenizer never makes more), plus all of
``max_tokens``, at registry prices. What cannot be bounded is refused while a budget is set: unknown prices, content
behind a URL, tools that run on the provider's side. Not covered: other clients in the same program, and the
asynchronous client.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from course_lib.errors import BudgetExceeded, CourseError
from course_lib.registry import Price

if TYPE_CHECKING:
    import httpx2

FREE_POSTS = ("/count_tokens",)
METERED = ("/v1/messages", "/v1/chat/completions", "/v1/completions", "/completion")
CLIENT_TOOLS = ("custom", "bash_", "text_editor_", "memory_", "computer_")
PER_REQUEST_TOKENS = 1_000  # what a provider may add by itself: the tool preamble, role marks
PER_IMAGE_TOKENS = 5_000


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used so far. Tokens include cached input. usd: dollars at registry prices.

    estimated: requests whose real usage never came (a stream that was left, a lost answer); they count at worst case.
    unpriced: requests to models without a known price; their tokens count, their dollars are missing from ``usd``.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    estimated: int = 0
    unpriced: int = 0

    def plus(self, other: Spent) -> Spent:
        pairs = ((name, getattr(self, name) + getattr(other, name)) for name in self.__slots__)
        return Spent(**dict(pairs))


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for a request under way."""

    model: str
    input_tokens: int
    output_tokens: int
    usd: float
    price: Price | None


class Ledger:
    """Counts what a client uses and holds back what its open requests may still cost. Safe for many threads."""

    def __init__(
        self, budget_usd: float | None, price_of: Callable[[str], Price | None], *, free: bool = False
    ) -> None:
        """free: the endpoint itself costs nothing, whatever the path; ``price_of`` should then say 0."""
        self.budget_usd = budget_usd
        self.free = free
        self._price_of = price_of
        self._lock = threading.Lock()
        self._open_usd = 0.0
        self._by_model: dict[str, Spent] = {}

    @property
    def total(self) -> Spent:
        with self._lock:
            return self._sum()

    @property
    def by_model(self) -> dict[str, Spent]:
        with self._lock:
            return dict(self._by_model)

    @property
    def left_usd(self) -> float | None:
        """Dollars that a new request may still cost at worst; None without a budget."""
        with self._lock:
            return None if self.budget_usd is None else self.budget_usd - self._sum().usd - self._open_usd

    def _sum(self) -> Spent:
        total = Spent()
        for spent in self._by_model.values():
            total = total.plus(spent)
        return total

    def reserve(self, body: Mapping[str, Any], size: int) -> Reservation:
        """Set the worst case of a request aside. ``size``: bytes of its JSON body. Raises BudgetExceeded."""
        model = str(body.get("model", ""))
        price = self._price_of(model)
        tokens_in = size + PER_REQUEST_TOKENS + PER_IMAGE_TOKENS * _images(body)
        tokens_out = int(body.get("max_tokens") or body.get("n_predict") or 0)
        priced = price is not None and (price.input or price.output)
        if self.budget_usd is not None:
            if price is None:
                raise _refusal(f"no price is known for {model!r}, so a budget cannot hold",
                               "add a dated price to data/models/registry.yaml, or drop budget_usd")  # fmt: skip
            if priced and (reason := _unbounded(body)):
                what = f"the cost of this request cannot be bounded: {reason}"
                raise _refusal(what, "leave it out, or drop budget_usd")
        usd = 0.0
        if price is not None:
            rate_in, rate_out = price.rates(tokens_in)
            if "cache_control" in json.dumps(body):
                scale = rate_in / price.input if price.input else 1.0  # of a long prompt, as ``_cost`` has it
                rate_in = max(rate_in, scale * (price.cache_write_1h or 2 * price.input))
            usd = (tokens_in * rate_in + tokens_out * rate_out) / 1e6
        with self._lock:
            left = None if self.budget_usd is None else self.budget_usd - self._sum().usd - self._open_usd
            if left is not None and priced and usd > left + 1e-12:
                what = f"this request may cost up to ${usd:.6f}; ${left:.6f} of ${self.budget_usd:.6f} is left"
                raise _refusal(what, "lower max_tokens, shorten the prompt, or raise budget_usd")
            self._open_usd += usd
        return Reservation(model, tokens_in, tokens_out, usd, price)

    def release(self, reservation: Reservation) -> None:
        """The request never cost anything (refused, or not connected)."""
        with self._lock:
            self._open_usd -= reservation.usd

    def settle(self, reservation: Reservation, usage: Mapping[str, Any] | None, *, complete: bool = True) -> None:
        """Book the real usage. Without it, or after a cut-off answer, book what is known and the worst of the rest."""
        unpriced = int(reservation.price is None)
        if usage is None:
            spent = Spent(1, reservation.input_tokens, reservation.output_tokens, reservation.usd, 1, unpriced)
        else:
            spent = _cost(usage, reservation.price)
            if not complete:
                tokens_out = max(spent.output_tokens, reservation.output_tokens)
                spent = replace(_cost({**usage, "output_tokens": tokens_out}, reservation.price), estimated=1)
        with self._lock:
            self._open_usd -= reservation.usd
            self._by_model[reservation.model] = self._by_model.get(reservation.model, Spent()).plus(spent)


def _cost(usage: Mapping[str, Any], price: Price | None) -> Spent:
    """Tokens and dollars of one answer's ``usage``, in the Messages form or llama.cpp's chat form."""
    fresh = int(usage.get("input_tokens") or usage.get("prompt_tokens") or 0)
    out = int(usage.get("output_tokens") or usage.get("completion_tokens") or 0)
    read = int(usage.get("cache_read_input_tokens") or 0)
    written = int(usage.get("cache_creation_input_tokens") or 0)
    tokens_in = fresh + read + written
    if price is None:
        return Spent(1, tokens_in, out, 0.0, 0, 1)
    rate_in, rate_out = price.rates(tokens_in)
    scale = rate_in / price.input if price.input else 1.0
    hour = int((usage.get("cache_creation") or {}).get("ephemeral_1h_input_tokens") or 0)
    usd = fresh * rate_in + out * rate_out
    usd += read * scale * (price.input if price.cache_read is None else price.cache_read)
    usd += hour * scale * (2 * price.input if price.cache_write_1h is None else price.cache_write_1h)
    usd += (written - hour) * scale * (2 * price.input if price.cache_write_5m is None else price.cache_write_5m)
    return Spent(1, tokens_in, out, usd / 1e6)


def json_objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every JSON object inside ``value``."""
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from json_objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from json_objects(inner)


def _images(body: Mapping[str, Any]) -> int:
    return sum(block.get("type") in ("image", "image_url") for block in json_objects(body.get("messages")))


def _unbounded(body: Mapping[str, Any]) -> str:
    """Why the cost of this request has no upper bound here; empty when it has one."""
    for name in ("fallbacks", "mcp_servers", "container", "speed", "inference_geo"):
        if body.get(name):
            return f"the field {name} changes the price or the work"
    for tool in body.get("tools") or []:
        if not str(tool.get("type") or "custom").startswith(CLIENT_TOOLS):
            return f"the tool {tool.get('name', tool.get('type'))} runs on the provider's side"
    for block in json_objects([body.get("messages"), body.get("system")]):
        if block.get("type") == "document":
            return "a document is billed by its pages"
        if isinstance(source := block.get("source"), Mapping) and source.get("type") in ("url", "file"):
            return "content behind a URL or file id has an unknown length"
    return ""


@lru_cache(maxsize=8)
def through_sdk(error: type[CourseError]) -> type[CourseError]:
    """``error`` in a form that may be raised below the SDK.

    The SDK passes its own errors on as they are; any other would look like a lost connection, after retries.
    """
    import anthropic

    return type(error.__name__, (error, anthropic.AnthropicError), {"__doc__": error.__doc__})


def _refusal(what: str, fix: str) -> CourseError:
    return through_sdk(BudgetExceeded)(what, where="the client's budget", fix=fix)


class UsageReader:
    """Collects ``usage`` from an answer as its bytes pass by: one JSON object, or server-sent events."""

    def __init__(self, events: bool) -> None:
        self.usage: dict[str, Any] = {}
        self.complete = False
        self._events = events
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        self._rest += chunk
        if self._events:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    self._take(line[5:])

    def close(self) -> dict[str, Any] | None:
        """The usage as far as it is known; None when nothing of it came."""
        if not self._events:
            self._take(self._rest)
            self.complete = bool(self.usage)
        return self.usage or None

    def _take(self, text: bytes) -> None:
        try:
            event = json.loads(text)
        except ValueError:
            self.complete = self.complete or text.strip() == b"[DONE]"
            return
        if not isinstance(event, dict):
            return
        for holder in (event, event.get("message")):
            if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                self.usage.update({k: v for k, v in holder["usage"].items() if v is not None})
        self.complete = self.complete or event.get("type") == "message_stop"


def metered(request: httpx2.Request) -> bool:
    """True for a request that generates text."""
    return request.method == "POST" and request.url.path.endswith(METERED)


def check_unmetered(ledger: Ledger, request: httpx2.Request) -> None:
    """Refuse, while a budget is set, whatever may cost money without being metered, such as a batch."""
    harmless = request.method in ("GET", "DELETE") or request.url.path.endswith(FREE_POSTS)
    if ledger.budget_usd is not None and not ledger.free and not harmless:
        fix = "use messages.create or messages.stream, or drop budget_usd"
        raise _refusal(f"what {request.url.path} costs cannot be held to a budget here", fix)
