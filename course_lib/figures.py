"""Published figures: ``figures.json`` at the root is the one place where a number that the docs quote lives.

The command that measures a figure writes it with ``record``; README tables between ``<!-- figures NAME … -->`` and
``<!-- end figures -->`` are rendered from the file, and a test fails when they differ.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from course_lib.errors import DataError
from course_lib.files import write_text

BLOCK = re.compile(r"(<!-- figures ([a-z0-9_ ]+) -->\n).*?(<!-- end figures -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. low and high: a 95 % interval, or what the title says, or None; n: sample size, or None when
    it is not a sample."""

    name: str
    value: float
    unit: str
    command: str
    commit: str
    date: str
    machine: str
    low: float | None = None
    high: float | None = None
    n: int | None = None
    title: str = ""


def path() -> Path:
    from course_lib.catalog import repo_root

    return repo_root() / "figures.json"


def load(file: Path | None = None) -> dict[str, Figure]:
    """Every figure by name; empty when the file is not there. Raises DataError when it cannot be read."""
    file = file or path()
    if not file.exists():
        return {}
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["figures"]
        return {row["name"]: Figure(**row) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("The file of figures cannot be read.", where=f"{file}: {error}", fix="make figures") from error


def record(name: str, value: float, unit: str, *, command: str, low: float | None = None, high: float | None = None,
           n: int | None = None, title: str = "", file: Path | None = None) -> Figure:
    """Write or replace one figure with today's date, this machine and the commit checked out now."""
    figure = Figure(name, _short(value), unit, command, _commit(), date.today().isoformat(), machine(),
                    _short(low), _short(high), n, title)
    file = file or path()
    rows = load(file) | {name: figure}
    text = json.dumps({"figures": [asdict(rows[key]) for key in sorted(rows)]}, indent=1, ensure_ascii=False)
    write_text(file, text + "\n", mode=None)
    return figure


def render(text: str, figures: dict[str, Figure] | None = None) -> str:
    """``text`` with every block of figures filled in. Raises DataError for a name that was never measured."""
    known = load() if figures is None else figures

    def block(match: re.Match[str]) -> str:
        rows = []
        for name in match[2].split():
            if name not in known:
                raise DataError(f"The figure {name!r} was never measured.", where="figures.json", fix="make figures")
            rows.append(_row(known[name]))
        head = "| what | value | 95 % interval | n |\n|---|---|---|---|\n"
        return f"{match[1]}{head}{''.join(rows)}{match[3]}"

    return BLOCK.sub(block, text)


def machine() -> str:
    """Cores, memory and system of this machine, in words and without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def _row(figure: Figure) -> str:
    interval = "" if figure.low is None else f"{figure.low:g} to {figure.high:g}"
    unit = f" {figure.unit}" if figure.unit not in ("", "rate", "count") else ""
    n = "" if figure.n is None else f"{figure.n:,}"
    return f"| {figure.title or figure.name} | {figure.value:g}{unit} | {interval} | {n} |\n"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}") if abs(value) < 10_000 else float(round(value))


def _commit() -> str:
    from course_lib.catalog import repo_root

    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=repo_root(), capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
