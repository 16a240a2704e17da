"""Opening and reading what strangers hand in."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.artifacts import AccessProbe, RagConfig
from course_lib.errors import ArtifactError
from course_lib.strictjson import BadJson, parse_json
from course_lib.submission import Incomplete, Limits, Malformed, Missing, Submission

CONFIG = {"lab": "06", "seed": 6, "model": "m", "index": {"max_words": 90, "overlap": 15}, "mode": "hybrid", "k": 3,
          "as_of": "2026-11-01"}
PROBE = {"user": "u", "question": "What is it?", "retrieved": ["a@1#00"], "denied": {"tenant": 3}}


def folder(tmp_path: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (tmp_path / name.replace("__", ".")).write_bytes(content)
    return tmp_path


def rows(*lines: bytes) -> Submission:
    return Submission("s", {"p.jsonl": b"\n".join(lines)})


def test_reads_typed_files_and_hashes_the_folder(tmp_path: Path) -> None:
    folder(tmp_path, config__json=json.dumps(CONFIG).encode(), p__jsonl=json.dumps(PROBE).encode() + b"\n")
    opened = Submission.open(tmp_path)
    assert opened.name == tmp_path.name
    assert opened.json("config.json", RagConfig).index.max_words == 90
    assert [row.where for row in opened.jsonl("p.jsonl", AccessProbe)] == ["p.jsonl:1"]
    assert opened.digest() == Submission("other name", dict(opened.files)).digest()
    assert opened.digest() != Submission("s", {**opened.files, "extra": b""}).digest()


def test_digest_keeps_names_and_contents_apart() -> None:
    assert Submission("s", {"a": b"bc"}).digest() != Submission("s", {"ab": b"c"}).digest()


@pytest.mark.parametrize("place", ["README.md", "deep/README.md"])
def test_refuses_links_wherever_they_stand(tmp_path: Path, place: str) -> None:
    target = tmp_path / "secret"
    target.write_text("rubric")
    top = tmp_path / "sub"
    (top / place).parent.mkdir(parents=True)
    (top / place).symlink_to(target)
    with pytest.raises(ArtifactError, match="it is a link"):
        Submission.open(top)


def test_refuses_linked_folders_inside_and_as_the_top(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner").symlink_to(tmp_path / "real", target_is_directory=True)
    with pytest.raises(ArtifactError, match="link"):
        Submission.open(tmp_path / "sub")
    (tmp_path / "top").symlink_to(tmp_path / "real", target_is_directory=True)
    for path in (tmp_path / "top", f"{tmp_path}/top/"):
        with pytest.raises(ArtifactError, match="not a folder"):
            Submission.open(path)


def test_a_link_swapped_in_while_reading_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("rubric")
    top = tmp_path / "sub"
    top.mkdir()
    (top / "README.md").write_text("hello")
    real = os.stat

    def swap(name: str, **options: object) -> os.stat_result:
        result = real(name, **options)
        (top / "README.md").unlink()
        (top / "README.md").symlink_to(tmp_path / "secret")
        return result

    monkeypatch.setattr(os, "stat", swap)
    with pytest.raises(ArtifactError, match="cannot be opened"):
        Submission.open(top)


def test_refuses_pipes_and_sockets_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit.jsonl")
    started = time.monotonic()
    with pytest.raises(ArtifactError, match="pipe"):
        Submission.open(tmp_path)
    assert time.monotonic() - started < 5
    (tmp_path / "audit.jsonl").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        cwd = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket must be short
        try:
            listener.bind("s")
        finally:
            os.chdir(cwd)
        with pytest.raises(ArtifactError, match="socket"):
            Submission.open(tmp_path)


def test_refuses_too_much_of_anything(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"f{number}").write_bytes(b"x" * 100)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "f").write_text("x")
    assert len(Submission.open(tmp_path).files) == 6
    for limits, word in ((Limits(files=5), "more than 5"), (Limits(file_bytes=99), "too large"),
                         (Limits(total_bytes=300), "too large"), (Limits(depth=2), "deeper")):
        with pytest.raises(ArtifactError, match=word):
            Submission.open(tmp_path, limits)


@pytest.mark.parametrize("name", ["a\nb", "a\u202egnp.exe", "a\\b"])
def test_refuses_names_that_lie(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(ArtifactError, match="characters"):
        Submission.open(tmp_path)


def test_ignores_what_editors_leave_and_never_follows_it(tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").symlink_to("/")
    (tmp_path / "README.md").write_text("x")
    assert list(Submission.open(tmp_path).files) == ["README.md"]


def test_missing_is_told_apart_from_malformed_and_incomplete() -> None:
    good = json.dumps(PROBE).encode()
    with pytest.raises(Missing):
        rows(good).text("README.md")
    with pytest.raises(Malformed) as malformed:
        rows(good, b"{").jsonl("p.jsonl", AccessProbe)
    assert malformed.value.where == "p.jsonl:2"
    without_user = json.dumps({k: v for k, v in PROBE.items() if k != "user"}).encode()
    with pytest.raises(Incomplete, match="user") as incomplete:
        rows(good, good, without_user).jsonl("p.jsonl", AccessProbe)
    assert incomplete.value.where == "p.jsonl:3"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": NaN}', "NaN"), (b'{"a": -Infinity}', "Infinity"), (b'{"a": 1e999}', "too large"),
        (b'{"a": 1, "a": 2}', "twice"), (b"[" * 10_000 + b"]" * 10_000, "nested"),
        (b'{"a": ' * 60 + b"1" + b"}" * 60, "nested"), (b"[" * 40 + b"1" + b"]" * 40, "nested"),
        (b"\xef\xbb\xbf{}", "byte order mark"), (b"{}\r", "carriage return"), (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDfff": 1}', "surrogate"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"), (b"", "expecting value"),
        (b"{}" + b" " * 300_000, "bytes"), (b'{"a": "\x00"}', "NUL"), (b'{"a": 1} {"b": 2}', "extra data"),
    ],
)  # fmt: skip
def test_strict_json_names_file_line_and_reason(line: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        rows(json.dumps(PROBE).encode(), line, b"{}").jsonl("p.jsonl", AccessProbe)
    assert caught.value.where == "p.jsonl:2"


def test_forty_levels_are_read_and_each_document_only_once() -> None:
    deep = b"[" * 39 + b'"\\ud83d\\ude00"' + b"]" * 39
    submission = Submission("s", {"deep.json": deep, "bad.json": b"[NaN]"})
    assert submission.value("deep.json") is submission.value("deep.json") is submission.parsed(deep)
    for _ in range(2):
        with pytest.raises(Malformed, match="NaN"):
            submission.value("bad.json")


@pytest.mark.parametrize(
    ("document", "line"),
    [(b'{\n "a": 1,\n "b": NaN\n}', 3), (b'{\n "a": 1,\n "b": 2,\n "a": 3}', 4), (b'{\n "a": 1,\n]', 3)],
)
def test_json_documents_name_the_line(document: bytes, line: int) -> None:
    with pytest.raises(Malformed) as caught:
        Submission("s", {"config.json": document}).json("config.json", RagConfig)
    assert caught.value.where == f"config.json:{line}"


def test_a_wrong_field_names_its_line() -> None:
    document = json.dumps({**CONFIG, "k": "3"}, indent=1).encode()
    line = document.split(b'"k"')[0].count(b"\n") + 1
    with pytest.raises(Incomplete, match="'k'") as caught:
        Submission("s", {"config.json": document}).json("config.json", RagConfig)
    assert caught.value.where == f"config.json:{line}"


@pytest.mark.parametrize("change", [{"k": True}, {"k": 3.0}, {"k": 11}, {"index": {"max_words": 9, "overlap": 0}},
                                    {"mode": "magic"}, {"seed": -1}, {"as_of": "today"}])
def test_values_are_bounded_and_never_converted(change: dict) -> None:
    with pytest.raises(Incomplete):
        Submission("s", {"c": json.dumps({**CONFIG, **change}).encode()}).json("c", RagConfig)


def test_too_many_rows_are_refused() -> None:
    line = json.dumps(PROBE).encode()
    with pytest.raises(Malformed, match="3 rows"):
        Submission("s", {"p.jsonl": b"\n".join([line] * 3)}, Limits(rows=2)).jsonl("p.jsonl", AccessProbe)


def test_prose_may_have_windows_line_ends() -> None:
    assert Submission("s", {"r": b"\xef\xbb\xbfa\r\nb"}).text("r") == "a\nb"
    with pytest.raises(Malformed) as caught:
        Submission("s", {"r": b"a\n\xff"}).text("r")
    assert caught.value.where == "r:2"


def test_duplicate_keys_at_the_end_of_a_large_object_do_not_hang() -> None:
    text = "{" + ",".join(f'"{n}":1' for n in range(200_000)) + ',"199999":1}'
    started = time.monotonic()
    with pytest.raises(BadJson, match="twice"):
        parse_json(text)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("number", ["9" * 3_000_000 + "e5", "1" + "0" * 3_000_000, "0." + "1" * 3_000_000])
def test_endless_numbers_do_not_hang(number: str) -> None:
    started = time.monotonic()
    try:
        parse_json(f'{{"a": {number}}}')
    except BadJson as error:
        assert len(error.reason) < 100
    assert time.monotonic() - started < 10


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    opened = Submission("s", {"f": raw})
    for read in (lambda: opened.jsonl("f", AccessProbe), lambda: opened.json("f", RagConfig), lambda: opened.text("f")):
        try:
            read()
        except ArtifactError as error:
            assert error.where.startswith("f")


texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_strict_reading_agrees_with_json_on_valid_documents(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value
