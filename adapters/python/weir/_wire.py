"""Tagged values: how Python values cross between the host, the gate and the guest as JSON.

The form is that of ``docs/protocol.md``: plain JSON where JSON can say it, otherwise an object with
the single key ``$``. What arrives was chosen by a guest and is hostile: every shape is checked, every
text is matched before it is parsed, size and depth are bounded, and nothing is unpickled or evaluated.
What leaves never fails on a strange object: it leaves as a handle and the object stays here.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import decimal
import fractions
import json
import math
import pathlib
import re
import secrets
import threading
import uuid
from collections import OrderedDict
from typing import Any, Callable

from ._errors import HandleError, WireError

MAX_DEPTH = 56
"""Nesting of one value in JSON; eight levels under the gate's bound, for the message around it."""
MAX_NODES = 400_000
"""Values and keys of one value."""
MAX_VALUE_BYTES = 6 << 20
"""UTF-8 bytes of the text and bytes in one value; the gate takes messages of 8 MiB."""
MAX_MESSAGE_BYTES = 8 << 20
"""Bytes of one message."""
MAX_DIGITS = 4_300
"""Decimal digits of one integer; CPython's own bound on conversion."""
MAX_EQUAL_HASHES = 32
"""Keys of one set or dict with the same hash; more is an attack on the hash table."""
MAX_HANDLES = 10_000
"""Host objects that a guest can hold at a time; the oldest is revoked beyond that."""

EXACT = 2**53 - 1
"""Largest integer that every JSON reader keeps exact."""

Json = Any
Opaque = Callable[[Any], Json]
Resolve = Callable[[str, str, str], Any]


class GuestObject:
    """Stands for an object that stayed in the guest: its type and its ``repr``, nothing else."""

    __slots__ = ("type_name", "text")

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text

    def __repr__(self) -> str:
        return self.text


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

    def add(self, value: Any) -> Json:
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


# -- out ----------------------------------------------------------------------------------------


