"""Autogen's own cases for PythonCodeExecutionTool, against :class:`weir.autogen.GateCodeExecutor` and the real sidecar.

``WEIR_UPSTREAM=1 pytest tests/upstream_autogen`` downloads them (pinned by hash); ``AUTOGEN_SOURCE`` names a checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sources import enabled  # noqa: E402

UPSTREAM = "test_python_code_executor_tool.py"

if not enabled():
    pytest.skip("set WEIR_UPSTREAM=1 or AUTOGEN_SOURCE to run upstream's cases", allow_module_level=True)

from substitutes import cases, gate_of_upstream  # noqa: E402, F401

globals().update(cases(UPSTREAM))


def test_every_case_of_upstream_is_here(request: pytest.FixtureRequest) -> None:
    ours = [item for item in request.session.items if item.path == request.path]
    assert len(ours) - 1 == 2
