"""The journal loses nothing that was written, and says when somebody changed it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_grader.journal import Journal, read_journal
from course_lib.errors import DataError, UsageError

VALUES = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(), max_size=3)


def write(path: Path, values: list[dict[str, object]]) -> list[dict[str, object]]:
    with Journal(path) as journal:
        for value in values:
            journal.append("note", value=value)
        return journal.records


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5), st.data())
def test_cut_anywhere_it_keeps_whole_lines_and_goes_on(values: list[dict[str, object]], data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        records = write(path, values)
        raw = path.read_bytes()
        cut = data.draw(st.integers(0, len(raw)))
        path.write_bytes(raw[:cut])
        whole = raw[:cut].count(b"\n")
        assert read_journal(path) == records[:whole]
        with Journal(path) as journal:
            assert journal.records == records[:whole]
            journal.append("note", value="after")
        assert read_journal(path)[-1] == {"kind": "note", "value": "after"} and len(read_journal(path)) == whole + 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_change_before_the_last_line_is_found(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        records = write(path, [{"points": n} for n in range(4)])
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, raw.rindex(b"\n", 0, len(raw) - 1) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(raw))
        with pytest.raises(DataError, match="changed or damaged"):
            read_journal(path)
        assert records


def test_a_removed_or_moved_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, [{"n": n} for n in range(4)])
    lines = path.read_bytes().splitlines(keepends=True)
    for changed in ([lines[0], *lines[2:]], lines[1:], [lines[1], lines[0], *lines[2:]]):
        path.write_bytes(b"".join(changed))
        with pytest.raises(DataError) as caught:
            Journal(path)
        assert caught.value.where.startswith(str(path)) and caught.value.fix
    path.write_bytes(b"".join(lines))
    assert len(read_journal(path)) == 4


def test_lines_are_json_and_strange_text_survives(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    text = "a\nb\u2028\u202e\x00\ud800</script>"
    write(path, [{"text": text}])
    line = json.loads(path.read_text("ascii"))
    assert line["record"]["value"]["text"] == text and len(line["seal"]) == 64
    assert read_journal(path)[0]["value"] == {"text": text}


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path):
        code = f"from course_grader.journal import Journal; Journal({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode and "Another run is writing" in done.stderr
        with pytest.raises(UsageError):
            Journal(path)
    Journal(path).close()
    with pytest.raises(DataError, match="no journal"):
        read_journal(tmp_path / "none")


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("note", value=1)

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "fsync", full)
            journal.append("note", value=2)
        journal.append("note", value=3)
    assert [record["value"] for record in read_journal(path)] == [1, 3]
