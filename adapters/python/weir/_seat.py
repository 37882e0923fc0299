"""One agent's place at the gate: a session that is opened when first needed and can be reopened.

The executor, the model and the tool calls of one agent share a seat, and so one session, its budgets
and its policy. An agent that it manages has a seat below: a session of its own, with variables of its
own, that works for the session above and spends from the same accounts.
"""

from __future__ import annotations

import threading
from typing import Any, Mapping

from ._errors import GateUnavailable, Refused
from ._session import Done, OnTool, Session, ToolSpec
from ._sidecar import Gate

GONE = (
    "the gate no longer knows this session (was the sidecar restarted?); its variables are gone. "
    "The next step begins a new session."
)


class Seat:
    """A seat at ``gate``, or that of the agent ``name`` below ``parent``."""

    def __init__(self, gate: Gate, parent: Seat | None = None, name: str | None = None) -> None:
        self.gate = gate
        self.parent = parent
        self.name = name
        self._openings = 0
        self._tools: list[ToolSpec] = []
        self._sent: list[ToolSpec] | None = None
        self._session: Session | None = None
        self._above: str | None = None
        self._used = False
        self._lock = threading.RLock()

    @property
    def session(self) -> Session:
        """The session; opened when there is none, and anew when the one above was opened anew."""
        with self._lock:
            above = self.parent.session.id if self.parent is not None else None
            if self._session is None or self._above != above:
                self._session = self._open(above)
                self._above = above
                self._sent = list(self._tools)
                self._used = False
                self._openings += 1
            return self._session

    def open(self) -> int:
        """Opens the session when there is none; how many have been opened, so that a new one is noticed."""
        with self._lock:
            _ = self.session
            return self._openings

    def _open(self, above: str | None) -> Session:
        try:
            return Session.open(self.gate.client, self._tools, above, self.name)
        except Refused as fault:
            if self.parent is None or fault.status != 404:
                raise
            self.parent.forget()
            raise GateUnavailable(GONE) from fault

    def rejoin(self, saved: Mapping[str, Any]) -> bool:
        """Takes up a session that :meth:`Session.saved` described; false when the gate no longer has it."""
        session = Session.rejoin(self.gate.client, saved, self._tools)
        if session is None:
            return False
        with self._lock:
            self._session, self._sent = session, list(self._tools)
            self._used = True
            self._openings += 1
        return True

    def saved(self) -> dict[str, Any] | None:
        """The session as :meth:`rejoin` takes it; ``None`` when none is open."""
        session = self._session
        return session.saved() if session is not None else None

    def forget(self) -> None:
        """Takes the session for ended: the next use opens another."""
        with self._lock:
            self._session = self._sent = None

    @property
    def is_open(self) -> bool:
        """True while there is a session."""
        return self._session is not None

    def set_tools(self, tools: list[ToolSpec]) -> None:
        """What generated code shall see from the next execution on."""
        self._tools = tools

    def begin_run(self) -> None:
        """Begins a new run, unless nothing has happened in the present one. Below another seat it does
        nothing: what is done there belongs to the run above."""
        with self._lock:
            if self.parent is None and self._session is not None and self._used:
                self._guarded(self._session.begin_run)
                self._used = False

    def execute(self, code: str, variables: dict[str, Any], on_tool: OnTool, language: str | None = None) -> Done:
        """As :meth:`Session.execute`, with the tools brought up to date first."""
        session = self.session
        self._used = True
        if self._sent != self._tools:
            self._guarded(session.set_tools, self._tools)
            self._sent = list(self._tools)
        try:
            done: Done = self._guarded(session.execute, code, variables, on_tool, language)
            return done
        finally:
            if session.lost:
                self.forget()

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
            self.forget()
            raise GateUnavailable(GONE) from fault
