"""Lab 01, the decision: weights before scores, scores by the stated bands, a ranking and a sensitivity that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping

from course_lib.artifacts_selection import Selection
from course_lib.checks import packet
from course_lib.checks import selection as sums
from course_lib.checks.common import Context, fail, first, verdict
from course_lib.checks.select_options import OPTIONS, load, need
from course_lib.submission import Submission
from course_lib.types import Finding

NEAR = 1e-6
STEP = 0.0101


def check_weights(submission: Submission, context: Context) -> list[Finding]:
    """select.weights_first: the parameters cell states the weights that were used, and they add up to one."""
    selection, stated = load(submission), packet.parameters(submission).get("weights")
    problems = [] if stated == selection.weights else ["the parameters cell of the notebook states other weights"]
    problems = ["the parameters cell of the notebook states no weights"] if stated is None else problems
    if set(selection.weights) != set(sums.CRITERIA):
        problems.append(f"the criteria are {', '.join(sorted(selection.weights))}")
    total = sum(selection.weights.values())
    problems += [] if math.isclose(total, 1, abs_tol=1e-9) else [f"the weights add up to {total:g}"]
    return [verdict(
        "select.weights_first", not problems, "The weights stand at the top, before anything is measured.",
        problem=f"{first(problems)}.", expected=f"one weight for each of {', '.join(sums.CRITERIA)}, together 1",
        actual=f"{len(problems)} problems", where="lab.ipynb",
        fix="State the weights in the parameters cell, run from the top, and leave them when the scores are known.",
    )]  # fmt: skip


def _weights_usable(weights: Mapping[str, float]) -> bool:
    return set(weights) == set(sums.CRITERIA) and math.isclose(sum(weights.values()), 1, abs_tol=1e-9)


def check_scores(submission: Submission, context: Context) -> list[Finding]:
    """select.scores_follow: each score from the facts and measurements of its option, by the bands of the lab."""
    selection = load(submission)
    plan = selection.decision.migration
    planned = selection.decision.chosen if plan else ""
    wrong = []
    for option in selection.options:
        latency = selection.latency.get(option.id)
        p95 = latency.p95_s if latency and latency.measured else None
        truth, claimed = sums.scores(option, p95, need(selection), selection.targets), selection.scores.get(option.id)
        for name, value in truth.items():
            said = (claimed or {}).get(name)
            if said is None or abs(said - value) > NEAR:
                wrong.append(f"{option.id} claims {said} for {name}, the bands give {value:g}")
        reasons = sums.blocked(option, need(selection), selection.assumptions.gpu_memory_gb, planned)
        if bool(reasons) != bool(selection.blockers.get(option.id)):
            state = f"must be ruled out: {reasons[0]}" if reasons else "is ruled out for no reason"
            wrong.append(f"{option.id} {state}")
    return [verdict(
        "select.scores_follow", not wrong and bool(selection.options), "Scores and exclusions follow from the facts.",
        problem=f"{len(wrong)} scores or exclusions do not follow. First: {first(wrong)}.", expected="the stated bands",
        actual=f"{len(wrong)} others", where=OPTIONS, wrong=wrong[:6],
        fix="Score by the bands of exercise 4; what is not known earns 0, what must not be chosen is ruled out.",
    )]  # fmt: skip


def eligible(selection: Selection) -> dict[str, Mapping[str, float]]:
    """Scores as claimed of the options that are not ruled out, where all criteria are there."""
    return {option.id: selection.scores[option.id] for option in selection.options
            if not selection.blockers.get(option.id) and set(sums.CRITERIA) <= set(selection.scores.get(option.id, ()))}


def check_ranking(submission: Submission, context: Context) -> list[Finding]:
    """select.ranking_follows: totals, order and choice from weights and scores as they stand."""
    selection, rule = load(submission), "select.ranking_follows"
    table = eligible(selection)
    if not table or not _weights_usable(selection.weights):
        return [fail(rule, "No decision follows: no option is eligible, or the weights do not add up to 1.",
                     where=OPTIONS, fix="Give each criterion its weight, together 1, and rank what is not ruled out.")]
    truth = sums.rank(table, selection.weights)
    claimed = [(place.id, place.total) for place in selection.decision.ranking]
    wrong = [] if [n for n, _ in claimed] == [n for n, _ in truth] else [
        f"the ranking begins with {claimed[0][0] if claimed else 'nothing'}, the weights give {truth[0][0]}"]
    wrong += [f"{name} claims {dict(claimed)[name]:g}, its scores give {total:g}" for name, total in truth
              if name in dict(claimed) and abs(dict(claimed)[name] - total) > 6e-5]  # fmt: skip
    if selection.decision.chosen != truth[0][0]:
        wrong.append(f"{selection.decision.chosen} was chosen, and {truth[0][0]} leads with {truth[0][1]:g}")
    return [verdict(
        rule, not wrong, f"{truth[0][0]} leads with {truth[0][1]:g} of 10, and it is the one that was chosen.",
        problem=f"{first(wrong)}.", expected=f"{truth[0][0]} first", actual=f"{selection.decision.chosen} chosen",
        where=OPTIONS, fix="Let the code choose. If you disagree with it, change a weight at the top and say why.",
        wrong=wrong[:6],
    )]  # fmt: skip


def check_sensitivity(submission: Submission, context: Context) -> list[Finding]:
    """select.sensitivity: where each weight flips the decision, and whether a missing measurement could."""
    selection, rule = load(submission), "select.sensitivity"
    table = eligible(selection)
    if not table or not _weights_usable(selection.weights):
        return [fail(rule, "There is no decision whose sensitivity could be checked.", where=OPTIONS,
                     fix="Rank the options first.")]
    wrong = []
    for name, flip in sums.flips(table, selection.weights).items():
        claim = selection.sensitivity.get(name)
        said = f"{claim.at:g} to {claim.to}" if claim else "none"
        true = f"{flip[0]:g} to {flip[1]}" if flip else "none"
        same = name in selection.sensitivity and (claim is None) == (flip is None)
        if not same or (claim and flip and (abs(claim.at - flip[0]) > STEP or claim.to != flip[1])):
            wrong.append(f"{name} claims the flip {said}, computed is {true}")
    unmeasured = [name for name in table if not (name in selection.latency and selection.latency[name].measured)]
    leader = sums.best_case(table, selection.weights, unmeasured)
    changes = leader != selection.decision.chosen
    if (selection.best_case.leader, selection.best_case.changes) != (leader, changes):
        wrong.append(f"the best case claims {selection.best_case.leader}, computed is {leader}")
    return [verdict(
        rule, not wrong, "The flips of every weight, and the best case of what was not measured, follow.",
        problem=f"{len(wrong)} do not follow. First: {first(wrong)}.", expected="flips as computed again",
        actual=f"{len(wrong)} others", where=OPTIONS, wrong=wrong[:6],
        fix="Move one weight at a time, scale the others so that all add up to 1, and take the nearest flip.",
    )]  # fmt: skip
