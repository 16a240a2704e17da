"""Submissions of lab 01, made by running the lab's own cells: one that passes, and one for each way of failing.

Only two things are not real: the model, which quotes the source that shares most words with the question, and the
clock, so that a run takes a second and is always the same. A way of failing is a wrong solution, other parameters, or a
line of the lab written differently; or something done to the folder afterwards.

    python tests/exemplars_selection.py FOLDER        writes all of them
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graded import change_copies
from lab_cells import CellRun


class Run(CellRun):
    """One run of lab 01."""

    module = "01"


MEAN_AS_P95 = """
counted = [row for row in rows if not row["warmup"]]
good = [row for row in counted if row["ok"]]
seconds = sorted(row["seconds"] for row in good)
rank = lambda values, q: sorted(values)[math.ceil(q / 100 * len(values)) - 1]
return {"n": len(good), "failed": len(counted) - len(good), "p50_s": rank(seconds, 50),
        "p95_s": round(sum(seconds) / len(seconds), 4), "ttft_p50_s": rank([r["ttft_s"] for r in good], 50),
        "tokens_per_s": round(sum(r["tokens_out"] for r in good) / sum(seconds), 1)}
"""
PER_THOUSAND = """
if entry.kind != "hosted":
    hour = assumptions["cpu_usd_hour"] if entry.kind == "embedded" else assumptions["gpu_usd_hour"]
    return round(hour * assumptions["hours_per_month"], 2)
rate_in, rate_out = entry.price.rates(workload["input_tokens"])
requests = workload["requests_per_day"] * workload["days_per_month"]
return round(requests * (workload["input_tokens"] * rate_in + workload["output_tokens"] * rate_out) / 1e3, 2)
"""
UNKNOWN_IS_GOOD = """
cost, room = option["cost_usd_month"] / targets["budget_usd_month"], (option["context"] or 10**6) / need_tokens
late = (p95_s or 1.0) / targets["p95_s"]
return {"cost": 10.0 if cost <= 0.1 else 7.0 if cost <= 0.5 else 4.0 if cost <= 1 else 0.0,
        "latency": 10.0 if late <= 0.5 else 7.0 if late <= 1 else 3.0 if late <= 2 else 0.0,
        "context": 10.0 if room >= 8 else 6.0 if room >= 2 else 3.0 if room >= 1 else 0.0,
        "privacy": float(privacy_points[option["data_goes_to"]]),
        "deployment": float(deployment_points[option["runs_on"]])}
"""
ONLY_THE_ENDS = """
leader = decide(table, weights)[0][0]
found = {}
for criterion in weights:
    first = decide(table, {c: float(c == criterion) for c in weights})[0][0]
    found[criterion] = {"at": 1.0, "to": first} if first != leader else None
return found
"""
GUESS = '{"measured": True, "n": 30, "failed": 0, "p50_s": 0.8, "p95_s": 1.9, "ttft_p50_s": 0.4, "tokens_per_s": 95.0}'
CONTEXT_ABOVE_ALL = {"privacy": 0.0, "cost": 0.2, "latency": 0.0, "deployment": 0.2, "context": 0.6}

RUNS: dict[str, dict[str, Any]] = {
    "passing": {},
    "two_options": {"parameters": {"candidates": ["course-lm-instruct", "claude-haiku-5-5"]}},
    "price_per_thousand": {"solutions": {2: PER_THOUSAND}},
    "invented_latency": {"edits": {'= {"measured": False, "needed": needed}': f"= {GUESS}"}},
    "mean_as_p95": {"solutions": {1: MEAN_AS_P95}},
    "too_few_requests": {"parameters": {"requests_count": 10}},
    "choice_against_the_weights": {"edits": {"chosen = ranking[0][0]": 'chosen = "claude-haiku-5-5"'}},
    "weights_after_scores": {"edits": {"ranking, sensitivity = decide(": 'weights = {"privacy": 0.1, "cost": 0.5, '
                             '"latency": 0.1, "deployment": 0.1, "context": 0.2}\nranking, sensitivity = decide('}},
    "guesses_score": {"solutions": {4: UNKNOWN_IS_GOOD}},
    "retiring_model_chosen": {
        "parameters": {"weights": CONTEXT_ABOVE_ALL, "candidates": [
            "course-lm-instruct", "meta-llama/Llama-3.1-8B-Instruct", "claude-sonnet-4-5-20250929"]},
        "edits": {'o["lifecycle"] == "retires",\n': 'False,\n'}},
    "flips_guessed": {"solutions": {6: ONLY_THE_ENDS}},
    "production_without_proof": {"edits": {'"allowed" if low >= targets["right_share"] else "blocked"': '"allowed"'}},
}  # fmt: skip


def retouch_the_note(folder: Path) -> None:
    path = folder / "model-selection-note.md"
    text = path.read_text("utf-8")
    assert "| 73.00 |" in text
    path.write_text(text.replace("| 73.00 |", "| 37.00 |"), "utf-8")


def cut_a_row(folder: Path) -> None:
    path = folder / "latency_rows.jsonl"
    lines = path.read_text("utf-8").split("\n")
    lines[2] = lines[2][: len(lines[2]) // 2]
    path.write_text("\n".join(lines), "utf-8")


AFTERWARDS: dict[str, Callable[[Path], None]] = {
    "retouched_note": retouch_the_note,
    "malformed_rows": cut_a_row,
    "missing_note": lambda folder: (folder / "model-selection-note.md").unlink(),
}
NAMES = (*RUNS, *AFTERWARDS)


def build_all(folder: Path) -> dict[str, Path]:
    """All of them; the ones that are changed afterwards start from the passing one."""
    made = {name: Run(folder / name, **settings).run() for name, settings in RUNS.items()}
    return change_copies(made, folder, AFTERWARDS)


if __name__ == "__main__":
    import sys

    os.makedirs(sys.argv[1], exist_ok=True)
    build_all(Path(sys.argv[1]).resolve())
