"""The checkers of the labs, found by the number of the module. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from course_lib.catalog import find
from course_lib.errors import UsageError

if TYPE_CHECKING:
    from course_lib.checks.common import Checker

# Module -> the Python module that lists its checkers as CHECKERS.
LABS = {"01": "course_lib.checks.lab_01_selection", "02": "course_lib.checks.lab_02_dataset",
        "03": "course_lib.checks.lab_03_fine_tuning", "06": "course_lib.checks.lab_06_rag"}  # fmt: skip


def checkers(module: str | int) -> tuple[Checker, ...]:
    """The checkers of a module's lab, in the order in which a report shows them. Raises UsageError when it has none."""
    code = find(module).code
    if code not in LABS:
        raise UsageError(f"There are no checkers for module {code}.", where="course_lib.checks",
                         fix=f"Modules with checkers: {', '.join(LABS)}.")
    return importlib.import_module(LABS[code]).CHECKERS


def rules(module: str | int) -> tuple[str, ...]:
    """Every rule that the checkers of a module report."""
    return tuple(rule for checker in checkers(module) for rule in checker.rules)
