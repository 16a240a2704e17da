"""Certificates that anyone can check offline: Open Badges 3.0 credentials, signed with Ed25519.

The proof is a Data Integrity proof of the suite ``eddsa-jcs-2022``; the issuer is a ``did:key``, so that the public key
travels in the credential. That proves that nothing was changed since that key signed it. *Whose* key it is, the
credential cannot prove: whoever verifies names the issuer that they trust.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_grader.archives import read_bytes
from course_grader.bookpages import STYLES, TEMPLATES
from course_grader.gradebook import Book, Lab, Row, slug
from course_lib.errors import CourseError, DataError
from course_lib.files import write_text
from course_lib.report import environment, style_of
from course_lib.rubric import BANDS
from course_lib.strictjson import BadJson, decode, parse_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

CONTEXT = ["https://www.w3.org/ns/credentials/v2", "https://purl.imsglobal.org/spec/ob/v3p0/context-3.0.3.json"]
SUITE = "eddsa-jcs-2022"
ED25519 = b"\xed\x01"  # multicodec prefix of an Ed25519 public key
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MOST = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """intact: nothing was changed since ``issuer`` signed. trusted: the issuer is one that the caller named.
    problems: what does not hold, in words."""

    intact: bool
    trusted: bool
    issuer: str
    learner: str
    achievement: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.intact and self.trusted and not self.problems


def load_key(path: Path) -> Ed25519PrivateKey:
    """The issuer's private key; a new one is written, for its owner's eyes only, where there is none."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pem = Ed25519PrivateKey.generate().private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        )
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(pem)
    try:
        key = form.load_pem_private_key(read_bytes(path, MOST), password=None)
    except (ValueError, TypeError) as error:
        raise DataError("This is no private key.", where=str(path), fix="Name a PEM file with an Ed25519 key.") \
            from error
    if not isinstance(key, Ed25519PrivateKey):
        raise DataError("This is no Ed25519 key.", where=str(path), fix="Name a PEM file with an Ed25519 key.")
    return key


def did_of(key: Ed25519PrivateKey) -> str:
    """The issuer's name, made from the public key."""
    return f"did:key:{_multibase(ED25519 + key.public_key().public_bytes_raw())}"


def earned(row: Row) -> bool:
    """Every gate passed, nothing open or unscored, and enough points after lateness for a band above the last."""
    return row.counts and row.passed and not (row.report and row.report.pending) and row.final >= BANDS[-2][0]


def credential(row: Row, lab: Lab, issuer: str, name: str, when: datetime) -> dict[str, Any]:
    """The credential without its proof. The learner is named by a salted hash and by name; points are text, because
    signatures over fractions differ between programs."""
    assert row.report is not None
    salt = hashlib.sha256(f"{row.digest}{lab.module}".encode()).hexdigest()[:16]
    hashed = hashlib.sha256(f"{row.learner}{salt}".encode()).hexdigest()
    result = {"type": ["Result"], "resultDescription": f"urn:course:lab:{lab.module}:points",
              "value": f"{row.final:g} of {lab.rubric.maximum:g}"}  # fmt: skip
    return {
        "@context": CONTEXT, "type": ["VerifiableCredential", "OpenBadgeCredential"],
        "id": f"urn:course:{lab.module}:{hashlib.sha256(f'{row.learner}{row.digest}'.encode()).hexdigest()[:32]}",
        "name": f"Lab {lab.module}: {lab.title}",
        "issuer": {"id": issuer, "type": ["Profile"], "name": name},
        "validFrom": when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "credentialSubject": {
            "type": ["AchievementSubject"], "name": row.name,
            "identifier": [{"type": "IdentityObject", "hashed": True, "identityHash": f"sha256${hashed}",
                            "identityType": "identifier", "salt": salt}],
            "achievement": {
                "id": f"urn:course:lab:{lab.module}", "type": ["Achievement"], "achievementType": "Assignment",
                "name": lab.title, "criteria": {"narrative": "; ".join(gate.title for gate in lab.rubric.gates)},
                "description": f"Lab {lab.module}, graded against a rubric of {lab.rubric.maximum:g} points.",
                "resultDescription": [{"id": f"urn:course:lab:{lab.module}:points", "type": ["ResultDescription"],
                                       "name": "Points", "resultType": "RawScore"}],
            },
            "result": [result],
        },
        "evidence": [
            {"id": f"urn:sha256:{row.digest}", "type": ["Evidence"], "name": "Submission"},
            {"id": f"urn:sha256:{hashlib.sha256(row.report.to_json().encode()).hexdigest()}", "type": ["Evidence"],
             "name": "Report of the grader, with the reviewers' points"},
            {"id": f"urn:sha256:{row.report.rubric_sha256}", "type": ["Evidence"], "name": "Rubric"},
        ],
    }  # fmt: skip


def sign(document: Mapping[str, Any], key: Ed25519PrivateKey, when: datetime) -> dict[str, Any]:
    """The document with its proof: Ed25519 over the hashes of proof options and document, both canonical (JCS)."""
    issuer = did_of(key)
    options = {"type": "DataIntegrityProof", "cryptosuite": SUITE, "proofPurpose": "assertionMethod",
               "created": when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "@context": document["@context"],
               "verificationMethod": f"{issuer}#{issuer.removeprefix('did:key:')}"}  # fmt: skip
    signature = key.sign(_hash_data(options, document))
    return {**document, "proof": {**options, "proofValue": _multibase(signature)}}


