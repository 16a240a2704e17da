"""Lab 01, the options: they are real, and their facts, costs, dates and data paths follow from the registry."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from course_lib.artifacts_selection import Selection, SelectionFacts
from course_lib.checks import selection as sums
from course_lib.checks.common import Context, fail, first, listed, short, unscored, verdict
from course_lib.checks.notes import sections
from course_lib.registry import ModelEntry
from course_lib.submission import Submission
from course_lib.types import Finding

OPTIONS, NOTE = "options.json", "model-selection-note.md"
CENT = 0.0051
KINDS = 2
PRIVACY_WORDS = 15
AGREED = ("contract", "agreement", "region", "residency")


def load(submission: Submission) -> Selection:
    """options.json. Raises what ``Submission.json`` raises."""
    return submission.json(OPTIONS, Selection)


def known(selection: Selection, context: Context) -> list[tuple[SelectionFacts, ModelEntry]]:
    """The options that the registry has, each with its entry; one id counts once, and an alias is not an id."""
    entries = {entry.id: entry for entry in context.models.models}
    found = {option.id: (option, entries[option.id]) for option in selection.options if option.id in entries}
    return list(found.values())


def need(selection: Selection) -> int:
    """Tokens that one request of the workload takes, prompt and answer together."""
    return selection.workload.input_tokens + selection.workload.output_tokens


def dates(selection: Selection) -> tuple[dt.date, dt.date]:
    """First and last day of the planned use: the day of the registry, and that many days later."""
    start = dt.date.fromisoformat(selection.registry_as_of)
    return start, start + dt.timedelta(days=selection.targets.use_days)


def outdated(rule: str, selection: Selection, context: Context) -> list[Finding]:
    """A finding when the registry of the run is not the grader's: prices may have changed, and nobody is to blame."""
    mine = context.models.as_of.isoformat()
    if selection.registry_as_of == mine:
        return []
    what = f"The run used the registry of {selection.registry_as_of}, the grader has the one of {mine}."
    return [unscored(rule, f"Could not score: {what}", OPTIONS, "Update the course, run the lab again, hand that in.")]


def check_options(submission: Submission, context: Context) -> list[Finding]:
    """select.option_count and select.registry_facts."""
    selection = load(submission)
    real, least = known(selection, context), int(context.threshold("select.option_count"))
    strangers = [option.id for option in selection.options if option.id not in {fact.id for fact, _ in real}]
    kinds = {entry.kind for _, entry in real}
    count = verdict(
        "select.option_count", len(real) >= least and len(kinds) >= KINDS and not strangers,
        f"{len(real)} options of the registry, {len(kinds)} kinds: {listed(sorted(kinds))}.",
        problem=f"{len(real)} real options of {len(kinds)} kinds"
                + (f"; not in the registry: {listed(strangers)}." if strangers else "."),
        expected=f"at least {least} different ids of the registry, of at least {KINDS} kinds",
        actual=f"{len(real)} ids, {len(kinds)} kinds", where=OPTIONS,
        fix="Compare at least three models of the registry, embedded or open ones and hosted ones.",
    )  # fmt: skip
    wrong = [problem for fact, entry in real for problem in _differences(fact, entry, selection)]
    facts = outdated("select.registry_facts", selection, context) or [verdict(
        "select.registry_facts", not wrong and bool(real), "Kind, licence, context, price and date are the registry's.",
        problem=f"{len(wrong)} facts are not the registry's. First: {first(wrong)}.", expected="as in the registry",
        actual=f"{len(wrong)} differences", where=OPTIONS, fix="Read every fact from registry(), and type none.",
        wrong=wrong[:6],
    )]  # fmt: skip
    return [count, *facts]


def _differences(fact: SelectionFacts, entry: ModelEntry, selection: Selection) -> Iterator[str]:
    rates = entry.price.rates(selection.workload.input_tokens) if entry.price else None
    retires = entry.retires.isoformat() if entry.retires else None
    claimed = {"kind": fact.kind, "licence": fact.licence, "context": fact.context, "retires": fact.retires,
               "runs_on": fact.runs_on, "price": (fact.price.input, fact.price.output) if fact.price else None}
    truth = {"kind": entry.kind, "licence": entry.licence, "context": entry.context, "retires": retires,
             "runs_on": sums.RUNS_ON[entry.kind], "price": rates}  # fmt: skip
    for name, value in truth.items():
        if claimed[name] != value:
            yield f"{fact.id} has {name} {short(str(claimed[name]), 40)}, the registry says {short(str(value), 40)}"
    size = sums.memory_gb(entry)
    if (fact.memory_gb is None) != (size is None) or abs((fact.memory_gb or 0) - (size or 0)) > 0.06:
        yield f"{fact.id} has memory_gb {fact.memory_gb}, its parameters give {size}"


