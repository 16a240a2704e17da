"""Archives from strangers, read into memory under limits, by what the bytes are and never by what a header claims."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from course_lib.errors import ArtifactError, UsageError
from course_lib.submission import IGNORED, ODD_NAME, Limits

SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".tar", ".zip")
OTHERS = (".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".jar", ".whl")
MAGIC = (b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf", b"Rar!")
TAR_OVERHEAD = 2 << 20  # bytes: headers and padding of the members
XZ_MEMORY = 128 << 20  # bytes
BULK_MEMBERS = 20_000
PACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY),
}


Member = tuple[str, IO[bytes] | None, int]  # name, content of a file, and the size that the header claims


def is_archive(name: str) -> bool:
    """By the name of the file: zip or tar, packed or not."""
    return name.lower().endswith(SUFFIXES)


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file of at most ``limit`` bytes; links, pipes and devices are refused without waiting for them."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refused(path.name, f"it cannot be opened: {error.strerror}") from error
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise refused(path.name, "it is not a regular file")
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise refused(path.name, f"it is larger than {limit} bytes")
    return content


def read_archive(path: Path, limits: Limits) -> dict[str, bytes]:
    """The files of one submission: relative name -> bytes. One folder around everything is taken off.

    Raises ArtifactError for an archive that is damaged, hostile or beyond the limits.
    """
    raw = read_bytes(path, limits.total_bytes)
    try:
        members = _zip(raw, limits) if raw.startswith(b"PK") else _tar(raw, limits)
        files = dict(_accepted(members, limits))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError,
            NotImplementedError, RuntimeError, OverflowError) as error:
        raise refused(path.name, f"the archive is damaged ({type(error).__name__})") from error
    if not files:
        raise refused(path.name, "the archive is empty")
    return _without_wrapper(files)


def _without_wrapper(files: dict[str, bytes]) -> dict[str, bytes]:
    tops = {name.split("/")[0] for name in files}
    if len(tops) == 1 and all("/" in name for name in files):
        return {name.split("/", 1)[1]: content for name, content in files.items()}
    return files


def _accepted(members: Iterator[Member], limits: Limits) -> Iterator[tuple[str, bytes]]:
    """Names that stay inside, and contents up to the cap, measured while they are read."""
    seen: set[str] = set()
    room = limits.total_bytes
    for number, (name, stream, claimed) in enumerate(members, 1):
        if number > limits.files:
            raise refused(name, f"the archive holds more than {limits.files} entries")
        place = safe_name(name, limits.depth + 1)
        if place is None or stream is None:
            continue
        if place in seen or any(place.startswith(f"{other}/") or other.startswith(f"{place}/") for other in seen):
            raise refused(place, "two members have this name")
        seen.add(place)
        cap = min(limits.file_bytes, room)
        content = stream.read(cap + 1)
        if len(content) > cap:
            raise refused(place, f"it is too large: files may have {limits.file_bytes} bytes, {limits.total_bytes} "
                                 "together")  # fmt: skip
        if len(content) != claimed:
            raise refused(place, f"it has {len(content)} bytes and its header claims {claimed}")
        if place.lower().endswith(SUFFIXES + OTHERS) or content.startswith(MAGIC):
            raise refused(place, "it is an archive inside the archive")
        room -= len(content)
        yield place, content


def safe_name(name: str, depth: int) -> str | None:
    """The name with forward slashes; None for what systems leave behind. Raises ArtifactError when it would leave."""
    if ODD_NAME.search(name):
        raise refused(ascii(name), "its name holds control or direction characters, or a backslash")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or not path.parts:
        raise refused(name, "its path leaves the folder")
    if len(path.parts) > depth:
        raise refused(name, f"it lies deeper than {depth} folders")
    if any(len(part.encode()) > 255 for part in path.parts):
        raise refused(name[:60], "its name is too long")
    if set(path.parts) & (IGNORED | {"__MACOSX"}) or path.name.startswith("._"):
        return None
    return str(path)


def _zip(raw: bytes, limits: Limits) -> Iterator[Member]:
    if raw.count(b"PK\x01\x02") > 2 * limits.files:  # before a directory of half a million entries is built
        raise refused("the archive", f"it holds more than {limits.files} entries")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for info in archive.infolist():
            yield info.orig_filename, _zip_member(archive, info), info.file_size


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes] | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refused(info.filename, "it is a link" if kind == stat.S_IFLNK else "it is a pipe, socket or device")
    if info.flag_bits & 1:
        raise refused(info.filename, "it is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refused(info.filename, "it is compressed in a way that is not read; plain zip is")
    return None if info.is_dir() or kind == stat.S_IFDIR else archive.open(info)


def _tar(raw: bytes, limits: Limits) -> Iterator[Member]:
    """Unpacked under a cap first: what a tar header can make us read is then never more than that."""
    cap = limits.total_bytes + TAR_OVERHEAD
    for _ in range(2):
        make = next((make for magic, make in PACKERS.items() if raw.startswith(magic)), None)
        if make is None:
            break
        raw = _inflated(raw, make, cap)
    if raw[257:262] != b"ustar":
        raise refused("the file", "it is neither zip nor tar")
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
        for member in archive:
            if member.isdir():
                yield member.name, None, 0
            elif not member.isreg() or member.issparse():
                link = member.issym() or member.islnk()
                raise refused(member.name, "it is a link" if link else "it is a pipe, device or sparse file")
            else:
                yield member.name, archive.extractfile(member), member.size


def _inflated(raw: bytes, make: Callable[[], Any], cap: int) -> bytes:
    out = bytearray()
    while raw:
        packer = make()
        out += packer.decompress(raw, cap + 1 - len(out))
        if len(out) > cap:
            raise refused("the archive", f"it unpacks to more than {cap} bytes")
        if not packer.eof:
            raise EOFError
        raw = packer.unused_data.lstrip(b"\x00")
    return bytes(out)


def unpack_bulk(path: Path, to: Path | None) -> tuple[list[str], list[ArtifactError]]:
    """The safe names inside a bulk download, and why others are refused; with ``to`` the files are written there, in
    place of what was there. One bad name does not stop the rest.

    Raises UsageError for a file that is no zip, and for one of more than ``BULK_MEMBERS`` entries.
    """
    if to is not None:
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True)
    names: list[str] = []
    bad: list[ArtifactError] = []
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > BULK_MEMBERS:
                raise UsageError(f"The archive holds more than {BULK_MEMBERS} entries.", where=str(path),
                                 fix="Unpack it and name the folder.")
            for info in archive.infolist():
                try:
                    name = _bulk_member(archive, info, to)
                    names += [name] if name else []
                except ArtifactError as error:
                    bad.append(error)
                except (zipfile.BadZipFile, OSError, zlib.error, EOFError, ValueError) as error:
                    bad.append(refused(ascii(info.filename), f"it is damaged ({type(error).__name__})"))
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError("The archive cannot be read.", where=str(path), fix="Download it again.") from error
    return names, bad


def _bulk_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, to: Path | None) -> str | None:
    name, stream = safe_name(info.orig_filename, 12), _zip_member(archive, info)
    if name is None or stream is None or to is None:
        return name if stream is not None else None
    cap = Limits().total_bytes
    content = stream.read(cap + 1)
    if len(content) > cap:
        raise refused(name, f"it is larger than {cap} bytes")
    (to / name).parent.mkdir(parents=True, exist_ok=True)
    with (to / name).open("xb") as out:
        out.write(content)
    return name


def refused(place: str, reason: str) -> ArtifactError:
    return ArtifactError(f"The submission is refused: {place}, because {reason}.", where=place,
                         fix="Hand in a zip or tar of plain files of the lab only.")
