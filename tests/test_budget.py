"""The budget guard against a fake endpoint: nothing is sent that could pass the limit, and what was used is booked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import anthropic
import pytest
from fake_messages import Fake, serving
from hypothesis import given
from hypothesis import strategies as st

from course_lib import models
from course_lib.budget import Ledger, Spent, UsageReader
from course_lib.errors import BudgetExceeded
from course_lib.registry import LongPrompt, Price

DAY = dt.date(2026, 11, 20)
PRICED = "claude-sonnet-4-6"  # 3 and 15 dollars per million tokens; no cache rates
COST = (100 * 3 + 50 * 15) / 1e6  # of one answer of the fake endpoint
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as endpoint:
        yield endpoint


def ask(client: anthropic.Anthropic, **extra: Any) -> anthropic.types.Message:
    return client.messages.create(**{"model": PRICED, "max_tokens": 100, "messages": HELLO} | extra)


def test_a_request_within_the_budget_is_sent_and_booked_at_its_real_usage(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.10)
    assert type(client) is anthropic.Anthropic
    ask(client)
    spent = models.ledger(client).total
    assert (spent.requests, spent.input_tokens, spent.output_tokens) == (1, 100, 50)
    assert spent.usd == pytest.approx(COST)
    assert models.ledger(client).left_usd == pytest.approx(0.10 - COST)
    assert list(models.ledger(client).by_model) == [PRICED]


def test_a_request_that_could_pass_the_budget_is_not_sent(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.10)
    with pytest.raises(BudgetExceeded, match="may cost up to") as caught:
        ask(client, max_tokens=50_000)
    assert caught.value.fix and fake.bodies == []
    assert models.ledger(client).total == Spent() and models.ledger(client).left_usd == 0.10
    ask(client)  # a smaller one still goes


def test_the_run_stops_at_the_budget_and_never_passes_it(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.02)
    with pytest.raises(BudgetExceeded):
        for _ in range(1000):
            ask(client)
    assert 0 < len(fake.bodies) < 20
    assert models.ledger(client).total.usd == pytest.approx(len(fake.bodies) * COST)
    assert models.ledger(client).total.usd <= 0.02


def test_copies_of_a_client_share_its_budget(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.10)
    copy = client.with_options(timeout=5, max_retries=0)
    ask(copy)
    assert models.ledger(copy) is models.ledger(client)
    assert models.ledger(client).total.requests == 1


@pytest.mark.parametrize("way", ["create", "stream"])
def test_a_stream_is_booked_when_it_ends(fake: Fake, way: str) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.10)
    if way == "create":
        assert [e.type for e in ask(client, stream=True)][-1] == "message_stop"  # type: ignore[attr-defined]
    else:
        with client.messages.stream(model=PRICED, max_tokens=100, messages=HELLO) as stream:  # type: ignore[arg-type]
            assert list(stream.text_stream) == ["fine"]
            assert stream.get_final_message().usage.output_tokens == 50
    assert models.ledger(client).total == Spent(1, 100, 50, pytest.approx(COST), 0, 0)


def test_a_stream_that_was_left_or_cut_counts_at_its_worst(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.10, max_retries=0)
    fake.drip_s = 0.2
    stream = ask(client, stream=True)
    next(iter(stream))  # type: ignore[call-overload]
    stream.close()  # type: ignore[attr-defined]
    assert models.ledger(client).total == Spent(1, 100, 100, pytest.approx((300 + 1500) / 1e6), 1, 0)
    fake.cut, fake.drip_s = True, 0.0
    for _ in ask(client, stream=True):  # type: ignore[attr-defined]
        pass
    spent = models.ledger(client).total
    assert spent.estimated == 2 and spent.output_tokens == 200
    assert models.ledger(client).left_usd == pytest.approx(0.10 - spent.usd)


def test_an_open_stream_holds_its_worst_case_back(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.01)
    stream = ask(client, stream=True, max_tokens=400)
    with pytest.raises(BudgetExceeded):
        ask(client, max_tokens=400)
    for _ in stream:  # type: ignore[attr-defined]
        pass
    ask(client, max_tokens=200)


def test_refused_and_failed_requests_cost_nothing_and_retries_are_booked_once(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.10, max_retries=2)
    fake.fail = [529, 500]
    ask(client)
    assert len(fake.bodies) == 3
    assert models.ledger(client).total.requests == 1 and models.ledger(client).total.usd == pytest.approx(COST)
    fake.fail = [400]
    with pytest.raises(anthropic.BadRequestError):
        ask(client)
    assert models.ledger(client).total.requests == 1
    assert models.ledger(client).left_usd == pytest.approx(0.10 - COST)


def test_a_lost_answer_counts_at_its_worst_and_no_connection_counts_nothing(fake: Fake) -> None:
    fake.hold_s = 1.0
    client = models.connect(base_url=fake.url, budget_usd=0.10, max_retries=0, timeout=0.2)
    with pytest.raises(anthropic.APITimeoutError):
        ask(client)
    assert models.ledger(client).total.estimated == 1 and models.ledger(client).total.usd > COST
    nobody = models.connect(base_url="http://127.0.0.1:9", budget_usd=0.10, max_retries=0)
    with pytest.raises(anthropic.APIConnectionError):
        ask(nobody)
    assert models.ledger(nobody).left_usd == 0.10


def test_many_threads_together_do_not_pass_the_budget(fake: Fake) -> None:
    fake.hold_s = 0.02
    client = models.connect(base_url=fake.url, budget_usd=0.03)

    def one(_: int) -> bool:
        try:
            ask(client)
        except BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        sent = sum(pool.map(one, range(60)))
    assert sent == len(fake.bodies) == models.ledger(client).total.requests
    assert 0 < models.ledger(client).total.usd <= 0.03
    assert models.ledger(client).left_usd == pytest.approx(0.03 - models.ledger(client).total.usd)


def test_an_unknown_price_is_refused_with_a_budget_and_counted_without(fake: Fake) -> None:
    with pytest.raises(BudgetExceeded, match="no price is known for 'somebodys-model'"):
        ask(models.connect(base_url=fake.url, budget_usd=5), model="somebodys-model")
    assert fake.bodies == []
    client = models.connect(base_url=fake.url)
    ask(client, model="somebodys-model")
    assert models.ledger(client).total == Spent(1, 100, 50, 0.0, 0, 1)
    assert models.ledger(client).left_usd is None


def test_open_weights_on_this_machine_cost_nothing_but_are_counted(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=0.0)
    ask(client, model="Qwen/Qwen3-0.6B", max_tokens=10_000)
    assert models.ledger(client).total == Spent(1, 100, 50, 0.0, 0, 0)


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "x"}}]}]},
        {"extra_body": {"speed": "fast"}},
    ],
)
def test_what_cannot_be_bounded_is_refused(fake: Fake, extra: dict[str, Any]) -> None:
    with pytest.raises(BudgetExceeded, match="cannot be bounded"):
        ask(models.connect(base_url=fake.url, budget_usd=5), **extra)
    assert fake.bodies == []


def test_paths_that_are_not_metered_are_refused_and_counting_is_free(fake: Fake) -> None:
    client = models.connect(base_url=fake.url, budget_usd=5)
    assert client.messages.count_tokens(model=PRICED, messages=HELLO).input_tokens == 100  # type: ignore[arg-type]
    assert models.ledger(client).total == Spent()
    with pytest.raises(BudgetExceeded, match="batches"):
        client.messages.batches.create(requests=[])


def test_cached_input_is_priced_by_kind() -> None:
    rates = {"cache_read": 0.3, "cache_write_5m": 3.75, "cache_write_1h": 6.0}
    price = Price(input=3, output=15, **rates, as_of=DAY, source="test")
    usage = {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 1000,
             "cache_creation_input_tokens": 300, "cache_creation": {"ephemeral_1h_input_tokens": 100}}  # fmt: skip
    book = Ledger(1.0, lambda model: price)
    book.settle(book.reserve({"model": "m", "max_tokens": 20}, 2000), usage)
    want = (10 * 3 + 20 * 15 + 1000 * 0.3 + 200 * 3.75 + 100 * 6) / 1e6
    assert book.total == Spent(1, 1310, 20, pytest.approx(want), 0, 0)


def test_a_long_prompt_has_its_own_rates() -> None:
    long = LongPrompt(above_tokens=1000, input=5, output=25)
    price = Price(input=1, output=5, long_prompt=long, as_of=DAY, source="test")
    assert price.rates(1000) == (1, 5) and price.rates(1001) == (5, 25)
    book = Ledger(1.0, lambda model: price)
    held = book.reserve({"model": "m", "max_tokens": 100}, 5000)
    assert held.usd == pytest.approx((6000 * 5 + 100 * 25) / 1e6)
    book.settle(held, {"input_tokens": 500, "output_tokens": 100})
    assert book.total.usd == pytest.approx((500 * 1 + 100 * 5) / 1e6)
    cached = price.model_copy(update={"cache_write_1h": 2})
    book = Ledger(1.0, lambda model: cached)
    held = book.reserve({"model": "m", "cache_control": {}}, 5000)
    book.settle(held, {"cache_creation_input_tokens": 6000, "cache_creation": {"ephemeral_1h_input_tokens": 6000}})
    assert book.total.usd == pytest.approx(held.usd) == pytest.approx(6000 * 5 * 2 / 1e6)


@given(
    usages=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 500), st.integers(0, 1000)), max_size=30),
    budget=st.floats(0, 0.05),
)
def test_no_order_of_requests_passes_the_budget(usages: list[tuple[int, int, int]], budget: float) -> None:
    price = Price(input=3, output=15, as_of=DAY, source="test")
    book = Ledger(budget, lambda model: price)
    for tokens_in, tokens_out, spare in usages:
        try:
            held = book.reserve({"model": "m", "max_tokens": tokens_out + spare}, tokens_in)
        except BudgetExceeded:
            continue
        book.settle(held, {"input_tokens": tokens_in, "output_tokens": tokens_out})
    assert book.total.usd <= budget + 1e-9
    assert book.left_usd == pytest.approx(budget - book.total.usd)


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5), events=st.booleans())
def test_usage_is_found_however_the_bytes_are_cut(data: bytes, cuts: list[int], events: bool) -> None:
    known = b'{"type": "message_delta", "usage": {"output_tokens": 7}}'
    body = b"data: " + known + b"\n\n" + b"data: " + data.replace(b"\n", b"") + b"\n" if events else known
    reader = UsageReader(events)
    edges = sorted({0, len(body), *(c for c in cuts if c < len(body))})
    for start, end in pairwise(edges):
        reader.feed(body[start:end])
    assert (reader.close() or {}).get("output_tokens") == 7
