"""SHA-256 manifests of data folders, in the form that ``sha256sum -c`` reads."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from course_lib.errors import CourseError, UsageError
from course_lib.strict import fail, read_text

MANIFEST = "SHA256SUMS"
_MANIFEST_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


def _digests(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    names = {p.relative_to(folder).as_posix(): p for p in files}
    visible = {name: p for name, p in names.items() if not any(part.startswith(".") for part in name.split("/"))}
    return {name: hashlib.sha256(visible[name].read_bytes()).hexdigest() for name in sorted(visible)}


def write_checksums(folder: Path | str) -> int:
    """Writes ``SHA256SUMS`` over every visible file below ``folder``, in the form of sha256sum. Returns the number."""
    digests = _digests(Path(folder))
    text = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    (Path(folder) / MANIFEST).write_text(text, encoding="utf-8")
    return len(digests)


def verify_checksums(folder: Path | str) -> int:
    """Compares every file below ``folder`` with ``SHA256SUMS``. Returns how many were compared.

    Raises DataError for a changed, missing or unlisted file, an unsafe path, or a malformed manifest.
    """
    folder, listed = Path(folder), {}
    manifest = folder / MANIFEST
    for number, line in enumerate(read_text(manifest).splitlines(), 1):
        match = _MANIFEST_LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else None
        if match is None or name is None or name.is_absolute() or ".." in name.parts or match[2] in listed:
            raise fail("The line is not a checksum and a file of this folder.", f"{manifest}:{number}")
        listed[match[2]] = match[1]
    found = _digests(folder)
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            reason = "is missing" if name not in found else "is not listed" if name not in listed else "has changed"
            raise fail(f"The file {reason}.", str(folder / name),
                        "Restore it, or refresh the list with: python -m course_lib.checksums --write")
    return len(listed)


def main(arguments: list[str]) -> None:
    """``--write [FOLDER …]``: refreshes the manifests, by default those of data/corpus and data/evals/rag. Silent."""
    if arguments[:1] != ["--write"]:
        raise UsageError("Unknown arguments.", where="course_lib.checksums",
                         fix="Use: python -m course_lib.checksums --write [FOLDER ...]")
    from course_lib.catalog import repo_root

    data = repo_root() / "data"
    for folder in arguments[1:] or [data / "corpus", data / "evals" / "rag"]:
        write_checksums(folder)


if __name__ == "__main__":
    import sys

    try:
        main(sys.argv[1:])
    except CourseError as problem:
        sys.exit(str(problem))
