"""smolagents' ``test_local_python_executor.py`` with the real gate in the interpreter's place.

``cases.toml`` puts each of upstream's cases on one list. A case of ``must_pass`` passes; a waived one fails, and with
the text that its reason predicts; a case of ``outside`` runs no program and is left out; ``security`` is in
``test_security.py``. A case that stands nowhere fails.

One comparison is relaxed: upstream compares its counter of operations with the variables; the counter is left out.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

if os.environ.get("WEIR_UPSTREAM") != "1":
    pytest.skip("set WEIR_UPSTREAM=1 to download and run upstream's cases", allow_module_level=True)
if sys.version_info < (3, 11):
    pytest.skip("the lists are TOML, which Python reads from 3.11 on", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
from stand_in import GATE, OWN, TOLD, evaluate_python_code  # noqa: E402
from suite import Lists, cases, functions, key, load  # noqa: E402

UPSTREAM = load()
LISTS = Lists()
ACCEPTANCE = ("TestEvaluatePythonCode::", "TestTimeout::", "TestLocalPythonExecutor::")
"""Upstream's classes of cases that hand a program to its executor."""
MADE_ONLY = (
    "TestLocalPythonExecutor::test_additional_authorized_imports_are_installed",
    "TestLocalPythonExecutor::test_state_name",
)
"""Their tests that make an executor and run nothing in it."""


def judged(name: str, function: Any) -> Any:
    """The test with its verdict turned into that of its list."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        case = CURRENT[-1]
        waiver = LISTS.waived.get(case)
        if waiver is None:
            assert case in LISTS.must_pass, f"{case} stands on no list of cases.toml"
            return function(*args, **kwargs)
        TOLD.text = ""
        try:
            function(*args, **kwargs)
        except (Exception, pytest.fail.Exception) as failure:
            text = f"{type(failure).__name__}: {failure}\n{TOLD.text}"
            assert waiver["shows"] in text, f"{case} fails, but not as its waiver says: {text}"
            pytest.xfail(waiver["reason"])
        pytest.fail(f"{case} is waived and passes; put it on the list of must_pass")

    return run


CURRENT: list[str] = []


@pytest.fixture(autouse=True)
def case(request: pytest.FixtureRequest) -> Iterator[None]:
    """Says which case runs, and ends its sessions."""
    node = request.node
    name = f"{node.cls.__name__}::{node.originalname}" if node.cls else node.originalname
    if name in UPSTREAMS:
        params = node.callspec.params if hasattr(node, "callspec") else {}
        CURRENT.append(key(name, node.function, params))
    yield
    GATE.end_case()


@pytest.fixture(scope="module", autouse=True)
def gates(weir_binary: str) -> Iterator[None]:
    yield
    GATE.stop()


def equal_variables(_: Any, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Upstream's comparison of variables, without what its interpreter keeps beside them."""
    assert {k: v for k, v in one.items() if k not in OWN} == {k: v for k, v in other.items() if k not in OWN}


def collect() -> None:
    """Puts upstream's tests where pytest finds them."""
    UPSTREAM.TestEvaluatePythonCode.assertDictEqualNoPrint = equal_variables
    for name, function in list(functions(UPSTREAM)):
        owner, _, method = name.rpartition("::")
        if LISTS.is_security(name):
            continue
        if LISTS.is_outside(name):
            if owner:
                delattr(getattr(UPSTREAM, owner), method)
        elif owner:
            setattr(getattr(UPSTREAM, owner), method, judged(name, function))
            globals()[owner] = getattr(UPSTREAM, owner)
        else:
            globals()[name] = judged(name, function)


UPSTREAMS = dict(functions(UPSTREAM))
ALL = [one for name, function in UPSTREAMS.items() for one in cases(name, function)]
collect()


def test_every_case_of_upstream_stands_on_exactly_one_list() -> None:
    listed = [*LISTS.must_pass, *LISTS.waived, *LISTS.outside, *LISTS.security_cases]
    assert sorted(listed) == sorted(ALL)


def test_enough_of_upstreams_programs_must_pass() -> None:
    running = {case for case in ALL if case.startswith(ACCEPTANCE) and not case.startswith(MADE_ONLY)}
    running -= set(LISTS.outside)
    assert (len(ALL), len(running), len(LISTS.security_cases)) == (399, 165, 82)
    assert len(running & set(LISTS.must_pass)) >= 140


LEFT_OUT = (
    ("y = add_two(x)", {"x": 3}, 5),
    ("i = 0\nwhile i < 3:\n    i += 1\ni", {}, 3),
    ("i, n, loc, at = 0, 7, 30, [0, 7, 22]\nwhile i < len(at) and at[i] <= loc:\n    i += 1\ni", {}, 3),
)
"""The parts of waived cases that their waivers do not speak of."""


@pytest.mark.parametrize(("code", "state", "expected"), LEFT_OUT)
def test_what_the_waivers_do_not_speak_of_passes(code: str, state: dict[str, Any], expected: Any) -> None:
    assert evaluate_python_code(code, {"add_two": lambda x: x + 2}, state=state)[0] == expected


def test_a_loop_without_an_end_is_stopped_by_the_policy() -> None:
    with pytest.raises(Exception, match="fuel was reached"):
        evaluate_python_code("i = 0\nwhile i < 3:\n    i -= 1")
