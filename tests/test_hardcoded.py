"""Results that a notebook does not compute: found in its code, and in what another seed leaves as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_grader.hardcoded import constant_writes, constants, follows_seed, stays_equal
from course_lib.catalog import find, repo_root
from course_lib.errors import RubricError
from course_lib.grade import rubric_of
from course_lib.rubric import Rerun
from course_lib.submission import Submission
from course_lib.types import Outcome

FILES = ("rows.jsonl", "results.json")
PLAN = Rerun(varies=["rows.jsonl"], equal={"probes.jsonl": ["user", "denied"], "notes.md": []},
             seed_in={"config.json": "seed"})  # fmt: skip
HARDCODED = {
    "text": ("(out / 'rows.jsonl').write_text('{\"id\": 1, \"answer\": \"forty-two is the answer to all of it\"}')",),
    "named elsewhere": ("rows = [{'id': 1, 'hit': True}, {'id': 2, 'hit': False}]",
                        "(out / 'rows.jsonl').write_text(''.join(json.dumps(r) + '\\n' for r in rows))"),
    "dumped": ("json.dump({'n': 20, 'hits': 19, 'rate': 0.95}, open(out / 'results.json', 'w'))",),
    "through a handle": ("with open('rows.jsonl', 'w') as f:\n    for r in (1, 2, 3):\n        f.write(str(r))",),
    "through a path": ("there = out / 'results.json'\nthere.write_text(json.dumps([1, 2, 3]))",),
    "printed": ("print([1, 2, 3], file=open(out / 'rows.jsonl', 'w'))",),
    "after a magic": ("%matplotlib inline\n(out / 'results.json').write_text(str((1, 2, 3)))",),
    "in a function": ("def save():\n    Path('out', 'rows.jsonl').write_text(repr([1, 2, 3]))",),
}  # fmt: skip
COMPUTED = {
    "computed": ("rows = [search(q) for q in ('a', 'b', 'c')]", "(out / 'rows.jsonl').write_text(json.dumps(rows))"),
    "filled later": ("rows = []", "for q in (1, 2, 3):\n    rows.append(search(q))",
                     "(out / 'rows.jsonl').write_text(json.dumps(rows))"),
    "filled by index": ("rows = [0, 0, 0]\nrows[1] = seed * 2", "(out / 'rows.jsonl').write_text(json.dumps(rows))"),
    "added to": ("rows = [1, 2, 3]\nrows += more", "(out / 'rows.jsonl').write_text(json.dumps(rows))"),
    "given away": ("rows = [1, 2, 3]\nfill(rows)", "(out / 'rows.jsonl').write_text(json.dumps(rows))"),
    "another file": ("(out / 'risk-notes.md').write_text('These are my own words about the risks of this system.')",),
    "empty": ("(out / 'rows.jsonl').write_text('')",),
    "a parameter": ("(out / 'results.json').write_text(json.dumps({'a': 1, 'b': 2, 'c': seed}))",),
    "broken": ("def f(:\n  rows.jsonl",),
    "an argument": ("def save(rows):\n    (out / 'rows.jsonl').write_text(json.dumps(rows))", "rows = [1, 2, 3]"),
}  # fmt: skip


@pytest.mark.parametrize("cells", HARDCODED.values(), ids=HARDCODED)
def test_literals_written_as_results_are_found(cells: tuple[str, ...]) -> None:
    found = set(constant_writes(list(cells), FILES))
    assert len(found) == 1 and next(iter(found))[1] in FILES


@pytest.mark.parametrize("cells", COMPUTED.values(), ids=COMPUTED)
def test_what_may_have_been_computed_is_not_accused(cells: tuple[str, ...]) -> None:
    assert list(constant_writes(list(cells), FILES)) == []


def notebook(*sources: str, **files: str) -> Submission:
    cells = [{"cell_type": "code", "source": "rows = [1, 2, 3]", "metadata": {"tags": ["parameters"]}}]
    cells += [{"cell_type": "code", "source": source.splitlines(True), "metadata": {}} for source in sources]
    contents = {name.replace("__", "."): text.encode() for name, text in files.items()}
    return Submission("s", {"lab.ipynb": json.dumps({"cells": cells}).encode(), **contents})


def test_the_finding_names_cell_and_file_and_parameters_are_no_constants() -> None:
    write = "(out / 'rows.jsonl').write_text(json.dumps({}))"
    found = constants(notebook("1", write.format([1, 2, 3])), PLAN)
    assert [(f.rule, f.outcome, f.evidence["flag"]) for f in found] == [
        ("rerun.constants", Outcome.FAIL, "hard-coded results")]  # fmt: skip
    assert "cell 2" in found[0].actual and "rows.jsonl" in found[0].message
    assert constants(notebook(write.format("rows")), PLAN) == []


def test_the_lab_itself_is_not_accused() -> None:
    lab = repo_root() / "labs/06_rag/lab.ipynb"
    assert constants(Submission("s", {"lab.ipynb": lab.read_bytes()}), rubric_of("06").rerun) == []


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["cells", "source", "metadata", "tags", "cell_type", "code"]), inner), max_leaves=30))  # fmt: skip
def test_no_notebook_stops_it(value: object) -> None:
    assert constants(Submission("s", {"lab.ipynb": json.dumps(value).encode()}), PLAN) == []


def test_a_notebook_made_to_explode_is_read_in_no_time() -> None:
    chain = ["a0 = [1, 2]", *(f"a{n} = [{', '.join([f'a{n - 1}'] * 50)}]" for n in range(1, 12))]
    deep = "x = " + "(" * 5000 + "1" + ")" * 5000
    write = "(out / 'rows.jsonl').write_text(json.dumps(a11))"
    assert len(list(constant_writes([*chain, deep, "-" * 100_000 + "1", write], FILES))) == 1


SAID = {"rows__jsonl": '{"a": 1}\n{"a": 2}\n', "config__json": '{"seed": 6}', "notes__md": "one\n two",
        "probes__jsonl": '{"user": "u", "denied": 3, "retrieved": [1]}'}  # fmt: skip


@pytest.mark.parametrize(("changed", "flagged"), [
    ({"rows__jsonl": '{"a": 1}\n{"a": 3}'}, []),
    ({}, ["rows.jsonl"]),
    ({"rows__jsonl": '{"a":2}\n{"a":1}'}, ["rows.jsonl"]),  # another order and layout say the same
    ({"rows__jsonl": '{"a": 7}', "config__json": '{"seed": 6}'}, ["config.json"]),
    ({"rows__jsonl": '{"a": 7}', "config__json": "[7]"}, ["config.json"]),
    ({"rows__jsonl": "no json"}, []),
])  # fmt: skip
def test_what_another_seed_must_change_is_declared(changed: dict[str, str], flagged: list[str]) -> None:
    again = notebook(**{**SAID, "config__json": '{"seed": 7}', **changed})
    found = follows_seed(notebook(**SAID), again, PLAN, 7)
    assert found.ok == (not flagged) and all(name in found.message for name in flagged)


@pytest.mark.parametrize(("changed", "flagged"), [
    ({"notes__md": "one two"}, []), ({"probes__jsonl": '{"denied": 3, "user": "u", "retrieved": [2]}'}, []),
    ({"notes__md": "one three"}, ["notes.md"]), ({"probes__jsonl": '{"user": "u", "denied": 4}'}, ["probes.jsonl"]),
    ({"probes__jsonl": ""}, ["probes.jsonl"]),
])  # fmt: skip
def test_what_no_seed_changes_is_declared(changed: dict[str, str], flagged: list[str]) -> None:
    found = stays_equal(notebook(**SAID), notebook(**{**SAID, **changed}), PLAN)
    assert found.ok == (not flagged) and all(name in found.message for name in flagged)
    assert stays_equal(notebook(), notebook(), Rerun(varies=["x"])) is None


@pytest.mark.parametrize(("old", "new", "says"), [
    ("varies: [rag_eval_cases.jsonl, ", "varies: [nothing.jsonl, ", "nothing.jsonl is no artifact"),
    ("varies: [rag_eval_cases.jsonl, rag_eval_rows.jsonl]", "varies: []", "rerun.varies"),
    ("    access_probes.jsonl: [user, question, denied]", "    rag_eval_rows.jsonl: []", "must vary and must stay"),
    ("  seed_in:", "  sed_in:", "rerun.sed_in"),
])  # fmt: skip
def test_a_rubric_that_contradicts_itself_is_refused(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, old: str, new: str, says: str
) -> None:
    from course_lib import catalog

    text = find("06").rubric.read_text()
    assert old in text
    path = tmp_path / "06_rag.yaml"  # type: ignore[operator]
    path.write_text(text.replace(old, new))
    monkeypatch.setattr(catalog.Module, "rubric", property(lambda module: path))
    with pytest.raises(RubricError, match=says.replace(".", r"\.")):
        rubric_of("06")

