"""Lab 02, the packet: files, agreement, the data card against the data, and the reports around it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from course_lib import artifacts_dataset as ad
from course_lib.artifacts_dataset import DATASET, MANIFEST, STEPS
from course_lib.checks import packet
from course_lib.checks.common import Context, first, verdict
from course_lib.checks.data_quality import LOG, QUALITY, load_metrics
from course_lib.checks.data_rows import SOURCES, load_rows
from course_lib.checks.data_splits import file_of, load_manifest
from course_lib.checks.notes import missing_sections, sections, states
from course_lib.measure import wilson
from course_lib.prompts import SYSTEM
from course_lib.submission import Submission
from course_lib.types import Finding

CARD, REPORT = "data-card.md", "quality-report.md"
JSON = {"metrics.json": ad.DatasetMetrics, MANIFEST: ad.SplitManifest}
JSONL = {DATASET: ad.SftRow, SOURCES: ad.SourceRow, QUALITY: ad.Inspection, LOG: ad.RemovedRow,
         **{file_of(name): ad.SftRow for name in ad.SPLITS}}  # fmt: skip
PARTS = {"the source": ("source",), "rights": ("right", "licen"), "sensitivity": ("sensitiv",),
         "personal data": ("personal", "pii"), "retention": ("retention",), "deletion": ("delet", "eras"),
         "the split": ("split",), "approval": ("approv",)}  # fmt: skip
REPORTED = {"what was inspected": ("inspect", "sample"), "what was rejected": ("reject",),
            "cleaning": ("clean", "step"), "limits": ("limit",)}  # fmt: skip
CLASSES = ("public", "internal", "confidential", "restricted", "privileged")
_KEY = re.compile(r"\b[a-z0-9]+(?:-[a-z0-9]+)+@\d+\b")
SHORT_HASH = 12


def check_files(submission: Submission, context: Context) -> list[Finding]:
    """data.files"""
    return [packet.files("data.files", submission, "02", JSON, JSONL)]


def check_agreement(submission: Submission, context: Context) -> list[Finding]:
    """data.files_agree: one run wrote all of it, with the parameters that the notebook shows."""
    manifest, given, text = load_manifest(submission), packet.parameters(submission), submission.text("README.md")
    problems = [] if manifest.lab.startswith("02") else [f"{MANIFEST} is not of lab 02"]
    problems += [f"the notebook ran with another {name} than {MANIFEST} has" for name in ("seed", "near")
                 if given.get(name) != getattr(manifest, name)]  # fmt: skip
    problems += [] if manifest.made_at[:10] in text else [f"README.md does not state the day of {MANIFEST}"]
    problems += [] if manifest.dataset_sha256[:SHORT_HASH] in submission.text(CARD) else [f"{CARD} is of other data"]
    return [verdict(
        "data.files_agree", not problems, "The notebook, the manifest, the card and the README come from one run.",
        problem=f"The files do not come from one run: {first(problems)}.", expected="one run",
        actual=f"{len(problems)} contradictions", where=MANIFEST if problems else "", problems=problems[:6],
        fix="Run the lab once, from the top, and hand in that folder.",
    )]  # fmt: skip


def about(text: str, words: tuple[str, ...]) -> str:
    """The text of all sections whose heading holds one of the words."""
    return "\n".join(body for heading, body in sections(text).items() if any(word in heading for word in words))


def check_card(submission: Submission, context: Context) -> list[Finding]:
    """data.card: its eight parts, each against the files."""
    text = submission.text(CARD)
    missing = [*missing_sections(text, PARTS, 6), *_card_gaps(submission, context, text)]
    return [packet.prose("data.card", CARD, missing, "its eight parts, and what the files say of each")]


def _card_gaps(submission: Submission, context: Context, text: str) -> Iterator[str]:
    rows, manifest = [row.value for row in load_rows(submission)], load_manifest(submission)
    parts = {name: about(text, words) for name, words in PARTS.items()}
    used = {row.document for row in rows if row.document}
    named = set(_KEY.findall(parts["the source"]))
    if named != used:
        odd = sorted(used ^ named)[0]
        yield f"{odd} is {'used and not named' if odd in used else 'named and not used'} as a source"
    documents = [found for key in used if (found := context.document(key))]
    if documents:
        highest = max((d.classification for d in documents), key=CLASSES.index)
        if highest not in parts["sensitivity"].lower():
            yield f"the most sensitive document is {highest}, which is not said"
        until = min(d.retention_until for d in documents).isoformat()
        if until not in parts["retention"]:
            yield f"the first retention ends on {until}, which is not said"
    yield from (f"the licence {name} is not named" for name in {row.license for row in rows}
                if name not in parts["rights"])  # fmt: skip
    counts = Counter(row.origin for row in rows)
    for name, value in {"rows": len(rows), **counts}.items():
        if not any(name in line.lower() and states(line, value) for line in parts["the source"].split("\n")):
            yield f"{value} {'rows' if name == 'rows' else f'rows of origin {name}'} are not stated under source"
    for name, part in manifest.splits.items():
        lines = [line for line in parts["the split"].split("\n") if name in line.lower()]
        if not any(states(line, part.rows) and part.sha256[:SHORT_HASH] in line for line in lines):
            yield f"{part.rows} rows and the hash of {name} are not stated under split"
    if not re.search(r"\b(?:not approved|pending|approved by|refused)\b", parts["approval"].lower()):
        yield "the approval says neither pending, approved by whom, nor refused"


def check_report(submission: Submission, context: Context) -> list[Finding]:
    """data.report_numbers: the report's numbers are those of the files."""
    text, metrics = submission.text(REPORT), load_metrics(submission)
    missing = missing_sections(text, REPORTED, 6)
    looked = about(text, REPORTED["what was inspected"])
    low = round(100 * wilson(min(metrics.inspected_good, metrics.inspected), metrics.inspected)[0], 1)
    for name, value in (("inspected rows", metrics.inspected), ("good rows", metrics.inspected_good),
                        ("lower end of the 95 % interval in percent", low)):  # fmt: skip
        missing += [] if states(looked, value) else [f"{name} is {value:g} and is not stated"]
    if not states(about(text, REPORTED["what was rejected"]), metrics.rejected):
        missing.append(f"rejected rows are {metrics.rejected} and not stated")
    lines = about(text, REPORTED["cleaning"]).lower().split("\n")
    stated = {"candidates": metrics.candidates, "kept": metrics.kept, **{s: metrics.removed.get(s, 0) for s in STEPS}}
    missing += [f"{name} is {value} in metrics.json and not stated beside it" for name, value in stated.items()
                if not any(name in line and states(line, value) for line in lines)]  # fmt: skip
    return [packet.prose("data.report_numbers", REPORT, missing, "its parts, and the numbers of the files")]


