"""Tool calls of a ``ToolCallingAgent``: decided on the arguments that the tool will really get.

The arguments are substituted (names of state variables become their values) once, here, before the
decision; what was decided is what is forwarded.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Callable

from smolagents import Tool
from smolagents.utils import AgentToolExecutionError

from ._errors import GateError, GateUnavailable, PermissionDenied, WireError
from ._executor import GateExecutor
from ._handles import Handles
from ._seat import Seat
from ._wire import encode, encode_or_handle

INTERPRETER = "python_interpreter"


class SandboxedInterpreter(Tool):
    """The tool ``python_interpreter``, in the gate's sandbox instead of in the agent's process."""

    name = INTERPRETER
    description = "Runs Python code in a sandbox and returns what it printed and the value of its last statement."
    output_type = "string"
    skip_forward_signature_validation = True

    def __init__(self, executor: GateExecutor, imports: list[str]) -> None:
        self.executor = executor
        allowed = ", ".join(imports) or "no module"
        about = f"The program. Variables of earlier programs of this task are still there. It may import: {allowed}."
        self.inputs = {"code": {"type": "string", "description": about}}
        super().__init__()

    def forward(self, code: str) -> str:
        """Runs one program; a refusal or an error is raised with its text."""
        ran = self.executor(code)
        return f"Stdout:\n{ran.logs}\nOutput: {ran.output}"


def gate_tool_calls(agent: Any, seat: Seat, handles: Handles) -> None:
    """Puts every tool call of ``agent`` behind the gate."""
    inner: Callable[[str, Any], Any] = agent.execute_tool_call
    substitute: Callable[[Any], Any] = agent._substitute_state_variables

    def execute_tool_call(tool_name: str, arguments: Any) -> Any:
        tool = {**agent.tools, **agent.managed_agents}.get(tool_name)
        if tool is None:
            return inner(tool_name, arguments)  # Raises with the names that there are.
        arguments = substitute(arguments)
        if isinstance(tool, SandboxedInterpreter):
            return unwrapped(agent, inner, tool_name, arguments)  # Its code is decided as code.
        action = "agent.invoke" if tool_name in agent.managed_agents else "tool.call"
        try:
            admission = seat.decide(action, tool_name, crossing(tool, arguments, handles))
        except GateError as fault:
            raise AgentToolExecutionError(str(fault), agent.logger) from fault
        try:
            value = unwrapped(agent, inner, tool_name, arguments)
        except Exception:
            report(seat, admission, "failed")
            raise
        except BaseException:
            report(seat, admission, "unknown")
            raise
        seat.outcome(admission, "done", digest=digest_of(value))
        return value

    agent._substitute_state_variables = lambda arguments: arguments  # Done above, once.
    agent.execute_tool_call = execute_tool_call


def unwrapped(agent: Any, inner: Callable[[str, Any], Any], name: str, arguments: Any) -> Any:
    """Runs the framework's own call; a refusal inside keeps its text, without "please try again"."""
    try:
        return inner(name, arguments)
    except AgentToolExecutionError as fault:
        if isinstance(fault.__cause__, PermissionDenied):
            raise AgentToolExecutionError(str(fault.__cause__), agent.logger) from fault.__cause__
        raise


def report(seat: Seat, admission: Any, status: str) -> None:
    """Reports an outcome beside an exception; without a report the gate ends the call as unknown."""
    try:
        seat.outcome(admission, status)
    except GateUnavailable:
        pass


def crossing(tool: Any, arguments: Any, handles: Handles) -> dict[str, Any]:
    """The arguments as the gate sees them."""
    if not isinstance(arguments, dict):
        name = next(iter(getattr(tool, "inputs", None) or {"task": None}))
        arguments = {name: arguments}
    return {str(name): encode_or_handle(value, handles)[0] for name, value in arguments.items()}


def digest_of(value: Any) -> str | None:
    """The digest of a result that can cross; none for an object of this host."""

    def opaque(_: Any) -> Any:
        raise WireError("stays here")

    try:
        data = encode(value, opaque)
    except WireError:
        return None
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()
