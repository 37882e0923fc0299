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
import math
import pathlib
import re
import uuid
from typing import Any, Callable

from ._errors import HandleError, WireError
from ._handles import Handles, clip

MAX_DEPTH = 56
"""Nesting of one value in JSON; eight levels under the gate's bound, for the message around it."""
MAX_NODES = 400_000
"""Values and keys of one value."""
MAX_VALUE_BYTES = 6 << 20
"""UTF-8 bytes of the text and bytes in one value; the gate takes messages of 8 MiB."""
MAX_DIGITS = 4_300
"""Decimal digits of one integer; CPython's own bound on conversion."""
MAX_EQUAL_HASHES = 32
"""Keys of one set or dict with the same hash; more is an attack on the hash table."""

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

    def mapping(self, value: dict[Any, Any], level: int) -> Json:
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

    def tagged(self, data: dict[str, Any], level: int) -> Any:
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

    def container(self, kind: str, items: list[Any], level: int) -> Any:
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
        made: set[Any] | frozenset[Any] = set(values) if kind == "set" else frozenset(values)
        return made

    def mapping(self, rows: list[Any], level: int) -> dict[Any, Any]:
        if not all(isinstance(row, list) and len(row) == 2 for row in rows):
            raise WireError("a tagged dict has pairs")
        keys = [self.value(row[0], level + 4) for row in rows]
        hashable(keys)
        made = {key: self.value(row[1], level + 4) for key, row in zip(keys, rows, strict=True)}
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


def texts(rest: list[Any], count: int) -> list[str]:
    if len(rest) != count or not all(isinstance(part, str) for part in rest):
        raise WireError(f"this tag has {count} strings")
    return [checked(part) for part in rest]


def hashable(values: list[Any]) -> None:
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


def matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
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
