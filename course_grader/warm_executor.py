"""Papermill's executor with a warm kernel in a sandbox, or with either half alone; see ``WarmSandboxedExecutor``."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import Any

import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.session import Session
from traitlets import Any as AnyTrait

from course_grader.kernels import ForkServer, kernelspec, own_server
from course_grader.sandbox import Box, Caps, require
from course_lib.errors import ExecutionError, UsageError
from course_lib.execute import Execution, Limits, Literal, PapermillExecutor, Progress, native_kernel_manager

SANDBOX_LIMITS = Limits(notebook_s=300.0, cell_s=300.0, startup_s=60.0)


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

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """As Jupyter's own, which then waits a fifth of a second for silence: what belongs to no cell is ignored."""
        deadline = time.monotonic() + (timeout or 60)
        while True:
            self.kernel_info()
            with contextlib.suppress(Empty):
                reply = await self.get_shell_msg(timeout=1)
                if reply["msg_type"] == "kernel_info_reply":
                    await self.get_iopub_msg(timeout=0.2)  # proof that this channel is connected
                    self._handle_kernel_info_reply(reply)
                    return
            if not await self.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("The kernel died, or did not answer in time.")


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
            if not result.ok and "MemoryError" in box.log():  # the kernel's own, not one that a cell raised
                box.cause = box.cause or "memory"
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
