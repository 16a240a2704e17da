"""The executor seam: run one notebook with parameters under limits, and keep what it wrote.

``PapermillExecutor`` starts a fresh kernel in a process of its own. A warm or a sandboxed kernel is another class with
the same ``run``: subclass it and override ``kernel_manager_class``, or implement ``Executor`` anew.
"""

from __future__ import annotations

import ast
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from course_lib.errors import ExecutionError, UsageError
from course_lib.files import replacing

if TYPE_CHECKING:
    from nbformat import NotebookNode

Progress = Callable[[int, int, str], None]
Literal = str | int | float | bool | None | list[Any] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one run, in seconds of wall clock. notebook_s counts from the first cell."""

    notebook_s: float = 900.0
    cell_s: float = 600.0
    startup_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Execution:
    """What became of a run. path: the executed notebook, partial when ``ok`` is false; seconds: wall clock.

    error: empty when ok, else the cell, its first line and the exception, for a person. error_cell: index of that
    cell in the notebook at ``path``. timed_out: a limit ended the run. cause: which one of a sandbox. notes: remarks.
    """

    path: Path
    seconds: float
    ok: bool
    error: str = ""
    error_cell: int | None = None
    timed_out: bool = False
    cause: str = ""
    notes: tuple[str, ...] = ()

    def check(self) -> Execution:
        """Itself, or ExecutionError when the run failed."""
        if self.ok:
            return self
        raise ExecutionError(self.error, where=str(self.path), fix="Open the partial notebook at the failing cell.")


class Executor(Protocol):
    """Anything that can run a notebook."""

    def run(self, notebook: Path, parameters: Mapping[str, Literal], limits: Limits, out: Path,
            progress: Progress | None = None) -> Execution:
        """Run ``notebook`` with the folder ``out`` as working directory and write the result to ``out/NAME``."""
        ...


def parameters_of(nb: NotebookNode, where: str = "") -> dict[str, Literal]:
    """Names and default values of the one cell tagged ``parameters``, read without running it.

    Raises UsageError when there are several such cells, or one holds anything but ``name = literal``.
    """
    cells = [(i, c) for i, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", [])]
    if len(cells) > 1:
        raise UsageError("The notebook has more than one parameters cell.", where=where, fix="Keep one.")
    found: dict[str, Literal] = {}
    for index, cell in cells:
        for node in ast.parse(cell.source).body:
            target, value = _assignment(node)
            try:
                found[target] = ast.literal_eval(value)
            except ValueError:
                raise UsageError("The parameters cell may hold only lines of the form name = literal.",
                                 where=f"{where} cell {index}, line {node.lineno}",
                                 fix="Compute derived values in the next cell.") from None
    return found


def check_parameters(nb: NotebookNode, given: Mapping[str, Literal], where: str = "") -> None:
    """Raise UsageError for a parameter that the notebook does not have, or whose type differs from its default."""
    known = parameters_of(nb, where)
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"The notebook has no parameter {name!r}.", where=where,
                             fix="It has: " + (", ".join(known) or "none"))
        _check_literal(name, value, where)
        default = known[name]
        same = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        if default is not None and value is not None and not same:
            raise UsageError(f"Parameter {name!r} must be {type(default).__name__}, not {type(value).__name__}.",
                             where=where, fix=f"Its default is {default!r}.")


def _assignment(node: ast.stmt) -> tuple[str, ast.expr]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return node.target.id, node.value
    return "", ast.Name("not_a_literal")


def _check_literal(name: str, value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UsageError(f"Parameter {name!r} has a key that is not text: {key!r}.", where=where)
            _check_literal(name, inner, where)
    elif isinstance(value, list):
        for inner in value:
            _check_literal(name, inner, where)
    elif value is not None and type(value) not in (str, int, float, bool):
        raise UsageError(f"Parameter {name!r} is not a literal but {type(value).__name__}.", where=where,
                         fix="Pass text, numbers, booleans, None, or lists and dicts of them.")


class PapermillExecutor:
    """A fresh kernel of this Python for every run, driven in-process through papermill.

    seed: value of ``PYTHONHASHSEED`` in the kernel, 0 to 4294967295. env: variables to add to the kernel's own.
    The notebook's kernelspec is ignored. Not promised: isolation from the network or the file system; a run that
    needs it takes another executor.
    """

    def __init__(self, *, seed: int = 0, env: Mapping[str, str] | None = None) -> None:
        self.seed, self.env = seed, dict(env or {})

    def run(self, notebook: Path, parameters: Mapping[str, Literal], limits: Limits = Limits(), out: Path = Path("."),
            progress: Progress | None = None) -> Execution:
        """See ``Executor.run``. Raises UsageError for bad parameters; a failing cell is an Execution with ok=False.
        progress: called as (cells done, cells in all, first line of the cell about to run). Two runs that compute
        the same values write byte-identical notebooks: times, paths and random ids are scrubbed, and a parameter that
        names the output folder is passed as ``"."``, which is the same place for the kernel.
        """
        import nbformat

        from course_lib import notebooks

        source = notebooks.read(notebook)
        check_parameters(source, parameters, str(notebook))
        out = Path(out).resolve()
        out.mkdir(parents=True, exist_ok=True)
        path = out / Path(notebook).name
        if path == Path(notebook).resolve():
            raise UsageError("The output folder is the notebook's own folder.", where=str(out), fix="Choose another.")
        started = time.monotonic()
        given = {k: "." if isinstance(v, str) and v and Path(v).resolve() == out else v for k, v in parameters.items()}
        failure, at = self._papermill(source, given, limits, path, progress)
        seconds = time.monotonic() - started
        done = _without_papermill_marks(nbformat.read(path, as_version=4) if path.exists() else source)
        stopped = _unfinished(done)
        done = notebooks.normalise(done, keep_outputs=True)
        notebooks.write(done, path)
        if failure is None and stopped is None:
            return Execution(path, seconds, True)
        failure, at = failure or ExecutionError("it stopped here and did not say why"), at if failure else stopped
        index, text = _describe(done, failure, at, limits)
        return Execution(path, seconds, False, text, index, "Timeout" in type(failure).__name__)

    def kernel_manager_class(self) -> type:
        """Class that starts kernels; override to start them elsewhere."""
        return native_kernel_manager()

    def client_options(self) -> dict[str, Any]:
        """Further settings of nbclient's client, such as how a kernel is ended."""
        return {}

    def _papermill(self, nb: NotebookNode, parameters: dict[str, Literal], limits: Limits, path: Path,
                   progress: Progress | None) -> tuple[Exception | None, int]:
        from papermill.engines import papermill_engines
        from papermill.execute import execute_notebook

        papermill_engines.register("course", _engine())
        deadline = time.monotonic() + limits.notebook_s
        total = sum(c.cell_type == "code" for c in nb.cells) + bool(parameters)
        done = at = 0

        def before(cell: NotebookNode, cell_index: int) -> None:
            nonlocal done, at
            at = cell_index
            if progress and cell.cell_type == "code":
                progress(done, total, _first_line(cell.source))
                done += 1

        with tempfile.TemporaryDirectory(prefix="course-ipython-") as ipython, tempfile.TemporaryFile() as log:
            env = {**os.environ, "PYTHONHASHSEED": str(self.seed), "IPYTHONDIR": ipython, **self.env}
            try:
                execute_notebook(
                    nb, str(path).replace("{", "{{").replace("}", "}}"), parameters, engine_name="course",
                    kernel_name="python3", language="python", progress_bar=False, start_timeout=int(limits.startup_s),
                    kernel_manager_class=self.kernel_manager_class(), on_cell_start=before, coalesce_streams=True,
                    store_widget_state=False, **self.client_options(),
                    course_start={"env": env, "cwd": str(path.parent), "stderr": log},
                    timeout_func=lambda cell: max(1, int(min(limits.cell_s, deadline - time.monotonic()))))
            except Exception as error:
                log.seek(0)
                error.add_note(log.read().decode(errors="replace")[-2000:])
                return error, at
        if progress:
            progress(total, total, "")
        return None, at


