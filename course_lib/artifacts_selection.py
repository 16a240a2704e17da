"""The artifacts of lab 01 as types: the comparison of models, and the rows behind its latencies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from course_lib.artifacts import Artifact, Count, Name, Share, Text

Iso = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Money = Annotated[float, Field(ge=0, le=10**12)]
Seconds = Annotated[float, Field(ge=0, le=10**6)]


class LatencyRow(Artifact):
    """latency_rows.jsonl: one request. option: id of the registry; question: id of a course question; ttft_s: seconds
    to the first text; seconds: to the end; warmup: not counted; error: what went wrong when ok is false."""

    option: Name
    question: Name
    warmup: bool
    ok: bool
    error: Text = ""
    tokens_in: Count
    tokens_out: Count
    ttft_s: Seconds
    seconds: Seconds
    answer: Text


class Workload(Artifact):
    """What the system has to do: requests, and tokens per request."""

    requests_per_day: int = Field(ge=1, le=10**9)
    days_per_month: int = Field(ge=1, le=31)
    input_tokens: int = Field(ge=1, le=10**7)
    output_tokens: int = Field(ge=1, le=10**7)


class Assumptions(Artifact):
    """What no registry knows. contract_signed: data processing and place of processing agreed with the provider."""

    cpu_usd_hour: Money
    gpu_usd_hour: Money
    hours_per_month: float = Field(gt=0, le=744)
    gpu_memory_gb: float = Field(ge=0, le=10**5)
    contract_signed: bool


class SelectionTargets(Artifact):
    """p95_s and budget_usd_month: half of it or less earns most. use_days: planned use. right_share: for production."""

    p95_s: float = Field(gt=0, le=10**5)
    budget_usd_month: float = Field(gt=0, le=10**9)
    use_days: int = Field(ge=1, le=36500)
    right_share: Share


class ListPrice(Artifact):
    """US dollars per million tokens, for prompts as long as the workload's."""

    input: Money
    output: Money


class SelectionFacts(Artifact):
    """One option, without what was measured. memory_gb: 16-bit weights of an open model, else null."""

    id: Name
    kind: Literal["embedded", "hosted", "open weights"]
    licence: Name
    context: Annotated[int, Field(gt=0)] | None
    price: ListPrice | None
    retires: Iso | None
    lifecycle: Literal["ok", "watch", "retires", "retired"]
    cost_usd_month: Money | None
    data_goes_to: Literal["own machines", "provider under contract", "provider without contract"]
    runs_on: Literal["cpu", "gpu", "provider"]
    memory_gb: Money | None


class Latency(Artifact):
    """Numbers where the option was measured; where not, ``needed``: what a measurement would take."""

    measured: bool
    needed: Text = ""
    n: Count | None = None
    failed: Count | None = None
    p50_s: Seconds | None = None
    p95_s: Seconds | None = None
    ttft_p50_s: Seconds | None = None
    tokens_per_s: Money | None = None


class RightAnswers(Artifact):
    """Answers that hold an expected span, of the counted requests."""

    n: Count
    right: Count


class Ranked(Artifact):
    """One place of the ranking: the id and its weighted total."""

    id: Name
    total: float = Field(ge=0, le=10)


class Migration(Artifact):
    """How a model that retires while it is used gets replaced: by what, on which day, and who sees to it."""

    successor: Name
    switch_by: Iso
    owner: Name


class Decision(Artifact):
    """chosen: for a pilot. production: allowed only when its answers were measured and are good enough."""

    chosen: Name
    ranking: Annotated[list[Ranked], Field(max_length=50)]
    production: Literal["allowed", "blocked"]
    migration: Migration | None = None


class Flip(Artifact):
    """The weight of a criterion at which another option would lead, and which one."""

    at: Share
    to: Name


class BestCase(Artifact):
    """Who would lead if each latency that was not measured earned the full score."""

    leader: Name
    changes: bool


class Selection(Artifact):
    """options.json: the whole comparison. use_until: last day of the planned use."""

    lab: Name
    seed: int = Field(ge=0, lt=2**63)
    registry_as_of: Iso
    use_until: Iso
    workload: Workload
    assumptions: Assumptions
    targets: SelectionTargets
    weights: Annotated[dict[Name, Share], Field(max_length=20)]
    options: Annotated[list[SelectionFacts], Field(max_length=30)]
    latency: Annotated[dict[Name, Latency], Field(max_length=30)]
    answers: Annotated[dict[Name, RightAnswers], Field(max_length=30)]
    scores: Annotated[dict[Name, Annotated[dict[Name, float], Field(max_length=20)]], Field(max_length=30)]
    blockers: Annotated[dict[Name, Annotated[list[Text], Field(max_length=20)]], Field(max_length=30)]
    decision: Decision
    sensitivity: Annotated[dict[Name, Flip | None], Field(max_length=20)]
    best_case: BestCase
