"""Tagged values: Python objects to JSON and back (docs/protocol.md).

Whatever JSON cannot say is `{"$": [tag, …]}`. Nothing is ever pickled. The gate checks every message again;
the bounds here only make the errors readable.
"""

import base64
import datetime
import decimal
import fractions
from json.decoder import JSONDecoder
from json.encoder import JSONEncoder, c_make_encoder, encode_basestring
import math
import pathlib
import sys
import uuid

DEPTH = 56  # JSON levels; the gate's own limit is 64
NODES = 400_000
SAFE_INT = (1 << 53) - 1
INT_BITS = 4_000_000
REPR_CHARS = 10_000

# Made once: `json.dumps` and `json.loads` prepare anew and look for white space at each call.
_chunks = c_make_encoder(None, JSONEncoder().default, encode_basestring, None, ": ", ", ", False, False, False)
_scan = JSONDecoder().scan_once


class Uncrossable(TypeError):
    """A value that cannot leave the sandbox."""

    __module__ = "builtins"  # Where a traceback names no module.


class HostObject:
    """An object that stays on the host. It can be passed back to tools and nothing else."""

    __slots__ = ("_id", "_type", "_text")

    def __init__(self, identity, type_name, text):
        self._id, self._type, self._text = identity, type_name, text

    def __repr__(self):
        return f"<host object {self._type}: {self._text}>"

    def __eq__(self, other):
        return isinstance(other, HostObject) and self._id == other._id

    def __hash__(self):
        return hash(self._id)

    def __getattr__(self, name):
        raise AttributeError(
            f"a host object ({self._type}) has no attributes in the sandbox; pass it to a tool that takes it"
        )

    def __reduce_ex__(self, protocol):
        raise TypeError("a host object cannot be pickled")


def repr_of(value, limit=REPR_CHARS):
    """`repr(value)`, cut; never raises an `Exception`. A class that only says `__str__` is shown by that."""
    kind = type(value)
    try:
        text = str(value) if kind.__repr__ is object.__repr__ and kind.__str__ is not object.__str__ else repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}…"


def _tag(*parts):
    return {"$": list(parts)}


def _base64(data):
    return base64.b64encode(data).decode("ascii")


