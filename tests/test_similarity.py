"""Copies are found through new names, layout and order; honest work and the starter lab are not."""

from __future__ import annotations

import re
import time

from cohort_kit import notebook

from course_grader.similarity import KEPT, Fingerprint, copies_of_starter, fingerprint, normalised, pairs, starter_runs
from course_lib.submission import Submission

WORK = '''
def score(rows, limit=3):
    """Counts hits."""
    found = {}
    for row in rows:
        for rank, name in enumerate(row["retrieved"][:limit]):
            if name in row["expected"]:
                found.setdefault(row["id"], rank + 1)
                break
        else:
            found[row["id"]] = None
    hits = [rank for rank in found.values() if rank is not None]
    return len(hits) / max(1, len(found)), sum(1 / rank for rank in hits) / max(1, len(found))

rate, mrr = score(rows)
print(f"hit rate {rate:.3f}, MRR {mrr:.3f}")
'''
COPY = '''
# my own work
def evaluate(data, top = 5):
    "Something else."
    result = {}
    for item in data:
        for position, doc in enumerate(item["r"][:top]):
            if doc in item["e"]:
                result.setdefault(item["key"], position + 1); break
        else:
            result[item["key"]] = None
    good = [position for position in result.values() if position is not None]
    return len(good) / max(1, len(result)), sum(2 / position for position in good) / max(1, len(result))
a, b = evaluate(data)
print(f"found {a:.1f}, rank {b:.2f}")
'''
OTHER = '''
import statistics
class Meter:
    def __init__(self, name):
        self.name, self.values, self.open = name, [], True
    def add(self, value, *, weight=1.0):
        if not self.open:
            raise RuntimeError("closed")
        self.values.append(value * weight)
        return self
    def summary(self):
        with_order = sorted(self.values, reverse=True)
        return {"mean": statistics.fmean(self.values), "top": with_order[0], "n": len(with_order)}
meter = Meter("latency")
while (value := next(stream, None)) is not None and value >= 0:
    meter.add(value, weight=0.5 if value > 10 else 1.0)
assert meter.summary()["n"] > 0, "nothing was measured"
'''


def of(*cells: str, name: str = "x") -> Fingerprint:
    return fingerprint(Submission(name, {"lab.ipynb": notebook(*cells).encode()}), "06")


def unique(number: int) -> str:
    """Code that no other number shares."""
    names = "append pop sort index count insert remove reverse extend clear copy".split()
    lines = [
        f"table.{names[(number * 7 + k * k) % 11]}(left.{names[(k * number + 3) % 11]}() {'+-*/%'[(k + number) % 5]}"
        f" right[{k}].{names[(number // (k + 1)) % 11]}, *rest.col{number}_{k})"
        for k in range(30)
    ]
    return "\n".join(lines)


def test_a_renamed_copy_is_named_and_other_work_is_not() -> None:
    found = pairs([("ann", "d1", of(WORK)), ("bob", "d2", of(COPY)), ("cat", "d3", of(OTHER))])
    assert [(p.first, p.second) for p in found] == [("ann", "bob")] and found[0].share > 0.85
    assert found[0].why.startswith(("the code is equal", f"{found[0].share:.0%}"))


def test_part_of_a_copy_is_still_named() -> None:
    extra = "\n".join(unique(3).splitlines()[:4])
    found = pairs([("ann", "d1", of(WORK, OTHER, unique(1))), ("bob", "d2", of(COPY, OTHER, unique(1), extra))])
    assert len(found) == 1 and 0.8 <= found[0].share < 1


def test_normalisation_keeps_structure_and_drops_choice() -> None:
    assert normalised("total = price * 3  # note") == normalised("x = y * 77")
    assert normalised("a = b + 1") != normalised("a = b - 1")
    assert normalised("frame.mean()") == ["n", ".", "mean", "(", ")"]
    assert normalised("%matplotlib inline\nx = '''a\nb'''") and normalised("def broken(:\n  'x") and not normalised("")


def test_the_starter_does_not_count_and_is_noticed_when_it_is_all() -> None:
    import json

    from course_lib.catalog import find

    cells = json.loads(find("06").labs[0].read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    marked = re.compile(r"(?ms)^ *### BEGIN SOLUTION.*?### END SOLUTION *$")
    stubs = [marked.sub("    raise NotImplementedError", cell) for cell in code]
    lazy, other, diligent = of(*stubs, name="a"), of(*stubs, "x = 1", name="b"), of(*code)
    assert lazy.starter > 0.97 and lazy.runs > 500 and len(starter_runs("06")) > 500
    assert copies_of_starter([("ann", lazy), ("bob", other), ("cat", diligent)]) == ["ann", "bob"]
    assert pairs([("ann", "1", lazy), ("bob", "2", other)]) == [], "two who did nothing did not copy from each other"


def test_what_a_fifth_of_the_cohort_writes_is_common_and_equal_folders_are_still_named() -> None:
    cohort = [(f"l{n:02d}", f"d{n}", of(WORK, unique(n))) for n in range(12)]
    assert pairs(cohort) == []
    found = pairs([*cohort, ("zoe", "d3", of(WORK, unique(3)))])
    assert [(p.first, p.second, p.share) for p in found] == [("l03", "zoe", 1.0)] and "byte for byte" in found[0].why


def test_a_fingerprint_is_small_whatever_was_handed_in() -> None:
    start = time.monotonic()
    big = of(*[unique(n) * 20 for n in range(40)])
    assert len(big.sketch) <= KEPT and time.monotonic() - start < 120
    assert Fingerprint.unpacked(big.packed()) == big
    for raw in (b"", b"{", b"[]", b'{"cells": 3}', b'{"cells": [1, {"cell_type": "code", "source": [1, null]}]}'):
        assert fingerprint(Submission("x", {"lab.ipynb": raw, "bad.py": b"\xff"}), "06").runs == 0


def test_three_hundred_learners_take_little_time() -> None:
    cohort = [(f"l{n:03d}", f"d{n}", of(unique(n), name=str(n))) for n in range(300)]
    start = time.monotonic()
    pairs(cohort)
    assert time.monotonic() - start < 60
