"""Lab 01, the arithmetic behind a selection: percentiles, costs, lifecycle, scores, ranking, sensitivity. All pure.

The lab's exercises ask for the same; this is what the grader recomputes with.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence

from course_lib.artifacts_selection import LatencyRow, Selection, SelectionFacts, SelectionTargets
from course_lib.registry import ModelEntry

CRITERIA = ("cost", "latency", "context", "privacy", "deployment")
PRIVACY = {"own machines": 10.0, "provider under contract": 6.0, "provider without contract": 2.0}
DEPLOYMENT = {"cpu": 10.0, "provider": 8.0, "gpu": 4.0}
RUNS_ON = {"embedded": "cpu", "hosted": "provider", "open weights": "gpu"}
BYTES_16_BIT = 2
Scores = Mapping[str, Mapping[str, float]]


def percentile(values: Sequence[float], q: float) -> float:
    """Nearest rank: the smallest value such that at least ``q`` % of the values are not larger. q: 0 to 100."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(q / 100 * len(ordered))) - 1]


def summary(rows: Sequence[LatencyRow]) -> dict[str, float]:
    """What the rows of one option say without warm-up: counts, seconds, and output tokens per second of waiting."""
    counted = [row for row in rows if not row.warmup]
    good = [row for row in counted if row.ok]
    seconds = [row.seconds for row in good]
    return {"n": len(good), "failed": len(counted) - len(good), "p50_s": percentile(seconds, 50),
            "p95_s": percentile(seconds, 95), "ttft_p50_s": percentile([row.ttft_s for row in good], 50),
            "tokens_per_s": sum(row.tokens_out for row in good) / sum(seconds)}  # fmt: skip


def monthly_cost(entry: ModelEntry, selection: Selection) -> float | None:
    """US dollars a month: tokens at list price for a hosted model, hours of a machine for the others. None: unknown."""
    work, given = selection.workload, selection.assumptions
    if entry.kind != "hosted":
        return (given.cpu_usd_hour if entry.kind == "embedded" else given.gpu_usd_hour) * given.hours_per_month
    if entry.price is None:
        return None
    rate_in, rate_out = entry.price.rates(work.input_tokens)
    requests = work.requests_per_day * work.days_per_month
    return requests * (work.input_tokens * rate_in + work.output_tokens * rate_out) / 1e6


def lifecycle(entry: ModelEntry, decided_on: dt.date, use_until: dt.date) -> str:
    """``retired``, ``retires`` (by the last day of use), ``watch`` (hosted, no promise as long as that) or ``ok``."""
    if entry.retires is not None and entry.retires <= use_until:
        return "retired" if entry.retires <= decided_on else "retires"
    promised = entry.retires or entry.retires_not_before
    return "watch" if entry.kind == "hosted" and (promised is None or promised < use_until) else "ok"


def goes_to(entry: ModelEntry, contract: bool) -> str:
    """Where prompts go when this model is used."""
    if entry.kind != "hosted":
        return "own machines"
    return "provider under contract" if contract else "provider without contract"


def memory_gb(entry: ModelEntry) -> float | None:
    """Gigabytes of 16-bit weights of an open model; None for others, and where its size is not known."""
    return entry.parameters_b * BYTES_16_BIT if entry.kind == "open weights" and entry.parameters_b else None


def _band(share: float, steps: Sequence[tuple[float, float]]) -> float:
    return next((score for most, score in steps if share <= most), 0.0)


def scores(facts: SelectionFacts, p95_s: float | None, need_tokens: int, targets: SelectionTargets) -> dict[str, float]:
    """0 to 10 by criterion, in the bands that the lab states. What is not known earns nothing."""
    cost, context = facts.cost_usd_month, facts.context
    room = (context or 0) / need_tokens
    return {
        "cost": 0.0 if cost is None else _band(cost / targets.budget_usd_month, ((0.1, 10.0), (0.5, 7.0), (1.0, 4.0))),
        "latency": 0.0 if p95_s is None else _band(p95_s / targets.p95_s, ((0.5, 10.0), (1.0, 7.0), (2.0, 3.0))),
        "context": 10.0 if room >= 8 else 6.0 if room >= 2 else 3.0 if room >= 1 else 0.0,
        "privacy": PRIVACY[facts.data_goes_to],
        "deployment": DEPLOYMENT[facts.runs_on],
    }


def blocked(facts: SelectionFacts, need_tokens: int, gpu_memory_gb: float, planned: str = "") -> list[str]:
    """Why an option may not be chosen at all. planned: the option for which a change to a successor is planned."""
    reasons = [] if facts.context else ["its context size is not known"]
    reasons += ["the workload does not fit its context"] if facts.context and facts.context < need_tokens else []
    reasons += ["its cost is not known"] if facts.cost_usd_month is None else []
    reasons += ["it is retired"] if facts.lifecycle == "retired" else []
    reasons += ["it retires while in use"] if facts.lifecycle == "retires" and facts.id != planned else []
    if facts.runs_on == "gpu" and not (facts.memory_gb and facts.memory_gb <= gpu_memory_gb):
        reasons.append("its weights do not fit the GPU, or their size is not known")
    return reasons


def rank(table: Scores, weights: Mapping[str, float]) -> list[tuple[str, float]]:
    """(id, weighted total rounded to 4 places), best first; equal totals in the order of the id."""
    totals = {name: round(sum(weights[c] * row[c] for c in weights), 4) for name, row in table.items()}
    return sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))


def reweighted(weights: Mapping[str, float], criterion: str, weight: float) -> dict[str, float]:
    """The weights with one set to ``weight`` and the others scaled so that all add up to one."""
    rest = 1 - weights[criterion]
    others = {c: (1 - weight) * w / rest if rest else (1 - weight) / (len(weights) - 1) for c, w in weights.items()}
    return {**others, criterion: weight}


def flips(table: Scores, weights: Mapping[str, float]) -> dict[str, tuple[float, str] | None]:
    """For each criterion the weight nearest to its own, in steps of 0.01, at which another option leads, and which."""
    leader = rank(table, weights)[0][0]
    found: dict[str, tuple[float, str] | None] = {}
    for criterion, own in weights.items():
        steps = sorted((i / 100 for i in range(101)), key=lambda w: (round(abs(w - own), 9), w))
        leaders = ((w, rank(table, reweighted(weights, criterion, w))[0][0]) for w in steps)
        found[criterion] = next(((w, name) for w, name in leaders if name != leader), None)
    return found


def best_case(table: Scores, weights: Mapping[str, float], unmeasured: Sequence[str]) -> str:
    """Which option would lead if every latency that was not measured turned out to earn the full score."""
    hopeful = {name: {**row, "latency": 10.0} if name in unmeasured else row for name, row in table.items()}
    return rank(hopeful, weights)[0][0]