def check_readme(submission: Submission, context: Context) -> list[Finding]:
    """data.readme: the usual parts, and what generated the data: prompt, model, day, rules."""
    text = submission.text("README.md")
    found = missing_sections(text, {**packet.README, "generation": ("generat", "how it was made")}, 8)
    made = about(text, ("generat", "how it was made"))
    found += [] if SYSTEM["answer"] in made else ["the prompt of the generation is not quoted"]
    for name in ("model:", "date:", "rules:"):
        if not re.search(rf"(?mi)^\W*{name}\W*\w", made):
            found.append(f"no line {name!r} under generation")
    return [packet.prose("data.readme", "README.md", found, "use case, assumptions, setup, results and generation")]


def check_notebook(submission: Submission, context: Context) -> list[Finding]:
    """data.notebook: executed from the top, no error, no exercise left open. Outputs are read and prove nothing."""
    return [packet.notebook("data.notebook", submission)]


def check_risks(submission: Submission, context: Context) -> list[Finding]:
    """data.risk_notes"""
    return [packet.risks("data.risk_notes", submission)]


def check_costs(submission: Submission, context: Context) -> list[Finding]:
    """data.cost_notes: the four parts, and the numbers of the run."""
    missing = packet.cost_gaps(submission)
    return [packet.prose("data.cost_notes", "cost-notes.md", missing, "tokens, seconds, money and scaling")]
