"""The text of a handed-in file as a reader would see it, whatever its format escapes."""

from __future__ import annotations

import re

from course_lib.strictjson import BadJson
from course_lib.submission import Submission


def plain_text(submission: Submission, name: str) -> str:
    """The text that a reader of this file would see: strings of JSON documents unescaped, other files as they are."""
    raw = submission.raw(name)
    if name.endswith((".json", ".jsonl", ".ipynb")):
        parts = raw.split(b"\n") if name.endswith(".jsonl") else [raw]
        glue = "" if name.endswith(".ipynb") else "\n"  # a notebook keeps one text as a list of lines
        return "\n".join(_strings(submission, part, glue) for part in parts)
    return raw.decode("utf-8", "replace")


def _strings(submission: Submission, raw: bytes, glue: str) -> str:
    try:
        stack = [submission.parsed(raw)]
    except BadJson:
        return re.sub(r"\\[nrt]", " ", raw.decode("utf-8", "replace"))
    out = []
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            out.append(item)
        elif isinstance(item, list):
            text = item and all(isinstance(part, str) for part in item)
            stack.extend([glue.join(item)] if text else item[::-1])
        elif isinstance(item, dict):
            stack.extend([*item.keys(), *item.values()][::-1])
    return "\n".join(out)