def check_costs(submission: Submission, context: Context) -> list[Finding]:
    """select.cost_follows"""
    selection = load(submission)
    if found := outdated("select.cost_follows", selection, context):
        return found
    wrong, shown = [], 0
    for fact, entry in known(selection, context):
        expected = sums.monthly_cost(entry, selection)
        shown += expected is not None
        if (expected is None) != (fact.cost_usd_month is None):
            wrong.append(f"{fact.id} claims {fact.cost_usd_month}, the registry gives {expected}")
        elif expected is not None and abs(fact.cost_usd_month - expected) > max(CENT, 1e-6 * expected):
            wrong.append(f"{fact.id} claims {fact.cost_usd_month:.2f} USD a month, computed are {expected:.2f}")
    if not shown:
        return [fail("select.cost_follows", "No option has a cost that can be computed.", where=OPTIONS,
                     fix="Compute the monthly cost of each option from the registry and the workload.")]
    return [verdict(
        "select.cost_follows", not wrong, f"{shown} monthly costs follow from the registry and the workload.",
        problem=f"{len(wrong)} costs do not follow. First: {first(wrong)}.", expected="the computed costs",
        actual=f"{len(wrong)} others", where=OPTIONS, wrong=wrong[:6],
        fix="requests x (input tokens x rate + output tokens x rate) / 1,000,000, or hours x price of the machine.",
    )]  # fmt: skip


def check_lifecycle(submission: Submission, context: Context) -> list[Finding]:
    """select.lifecycle and select.chosen_lives."""
    selection = load(submission)
    if found := outdated("select.lifecycle", selection, context):
        return [*found, *outdated("select.chosen_lives", selection, context)]
    start, end = dates(selection)
    options = known(selection, context)
    states = {fact.id: sums.lifecycle(entry, start, end) for fact, entry in options}
    wrong = [f"{fact.id} is marked {fact.lifecycle}, its dates say {states[fact.id]}"
             for fact, _ in options if fact.lifecycle != states[fact.id]]  # fmt: skip
    wrong += [] if selection.use_until == end.isoformat() else [f"use_until is {selection.use_until}, not {end}"]
    wrong += list(_unflagged(submission, {fact.id: fact.retires for fact, _ in options
                                          if states[fact.id] in ("retires", "retired")}))  # fmt: skip
    flagged = verdict(
        "select.lifecycle", not wrong and bool(options),
        f"{len(options)} options carry the right state for use until {end}.",
        problem=f"{len(wrong)} states are wrong. First: {first(wrong)}.", expected="states by the registry's dates",
        actual=f"{len(wrong)} problems", where=OPTIONS, wrong=wrong[:6],
        fix="Compare retires with the day of the decision and the last day of use; name each date in the note.",
    )  # fmt: skip
    return [flagged, _chosen(selection, context, states, end)]


def _unflagged(submission: Submission, ending: dict[str, str | None]) -> Iterator[str]:
    """Options whose date of retirement the note does not say."""
    text = submission.text(NOTE) if submission.has(NOTE) else ""
    for name, day in ending.items():
        if not day or day not in text or name not in text:
            yield f"{name} retires on {day}, and {NOTE} does not say so"


def _chosen(selection: Selection, context: Context, states: dict[str, str], end: dt.date) -> Finding:
    rule, name = "select.chosen_lives", selection.decision.chosen
    state = states.get(name)
    problem = {None: f"{short(name)} is none of the options", "retired": f"{name} is retired: requests fail"}.get(state)
    if state == "retires":
        problem = _plan_gap(selection, context, end)
    return verdict(rule, not problem, f"{short(name)} can be used until {end}, or a change is planned.",
                   problem=f"{problem}.", expected="a model that lives, or a dated plan", actual=state or "unknown",
                   where=OPTIONS, fix="Choose an option that is not retired, or plan its successor, day and owner.")


def _plan_gap(selection: Selection, context: Context, end: dt.date) -> str:
    """What the plan for a retiring model lacks; empty when it is sound."""
    name, plan = selection.decision.chosen, selection.decision.migration
    if plan is None:
        return f"{name} retires before {end}, and no change is planned"
    entries = {entry.id: entry for entry in context.models.models}
    last = entries[name].retires
    try:
        switch = dt.date.fromisoformat(plan.switch_by)
    except ValueError:
        return f"{plan.switch_by} is no day"
    if last is None or switch >= last:
        return f"the change is planned for {plan.switch_by}, when {name} no longer answers"
    heir = entries.get(plan.successor)
    if heir is None or sums.lifecycle(heir, switch, end) in ("retired", "retires"):
        return f"the successor {short(plan.successor)} does not live until {end}"
    return ""


def check_privacy(submission: Submission, context: Context) -> list[Finding]:
    """select.privacy: where prompts go, by kind and contract, and a section of the note about it."""
    selection = load(submission)
    signed = selection.assumptions.contract_signed
    options = known(selection, context)
    wrong = [f"{fact.id} is said to send data to {fact.data_goes_to}, it is {sums.goes_to(entry, signed)}"
             for fact, entry in options if fact.data_goes_to != sums.goes_to(entry, signed)]  # fmt: skip
    parts = sections(submission.text(NOTE))
    bodies = [body for heading, body in parts.items() if "privacy" in heading or "residency" in heading]
    text = max(bodies, key=len, default="").lower()
    if len(set(text.split())) < PRIVACY_WORDS:
        wrong.append(f"{NOTE} has no section on privacy with at least {PRIVACY_WORDS} different words")
    elif any(entry.kind == "hosted" for _, entry in options) and not any(word in text for word in AGREED):
        wrong.append(f"{NOTE} does not say what has to be agreed before data may go to a provider")
    return [verdict(
        "select.privacy", not wrong and bool(options), "Each option says where prompts go; the note, what that needs.",
        problem=f"{first(wrong)}.", expected="data paths by kind and contract, and what must be agreed",
        actual=f"{len(wrong)} problems", where=OPTIONS, wrong=wrong[:6],
        fix="Own machines for embedded and open models; a provider, with or without a contract, for hosted ones.",
    )]  # fmt: skip
