"""Lab 02, the splits: the whole dataset, nothing twice, no document on both sides, hashed before training."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Iterator

from course_lib import datasets as ds
from course_lib.artifacts_dataset import DATASET, MANIFEST, SPLITS, SftRow, SplitManifest
from course_lib.checks.common import Context, place, reason, verdict
from course_lib.checks.data_rows import load_rows
from course_lib.submission import Row, Submission
from course_lib.types import Finding


def load_manifest(submission: Submission) -> SplitManifest:
    return submission.json(MANIFEST, SplitManifest)


def file_of(name: str) -> str:
    return f"splits/{name}.jsonl"


def load_splits(submission: Submission) -> dict[str, list[Row[SftRow]]]:
    return {name: submission.jsonl(file_of(name), SftRow) for name in SPLITS}


def check_disjoint(submission: Submission, context: Context) -> list[Finding]:
    """data.split_overlap and data.split_near."""
    rows, splits = load_rows(submission), load_splits(submission)
    wrong = [*_missing(rows, splits), *_shared(splits)]
    overlap = verdict(
        "data.split_overlap", not wrong, "The splits are the dataset, each row once, each document on one side only.",
        problem=f"{len(wrong)} problems with the splits. First: {reason(wrong)}.",
        expected="three parts of the dataset that share no row and no document", actual=f"{len(wrong)} problems",
        where=place(wrong), wrong=wrong[:8], fix="Split whole documents, not rows, and write every row to one file.",
    )  # fmt: skip
    near = context.threshold("data.split_near")
    close = list(_near(splits, near))
    return [overlap, verdict(
        "data.split_near", not close, f"No two rows of different splits share {near:.0%} of their runs of words.",
        problem=f"{len(close)} near-duplicates stand in two splits. First: {reason(close)}.",
        expected="near-duplicates on one side only", actual=f"{len(close)} pairs", where=place(close), pairs=close[:8],
        fix="Look for near-duplicates before you split; keep one of each pair.",
    )]  # fmt: skip


def _missing(rows: list[Row[SftRow]], splits: dict[str, list[Row[SftRow]]]) -> Iterator[str]:
    whole = {row.value.id: row.value for row in rows}
    placed = [row for part in splits.values() for row in part]
    seen: dict[str, str] = {}
    for row in placed:
        if row.value.id in seen:
            yield f"{row.where} {row.value.id} also stands in {seen[row.value.id]}"
        elif whole.get(row.value.id) != row.value:
            yield f"{row.where} {row.value.id} is not the row of {DATASET}"
        seen.setdefault(row.value.id, row.where)
    for name in (name for name in whole if name not in seen):
        yield f"{DATASET} {name} is in no split"
    for name in (name for name, part in splits.items() if not part):
        yield f"{file_of(name)} is empty"


def _shared(splits: dict[str, list[Row[SftRow]]]) -> Iterator[str]:
    first: dict[str, str] = {}
    for name, part in splits.items():
        for row in part:
            document = row.value.document
            if document and first.setdefault(document, name) != name:
                yield f"{row.where} {document} is in {first[document]} and in {name}"


def _near(splits: dict[str, list[Row[SftRow]]], near: float) -> Iterator[str]:
    sets = {name: [(row, ds.grams(ds.own_text(row.value))) for row in part] for name, part in splits.items()}
    for one, other in itertools.combinations(sets, 2):
        for (left, a), (right, b) in itertools.product(sets[one], sets[other]):
            if (alike := ds.jaccard(a, b)) >= near:
                yield f"{right.where} {right.value.id} is nearly {left.value.id} of {one}, similarity {alike:.2f}"


def check_hashes(submission: Submission, context: Context) -> list[Finding]:
    """data.split_hashes: the manifest fits the bytes, and was made before training."""
    manifest = load_manifest(submission)
    wrong = list(_hash_problems(submission, manifest))
    return [verdict(
        "data.split_hashes", not wrong, f"Dataset and splits have the hashes that were written at {manifest.made_at}.",
        problem=f"{MANIFEST} does not fit: {wrong[0] if wrong else ''}.", expected="hashes of these very files",
        actual=f"{len(wrong)} differences", where=MANIFEST, wrong=wrong[:6],
        fix="Write the files, hash their bytes, write the manifest, and change nothing afterwards; else split anew.",
    )]  # fmt: skip


def _hash_problems(submission: Submission, manifest: SplitManifest) -> Iterator[str]:
    if _sha(submission, DATASET) != manifest.dataset_sha256:
        yield f"{DATASET} has another SHA-256 than the manifest says"
    for name in SPLITS:
        part = manifest.splits.get(name)
        if part is None or part.file not in (file_of(name), f"{name}.jsonl"):
            yield f"there is no entry for {file_of(name)}"
            continue
        if _sha(submission, file_of(name)) != part.sha256:
            yield f"{file_of(name)} has another SHA-256 than the manifest says"
        if part.rows != len(submission.jsonl(file_of(name), SftRow)):
            yield f"{file_of(name)} has {len(submission.jsonl(file_of(name), SftRow))} rows, stated are {part.rows}"
    made, trained = moment(manifest.made_at), moment(manifest.trained_at)
    if made is None:
        yield "made_at is no time"
    elif manifest.trained_at is not None and not (trained and trained > made):
        yield f"training began at {manifest.trained_at}, the splits are of {manifest.made_at}"


def moment(text: str | None) -> dt.datetime | None:
    """A UTC time of the manifest, or None where it is none."""
    try:
        return dt.datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _sha(submission: Submission, name: str) -> str:
    return hashlib.sha256(submission.raw(name)).hexdigest()
