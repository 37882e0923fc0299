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
from sources import cache, source

from weir.autogen import GateCodeExecutor, GateCodeResult

ADDRESS: list[str] = []
"""The address of the gate, once it runs."""

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


def cases(name: str, words: dict[bytes, bytes] | None = None) -> dict[str, Any]:
    """The test functions of one file of upstream's, if need be with other words in the place of some."""
    _, text = source(name)
    for old, new in (words or {}).items():
        assert old in text
        text = text.replace(old, new)
    file = cache() / "autogen-0.7.5" / name
    if not words:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)  # For tracebacks.
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
