"""Lab 03, the packet: files, agreement, environment, the training log, the notebook, and the prose with its numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from course_lib.artifacts import Metrics
from course_lib.artifacts_dataset import SftRow
from course_lib.artifacts_tuning import (
    AdapterConfig,
    Environment,
    EvalRow,
    LogRow,
    Plan,
    Regression,
    ServedRow,
    TuningResults,
)
from course_lib.checks import packet
from course_lib.checks import tuning as sums
from course_lib.checks.common import Context, first, place, reason, verdict, words
from course_lib.checks.notes import missing_sections, numbers, sections, states
from course_lib.checks.tuning import ADAPTER, BASELINE, CONFIG, DATA, LOG, PLAN, RESULTS, ROLLBACK, SERVED, TUNED, WORSE
from course_lib.evidence import CHAIN, Link, sha256
from course_lib.submission import Submission
from course_lib.types import Finding

ENVIRONMENT, REPORT, CURVE, CARD = "environment.json", "experiment-report.md", "loss-curve.png", "data-card.md"
JSON = {PLAN: Plan, RESULTS: TuningResults, ENVIRONMENT: Environment, CONFIG: AdapterConfig, "metrics.json": Metrics}
JSONL = {BASELINE: EvalRow, TUNED: EvalRow, ROLLBACK: EvalRow, SERVED: ServedRow, LOG: LogRow, DATA: SftRow,
         WORSE: Regression, CHAIN: Link}  # fmt: skip
PNG, PNG_BYTES = b"\x89PNG\r\n\x1a\n", 2_000
NEEDED = ("torch", "transformers", "trl", "peft")
SAME = {"rank": "rank", "steps": "steps", "batch": "batch", "learning_rate": "learning_rate", "row_count": "rows"}
CARD_PARTS = {"source and rights": ("source", "right"), "content and sensitivity": ("content", "sensitiv"),
              "cleaning and split": ("clean", "split"), "retention and approval": ("retention", "approv")}  # fmt: skip
PARTS = {"the question": ("question", "goal"), "the setup": ("setup", "set-up"), "training": ("training",),
         "locked cases": ("locked",), "spot checks": ("spot",), "what was served": ("served", "serving"),
         "regressions": ("regression",), "rollback": ("rollback",), "the decision": ("decision",),
         "limits": ("limit",)}  # fmt: skip


def check_files(submission: Submission, context: Context) -> list[Finding]:
    """tune.files: everything is there and readable, and the picture of the loss is one."""
    found = packet.files("tune.files", submission, "03", JSON, JSONL)
    if not found.ok:
        return [found]
    raw = submission.raw(CURVE)
    picture = raw.startswith(PNG) and len(raw) > PNG_BYTES
    return [found if picture else verdict(
        "tune.files", False, "", problem=f"{CURVE} is no PNG picture of a curve.",
        expected="a PNG", actual=f"{len(raw)} bytes", where=CURVE, fix="Draw the curve from the log and save it.",
    )]  # fmt: skip


def check_agreement(submission: Submission, context: Context) -> list[Finding]:
    """tune.files_agree: one run wrote all of it, with the parameters that the notebook shows."""
    problems = list(_disagreements(submission))
    return [verdict(
        "tune.files_agree", not problems, "The notebook, the plan, the adapter and the metrics come from one run.",
        problem=f"The files do not come from one run: {first(problems)}.", expected="one run",
        actual=f"{len(problems)} contradictions", where=RESULTS if problems else "", problems=problems[:6],
        fix="Run the lab once, from the top, and hand in that folder.",
    )]  # fmt: skip


def _disagreements(submission: Submission) -> Iterator[str]:
    plan, results, given = sums.plan_of(submission), sums.results_of(submission), packet.parameters(submission)
    metrics, log = submission.json("metrics.json", Metrics), sums.log_of(submission)
    seeds = {plan.seed, results.seed, submission.json(ENVIRONMENT, Environment).seed, given.get("seed")}
    if len(seeds) > 1:
        yield "notebook, plan, environment and results have different seeds"
    for name, field in SAME.items():
        if given.get(name) != getattr(plan.training, field):
            yield f"the notebook ran with another {name} than plan.json has"
    raw = submission.raw(ADAPTER)
    if (results.adapter.sha256, results.adapter.bytes) != (sha256(raw), len(raw)):
        yield "results.json is about another adapter file"
    made = sum(len(row.value.tokens) for name in (BASELINE, TUNED, ROLLBACK) for row in sums.rows_of(submission, name))
    if metrics.tokens_out != made:
        yield f"metrics.json has {metrics.tokens_out} tokens out, the rows add up to {made}"
    if metrics.tokens_in != (log[-1].num_tokens if log else 0):
        yield f"metrics.json has {metrics.tokens_in} tokens in, and the log ends with another number"


def check_environment(submission: Submission, context: Context) -> list[Finding]:
    """tune.environment: versions, seed, hardware and threads are recorded."""
    found = submission.json(ENVIRONMENT, Environment)
    problems = [f"the version of {name} is missing" for name in NEEDED if not found.versions.get(name, "").strip()]
    problems += [] if found.seed == sums.plan_of(submission).seed else ["it has another seed than the plan"]
    return [verdict(
        "tune.environment", not problems, f"Recorded: {found.device}, {found.threads} threads, Python {found.python}.",
        problem=f"{ENVIRONMENT}: {first(problems)}.", expected="versions, seed and hardware",
        actual=f"{len(problems)} gaps", where=ENVIRONMENT, problems=problems,
        fix="Write the record at the start of the run, from the packages themselves.",
    )]  # fmt: skip


def check_log(submission: Submission, context: Context) -> list[Finding]:
    """tune.training_log: steps rise to the planned number, the loss falls, and all fits plan and adapter."""
    problems = [*_log_problems(submission), *_settings(submission)]
    return [verdict(
        "tune.training_log", not problems, "The log runs through all planned steps, and its loss falls.",
        problem=f"{place(problems)}: {reason(problems)}.", expected="one log from the first step to the last",
        actual=f"{len(problems)} problems", where=place(problems), problems=problems[:6],
        fix="Write the trainer's own log, all of it, and train with the settings of the plan.",
    )]  # fmt: skip


def _log_problems(submission: Submission) -> Iterator[str]:
    training, log = sums.plan_of(submission).training, sums.log_of(submission)
    steps = [entry.step for entry in log]
    for number, (one, two) in enumerate(itertools.pairwise(log), 2):
        if two.step <= one.step or two.num_tokens <= one.num_tokens:
            yield f"{LOG}:{number} step {two.step} follows step {one.step}"
    if not steps or max(steps) > training.steps or max(steps) < 0.9 * training.steps or len(log) < 4:
        last = max(steps, default=0)
        yield f"{LOG} it ends at step {last} with {len(log)} records, and {training.steps} steps were planned"
        return
    if not all(math.isfinite(entry.loss) and entry.loss >= 0 and math.isfinite(entry.grad_norm) for entry in log):
        yield f"{LOG} a loss or a gradient is no number"
    quarter = max(1, len(log) // 4)
    begin, end = (sum(e.loss for e in part) / quarter for part in (log[:quarter], log[-quarter:]))
    if not end < begin:
        yield f"{LOG} the loss does not fall: {begin:.4f} at the beginning and {end:.4f} at the end"
    highest = max(entry.learning_rate for entry in log)
    if not 0.5 * training.learning_rate <= highest <= 1.001 * training.learning_rate:
        yield f"{LOG} the learning rate reaches {highest:g}, and {training.learning_rate:g} was planned"


def _settings(submission: Submission) -> Iterator[str]:
    training, config = sums.plan_of(submission).training, submission.json(CONFIG, AdapterConfig)
    if (config.r, config.lora_alpha) != (training.rank, training.alpha):
        yield f"{CONFIG} the adapter has rank {config.r} and alpha {config.lora_alpha}, the plan another"
    if sorted(config.target_modules) != sorted(training.targets):
        yield f"{CONFIG} the adapter sits on other layers than the plan says"


def check_notebook(submission: Submission, context: Context) -> list[Finding]:
    """tune.notebook: executed from the top, no error, no exercise left open. Outputs are read and prove nothing."""
    return [packet.notebook("tune.notebook", submission)]


def check_card(submission: Submission, context: Context) -> list[Finding]:
    """tune.data_card"""
    missing = missing_sections(submission.text(CARD), CARD_PARTS, 6)
    return [packet.prose("tune.data_card", CARD, missing, "source and rights, content, cleaning, retention")]


def check_report(submission: Submission, context: Context) -> list[Finding]:
    """tune.report: its sections, and in each the numbers of the files."""
    text = submission.text(REPORT)
    missing = missing_sections(text, PARTS, 3)
    missing += list(_unstated(submission, text))
    return [packet.prose("tune.report", REPORT, missing, "its sections, and the numbers of the files")]


def _unstated(submission: Submission, text: str) -> Iterator[str]:
    results, log, training = sums.results_of(submission), sums.log_of(submission), sums.plan_of(submission).training
    wanted = {
        "the setup": {"rank": training.rank, "steps": training.steps, "learning rate": training.learning_rate,
                  "training rows": results.training_rows},
        "training": {"first loss": log[0].loss, "last loss": log[-1].loss} if log else {},
        "locked cases": results.locked.model_dump(), "spot checks": {}, "what was served": results.served.model_dump(),
        "rollback": results.rollback.model_dump(),
    }  # fmt: skip
    for which in ("general", "refusal"):
        wanted["spot checks"] |= {f"{which} {k}": getattr(getattr(results, which), k) for k in ("n", "before", "after")}
    for part, values in wanted.items():
        body = _part(text, part)
        yield from (f"{name} is {value:g} in the files and is not stated under {part}" for name, value in values.items()
                    if not _said(body, value))  # fmt: skip
    if results.decision not in words(_part(text, "the decision")):
        yield f"the decision {results.decision} is not stated"
    named = _part(text, "regressions")
    yield from (f"{row.value.id} is not named under regressions" for row in sums.worse_of(submission)
                if row.value.id not in named)  # fmt: skip


def _said(text: str, value: float) -> bool:
    """Whether the text states a number; a share with two decimals at least, or in percent with one: "1" is no 0.9."""
    if isinstance(value, int) or not 0.005 <= abs(value) <= 1:
        return states(text, abs(value))
    exact = [token for token in numbers(text) if len(token.partition(".")[2]) >= 1]
    return any(states(" ".join(t for t in exact if len(t.partition(".")[2]) >= least), abs(found))
               for found, least in ((value, 2), (100 * value, 1)))  # fmt: skip


def _part(text: str, part: str) -> str:
    found = (body for heading, body in sections(text).items() if any(word in heading for word in PARTS[part]))
    return "\n".join(found)


def check_readme(submission: Submission, context: Context) -> list[Finding]:
    """tune.readme"""
    return [packet.readme("tune.readme", submission)]


def check_risks(submission: Submission, context: Context) -> list[Finding]:
    """tune.risk_notes"""
    return [packet.risks("tune.risk_notes", submission)]


def check_costs(submission: Submission, context: Context) -> list[Finding]:
    """tune.cost_notes: the four parts, and the numbers of metrics.json."""
    gaps = packet.cost_gaps(submission)
    return [packet.prose("tune.cost_notes", "cost-notes.md", gaps, "tokens, seconds, money and scaling")]
