"""The report of a graded submission as one HTML page and one JSON file, and an index over several.

Everything in a submission is hostile text here: it is escaped, control and direction characters are made visible, and a
strict content security policy leaves nothing that could run or load, whatever was missed. No clock is read: the same
report gives the same bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from course_lib.files import write_text
from course_lib.rubric import BANDS, BLOCKED, CriterionResult, LabReport
from course_lib.types import Finding, Outcome

if TYPE_CHECKING:
    from jinja2 import Environment

MARKS = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.ERROR: "!", Outcome.SKIPPED: "…"}
WORDS = {Outcome.PASS: "pass", Outcome.FAIL: "fail", Outcome.ERROR: "needs review", Outcome.SKIPPED: "pending"}
_HIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class _Area:
    name: str
    points: float
    earned: float
    pending: float
    unscored: float
    criteria: tuple[CriterionResult, ...]


def visible(value: Any) -> Any:
    """Text with control, zero-width and direction characters written out, so that a page shows what is there."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", str(value))
    return value


def points(value: float) -> str:
    """At most two decimals, none where none are needed."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


@functools.cache
def environment(more: Path | None = None) -> Environment:
    """Templates that escape everything; ``style`` is the one stylesheet that the policy of a page lets in.

    more: another folder of templates, which may use those that are here.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loaded = Environment(loader=FileSystemLoader([TEMPLATES, more] if more else TEMPLATES), autoescape=True,
                         finalize=visible, undefined=StrictUndefined, trim_blocks=True,
                         lstrip_blocks=True)  # fmt: skip
    loaded.filters["points"] = points
    loaded.globals.update(style_of("style.css"), marks=MARKS, words=WORDS)
    return loaded


def style_of(*names: str | Path) -> dict[str, str]:
    """The stylesheets joined, and the hash that lets them through the policy, as variables of a page.

    names: of files in the folder of templates, or whole paths.
    """
    from markupsafe import Markup

    style = "".join((TEMPLATES / name).read_text("utf-8") for name in names)
    return {"style": Markup(style), "style_hash": base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}


def render_report(report: LabReport) -> str:
    """One self-contained page: no script, no image, no font, nothing that loads."""
    return environment().get_template("report.html").render(report_values(report))


def report_values(report: LabReport) -> dict[str, Any]:
    """What ``report.html`` shows, for it and for pages that extend it."""
    not_passed = [gate for gate in report.gates if not gate.passed]
    by_rule: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    lost = report.maximum - report.points - report.pending - report.unscored
    text = f"Blocked by {len(not_passed)} gate{'s' * (len(not_passed) > 1)}" if not_passed else report.band.capitalize()
    findings = {c.id: _distinct([f for rule in c.rules for f in by_rule.get(rule, [])]) for c in report.criteria}
    return {"report": report, "areas": _areas(report), "todo": _todo(report), "blocked": len(not_passed),
            "lost": round(lost, 2), "band_text": text, "band_tag": band_tag(report), "findings": findings}  # fmt: skip


def _areas(report: LabReport) -> list[_Area]:
    areas = []
    for name in dict.fromkeys(criterion.area for criterion in report.criteria):
        own = tuple(criterion for criterion in report.criteria if criterion.area == name)
        sums = (sum(getattr(c, part) for c in own) for part in ("points", "earned", "pending", "unscored"))
        areas.append(_Area(name, *sums, own))
    return areas


def band_tag(report: LabReport) -> Outcome:
    """The colour of the band."""
    if report.band == BLOCKED:
        return Outcome.FAIL
    return Outcome.PASS if report.band == BANDS[0][1] else Outcome.ERROR if report.band == BANDS[1][1] else Outcome.FAIL


def _todo(report: LabReport) -> list[tuple[str, str]]:
    """(what, advice): unreadable evidence first, then gates, because they block, then what costs most points. At most
    six, each advice once."""
    parts = [(gate.outcome, gate.title, gate.remediation) for gate in report.gates]
    costly = sorted(report.criteria, key=lambda criterion: -criterion.points)
    parts += [(c.outcome, c.title, c.remediation) for c in costly if c.scored_by == "auto"]
    errors = [finding for finding in report.findings if finding.outcome is Outcome.ERROR]
    advice = {f"{f.message} ({f.where or 'grader'}) {f.fix}": "Needs a look" for f in errors}
    advice |= {remediation: title for outcome, title, remediation in parts if outcome is Outcome.FAIL}
    return [(title, text) for text, title in advice.items()][:6]


def _distinct(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings for a table; those that say the same stand once. more: further places, from the evidence."""
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for finding in findings:
        lists = [value for value in finding.evidence.values() if isinstance(value, list)]
        more = [str(item) for item in lists[0]] if lists and len(lists[0]) > 1 and not finding.ok else []
        shown.setdefault((finding.message, finding.where), {"finding": finding, "more": more})
    return list(shown.values())


def render_index(rows: Sequence[Mapping[str, Any]], out: Path) -> str:
    """A table over several graded submissions, with links to their reports relative to ``out``."""
    shown = [_index_row(row, out) for row in rows]
    passed = sum(not row["error"] and not row["gates_failed"] for row in shown)
    return environment().get_template("index.html").render(rows=shown, passed=passed)


def _index_row(row: Mapping[str, Any], out: Path) -> dict[str, Any]:
    html = row.get("html")
    link = quote(os.path.relpath(html, out).replace(os.sep, "/")) if html else ""
    link = f"./{link}" if link else ""  # a name with a colon must not become a scheme
    base = {"points": 0.0, "pending": 0.0, "max": 20.0, "band": "", "gates_failed": [], "error": "", "module": ""}
    return base | dict(row) | {"link": link, "name": Path(str(row.get("folder", ""))).name or "unnamed"}


def write_report(report: LabReport, out: Path | str) -> Path:
    """Writes ``report.html`` and ``report.json`` into ``out``; returns the path of the page."""
    out = Path(out)
    write_text(out / "report.json", report.to_json())
    return write_text(out / "report.html", render_report(report))


def write_index(rows: Sequence[Mapping[str, Any]], out: Path | str) -> Path:
    """Writes ``index.html`` into ``out``; returns its path.

    rows: one per submission, as ``course grade --json`` prints them: folder, module, points, pending, max, band,
    gates_failed, error, and html, the path of the report.
    """
    out = Path(out)
    return write_text(out / "index.html", render_index(rows, out))
