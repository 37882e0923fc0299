"""What can go wrong between an agent's host and its gate, as exceptions.

Everything is a :class:`GateError` and costs an agent loop one step at most. The one exception to
that is :class:`GateStopped`, which no loop can catch by accident: it ends the run.
"""

from __future__ import annotations


class GateError(Exception):
    """Base of every error of this package."""


class GateUnavailable(GateError):
    """The sidecar could not be started, is gone, or did not answer in time. Nothing is allowed then."""


class ProtocolError(GateError):
    """The other side sent something that the protocol does not permit."""


class WireError(ProtocolError):
    """A value that cannot cross, or that crossed in a form that the protocol does not permit."""


class HandleError(WireError):
    """A handle that this host did not give out, gave out as another type, or has revoked."""


class Refused(GateError):
    """The sidecar refused a request as such (wrong token, malformed, wrong state).

    ``status`` is the HTTP status, ``code`` the reason code of the gate.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"the gate refused the request ({status} {code}): {message}")
        self.status = status
        self.code = code


class PermissionDenied(GateError):
    """The policy denied a call. The text is the gate's own, for a person or a model to read.

    ``reason`` is its code, as in the receipt (``import_denied``, ``approval_unavailable``, …).
    """

    def __init__(self, text: str, receipt: str | None = None, reason: str | None = None) -> None:
        super().__init__(text)
        self.receipt = receipt
        self.reason = reason


class Exhausted(PermissionDenied):
    """A budget or a limit of the policy ended the execution."""


class SandboxBroken(GateError):
    """The sandbox could not start or broke; it was not the program's doing."""


class Interrupted(GateError):
    """The execution was cancelled by ``interrupt()``."""


class PolicyError(GateError):
    """A profile or a policy could not be turned into a running gate."""


class CoverageError(GateError):
    """``wrap`` found something that it could not put behind the gate. ``problems`` lists all of it."""

    def __init__(self, problems: list[str]) -> None:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(
            f"the agent cannot be put behind the gate; nothing was changed:\n{lines}\n"
            "Fix these, or pass strict=False to leave them open (weir.report(agent) then lists them)."
        )
        self.problems = problems


class GateStopped(BaseException):
    """The kill switch: ends the whole run of the agent.

    It derives from ``BaseException`` because an agent loop turns every ``Exception`` into one more
    step and asks the model to try again.
    """
