"""Loading a tool from the Hub: first the gate, then the bytes of exactly one revision.

The code of a tool runs in this process when it is loaded. So a revision that can move is refused, the
registry section of the policy decides, and what was downloaded is what is executed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Callable

from ._errors import GateError, PermissionDenied
from ._seat import Seat
from ._sidecar import Gate

REGISTRY = "hub"
"""The registry section of derived policies that pins Spaces."""
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def load_tool(
    repo: str,
    revision: str,
    *,
    gate: Gate | None = None,
    agent: Any = None,
    sha256: str | None = None,
    registry: str = REGISTRY,
    token: str | None = None,
    trust_remote_code: bool = False,
    download: Callable[..., str] | None = None,
    **options: Any,
) -> Any:
    """Loads the tool of a Space at one commit, if the policy pins it.

    Args:
        repo: ``owner/name`` of the Space.
        revision: the commit, 40 hexadecimal digits. Branches and tags move and are refused.
        gate, agent: exactly one: a gate, or a wrapped agent whose gate is asked.
        sha256: digest of ``tool.py``; compared with the policy's pin and with what was downloaded.
        registry: the policy's section that pins Spaces.
        token: for a private Space.
        trust_remote_code: must be ``True``, as with smolagents: the tool's code runs in this process.
        download: in place of ``huggingface_hub.hf_hub_download``.
        options: passed to the tool's class. The revision is not, unlike with smolagents' own loader,
            where a pinned tool with an ``__init__`` of its own cannot be loaded.

    Raises:
        PermissionDenied: the policy has no such pin.
        GateError: a mutable revision, other bytes than pinned, or no gate.
    """
    if not COMMIT.fullmatch(revision):
        raise GateError(f"revision {revision[:60]!r} can move; name a commit of 40 hexadecimal digits")
    if not trust_remote_code:
        raise GateError(
            "a tool's code runs in this process when it is loaded: pass trust_remote_code=True to accept that"
        )
    digest = None
    if sha256 is not None:
        match = DIGEST.fullmatch(sha256)
        if match is None:
            raise GateError("sha256 has 64 hexadecimal digits")
        digest = match.group(1)
    seat, ours = seat_of(gate, agent)
    try:
        package = {"registry": registry, "revision": revision}
        if digest:
            package["digest"] = f"sha256:{digest}"
        admission = seat.decide("package.fetch", repo, {}, **package)
        try:
            tool = fetch(repo, revision, digest, token, download, options)
        except Exception:
            seat.outcome(admission, "failed")
            raise
        except BaseException:
            seat.outcome(admission, "unknown")
            raise
        seat.outcome(admission, "done", digest=f"sha256:{digest}" if digest else None)
        return tool
    finally:
        if ours:
            seat.close()


def seat_of(gate: Gate | None, agent: Any) -> tuple[Seat, bool]:
    if (gate is None) == (agent is None):
        raise GateError("name exactly one of gate= and agent=")
    if gate is not None:
        return Seat(gate), True
    executor = vars(agent).get("_weir_executor")
    if executor is None:
        raise GateError("this agent is not wrapped")
    return executor.seat, False


def fetch(
    repo: str,
    revision: str,
    digest: str | None,
    token: str | None,
    download: Callable[..., str] | None,
    options: dict[str, Any],
) -> Any:
    from smolagents import Tool

    if download is None:
        from huggingface_hub import hf_hub_download

        download = hf_hub_download
    path = download(repo, "tool.py", repo_type="space", revision=revision, token=token)
    raw = Path(path).read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if digest is not None and found != digest:
        raise PermissionDenied(
            f"[weir] denied package {repo}: its tool.py has sha256 {found}, not the pinned one.\nDo not retry."
        )
    return Tool.from_code(raw.decode("utf-8"), **options)
