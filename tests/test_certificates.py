"""A certificate is checked offline, and every change of it is found."""

from __future__ import annotations

import copy
import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cohort_kit as kit
import pytest
from typer.testing import CliRunner

from course_grader.certificates import did_of, issue_all, load_key, sign, verify
from course_grader.cohort import JOURNAL
from course_grader.gradebook import Book
from course_grader.journal import Journal
from course_lib import cli
from course_lib.errors import DataError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Book]:
    """(work, certificate, book): ann earned one; bob failed a gate; cat waits for a reviewer."""
    work = tmp_path_factory.mktemp("certificates")
    kit.tiny(work / "subs" / "ann", 1)
    kit.tiny(work / "subs" / "bob", 2, ("rag.hit_rate",))
    kit.tiny(work / "subs" / "cat", 3)
    book = kit.grade(work / "subs", work / "book").book
    digests = {row.learner: row.digest for row in book.labs[0].rows}
    with Journal(work / "book" / JOURNAL) as journal:
        for learner in ("ann", "bob"):
            for criterion in ("failures_analysed", "risk_judgement", "readme_clear"):
                journal.append("review", learner=learner, module="06", criterion=criterion, digest=digests[learner],
                               points=1.0, reason="fits", who="R", when="")  # fmt: skip
    book = kit.grade(work / "subs", work / "book").book
    written = issue_all(book, load_key(work / "key.pem"), "The course", work / "book", NOW)
    assert [path.name.split("-")[0] for path in written] == ["ann"]
    return work, written[0], book


def changed(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The document with one text changed, one name changed, one item removed or added, everywhere in turn."""
    here = value
    for step in path:
        here = here[step]
    if isinstance(here, dict):
        for name in here:
            for change in ("drop", "rename"):
                other = copy.deepcopy(value)
                spot = other
                for step in path:
                    spot = spot[step]
                taken = spot.pop(name)
                if change == "rename":
                    spot[f"{name}x"] = taken
                yield f"{change} {path} {name}", other
            yield from changed(value, (*path, name))
        other = copy.deepcopy(value)
        spot = other
        for step in path:
            spot = spot[step]
        spot["added"] = "1"
        yield f"add {path}", other
    elif isinstance(here, list):
        for index in range(len(here)):
            yield from changed(value, (*path, index))
    else:
        other = copy.deepcopy(value)
        spot = other
        for step in path[:-1]:
            spot = spot[step]
        spot[path[-1]] = (not here) if isinstance(here, bool) else f"{here}0"
        yield f"change {path}", other


def test_it_verifies_and_every_change_is_found(issued: tuple[Path, Path, Book], tmp_path: Path) -> None:
    work, path, _ = issued
    issuer = did_of(load_key(work / "key.pem"))
    verdict = verify(path, [issuer], work / "subs" / "ann")
    assert verdict.ok and (verdict.learner, verdict.issuer) == ("ann", issuer)
    document = json.loads(path.read_text("utf-8"))
    tried = 0
    for what, other in changed(document):
        (tmp_path / "x.json").write_text(json.dumps(other))
        if "proof" in other:
            assert not verify(tmp_path / "x.json", [issuer]).ok, what
        else:
            with pytest.raises(DataError):
                verify(tmp_path / "x.json", [issuer])
        tried += 1
    assert tried > 100
    (tmp_path / "y.json").write_text(json.dumps(document, sort_keys=True, indent=3))
    assert verify(tmp_path / "y.json", [issuer]).ok, "layout is not content"


def test_another_key_is_intact_and_not_trusted(issued: tuple[Path, Path, Book], tmp_path: Path) -> None:
    work, path, _ = issued
    forger = load_key(tmp_path / "forger.pem")
    document = json.loads(path.read_text("utf-8"))
    del document["proof"]
    document["credentialSubject"]["name"] = "mallory"
    document["issuer"]["id"] = did_of(forger)
    (tmp_path / "x.json").write_text(json.dumps(sign(document, forger, NOW)))
    verdict = verify(tmp_path / "x.json", [did_of(load_key(work / "key.pem"))])
    assert verdict.intact and not verdict.trusted and not verdict.ok
    document["issuer"]["id"] = did_of(load_key(work / "key.pem"))
    (tmp_path / "x.json").write_text(json.dumps(sign(document, forger, NOW)))
    assert not verify(tmp_path / "x.json", [document["issuer"]["id"]]).intact


def test_the_proof_is_the_suite_that_it_names(issued: tuple[Path, Path, Book]) -> None:
    """eddsa-jcs-2022, worked out once more from its specification."""
    import hashlib

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def base58(text: str) -> bytes:
        number = 0
        for c in text:
            number = number * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(c)
        return number.to_bytes((number.bit_length() + 7) // 8, "big")

    document = json.loads(issued[1].read_text("utf-8"))
    proof = document.pop("proof")
    value = proof.pop("proofValue")
    texts = [json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False) for part in (proof, document)]
    parts = [hashlib.sha256(text.encode()).digest() for text in texts]
    key = base58(document["issuer"]["id"].removeprefix("did:key:z"))
    assert key[:2] == b"\xed\x01" and len(key) == 34 and proof["cryptosuite"] == "eddsa-jcs-2022"
    Ed25519PublicKey.from_public_bytes(key[2:]).verify(base58(value[1:]).rjust(64, b"\0"), b"".join(parts))


def test_evidence_pages_keys_and_standing_certificates(issued: tuple[Path, Path, Book], tmp_path: Path) -> None:
    work, path, book = issued
    verdict = verify(path, [did_of(load_key(work / "key.pem"))], work / "subs" / "bob")
    assert verdict.intact and verdict.problems == ("the submission is not the one that was graded",)
    page = path.with_suffix(".html").read_text("utf-8")
    assert "ann" in page and "course verify" in page and "<script" not in page and "default-src 'none'" in page
    assert stat.S_IMODE((work / "key.pem").stat().st_mode) == 0o600
    before = path.read_bytes()
    issue_all(book, load_key(work / "key.pem"), "The course", work / "book")
    assert path.read_bytes() == before, "a later run does not date it anew"
    path.write_text(path.read_text().replace("20 of 20", "21 of 20"))
    issue_all(book, load_key(work / "key.pem"), "The course", work / "book", NOW)
    assert path.read_bytes() == before, "a damaged one is written again"
    (tmp_path / "no.pem").write_text("text")
    with pytest.raises(DataError, match="no private key"):
        load_key(tmp_path / "no.pem")


def test_the_command_says_intact_trusted_or_neither(issued: tuple[Path, Path, Book], tmp_path: Path) -> None:
    work, path, _ = issued
    run = CliRunner()
    issuer = did_of(load_key(work / "key.pem"))
    assert run.invoke(cli.app, ["verify", str(path), "--issuer", issuer]).exit_code == 0
    unknown = run.invoke(cli.app, ["verify", str(path)])
    assert unknown.exit_code == 1 and "intact" in unknown.stdout and "cannot prove" in unknown.stdout
    (tmp_path / "x.json").write_text(path.read_text().replace("20 of 20", "19 of 20"))
    bad = run.invoke(cli.app, ["verify", str(tmp_path / "x.json"), "--issuer", issuer, "--json"])
    assert bad.exit_code == 1 and json.loads(bad.stdout)["intact"] is False
    for text in ("[]", "{}", '{"proof": 1}', '{"proof": {}, "proof": {}}', "NaN", '{"proof": {"a": 1e999}}'):
        (tmp_path / "x.json").write_text(text)
        assert run.invoke(cli.app, ["verify", str(tmp_path / "x.json"), "--issuer", issuer]).exit_code == 1