def verify(path: Path, trusted: Iterable[str] = (), submission: Path | None = None) -> Verdict:
    """Checks a certificate without a network. trusted: issuers, as ``did:key:…``. submission: the folder that must be
    the evidence. Raises DataError only when the file is no certificate at all."""
    from cryptography.exceptions import InvalidSignature

    document = _read(path)
    proof = document.get("proof")
    issuer = document.get("issuer")
    issuer = issuer.get("id") if isinstance(issuer, dict) else issuer
    problems = []
    try:
        if not isinstance(proof, dict) or not isinstance(issuer, str):
            raise ValueError("no proof or no issuer")
        options = {name: value for name, value in proof.items() if name != "proofValue"}
        unsigned = {name: value for name, value in document.items() if name != "proof"}
        own = f"{issuer}#{issuer.removeprefix('did:key:')}"
        if (proof["type"], proof["cryptosuite"], proof["verificationMethod"], proof["proofPurpose"]) != (
            "DataIntegrityProof", SUITE, own, "assertionMethod"
        ):  # fmt: skip
            problems.append("the proof is not one of this issuer")
        _public(issuer).verify(_unbase(proof["proofValue"], 64), _hash_data(options, unsigned))
    except (InvalidSignature, KeyError, ValueError, TypeError, OverflowError):
        problems.append("the signature does not hold: the certificate was changed, or another key signed it")
    intact = not problems
    if submission is not None:
        problems += _evidence_problems(document, submission)
    subject = document.get("credentialSubject")
    learner = subject.get("name", "") if isinstance(subject, dict) else ""
    return Verdict(intact, intact and issuer in set(trusted), str(issuer), str(learner), str(document.get("name", "")),
                   tuple(problems))  # fmt: skip


def _evidence_problems(document: Mapping[str, Any], folder: Path) -> list[str]:
    from course_lib.submission import Submission

    try:
        digest = Submission.open(folder).digest()
    except CourseError as error:
        return [f"the submission cannot be read: {error.what}"]
    evidence = document.get("evidence")
    found = [item.get("id") for item in evidence if isinstance(item, dict)] if isinstance(evidence, list) else []
    return [] if f"urn:sha256:{digest}" in found else ["the submission is not the one that was graded"]


def _read(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(decode(read_bytes(path, MOST)))
    except BadJson as error:
        raise DataError(f"This is no certificate: {error.reason}.", where=f"{path}:{error.line}",
                        fix="Name the JSON file, not the page.") from error  # fmt: skip
    if not isinstance(value, dict) or "proof" not in value:
        raise DataError("This is no certificate: it has no proof.", where=str(path), fix="Name the JSON file.")
    return value


def _hash_data(options: Mapping[str, Any], document: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(_canonical(options)).digest() + hashlib.sha256(_canonical(document)).digest()


def _canonical(value: Any) -> bytes:
    """RFC 8785 for what a credential holds: text, lists, objects with plain ASCII names; no fractions."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _multibase(raw: bytes) -> str:
    """Base58 as Bitcoin has it, with the prefix z."""
    number, out = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        out = ALPHABET[digit] + out
    return "z" + "1" * (len(raw) - len(raw.lstrip(b"\0"))) + out


def _unbase(text: str, size: int) -> bytes:
    """Exactly ``size`` bytes, and only in their one spelling. Raises ValueError."""
    if not isinstance(text, str) or len(text) > 2 * size + 2 or not text.startswith("z"):
        raise ValueError("not base58")
    number = 0
    for character in text[1:]:
        number = number * 58 + ALPHABET.index(character)
    raw = number.to_bytes(size, "big")
    if _multibase(raw) != text:
        raise ValueError("another spelling")
    return raw


def _public(issuer: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = _unbase(issuer.removeprefix("did:key:"), 34)
    if not issuer.startswith("did:key:") or not raw.startswith(ED25519):
        raise ValueError("no Ed25519 key")
    return Ed25519PublicKey.from_public_bytes(raw[2:])


def issue_all(book: Book, key: Ed25519PrivateKey, name: str, out: Path, now: datetime | None = None) -> Sequence[Path]:
    """A certificate and a printable page for everyone who earned one; those that stand already are left as they are.

    A certificate whose score or evidence no longer holds is taken away. Returns the paths of the JSON files.
    """
    now, issuer = now or datetime.now(UTC), did_of(key)
    written: list[Path] = []
    for lab in book.labs:
        for row in lab.counted:
            path = out / "certificates" / f"{slug(row.learner)}-{lab.module}.json"
            if not earned(row):
                path.unlink(missing_ok=True)
                path.with_suffix(".html").unlink(missing_ok=True)
                continue
            fresh = credential(row, lab, issuer, name, now)
            if not _same(path, fresh):
                signed = sign(fresh, key, now)
                write_text(path, json.dumps(signed, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
                page = environment(TEMPLATES).get_template("gradebook_certificate.html")
                write_text(path.with_suffix(".html"), page.render(
                    **style_of(*STYLES), credential=signed, file=path.name, band=row.report.band))
            written.append(path)
    return written


def _same(path: Path, fresh: Mapping[str, Any]) -> bool:
    """Whether the certificate on the disk says the same, its date aside, and still verifies."""
    try:
        old = _read(path)
        return verify(path, [fresh["issuer"]["id"]]).ok and {**fresh, "validFrom": ""} == {
            **{name: value for name, value in old.items() if name != "proof"}, "validFrom": ""}  # fmt: skip
    except CourseError:
        return False
