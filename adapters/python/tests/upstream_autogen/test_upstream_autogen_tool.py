"""Autogen's own cases for PythonCodeExecutionTool, against :class:`weir.autogen.GateCodeExecutor` and the real sidecar.

``WEIR_UPSTREAM=1 pytest tests/upstream_autogen`` downloads them (pinned by hash); ``AUTOGEN_SOURCE`` names a checkout.
"""

from __future__ import annotations

import pytest
from sources import enabled

UPSTREAM = "test_python_code_executor_tool.py"

if not enabled():
    pytest.skip("set WEIR_UPSTREAM=1 or AUTOGEN_SOURCE to run upstream's cases", allow_module_level=True)

from substitutes import cases  # noqa: E402
from waivers import waivers  # noqa: E402

globals().update(cases(UPSTREAM))


def test_every_case_of_upstream_is_here(request: pytest.FixtureRequest) -> None:
    ours = [item for item in request.session.items if item.path == request.path]
    assert len(ours) - 2 == 2


def test_every_waiver_names_a_case(request: pytest.FixtureRequest) -> None:
    named = {case.split("::")[1] for case in waivers() if case.startswith(f"{UPSTREAM}::")}
    assert named <= {item.originalname for item in request.session.items if item.path == request.path}