def _whole(text):
    """True when UTF-8 can say the text."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _digits(number):
    """Decimal digits of an int of any size."""
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return str(int(number))
    finally:
        sys.set_int_max_str_digits(usual)


def _seconds(span):
    micro = (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
    sign, micro = ("-", -micro) if micro < 0 else ("", micro)
    return f"{sign}{micro // 1_000_000}.{micro % 1_000_000:06d}"


# Leaves that travel as one text. `datetime` stands before `date`, whose subclass it is.
_TEXTS = (
    (datetime.datetime, "datetime", lambda v: v.isoformat()),
    (datetime.date, "date", lambda v: v.isoformat()),
    (datetime.time, "time", lambda v: v.isoformat()),
    (datetime.timedelta, "timedelta", _seconds),
    (decimal.Decimal, "decimal", str),
    (fractions.Fraction, "fraction", lambda v: f"{_digits(v.numerator)}/{_digits(v.denominator)}"),
    (uuid.UUID, "uuid", str),
    (pathlib.PurePath, "path", str),
    (bytearray, "bytearray", _base64),
    (bytes, "bytes", _base64),
)


class Encoder:
    """Encodes one message. With `lossy`, what cannot cross becomes its repr instead of an error."""

    def __init__(self, lossy):
        self.lossy = lossy
        self.nodes = 0
        self.open = set()

    def encode(self, value, depth=1):
        self.nodes += 1
        if self.nodes > NODES:
            raise Uncrossable(f"more than {NODES} elements cannot cross in one value")
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return str(value) if _whole(value) else _tag("str", _base64(value.encode("utf-8", "surrogatepass")))
        if isinstance(value, int):
            return self.integer(int(value))
        if isinstance(value, float):
            return self.float(float(value))
        if isinstance(value, complex):
            return _tag("complex", [self.float(value.real), self.float(value.imag)])
        if isinstance(value, HostObject):
            return _tag("handle", value._id, value._type, value._text)
        for kind, name, text in _TEXTS:
            if isinstance(value, kind):
                return _tag(name, text(value))
        return self.container(value, depth)

    @staticmethod
    def integer(value):
        if -SAFE_INT <= value <= SAFE_INT:
            return value
        if value.bit_length() > INT_BITS:
            raise Uncrossable(f"an integer of {value.bit_length()} bits is too large to cross")
        return _tag("int", _digits(value))

    @staticmethod
    def float(value):
        if math.isfinite(value):
            return value
        return _tag("float", "nan" if math.isnan(value) else "inf" if value > 0 else "-inf")

    def container(self, value, depth):
        if not isinstance(value, (list, tuple, set, frozenset, dict)):
            return self.foreign(value, "is no plain data")
        if id(value) in self.open:
            return self.foreign(value, "contains itself")
        if depth > DEPTH:
            return self.foreign(value, "is nested too deeply")
        self.open.add(id(value))
        try:
            return self.items(value, depth)
        finally:
            self.open.discard(id(value))

    def items(self, value, depth):
        if isinstance(value, list):
            return [self.encode(item, depth + 1) for item in value]
        if isinstance(value, dict):
            if all(isinstance(key, str) and key != "$" and _whole(key) for key in value):
                return {str(key): self.encode(item, depth + 1) for key, item in value.items()}
            return _tag("dict", [[self.encode(k, depth + 5), self.encode(v, depth + 5)] for k, v in value.items()])
        name = "tuple" if isinstance(value, tuple) else "set" if isinstance(value, set) else "frozenset"
        return _tag(name, [self.encode(item, depth + 4) for item in value])

    def foreign(self, value, why):
        if self.lossy:
            return _tag("repr", type(value).__name__, _printable(repr_of(value)))
        raise Uncrossable(f"a value of type {type(value).__name__} cannot cross to the host: it {why}")


def _printable(text):
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _json(value):
    return "".join(_chunks(value, 0))


def _direct(value):
    """The JSON text of plain leaves, alone or in one list or dict, as the encoder would write it; None for the rest."""
    kind = type(value)
    if kind is dict:
        if "$" in value or any(type(key) is not str for key in value):
            return None
        items = value.values()
    else:
        items = value if kind is list else (value,)
    for item in items:
        kind = type(item)
        if kind is int:
            if not -SAFE_INT <= item <= SAFE_INT:
                return None
        elif kind is not str and item is not None and kind is not bool and kind is not float:
            return None
    if len(items) > NODES - 1:
        return None
    try:
        text = _json(value)
    except ValueError:  # Not a finite number.
        return None
    return text if _whole(text) else None


def parse(text):
    """The members of a JSON object from the gate, decoded."""
    members = _scan(text, 0)[0]
    # Without a tag there is nothing to decode.
    return {name: decode(value) for name, value in members.items()} if '"$"' in text else members


def pack(value, limit):
    """The JSON text of a call's arguments, or `Uncrossable`."""
    text = _direct(value)
    if text is None:
        text = _json(Encoder(lossy=False).encode(value))
    size = len(text) if text.isascii() else len(text.encode("utf-8"))
    if size > limit:
        raise Uncrossable(f"{size} bytes of arguments are over the limit of {limit} bytes; pass less")
    return text


def pack_result(value, limit):
    """The JSON text of a result and whether it had to be replaced by its cut repr."""
    try:
        text = _direct(value)
        if text is None:
            text = _json(Encoder(lossy=True).encode(value))
        if (len(text) if text.isascii() else len(text.encode("utf-8"))) <= limit:
            return text, False
    except (Uncrossable, RecursionError):
        pass
    shown = _printable(repr_of(value, max(1, min(REPR_CHARS, limit // 8))))
    return _json(_tag("repr", type(value).__name__[:100], shown)), True


_LEAVES = {
    "int": lambda text: _integer(text),
    "float": float,
    "str": lambda text: base64.b64decode(text).decode("utf-8", "surrogatepass"),
    "bytes": base64.b64decode,
    "bytearray": lambda text: bytearray(base64.b64decode(text)),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda text: datetime.timedelta(microseconds=int(decimal.Decimal(text).scaleb(6))),
    "decimal": decimal.Decimal,
    "fraction": fractions.Fraction,
    "uuid": uuid.UUID,
    "path": pathlib.PurePosixPath,
    "complex": lambda parts: complex(decode(parts[0]), decode(parts[1])),
}

_GROUPS = {"tuple": tuple, "set": set, "frozenset": frozenset}


def _integer(text):
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return int(text)
    finally:
        sys.set_int_max_str_digits(usual)


def decode(value):
    """The Python object of a decoded JSON value."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"$"}:
        return {key: decode(item) for key, item in value.items()}
    name, *parts = value["$"]
    if name in _LEAVES:
        return _LEAVES[name](parts[0])
    if name in _GROUPS:
        return _GROUPS[name](decode(item) for item in parts[0])
    if name == "dict":
        return {decode(key): decode(item) for key, item in parts[0]}
    if name == "handle":
        return HostObject(*parts)
    if name == "repr":
        return parts[1]
    raise ValueError(f"unknown value tag {name!r}")
