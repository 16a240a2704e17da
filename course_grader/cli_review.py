"""``course review`` and ``course kernels``: what a facilitator opens in JupyterLab. Prints; computes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from course_lib.errors import UsageError


def review(
    gradebook: Annotated[Path, typer.Argument(help="Folder of a gradebook that course grade wrote.")],
    submissions: Annotated[list[Path] | None, typer.Argument(
        help="What was graded, as for course grade: then the panel shows each learner's files.")] = None,
    reviewer: Annotated[str, typer.Option(help="Your name, for the ledger.")] = "",
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open JupyterLab, or only write it.")] = True,
) -> None:
    """Score what people score, beside the evidence: writes GRADEBOOK/review.ipynb and opens it in JupyterLab."""
    from course_grader.review_desk import Desk
    from course_grader.review_panel import write_notebook

    for path in submissions or ():
        if not path.exists():
            raise UsageError("There is nothing at this path.", where=str(path), fix="Name what was graded.")
    items = Desk(gradebook).items()
    notebook = write_notebook(gradebook, submissions or (), reviewer)
    typer.echo(f"{notebook}: {sum(item.open for item in items)} of {len(items)} reviews are open")
    if open_it:
        root = ["--allow-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
        raise typer.Exit(subprocess.run([sys.executable, "-m", "jupyterlab", *root, str(notebook)]).returncode)


def kernels() -> None:
    """Offer warm kernels to JupyterLab, papermill and nbval: they start in half a second, with the imports done."""
    from course_grader.kernels import KERNELSPECS, install_kernelspecs

    if not sys.platform.startswith("linux"):
        raise UsageError("Warm kernels need Linux.", fix="Use the kernel Python 3; it does the same, slower.")
    for folder in install_kernelspecs():
        typer.echo(f"{folder.name}: {KERNELSPECS[folder.name][0]}")
    typer.echo("The first one starts the process that they are forked from, which takes ten seconds or more.")