class _Encoder:
    def __init__(self, opaque: Opaque) -> None:
        self.opaque = opaque
        self.nodes = 0
        self.bytes = 0

    def value(self, value: Any, level: int) -> Json:
        self.count(level)
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return self.text(str.__str__(value))
        if isinstance(value, int):
            return self.integer(int(value))
        if isinstance(value, float):
            return real(float(value))
        if isinstance(value, dict):
            return self.mapping(value, level)
        if isinstance(value, list):
            return [self.value(item, level + 1) for item in value]
        for kind, cls in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
            if isinstance(value, cls):
                return {"$": [kind, [self.value(item, level + 3) for item in value]]}
        return self.special(value, level)

    def special(self, value: Any, level: int) -> Json:
        if isinstance(value, (bytes, bytearray)):
            self.size(len(value) * 4 // 3)
            kind = "bytes" if isinstance(value, bytes) else "bytearray"
            return {"$": [kind, base64.b64encode(value).decode("ascii")]}
        if type(value) is complex:
            return {"$": ["complex", [real(value.real), real(value.imag)]]}
        writer = WRITERS.get(type(value))
        if writer is not None:
            return {"$": [writer[0], self.plain(writer[1](value))]}
        if isinstance(value, pathlib.PurePath):
            return {"$": ["path", self.plain(str(value))]}
        scalar = unwrap_scalar(value)
        if scalar is not None:
            return self.value(scalar, level)
        return self.opaque(value)

    def mapping(self, value: dict, level: int) -> Json:
        if all(isinstance(key, str) and key != "$" and encodable(key) for key in value):
            for key in value:
                self.count(level)
                self.size(len(key))
            return {str.__str__(key): self.value(item, level + 1) for key, item in value.items()}
        rows = [[self.value(key, level + 4), self.value(item, level + 4)] for key, item in value.items()]
        return {"$": ["dict", rows]}

    def text(self, text: str) -> Json:
        self.size(len(text))
        if encodable(text):
            return text
        raw = text.encode("utf-8", "surrogatepass")
        return {"$": ["str", base64.b64encode(raw).decode("ascii")]}

    def plain(self, text: str) -> str:
        self.size(len(text))
        if not encodable(text):
            raise WireError("a text inside this value is not Unicode and cannot cross")
        return text

    @staticmethod
    def integer(value: int) -> Json:
        if -EXACT <= value <= EXACT:
            return value
        if value.bit_length() > MAX_DIGITS * 3.3:
            raise WireError(f"an integer of more than {MAX_DIGITS} digits cannot cross")
        return {"$": ["int", str(value)]}

    def count(self, level: int) -> None:
        self.nodes += 1
        if level > MAX_DEPTH:
            raise WireError("the value is nested too deeply to cross, or contains itself")
        if self.nodes > MAX_NODES:
            raise WireError(f"the value has more than {MAX_NODES} elements and cannot cross")

    def size(self, count: int) -> None:
        self.bytes += count
        if self.bytes > MAX_VALUE_BYTES:
            raise WireError(f"the value has more than {MAX_VALUE_BYTES} bytes and cannot cross")


def encode(value: Any, opaque: Opaque) -> Json:
    """The tagged form of ``value``; ``opaque`` gives the form of what JSON cannot say.

    Scalars and containers of a subclass cross as their base type. Dates of a subclass do not: they
    often hold more than their base type can.

    Raises:
        WireError: the value is too deep, too large, or contains itself.
    """
    return _Encoder(opaque).value(value, 0)


def encode_or_handle(value: Any, handles: Handles) -> tuple[Json, str | None]:
    """The tagged form of ``value``, and a note when it could only leave as one handle."""
    try:
        return encode(value, handles.add), None
    except WireError as fault:
        return handles.add(value), str(fault)


def real(value: float) -> Json:
    if math.isfinite(value):
        return value
    return {"$": ["float", "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"]}


def encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def unwrap_scalar(value: Any) -> Any:
    """The Python number inside a numpy scalar; ``None`` for everything else."""
    if type(value).__module__ != "numpy" or getattr(value, "shape", None) != ():
        return None
    try:
        plain = value.item()
    except Exception:  # noqa: BLE001 - foreign code
        return None
    return plain if type(plain) in (bool, int, float, complex, str, bytes) else None


def seconds(value: dt.timedelta) -> str:
    micros = value // dt.timedelta(microseconds=1)
    whole, part = divmod(abs(micros), 1_000_000)
    sign = "-" if micros < 0 else ""
    return f"{sign}{whole}.{part:06d}" if part else f"{sign}{whole}"


def fraction(value: fractions.Fraction) -> str:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_DIGITS * 3.3:
        raise WireError(f"a fraction of more than {MAX_DIGITS} digits cannot cross")
    return f"{value.numerator}/{value.denominator}"


WRITERS: dict[type, tuple[str, Callable[[Any], str]]] = {
    dt.datetime: ("datetime", dt.datetime.isoformat),
    dt.date: ("date", dt.date.isoformat),
    dt.time: ("time", dt.time.isoformat),
    dt.timedelta: ("timedelta", seconds),
    decimal.Decimal: ("decimal", str),
    fractions.Fraction: ("fraction", fraction),
    uuid.UUID: ("uuid", str),
}


# -- in -----------------------------------------------------------------------------------------

INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,%d})" % (MAX_DIGITS - 1))
FRACTION = re.compile(r"(-?[0-9]{1,%d})/([0-9]{1,%d})" % (MAX_DIGITS, MAX_DIGITS))
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(E[+-]?[0-9]{1,9})?|-?s?NaN[0-9]{0,20}|-?Infinity")
SECONDS = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,6}))?")
HEX32 = re.compile(r"[0-9a-f]{32}")
UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


