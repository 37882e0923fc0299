"""What every executor here needs of its host: the gate, the tools that stay here, and texts for the model.

It knows no agent framework and decides no policy.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, Callable, Iterable, Mapping

from ._errors import GateError, WireError
from ._handles import Handles, clip
from ._session import Done, Param, ToolReply, ToolSpec
from ._sidecar import Gate, Sidecar, connect
from ._wire import GuestObject, decode, encode_or_handle

LOG_CHARS = 50_000
"""Characters of logs that go back to the model; the frameworks do not cut them."""
ERROR_CHARS = 8_000
"""Characters of an error that go back to the model."""
NOTICE_CHARS = 1_000
"""Characters of one notice."""
DESCRIPTION_CHARS = 2_000
"""Characters of a tool's description."""
CANCELLED = -1
"""In the place of an opening's number: the sandbox was stopped under the program before."""


def open_gate(
    profile: Any,
    policy: Any,
    sidecar: Gate | str | None,
    *,
    tools: Mapping[str, str] | None = None,
    allow: Iterable[str] = (),
    peers: Iterable[str] = (),
    agent: str = "agent",
    store: str | os.PathLike[str] | None = None,
) -> tuple[Gate, bool]:
    """The gate that one of the three names, and whether it was started here."""
    if sum(choice is not None for choice in (profile, policy, sidecar)) != 1:
        raise GateError("name exactly one of profile=, policy= and sidecar=")
    if isinstance(sidecar, Gate):
        return sidecar, False
    if sidecar is not None:
        return connect(sidecar), False
    if policy is not None:
        return Sidecar(policy, agent=agent, store=store), True
    return Sidecar.from_profile(profile, tools, allow, peers, agent=agent, store=store), True


def answer(
    tools: Mapping[str, Callable[..., Any]], handles: Handles, name: str, args: dict[str, Any]
) -> tuple[ToolReply, str]:
    """Runs a host tool for generated code: the body of the answer, and a notice for the logs or nothing."""
    tool = tools.get(name)
    if tool is None:
        return failure("NameError", f"this host has no tool {clip(name, 80)}"), ""
    try:
        kwargs = {key: decode(value, handles.resolve) for key, value in args.items()}
    except WireError as fault:
        return failure(type(fault).__name__, str(fault)), ""
    try:
        value = tool(**kwargs)
    except Exception as fault:  # noqa: BLE001 - whatever a tool raises is its answer to the program
        return failure(type(fault).__name__, str(fault)), ""
    sent, note = encode_or_handle(value, handles)
    return {"value": sent}, f"the result of {name} is a handle: {note}" if note else ""


def output_of(done: Done, handles: Handles) -> Any:
    """The value of a program's last statement."""

    def resolve(key: str, kind: str, text: str) -> Any:
        try:
            return handles.resolve(key, kind)
        except WireError:
            return GuestObject(kind, text)  # Printed like any other text; it opens nothing.

    return decode(done.output, resolve)


def with_notices(logs: str, notices: Iterable[str]) -> str:
    """The logs with what the gate and this host have to say of them."""
    lines = "".join(f"[weir] {cut(notice, NOTICE_CHARS)}\n" for notice in notices)
    gap = "" if not lines or not logs or logs.endswith("\n") else "\n"
    return logs + gap + lines


def granted(name: str, imports: Iterable[str]) -> bool:
    """Whether a list of modules grants ``name``: itself or a package above it."""
    return any(name == module or name.startswith(f"{module}.") for module in imports)


def failure(kind: str, message: str) -> ToolReply:
    """The answer of a tool that raised."""
    text = cut(message, ERROR_CHARS).encode("utf-8", "replace").decode("utf-8")
    return {"error": {"type": clip(kind, 80), "message": text}}


def error_text(done: Done) -> str:
    """The program's traceback, or the best that there is of it."""
    error = done.error or {}
    if error.get("traceback"):
        return error["traceback"]
    if error:
        return f"{error.get('type', 'Error')}: {error.get('message', '')}"
    return f"the execution ended as {done.status}"


def cut(text: str, most: int) -> str:
    """The head and the tail of ``text``, ``most`` characters together."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[weir] … {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def tool_spec(name: str, tool: Any) -> ToolSpec:
    """What generated code is told of a tool, of a managed agent or of a plain function."""
    inputs = getattr(tool, "inputs", None)
    if isinstance(inputs, dict):
        params = tuple(
            Param(key, not (isinstance(row, dict) and row.get("nullable", False))) for key, row in inputs.items()
        )
    else:
        params = tuple(
            Param(key, row.default is row.empty)
            for key, row in inspect.signature(tool).parameters.items()
            if row.kind not in (row.VAR_POSITIONAL, row.VAR_KEYWORD)
        )
    about = getattr(tool, "description", None) or inspect.getdoc(tool) or ""
    return ToolSpec(
        name=name,
        description=str(about)[:DESCRIPTION_CHARS].encode("utf-8", "replace").decode("utf-8"),
        params=params,
        is_final=name == "final_answer",
        is_agent=hasattr(tool, "managed_agents") and hasattr(tool, "run"),
    )
