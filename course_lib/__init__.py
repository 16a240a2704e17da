"""The shared package of the course: what a learner should not have to read twice.

Importing it has no side effect and pulls in nothing heavy; ``connect`` is looked up on first use.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> Any:
    if name == "connect":
        from course_lib.models import connect

        return connect
    raise AttributeError(f"module 'course_lib' has no attribute {name!r}")
