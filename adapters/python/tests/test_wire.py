"""The tagged form: there and back, collisions, hostile input."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import math
import pathlib
import uuid
from typing import Any

import pytest

from weir import GuestObject, HandleError, WireError
from weir._handles import Handles, clip, summary
from weir._json import dumps, loads
from weir._wire import EXACT, decode, encode, encode_or_handle


def refuse(*_: Any) -> Any:
    raise WireError("no objects here")


def round_trip(value: Any) -> Any:
    return decode(loads(dumps(encode(value, refuse))), refuse)


VALUES = [
    None, True, False, "", "text", "über 🎉", 0, -1, EXACT, -EXACT, EXACT + 1, -(10**60), 1.5, -0.0, 1e308, 5e-324,
    [], [1, [2, [3]]], {}, {"a": {"b": None}}, {"$": 1}, {"$": ["int", "5"]}, {"a": {"$": ["handle"]}},
    {1: "a", "1": "b", None: "c", (1, 2): [3]}, {"\ud800": 1}, (), (1, ("a",)), {1, 2}, frozenset({"x"}), {frozenset({1})},
    b"", b"\x00\xff", bytearray(b"ab"), 3 + 4j, "\ud800 lone", "\x00",
    dt.datetime(2026, 11, 21, 5, 4, 3, 7), dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc), dt.date(1, 1, 1),
    dt.time(23, 59, 59, 999999), dt.timedelta(days=-3, microseconds=1), dt.timedelta(0), dt.timedelta.max // 2,
    decimal.Decimal("1.10"), decimal.Decimal("-1E+30"), decimal.Decimal("Infinity"), fractions.Fraction(-1, 3),
    uuid.UUID(int=7), pathlib.Path("/a/b.txt"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_equal_and_of_their_type(value: Any) -> None:
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_json_cannot_say(value: float) -> None:
    assert repr(round_trip([value])) == repr([value])
    assert repr(round_trip(complex(value, 1))) == repr(complex(value, 1))


def test_subclasses_cross_as_their_base() -> None:
    class Colour(enum.IntEnum):
        RED = 1

    class Text(str):
        pass

    point = collections.namedtuple("point", "x y")
    assert round_trip([Colour.RED, Text("t"), point(1, 2)]) == [1, "t", (1, 2)]
    assert type(round_trip(Text("t"))) is str
    assert type(round_trip(collections.OrderedDict(a=1))) is dict


def test_the_form_is_the_protocols() -> None:
    assert encode(10**20, refuse) == {"$": ["int", "1" + "0" * 20]}
    assert encode({"$": 1}, refuse) == {"$": ["dict", [["$", 1]]]}
    assert encode(dt.timedelta(seconds=-90, microseconds=500), refuse) == {"$": ["timedelta", "-89.999500"]}
    assert encode(fractions.Fraction(2, 4), refuse) == {"$": ["fraction", "1/2"]}
    assert encode("\ud800", refuse) == {"$": ["str", "7aCA"]}


HOSTILE = [
    {"$": []}, {"$": ["int"]}, {"$": ["int", 5]}, {"$": ["int", "5", "6"]}, {"$": ["int", "0x10"]}, {"$": ["int", "1_0"]},
    {"$": ["int", "٣"]}, {"$": ["int", "9" * 5000]}, {"$": ["int", "5\n"]}, {"$": ["float", "1.5"]}, {"$": ["float", "NAN"]},
    {"$": ["str", "!!"]}, {"$": ["str", "/w=="]}, {"$": ["bytes", "a"]}, {"$": ["bytes", "YQ==YQ=="]},
    {"$": ["dict", [[1]]]}, {"$": ["dict", [[1, 2], [1, 3]]]}, {"$": ["dict", [[[], 1]]]}, {"$": ["dict", {"a": 1}]},
    {"$": ["set", [[1]]]}, {"$": ["tuple", 1]}, {"$": ["complex", [1]]}, {"$": ["complex", ["1", "2"]]},
    {"$": ["complex", [True, 1]]}, {"$": ["datetime", "yesterday"]}, {"$": ["date", "2026-13-01"]},
    {"$": ["timedelta", "9" * 16]}, {"$": ["timedelta", "1e5"]}, {"$": ["decimal", "1E+9999999999"]},
    {"$": ["decimal", "9" * 5000]}, {"$": ["fraction", "1/0"]}, {"$": ["fraction", "1e999999999"]},
    {"$": ["uuid", "x"]}, {"$": ["pickle", "gASV"]}, {"$": ["eval", "1+1"]}, {"$": "int"}, {"$": ["int", "1"], "x": 1},
    {"$": [["int"], "1"]}, {"$": ["handle", "1", "T", "r"]}, {"$": ["handle", "A" * 32, "T", "r"]}, {"$": ["handle", "a" * 32]},
    {"$": ["repr", "T"]}, 2**60, ["\ud800"], {"\ud800": 1}, {"$": ["set", [{"$": ["decimal", "sNaN"]}]]},
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data)[:40])
def test_hostile_forms_are_refused(data: Any) -> None:
    with pytest.raises(WireError):
        decode(data, refuse)


def test_depth_and_size_are_bounded_both_ways() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(WireError, match="deep"):
        decode(deep, refuse)
    with pytest.raises(WireError, match="deep"):
        encode(deep, refuse)
    with pytest.raises(WireError, match="elements"):
        encode([0] * 500_000, refuse)
    with pytest.raises(WireError, match="bytes"):
        encode("x" * (7 << 20), refuse)
    with pytest.raises(WireError, match="digits"):
        encode(10**5000, refuse)


def test_the_deepest_value_that_leaves_comes_back() -> None:
    deep: Any = (1,)
    for _ in range(17):
        deep = (deep,)
    assert round_trip(deep) == deep
    with pytest.raises(WireError):
        encode((((deep,),),), refuse)


def test_a_value_that_contains_itself_is_refused_not_followed() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(WireError, match="contains itself"):
        encode(loop, refuse)


def test_keys_chosen_to_collide_are_refused() -> None:
    colliding = [{"$": ["int", str((2**61 - 1) * n)]} if n > 1 else 0 for n in range(1, 200)]
    with pytest.raises(WireError, match="same hash"):
        decode({"$": ["set", [*colliding[1:]]]}, refuse)
    assert decode({"$": ["set", list(range(50_000))]}, refuse) == set(range(50_000))


@pytest.mark.parametrize("raw", [
    b"", b"{", b"{} {}", b'{"a":1,"a":2}', b"NaN", b"-Infinity", b"1e400", b"9" * 30, b'"\xff"', b"[" * 100_000,
], ids=lambda raw: raw[:12].decode("latin1"))  # fmt: skip
def test_messages_are_read_strictly(raw: bytes) -> None:
    with pytest.raises(WireError):
        loads(raw)


def test_messages_that_are_too_large_do_not_leave() -> None:
    with pytest.raises(WireError, match="gate takes"):
        dumps({"a": "x" * (9 << 20)})


class Thing:
    def __repr__(self) -> str:
        return "password=hunter2"


class TestHandles:
    def test_an_object_leaves_as_a_handle_and_comes_back_itself(self) -> None:
        handles, thing = Handles(), Thing()
        data = loads(dumps(encode({"x": [thing, thing]}, handles.add)))
        tag = data["x"][0]["$"]
        assert tag[0] == "handle" and len(tag[1]) == 32 and tag[2].endswith("Thing")
        assert decode(data, handles.resolve)["x"] == [thing, thing]
        assert len(handles) == 1

    def test_s19_ids_cannot_be_guessed_retyped_reused_elsewhere_or_kept(self) -> None:
        handles, other, thing = Handles(), Handles(), Thing()
        _, key, kind, _ = handles.add(thing)["$"]
        assert other.add(thing)["$"][1] != key
        for attempt in (lambda: other.resolve(key, kind), lambda: handles.resolve("0" * 32, kind)):
            with pytest.raises(HandleError, match="unknown"):
                attempt()
        with pytest.raises(HandleError, match="another type"):
            handles.resolve(key, "builtins.str")
        handles.revoke(thing)
        with pytest.raises(HandleError):
            handles.resolve(key, kind)
        assert handles.add(thing)["$"][1] != key

    def test_the_table_is_bounded(self) -> None:
        handles = Handles(limit=3)
        first = Thing()
        _, key, kind, _ = handles.add(first)["$"]
        kept = [Thing() for _ in range(3)]
        for thing in kept:
            handles.add(thing)
        assert len(handles) == 3
        with pytest.raises(HandleError):
            handles.resolve(key, kind)

    def test_a_handle_does_not_show_the_objects_repr(self) -> None:
        assert "hunter2" not in str(Handles().add(Thing()))
        assert "size=" in summary(type("Image", (), {"size": (3, 4)})())

    def test_what_is_too_large_or_too_deep_becomes_one_handle(self) -> None:
        handles, big = Handles(), ["x"] * 500_000
        data, note = encode_or_handle(big, handles)
        assert data["$"][0] == "handle" and "elements" in (note or "")
        assert handles.resolve(*data["$"][1:]) is big


def test_a_guests_object_is_only_text() -> None:
    value = decode({"$": ["repr", "socket", "<socket>"]}, refuse)
    assert isinstance(value, GuestObject) and str(value) == "<socket>" and value.type_name == "socket"


def test_clip_keeps_no_control_characters() -> None:
    assert clip("a\x1b[2J\u202eb", 20) == "a [2J b"
    assert len(clip("x" * 99, 10)) == 10
