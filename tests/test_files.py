"""A file is replaced whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from course_lib.files import replacing, write_text


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    assert write_text(path, "one\r\n") == path and path.read_bytes() == b"one\r\n"
    write_text(path, "zwölf")
    assert path.read_text("utf-8") == "zwölf" and [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("text", ["half", "\udc80 is no UTF-8"])
def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.txt"
    write_text(path, "old")
    with pytest.raises((ZeroDivisionError, UnicodeEncodeError)), replacing(path) as new:
        new.write_text(text, "utf-8")
        _ = 1 / 0
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits are POSIX")
def test_modes_are_kept_given_or_readable_for_all(tmp_path: Path) -> None:
    def bits(path: Path) -> int:
        return path.stat().st_mode & 0o777

    path = tmp_path / "b.txt"
    with replacing(path) as new:
        assert bits(new) == 0o600
    assert bits(path) == 0o644
    path.chmod(0o640)
    write_text(path, "x", mode=None, sync=True)
    assert bits(path) == 0o640
    write_text(path, "x", mode=0o600)
    assert bits(path) == 0o600
