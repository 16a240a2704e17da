"""Grading one submission folder: open, check, score. Batches and sandboxes stand on top of this."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import course_lib
from course_lib.catalog import artifacts, find, repo_root
from course_lib.checks import checkers, rules
from course_lib.checks.common import Context
from course_lib.errors import DataError, RubricError
from course_lib.rubric import LabReport, Rubric, load_rubric, score
from course_lib.submission import Submission

# Kinds that try hardest to reach what they must not come first among the hidden probes.
HIDDEN_ORDER = ("cross_tenant", "restricted", "stale", "injection", "article", "paraphrase", "unanswerable")
HIDDEN_PROBES = 200
PRESENTATION = frozenset(
    "bookpages certificates cli cli_grade cli_review cohort dask_map doctor exercises exports figures gradebook "
    "journal live measurements nblint policy preload progress quizzes report review_desk review_html review_panel "
    "reviews sampling_view widgets workers".split()
)
PACKAGES = ("course_lib", "course_grader", "course_lm")
EXECUTION = frozenset(
    "cgroups execute kernel_fork kernels namespaces reexecute sandbox sandbox_view serve server warm_executor".split()
)
LIBRARIES = (
    "bm25s chromadb detect-secrets numpy peft phonenumbers pydantic python-stdnum PyYAML safetensors scikit-learn "
    "scipy sentence-transformers torch transformers".split()
)


def grader_version() -> str:
    """Version of the course's package; it goes into every report."""
    return f"course_lib {course_lib.__version__}"


@functools.cache
def grader_digest(executed: bool = False) -> str:
    """SHA-256 over the course's code, without what only shows or moves results. executed: with what runs notebooks."""
    left_out = PRESENTATION if executed else PRESENTATION | EXECUTION
    parts = []
    for name in PACKAGES:
        package = Path(importlib.util.find_spec(name).origin).parent
        files = [p for p in sorted(package.rglob("*.py")) if p.stem not in left_out]
        parts.append(f"{name} {_digest_of(files, package)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def environment_digest() -> str:
    """SHA-256 over what findings depend on beside code and rubric: libraries, weights, corpus, questions, labs."""
    from importlib.metadata import version

    from course_lib.embeddings import DEFAULT_SHA256

    root = repo_root()
    folders = ("data/corpus", "data/evals", "data/models/course-lm/evals", "labs")
    files = [p for name in folders for p in sorted((root / name).rglob("*"))
             if p.is_file() and not {".ipynb_checkpoints", "__pycache__"} & set(p.parts)]  # fmt: skip
    files += [root / "data/models/registry.yaml", root / "data/models/course-lm/SHA256SUMS"]
    parts = [f"python {sys.version_info.major}.{sys.version_info.minor}", f"weights {DEFAULT_SHA256}",
             f"files {_digest_of(files, root)}", *(f"{name} {version(name)}" for name in LIBRARIES)]  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digest_of(files: Sequence[Path], top: Path) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(top).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def rubric_of(module: str | int) -> Rubric:
    """The validated rubric of a module's lab. Raises DataError when there is none, RubricError when it contradicts
    itself or the checkers."""
    path = find(module).rubric
    if path is None:
        raise DataError(f"Module {find(module).code} has no rubric.", where="rubrics/", fix="Choose another module.")
    rubric = load_rubric(path, rules(module))
    known = (*artifacts(module), "lab.ipynb")
    for name in rubric.rerun.files if rubric.rerun else ():
        if not name.startswith(known):
            raise RubricError(f"rerun: {name} is no artifact of this lab.", where=str(path),
                              fix=f"Its artifacts: {', '.join(known)}.")
    return rubric


@functools.lru_cache(maxsize=4)
def _world() -> Context:
    from course_lib.corpus import load_corpus, load_hostile, load_questions
    from course_lib.embeddings import default_embedder

    corpus = load_corpus()
    locked = load_questions("locked_test")
    ordered = sorted(locked, key=lambda q: (HIDDEN_ORDER.index(q.kind), q.id))
    need = -(-HIDDEN_PROBES // len(corpus.users))
    by_kind = {kind: [q for q in ordered if q.kind == kind] for kind in HIDDEN_ORDER}
    rounds = [group[i] for i in range(need) for group in by_kind.values() if i < len(group)]
    questions = [*load_questions("dev"), *locked]
    return Context(corpus, default_embedder(), load_hostile(), questions, rounds[:need])


def context_for(rubric: Rubric) -> Context:
    """What the checkers judge in: corpus, embedder, hostile documents, hidden probes, and the rubric's thresholds.

    Indexes and searches are shared by all gradings of one process, so that a cohort pays for them once.
    """
    return replace(_world(), thresholds=dict(rubric.thresholds))


def grade_submission(
    path: Path | str, module: str | int = "06", out: Path | str | None = None, *,
    reviews: Mapping[str, float] | None = None, context: Context | None = None,
) -> LabReport:  # fmt: skip
    """Scores a folder against a module's rubric. With ``out`` the report is also written there as HTML and JSON.

    Raises ArtifactError when the folder cannot be opened safely; from then on nothing in it can raise: what cannot be
    read is a finding. The same folder gives the same report, byte for byte.
    """
    rubric = rubric_of(module)
    submission = Submission.open(path)
    report = grade_opened(submission, module, rubric, context or context_for(rubric), reviews)
    if out is not None:
        from course_lib.report import write_report

        write_report(report, Path(out))
    return report


def grade_opened(
    submission: Submission, module: str | int, rubric: Rubric, context: Context,
    reviews: Mapping[str, float] | None = None,
) -> LabReport:  # fmt: skip
    """The same for a submission that is open already. Each checker runs on its own; none can stop the others."""
    findings = [finding for checker in checkers(module) for finding in checker.run(submission, context)]
    return replace(score(rubric, findings, reviews), submission=submission.name, digest=submission.digest(),
                   grader=grader_version())
