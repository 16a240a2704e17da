"""Access decisions: order of the rules, boundaries, and closed doors for everything missing or malformed."""

from __future__ import annotations

from datetime import date, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_world import AS_OF, DOCUMENTS, EARLIER, corpus, document, metadata_strategy, user, users_strategy

from course_lib.access import (
    CLASSIFICATIONS,
    CLEARANCES,
    RULE_TEXT,
    RULES,
    allowed_documents,
    decide,
    permission_fingerprint,
)
from course_lib.errors import AccessDenied

ORDER = ["tenant", "status", "approved_source", "freshness", "retention", "classification", "groups"]
SPOILED = {
    "tenant": {"tenant": "halden"},
    "status": {"status": "withdrawn"},
    "approved_source": {"approved_source": False},
    "freshness": {"fresh_until": EARLIER},
    "retention": {"retention_until": EARLIER},
    "classification": {"classification": "confidential"},
    "groups": {"groups": ("board",)},
}


def test_a_plain_document_is_allowed_and_the_decision_explains_itself() -> None:
    decision = decide(user(), document("plain", "Text."), AS_OF)
    assert (decision.allowed, decision.rule) == (True, "allowed")
    assert decision.explanation == RULE_TEXT["allowed"]
    assert set(RULE_TEXT) == {"allowed", *ORDER}


@pytest.mark.parametrize("rule", ORDER)
def test_each_rule_denies_alone(rule: str) -> None:
    decision = decide(user(), document("plain", "Text.", **SPOILED[rule]), AS_OF)
    assert (decision.allowed, decision.rule) == (False, rule)


def test_the_first_rule_in_order_gives_the_name() -> None:
    assert [name for name, _ in RULES] == ORDER
    for position in range(len(ORDER)):
        fields: dict[str, Any] = {}
        for rule in ORDER[position:]:
            fields |= SPOILED[rule]
        assert decide(user(), document("plain", "Text.", **fields), AS_OF).rule == ORDER[position]


@pytest.mark.parametrize("status", ["draft", "superseded", "withdrawn"])
def test_only_approved_versions_are_read(status: str) -> None:
    assert decide(user(), document("plain", "Text.", status=status), AS_OF).rule == "status"


def test_dates_are_the_last_good_day() -> None:
    assert decide(user(), document("plain", "Text.", fresh_until=AS_OF, retention_until=AS_OF), AS_OF).allowed


@pytest.mark.parametrize("clearance", CLEARANCES)
@pytest.mark.parametrize("needed", CLASSIFICATIONS)
def test_clearance_reads_up_to_its_own_level(clearance: str, needed: str) -> None:
    asker = user(clearance=clearance, groups=("all-staff", "legal"))
    expected = (
        clearance == "restricted" if needed == "privileged" else CLEARANCES.index(clearance) >= CLEARANCES.index(needed)
    )
    assert decide(asker, document("plain", "Text.", classification=needed), AS_OF).allowed is expected


def test_privileged_needs_the_group_legal_even_when_the_document_names_another_group() -> None:
    opinion = document("opinion", "Text.", classification="privileged", groups=("all-staff",))
    assert decide(user(clearance="restricted"), opinion, AS_OF).rule == "classification"
    assert decide(user(clearance="restricted", groups=("legal", "all-staff")), opinion, AS_OF).allowed


def test_shared_is_for_every_tenant_but_is_no_tenant_of_a_user() -> None:
    note = document("note", "Text.", tenant="shared")
    assert decide(user(tenant="halden"), note, AS_OF).allowed
    assert decide(user().model_copy(update={"tenant": "shared"}), note, AS_OF).rule == "tenant"


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).model_fields} | {"key": getattr(record, "key", "")}


USED = ["tenant", "status", "approved_source", "fresh_until", "retention_until", "classification", "groups"]
WRONG: dict[str, list[Any]] = {
    "tenant": [None, "", 1, "MERIDIAN"],
    "status": [None, "Approved", True, ["approved"]],
    "approved_source": [None, "yes", "false", 1],
    "fresh_until": [None, "2027-06-30", datetime(2027, 6, 30), 20270630],
    "retention_until": [None, "2027-06-30", datetime(2027, 6, 30)],
    "classification": [None, "", "Public", "top-secret", 0],
    "groups": [None, (), "all-staff", b"all-staff", [""], [None], {"all-staff": 1}, 7],
}


