"""What a cohort handed in: folders, archives, a CSV, or a bulk download of Moodle or Canvas, as a list of entries.

An archive is never unpacked to the disk. Its members are read into memory under the limits of ``Submission``, by what
the bytes are and not by what a header claims; links, devices, paths that leave, archives inside archives and
anything encrypted are refused by name. An entry that cannot be read says why, and the others go on.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from course_grader.archives import SUFFIXES, is_archive, read_archive, read_bytes, unpack_bulk
from course_lib.catalog import artifacts
from course_lib.errors import ArtifactError, UsageError
from course_lib.submission import IGNORED, Limits, Submission

MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_(?P<kind>file|onlinetext)(?:_(?P<file>.*))?")
CANVAS = re.compile(r"(?P<name>[^_]+)_(?:(?P<late>LATE)_)?(?P<id>\d+)_\d+_(?P<file>.+)")
ATTEMPT = re.compile(r"attempt[-_ ]?(\d{1,3})", re.IGNORECASE)
RESENT = re.compile(r"-\d{1,2}(?=\.[^.]+$)")  # Canvas adds -1 to the name of a file that was handed in again
COLUMNS = ("learner", "path", "name", "submitted")
STRAY = "it is neither a folder nor an archive (zip, tar, tar.gz, tar.bz2, tar.xz)"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that one learner handed in. error: why it is refused, then nothing of it is read.

    learner: a stable id. source: where it lay, relative. files: name -> path for loose files of a bulk download.
    submitted: ISO 8601 in UTC, or empty. late: the learning platform says so, without a time.
    """

    learner: str
    name: str
    source: str
    path: Path
    error: str = ""
    attempt: int = 1
    submitted: str = ""
    late: bool = False
    platform: str = ""
    files: tuple[tuple[str, Path], ...] = field(default=())


def read_entry(entry: Entry, limits: Limits | None = None) -> Submission:
    """The files of an entry. Raises ArtifactError for whatever is not safe or not readable."""
    limits = limits or Limits()
    if entry.error:
        raise ArtifactError(entry.error, where=entry.source, fix="Ask the learner to hand it in again.")
    if entry.files:
        return Submission(entry.learner, _loose(entry.files, limits), limits)
    path = _inner(entry.path) if entry.path.is_dir() and not entry.path.is_symlink() else entry.path
    if path.is_dir() and not path.is_symlink():
        return Submission.open(path, limits)
    return Submission(entry.learner, read_archive(path, limits), limits)


def collect(paths: Iterable[Path | str], module: str = "06", unpack_to: Path | None = None) -> list[Entry]:
    """The entries of a cohort, sorted by learner and attempt.

    paths: each a submission folder, a folder of submissions, an archive of one submission, a bulk download as zip, or a
    CSV with the columns learner, path and, if known, name and submitted. unpack_to: where the entries of a bulk zip go.
    Raises UsageError for a path that is not there and for a CSV without its columns.
    """
    found: list[Entry] = []
    for path in map(Path, paths):
        if not os.path.lexists(path):
            raise UsageError("There is nothing at this path.", where=str(path),
                             fix="Name what was handed in: a folder, an archive or a CSV.")
        if path.suffix.lower() == ".csv":
            found += _from_csv(path)
        elif is_archive(path.name) and path.is_file():
            found += _from_archive(path, module, unpack_to)
        elif path.is_dir():
            found += [_entry(path, path.name)] if _is_submission(path, module) else _from_folder(path)
        else:
            found.append(_entry(path, path.name, error=STRAY))
    return _numbered(found)


def _numbered(found: list[Entry]) -> list[Entry]:
    """Several entries of one learner become attempts, in the order of their times, else of their numbers."""
    ordered = sorted(found, key=lambda e: (e.learner, e.submitted or "9999", e.attempt, e.source))
    counts: dict[str, int] = {}
    result = []
    for entry in ordered:
        counts[entry.learner] = counts.get(entry.learner, 0) + 1
        result.append(replace(entry, attempt=counts[entry.learner]))
    return result


def _artifacts(module: str) -> set[str]:
    """Names that only a submission has; a folder of submissions may well hold a README of its own."""
    return set(artifacts(module)) - {"README.md"}


