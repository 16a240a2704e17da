"""Intervals and retrieval metrics against known values and reference implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from course_lib.errors import UsageError
from course_lib.measure import (
    bootstrap_difference,
    bootstrap_mean,
    context_precision,
    context_recall,
    hit_at_k,
    mean_metric,
    mrr,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
    wilson,
)

RANKED = ["b", "a", "b", "c"]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433), (90, 100, 0.8256, 0.9448), (0, 0, 0.0, 1.0)],
)
def test_wilson_gives_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilson_holds_the_share_and_is_symmetric(a: int, b: int) -> None:
    low, high = wilson(a, a + b)
    share = a / (a + b) if a + b else 0.5
    assert 0 <= low <= share <= high <= 1
    assert wilson(b, a + b) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(UsageError):
        wilson(successes, n)


def test_the_bootstrap_repeats_and_agrees_with_theory() -> None:
    values = np.random.default_rng(3).normal(10, 2, 200)
    low, high = bootstrap_mean(values, seed=1)
    assert (low, high) == bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)
    assert bootstrap_mean([1.0, 1.0]) == (1.0, 1.0)
    with pytest.raises(UsageError):
        bootstrap_mean([])


def test_pairing_sees_a_small_difference_that_two_intervals_hide() -> None:
    rng = np.random.default_rng(5)
    easy = rng.random(100)
    first, second = easy + 0.02 + rng.normal(0, 0.01, 100), easy
    low, high = bootstrap_difference(first, second)
    assert 0 < low < 0.02 < high
    assert bootstrap_mean(second)[1] > bootstrap_mean(first)[0]
    with pytest.raises(UsageError):
        bootstrap_difference([1.0], [1.0, 2.0])


def test_ranking_metrics_by_hand() -> None:
    assert (hit_at_k(RANKED, {"a", "z"}, 1), hit_at_k(RANKED, {"a", "z"}, 2)) == (0.0, 1.0)
    assert (recall_at_k(RANKED, {"a", "z"}, 2), recall_at_k(RANKED, ["a", "a", "b"], 3)) == (0.5, 1.0)
    assert (precision_at_k(RANKED, {"b"}, 3), precision_at_k([], {"b"}, 3)) == (pytest.approx(2 / 3), 0.0)
    assert (reciprocal_rank(RANKED, {"a"}), reciprocal_rank(RANKED, {"z"})) == (0.5, 0.0)
    assert mrr([RANKED, RANKED], [{"b"}, {"c"}]) == pytest.approx((1 + 0.25) / 2)
    assert context_precision(RANKED, {"a", "c"}) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert mean_metric(recall_at_k, [RANKED, RANKED], [{"a"}, {"z"}], 3) == (0.5, [1.0, 0.0])


def test_context_recall_looks_for_the_spans() -> None:
    sources = ["Within 72\nhours of awareness.", "Nothing."]
    assert context_recall(sources, ["within 72 hours", "EUR 50"]) == 0.5


@pytest.mark.parametrize("metric", [lambda r, w: hit_at_k(r, w, 3), lambda r, w: recall_at_k(r, w, 3), reciprocal_rank])
@pytest.mark.parametrize("relevant", [[], "abc"])
def test_a_question_without_documents_is_not_scored_as_zero(metric, relevant) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        metric(RANKED, relevant)


@given(st.permutations(list("abcdef")), st.sets(st.sampled_from("abcdef"), min_size=1), st.integers(1, 6))
def test_ndcg_agrees_with_scikit_learn(ranked: list[str], relevant: set[str], k: int) -> None:
    truth = [[float(name in relevant) for name in ranked]]
    scores = [[float(-rank) for rank in range(len(ranked))]]
    assert ndcg_at_k(ranked, relevant, k) == pytest.approx(float(ndcg_score(truth, scores, k=k)))
