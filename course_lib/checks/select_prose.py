"""Lab 01, the note: its sections, and that the numbers it states about an option are those of the files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from course_lib.artifacts_selection import Selection
from course_lib.checks import packet
from course_lib.checks.common import Context
from course_lib.checks.notes import missing_sections, sections, states
from course_lib.checks.select_options import NOTE, load
from course_lib.submission import Submission
from course_lib.types import Finding

PARTS = {"the decision": ("decision",), "the options": ("option", "compar"), "weights": ("weight",),
         "sensitivity": ("sensitiv", "flip"), "privacy": ("privacy", "residency"),
         "what was not measured": ("not measured", "unmeasured", "open question", "missing"),
         "next steps": ("next", "condition")}  # fmt: skip
LEAST_WORDS = 8
_SPLIT = re.compile(r"[\s|`*,;:()\[\]\"']+")
_SECONDS = re.compile(r"\d+(?:\.\d+)?\s*(?:s|ms|sec|seconds)\b")


def lines_about(text: str, name: str) -> str:
    """The lines that name this option as a word of its own: one id may begin another."""
    return "\n".join(line for line in text.split("\n")
                     if name in line and name in {word.rstrip(".!?") for word in _SPLIT.split(line)})  # fmt: skip


def facts_about(text: str, name: str, selection: Selection) -> str:
    """The same lines without the ids: the digits of a name are no numbers that a note states."""
    found = lines_about(text, name)
    for option in sorted((option.id for option in selection.options), key=len, reverse=True):
        found = found.replace(option, " ")
    return found


def check_note(submission: Submission, context: Context) -> list[Finding]:
    """select.note_numbers"""
    selection, text = load(submission), submission.text(NOTE)
    missing = missing_sections(text, PARTS, LEAST_WORDS)
    missing += list(_gaps(selection, text))
    return [packet.prose("select.note_numbers", NOTE, missing, "its sections, and the numbers of the files")]


def _gaps(selection: Selection, text: str) -> Iterator[str]:
    totals = {place.id: place.total for place in selection.decision.ranking}
    for option in selection.options:
        if not lines_about(text, option.id):
            yield f"{option.id} is not named"
            continue
        about, latency = facts_about(text, option.id, selection), selection.latency.get(option.id)
        measured = latency is not None and latency.measured
        wanted = {"cost a month": option.cost_usd_month, "weighted total": totals.get(option.id)}
        wanted |= {"P95": latency.p95_s, "P50": latency.p50_s} if measured and latency else {}
        for what, value in wanted.items():
            if value is not None and not states(about, value):
                yield f"{what} of {option.id} is {value:g} in the files and is not stated beside it"
        if not measured and _SECONDS.search(about):
            yield f"{option.id} was not measured, and a time stands beside it"
    if selection.decision.chosen not in text:
        yield "the chosen option is not named"
    for name, weight in selection.weights.items():
        if not _stated(text, PARTS["weights"], name, weight, selection):
            yield f"the weight {weight:g} of {name} is not stated beside it"
    for name, flip in selection.sensitivity.items():
        if flip and not _stated(text, PARTS["sensitivity"], name, flip.at, selection):
            yield f"the flip of {name} at {flip.at:g} is not stated beside it"


def _stated(text: str, headings: tuple[str, ...], criterion: str, share: float, selection: Selection) -> bool:
    """Whether a line about the criterion, in a section with one of these words, states the share, also in percent."""
    for heading, body in sections(text).items():
        for line in body.split("\n") if any(word in heading for word in headings) else ():
            if criterion in line.lower():
                for option in selection.options:
                    line = line.replace(option.id, " ")
                if states(line, share) or states(line, 100 * share):
                    return True
    return False


def check_costs(submission: Submission, context: Context) -> list[Finding]:
    """select.cost_notes: the four parts, the numbers of metrics.json, and the monthly cost of each option."""
    selection, text = load(submission), submission.text("cost-notes.md")
    missing = packet.cost_gaps(submission)
    for option in selection.options:
        about, cost = facts_about(text, option.id, selection), option.cost_usd_month
        if cost is not None and not states(about, cost):
            missing.append(f"{option.id} costs {cost:g} USD a month in options.json, which is not stated beside it")
    expected = "tokens, seconds, money, scaling, and each option's monthly cost"
    return [packet.prose("select.cost_notes", "cost-notes.md", missing, expected)]