def _is_submission(folder: Path, module: str) -> bool:
    return any((folder / name).is_file() for name in _artifacts(module))


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if e.name not in IGNORED and not e.name.startswith(".")),
                      key=lambda e: e.name)  # fmt: skip


def _from_folder(folder: Path) -> list[Entry]:
    found: list[Entry] = []
    loose: dict[tuple[str, str], list[tuple[str, os.DirEntry[str], re.Match[str]]]] = {}
    for item in _visible(folder):
        moodle, canvas = MOODLE.fullmatch(item.name), CANVAS.fullmatch(item.name)
        if moodle:
            if moodle["kind"] == "onlinetext":
                found.append(_moodle(moodle, item, "only an online text was handed in"))
            elif item.is_dir(follow_symlinks=False):
                found.append(_moodle(moodle, item))
            else:
                loose.setdefault(("moodle", moodle["id"]), []).append((moodle["file"] or item.name, item, moodle))
        elif canvas and not item.is_dir(follow_symlinks=False):
            loose.setdefault(("canvas", canvas["id"]), []).append((canvas["file"], item, canvas))
        else:
            found += _plain(folder, item)
    found += [_grouped(platform, parts) for (platform, _), parts in loose.items()]
    handed_in = {e.learner for e in found if e.platform == "moodle" and not e.error}
    return [e for e in found if not (e.platform == "moodle" and e.error and e.learner in handed_in)]


def _plain(folder: Path, item: os.DirEntry[str]) -> list[Entry]:
    """A folder or an archive named after the learner; a folder of ``attempt-N`` holds several."""
    path = Path(item.path)
    if item.is_symlink():
        return [_entry(path, item.name, error="it is a link")]
    if item.is_dir():
        inside = _visible(path)
        numbers = [ATTEMPT.fullmatch(_stem(e.name)) for e in inside]
        if inside and all(numbers):
            return [replace(_entry(Path(e.path), item.name, error="it is a link" if e.is_symlink() else ""),
                            attempt=int(n[1]), source=f"{item.name}/{e.name}")
                    for e, n in zip(inside, numbers, strict=True) if n]  # fmt: skip
        return [_entry(path, item.name)]
    if is_archive(item.name):
        return [_entry(path, _stem(item.name))]
    if not item.is_file():
        return [_entry(path, item.name, error="it is a pipe, socket or device")]
    return [_entry(path, item.name, error=STRAY)]


def _entry(path: Path, learner: str, error: str = "") -> Entry:
    return Entry(learner, learner, path.name, path, f"The submission is refused: {error}." if error else "")


def _moodle(match: re.Match[str], item: os.DirEntry[str], error: str = "") -> Entry:
    entry = _entry(Path(item.path), match["id"], error or ("it is a link" if item.is_symlink() else ""))
    return replace(entry, name=match["name"], platform="moodle")


def _grouped(platform: str, parts: list[tuple[str, os.DirEntry[str], re.Match[str]]]) -> Entry:
    """The loose files of one learner: one archive, or the files of the submission themselves."""
    _, first, match = parts[0]
    entry = replace(_entry(Path(first.path), match["id"]), name=match["name"], platform=platform,
                    late=platform == "canvas" and any(m["late"] for _, _, m in parts))  # fmt: skip
    if len(parts) == 1 and is_archive(first.name):
        return entry
    strip = (lambda name: RESENT.sub("", name)) if platform == "canvas" else str
    files = tuple((strip(name), Path(item.path)) for name, item, _ in parts)
    return replace(entry, files=files)


def _loose(files: Iterable[tuple[str, Path]], limits: Limits) -> Mapping[str, bytes]:
    read: dict[str, bytes] = {}
    for name, path in files:
        if name in read:
            raise ArtifactError(f"The submission is refused: {name} was handed in twice.", where=path.name,
                                fix="Hand in each file once.")
        read[name] = read_bytes(path, min(limits.file_bytes, limits.total_bytes - sum(map(len, read.values()))))
    return read


