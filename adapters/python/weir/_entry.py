"""The entry point ``weir`` of the group ``smolagents.executors``.

The group is announced, not released: a factory gets the imports, a logger and the options of
``executor_kwargs``. This one takes them by position or by name and needs no logger.
"""

from __future__ import annotations

import os
from typing import Any, Iterable, Mapping

from ._executor import GateExecutor


def create_executor(
    imports: Iterable[str] | None = None, logger: Any = None, options: Mapping[str, Any] | None = None, **more: Any
) -> GateExecutor:
    """An executor for ``CodeAgent(executor_type="weir", executor_kwargs={"policy": …})``.

    Without ``profile``, ``policy`` or ``sidecar`` among the options, the variables ``WEIR_POLICY`` and
    ``WEIR_ADDRESS`` are read. The imports are asked for, never granted: the policy grants.
    """
    del logger
    imports = more.pop("additional_imports", None) or more.pop("additional_authorized_imports", None) or imports or ()
    settings = {**(options or {}), **more}
    if not any(settings.get(name) is not None for name in ("profile", "policy", "sidecar", "seat")):
        if os.environ.get("WEIR_ADDRESS"):
            settings["sidecar"] = os.environ["WEIR_ADDRESS"]
        elif os.environ.get("WEIR_POLICY"):
            settings["policy"] = os.environ["WEIR_POLICY"]
    return GateExecutor(imports, **settings)
