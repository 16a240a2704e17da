"""Running a learner's notebook again where it can harm nobody, and what that says about what was handed in.

``Reexecution`` is the second tier of grading: the learner's own notebook, another seed, and evidence read from the
files of that run by the same strict readers and checkers. Nothing that the learner's process says of itself counts.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_grader.hardcoded import follows_seed, stays_equal
from course_grader.kernels import shared_server
from course_grader.sandbox import Caps
from course_grader.warm_executor import SANDBOX_LIMITS, WarmSandboxedExecutor
from course_lib import notebooks as nbs
from course_lib.errors import ArtifactError, CourseError, UsageError
from course_lib.execute import Execution, Limits, Literal, PapermillExecutor, parameters_of
from course_lib.rubric import Rerun
from course_lib.submission import Submission
from course_lib.types import Finding, Outcome

if TYPE_CHECKING:
    from nbformat import NotebookNode

OURS = ("seed", "out_dir", "base_url", "budget_usd", "model", "tier")
MAX_CELLS = 2000
Check = Callable[[Submission], "list[Finding]"]


@dataclass(frozen=True)
class Reexecution:
    """Call it with a folder, a module, a seed and a folder for what the run writes; it returns findings. Picklable.

    Findings: ``rerun.completed``, ``rerun.outputs``, and ``rerun.follows_seed`` and ``rerun.stays_equal`` as the rubric
    declares them; whatever of that does not pass also counts against the rubric's rule about the notebook; and each
    rule of the rubric that held for what was handed in and does not hold for what the run wrote. A run that was
    stopped, or whose kernel died, is ``error``, never a pass.
    """

    warm: bool = True
    sandboxed: bool = True
    unsafe: bool = False
    limits: Limits = SANDBOX_LIMITS
    caps: Caps = field(default_factory=Caps)

    def __call__(self, folder: Path, module: str, seed: int, work: Path) -> list[Finding]:
        server = shared_server() if self.warm else None
        executor = WarmSandboxedExecutor(warm=self.warm, sandboxed=self.sandboxed, unsafe=self.unsafe, caps=self.caps,
                                         server=server)  # fmt: skip
        return rerun(Submission.open(folder), module, executor, work, seed, self.limits)


def rerun(submission: Submission, module: str, executor: PapermillExecutor, work: Path, seed: int,
          limits: Limits = SANDBOX_LIMITS, check: Check | None = None, plan: Rerun | None = None) -> list[Finding]:
    """Execute the notebook of a submission with ``seed`` (or the next one, when it is the one handed in), and judge.

    work: emptied, then receives the executed notebook and the files of the run. check: by default the module's
    checkers. plan: by default the rubric's. Raises ExecutionError where there is no sandbox, before anything runs.
    """
    from course_lib.checks import rules
    from course_lib.grade import rubric_of

    plan = plan or rubric_of(module).rerun
    notebook_rule = next((rule for rule in rules(module) if rule.endswith(".notebook")), "rerun.notebook")
    try:
        nb, parameters = _prepared(submission)
    except (CourseError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        unusable = _finding("rerun.completed", Outcome.ERROR, f"The notebook cannot be run: {error}")
        return _both(notebook_rule, [unusable])
    seed += seed == parameters.get("seed")
    shutil.rmtree(work, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="course-rerun-") as folder:
        nbs.write(nb, Path(folder, "lab.ipynb"))
        known = parameters_of(nb)
        given = {**parameters, **(plan.parameters if plan else {}), "seed": seed, "out_dir": str(work)}
        given = {name: value for name, value in given.items() if name in known}
        run = executor.run(Path(folder, "lab.ipynb"), given, limits, work)
    findings = [_completed(run, seed), _outputs(submission, run)]
    if not run.ok:
        return _both(notebook_rule, findings)
    again = _opened(work)
    if isinstance(again, Finding):
        return _both(notebook_rule, [*findings, again])
    findings += _compared(submission, again, plan, seed)
    judge = check or _checks(module)
    return _both(notebook_rule, findings) + _worse(judge(submission), judge(again), seed)


def _prepared(submission: Submission) -> tuple[NotebookNode, dict[str, Literal]]:
    """The learner's notebook without outputs and injected values, and the parameters that it ran with."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lab.ipynb")
        value = submission.value("lab.ipynb")
        cells = value.get("cells") if isinstance(value, dict) else None
        if isinstance(cells, list) and len(cells) > MAX_CELLS:  # reading alone would take longer than any run may
            raise UsageError(f"It has {len(cells)} cells, and at most {MAX_CELLS} are run.", where="lab.ipynb")
        path.write_bytes(submission.raw("lab.ipynb"))
        nb = nbs.normalise(nbs.read(path), keep_outputs=False)
    values: dict[str, Literal] = parameters_of(nb, "lab.ipynb")
    for cell in (cell for cell in nb.cells if "injected-parameters" in nbs.tags(cell)):
        single = copy.deepcopy(nb)
        single.cells = [copy.deepcopy(cell)]
        single.cells[0].metadata["tags"] = ["parameters"]
        values |= parameters_of(single, "lab.ipynb")
    nb.cells = [cell for cell in nb.cells if "injected-parameters" not in nbs.tags(cell)]
    return nb, {name: value for name, value in values.items() if name not in OURS or name == "seed"}


