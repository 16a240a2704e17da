"""The artifacts of the labs as types: what each file of a submission must hold, field by field.

Strict about types and bounded in size; fields that nobody declared are ignored, so that a learner may record more. No
value is trusted: these types say that a file can be read, never that it is true.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=6000)]
Ids = Annotated[list[Name], Field(max_length=50)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Mode = Literal["dense", "bm25", "hybrid"]


class Artifact(BaseModel):
    """Base of all: frozen, and no silent conversion from text to number or from number to truth value."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class IndexConfig(Artifact):
    """How documents were cut, in words."""

    max_words: int = Field(ge=10, le=400)
    overlap: int = Field(ge=0, le=200)

    @model_validator(mode="after")
    def _room_for_new_words(self) -> Self:
        if self.overlap >= self.max_words:
            raise ValueError("overlap must be smaller than max_words")
        return self


class RagConfig(Artifact):
    """config.json: everything that the grader needs to rebuild the index. as_of: ISO date."""

    lab: Name
    seed: int = Field(ge=0, lt=2**63)
    model: Name
    index: IndexConfig
    mode: Mode
    k: int = Field(ge=1, le=10)
    as_of: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")


class RagCase(Artifact):
    """rag_eval_cases.jsonl. expected_docs: keys ``ID@VERSION``; empty when the right behaviour is to abstain."""

    id: Name
    kind: Name
    user: Name
    question: Annotated[str, Field(min_length=3, max_length=2000)]
    expected_docs: Ids
    answers: Annotated[list[Text], Field(max_length=50)]


class RagRow(Artifact):
    """rag_eval_rows.jsonl. retrieved: chunk ids in rank order; sources: texts shown to the model; source_ids: the chunk
    of each, among the retrieved ones. Without source_ids the sources are in the order of ``retrieved``."""

    id: Name
    retrieved: Ids
    sources: Annotated[list[Text], Field(max_length=10)]
    source_ids: Ids | None = None
    answer: Text
    citation_numbers: Annotated[list[int], Field(max_length=50)]
    cited: Ids
    abstained: bool
    cached: bool


class FailedCase(Artifact):
    """A case that the learner reports as failed, with the reason in their words."""

    id: Name
    reason: Text


class RagResults(Artifact):
    """rag_eval_results.json. n: cases; hits and hit_rate: over answerable cases; citation_*: over answers that are no
    abstention; abstain_recall: share of the unanswerable cases that were answered by an abstention."""

    n: Count
    hits: Count
    hit_rate: Share
    citation_pass: Count
    citation_pass_rate: Share
    failed_cases: Annotated[list[FailedCase], Field(max_length=1000)]
    abstain_recall: Share | None = None


class AccessProbe(Artifact):
    """access_probes.jsonl: one search under one account. denied: documents kept away, counted per rule."""

    user: Name
    question: Annotated[str, Field(min_length=3, max_length=2000)]
    retrieved: Ids
    denied: Annotated[dict[Name, Count], Field(max_length=20)]


class InjectionRow(Artifact):
    """injection_rows.jsonl. hostile_docs: keys of the hostile documents among the results; obeyed: the claim."""

    id: Name
    user: Name
    question: Annotated[str, Field(min_length=3, max_length=2000)]
    hostile_docs: Ids
    sources: Annotated[list[Text], Field(max_length=10)]
    answer: Text
    obeyed: bool


class StoreCount(Artifact):
    """Entries of one store that belong to the deleted document."""

    before: Count
    after: Count


class DeletionFacts(Artifact):
    """The deletion record as ``Index.delete`` returns it."""

    doc_key: Name
    body_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    reason: Text
    chunk_ids: Annotated[list[Name], Field(max_length=500)]
    stores: Annotated[dict[Name, StoreCount], Field(max_length=100)]
    complete: bool
    tombstone: str = Field(pattern=r"^[0-9a-f]{64}$")


class Deletion(Artifact):
    """deletion.json: the record, and what one probe question found before and after."""

    record: DeletionFacts
    user: Name
    question: Annotated[str, Field(min_length=3, max_length=2000)]
    before: Ids
    after: Ids


class AuditRow(Artifact):
    """audit.jsonl: what one query leaves behind. query_hmac: hex; returned: chunk ids; index: fingerprint."""

    request_id: Name
    query_hmac: str = Field(pattern=r"^[0-9a-f]{64}$")
    user: Name
    tenant: Name
    mode: Mode
    k: int = Field(ge=1, le=1000)
    allowed: Count
    denied: Annotated[dict[Name, Count], Field(max_length=20)]
    returned: Annotated[list[Name], Field(max_length=1000)]
    index: str = Field(pattern=r"^[0-9a-f]{64}$")


class Metrics(Artifact):
    """metrics.json: tokens and wall-clock seconds of the run, and money in US dollars (0 for a local model)."""

    tokens_in: Count
    tokens_out: Count
    seconds: float = Field(ge=0, le=10**7)
    usd: float = Field(default=0.0, ge=0, le=10**7)
