"""A corpus of a few documents and four users for tests, and strategies that draw documents and users at random."""

from __future__ import annotations

from datetime import date
from typing import Any

from hypothesis import strategies as st

from course_lib.corpus import Corpus, Document, User

AS_OF = date(2026, 11, 1)
LATER, EARLIER = date(2027, 6, 30), date(2026, 10, 31)
CLASSES = ("public", "internal", "confidential", "restricted", "privileged")
GROUPS = ("all-staff", "compliance", "security", "legal")


def document(name: str, body: str, **fields: Any) -> Document:
    values = {
        "id": name, "title": name.replace("-", " ").capitalize(), "tenant": "meridian", "owner": "compliance officer",
        "classification": "internal", "groups": ("all-staff",), "version": 1, "status": "approved",
        "approved_source": True, "fresh_until": LATER, "retention_until": LATER, "body": body, "path": f"x/{name}.md",
    }  # fmt: skip
    return Document(**{**values, **fields})


def user(name: str = "u-analyst", **fields: Any) -> User:
    values = {"id": name, "role": "analyst", "tenant": "meridian", "clearance": "internal", "groups": ("all-staff",)}
    return User(**{**values, **fields})


BREACH = """# Breach policy

Every employee reports a personal data breach to the privacy desk at once.

## Deadline

The authority is notified within 72 hours under Article 33(1) of the GDPR. The privacy desk keeps the record.

## Contact

- Write to the privacy desk first.
- Call the duty officer at night.
"""

DOCUMENTS = (
    document("breach-policy", BREACH),
    document("card-limits", "# Card limits\n\nContactless payments stop at EUR 50. After five payments in a row the "
             "card asks for a PIN, as Article 11 of Regulation 2018/389 allows."),
    document("merger-memo", "# Merger memo\n\nThe purchase of Harbour Ledger closes in March for EUR 90 million.",
             classification="restricted", groups=("compliance",)),
    document("dispute-opinion", "# Dispute opinion\n\nCounsel expects to lose the acquiring dispute on appeal.",
             classification="privileged", groups=("legal", "compliance")),
    document("branch-hours", "# Branch hours\n\nThe branches open at nine and close at sixteen.", tenant="halden"),
    document("psd2-note", "# Strong authentication\n\nStrong customer authentication uses two of three elements.",
             tenant="shared", classification="public"),
    document("retry-runbook", "# Retry runbook\n\nA failed settlement file is sent again after fifteen minutes.",
             status="draft"),
    document("old-tariff", "# Old tariff\n\nThe old tariff charged two euros for each paper statement.",
             fresh_until=EARLIER),
    document("rumour", "# Rumour\n\nSomebody heard that the canteen will close on Fridays.", approved_source=False),
)  # fmt: skip
USERS = (
    user(),
    user("u-officer", clearance="restricted", groups=("all-staff", "compliance")),
    user("u-counsel", clearance="restricted", groups=("all-staff", "legal")),
    user("u-halden", tenant="halden"),
)


def corpus(documents: tuple[Document, ...] = DOCUMENTS, users: tuple[User, ...] = USERS) -> Corpus:
    return Corpus(
        documents=documents, users=users, as_of=AS_OF, tenants={"meridian": "Meridian Pay", "halden": "Halden Bank"},
        groups={name: name for name in GROUPS},
    )  # fmt: skip


users_strategy = st.builds(
    User, id=st.just("u-random"), role=st.just("role"), tenant=st.sampled_from(["meridian", "halden", "elsewhere"]),
    clearance=st.sampled_from(CLASSES[:4]),
    groups=st.sets(st.sampled_from(GROUPS), min_size=1).map(lambda names: tuple(sorted(names))),
)  # fmt: skip

metadata_strategy = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(["meridian", "halden", "shared"]),
        "classification": st.sampled_from(CLASSES),
        "groups": st.sets(st.sampled_from(GROUPS), min_size=1).map(lambda names: tuple(sorted(names))),
        "status": st.sampled_from(["approved", "approved", "draft", "superseded", "withdrawn"]),
        "approved_source": st.sampled_from([True, True, False]),
        "fresh_until": st.sampled_from([EARLIER, AS_OF, LATER]),
        "retention_until": st.sampled_from([EARLIER, AS_OF, LATER]),
    }
)
