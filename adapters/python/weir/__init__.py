"""Weir for Python agents: a gate in front of everything that an agent does.

``weir.wrap(agent, profile=…)`` puts a smolagents agent behind the gate; ``weir.GateExecutor`` is the
code executor alone. Decisions, budgets, records and scores are the sidecar's, a program of its own;
this package only leads to it, and needs nothing but the standard library until an agent is wrapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._client import Address, Client
from ._errors import (
    CoverageError,
    Exhausted,
    GateError,
    GateStopped,
    GateUnavailable,
    HandleError,
    Interrupted,
    PermissionDenied,
    PolicyError,
    ProtocolError,
    Refused,
    SandboxBroken,
    WireError,
)
from ._hub import load_tool
from ._session import Session
from ._sidecar import Gate, Sidecar, connect
from ._wire import GuestObject

if TYPE_CHECKING:
    from ._executor import CodeError, GateExecutor
    from ._wrap import Coverage, close, report, wrap

__version__ = "0.1.0"

__all__ = [
    "Address",
    "Client",
    "CodeError",
    "Coverage",
    "CoverageError",
    "Exhausted",
    "Gate",
    "GateError",
    "GateExecutor",
    "GateStopped",
    "GateUnavailable",
    "GuestObject",
    "HandleError",
    "Interrupted",
    "PermissionDenied",
    "PolicyError",
    "ProtocolError",
    "Refused",
    "SandboxBroken",
    "Session",
    "Sidecar",
    "WireError",
    "close",
    "connect",
    "load_tool",
    "report",
    "wrap",
]

_NEEDS_SMOLAGENTS = {
    "CodeError": "_executor",
    "GateExecutor": "_executor",
    "Coverage": "_wrap",
    "close": "_wrap",
    "report": "_wrap",
    "wrap": "_wrap",
}


def __getattr__(name: str) -> Any:
    module = _NEEDS_SMOLAGENTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as fault:
        if fault.name != "smolagents":
            raise
        raise ImportError(f"weir.{name} needs smolagents: pip install 'weir[smolagents]'") from fault