class _Decoder:
    def __init__(self, resolve: Resolve) -> None:
        self.resolve = resolve
        self.nodes = 0

    def value(self, data: Json, level: int) -> Any:
        self.nodes += 1
        if level > MAX_DEPTH + 4 or self.nodes > MAX_NODES:
            raise WireError("the value is too deep or too large")
        if data is None or isinstance(data, bool):
            return data
        if isinstance(data, str):
            return checked(data)
        if isinstance(data, int):
            if abs(data) > EXACT:
                raise WireError("a plain number is outside ±(2^53-1)")
            return data
        if isinstance(data, float):
            return data
        if isinstance(data, list):
            return [self.value(item, level + 1) for item in data]
        if "$" not in data:
            return {checked(key): self.value(item, level + 1) for key, item in data.items()}
        return self.tagged(data, level)

    def tagged(self, data: dict, level: int) -> Any:
        body = data["$"]
        if len(data) != 1 or not isinstance(body, list) or not body or not isinstance(body[0], str):
            raise WireError("a tagged value is an object with the single key `$` and a list")
        kind, rest = body[0], body[1:]
        if kind == "handle":
            key, name, text = texts(rest, 3)
            if not HEX32.fullmatch(key):
                raise HandleError("a handle's id is 32 hexadecimal digits")
            return self.resolve(key, name, text)
        if kind == "repr":
            name, text = texts(rest, 2)
            return GuestObject(name, text)
        if kind in ("tuple", "set", "frozenset", "dict", "complex"):
            if len(rest) != 1 or not isinstance(rest[0], list):
                raise WireError(f"a tagged {kind} has one list")
            return self.container(kind, rest[0], level)
        reader = READERS.get(kind)
        if reader is None:
            raise WireError(f"unknown tag `{clip(kind, 20)}`")
        (text,) = texts(rest, 1)
        try:
            return reader(text)
        except (ValueError, ArithmeticError, OverflowError) as fault:
            raise WireError(f"not a tagged {kind}: `{clip(text, 40)}`") from fault

    def container(self, kind: str, items: list, level: int) -> Any:
        if kind == "complex":
            parts = [self.value(item, level + 3) for item in items]
            if len(parts) != 2 or not all(type(part) in (int, float) for part in parts):
                raise WireError("a tagged complex has two numbers")
            return complex(*parts)
        if kind == "dict":
            return self.mapping(items, level)
        values = [self.value(item, level + 3) for item in items]
        if kind == "tuple":
            return tuple(values)
        hashable(values)
        made: set | frozenset = set(values) if kind == "set" else frozenset(values)
        return made

    def mapping(self, rows: list, level: int) -> dict:
        if not all(isinstance(row, list) and len(row) == 2 for row in rows):
            raise WireError("a tagged dict has pairs")
        keys = [self.value(row[0], level + 4) for row in rows]
        hashable(keys)
        made = dict(zip(keys, (self.value(row[1], level + 4) for row in rows)))
        if len(made) != len(rows):
            raise WireError("a tagged dict has a key twice")
        return made


def decode(data: Json, resolve: Resolve) -> Any:
    """The Python value of a tagged form; ``resolve`` gives the object behind a handle.

    Raises:
        WireError: the form is not one of the protocol's, or is over a bound.
    """
    return _Decoder(resolve).value(data, 0)


def checked(text: str) -> str:
    if not encodable(text):
        raise WireError("a plain string has lone surrogates")
    return text


def texts(rest: list, count: int) -> list[str]:
    if len(rest) != count or not all(isinstance(part, str) for part in rest):
        raise WireError(f"this tag has {count} strings")
    return [checked(part) for part in rest]


def hashable(values: list) -> None:
    """Refuses what cannot be a key, and keys chosen to collide."""
    seen: dict[int, int] = {}
    for value in values:
        try:
            key = hash(value)
        except (TypeError, ValueError, ArithmeticError) as fault:
            raise WireError("a member of a set or a key of a dict cannot be hashed") from fault
        count = seen.get(key, 0) + 1
        if count > MAX_EQUAL_HASHES:
            raise WireError("too many keys with the same hash")
        seen[key] = count


def matched(pattern: re.Pattern, text: str) -> re.Match:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(text[:40])
    return found


def read_bytes(text: str) -> bytes:
    matched(BASE64, text)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as fault:
        raise ValueError(str(fault)) from fault


def read_text(text: str) -> str:
    return read_bytes(text).decode("utf-8", "surrogatepass")


def read_integer(text: str) -> int:
    return int(matched(INTEGER, text).group())


def read_float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(text[:40])
    return float(text)


def read_seconds(text: str) -> dt.timedelta:
    sign, whole, part = matched(SECONDS, text).groups()
    micros = int(whole) * 1_000_000 + int((part or "").ljust(6, "0"))
    return dt.timedelta(microseconds=-micros if sign else micros)


def read_fraction(text: str) -> fractions.Fraction:
    numerator, denominator = matched(FRACTION, text).groups()
    return fractions.Fraction(int(numerator), int(denominator))


def read_decimal(text: str) -> decimal.Decimal:
    if len(text) > MAX_DIGITS:
        raise ValueError("too long")
    return decimal.Decimal(matched(DECIMAL, text).group())


READERS: dict[str, Callable[[str], Any]] = {
    "int": read_integer,
    "float": read_float,
    "str": read_text,
    "bytes": read_bytes,
    "bytearray": lambda text: bytearray(read_bytes(text)),
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "timedelta": read_seconds,
    "decimal": read_decimal,
    "fraction": read_fraction,
    "uuid": lambda text: uuid.UUID(matched(UUID_TEXT, text).group()),
    "path": pathlib.Path,
}


# -- messages -----------------------------------------------------------------------------------


def dumps(message: Json) -> bytes:
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


def loads(raw: bytes) -> Json:
    """One message from bytes, strictly: no duplicate keys, no NaN, no infinities, bounded nesting.

    Raises:
        WireError: it is anything else.
    """
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant, parse_float=finite, parse_int=bounded
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
