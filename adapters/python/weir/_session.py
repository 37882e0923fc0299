"""One session at the gate: tools, runs, executions with their tool calls, and calls of the host.

It knows the protocol and nothing of any agent framework.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping
from urllib.parse import quote

from ._client import ANSWER_SECONDS, Client, Flight
from ._errors import Exhausted, GateError, PermissionDenied, ProtocolError, Refused

EXECUTE_SECONDS = 900.0
"""Time for one event of an execution: the program's own time and a person's time to approve."""

CANCEL_SECONDS = 15.0
"""Time for a cancellation; the sandbox has a little while to end."""

UNDER_WAY_SECONDS = 1.0
"""Time for a program that is on its way to the gate to get there, so that it can be cancelled."""
POLL_SECONDS = 0.02
"""Between two attempts to cancel it."""

LAST_WORD_SECONDS = 1.0
"""Time for the end of a cancelled execution, with what was printed, to arrive."""

STATUSES = ("done", "failed", "exhausted", "denied", "broken")

NO_PLACE = {
    "unknown_tool": "the policy has no such tool",
    "unknown_peer": "it is not among the policy's peers",
    "delegation_depth": "tasks are handed on deeper than the policy's max_depth",
}
"""Reason codes of what the policy has no place for, whatever the arguments."""

EXHAUSTED = ("budget_exhausted", "limit_reached")
"""Reason codes of a refusal for want of room, not of permission."""

ToolReply = dict[str, Any]
OnTool = Callable[[str, dict[str, Any]], ToolReply]


@dataclass(frozen=True)
class Param:
    """A parameter of a tool."""

    name: str
    required: bool


@dataclass(frozen=True)
class ToolSpec:
    """What generated code is told of a tool."""

    name: str
    description: str = ""
    params: tuple[Param, ...] = ()
    is_final: bool = False
    is_agent: bool = False

    def json(self) -> dict[str, Any]:
        """The form of the protocol."""
        return {
            "name": self.name,
            "description": self.description,
            "params": [{"name": param.name, "required": param.required} for param in self.params],
            "is_final": self.is_final,
            "is_agent": self.is_agent,
        }


@dataclass(frozen=True)
class Done:
    """How an execution ended; ``output`` is still in the tagged form.

    ``reason`` is the reason code of a refusal or a stop. ``replaced`` says that the next program finds a
    new interpreter, without the variables of this one. ``files`` are those that it made, changed or removed in the
    session's folder.
    """

    status: str
    output: Any
    logs: str
    is_final: bool
    error: dict[str, str] | None
    denial: str | None
    notices: list[str]
    usage: dict[str, int]
    receipt: str | None
    reason: str | None
    replaced: bool
    files: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Admission:
    """An allowed call that the host runs itself; it must be followed by :meth:`Session.outcome`."""

    call: str
    receipt: str | None = None


@dataclass
class Session:
    """An open session."""

    client: Client
    id: str
    agent: str
    policy: str
    imports: list[str]
    limits: dict[str, Any]
    scratch: str | None = None
    execute_seconds: float = EXECUTE_SECONDS
    lost: bool = False
    _flight: Flight | None = None
    _execution: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, client: Client, tools: list[ToolSpec], parent: str | None = None, name: str | None = None) -> Session:
        """Opens a session; with ``parent`` and ``name`` that of the agent ``name``, which works for the session
        ``parent``: it shares the parent's accounts and labels and has an interpreter of its own.

        Raises:
            GateError: the gate has no room, or cannot be reached.
        """
        body: dict[str, Any] = {"tools": [tool.json() for tool in tools]}
        if parent is not None:
            body |= {"parent": parent, "name": name}
        made = client.post("/v1/sessions", body)
        imports = need(made, "imports", list)
        if not all(isinstance(name, str) for name in imports):
            raise ProtocolError("the gate's list of imports holds something else than names")
        return cls(
            client=client,
            id=need(made, "session", str),
            agent=need(made, "agent", str),
            policy=need(made, "policy", str),
            imports=list(imports),
            limits=need(made, "limits", dict),
            scratch=optional(made, "scratch"),
        )

    @classmethod
    def rejoin(cls, client: Client, saved: Mapping[str, Any], tools: list[ToolSpec]) -> Session | None:
        """The session that :meth:`saved` described, now with these tools; ``None`` when the gate no longer has it.

        Raises:
            ProtocolError: it is no such description.
        """
        imports = need(saved, "imports", list)
        if not all(isinstance(name, str) for name in imports):
            raise ProtocolError("the saved list of imports holds something else than names")
        texts = {name: need(saved, name, str) for name in ("id", "agent", "policy")}
        limits, scratch = need(saved, "limits", dict), optional(saved, "scratch")
        session = cls(client=client, imports=list(imports), limits=limits, scratch=scratch, **texts)
        try:
            session.set_tools(tools)
        except Refused as fault:
            if fault.status != 404:
                raise
            return None
        return session

    def saved(self) -> dict[str, Any]:
        """What :meth:`rejoin` needs. It holds no token and no variable."""
        return {
            "id": self.id,
            "agent": self.agent,
            "policy": self.policy,
            "imports": list(self.imports),
            "limits": dict(self.limits),
            "scratch": self.scratch,
        }

    @property
    def path(self) -> str:
        """The session's path."""
        return f"/v1/sessions/{quote(self.id, safe='')}"

    def set_tools(self, tools: list[ToolSpec]) -> None:
        """Replaces the tools that generated code sees."""
        self.client.put(f"{self.path}/tools", {"tools": [tool.json() for tool in tools]})

    def put_file(self, name: str, content: bytes) -> None:
        """Puts a file into the session's folder, by its path below it."""
        self.client.put_bytes(f"{self.path}/files/{quote(name)}", content)

    def get_file(self, name: str) -> bytes:
        """The content of a file in the session's folder."""
        return self.client.get_bytes(f"{self.path}/files/{quote(name)}")

    def begin_run(self) -> str:
        """Begins a new run: one task. Budgets of scope ``run`` start anew. Not in a session with a parent."""
        return str(need(self.client.post(f"{self.path}/runs", {}), "run", str))

    def execute(self, code: str, variables: dict[str, Any], on_tool: OnTool, language: str | None = None) -> Done:
        """Runs a program; ``on_tool`` runs a host tool and returns the body of its answer. ``language`` is the name of
        the gate's guest; without it, its usual one.

        Whatever ``on_tool`` raises cancels the execution and comes out of here.

        Raises:
            GateError: the gate cannot be reached or broke the protocol. A refusal is no error: it is
                a :class:`Done` with the status ``denied``.
        """
        execution = secrets.token_hex(16)
        body: dict[str, Any] = {"code": code, "execution": execution}
        if variables:
            body["variables"] = variables
        if language is not None:
            body["language"] = language
        with self._lock:
            flight = self._flight = Flight()
            self._execution = execution
        begun = False
        try:
            event = self._post(f"{self.path}/execute", body, flight)
            begun = True
            while event.get("event") == "tool":
                event = self._tool(event, on_tool, flight)
            return finished(event)
        except Refused:
            if begun:
                self._abandon(None)
            raise
        except BaseException:
            self._abandon(None)
            raise
        finally:
            with self._lock:
                self._flight = self._execution = None

    def _tool(self, event: dict[str, Any], on_tool: OnTool, flight: Flight) -> dict[str, Any]:
        execution = need(event, "execution", str)
        name = need(event, "tool", str)
        reply = on_tool(name, need(event, "args", dict))
        reply["call"] = need(event, "call", str)
        try:
            return self._post(f"/v1/executions/{quote(execution, safe='')}/resume", reply, flight)
        except Refused as fault:
            if fault.status != 409:
                raise
            return self._overtaken(name, execution, fault)

    def _overtaken(self, name: str, execution: str, fault: Refused) -> dict[str, Any]:
        """The next event after an answer that came too late: the program goes on without it."""
        try:
            event = self.client.get(f"{self.path}/event", timeout=self.execute_seconds)
        except Refused:
            raise fault from None
        if not isinstance(event, dict) or event.get("execution") != execution:
            raise fault
        if event.get("event") == "done" and isinstance(event.get("notices"), list):
            event["notices"].append(f"the answer of {name} came too late and was dropped")
        return event

    def _post(self, path: str, body: dict[str, Any], flight: Flight) -> dict[str, Any]:
        event = self.client.post(path, body, timeout=self.execute_seconds, flight=flight)
        if not isinstance(event, dict):
            raise ProtocolError("an event is an object")
        return event

    def cancel(self) -> None:
        """Cancels the execution under way, from any thread; does nothing when there is none."""
        with self._lock:
            flight = self._flight
        if flight is not None:
            self._abandon(flight)
            flight.answered(LAST_WORD_SECONDS)
            flight.break_off()

    def _abandon(self, flight: Flight | None) -> None:
        """Cancels the execution, once. When the gate does not say that it ended, the session ends with it."""
        with self._lock:
            execution, self._execution = self._execution, None
        if execution is not None and not self._stopped(execution, flight):
            self.lost = True
            self.close()

    def _stopped(self, execution: str, flight: Flight | None) -> bool:
        """Whether the gate has stopped an execution; one that it does not know may be on its way there still."""
        until = time.monotonic() + UNDER_WAY_SECONDS
        while True:
            try:
                self.client.delete(f"/v1/executions/{quote(execution, safe='')}", timeout=CANCEL_SECONDS)
                return True
            except Refused as fault:
                if fault.status != 404 or flight is not None and flight.answered(POLL_SECONDS):
                    return True  # It has ended, was refused, or never left: the request is broken off next.
                if flight is None:
                    time.sleep(POLL_SECONDS)
            except GateError:
                return True  # The gate is gone, and with it the execution.
            if time.monotonic() > until:
                return False

    def decide(self, action: str, resource: str, args: dict[str, Any], **package: str) -> Admission:
        """Asks about a call that the host runs itself; the amounts are then held.

        Raises:
            PermissionDenied: with the gate's text; :class:`Exhausted` when a budget has too little left.
        """
        body = {"session": self.id, "action": action, "resource": resource, "args": args, **package}
        reply = self.client.post("/v1/decide", body, timeout=self.execute_seconds)
        receipt = optional(reply, "receipt")
        if need(reply, "effect", str) != "allow":
            reason = optional(reply, "reason")
            refusal = Exhausted if reason in EXHAUSTED else PermissionDenied
            raise refusal(optional(reply, "denial") or f"[weir] denied {resource}", receipt, reason)
        return Admission(call=need(reply, "call", str), receipt=receipt)

    def no_place(self, action: str, kind: str, name: str) -> str | None:
        """Why the policy has no place for a tool or an agent at all; asks without holding anything."""
        question = {
            "subject": {"type": "agent", "id": self.agent},
            "action": {"name": action},
            "resource": {"type": kind, "id": name},
            "context": {"args": {}, "session": self.id},
        }
        context = need(self.client.post("/access/v1/evaluation", question), "context", dict)
        return NO_PLACE.get(need(context, "reason", str))

    def outcome(
        self, admission: Admission, status: str, usage: dict[str, int] | None = None, digest: str | None = None
    ) -> None:
        """Reports how an allowed call ended: ``done``, ``failed`` or ``unknown``."""
        body: dict[str, Any] = {"call": admission.call, "status": status}
        if usage:
            body["usage"] = usage
        if digest:
            body["result_digest"] = digest
        self.client.post("/v1/outcome", body, timeout=ANSWER_SECONDS)

    def close(self) -> None:
        """Ends the session; quiet when it has ended or the gate is gone."""
        try:
            self.client.delete(self.path, timeout=CANCEL_SECONDS)
        except GateError:
            pass


