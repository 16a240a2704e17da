"""The artifacts of lab 02 as types: rows of a training set, what was inspected, and the manifest of its splits."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from course_lib.artifacts import Artifact, Count, Name, Share, Text

Task = Literal["answer", "abstain", "extract", "classify", "summarise", "refuse"]
Origin = Literal["template", "model", "hand"]
Split = Literal["train", "validation", "test"]
TASKS: tuple[str, ...] = get_args(Task)
SPLITS: tuple[str, ...] = get_args(Split)
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

    messages: system, user, assistant, with the prompts of ``course_lib.prompts``: course-lm's chat template renders them
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
    """quality_rows.jsonl: one row that a person or a rule looked at. row: the candidate as it was then. good: the
    verdict. reasons: names of what is wrong, empty when good; kept: whether it stands in the dataset."""

    id: Name
    row: dict[str, Any]
    good: bool
    reasons: Annotated[list[Text], Field(max_length=20)]
    kept: bool
