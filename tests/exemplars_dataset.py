"""Submissions of lab 02, made by running the lab's own cells: one that passes, and one for each way of failing.

Only the model and the clock are not real (``lab_cells``). A way of failing is a wrong solution, other parameters, or a
line of the lab written differently; or something done to the folder afterwards.

    python tests/exemplars_dataset.py FOLDER        writes all of them
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from graded import change_copies, replace_text, rows
from lab_cells import CellRun, quoting_request

DATASET, MANIFEST, QUALITY = "compliance_sft_dataset.jsonl", "splits/manifest.json", "quality_rows.jsonl"
MADE = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def careless_request(client: Any, model: str, prompt: str, **settings: Any) -> dict[str, Any]:
    """A model that cites the source after the one that it quotes."""
    row = quoting_request(client, model, prompt, **settings)
    return row | {"answer": re.sub(r"^\[(\d+)\]", lambda m: f"[{int(m[1]) % 3 + 1}]", row["answer"])}


class Run(CellRun):
    """One run of lab 02."""

    module = "02"
    request = staticmethod(quoting_request)

    def replaced(self) -> dict[str, Any]:
        return super().replaced() | {
            "default_model": lambda _: "course-lm-instruct", "datetime": SimpleNamespace(now=lambda _: MADE),
            "timed_request": self.request}  # fmt: skip


class CarelessRun(Run):
    """The same with a model that cites wrongly."""

    request = staticmethod(careless_request)


READ_IS_TRAIN = """
if document.tenant not in (tenant, "shared"):
    return "another tenant's document"
if document.classification not in ("public", "internal"):
    return "too sensitive"
return "holds planted instructions" if document.key in flagged else ""
"""
ROW_BY_ROW = """
ids = sorted(row["id"] for row in rows)
random.Random(seed).shuffle(ids)
a, b = round(0.7 * len(ids)), round(0.85 * len(ids))
return dict(zip(shares, (ids[:a], ids[a:b], ids[b:])))
"""
WORDS_ONLY = 'return "question" if question and digest(question) in reserved["asked"] else ""'
SMALL = {"answer": 6, "abstain": 3, "drafted": 2, "extract": 1, "refuse": 2}
ANSWERS = {"answer": 24, "abstain": 0, "drafted": 10, "extract": 0, "refuse": 0}

RUNS: dict[str, dict[str, Any]] = {
    "passing": {},
    "read_means_train": {"solutions": {1: READ_IS_TRAIN}},
    "nothing_is_private": {"solutions": {2: "return []"}},
    "private_text_in_the_log": {"edits": {'("privacy", ", ".join(private))':
                                '("privacy", row["messages"][1]["content"][:120] if private else "")'}},
    "copies_kept": {"solutions": {3: "return []"}},
    "test_trained_on": {"solutions": {4: 'return ""'}},
    "test_facts_trained_on": {"solutions": {4: WORDS_ONLY}},
    "rows_split_one_by_one": {"solutions": {5: ROW_BY_ROW}},
    "too_few_rows": {"parameters": {"wanted": SMALL}},
    "answers_only": {"parameters": {"wanted": ANSWERS}},
    "nothing_rejected": {"edits": {"rng.sample(removed, min(5, len(removed)))": "[]"}},
    "claims_do_not_follow": {"edits": {'"drafted": len(drafted)': '"drafted": 40'}},
    "trained_before_split": {"edits": {'"trained_at": None': '"trained_at": "2026-11-19T08:00:00+00:00"'}},
}  # fmt: skip
UNREAD = {"edits": {"    wrong = problems(SftRow.model_validate(row), corpus)\n": "    wrong = []\n"}}


def rewrite(folder: Path, name: str, kept: list[dict[str, Any]]) -> None:
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), "utf-8")


def reseal(folder: Path) -> None:
    """A manifest with the hashes and counts of the files as they are now: the forger who knows about it."""
    old = json.loads((folder / MANIFEST).read_text("utf-8"))
    text = (folder / "data-card.md").read_text("utf-8")
    new = old | {"dataset_sha256": _sha(folder / DATASET)}
    pairs = [(old["dataset_sha256"], new["dataset_sha256"])]
    for part in new["splits"].values():
        path = folder / "splits" / part["file"]
        pairs.append((part["sha256"], _sha(path)))
        part |= {"sha256": _sha(path), "rows": len(rows(folder, f"splits/{part['file']}"))}
    for before, after in pairs:
        text = text.replace(before[:12], after[:12])
    (folder / "data-card.md").write_text(text, "utf-8")
    (folder / MANIFEST).write_text(json.dumps(new, indent=1) + "\n", "utf-8")


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def replace_row(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the row ``name`` in the dataset and in its split, and hashes anew."""
    for file in (DATASET, *(f"splits/{split}.jsonl" for split in ("train", "validation", "test"))):
        found = rows(folder, file)
        for row in (row for row in found if row["id"] == name):
            change(row)
        rewrite(folder, file, found)
    reseal(folder)


def test_rows_dropped(folder: Path) -> None:
    rewrite(folder, "splits/test.jsonl", rows(folder, "splits/test.jsonl")[:-1])


def cut_a_row(folder: Path) -> None:
    path = folder / DATASET
    lines = path.read_text("utf-8").split("\n")
    lines[2] = lines[2][: len(lines[2]) // 2]
    path.write_text("\n".join(lines), "utf-8")


def forget_a_source(folder: Path) -> None:
    text = (folder / "data-card.md").read_text("utf-8")
    line = re.search(r"- meridian-[^\n]*\n", text)
    assert line
    (folder / "data-card.md").write_text(text.replace(line[0], ""), "utf-8")


def spoil_the_sample(folder: Path) -> None:
    """Two of the ten inspected rows are not what the author saw: another sentence stands in the reply."""
    looked = [row["id"] for row in rows(folder, QUALITY) if row["kept"] and row["row"]["task"] == "answer"][:2]
    found = rows(folder, QUALITY)
    for name in looked:
        replace_row(folder, name, _misquote)
        for entry in found:
            if entry["id"] == name:
                _misquote(entry["row"])
    rewrite(folder, QUALITY, found)


def _misquote(row: dict[str, Any]) -> None:
    row["messages"][2]["content"] = row["messages"][2]["content"].replace(".", " or so.", 1)


AFTERWARDS: dict[str, Callable[[Path], None]] = {
    "test_rows_dropped": test_rows_dropped,
    "source_not_named": forget_a_source,
    "sample_not_read": spoil_the_sample,
    "malformed_rows": cut_a_row,
    "report_retouched": lambda folder: replace_text(folder, "quality-report.md", "| kept | ", "| kept | 1"),
    "missing_card": lambda folder: (folder / "data-card.md").unlink(),
}
NAMES = (*RUNS, "model_believed", *AFTERWARDS)


def build_all(folder: Path) -> dict[str, Path]:
    """All of them; the ones that are changed afterwards start from the passing one."""
    made = {name: Run(folder / name, **settings).run() for name, settings in RUNS.items()}
    made["model_believed"] = CarelessRun(folder / "model_believed", **UNREAD).run()
    return change_copies(made, folder, AFTERWARDS)


if __name__ == "__main__":
    import sys

    os.makedirs(sys.argv[1], exist_ok=True)
    build_all(Path(sys.argv[1]).resolve())
