"""One agent's place at the gate: a session that is opened when first needed and can be reopened.

The executor, the model and the tool calls of one agent share a seat, and so one session, its budgets
and its policy. Agents that it manages have seats of their own at the same gate, with the chain of
agents that delegated to them.
"""

from __future__ import annotations

import threading
from typing import Any

from ._errors import GateUnavailable, Refused
from ._session import Done, OnTool, Session, ToolSpec
from ._sidecar import Gate


class Seat:
    """A seat at ``gate``; ``delegation`` names the agents above this one, outermost first."""

    def __init__(self, gate: Gate, delegation: list[str] | None = None) -> None:
        self.gate = gate
        self.delegation = delegation or []
        self._tools: list[ToolSpec] = []
        self._sent: list[ToolSpec] | None = None
        self._session: Session | None = None
        self._used = False
        self._lock = threading.RLock()

    @property
    def session(self) -> Session:
        """The session; opened when there is none."""
        with self._lock:
            if self._session is None:
                self._session = Session.open(self.gate.client, self._tools, self.delegation)
                self._sent = list(self._tools)
                self._used = False
            return self._session

    @property
    def is_open(self) -> bool:
        """True while there is a session."""
        return self._session is not None

    def set_tools(self, tools: list[ToolSpec]) -> None:
        """What generated code shall see from the next execution on."""
        self._tools = tools

    def begin_run(self) -> None:
        """Begins a new run, unless nothing has happened in the present one."""
        with self._lock:
            if self._session is not None and self._used:
                self._guarded(self._session.begin_run)
                self._used = False

    def execute(self, code: str, variables: dict[str, Any], on_tool: OnTool) -> Done:
        """As :meth:`Session.execute`, with the tools brought up to date first."""
        session = self.session
        self._used = True
        if self._sent != self._tools:
            self._guarded(session.set_tools, self._tools)
            self._sent = list(self._tools)
        try:
            done: Done = self._guarded(session.execute, code, variables, on_tool)
            return done
        finally:
            if session.lost:
                with self._lock:
                    self._session = self._sent = None

    def decide(self, action: str, resource: str, args: dict[str, Any], **package: str) -> Any:
        """As :meth:`Session.decide`."""
        session = self.session
        self._used = True
        return self._guarded(session.decide, action, resource, args, **package)

    def outcome(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`Session.outcome`."""
        self.session.outcome(*args, **kwargs)

    def cancel(self) -> None:
        """Cancels the execution under way."""
        session = self._session
        if session is not None:
            session.cancel()

    def close(self) -> None:
        """Ends the session; a later use opens another."""
        with self._lock:
            session, self._session = self._session, None
            self._sent = None
        if session is not None:
            session.close()

    def _guarded(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Forgets a session that the gate no longer knows, so that the next use opens another."""
        try:
            return call(*args, **kwargs)
        except Refused as fault:
            if fault.status != 404:
                raise
            with self._lock:
                self._session = self._sent = None
            raise GateUnavailable(
                "the gate no longer knows this session (was the sidecar restarted?); its variables are gone. "
                "The next step begins a new session."
            ) from fault
