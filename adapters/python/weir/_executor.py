"""A code executor for smolagents that runs every program behind the gate.

Tools stay on this host with their clients, closures and state; generated code gets stubs, and each
call of a stub is decided, recorded and counted by the sidecar before it reaches the tool here.
Objects that cannot cross are handles. No policy is decided in this file.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Callable, Iterable, Mapping

from smolagents.local_python_executor import CodeOutput, PythonExecutor
from smolagents.utils import AgentExecutionError

from ._errors import Exhausted, GateError, GateStopped, Interrupted, PermissionDenied, SandboxBroken
from ._handles import Handles
from ._host import (
    CANCELLED,
    ERROR_CHARS,
    LOG_CHARS,
    answer,
    cut,
    error_text,
    granted,
    open_gate,
    output_of,
    tool_spec,
    with_notices,
)
from ._seat import Seat
from ._session import Done, ToolReply
from ._sidecar import Gate
from ._wire import encode_or_handle


class CodeError(GateError, AgentExecutionError):
    """The generated program raised an error of its own; the text is its traceback."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)
        self.message = text


class GateExecutor(PythonExecutor):
    """Runs the programs of a ``CodeAgent`` in the gate's sandbox.

    ``CodeAgent(tools, model, executor=GateExecutor(policy="policy.toml"))`` is enough for the code and
    the tool calls in it. :func:`weir.wrap` also covers the model, managed agents and the prompt.

    Args:
        additional_imports: not granted but asked for: an error names those that the policy lacks.
        profile, policy, sidecar: exactly one: a threat profile, a policy's file, or a gate that runs
            (a :class:`Gate`, or its address).
        tools: with ``profile``, the effect class of each tool.
        allow: with ``profile``, tools that need no approval.
        max_output: characters of logs per step for the model.
        stop_after: after this many denied or exhausted steps in a row, :class:`GateStopped` ends the
            run; ``None`` leaves that to the agent's own limit of steps.
        describe: what generated code is shown of a host object; by default its type and size.
        seat: a place at a gate that is shared with other parts of one agent.
    """

    def __init__(
        self,
        additional_imports: Iterable[str] = (),
        *,
        profile: Any = None,
        policy: Any = None,
        sidecar: Gate | str | None = None,
        tools: Mapping[str, str] | None = None,
        allow: Iterable[str] = (),
        agent: str = "agent",
        store: str | os.PathLike[str] | None = None,
        max_output: int = LOG_CHARS,
        stop_after: int | None = None,
        describe: Callable[[Any], str] | None = None,
        seat: Seat | None = None,
    ) -> None:
        self._owned: Gate | None = None
        if seat is None:
            gate, started = open_gate(profile, policy, sidecar, tools=tools, allow=allow, agent=agent, store=store)
            self._owned = gate if started else None
            seat = Seat(gate)
        self.seat = seat
        self.tools: dict[str, Any] = {}
        self.state: dict[str, Any] = {"_print_outputs": ""}
        self.handles = Handles(describe)
        self.receipts: list[str] = []
        self._max_output = max_output
        self._stop_after = stop_after
        self._refused_in_a_row = 0
        self._variables: dict[str, Any] = {}
        self._resend = False
        self._opening: int | None = None
        self._notes: list[str] = []
        self._busy = threading.Lock()
        self._interrupted = False
        try:
            self._require(additional_imports)
        except BaseException:
            self.cleanup()
            raise

    @property
    def imports(self) -> list[str]:
        """The modules that the policy lets generated code import."""
        return list(self.seat.session.imports)

    def _require(self, wanted: Iterable[str]) -> None:
        wanted = list(wanted)
        missing = [name for name in wanted if not granted(name, self.imports)] if wanted else []
        if missing:
            raise GateError(
                f"the policy does not grant the imports {', '.join(missing)}; add them to its [code] section"
            )

    # -- smolagents' interface --

    def send_tools(self, tools: Mapping[str, Any]) -> None:
        """Offers tools and managed agents to generated code; they stay on this host."""
        self.tools = dict(tools)
        self.seat.set_tools([tool_spec(name, tool) for name, tool in self.tools.items()])

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Sets variables before the next program; begins a new run, as ``agent.run`` does."""
        self.seat.begin_run()
        self._refused_in_a_row = 0
        self._variables = {
            name: value
            for name, value in variables.items()
            if isinstance(name, str) and name.isidentifier() and name != "_print_outputs"
        }
        self._resend = bool(self._variables)

    def __call__(self, code_action: str) -> CodeOutput:
        """Runs one program.

        Raises:
            PermissionDenied: the policy denied the program or a call in it; the gate's text.
            Exhausted: a budget or limit ended it.
            CodeError: the program raised an error of its own.
            GateError: the gate or the sandbox failed, or ``interrupt`` was called.
            GateStopped: too many refusals in a row, when ``stop_after`` is set.
        """
        if not self._busy.acquire(blocking=False):
            raise GateError(
                "this executor is already running a program; a tool cannot run code in its own agent's session"
            )
        try:
            self._interrupted = False
            self.state["_print_outputs"] = ""
            self._notes = []
            self._settle_in()
            variables = self._crossing() if self._resend else {}
            try:
                done = self.seat.execute(code_action, variables, self._on_tool)
            except BaseException as fault:
                self._resend = bool(self._variables)
                # What was lost stands in the gate's own errors; after any other the next program is told.
                self._opening = None if isinstance(fault, GateError) else CANCELLED
                if self._interrupted and isinstance(fault, GateError):
                    raise self._interruption(not self.seat.is_open) from None
                raise
            self._resend = bool(self._variables) and done.replaced
            if self._interrupted:
                raise self._interruption(done.replaced or not self.seat.is_open)
            return self._result(done)
        finally:
            self._busy.release()

    def _interruption(self, lost: bool) -> Interrupted:
        self._opening = None
        return Interrupted(f"the program was interrupted{'; the variables of earlier steps are gone' if lost else ''}")

    def interrupt(self) -> None:
        """Stops the program under way, from any thread."""
        self._interrupted = True
        self.seat.cancel()

    def cleanup(self) -> None:
        """Ends the session, revokes every handle and stops a sidecar that this executor started."""
        self.seat.close()
        self.handles.clear()
        self._resend = bool(self._variables)
        self._opening = None
        if self._owned is not None:
            self._owned.stop()

    def __enter__(self) -> GateExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    # -- tools --

    def _settle_in(self) -> None:
        """Takes note of a session that is another one than at the program before."""
        opening = self.seat.open()
        if self._opening not in (None, opening):
            self._resend = bool(self._variables)
            self._notes.append("the sandbox is a new one; the variables of earlier steps are gone")
        self._opening = opening

    def _crossing(self) -> dict[str, Any]:
        sent = {}
        for name, value in self._variables.items():
            sent[name], note = encode_or_handle(value, self.handles)
            if note:
                self._notes.append(f"variable {name} is a handle: {note}")
        return sent

    def _on_tool(self, name: str, args: dict[str, Any]) -> ToolReply:
        reply, note = answer(self.tools, self.handles, name, args)
        if note:
            self._notes.append(note)
        return reply

    # -- results --

    def _result(self, done: Done) -> CodeOutput:
        if done.receipt:
            self.receipts.append(done.receipt)
        logs = self._logs(done)
        self.state["_print_outputs"] = logs
        if done.status == "done" or (done.is_final and done.status == "failed"):
            self._refused_in_a_row = 0
            return CodeOutput(output=output_of(done, self.handles), logs=logs, is_final_answer=done.is_final)
        if done.status == "failed":
            self._refused_in_a_row = 0
            raise CodeError(cut(error_text(done), ERROR_CHARS))
        text = done.denial or error_text(done)
        if done.status == "broken":
            raise SandboxBroken(cut(text, ERROR_CHARS))
        self._refused_in_a_row += 1
        if self._stop_after is not None and self._refused_in_a_row >= self._stop_after:
            raise GateStopped(f"stopped after {self._refused_in_a_row} refused steps in a row; the last one: {text}")
        refusal = Exhausted if done.status == "exhausted" else PermissionDenied
        raise refusal(cut(text, ERROR_CHARS), done.receipt, done.reason)

    def _logs(self, done: Done) -> str:
        return with_notices(cut(done.logs, self._max_output), [*done.notices, *self._notes])
