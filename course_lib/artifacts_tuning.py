"""The artifacts of lab 03 as types: the plan, answers before and after, the log, the adapter and the results."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from course_lib.artifacts import Artifact, Count, Name, Share, Text
from course_lib.artifacts_dataset import Sha256

Set = Literal["locked", "general", "refusal"]
CaseIds = Annotated[list[Name], Field(max_length=400)]
Difference = Annotated[float, Field(ge=-1.0, le=1.0)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=10**6)]], Field(max_length=200)]
Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODULES: tuple[str, ...] = get_args(Module)


class Base(Artifact):
    """The checkpoint that is tuned. sha256: of its model.safetensors."""

    name: Name
    sha256: Sha256


class CaseLists(Artifact):
    """Which cases are asked, by id. sha256: of the file that holds them."""

    sha256: Sha256
    locked: CaseIds
    general: CaseIds
    refusal: CaseIds


class GateThresholds(Artifact):
    """least_gain: lower end of the interval of the gain. most_p: McNemar. most_lost: share of the general cases, right
    before, that are wrong after. least_refused: share of refusal cases. least_served: share of equal served answers."""

    least_gain: Difference
    most_p: Share
    most_lost: Share
    least_refused: Share
    least_served: Share


class Training(Artifact):
    """Every setting of the run that changes its result."""

    rank: int = Field(ge=1, le=256)
    alpha: int = Field(ge=1, le=1024)
    targets: Annotated[list[Name], Field(min_length=1, max_length=20)]
    steps: int = Field(ge=1, le=10**6)
    batch: int = Field(ge=1, le=4096)
    learning_rate: float = Field(gt=0, le=1)
    warmup_steps: Count
    schedule: Name
    rows: int = Field(ge=1, le=1000)
    precision: Name
    max_new_tokens: int = Field(ge=1, le=200)


class Plan(Artifact):
    """plan.json: what is done and what counts as good, fixed before any result."""

    lab: Name
    seed: int = Field(ge=0, lt=2**63)
    tier: Name
    base: Base
    cases: CaseLists
    thresholds: GateThresholds
    training: Training


class EvalRow(Artifact):
    """baseline_rows.jsonl, tuned_rows.jsonl, rollback_rows.jsonl: one answer. tokens: the ids that were generated, end
    token aside; ended: whether the end token came; answer: their text; right: the claim."""

    id: Name
    set: Set
    tokens: Tokens
    ended: bool
    answer: Text
    right: bool


class ServedRow(Artifact):
    """served_rows.jsonl: what the server answered with the exported file, and whether that equals the tuned answer."""

    id: Name
    answer: Text
    equal: bool


class LogRow(Artifact):
    """training_log.jsonl: one record of TRL."""

    step: int = Field(ge=1, le=10**6)
    loss: float
    learning_rate: float = Field(ge=0, le=1)
    grad_norm: float = Field(ge=0)
    num_tokens: float = Field(ge=0)


class Paired(Artifact):
    """Base and tuned on the same cases. better, worse: cases that became right, became wrong. low, high: 95 %."""

    n: Count
    base_right: Count
    tuned_right: Count
    gain: Difference
    low: Difference
    high: Difference
    better: Count
    worse: Count
    p: Share


class Spot(Artifact):
    """A spot check. lost: right before and wrong after; won: the other way."""

    n: Count
    before: Count
    after: Count
    lost: Count
    won: Count


class Equal(Artifact):
    """How many answers were asked for again, and how many came out equal."""

    asked: Count
    equal: Count


class File(Artifact):
    """A file by its bytes."""

    sha256: Sha256
    bytes: Count


class TuningResults(Artifact):
    """results.json: everything that the report quotes. failed: names of thresholds that were not met."""

    lab: Name
    seed: int = Field(ge=0, lt=2**63)
    plan_sha256: Sha256
    training_rows: Count
    locked: Paired
    general: Spot
    refusal: Spot
    served: Equal
    rollback: Equal
    adapter: File
    gguf: File
    failed: Annotated[list[Name], Field(max_length=10)]
    decision: Literal["pilot", "hold"]


class Regression(Artifact):
    """regressions.jsonl: a case that got worse, or one that is still wrong, with what a reader needs to judge it."""

    id: Name
    set: Set
    kind: Literal["regression", "remaining"]
    severity: Literal["high", "medium", "low"]
    expected: Text
    before: Text
    after: Text
    cause: Text
    fix: Text


class Environment(Artifact):
    """environment.json: where it ran. versions: package -> version."""

    lab: Name
    seed: int = Field(ge=0, lt=2**63)
    device: Name
    python: Name
    system: Name
    cpus: int = Field(ge=1, le=10**5)
    threads: int = Field(ge=1, le=10**5)
    memory_gb: float = Field(gt=0, le=10**6)
    versions: Annotated[dict[Name, Name], Field(max_length=50)]


class AdapterConfig(Artifact):
    """adapter_config.json, the part that a plain LoRA has. Everything that would change the arithmetic must be off."""

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"]
    base_model_name_or_path: Name
    r: int = Field(ge=1, le=256)
    lora_alpha: int = Field(ge=1, le=1024)
    target_modules: Annotated[list[Module], Field(min_length=1, max_length=7)]
    bias: Literal["none"]
    use_rslora: Literal[False] = False
    use_dora: Literal[False] = False
    lora_bias: Literal[False] = False
    fan_in_fan_out: Literal[False] = False
    modules_to_save: None = None
    auto_mapping: None = None
    layers_to_transform: None = None
    layer_replication: None = None
    trainable_token_indices: None = None
    rank_pattern: Annotated[dict[str, int] | None, Field(max_length=0)] = None
    alpha_pattern: Annotated[dict[str, int] | None, Field(max_length=0)] = None
