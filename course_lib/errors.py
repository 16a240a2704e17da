"""Errors that say what is wrong, where, and how to fix it. The command line shows them without a traceback."""

from __future__ import annotations


class CourseError(Exception):
    """A mistake or a missing condition that a person can fix.

    what: one sentence; where: file and line, a folder, or a setting; fix: the next step, imperative.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return "\n".join(parts)


class UsageError(CourseError):
    """A wrong argument or an unknown name."""

    exit_code = 2


class DataError(CourseError):
    """A file of the course is missing, malformed, or does not match its checksum."""


class ArtifactError(CourseError):
    """A file of a submission is missing, unsafe, or cannot be read as what it should be."""


class RubricError(CourseError):
    """A rubric file contradicts itself."""


class ModelError(CourseError):
    """A model, or the server that serves it, is unknown, unreachable, or could not start."""


class BudgetExceeded(CourseError):
    """The next request could pass the limit of money; it was not sent."""


class AccessDenied(CourseError):
    """The caller may not see what they asked for. Says which rule denied, never what was hidden."""


class ExecutionError(CourseError):
    """A notebook stopped: which cell, which error, and where the partial result lies."""
