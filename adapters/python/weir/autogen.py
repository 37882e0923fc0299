"""A code executor for AutoGen (0.7) that runs every block behind the gate.

``CodeExecutorAgent("coder", code_executor=GateCodeExecutor(policy="policy.toml"))`` puts the blocks of a
conversation into the gate's sandbox. docs/autogen.md says what differs from AutoGen's own executors.
"""

from __future__ import annotations

try:
    import autogen_core  # noqa: F401 - named here so that its absence is told apart from a fault in it
except ModuleNotFoundError as fault:
    if fault.name != "autogen_core":
        raise
    raise ImportError("weir.autogen needs autogen-core: pip install 'weir[autogen]'") from fault

from ._code_executor import GateCodeExecutor, GateCodeExecutorConfig
from ._code_result import GateCodeResult

__all__ = ["GateCodeExecutor", "GateCodeExecutorConfig", "GateCodeResult"]