@pytest.mark.parametrize("field", USED)
def test_a_document_without_the_field_is_closed(field: str) -> None:
    broken = _fields(document("plain", "Text."))
    del broken[field]
    decision = decide(user(), SimpleNamespace(**broken), AS_OF)  # type: ignore[arg-type]
    assert not decision.allowed
    assert decision.rule == ORDER[USED.index(field)]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_document_with_a_malformed_field_is_closed(field: str, value: Any) -> None:
    broken = SimpleNamespace(**(_fields(document("plain", "Text.")) | {field: value}))
    assert not decide(user(), broken, AS_OF).allowed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("tenant", None), ("tenant", ""), ("tenant", "shared"), ("clearance", None), ("clearance", "privileged"),
     ("clearance", "Restricted"), ("groups", None), ("groups", ()), ("groups", "all-staff"), ("groups", [""])],
)  # fmt: skip
def test_a_user_with_a_malformed_field_reads_nothing(field: str, value: Any) -> None:
    broken = SimpleNamespace(**(_fields(user(clearance="restricted")) | {field: value}))
    assert not any(decide(broken, doc, AS_OF).allowed for doc in DOCUMENTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("as_of", [None, "2026-11-01", datetime(2026, 11, 1), 0])
def test_without_a_date_nothing_is_fresh(as_of: Any) -> None:
    assert decide(user(), document("plain", "Text."), as_of).rule == "freshness"


def test_no_user_and_no_document_are_closed_without_an_exception() -> None:
    assert not decide(None, document("plain", "Text."), AS_OF).allowed  # type: ignore[arg-type]
    assert not decide(user(), None, AS_OF).allowed  # type: ignore[arg-type]


def test_a_property_that_raises_is_closed() -> None:
    class Trap:
        tenant, status = "meridian", "approved"

        @property
        def approved_source(self) -> bool:
            raise RuntimeError("storage is away")

    assert decide(user(), Trap(), AS_OF).rule == "approved_source"  # type: ignore[arg-type]


def test_allowed_documents_counts_each_denial_once() -> None:
    result = allowed_documents(user(), corpus())
    assert result.keys == {"breach-policy@1", "card-limits@1", "psd2-note@1"}
    assert dict(result.denied) == {"approved_source": 1, "classification": 2, "freshness": 1, "status": 1, "tenant": 1}
    assert len(result.keys) + sum(result.denied.values()) == len(DOCUMENTS)


def test_fingerprint_follows_permissions_and_nothing_else() -> None:
    base = permission_fingerprint(user(groups=("a", "b")))
    assert base == permission_fingerprint(user("u-someone-else", role="clerk", groups=("b", "a")))
    changes = [{"tenant": "halden"}, {"clearance": "public"}, {"groups": ("a",)}, {"groups": ("a,b",)}]
    others = [user(**({"groups": ("a", "b")} | change)) for change in changes]
    assert base not in {permission_fingerprint(other) for other in others}
    with pytest.raises(AccessDenied):
        permission_fingerprint(SimpleNamespace(tenant="meridian", clearance="internal"))  # type: ignore[arg-type]


def _reference(asker: Any, fields: dict[str, Any], as_of: date) -> bool:
    """The policy written a second time, as one expression."""
    level = ["public", "internal", "confidential", "restricted", "privileged"].index
    return (
        fields["tenant"] in {asker.tenant, "shared"}
        and fields["status"] == "approved"
        and fields["approved_source"]
        and min(fields["fresh_until"], fields["retention_until"]) >= as_of
        and level(fields["classification"]) <= level(asker.clearance) + (fields["classification"] == "privileged")
        and (fields["classification"] != "privileged" or "legal" in asker.groups)
        and not set(asker.groups).isdisjoint(fields["groups"])
    )


@given(users_strategy, metadata_strategy)
def test_decide_agrees_with_a_second_writing_of_the_policy(asker: Any, fields: dict[str, Any]) -> None:
    doc = document("plain", "Text.", **fields)
    first = decide(asker, doc, AS_OF)
    assert first.allowed is _reference(asker, fields, AS_OF)
    assert first == decide(asker, doc, AS_OF)


@given(users_strategy, metadata_strategy, st.sampled_from(USED))
def test_taking_something_away_never_opens_a_document(asker: Any, fields: dict[str, Any], field: str) -> None:
    broken = _fields(document("plain", "Text.", **fields))
    del broken[field]
    assert not decide(asker, SimpleNamespace(**broken), AS_OF).allowed  # type: ignore[arg-type]
