"""The reader of the corpus: what is good is read, what is not names file and line."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.catalog import repo_root
from course_lib.checksums import main, verify_checksums, write_checksums
from course_lib.corpus import Document, load_corpus, load_hostile, load_questions, parse_document
from course_lib.errors import DataError, UsageError

FRONT = {
    "id": "a-note",
    "title": "A note",
    "tenant": "meridian",
    "owner": "records manager",
    "classification": "internal",
    "groups": "[all-staff]",
    "version": "1",
    "status": "approved",
    "approved_source": "true",
    "fresh_until": "2027-01-31",
    "retention_until": "2030-01-31",
}
BODY = "# A note\nOne fact stands here.\n"


def text(body: str = BODY, drop: str = "", **changes: str) -> str:
    fields = {name: value for name, value in {**FRONT, **changes}.items() if name != drop}
    return "---\n" + "".join(f"{name}: {value}\n" for name, value in fields.items()) + f"---\n\n{body}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus.yaml").write_text(
        "as_of: 2026-11-01\ntenants: {meridian: M, halden: H}\ngroups: {all-staff: Everyone, legal: Counsel}\n"
    )
    (tmp_path / "users.yaml").write_text(
        "users:\n  - {id: u-one, role: analyst, tenant: meridian, clearance: internal, groups: [all-staff]}\n"
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a-note.v1.md").write_text(text())
    return tmp_path


def failure(folder: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        load_corpus(folder)
    assert caught.value.fix
    return caught.value


def test_a_good_folder_is_read(folder: Path) -> None:
    corpus = load_corpus(folder)
    document = corpus.document("a-note@1")
    assert (document.groups, document.version, document.approved_source) == (("all-staff",), 1, True)
    assert document.fresh_until == datetime.date(2027, 1, 31)
    assert document.path == "notes/a-note.v1.md" and document.body == BODY.strip()
    assert corpus.as_of == datetime.date(2026, 11, 1)
    assert corpus.user("u-one").clearance == "internal"


def test_unknown_names_are_usage_errors(folder: Path) -> None:
    corpus = load_corpus(folder)
    with pytest.raises(UsageError, match="no document"):
        corpus.document("a-note@2")
    with pytest.raises(UsageError, match="no user"):
        corpus.user("u-two")


def test_records_are_frozen(folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_corpus(folder).documents[0].status = "approved"  # type: ignore[misc]


@pytest.mark.parametrize("field", sorted(FRONT))
def test_each_field_is_required(folder: Path, field: str) -> None:
    (folder / "notes" / "a-note.v1.md").write_text(text(drop=field))
    assert f"'{field}'" in failure(folder).what


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("id", "A Note", 2),
        ("classification", "secret", 6),
        ("groups", "all-staff", 7),
        ("groups", "[]", 7),
        ("version", "0", 8),
        ("version", "'1'", 8),
        ("version", "true", 8),
        ("status", "final", 9),
        ("approved_source", "'yes'", 10),
        ("approved_source", "1", 10),
        ("fresh_until", "soon", 11),
        ("fresh_until", "2027-01-31 10:00:00", 11),
        ("retention_until", "2030", 12),
    ],
)
def test_a_bad_value_names_its_line(folder: Path, field: str, value: str, line: int) -> None:
    (folder / "notes" / "a-note.v1.md").write_text(text(**{field: value}))
    error = failure(folder)
    assert error.where.endswith(f"a-note.v1.md:{line}") and field in error.what


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("# no front matter\n", 1, "front matter"),
        ("---\nid: a-note\n", 1, "front matter"),
        ("", 1, "front matter"),
        ("---\n- a\n- b\n---\nbody\n", 2, "mapping"),
        ("---\nid: [\n---\nbody\n", 2, "YAML"),
        ("---\nid: a\nid: b\n---\nbody\n", 3, "twice"),
        ("---\nid: !!python/object/apply:os.getcwd []\n---\nbody\n", 2, "YAML"),
        (text(surprise="1"), 13, "surprise"),
        (text(path="x"), 13, "path"),
        (text(body=""), 14, "body"),
        (text(supersedes="a-note@1"), 1, "older version"),
        (text(supersedes="other@1", version="2"), 1, "older version"),
    ],
)
def test_malformed_files(folder: Path, content: str, line: int, words: str) -> None:
    (folder / "notes" / "a-note.v1.md").write_text(content)
    error = failure(folder)
    assert words in error.what and re.search(rf"a-note\.v1\.md:{line}\b", error.where), error


def test_not_utf8(folder: Path) -> None:
    (folder / "notes" / "a-note.v1.md").write_bytes(text().encode() + b"\xff")
    assert "UTF-8" in failure(folder).what


@pytest.mark.parametrize(("change", "words"), [({"tenant": "acme"}, "tenant"), ({"groups": "[cooks]"}, "group 'cooks'"),
                                               ({"groups": "[legal, legal]"}, "twice")])
def test_unknown_tenant_or_group(folder: Path, change: dict[str, str], words: str) -> None:
    (folder / "notes" / "a-note.v1.md").write_text(text(**change))
    assert words in failure(folder).what


def test_the_same_version_twice(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "a-note.v1.md").write_text(text())
    assert "a-note@1 stands twice" in failure(folder).what


def test_two_approved_versions(folder: Path) -> None:
    (folder / "notes" / "a-note.v2.md").write_text(text(version="2"))
    assert "approved" in failure(folder).what
    (folder / "notes" / "a-note.v1.md").write_text(text(status="superseded"))
    assert [d.key for d in load_corpus(folder).documents] == ["a-note@1", "a-note@2"]


def test_the_file_name_must_match(folder: Path) -> None:
    (folder / "notes" / "a-note.v1.md").rename(folder / "notes" / "b-note.v1.md")
    assert "file name" in failure(folder).what


@pytest.mark.parametrize(
    ("users", "words"),
    [
        ("users: none\n", "list"),
        ("users:\n  - text\n", "mapping"),
        ("users:\n  - {id: u-one, role: r, tenant: shared, clearance: internal, groups: [all-staff]}\n", "tenant"),
        ("users:\n  - {id: u-one, role: r, tenant: halden, clearance: privileged, groups: [all-staff]}\n", "clearance"),
        ("users:\n  - {id: u-one, role: r, tenant: halden, clearance: public, groups: []}\n", "groups"),
        ("users:\n  - {id: u-one, id: u-two}\n", "twice"),
    ],
)
def test_bad_users(folder: Path, users: str, words: str) -> None:
    (folder / "users.yaml").write_text(users)
    assert words in failure(folder).what


def test_missing_settings(folder: Path) -> None:
    (folder / "corpus.yaml").unlink()
    assert "cannot be read" in failure(folder).what


@given(st.text(max_size=200))
def test_any_text_is_a_document_or_a_data_error(content: str) -> None:
    try:
        parse_document(content, Path("x.md"))
    except DataError as error:
        assert error.where.startswith("x.md:")


@given(st.sampled_from(sorted(FRONT)), st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=30))
def test_any_value_is_valid_or_a_data_error(field: str, value: str) -> None:
    try:
        assert isinstance(parse_document(text(**{field: value}), Path("x.md")), Document)
    except DataError as error:
        assert error.where.startswith("x.md:")


ROW = ('{"id": "q-1", "split": "dev", "kind": "article", "user": "u-one", "question": "What is said?", '
       '"expected_docs": ["a-note@1"], "answers": ["fact"], "note": ""}')


def test_questions_are_read(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text(ROW + "\n\n")
    (question,) = load_questions("dev", tmp_path)
    assert question.expected_docs == ("a-note@1",) and not question.abstain and question.forbidden_docs == ()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("not json\n", 1),
        (ROW + "\n[1]\n", 2),
        (ROW + "\n" + ROW + "\n", 2),
        (ROW.replace('"dev"', '"locked_test"') + "\n", 1),
        (ROW.replace('["fact"]', "[]") + "\n", 1),
        (ROW.replace("article", "riddle") + "\n", 1),
        (ROW.replace('"note"', '"extra"') + "\n", 1),
        ("\n" + "[" * 100_000 + "\n", 2),
    ],
)
def test_bad_questions_name_their_line(tmp_path: Path, content: str, line: int) -> None:
    (tmp_path / "dev.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        load_questions("dev", tmp_path)
    assert caught.value.where.endswith(f"dev.jsonl:{line}")


def test_an_unknown_split_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_questions("train", tmp_path)


@pytest.mark.parametrize("content", ["{}", "[", '[{"doc": "a@1"}]', '[{"doc": "a@1", "guise": "g", "planted": ["p"], '
                                     '"obeyed_markers": ["("]}]'])
def test_bad_probes(tmp_path: Path, content: str) -> None:
    (tmp_path / "hostile.json").write_text(content)
    with pytest.raises(DataError):
        load_hostile(tmp_path)


def test_checksums_notice_every_change(folder: Path) -> None:
    assert write_checksums(folder) == verify_checksums(folder) == 3
    note = folder / "notes" / "a-note.v1.md"
    good = note.read_text()
    note.write_text(good + " ")
    with pytest.raises(DataError, match="has changed"):
        verify_checksums(folder)
    note.unlink()
    with pytest.raises(DataError, match="is missing"):
        verify_checksums(folder)
    note.write_text(good)
    (folder / "new.md").write_text("x")
    with pytest.raises(DataError, match="is not listed"):
        verify_checksums(folder)


@pytest.mark.parametrize("line", ["garbage", "0" * 64 + "  /etc/hostname", "0" * 64 + "  ../x", "0" * 63 + "  x"])
def test_a_bad_manifest_is_refused(folder: Path, line: str) -> None:
    write_checksums(folder)
    with (folder / "SHA256SUMS").open("a") as manifest:
        manifest.write(line + "\n")
    with pytest.raises(DataError, match="not a checksum"):
        verify_checksums(folder)


def test_the_refresh_command(folder: Path) -> None:
    main(["--write", str(folder)])
    assert verify_checksums(folder) == 3
    with pytest.raises(UsageError):
        main([])


def test_the_corpus_of_the_course_is_complete() -> None:
    corpus = load_corpus()
    assert len(corpus.documents) >= 64 and len(corpus.users) >= 10
    assert {d.status for d in corpus.documents} == {"approved", "draft", "superseded", "withdrawn"}
    assert {d.classification for d in corpus.documents} == {
        "public", "internal", "confidential", "restricted", "privileged"}
    assert {d.tenant for d in corpus.documents} == {"meridian", "halden", "shared"}
    approved = [d for d in corpus.documents if d.status == "approved"]
    assert any(d.fresh_until < corpus.as_of for d in approved)
    assert any(d.retention_until < corpus.as_of for d in approved)
    assert any(not d.approved_source for d in approved)
    assert all(d.body.startswith(f"# {d.title}\n") for d in corpus.documents)
    assert all("legal" in d.groups for d in corpus.documents if d.classification == "privileged")
    assert all(130 <= len(d.body.split()) <= 450 for d in corpus.documents)


def test_superseded_versions_have_a_successor() -> None:
    corpus = load_corpus()
    successors = {d.supersedes for d in corpus.documents if d.status == "approved"}
    assert {d.key for d in corpus.documents if d.status == "superseded"} <= successors


def test_the_data_card_counts_what_is_there() -> None:
    corpus = load_corpus()
    card = " ".join((repo_root() / "data" / "corpus" / "DATA_CARD.md").read_text().split())
    counts = {tenant: sum(d.tenant == tenant for d in corpus.documents) for tenant in ("shared", "meridian", "halden")}
    assert f"{len(corpus.documents)} markdown documents" in card
    assert f"{counts['shared']} for both tenants" in card
    assert f"{counts['meridian']} of Meridian Pay and {counts['halden']} of Halden Bank" in card
    assert f"holds the day on which freshness is judged ({corpus.as_of})" in card
    assert f"{len(corpus.users)} invented accounts" in card


def test_the_files_of_the_course_match_their_checksums() -> None:
    assert verify_checksums(repo_root() / "data" / "corpus") >= 64
    assert verify_checksums(repo_root() / "data" / "evals" / "rag") == 4
