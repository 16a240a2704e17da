"""Who may read which document: one pure decision, taken before any search and repeated wherever text leaves the system.

The rules stand in a fixed order, the first one that does not hold denies and gives its name to the decision. Anything
missing, malformed or of the wrong type denies: there is no default that opens a document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from course_lib.errors import AccessDenied

if TYPE_CHECKING:
    from course_lib.corpus import Corpus, Document, User

SHARED_TENANT = "shared"
LEGAL_GROUP = "legal"
CLEARANCES = ("public", "internal", "confidential", "restricted")
CLASSIFICATIONS = (*CLEARANCES, "privileged")

RULE_TEXT = MappingProxyType(
    {
        "allowed": "Every rule holds.",
        "tenant": "The document belongs to another tenant.",
        "status": "Only approved versions are read; this one is a draft, superseded or withdrawn.",
        "approved_source": "The source has not been approved for answers.",
        "freshness": "The document is past the date until which its content was confirmed.",
        "retention": "The document is past its retention date and must not be used any more.",
        "classification": "The classification is above the clearance of the user.",
        "groups": "The user is in none of the groups that may read the document.",
    }
)


@dataclass(frozen=True, slots=True)
class Decision:
    """allowed, and the name of the rule that decided: ``allowed``, or the first rule that did not hold."""

    allowed: bool
    rule: str

    @property
    def explanation(self) -> str:
        """One sentence for a log or a lesson. It never names the content of the document."""
        return RULE_TEXT[self.rule]


@dataclass(frozen=True, slots=True)
class Allowance:
    """The documents one user may search now: the keys of the allowed ones, and how many each rule denied."""

    keys: frozenset[str]
    denied: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted keys: equal for two users exactly when they may read the same versions."""
        return hashlib.sha256(json.dumps(sorted(self.keys)).encode()).hexdigest()


def _names(value: Any) -> frozenset[str]:
    """A collection of non-empty strings. A lone string is refused: ``"legal"`` must not become five letters."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError("groups must be a collection of names")
    names = frozenset(value)
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise TypeError("a group name must be a non-empty string")
    return names


def _day(value: Any) -> date:
    """A calendar date. A datetime is refused: comparing it would depend on a time zone that nobody stated."""
    if isinstance(value, datetime) or not isinstance(value, date):
        raise TypeError("a date is needed")
    return value


def _tenant(user: User, document: Document, as_of: date) -> bool:
    own = user.tenant
    if not isinstance(own, str) or not own.strip() or own == SHARED_TENANT:
        return False
    return document.tenant in (own, SHARED_TENANT)


def _classification(user: User, document: Document, as_of: date) -> bool:
    clearance = CLEARANCES.index(user.clearance)
    needed = CLASSIFICATIONS.index(document.classification)
    if document.classification == "privileged":
        return clearance == len(CLEARANCES) - 1 and LEGAL_GROUP in _names(user.groups)
    return clearance >= needed


RULES: tuple[tuple[str, Callable[[Any, Any, date], bool]], ...] = (
    ("tenant", _tenant),
    ("status", lambda user, document, as_of: document.status == "approved"),
    ("approved_source", lambda user, document, as_of: document.approved_source is True),
    ("freshness", lambda user, document, as_of: _day(document.fresh_until) >= _day(as_of)),
    ("retention", lambda user, document, as_of: _day(document.retention_until) >= _day(as_of)),
    ("classification", _classification),
    ("groups", lambda user, document, as_of: bool(_names(user.groups) & _names(document.groups))),
)


def decide(user: User, document: Document, as_of: date) -> Decision:
    """Whether ``user`` may read ``document`` on the day ``as_of``. Pure, and it never raises.

    The order is tenant, status, approved source, freshness, retention, classification, groups; both dates are the last
    good day. A ``privileged`` document needs clearance ``restricted`` and the group ``legal``. A rule that cannot be
    evaluated, because a field is missing, unknown or of the wrong type, denies under its own name.
    """
    for name, rule in RULES:
        try:
            holds = rule(user, document, as_of) is True
        except Exception:  # a rule that cannot be evaluated must deny, whatever the reason
            holds = False
        if not holds:
            return Decision(False, name)
    return Decision(True, "allowed")


Rule = Callable[[Any, Any, date], Decision]


def allowance(user: User, documents: Iterable[Document], as_of: date, rule: Rule = decide) -> Allowance:
    """Decides every document once. O(documents); a few microseconds each. rule: another decision, as in the lab."""
    keys: set[str] = set()
    denied: dict[str, int] = {}
    for document in documents:
        decision = rule(user, document, as_of)
        if decision.allowed:
            keys.add(document.key)
        else:
            denied[decision.rule] = denied.get(decision.rule, 0) + 1
    return Allowance(frozenset(keys), MappingProxyType(dict(sorted(denied.items()))))


def allowed_documents(user: User, corpus: Corpus) -> Allowance:
    """The same for a whole corpus, judged on its own ``as_of`` day and never on the wall clock."""
    return allowance(user, corpus.documents, corpus.as_of)


def permission_fingerprint(user: User) -> str:
    """SHA-256 over what the decision reads from a user: tenant, clearance, groups.

    Two users with equal permissions share it, whoever they are; any change of permission changes it. A user without
    these fields gets no fingerprint: AccessDenied, so nothing can be cached under a half-known identity.
    """
    try:
        facts = [str(user.tenant), str(user.clearance), sorted(_names(user.groups))]
    except (AttributeError, TypeError) as error:
        raise AccessDenied(
            "The user has no complete set of permissions.",
            where="permission_fingerprint",
            fix="Give the user a tenant, a clearance and a list of groups.",
        ) from error
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
