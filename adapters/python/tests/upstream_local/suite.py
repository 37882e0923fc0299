"""Upstream's ``test_local_python_executor.py``, loaded with the gate in the interpreter's place.

The file comes out of the source archive that ``tests/upstream`` pins by hash. It is executed and never committed.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import tarfile
import tomllib
import types
from pathlib import Path
from typing import Any, Iterator
from unittest.mock import patch

import smolagents.local_python_executor as interpreter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "upstream"))
sys.path.insert(0, str(HERE))
from source import archive, cache  # noqa: E402
from stand_in import REPLACED  # noqa: E402

MEMBER = "smolagents-1.26.0/tests/test_local_python_executor.py"


class Foreign:
    """An array or a table: an object of the host, and no more. The guest has no numpy and no pandas to make another."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


def no_table(result: Any, *_: Any) -> None:
    """Upstream's comparison of tables."""
    raise AssertionError(f"{result!r} is no table")


def libraries() -> dict[str, Any]:
    """In the place of what upstream's file imports at its top and this suite does not install."""
    numpy, pandas = types.ModuleType("numpy"), types.ModuleType("pandas")
    numpy.array = pandas.Series = pandas.DataFrame = Foreign  # type: ignore[attr-defined]
    pandas.testing = types.SimpleNamespace(  # type: ignore[attr-defined]
        assert_series_equal=no_table, assert_frame_equal=no_table
    )
    return {"numpy": numpy, "pandas": pandas}


def load() -> types.ModuleType:
    """The module of upstream's tests."""
    with tarfile.open(archive()) as packed:
        member = packed.extractfile(MEMBER)
        assert member is not None
        source = member.read()
    path = cache() / "test_local_python_executor.py"
    path.write_bytes(source)
    spec = importlib.util.spec_from_file_location("weir_upstream_local", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, libraries()), patch.multiple(interpreter, **REPLACED):
        spec.loader.exec_module(loaded)
    return loaded


class Lists:
    """The reviewed lists of cases (``cases.toml``), as keys."""

    def __init__(self) -> None:
        read = tomllib.loads((HERE / "cases.toml").read_text("utf-8"))
        self.must_pass = expanded(read["must_pass"])
        self.waived: dict[str, dict[str, str]] = {}
        for row in read["waived"]:
            assert row["kind"] and row["reason"] and row["shows"], f"a waiver without its reason: {row}"
            for case in expanded(row["cases"]):
                assert case not in self.waived, f"{case} is waived twice"
                self.waived[case] = row
        self.outside = expanded({name: count for row in read["outside"] for name, count in row["cases"].items()})
        self.security_cases = expanded(read["security"])

    def is_outside(self, name: str) -> bool:
        """Whether the cases of a test run no program."""
        return any(case.split("#")[0] == name for case in self.outside)

    def is_security(self, name: str) -> bool:
        """Whether the cases of a test are attacks."""
        return any(case.split("#")[0] == name for case in self.security_cases)


def expanded(table: dict[str, Any]) -> list[str]:
    """The keys behind a list.

    A test has ``0`` for no parameters, a number for that many rows, or a list of rows; a row of a test with several
    parametrizations is a text such as ``"0.1"``, and ``"2x2"`` is all rows of two with two rows each.
    """
    found: list[str] = []
    for name, rows in table.items():
        if isinstance(rows, str):
            picked: Any = itertools.product(*(range(int(count)) for count in rows.split("x")))
            found += [f"{name}#{'.'.join(map(str, row))}" for row in picked]
        else:
            found += [f"{name}#{row}" for row in (range(rows) if isinstance(rows, int) else rows)] if rows != 0 else [name]
    return found


def functions(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """Upstream's test functions with their names, as ``TestClass::test_name`` or ``test_name``."""
    for name, value in vars(module).items():
        if name.startswith("test_"):
            yield name, value
        elif name.startswith("Test") and isinstance(value, type):
            yield from ((f"{name}::{key}", it) for key, it in vars(value).items() if key.startswith("test_"))


def parametrizations(function: Any) -> list[Any]:
    """The function's ``parametrize`` marks."""
    return [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]


def cases(name: str, function: Any) -> list[str]:
    """The keys of a function's cases: its name, and the number of each parametrization's row."""
    rows = [range(len(mark.args[1])) for mark in parametrizations(function)]
    if not rows:
        return [name]
    return [f"{name}#{'.'.join(map(str, picked))}" for picked in itertools.product(*rows)]


def key(name: str, function: Any, params: dict[str, Any]) -> str:
    """The key of a case that pytest runs with these parameters."""
    marks = parametrizations(function)
    return f"{name}#{'.'.join(str(row(mark, params)) for mark in marks)}" if marks else name


def row(mark: Any, params: dict[str, Any]) -> int:
    """Which row of a parametrization the parameters are."""
    names = [name.strip() for name in mark.args[0].split(",")]
    for number, values in enumerate(mark.args[1]):
        picked = values if len(names) > 1 else (values,)
        if all(params[name] is value for name, value in zip(names, picked, strict=True)):
            return number
    raise AssertionError(f"{params} is no row of {names}")
