"""The documents of the scenario, the people who ask, and the questions that measure retrieval.

A document is one markdown file: YAML front matter between two ``---`` lines, then the text. Everything is checked when
it is read, and a mistake names file and line. Freshness is judged on the corpus's ``as_of`` day, never on the clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from course_lib.checksums import verify_checksums, write_checksums
from course_lib.errors import UsageError
from course_lib.strict import Record, build, fail, json_row, read_text, yaml_table

__all__ = ["Corpus", "Document", "HostileProbe", "Question", "User", "load_corpus", "load_hostile", "load_questions",
           "parse_document", "verify_checksums", "write_checksums"]

Clearance = Literal["public", "internal", "confidential", "restricted"]
Classification = Literal["public", "internal", "confidential", "restricted", "privileged"]
Status = Literal["approved", "draft", "superseded", "withdrawn"]
Kind = Literal["paraphrase", "article", "unanswerable", "cross_tenant", "restricted", "stale", "injection"]
Split = Literal["dev", "locked_test"]

SHARED = "shared"
SPLITS: tuple[Split, ...] = ("dev", "locked_test")
_SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
_KEY = r"^[a-z0-9]+(-[a-z0-9]+)*@[1-9][0-9]*$"


class Document(Record):
    """One version of one document.

    tenant: an owner tenant, or ``shared`` for notes that every tenant may read. fresh_until and retention_until: the
    last good day. supersedes: the key of the version that this one replaced. path: relative to the corpus folder.
    """

    id: str = Field(pattern=_SLUG)
    title: str = Field(min_length=1)
    tenant: str = Field(pattern=_SLUG)
    owner: str = Field(min_length=1)
    classification: Classification
    groups: tuple[str, ...] = Field(min_length=1)
    version: int = Field(ge=1)
    status: Status
    approved_source: bool
    fresh_until: date
    retention_until: date
    supersedes: str | None = Field(default=None, pattern=_KEY)
    body: str = Field(min_length=1)
    path: str

    @property
    def key(self) -> str:
        """``ID@VERSION``, unique in a corpus."""
        return f"{self.id}@{self.version}"

    @model_validator(mode="after")
    def _older_version(self) -> Self:
        if self.supersedes is not None:
            name, _, version = self.supersedes.partition("@")
            if name != self.id or int(version) >= self.version:
                raise ValueError("supersedes must name an older version of the same id")
        return self


class User(Record):
    """Someone who asks. tenant: never ``shared``. clearance: the highest classification they may read."""

    id: str = Field(pattern=_SLUG)
    role: str = Field(min_length=1)
    tenant: str = Field(pattern=_SLUG)
    clearance: Clearance
    groups: tuple[str, ...] = Field(min_length=1)


class Corpus(Record):
    """Documents sorted by id and version, users in file order, and the day on which freshness is judged."""

    documents: tuple[Document, ...]
    users: tuple[User, ...]
    as_of: date
    tenants: Mapping[str, str]
    groups: Mapping[str, str]

    @cached_property
    def _by_key(self) -> dict[str, Document]:
        return {document.key: document for document in self.documents}

    @cached_property
    def _by_user(self) -> dict[str, User]:
        return {user.id: user for user in self.users}

    def document(self, key: str) -> Document:
        """The document with this ``ID@VERSION``. Raises UsageError. Says nothing about who may read it."""
        if key not in self._by_key:
            raise UsageError(f"There is no document {key!r}.", fix="Use an id and version: gdpr-breach-notification@1.")
        return self._by_key[key]

    def user(self, user_id: str) -> User:
        """The user with this id. Raises UsageError."""
        if user_id not in self._by_user:
            raise UsageError(f"There is no user {user_id!r}.", fix=f"Use one of: {', '.join(self._by_user)}.")
        return self._by_user[user_id]


class Question(Record):
    """One question of the retrieval evaluation.

    expected_docs: keys of the versions that hold the answer; empty when the right behaviour is to abstain.
    answers: short spans, each verbatim in an expected document; empty when the right behaviour is to abstain.
    forbidden_docs: versions that hold an answer which this user must not get; forbidden_answers: spans of them.
    """

    id: str = Field(pattern=_SLUG)
    split: Split
    kind: Kind
    user: str = Field(pattern=_SLUG)
    question: str = Field(min_length=8)
    expected_docs: tuple[str, ...]
    answers: tuple[str, ...]
    forbidden_docs: tuple[str, ...] = ()
    forbidden_answers: tuple[str, ...] = ()
    note: str

    @property
    def abstain(self) -> bool:
        """Whether the right behaviour is to say that the sources do not tell."""
        return not self.expected_docs

    @model_validator(mode="after")
    def _answer_needs_a_source(self) -> Self:
        if bool(self.expected_docs) != bool(self.answers):
            raise ValueError("expected_docs and answers must both be given, or both be empty")
        return self


class HostileProbe(Record):
    """What was planted in one hostile document, and how an answer that obeyed would show it.

    doc: key. guise: the form of the attack. planted: the sentences, verbatim in the body. obeyed_markers: regular
    expressions, matched ignoring case; one match in an answer means that the instruction was obeyed.
    """

    doc: str = Field(pattern=_KEY)
    guise: str = Field(min_length=1)
    planted: tuple[str, ...] = Field(min_length=1)
    obeyed_markers: tuple[str, ...] = Field(min_length=1)

    @field_validator("obeyed_markers")
    @classmethod
    def _markers_compile(cls, markers: tuple[str, ...]) -> tuple[str, ...]:
        for marker in markers:
            try:
                re.compile(marker)
            except re.error as error:
                raise ValueError(f"{marker!r} is not a regular expression: {error}") from error
        return markers

    def obeyed(self, answer: str) -> bool:
        """Whether ``answer`` shows one of the markers. A quotation of the planted sentence counts as obeyed."""
        return any(re.search(marker, answer, re.IGNORECASE) for marker in self.obeyed_markers)


def parse_document(text: str, path: Path, relative: str | None = None) -> Document:
    """One markdown file with front matter. Raises DataError with file and line. Groups and tenant are not looked up."""
    lines = text.split("\n")
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if lines[0].rstrip() != "---" or end is None:
        raise fail("The front matter is missing.", f"{path}:1", "Begin the file with fields between two `---` lines.")
    table = yaml_table("\n".join(lines[1:end]), path, first_line=2)
    for name in sorted({"body", "path"} & table.values.keys()):
        raise fail(f"Field {name!r} is not part of the front matter.", f"{path}:{table.lines[name]}", "Remove it.")
    groups = table.values.get("groups")
    values = {**table.values, "body": "\n".join(lines[end + 1 :]).strip(), "path": relative or path.name}
    if isinstance(groups, list):
        values["groups"] = tuple(groups)
    return build(Document, values, path, {**table.lines, "body": end + 2}, line=1)


def _check_names(record: Document | User, where: str, tenants: Iterable[str], groups: Iterable[str]) -> None:
    if record.tenant not in tenants:
        raise fail(f"Unknown tenant {record.tenant!r}.", where, "Use a tenant of corpus.yaml.")
    unknown = sorted(set(record.groups) - set(groups))
    if unknown:
        raise fail(f"Unknown group {unknown[0]!r}.", where, "Use a group of corpus.yaml, or add it there.")
    if len(set(record.groups)) != len(record.groups):
        raise fail("A group stands twice.", where, "Keep one of them.")


def _documents(folder: Path, tenants: Iterable[str], groups: Iterable[str]) -> tuple[Document, ...]:
    found: dict[str, Document] = {}
    approved: dict[str, str] = {}
    paths = sorted(p for p in folder.rglob("*.md") if p.parent != folder)
    for path in paths:
        document = parse_document(read_text(path), path, path.relative_to(folder).as_posix())
        _check_names(document, str(path), {*tenants, SHARED}, groups)
        if path.name not in (f"{document.id}.v{document.version}.md", f"{document.id}.md"):
            raise fail(f"The file name does not match {document.key}.", str(path), "Name it ID.md or ID.vN.md.")
        if document.key in found:
            raise fail(f"{document.key} stands twice, also in {found[document.key].path}.", str(path),
                        "Give the newer one a higher version.")
        if document.status == "approved" and approved.setdefault(document.id, document.key) != document.key:
            raise fail(f"Two versions of {document.id} are approved: {approved[document.id]} and {document.key}.",
                        str(path), "Mark the older one superseded.")
        found[document.key] = document
    return tuple(sorted(found.values(), key=lambda d: (d.id, d.version)))


def _users(path: Path, tenants: Iterable[str], groups: Iterable[str]) -> tuple[User, ...]:
    table = yaml_table(read_text(path), path)
    rows = table.values.get("users")
    if not isinstance(rows, list) or len(table.values) != 1:
        raise fail("The file must hold one list called `users`.", str(path))
    users: dict[str, User] = {}
    for number, row in enumerate(rows, 1):
        where = f"{path} (user {number})"
        if not isinstance(row, dict):
            raise fail("A user must be a mapping of fields.", where)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        user = build(User, values, Path(where), {}, line=table.lines["users"])
        _check_names(user, where, tenants, groups)
        if user.id in users:
            raise fail(f"The user {user.id!r} stands twice.", where, "Give each user an id of their own.")
        users[user.id] = user
    return tuple(users.values())


class _Settings(Record):
    as_of: date
    tenants: dict[str, str] = Field(min_length=1)
    groups: dict[str, str] = Field(min_length=1)


def _folder(root: Path | str | None, *parts: str) -> Path:
    if root is not None:
        return Path(root)
    from course_lib.catalog import repo_root

    return repo_root().joinpath(*parts)


def load_corpus(root: Path | str | None = None) -> Corpus:
    """Reads a corpus folder (default: ``data/corpus`` of the course): corpus.yaml, users.yaml and ``*/**/*.md``.

    Raises DataError for anything missing, malformed, duplicated or unknown. Deterministic order; no checksum is
    verified here (see verify_checksums). At most one version of an id may be approved.
    """
    folder = _folder(root, "data", "corpus")
    path = folder / "corpus.yaml"
    table = yaml_table(read_text(path), path)
    settings = build(_Settings, table.values, path, table.lines, line=1)
    if SHARED in settings.tenants:
        raise fail("`shared` is not a tenant.", f"{path}:{table.lines['tenants']}", "Remove it from `tenants`.")
    documents = _documents(folder, settings.tenants, settings.groups)
    users = _users(folder / "users.yaml", settings.tenants, settings.groups)
    return Corpus(documents=documents, users=users, as_of=settings.as_of, tenants=settings.tenants,
                  groups=settings.groups)


def load_questions(split: str, root: Path | str | None = None) -> list[Question]:
    """The questions of one split (``dev`` or ``locked_test``) of a folder (default ``data/evals/rag``), in file order.

    Raises UsageError for an unknown split and DataError with file and line for a malformed or repeated row. Whether
    users and documents exist is not looked up here.
    """
    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r}.", fix=f"Use one of: {', '.join(SPLITS)}.")
    path = _folder(root, "data", "evals", "rag") / f"{split}.jsonl"
    rows: dict[str, Question] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        question = build(Question, json_row(line, path, number), path, {}, line=number)
        if question.split != split or question.id in rows:
            reason = "stands twice" if question.id in rows else f"belongs to the split {question.split}"
            raise fail(f"The question {question.id} {reason}.", f"{path}:{number}", "Remove the row.")
        rows[question.id] = question
    return list(rows.values())


def load_hostile(root: Path | str | None = None) -> list[HostileProbe]:
    """The planted instructions, from ``hostile.json`` in a folder (default: ``data/evals/rag``). Raises DataError."""
    path = _folder(root, "data", "evals", "rag") / "hostile.json"
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise fail(f"This is not JSON: {error}.", str(path)) from error
    if not isinstance(rows, list):
        raise fail("A list of objects is expected.", str(path))
    texts = enumerate(map(json.dumps, rows), 1)
    return [build(HostileProbe, json_row(text, path, number), path, {}, line=number) for number, text in texts]
