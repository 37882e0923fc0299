"""What became of code blocks, as exit codes and texts for a model. A refusal's reason comes before everything else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Sequence

from autogen_core.code_executor import CodeResult

from ._blocks import magic_hint, shows_value
from ._host import ERROR_CHARS, cut, error_text
from ._session import Done
from ._wire import GuestObject, decode

FAILED = 1
"""Exit code of a program that raised an error of its own."""
UNAVAILABLE = 69
"""The gate or its sandbox failed; nothing is allowed then."""
TIMEOUT = 124
"""Stopped at a limit of time: ``timeout``, or the policy's on wall time or on computation."""
DENIED = 126
"""Refused by the policy, for want of permission or of budget."""
UNSUPPORTED = 127
"""The block's language does not run here."""
LIMIT = 137
"""Stopped at another limit of the policy, such as memory."""

TIME_LIMITS = ("TimeLimit", "FuelLimit")
"""Kinds of the gate's errors that mean that a program ran for too long."""


@dataclass
class GateCodeResult(CodeResult):
    """A result with what the gate adds to it.

    ``code_file`` is the kept copy of the first block (``code_dir``). ``reason`` is the reason code of a refusal or a
    stop, ``receipts`` the ids of the receipts, one for each block that reached the gate.
    """

    code_file: str | None = None
    reason: str | None = field(default=None, compare=False)
    receipts: list[str] = field(default_factory=list, compare=False)


@dataclass
class Part:
    """What became of one block; ``why`` is a text for the model that comes before all that was printed."""

    exit_code: int
    printed: str = ""
    why: str = ""
    reason: str | None = None
    receipt: str | None = None


def result_of(parts: Sequence[Part], file: str | None, most: int) -> GateCodeResult:
    """The result of several blocks, with at most ``most`` characters of what they printed."""
    last = parts[-1] if parts else Part(0)
    output = cut("\n".join(part.printed for part in parts if part.printed), most)
    if last.why:
        output = f"{last.why.rstrip()}\nPrinted before that:\n{output}" if output else last.why
    return GateCodeResult(
        exit_code=last.exit_code,
        output=output,
        code_file=file,
        reason=last.reason,
        receipts=[part.receipt for part in parts if part.receipt],
    )


def outcome(done: Done, code: str, imports: Sequence[str], notebook: bool = True) -> Part:
    """What became of a program that the gate let end, or refused; ``notebook`` shows the value of a last expression,
    and knows a notebook's commands, as one of Python does."""
    part = Part(0, done.logs, reason=done.reason, receipt=done.receipt)
    kind = (done.error or {}).get("type", "")
    if done.status == "done":
        if notebook and done.output is not None and shows_value(code):
            part.printed = joined(part.printed, repr(decode(done.output, shown)))
    elif done.status == "failed" and kind == "SystemExit":
        part.exit_code, text = exit_status((done.error or {}).get("message", ""))
        part.printed = joined(part.printed, text)
    elif done.status == "failed":
        hint = magic_hint(code, imports) if notebook and kind == "SyntaxError" else None
        part.exit_code = FAILED
        text = joined(cut(error_text(done), ERROR_CHARS), f"[weir] {hint}" if hint else "")
        part.printed = joined(part.printed, text)
    else:
        part.exit_code = stopped_with(done, kind)
        text = cut(done.denial or error_text(done), ERROR_CHARS)
        part.why = f"[weir] Timeout: the program ran for too long.\n{text}" if part.exit_code == TIMEOUT else text
    return part


def stopped_with(done: Done, kind: str) -> int:
    """The exit code of a program that was refused or stopped."""
    if done.status == "broken":
        return UNAVAILABLE
    if done.status == "denied" or done.reason != "limit_reached":
        return DENIED
    return TIMEOUT if kind in TIME_LIMITS else LIMIT


def exit_status(message: str) -> tuple[int, str]:
    """The exit code that ``sys.exit`` asked for, and what it has to say, as a process would have it."""
    if message in ("", "None"):
        return 0, ""
    if re.fullmatch(r"-?[0-9]{1,9}", message):
        return int(message) & 0xFF, ""
    return FAILED, cut(message, ERROR_CHARS)


def joined(first: str, second: str) -> str:
    """Two texts below each other."""
    return f"{first}{'' if first.endswith(chr(10)) else chr(10)}{second}" if first and second else first or second


def shown(_key: str, kind: str, text: str) -> GuestObject:
    """An object of either side, as the program sees it; the host's own ``repr`` stays out of conversations."""
    return GuestObject(kind, text)
