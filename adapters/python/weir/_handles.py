"""Handles: host objects that a guest may name but not see."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Any, Callable

from ._errors import HandleError

MAX_HANDLES = 10_000
"""Host objects that a guest can hold at a time; the oldest is revoked beyond that."""


class Handles:
    """Host objects that a guest may name but not see.

    An id is 128 random bits of this instance, so it can be neither guessed nor taken from another
    agent's table; it is bound to the type that it was given out with, and it can be revoked.
    """

    def __init__(self, describe: Callable[[Any], str] | None = None, limit: int = MAX_HANDLES) -> None:
        self._describe = describe or summary
        self._limit = limit
        self._objects: OrderedDict[str, tuple[Any, str]] = OrderedDict()
        self._ids: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._objects)

    def add(self, value: Any) -> Any:
        """The tagged handle of ``value``; the same object keeps the same id."""
        kind = type_name(value)
        with self._lock:
            known = self._ids.get(id(value))
            key = known if known is not None else secrets.token_hex(16)
            self._objects[key] = (value, kind)
            self._objects.move_to_end(key)
            self._ids[id(value)] = key
            while len(self._objects) > self._limit:
                _, (old, _) = self._objects.popitem(last=False)
                self._ids.pop(id(old), None)
        return {"$": ["handle", key, kind, clip(self._describe(value), 200)]}

    def resolve(self, key: str, kind: str, _text: str = "") -> Any:
        """The object behind a handle.

        Raises:
            HandleError: the id was never given out, was revoked, or belongs to another type.
        """
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise HandleError("this handle is unknown or no longer valid; ask the tool for the object again")
        if found[1] != kind:
            raise HandleError("this handle belongs to an object of another type")
        return found[0]

    def revoke(self, value: Any) -> None:
        """Makes the handle of ``value`` invalid; nothing happens if it has none."""
        with self._lock:
            key = self._ids.pop(id(value), None)
            if key is not None:
                self._objects.pop(key, None)

    def clear(self) -> None:
        """Makes every handle invalid."""
        with self._lock:
            self._objects.clear()
            self._ids.clear()


def type_name(value: Any) -> str:
    """The dotted name of a value's type, bounded."""
    cls = type(value)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return clip(name, 120)


def summary(value: Any) -> str:
    """What a guest is shown of a host object.

    Not its ``repr``: that is the host's code and often prints what should stay there (addresses,
    keys). A size or shape of plain integers is harmless and useful, so it is shown.
    """
    parts = [type_name(value)]
    for name in ("size", "shape"):
        try:
            extent = getattr(value, name, None)
        except Exception:  # noqa: BLE001 - a property of a foreign object may do anything
            continue
        if type(extent) is tuple and extent and len(extent) <= 8 and all(type(n) is int for n in extent):
            parts.append(f"{name}={extent}")
    return f"<host object {' '.join(parts)}>"


def clip(text: str, most: int) -> str:
    """At most ``most`` characters of ``text`` without control characters or lone surrogates."""
    clean = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return clean if len(clean) <= most else clean[: most - 1] + "…"
