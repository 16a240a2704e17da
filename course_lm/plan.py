"""The plan of a training run, and what is refused before any work is done."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.errors import UsageError

POSITIVE = {"steps", "batch_tokens", "eval_every", "lr", "batch", "every", "items"}  # settings that cannot be 0
_CHOICES = {"precision": ("auto", "bf16", "fp32"), "optimiser": ("adamw", "muon")}


@dataclass(frozen=True)
class Plan:
    """How one stage runs. batch_tokens: padded tokens per step; level: where the curriculum starts; minutes: of
    training at most, 0 for no limit (a run that stops by time is not repeatable to the step). precision: ``bf16``,
    ``fp32``, or ``auto`` for what multiplies faster here: bf16 on a GPU or a CPU with matrix units, else fp32.
    optimiser: ``adamw``, or ``muon`` for the matrices inside the blocks and AdamW for the rest. straighten: whether
    rare tokens are moved apart before the first step (``rare``). fused: train through ``trunk``, faster on a CPU in
    bf16, and unused elsewhere; needs a C++ compiler. settle: steps at the start in which the probes alone learn, for a
    checkpoint that has none."""

    stage: str = "pretrain"
    steps: int = 2000
    batch_tokens: int = 6000
    lr: float = 1.5e-3
    warmup: int = 60
    decay: float = 0.25
    level: int = 0
    plain_share: float = 0.0
    tasks: float = 0.0
    seed: int = 1
    eval_every: int = 100
    pass_mark: float = 0.85
    minutes: float = 0.0
    precision: str = "auto"
    optimiser: str = "adamw"
    straighten: bool = False
    settle: int = 0
    fused: bool = False


def checked_plan(stage: str, settings: dict[str, Any], out: Path) -> Plan:
    """The plan of a run in ``out``. Raises UsageError for a stage, a setting or a value that cannot be, and where
    ``out`` holds a run of another stage or optimiser."""
    if stage not in ("pretrain", "sft"):
        raise UsageError(f"unknown stage {stage!r}", fix="use pretrain or sft")
    check_settings(settings, {name: value for name, value in vars(Plan()).items() if name != "stage"})
    plan = Plan(stage=stage, **settings)
    for name, known in _CHOICES.items():
        if getattr(plan, name) not in known:
            raise UsageError(f"unknown {name} {getattr(plan, name)!r}", fix=f"use {', '.join(known)}")
    if plan.fused and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UsageError("fused needs a C++ compiler, and none is on the path", fix="install g++, or leave fused out")
    if (out / "state.pt").exists() and (out / "plan.json").exists():
        before = json.loads((out / "plan.json").read_text(encoding="utf-8"))
        for name in ("stage", "optimiser"):
            if before[name] != getattr(plan, name):
                problem = f"{out} holds a run with {name} {before[name]}, not {getattr(plan, name)}"
                raise UsageError(problem, fix="name another folder, or go on as it began")
    return plan


def check_settings(settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raises UsageError for a setting that ``defaults`` has not, for a value of another kind than its default's, and
    for a number that is too small."""
    for name, value in settings.items():
        if name not in defaults:
            raise UsageError(f"the training plan has no {name!r}", fix=f"use one of {', '.join(defaults)}")
        kind = type(defaults[name])
        if not isinstance(value, str if kind is str else (int, kind)):
            raise UsageError(f"{name} is of type {kind.__name__}, not {value!r}", fix=f"{name}={defaults[name]}")
        if kind is not str and (value < 0 or (name in POSITIVE and not value)):
            raise UsageError(f"{name} cannot be {value}", fix=f"{name}={defaults[name]}")
