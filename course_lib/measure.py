"""Numbers with their uncertainty: retrieval metrics, and intervals for shares and means."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from course_lib.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval (low, high) for a share ``successes / n``; 95 % with the default ``z``.

    Stays inside 0 to 1 and has a width even at 0 or n successes, where the plain normal interval has none.
    No observation says nothing: (0.0, 1.0) for n = 0. Raises UsageError unless ``0 <= successes <= n``.
    """
    if not 0 <= successes <= n:
        raise UsageError(f"{successes} successes of {n} is no share.", where="wilson", fix="Pass 0 <= successes <= n.")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == n else min(1.0, centre + half)


def _bootstrap(values: Sequence[float], seed: int, samples: int, confidence: float) -> tuple[float, float]:
    import numpy as np

    if len(values) == 0 or not 0 < confidence < 1 or samples < 1:
        raise UsageError(
            "An interval needs at least one value, one sample and a confidence between 0 and 1.",
            where="bootstrap",
            fix="Check that the evaluation produced values.",
        )
    data: np.ndarray = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = data[rng.integers(0, len(data), size=(samples, len(data)))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_mean(
    values: Sequence[float], seed: int = 0, *, samples: int = 5000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of ``values``; the same seed gives the same interval."""
    return _bootstrap(values, seed, samples, confidence)


def bootstrap_difference(
    first: Sequence[float], second: Sequence[float], seed: int = 0, *, samples: int = 5000, confidence: float = 0.95
) -> tuple[float, float]:
    """Paired bootstrap interval (low, high) of mean(first) - mean(second), both measured on the same questions.

    An interval that holds 0 means: these questions do not tell the two apart. Raises UsageError for unequal lengths.
    """
    if len(first) != len(second):
        raise UsageError(
            f"Paired values need equal lengths, not {len(first)} and {len(second)}.",
            where="bootstrap_difference",
            fix="Measure both systems on the same questions, in the same order.",
        )
    return _bootstrap([a - b for a, b in zip(first, second, strict=True)], seed, samples, confidence)


def _relevant(relevant: Collection[str]) -> frozenset[str]:
    if isinstance(relevant, str) or not relevant:
        raise UsageError(
            "A retrieval metric needs at least one relevant document.",
            where="course_lib.measure",
            fix="Score questions without expected documents by abstention, not by recall.",
        )
    return frozenset(relevant)


def _distinct(ranked: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(ranked))


def hit_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """1.0 when any relevant document stands in the first ``k`` results, else 0.0."""
    return float(bool(_relevant(relevant) & set(ranked[:k])))


def recall_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of the relevant documents that stand in the first ``k`` results, 0 to 1.

    ranked: document keys of the results in rank order, repeats allowed (several chunks of one document).
    """
    wanted = _relevant(relevant)
    return len(wanted & set(ranked[:k])) / len(wanted)


def precision_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of the first ``k`` results that come from a relevant document; 0.0 without results."""
    top = ranked[:k]
    wanted = _relevant(relevant)
    return sum(key in wanted for key in top) / len(top) if top else 0.0


def reciprocal_rank(ranked: Sequence[str], relevant: Collection[str]) -> float:
    """1 / rank of the first relevant result, ranks from 1; 0.0 when none is there. Its mean over questions is MRR."""
    wanted = _relevant(relevant)
    return next((1 / rank for rank, key in enumerate(ranked, 1) if key in wanted), 0.0)


def mrr(rankings: Sequence[Sequence[str]], relevants: Sequence[Collection[str]]) -> float:
    """Mean reciprocal rank over questions, 0 to 1."""
    if len(rankings) != len(relevants) or not rankings:
        raise UsageError("MRR needs one set of relevant documents per ranking.", where="mrr", fix="Check the lengths.")
    return sum(map(reciprocal_rank, rankings, relevants)) / len(rankings)


def ndcg_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Normalised discounted cumulative gain with relevance 0 or 1, over distinct documents, 0 to 1."""
    wanted = _relevant(relevant)
    gain = sum(1 / math.log2(rank + 1) for rank, key in enumerate(_distinct(ranked)[:k], 1) if key in wanted)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
    return gain / best if best else 0.0


def context_precision(ranked: Sequence[str], relevant: Collection[str]) -> float:
    """Mean of precision@i over the positions i that hold a relevant result: high when relevant context comes first."""
    wanted = _relevant(relevant)
    hits = [rank for rank, key in enumerate(ranked, 1) if key in wanted]
    return sum(count / rank for count, rank in enumerate(hits, 1)) / len(hits) if hits else 0.0


def context_recall(sources: Sequence[str], answers: Collection[str]) -> float:
    """Share of the expected answer spans that stand in any of the source texts, whitespace and case ignored."""

    def flat(text: str) -> str:
        return " ".join(text.split()).casefold()

    spans = _relevant(answers)
    texts = [flat(source) for source in sources]
    return sum(any(flat(span) in text for text in texts) for span in spans) / len(spans)


def mean_metric(
    metric: Callable[..., float], rankings: Sequence[Sequence[str]], relevants: Sequence[Collection[str]], *args: int
) -> tuple[float, list[float]]:
    """(mean, value per question) of ``metric(ranked, relevant, *args)``; the values feed an interval."""
    values = [metric(ranked, wanted, *args) for ranked, wanted in zip(rankings, relevants, strict=True)]
    return (sum(values) / len(values) if values else 0.0), values
