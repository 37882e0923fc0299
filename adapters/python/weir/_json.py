"""Messages: strict JSON, bounded, both ways."""

from __future__ import annotations

import json
import math
from typing import Any

from ._errors import WireError
from ._handles import clip

MAX_MESSAGE_BYTES = 8 << 20
"""Bytes of one message to the gate."""


def dumps(message: Any) -> bytes:
    """One message as bytes.

    Raises:
        WireError: it is over the bound, or holds something that is not JSON.
    """
    try:
        raw = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as fault:
        raise WireError(f"the message cannot be written as JSON: {clip(str(fault), 80)}") from fault
    if len(raw) > MAX_MESSAGE_BYTES:
        raise WireError(f"the message has {len(raw)} bytes; the gate takes {MAX_MESSAGE_BYTES}")
    return raw


def loads(raw: bytes) -> Any:
    """One message from bytes, strictly: no duplicate keys, no NaN, no infinities, bounded nesting.

    Raises:
        WireError: it is anything else.
    """
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=no_constant,
            parse_float=finite,
            parse_int=bounded,
        )
    except (ValueError, RecursionError) as fault:
        raise WireError(f"the gate's reply is not one JSON value: {clip(str(fault), 80)}") from fault


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("duplicate key")
    return made


def no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return value


def bounded(text: str) -> int:
    if len(text) > 20:
        raise ValueError("number out of range")
    return int(text)
