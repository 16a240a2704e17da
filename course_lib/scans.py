"""Personal data and secrets in text: what a scan by rules can find, and the same text without it.

IBAN and card numbers are believed only with a right checksum, telephone numbers only where a numbering plan knows them.
Names are found by what stands before them, so a bare name is missed: a scan lowers the risk, and a reader remains.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

REGIONS = (None, "DE", "FR", "NL", "AT")  # telephone numbers without a country code are read as of these
PERSONAL = ("email", "phone", "iban", "card", "name", "birth date")
EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
CARD = re.compile(r"\b\d(?:[ -]?\d){12,18}\b")
BORN = re.compile(r"\b(?:born|birth)\b[^.]{0,25}?\b(\d{1,2}[./-]\d{1,2}[./-]\d{4}|\d{1,2} [A-Z][a-z]+ (?:19|20)\d\d)")
_TITLE = r"(?:Mr|Mrs|Ms|Dr|Prof|Herr|Frau|Mme|Sig)\.? (?:[A-Z]\. )?"
_BEFORE = r"(?:[Mm]y name is|[Nn]ame:|[Ss]igned(?: by)?:?|[Rr]egards,|[Cc]olleague|[Cc]lient|[Cc]ustomer) "
_PERSON = r"[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)"
NAME = re.compile(rf"{_TITLE}({_PERSON}?)|{_BEFORE}({_PERSON})")
_ORGANISATION = re.compile(r"\b(?:Bank|Pay|Group|Office|Authority|Commission|Act|Care|Relations|Union|States?)\b")
WORDED = re.compile(r"(?i)\b(?:password|passphrase|api[ _-]?key|secret|token|pin)\b(?: is|:| ?=)\s*[\"']?"
                    r"((?=[^\s\"']*\d)[^\s\"']{6,})")  # fmt: skip


class Found(NamedTuple):
    """kind: one of ``PERSONAL`` or ``secret``. text: the words that were found."""

    kind: str
    text: str


@functools.cache
def secret_detectors() -> tuple[Any, ...]:
    """The detectors of detect-secrets that know a form of credential; ``analyze_string`` yields what they find."""
    from detect_secrets.plugins import aws, basic_auth, github_token, jwt, keyword, private_key, slack, stripe

    return (aws.AWSKeyDetector(), basic_auth.BasicAuthDetector(), github_token.GitHubTokenDetector(),
            jwt.JwtTokenDetector(), keyword.KeywordDetector(), private_key.PrivateKeyDetector(),
            slack.SlackDetector(), stripe.StripeDetector())  # fmt: skip


def personal(text: str) -> list[Found]:
    """Personal data in a text, by kind, in the order of ``PERSONAL``."""
    from stdnum import iban, luhn

    found = [Found("email", match[0]) for match in EMAIL.finditer(text)]
    found += [Found("phone", number) for number in _phones(text)]
    found += [Found("iban", match[0]) for match in IBAN.finditer(text) if iban.is_valid(match[0])]
    digits = ((match[0], re.sub(r"\D", "", match[0])) for match in CARD.finditer(text))
    found += [Found("card", written) for written, plain in digits if luhn.is_valid(plain)]
    names = (match[1] or match[2] for match in NAME.finditer(text))
    found += [Found("name", name) for name in names if not _ORGANISATION.search(name)]
    return found + [Found("birth date", match[1]) for match in BORN.finditer(text)]


def _phones(text: str) -> Iterator[str]:
    import phonenumbers

    if sum(character.isdigit() for character in text) < 7:
        return
    seen: set[str] = set()
    for region in REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            spaced = region is None or match.raw_string.lstrip("(").startswith("0")  # else any long number is one
            if spaced and match.raw_string not in seen:
                seen.add(match.raw_string)
                yield match.raw_string


def secrets(text: str) -> list[Found]:
    """Credentials in a text: forms that detect-secrets knows, and ``password: …`` with a digit in it."""
    found = {value for detector in secret_detectors() for value in detector.analyze_string(text) if value}
    found |= {match[1] for match in WORDED.finditer(text)}
    return [Found("secret", value) for value in sorted(found)]


def scan(text: str) -> list[Found]:
    """Personal data, then secrets."""
    return [*personal(text), *secrets(text)]


def masked(text: str) -> str:
    """The text with each finding replaced by its kind in brackets, such as ``[EMAIL]``; a secret with the whole word
    that it stands in, because a detector may name its beginning alone."""
    for found in sorted(scan(text), key=lambda f: -len(f.text)):
        word = r"[^\s\"']*" if found.kind == "secret" else ""
        text = re.sub(f"{word}{re.escape(found.text)}{word}", f"[{found.kind.upper()}]", text)
    return text
