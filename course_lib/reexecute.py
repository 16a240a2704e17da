"""Running a learner's notebook again where it can harm nobody, and what that says about what was handed in.

``Reexecution`` is the second tier of grading: the learner's own notebook, another seed, and evidence read from the
files of that run by the same strict readers and checkers. Nothing that the learner's process says of itself counts.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.session import Session
from traitlets import Any as AnyTrait

from course_lib import notebooks as nbs
from course_lib.catalog import find
from course_lib.errors import ArtifactError, CourseError, ExecutionError, UsageError
from course_lib.execute import (
    Execution,
    Limits,
    Literal,
    PapermillExecutor,
    Progress,
    native_kernel_manager,
    parameters_of,
)  # fmt: skip
from course_lib.kernels import ForkServer, kernelspec, own_server, shared_server
from course_lib.sandbox import Box, Caps, require
from course_lib.submission import Submission
from course_lib.types import Finding, Outcome

if TYPE_CHECKING:
    from nbformat import NotebookNode

SANDBOX_LIMITS = Limits(notebook_s=300.0, cell_s=300.0, startup_s=60.0)
# Files that cannot be the same under another seed, by module.
VARYING = {"06": ("rag_eval_cases.jsonl", "rag_eval_rows.jsonl")}
OURS = ("seed", "out_dir", "base_url", "budget_usd", "model", "tier")
Check = Callable[[Submission], "list[Finding]"]


class _MeteredSession(Session):
    """Counts what a kernel sends, before it is parsed, against the box's limit of output."""

    meter = AnyTrait()

    def deserialize(self, msg_list: list[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.meter.count(sum(len(part) for part in msg_list))
        return super().deserialize(msg_list, *args, **kwargs)


class _Meter:
    """Bytes that came from one kernel. At a message over the limit zmq hangs up, although the kernel lives."""

    def __init__(self, box: Box) -> None:
        self.box, self.bytes, self.monitor, self.manager = box, 0, None, None

    def count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.box.caps.output_bytes or self._hung_up():
            self.box.stop("output")
            raise ExecutionError(f"The kernel sent more than {self.box.caps.output_bytes} bytes.")

    def _hung_up(self) -> bool:
        if self.monitor is None or not self.monitor.get(zmq.EVENTS) & zmq.POLLIN:
            return False
        return self.manager.provisioner.process.poll() is None


class _Client(AsyncKernelClient):
    def connect_iopub(self, identity: bytes | None = None) -> Any:
        iopub = super().connect_iopub(identity)
        self.session.meter.monitor = iopub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        return iopub


class WarmSandboxedExecutor(PapermillExecutor):
    """``PapermillExecutor`` with a warm kernel in a sandbox; each half can be left out.

    What the notebook wrote is copied to ``out`` after everything in the box was killed: regular files only, and never
    over the executed notebook. sandboxed=False needs unsafe=True; say ``isolation`` where results are shown. caps:
    limits of the box. server: a fork server to share.
    """

    def __init__(self, *, warm: bool = True, sandboxed: bool = True, unsafe: bool = False, caps: Caps | None = None,
                 seed: int = 0, server: ForkServer | None = None) -> None:
        super().__init__(seed=seed)
        if not sandboxed and not unsafe:
            raise UsageError("Running without a sandbox must be asked for.", fix="Pass unsafe=True as well.")
        self.warm, self.sandboxed, self.caps = warm, sandboxed, caps or Caps()
        self.server = server
        self.box: Box | None = None
        self.meter: _Meter | None = None

    @property
    def isolation(self) -> str:
        """``bubblewrap`` or ``none``, for the record."""
        return "bubblewrap" if self.sandboxed else "none"

    def run(self, notebook: Path, parameters: Mapping[str, Literal], limits: Limits = SANDBOX_LIMITS,
            out: Path = Path("."), progress: Progress | None = None) -> Execution:
        """See ``Executor.run``. ``Execution.cause`` names the limit of the sandbox that ended the run, if one did.

        Raises ExecutionError where there is no sandbox.
        """
        mine = copy.copy(self)  # one executor may run many notebooks at once
        if self.warm and mine.server is None:
            mine.server = own_server(self.seed)
        if not self.sandboxed:
            return PapermillExecutor.run(mine, notebook, parameters, limits, out, progress)
        require()
        caps = replace(self.caps, wall_s=limits.startup_s + limits.notebook_s + 15)
        with Box(caps) as box:
            mine.box, mine.meter = box, _Meter(box)
            result = PapermillExecutor.run(mine, notebook, parameters, limits, out, progress)
            refused = box.collect(Path(out), keep=(Path(notebook).name,))
            shown = ", ".join(map(ascii, refused[:5]))
            notes = [f"{len(refused)} entries were not taken over: {shown}"] if refused else []
            notes += [f"{box.outward()} packets tried to leave the sandbox"] if box.outward() else []
            if result.timed_out:
                box.cause = box.cause or "time"
        if box.cause:
            result = replace(result, ok=False, error=f"The run was stopped: {box.why()}. {result.error}".strip())
        return replace(result, notes=tuple(notes), cause=box.cause)

    def client_options(self) -> dict[str, Any]:
        return {"shutdown_kernel": "immediate"} if self.box is not None else {}

    def kernel_manager_class(self) -> type:
        box, meter, fork_server = self.box, self.meter, self.server
        spec = kernelspec("python3", {"warm": self.warm, "sandbox": self.sandboxed})

        class CourseKernelManager(native_kernel_manager()):
            kernel_spec = spec

            def __init__(self, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                self.box, self.fork_server = box, fork_server
                if box is not None:
                    meter.manager = self
                    self.session = _MeteredSession(parent=self, meter=meter)
                    self.client_factory = _Client
                    self.context.setsockopt(zmq.MAXMSGSIZE, box.caps.output_bytes + (1 << 20))

        return CourseKernelManager


@dataclass(frozen=True)
class Reexecution:
    """Call it with a folder, a module, a seed and a folder for what the run writes; it returns findings. Picklable.

    Findings: ``rerun.completed``, ``rerun.follows_seed`` and ``rerun.outputs``; whatever of that does not pass also
    counts against the rubric's rule about the notebook; and each rule of the rubric that held for what was handed in
    and does not hold for what the run wrote. A run that was stopped, or whose kernel died, is ``error``, never a pass.
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
          limits: Limits = SANDBOX_LIMITS, check: Check | None = None) -> list[Finding]:
    """Execute the notebook of a submission with ``seed`` (or the next one, when it is the one handed in), and judge.

    work: emptied, then receives the executed notebook and the files of the run. check: by default the module's
    checkers. Raises ExecutionError where there is no sandbox, before anything is executed.
    """
    from course_lib.checks import rules

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
        given = {**parameters, "seed": seed, "out_dir": str(work)}
        given = {name: value for name, value in given.items() if name in known}
        run = executor.run(Path(folder, "lab.ipynb"), given, limits, work)
    findings = [_completed(run, seed), _outputs(submission, run)]
    if not run.ok:
        return _both(notebook_rule, findings)
    again = _opened(work)
    if isinstance(again, Finding):
        return _both(notebook_rule, [*findings, again])
    findings.append(_follows_seed(submission, again, module, seed))
    judge = check or _checks(module)
    return _both(notebook_rule, findings) + _worse(judge(submission), judge(again), seed)


def _prepared(submission: Submission) -> tuple[NotebookNode, dict[str, Literal]]:
    """The learner's notebook without outputs and injected values, and the parameters that it ran with."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lab.ipynb")
        submission.value("lab.ipynb")
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


def _follows_seed(claimed: Submission, again: Submission, module: str, seed: int) -> Finding:
    same = [name for name in VARYING.get(find(module).code, ()) if claimed.files.get(name) == again.files.get(name)]
    try:
        same += ["config.json"] if again.value("config.json").get("seed") != seed else []
    except (ArtifactError, AttributeError):
        same.append("config.json")
    if same:
        return _finding("rerun.follows_seed", Outcome.FAIL, f"With seed {seed} the run does not write results of that "
                        f"seed: {', '.join(same)}. They are not computed.", flag="hard-coded results")
    return _finding("rerun.follows_seed", Outcome.PASS, f"The results of seed {seed} are other results.")


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
