"""The modules of the course in teaching order: the only list there is.

What a module *should* have stands in ``MODULES``; what it has *today* is read from the disk. Nothing else in the course
names notebooks or labs by hand, and whatever is left out is listed with its reason by ``skipped``.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from course_lib.errors import DataError, UsageError

_NUMBERED = re.compile(r"^(\d{2})[a-z]?_[a-z0-9_]+$")


@dataclass(frozen=True, slots=True)
class Module:
    """One module. The fields are the plan; the properties look at the disk each time they are read.

    lab: folder name under ``labs/``, empty when the module has no lab by design.
    artifacts: files that the lab's submission folder must hold beside README.md and the notebook.
    delivers: the required artifact in a few words, for tables and figures.
    """

    number: int
    slug: str
    title: str
    track: str
    lab: str = ""
    artifacts: tuple[str, ...] = ()
    delivers: str = ""

    @property
    def code(self) -> str:
        """Two digits, for example ``06``."""
        return f"{self.number:02d}"

    @property
    def notebooks(self) -> tuple[Path, ...]:
        """Committed notebooks of this module in teaching order (``01a`` before ``01b``); empty while planned."""
        return tuple(p for p in _numbered(repo_root() / "notebooks", ".ipynb") if p.name.startswith(self.code))

    @property
    def labs(self) -> tuple[Path, ...]:
        """The lab's one source as a tuple of at most one path."""
        path = repo_root() / "labs" / self.lab / "lab.ipynb"
        return (path,) if self.lab and path.is_file() else ()

    @property
    def rubric(self) -> Path | None:
        path = repo_root() / "rubrics" / ("capstone.yaml" if self.slug == "capstone" else f"{self.lab}.yaml")
        return path if self.lab and path.is_file() else None

    @property
    def quiz(self) -> Path | None:
        path = repo_root() / "quizzes" / f"{self.code}.yaml"
        return path if path.is_file() else None

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the learning paths that visit this module."""
        return tuple(p.name for p in PATHS if self.number in p.modules)

    @property
    def status(self) -> str:
        """``ready`` (all that is planned is there), ``partly`` (some of it) or ``planned`` (none of it)."""
        have = [bool(self.notebooks)] + ([bool(self.labs)] if self.lab else [])
        return "ready" if all(have) else "partly" if any(have) else "planned"


@dataclass(frozen=True, slots=True)
class LearningPath:
    """A route through the modules; ``modules`` are numbers in the order in which they are taken."""

    name: str
    title: str
    modules: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that discovery left out, and why. kind: ``notebook`` or ``lab``; name: a file or a module's code."""

    kind: str
    name: str
    reason: str


MODULES: tuple[Module, ...] = (
    Module(0, "course_overview", "Course overview", "beginner"),
    Module(1, "foundations", "Foundations", "beginner", "01_model_selection",
           ("options.json", "latency_rows.jsonl", "model-selection-note.md", "metrics.json", "risk-notes.md",
            "cost-notes.md"), "model selection note"),
    Module(2, "datasets", "Datasets and training data", "intermediate", "02_dataset",
           ("compliance_sft_dataset.jsonl", "sources.jsonl", "data-card.md", "quality-report.md", "quality_rows.jsonl",
            "cleaning_log.jsonl", "splits/train.jsonl", "splits/validation.jsonl", "splits/test.jsonl",
            "splits/manifest.json", "metrics.json", "risk-notes.md", "cost-notes.md"), "governed dataset"),
    Module(3, "fine_tuning", "Fine-tuning", "intermediate", "03_fine_tuning",
           ("environment.json", "plan.json", "chain.jsonl", "baseline_rows.jsonl", "training_data.jsonl",
            "data-card.md", "training_log.jsonl", "loss-curve.png", "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors", "tuned_rows.jsonl", "regressions.jsonl", "served_rows.jsonl",
            "rollback_rows.jsonl", "results.json", "experiment-report.md", "rollback-note.md", "metrics.json",
            "risk-notes.md", "cost-notes.md"),
           "fine-tuning experiment report"),
    Module(4, "inference", "Inference and serving", "intermediate", "04_capacity",
           ("benchmark_results.json", "capacity-estimate.md"), "capacity estimate"),
    Module(5, "local_ecosystem", "Local model ecosystem", "intermediate", "05_local_stack",
           ("toolchain-decision-record.md", "smoke_results.json"), "toolchain decision record"),
    Module(6, "rag", "RAG, memory and access control", "intermediate", "06_rag",
           ("config.json", "rag_eval_cases.jsonl", "rag_eval_rows.jsonl", "rag_eval_results.json",
            "access_probes.jsonl", "access-control-test.md", "injection_rows.jsonl", "prompt-injection-test.md",
            "deletion.json", "deletion-test.md", "audit.jsonl", "risk-notes.md", "cost-notes.md", "metrics.json"),
           "measured RAG flow"),
    Module(7, "agents", "Agents, workflows and tool safety", "intermediate", "07_agents",
           ("agent-control-plan.md", "tool-call-log.jsonl", "failure-tests.md"), "agent control plan"),
    Module(8, "model_types", "Model types and routing", "intermediate", "08_model_fit",
           ("model-fit-assessment.md", "routing_eval.json"), "model fit assessment"),
    Module(9, "deployment", "Deployment", "advanced", "09_deployment",
           ("benchmark_results.json", "deployment-readiness-review.md", "slo.md", "audit-fields.md",
            "fallback-and-rollback.md", "incident-assumptions.md"), "deployment readiness review"),
    Module(10, "evaluation", "Evaluation and release gates", "advanced", "10_evaluation",
           ("eval_cases.jsonl", "eval_results.json", "failure_analysis.md", "release_decision.md"),
           "release decision"),
    Module(11, "capstone", "Real-world skills and capstone", "advanced", "11_capstone",
           ("use-case-brief.md", "architecture.md", "data-card.md", "model-inventory.md", "eval/", "governance/",
            "demo-script.md"), "capstone packet"),
    Module(12, "governance", "Governance and operations", "advanced", "12_readiness",
           ("readiness-packet/",), "readiness packet"),
    Module(13, "patterns", "Patterns and anti-patterns", "intermediate"),
    Module(14, "assessment", "Assessment and certification", "advanced"),
    Module(20, "llmops", "LLMOps and orchestration", "elective"),
    Module(21, "first_principles", "Fine-tuning from first principles", "elective"),
    Module(22, "support_pipeline", "Support pipeline", "elective", "22_support_pipeline", (), "retrainable pipeline"),
    Module(23, "shipping_local", "Shipping local models", "elective"),
    Module(24, "ml_operations", "ML engineering operations", "elective"),
)

