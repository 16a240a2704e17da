"""What a cohort hands in: every layout is understood, and nothing hostile is read or written outside."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_grader import archives
from course_grader.archives import read_archive, safe_name
from course_grader.intake import Entry, collect, read_entry
from course_lib.errors import ArtifactError, UsageError
from course_lib.submission import Limits

SMALL = Limits(files=20, file_bytes=50_000, total_bytes=100_000)
FILES = {"README.md": b"# Work\n", "lab.ipynb": b"{}", "notes/a.md": b"text"}


def packed_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def packed_tar(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def link_zip(name: str, target: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
    return out.getvalue()


def lying_zip(real: bytes, claimed: int) -> bytes:
    """Both headers claim another size than the member has."""
    raw = bytearray(packed_zip({"a.md": real}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = raw.index(signature) + offset
        raw[at : at + 4] = claimed.to_bytes(4, "little")
    return bytes(raw)


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("top", ["", "lab06/"])
def test_archives_are_read_by_their_content(tmp_path: Path, name: str, top: str) -> None:
    files = {top + key: content for key, content in FILES.items()} | {"__MACOSX/._README.md": b"x", ".DS_Store": b"x"}
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(name.rsplit(".", 1)[1], bytes)
    (tmp_path / name).write_bytes(packed_zip(files) if name.endswith("zip") else pack(packed_tar(files)))
    entry = collect([tmp_path])[0]
    assert (entry.learner, dict(read_entry(entry).files)) == ("a", FILES)


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "dots": ("zip", lambda: packed_zip({"../out.md": b"x"}), "leaves the folder"),
    "dots inside": ("zip", lambda: packed_zip({"a/../../out.md": b"x"}), "leaves the folder"),
    "absolute": ("tar", lambda: packed_tar({"/tmp/out.md": b"x"}), "leaves the folder"),
    "drive": ("zip", lambda: packed_zip({"C:/out.md": b"x"}), "leaves the folder"),
    "backslash": ("zip", lambda: packed_zip({"..\\out.md": b"x"}), "direction characters, or a backslash"),
    "bidi name": ("zip", lambda: packed_zip({"a\u202edm.exe": b"x"}), "direction characters"),
    "NUL in the name": ("zip", lambda: packed_zip({"aZ/../x": b"x"}).replace(b"aZ/../x", b"a\0/../x"), "direction"),
    "zip link": ("zip", lambda: link_zip("README.md", "/etc/passwd"), "it is a link"),
    "tar link": ("tar", lambda: packed_tar(FILES, special("l", tarfile.SYMTYPE, "/etc/passwd")), "it is a link"),
    "hard link": ("tar", lambda: packed_tar(FILES, special("l", tarfile.LNKTYPE, "README.md")), "it is a link"),
    "device": ("tar", lambda: packed_tar(FILES, special("d", tarfile.CHRTYPE)), "pipe, device"),
    "FIFO": ("tar", lambda: packed_tar(FILES, special("f", tarfile.FIFOTYPE)), "pipe, device"),
    "bomb": ("zip", lambda: packed_zip({"a.md": bytes(5_000_000)}), "too large"),
    "many small": ("zip", lambda: packed_zip({f"{i}.md": bytes(40_000) for i in range(9)}), "too large"),
    "packed tar bomb": ("tar.gz", lambda: gzip.compress(bytes(50_000_000)), "unpacks to more than"),
    "packed twice": ("tar.gz", lambda: gzip.compress(gzip.compress(gzip.compress(packed_tar(FILES)))), "neither zip"),
    "claims less": ("zip", lambda: lying_zip(b"x" * 40_000, 10), "damaged"),
    "claims more": ("zip", lambda: lying_zip(b"x" * 10, 40_000), "header claims 40000"),
    "nested": ("zip", lambda: packed_zip({"in.zip": packed_zip(FILES)}), "archive inside the archive"),
    "nested, renamed": ("zip", lambda: packed_zip({"in.md": packed_zip(FILES)}), "archive inside the archive"),
    "many entries": ("zip", lambda: packed_zip({f"{i}.md": b"" for i in range(60)}), "more than 20 entries"),
    "twice": ("tar", lambda: packed_tar({"a.md": b"1"})[:1024] + packed_tar({"./a.md": b"2"}), "this name"),
    "file and folder": ("zip", lambda: packed_zip({"a": b"1", "a/b": b"2"}), "this name"),
    "deep": ("zip", lambda: packed_zip({"a/" * 30 + "b": b"1"}), "deeper than"),
    "odd method": ("zip", lambda: packed_zip(FILES, zipfile.ZIP_LZMA), "in a way that is not read"),
    "cut off": ("zip", lambda: packed_zip({"a.md": os.urandom(5000)})[:3000], "damaged"),
    "cut gzip": ("tar.gz", lambda: gzip.compress(packed_tar({"a": os.urandom(5000)}))[:3000], "damaged"),
    "no archive": ("zip", lambda: b"just text", "neither zip nor tar"),
    "empty": ("zip", lambda: packed_zip({}), "is empty"),
    "nothing": ("zip", lambda: b"", "neither zip nor tar"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_and_write_nothing(tmp_path: Path, case: str) -> None:
    suffix, make, says = HOSTILE[case]
    inside = tmp_path / "cohort"
    inside.mkdir()
    (inside / f"eve.{suffix}").write_bytes(make())
    (inside / "ann.zip").write_bytes(packed_zip(FILES))
    before, start = tree(tmp_path), time.monotonic()
    ann, eve = collect([inside])
    with pytest.raises(ArtifactError, match=says):
        read_entry(eve, SMALL)
    assert time.monotonic() - start < 60 and tree(tmp_path) == before
    assert dict(read_entry(ann, SMALL).files) == FILES


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    raw = bytearray(packed_zip({"a.md": b"text"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(bytes(raw))
    with pytest.raises(ArtifactError, match="encrypted"):
        read_archive(tmp_path / "a.zip", SMALL)


@given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "a", "", "C:", "~"])).map("/".join))
def test_an_accepted_name_stays_inside(name: str) -> None:
    try:
        place = safe_name(name, 7)
    except (ArtifactError, UnicodeEncodeError):
        return
    assert place is None or ((Path("/top") / place).resolve().is_relative_to("/top") and not place.startswith("/"))


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=400), st.integers(0, 300))
def test_damaged_archives_raise_nothing_else(noise: bytes, at: int) -> None:
    import tempfile

    for good in (packed_zip(FILES), gzip.compress(packed_tar(FILES))):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.zip"
            path.write_bytes(good[:at] + noise + good[at + len(noise) :])
            try:
                read_archive(path, SMALL)
            except ArtifactError as error:
                assert error.what and error.fix


def test_links_pipes_and_strays_of_a_cohort_folder(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "README.md").write_text("# A")
    (tmp_path / "bob").symlink_to(tmp_path / "ann")
    (tmp_path / "cat.zip").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "dan.zip")
    os.mkfifo(tmp_path / "eve")
    (tmp_path / "fay.pdf").write_bytes(b"%PDF")
    found = {entry.learner: entry for entry in collect([tmp_path])}
    assert list(found) == ["ann", "bob", "cat.zip", "dan", "eve", "fay.pdf"]
    assert read_entry(found.pop("ann")).text("README.md") == "# A"
    for entry in found.values():
        with pytest.raises(ArtifactError, match=r"refused"):
            read_entry(entry)


def test_moodle_and_canvas_names(tmp_path: Path) -> None:
    moodle, canvas = tmp_path / "moodle", tmp_path / "canvas"
    folder = moodle / "Ann O'Neill_1234_assignsubmission_file_"
    folder.mkdir(parents=True)
    (folder / "work.zip").write_bytes(packed_zip(FILES))
    (moodle / "Bob_Lee_1235_assignsubmission_file_lab06.zip").write_bytes(packed_zip(FILES))
    (moodle / "Bob_Lee_1235_assignsubmission_onlinetext").mkdir()
    (moodle / "Cy_1236_assignsubmission_onlinetext").mkdir()
    canvas.mkdir()
    (canvas / "doeann_111_9001_lab-2.zip").write_bytes(packed_zip(FILES))
    (canvas / "roebob_LATE_112_9002_README-1.md").write_bytes(b"# B")
    (canvas / "roebob_LATE_112_9003_lab.ipynb").write_bytes(b"{}")
    ann, bob, cy = collect([moodle])
    assert [(e.learner, e.name, e.platform) for e in (ann, bob, cy)] == [
        ("1234", "Ann O'Neill", "moodle"), ("1235", "Bob_Lee", "moodle"), ("1236", "Cy", "moodle")]  # fmt: skip
    assert dict(read_entry(bob).files) == FILES == dict(read_entry(ann).files) and "online text" in cy.error
    doe, roe = collect([canvas])
    assert (doe.learner, doe.late, roe.learner, roe.late, roe.name) == ("111", False, "112", True, "roebob")
    assert dict(read_entry(doe).files) == FILES
    assert dict(read_entry(roe).files) == {"README.md": b"# B", "lab.ipynb": b"{}"}


def test_a_bulk_download_as_one_zip(tmp_path: Path) -> None:
    good = {"Ann_1_assignsubmission_file_/lab.zip": packed_zip(FILES), "Bob_2_assignsubmission_file_/README.md": b"# B",
            "Eve_3_assignsubmission_file_/../../../evil.md": b"x"}  # fmt: skip
    (tmp_path / "all.zip").write_bytes(packed_zip(good))
    found = {entry.name: entry for entry in collect([tmp_path / "all.zip"], unpack_to=tmp_path / "book" / "intake")}
    assert dict(read_entry(found["Ann"]).files) == FILES and read_entry(found["Bob"]).has("README.md")
    assert "leaves the folder" in found["Eve"].error and not list(tmp_path.rglob("evil.md"))
    (tmp_path / "one.zip").write_bytes(packed_zip(FILES))
    assert [e.learner for e in collect([tmp_path / "one.zip"], unpack_to=tmp_path / "other")] == ["one"]


def test_a_bulk_download_beyond_the_limit_loses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BULK_MEMBERS", 2)
    for count in (2, 3):
        names = [f"Ann_{n}_assignsubmission_file_/README.md" for n in range(count)]
        (tmp_path / f"{count}.zip").write_bytes(packed_zip(dict.fromkeys(names, b"# A")))
    assert len(collect([tmp_path / "2.zip"], unpack_to=tmp_path / "intake")) == 2
    with pytest.raises(UsageError, match="more than 2 entries"):
        collect([tmp_path / "3.zip"], unpack_to=tmp_path / "intake")


def test_a_table_of_learners(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "README.md").write_text("# W")
    (tmp_path / "b.zip").write_bytes(packed_zip(FILES))
    (tmp_path / "outside").symlink_to("/etc")
    table = "Learner,Path,Name,Submitted\nann,work,Ann,2026-11-02T10:00:00+00:00\n"
    table += "ann,b.zip,Ann,2026-11-01T10:00:00+00:00\nbob,../x,Bob,\ncat,/etc,Cat,\ndan,outside/hosts,Dan,\n"
    table += "eve,b.zip,Eve,yesterday\nfay,b.zip,Fay,2026-11-01\n,b.zip,,\n"
    (tmp_path / "who.csv").write_text(table)
    found = collect([tmp_path / "who.csv"])
    assert [(e.learner, e.attempt, bool(e.error)) for e in found] == [
        ("ann", 1, False), ("ann", 2, False), ("bob", 1, True), ("cat", 1, True), ("dan", 1, True), ("eve", 1, True),
        ("fay", 1, True), ("line 9", 1, True)]  # fmt: skip
    assert read_entry(found[0]).has("lab.ipynb") and read_entry(found[1]).text("README.md") == "# W"
    assert "stay inside" in found[2].error and "zone" in found[6].error
    (tmp_path / "bad.csv").write_text("name;folder\na;b\n")
    with pytest.raises(UsageError, match="columns name, folder"):
        collect([tmp_path / "bad.csv"])


def test_attempts_are_in_the_order_of_their_times_in_any_zone(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(packed_zip(FILES))
    times = ("2026-11-01T23:30:00-05:00", "2026-11-02T01:00:00+00:00", "2026-11-02T02:00:00+02:00",
             "9999-12-31T23:00:00-05:00")  # fmt: skip
    (tmp_path / "who.csv").write_text("learner,path,submitted\n" + "".join(f"ann,b.zip,{time}\n" for time in times))
    found = collect([tmp_path / "who.csv"])
    assert [(e.attempt, e.submitted) for e in found] == [
        (1, "2026-11-02T00:00:00+00:00"), (2, "2026-11-02T01:00:00+00:00"), (3, "2026-11-02T04:30:00+00:00"), (4, "")]
    assert "no year of UTC" in found[3].error


@pytest.mark.parametrize(("head", "line"), [("learner,path\nann,b.zip\n", 3), ("", 1)])
def test_a_quote_that_is_not_closed_is_named(tmp_path: Path, head: str, line: int) -> None:
    (tmp_path / "who.csv").write_text(head + 'bob,"b.zip\n' + "cat,b.zip\n" * 20_000)
    with pytest.raises(UsageError, match="cannot be read: field larger") as caught:
        collect([tmp_path / "who.csv"])
    assert caught.value.where == f"{tmp_path / 'who.csv'}:{line}"


def test_attempts_one_submission_and_nothing(tmp_path: Path) -> None:
    for number in (2, 10):
        (tmp_path / "c" / "ann" / f"attempt-{number}").mkdir(parents=True)
        (tmp_path / "c" / "ann" / f"attempt-{number}" / "README.md").write_text(str(number))
    first, second = collect([tmp_path / "c"])
    assert [(e.attempt, read_entry(e).text("README.md")) for e in (first, second)] == [(1, "2"), (2, "10")]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "lab.ipynb").write_text("{}")
    assert [e.learner for e in collect([tmp_path / "one"])] == ["one"]
    (tmp_path / "notes.txt").write_text("x")
    assert "neither a folder nor an archive" in collect([tmp_path / "notes.txt"])[0].error
    for name in ("submisions", "who.csv", "all.zip"):
        with pytest.raises(UsageError, match="nothing at this path") as caught:
            collect([tmp_path / "one", tmp_path / name])
        assert caught.value.where == str(tmp_path / name)
    wrapped = tmp_path / "d" / "bob" / "lab06"
    wrapped.mkdir(parents=True)
    (wrapped / "README.md").write_text("# B")
    (tmp_path / "d" / "cat").mkdir()
    bob, cat = collect([tmp_path / "d"])
    assert read_entry(bob).has("README.md") and not read_entry(cat).files


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(ArtifactError, match="not a regular file"):
        read_entry(Entry("a", "a", "a.zip", tmp_path / "a.zip"))