def _inner(folder: Path) -> Path:
    """A folder that holds one folder or one archive, and nothing else, is that: as archives are often packed."""
    for _ in range(2):
        inside = _visible(folder)
        if len(inside) == 1 and is_archive(inside[0].name):
            return Path(inside[0].path)
        if len(inside) != 1 or not inside[0].is_dir(follow_symlinks=False):
            break
        folder = Path(inside[0].path)
    return folder


def _from_archive(path: Path, module: str, unpack_to: Path | None) -> list[Entry]:
    """One submission, or a bulk download: a zip whose members carry the names of a platform, or hold archives."""
    names = unpack_bulk(path, None)[0] if path.suffix.lower() == ".zip" and unpack_to else []
    bulk = any(MOODLE.match(n.split("/")[0]) or is_archive(n) or (CANVAS.match(n) and "/" not in n) for n in names)
    several = len({n.split("/")[0] for n in names}) > 1 and not _artifacts(module) & set(names)
    if unpack_to is None or not (bulk or several):
        return [_entry(path, _stem(path.name))]
    _, bad = unpack_bulk(path, unpack_to)
    return _from_folder(unpack_to) + [_bulk_refusal(error) for error in bad]


def _bulk_refusal(error: ArtifactError) -> Entry:
    """The learner whose member is refused, where the name tells; with other files of theirs it counts as an attempt."""
    top = error.where.strip("'").split("/")[0]
    match = MOODLE.match(top) or CANVAS.match(top)
    entry = Entry(match["id"] if match else top, match["name"] if match else top, error.where, Path(top), error.what)
    return replace(entry, platform="moodle" if match and "assignsubmission" in top else "canvas" if match else "")


def _stem(name: str) -> str:
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)] or name


def _from_csv(path: Path) -> list[Entry]:
    """Rows of a table. Paths must stay inside the folder of the CSV, because forms may have filled it."""
    try:
        text = read_bytes(path, 8 << 20).decode("utf-8-sig")
    except (ArtifactError, UnicodeDecodeError) as error:
        raise UsageError("The table cannot be read.", where=str(path), fix="Save it as a CSV in UTF-8.") from error
    head = text.partition("\n")[0]
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if head.count(";") > head.count(",") else ",")
    try:
        return list(_csv_rows(table, path))
    except csv.Error as error:
        raise UsageError(f"The table cannot be read: {error}.", where=f"{path}:{table.line_num + 1}",
                         fix="Close the quotes of this row.") from error


def _csv_rows(table: csv.DictReader[str], path: Path) -> Iterator[Entry]:
    names = [name.strip().lower() for name in table.fieldnames or []]
    if not {"learner", "path"} <= set(names):
        raise UsageError(f"The table has the columns {', '.join(names) or 'none'}.", where=f"{path}:1",
                         fix=f"Name the columns {', '.join(COLUMNS)}; the last two may be missing.")
    table.fieldnames = names
    for row in table:
        cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
        place = PurePosixPath(cells["path"])
        inside = path.parent / place
        error = "" if cells["learner"] else "the row names no learner"
        if not cells["path"] or place.is_absolute() or ".." in place.parts:
            error = error or "the path must stay inside the folder of the table"
        elif not inside.exists() or any((path.parent / part).is_symlink() for part in [place, *place.parents]):
            error = error or "there is nothing at this path, or a link"
        elif not stat.S_ISDIR(inside.stat().st_mode) and not is_archive(place.name):
            error = error or "it is neither a folder nor an archive"
        submitted, problem = _when(cells["submitted"])
        learner = cells["learner"] or f"line {table.line_num}"
        entry = _entry(inside, learner, error or problem)
        yield replace(entry, name=cells["name"] or learner, submitted=submitted,
                      source=f"{path.name}:{table.line_num} {cells['path']}")  # fmt: skip


def _when(text: str) -> tuple[str, str]:
    """(time in ISO form and UTC, problem). Without a zone it is refused: late or not must not depend on a machine."""
    if not text:
        return "", ""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return "", f"the time {text[:40]!r} is not ISO 8601"
    if value.tzinfo is None:
        return "", f"the time {text[:40]!r} has no zone, such as +00:00"
    try:
        return value.astimezone(UTC).isoformat(), ""
    except OverflowError:
        return "", f"the time {text[:40]!r} is in no year of UTC"
