"""What the reviewer's panel shows, as HTML. Learners, findings and files are strangers' text: all of it is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

from course_grader.review_desk import Item
from course_lib.report import MARKS, WORDS, points, visible
from course_lib.types import Finding

INERT = "tex2jax_ignore mathjax_ignore"  # dollar signs of a submission are no mathematics


def text(value: object) -> str:
    """Escaped, hidden characters written out."""
    return html.escape(str(visible(str(value))))


def progress(labs: str, done: int, total: int, drafts: int) -> str:
    """Which labs, and how far the reviews are."""
    share = 100 * done / total if total else 100
    unsaved = f" · {drafts} not saved" if drafts else ""
    return (f"<div class='{INERT}'><p class='soft'>{text(labs)}</p>"
            f"<div class='track'><div style='width:{share:.1f}%'></div></div>"
            f"<p><b>{done} of {total}</b> reviews given{unsaved}</p></div>")  # fmt: skip


def said(what: str, kind: str = "") -> str:
    """What just happened: kind is good, warn, bad or nothing. A screen reader is told."""
    return f"<p role='status' aria-live='polite' class='said {kind} {INERT}'>{text(what)}</p>" if what else ""


def warning(what: str) -> str:
    return f"<p class='warn {INERT}'>{text(what)}</p>" if what else ""


def file(name: str, content: str) -> str:
    """A file of a submission, as text that does nothing."""
    prose = " prose" if name.endswith((".md", ".txt")) else ""
    return f"<pre class='file{prose} {INERT}' tabindex='0' aria-label='{text(name)}'>{text(content)}</pre>"


def head(item: Item) -> str:
    """Who, what is asked, what was given before, and, folded, what a judge suggests."""
    row, line, report = item.row, item.line, item.row.report
    so_far = f", {points(report.points)} of {points(report.maximum)} points so far" if report else ""
    parts = [f"<h3>{text(row.name)}</h3><p class='soft'>Lab {text(item.module)}, attempt {row.attempt}{so_far}</p>",
             f"<h4>{text(line.title)}</h4><p>{text(item.guidance)}</p>"]  # fmt: skip
    parts += [f"<p class='said warn'>{text(note)}</p>" for note in row.notes]
    if not item.open:
        parts.append(f"<p class='said good'>{points(line.reviewer or 0)} of {points(line.points)} by {text(line.who)}, "
                     f"{text(line.when[:10])}: {text(line.reason)}</p>")  # fmt: skip
    if line.suggestion is not None:
        why = f": {text(line.reason)} <span class='soft'>{text(line.who)}</span>" if item.open else ""
        parts.append("<details><summary>A judge's suggestion. Decide first, then compare.</summary>"
                     f"<p>{points(line.suggestion)} of {points(line.points)}{why}</p></details>")  # fmt: skip
    return f"<div class='{INERT}'>{''.join(parts)}</div>"


def checks(findings: Sequence[Finding]) -> str:
    """What the automatic part found: what did not pass in the open, the rest folded."""
    bad, good = ([f for f in findings if f.ok is ok] for ok in (False, True))

    def rows(group: Sequence[Finding]) -> str:
        return "".join(f"<li class='{f.outcome}'><b>{MARKS[f.outcome]} {WORDS[f.outcome]}</b> {text(f.message)}"
                       f"{'' if f.ok else f' <code>{text(f.where)}</code>'}</li>" for f in group)  # fmt: skip

    failed = f"<ul>{rows(bad)}</ul>" if bad else ""
    passed = f"<details><summary>{len(good)} passed</summary><ul>{rows(good)}</ul></details>" if good else ""
    title = f"What the checks found: {len(bad)} of {len(findings)} did not pass"
    return f"<div class='checks {INERT}'><p class='caption'>{title}</p>{failed}{passed}</div>" if findings else ""
