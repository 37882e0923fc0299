"""Runs a file of upstream's tests with :class:`GateCodeExecutor` in the place of autogen's own executors.

The substitutes take the arguments of those that they stand for and drop what the gate has no place for: a working
folder and a kernel's name. What a case asserts is not touched.
"""

from __future__ import annotations

import sys
import types
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import autogen_ext.code_executors.local as local
import pytest
from sources import cache, source

from weir import Sidecar
from weir._sidecar import derive
from weir.autogen import GateCodeExecutor, GateCodeResult

ADDRESS: list[str] = []
"""The address of the gate, once it runs."""

PROFILE = Path(__file__).resolve().parents[4] / "policies" / "profiles" / "autogen.toml"

WAIVERS = Path(__file__).with_name("waivers.txt")

JUPYTER = "autogen_ext.code_executors.jupyter"


class LocalSubstitute(GateCodeExecutor):
    """In the place of ``LocalCommandLineCodeExecutor``."""

    def __init__(self, timeout: int = 60, work_dir: Any = None, **_: Any) -> None:
        super().__init__(sidecar=ADDRESS[0], timeout=timeout)


class JupyterSubstitute(GateCodeExecutor):
    """In the place of ``JupyterCodeExecutor``, which raises when the time is over."""

    component_provider_override = f"{__name__}.JupyterSubstitute"

    def __init__(self, timeout: int = 60, output_dir: Any = None, **_: Any) -> None:
        super().__init__(sidecar=ADDRESS[0], timeout=timeout, raise_on_timeout=True)


def jupyter_result(exit_code: int, output: str, output_files: list[Path]) -> GateCodeResult:
    """In the place of ``JupyterCodeResult``: the gate's result has no files, so a case that expects some fails."""
    assert output_files == []
    return GateCodeResult(exit_code, output)


def waivers(name: str) -> dict[str, str]:
    """The waived cases of one file of upstream's, with their reasons."""
    rows = [row.split(" = ", 1) for row in WAIVERS.read_text("utf-8").splitlines() if row.startswith(f"{name}::")]
    return {case.split("::")[1]: reason for case, reason in rows}


def cases(name: str) -> dict[str, Any]:
    """The test functions of one file of upstream's; the waived ones must fail."""
    _, text = source(name)
    file = cache() / "autogen-0.7.5" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text)  # For tracebacks.
    found, waived = functions(text, file), waivers(name)
    assert waived.keys() <= found.keys(), "a waiver names a case that is not there"
    for case, reason in waived.items():
        found[case] = pytest.mark.xfail(reason=reason, strict=True)(found[case])
    return found


def reworded(name: str, old: bytes, new: bytes) -> dict[str, Any]:
    """The same with other words in the place of some, and nothing waived."""
    path, text = source(name)
    assert old in text
    return functions(text.replace(old, new), Path(path))


def functions(text: bytes, file: Path) -> dict[str, Any]:
    module = types.ModuleType(f"weir_upstream_{file.stem}")
    with substituted():
        exec(compile(text, str(file), "exec"), module.__dict__)
    return {key: value for key, value in vars(module).items() if key.startswith("test_") and callable(value)}


@contextmanager
def substituted() -> Iterator[None]:
    """Autogen's executors are the gate's while a file of upstream's is loaded; it keeps what it imported."""
    jupyter = types.ModuleType(JUPYTER)
    jupyter.JupyterCodeExecutor = JupyterSubstitute  # type: ignore[attr-defined]
    jupyter.JupyterCodeResult = jupyter_result  # type: ignore[attr-defined]
    own, there = local.LocalCommandLineCodeExecutor, sys.modules.get(JUPYTER)
    local.LocalCommandLineCodeExecutor, sys.modules[JUPYTER] = LocalSubstitute, jupyter  # type: ignore[misc]
    try:
        yield
    finally:
        local.LocalCommandLineCodeExecutor = own  # type: ignore[misc]
        if there is None:
            del sys.modules[JUPYTER]
        else:
            sys.modules[JUPYTER] = there


@pytest.fixture(scope="module", autouse=True)
def gate_of_upstream(weir_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One gate for the cases of a file, under the policy of the profile. Several cases import ``sys``, which it does
    not grant; that module is added here and nothing else is changed."""
    folder = tmp_path_factory.mktemp("policy")
    path = derive(PROFILE, {}, [], [], folder)
    text = path.read_text("utf-8")
    assert text.count('"string", "struct",') == 1
    path.write_text(text.replace('"string", "struct",', '"string", "struct", "sys",'), "utf-8")
    with Sidecar(path, agent="upstream") as sidecar, pytest.MonkeyPatch.context() as environment:
        environment.setenv("WEIR_TOKEN_FILE", str(sidecar._folder / "token"))
        environment.delenv("WEIR_TOKEN", raising=False)
        ADDRESS[:] = [sidecar.where]
        yield
        ADDRESS.clear()