def finished(event: dict[str, Any]) -> Done:
    """The end of an execution out of its event.

    Raises:
        ProtocolError: it is no such event.
    """
    if event.get("event") != "done" or event.get("status") not in STATUSES:
        raise ProtocolError("the gate sent an event that this version does not know")
    error = event.get("error")
    if error is not None:
        if not isinstance(error, dict):
            raise ProtocolError("`error` is not an object")
        error = {name: text for name in ("type", "message", "traceback") if isinstance(text := error.get(name), str)}
    notices = event.get("notices", [])
    if not isinstance(notices, list) or not all(isinstance(notice, str) for notice in notices):
        raise ProtocolError("`notices` is not a list of texts")
    usage = event.get("usage", {})
    files = event.get("files", [])
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise ProtocolError("`files` is not a list of files")
    return Done(
        status=event["status"],
        output=event.get("output"),
        logs=need(event, "logs", str),
        is_final=need(event, "is_final", bool),
        error=error,
        denial=optional(event, "denial"),
        notices=notices,
        usage=usage if isinstance(usage, dict) else {},
        receipt=optional(event, "receipt"),
        reason=optional(event, "reason"),
        replaced=need(event, "replaced", bool),
        files=files,
    )


def need(body: Any, name: str, kind: type) -> Any:
    """A field that must be there with its type."""
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, kind):
        raise ProtocolError(f"the gate's reply has no `{name}`")
    return value


def optional(body: Any, name: str) -> str | None:
    """A text that may be absent or null."""
    value = body.get(name) if isinstance(body, dict) else None
    if value is not None and not isinstance(value, str):
        raise ProtocolError(f"`{name}` is not a text")
    return value