def _opened(work: Path) -> Submission | Finding:
    try:
        return Submission.open(work)
    except ArtifactError as error:
        return _finding("rerun.completed", Outcome.FAIL, f"What the run wrote cannot be read: {error.what}")


def _completed(run: Execution, seed: int) -> Finding:
    notes = {"seconds": round(run.seconds, 1), "cause": run.cause, "notes": list(run.notes)}
    if run.ok:
        return _finding("rerun.completed", Outcome.PASS, f"The notebook ran to its end with seed {seed}.", **notes)
    raised = [o for cell in nbs.read(run.path).cells for o in cell.get("outputs", []) if o.output_type == "error"]
    limit = any(o.ename == "MemoryError" or "[Errno 28]" in o.evalue for o in raised)  # the box's, met inside a cell
    stopped = run.cause or run.timed_out or limit or not raised
    return _finding("rerun.completed", Outcome.ERROR if stopped else Outcome.FAIL,
                    f"Run again with seed {seed}, the notebook did not reach its end. {run.error[:300]}", **notes)


def _outputs(submission: Submission, run: Execution) -> Finding:
    """What the check cells print does not depend on the seed, so what was handed in must be what they print."""
    claimed, again = _check_cells(submission.value("lab.ipynb")["cells"]), _check_cells(nbs.read(run.path).cells)
    again = again if run.ok else {name: text for name, text in again.items() if text}  # the others were not reached
    wrong = [name for name, text in claimed.items() if text and again.get(name, text) != text]
    if wrong:
        what = f"Outputs that were handed in are not what the cells print: {', '.join(map(ascii, wrong[:5]))}"
        return _finding("rerun.outputs", Outcome.FAIL, what, flag="forged outputs")
    return _finding("rerun.outputs", Outcome.PASS, f"{len(claimed)} check cells print what was handed in.")


def _check_cells(cells: list[Any]) -> dict[str, str]:
    """Tag of each check cell -> the text that it shows."""
    found = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        tag = next((t for t in cell["metadata"].get("tags", []) if t.startswith("check-")), "")
        texts = [output.get("text", "") for output in cell["outputs"]]
        found[tag] = "".join("".join(part) for part in texts)
    return {tag: text for tag, text in found.items() if tag}


def _compared(claimed: Submission, again: Submission, plan: Rerun | None, seed: int) -> list[Finding]:
    if plan is None:
        return []
    equal = stays_equal(claimed, again, plan)
    return [follows_seed(claimed, again, plan, seed), *([equal] if equal else [])]


def _worse(before: list[Finding], after: list[Finding], seed: int) -> list[Finding]:
    """Findings about the run's files, where a rule held for what was handed in and does not hold for them."""
    held = {f.rule for f in before if f.ok} - {f.rule for f in before if not f.ok}
    return [replace(f, message=f"In a run with seed {seed}: {f.message}", where=f"re-run, {f.where}",
                    evidence={**f.evidence, "seed": seed}) for f in after if not f.ok and f.rule in held]


def _checks(module: str) -> Check:
    from course_lib.checks import checkers
    from course_lib.grade import context_for, rubric_of

    context = context_for(rubric_of(module))
    return lambda submission: [f for checker in checkers(module) for f in checker.run(submission, context)]


def _finding(rule: str, outcome: Outcome, message: str, **evidence: Any) -> Finding:
    fix = "" if outcome is Outcome.PASS else "Compute every result in the notebook, restart the kernel and run all."
    return Finding(rule, outcome, message, where="lab.ipynb", fix=fix, evidence=evidence)


def _both(rule: str, findings: list[Finding]) -> list[Finding]:
    return findings + [replace(f, rule=rule) for f in findings if not f.ok]