def refresh(notebook: Path, limits: Limits = Limits(), progress: Progress | None = None) -> Execution:
    """Execute a lecture and put the result in its own place; on failure the file stays as it is.

    The kernel works in a folder that goes away, so a lecture must not depend on where it lies.
    """
    with tempfile.TemporaryDirectory(prefix="course-refresh-") as folder:
        run = PapermillExecutor().run(notebook, {}, limits, Path(folder), progress)
        if not run.ok:
            return Execution(Path(notebook), run.seconds, False, run.error, run.error_cell, run.timed_out)
        with replacing(Path(notebook)) as new:
            shutil.copyfile(run.path, new)
    return Execution(Path(notebook), run.seconds, True)


def native_kernel_manager() -> type:
    """A kernel manager class that runs this interpreter's ipykernel, whatever kernelspec a notebook names."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class NativeKernelManager(AsyncKernelManager):
        """Runs this interpreter's ipykernel, whatever kernelspec the notebook or the machine names."""

        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
                    "--HistoryManager.enabled=False"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    return NativeKernelManager


def _engine() -> type:
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine

    logger = logging.getLogger("course_lib.execute")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False

    class CourseEngine(NBClientEngine):
        """papermill's engine, with the kernel's folder and environment passed along instead of set globally."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, start_timeout: int = 60, *, course_start: dict,
                                     **kwargs: Any) -> Any:
            for name in ("input_path", "log_output", "stdout_file", "stderr_file"):
                kwargs.pop(name, None)
            client = PapermillNotebookClient(nb_man, startup_timeout=start_timeout, kernel_name=kernel_name,
                                             log=logger, **kwargs)
            return client.execute(**course_start)

    return CourseEngine


def _without_papermill_marks(nb: NotebookNode) -> NotebookNode:
    nb.cells = [c for c in nb.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    return nb


def _unfinished(nb: NotebookNode) -> int | None:
    """The first cell that did not complete: it hid its traceback, or called sys.exit(0), which papermill allows."""
    code = ((i, c) for i, c in enumerate(nb.cells) if c.cell_type == "code" and c.source.strip())
    return next((i for i, c in code if c.metadata.get("papermill", {}).get("status") != "completed"), None)


def _first_line(source: str) -> str:
    return next((line.strip() for line in source.splitlines() if line.strip()), "")


def _describe(nb: NotebookNode, failure: Exception, at: int, limits: Limits) -> tuple[int, str]:
    """Index of the failing cell and one sentence about it. at: the cell that was started last."""
    kind = type(failure).__name__
    raised = [(i, o) for i, c in enumerate(nb.cells) for o in c.get("outputs", []) if o.output_type == "error"]
    at = raised[0][0] if raised else at
    cell = f"Cell {at} ({_first_line(nb.cells[at].source)!r})" if at < len(nb.cells) else "The notebook"
    if "Timeout" in kind:
        return at, f"{cell} passed the limit of {limits.cell_s:g} s a cell or {limits.notebook_s:g} s a notebook."
    if raised:
        return at, f"{cell} raised {raised[0][1].ename}: {raised[0][1].evalue}"
    if "DeadKernel" in kind:
        log = "".join(getattr(failure, "__notes__", [])).splitlines()
        note = [line for line in log if line.strip() and not line.startswith("[IPKernelApp] WARNING")]
        return at, f"{cell}: the kernel died; out of memory, or the code ended it. {note[-1] if note else ''}".strip()
    return at, f"{cell} ended with {kind}: {_first_line(str(failure))}"