PATHS: tuple[LearningPath, ...] = (
    LearningPath("new-to-llms", "New to LLMs", (1, 4, 6, 7, 10, 12, 11),
                 "The capstone comes last. Take 02 and 03 when you need to customise a model."),
    LearningPath("enterprise-builder", "Enterprise builder", (1, 6, 7, 9, 10, 11, 12),
                 "Add 05 when a local or open model is on the table."),
    LearningPath("fine-tuning", "Fine-tuning", (1, 2, 5, 3, 10, 9, 12),
                 "Lock the evaluation set and have the data approved before the first training run."),
    LearningPath("platform", "Platform", (4, 5, 9, 10, 12),
                 "Serving, identity, audit, service levels, cost, rollback and incidents."),
    LearningPath("security-risk", "Security and risk", (1, 6, 7, 9, 10, 12, 13),
                 "Read 13 beside the reviews: each anti-pattern there is run and measured."),
)


def repo_root() -> Path:
    """The folder of the course: ``COURSE_ROOT`` when set, else the first parent of this package that looks like it.

    Raises DataError when neither is a course folder (it must hold ``notebooks/`` and ``data/``).
    """
    named = os.environ.get("COURSE_ROOT")
    candidates = [Path(named).expanduser()] if named else list(Path(__file__).resolve().parents)
    for folder in candidates:
        if (folder / "notebooks").is_dir() and (folder / "data").is_dir():
            return folder.resolve()
    raise DataError("The course folder was not found: no notebooks/ and data/ side by side.",
                    where=f"COURSE_ROOT={named}" if named else str(Path(__file__).resolve().parent),
                    fix="Set COURSE_ROOT to the folder of the course, or install the package with: pip install -e .")


def find(name: str | int) -> Module:
    """The module called ``name``: a number (``6``, ``06``), a slug (``rag``), or a lab (``06_rag``).

    Raises UsageError that names the closest module when there is none.
    """
    text = str(name).strip().lower().replace("-", "_")
    for module in MODULES:
        known = {str(module.number), module.code, module.slug, f"{module.code}_{module.slug}", module.lab}
        if text in known - {""}:
            return module
    words = {w: m for m in MODULES for w in (m.code, m.slug, m.lab) if w}
    close = difflib.get_close_matches(text, words, n=1)
    hint = f"Did you mean {words[close[0]].code} ({words[close[0]].slug})?" if close else "course path lists them."
    raise UsageError(f"There is no module {str(name)!r} in the catalog.", fix=hint)


def find_path(name: str) -> LearningPath:
    """The learning path called ``name``. Raises UsageError that lists the names there are."""
    for path in PATHS:
        if name.strip().lower() in (path.name, path.title.lower()):
            return path
    raise UsageError(f"There is no path {name!r}.", fix="Choose one of: " + ", ".join(p.name for p in PATHS))


def notebooks() -> list[Path]:
    """Every lecture notebook on disk that belongs to a module, in teaching order."""
    return [path for module in MODULES for path in module.notebooks]


def labs() -> list[Path]:
    """Every lab source on disk that belongs to a module, in teaching order."""
    return [path for module in MODULES for path in module.labs]


def artifacts(module: Module | str | int) -> tuple[str, ...]:
    """Names that the submission folder of a module's lab must hold; a trailing ``/`` marks a folder."""
    module = module if isinstance(module, Module) else find(module)
    return ("README.md", "lab.ipynb", *module.artifacts) if module.lab else ()


def skipped() -> list[Skip]:
    """All that is planned but not on disk, and all that is on disk but in no module, each with its reason."""
    found = set(notebooks()) | set(labs())
    out = []
    for module in MODULES:
        if not module.notebooks:
            out.append(Skip("notebook", module.code, f"planned, not written yet: notebooks/{module.code}_*.ipynb"))
        if not module.lab:
            out.append(Skip("lab", module.code, "has no lab by design"))
        elif not module.labs:
            out.append(Skip("lab", module.code, f"planned, not written yet: labs/{module.lab}/lab.ipynb"))
    root = repo_root()
    for kind, pattern in (("notebook", "notebooks/*.ipynb"), ("lab", "labs/*/*.ipynb")):
        for path in sorted(root.glob(pattern)):
            if path not in found:
                out.append(Skip(kind, str(path.relative_to(root)), "its name belongs to no module of the catalog"))
    return out


def _numbered(folder: Path, suffix: str) -> list[Path]:
    return sorted(p for p in folder.glob(f"*{suffix}") if _NUMBERED.match(p.stem))
