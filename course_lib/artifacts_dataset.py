"""The artifacts of lab 02 as types: rows of a training set, what was inspected, and the manifest of its splits."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from course_lib.artifacts import Artifact, Count, Metrics, Name, Share, Text

Task = Literal["answer", "abstain", "extract", "classify", "summarise", "refuse"]
Origin = Literal["template", "model", "hand"]
Split = Literal["train", "validation", "test"]
Step = Literal["rights", "form", "privacy", "repeat", "held out", "inspection"]
TASKS: tuple[str, ...] = get_args(Task)
SPLITS: tuple[str, ...] = get_args(Split)
STEPS: tuple[str, ...] = get_args(Step)
DATASET = "compliance_sft_dataset.jsonl"
MANIFEST = "splits/manifest.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?(?:Z|\+00:00)$")]


class SftMessage(Artifact):
    """One turn in TRL's conversational form."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1, max_length=6000)]


class SftRow(Artifact):
    """compliance_sft_dataset.jsonl and splits/*.jsonl, one a line.

    messages: system, user, assistant, with the prompts of ``course_lib.prompts``: course-lm renders them
    as in its own training. document: key ``ID@VERSION`` of the corpus document that every source of the prompt comes
    from; null for ``refuse`` alone, which has no source. origin: who made the reply. language: ISO 639-1. license: SPDX
    identifier. rights: where the permission to train on the document is recorded.
    """

    id: Name
    task: Task
    messages: Annotated[list[SftMessage], Field(min_length=2, max_length=8)]
    document: Name | None
    origin: Origin
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")]
    license: Name
    rights: Name

    @property
    def prompt(self) -> str:
        """The last user turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def reply(self) -> str:
        """The assistant's last turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")


class SplitFile(Artifact):
    """One split: its file beside the manifest, rows, and the SHA-256 of its bytes."""

    file: Name
    rows: Count
    sha256: Sha256


class SplitManifest(Artifact):
    """splits/manifest.json. made_at: UTC, before anything trains. dataset_sha256: of the dataset that was split.
    near: Jaccard similarity from which two rows count as near-duplicates. trained_at: null, or when training began."""

    lab: Name
    seed: int = Field(ge=0, lt=2**63)
    made_at: Moment
    trained_at: Moment | None = None
    dataset_sha256: Sha256
    near: Share
    splits: dict[Split, SplitFile]


class Inspection(Artifact):
    """quality_rows.jsonl: one row that somebody looked at. row: as it was, personal data and secrets masked. good: the
    verdict. reasons: what is wrong, empty when good. kept: whether it stands in the dataset."""

    id: Name
    row: dict[str, Any]
    good: bool
    reasons: Annotated[list[Text], Field(max_length=20)]
    kept: bool


class SourceRow(Artifact):
    """sources.jsonl: one document of the corpus, and why it may not be trained on; reason is empty where it may."""

    document: Name
    allowed: bool
    reason: Text


class RemovedRow(Artifact):
    """cleaning_log.jsonl: a candidate that did not get into the dataset, without its text. step: which cleaning step
    removed it. other: id of the row that it repeats, or empty."""

    id: Name
    task: Task
    origin: Origin
    step: Step
    reason: Annotated[str, Field(min_length=1, max_length=400)]
    other: Annotated[str, Field(max_length=200)] = ""


class DatasetMetrics(Metrics):
    """metrics.json. candidates: rows before cleaning; kept: rows of the dataset; removed: by step; drafted: replies
    that the model wrote; drafted_kept: of them in the dataset; inspected, inspected_good: rows of the dataset that were
    looked at, and of them good; rejected: shown beside them."""

    candidates: Count
    kept: Count
    removed: dict[Step, Count]
    drafted: Count
    drafted_kept: Count
    inspected: Count
    inspected_good: Count
    rejected: Count
