"""Host functions that an AutoGen executor offers to generated code, as tools behind the gate.

Other executors write the source of ``functions=[…]`` into a file beside the program and install its packages there.
Here the function itself stays in this process with its clients and keys; the program gets a stub, and each call is
decided and recorded. Nothing is installed and no source is executed here.
"""

from __future__ import annotations

import inspect
import keyword
import re
from importlib import metadata
from textwrap import dedent, indent
from typing import Any, Callable, Sequence

from autogen_core.code_executor import FunctionWithRequirements, FunctionWithRequirementsStr

HostFunction = Callable[..., Any]

PROMPT = """You can call these functions of the host. They are there without an import, and they can also be imported \
from the module `$module_name`. Each call is checked by a policy.

$functions"""


def host_functions(given: Sequence[Any]) -> dict[str, HostFunction]:
    """The functions by their names.

    Raises:
        ValueError: one cannot be a tool; the text says why and what to do.
    """
    found: dict[str, HostFunction] = {}
    for function in given:
        name, call = host_function(function)
        if name in found:
            raise ValueError(f"functions: there are two of the name {name}")
        found[name] = call
    return found


def host_function(function: Any) -> tuple[str, HostFunction]:
    """The name and the callable of one function."""
    call = function
    if isinstance(function, FunctionWithRequirementsStr):
        call = function.compiled_func
        if function.global_imports:
            raise ValueError(
                f"function {call.__name__} is given as text with global_imports, which this executor does not add to "
                "it; write the imports into the function, or pass the function itself"
            )
    elif isinstance(function, FunctionWithRequirements):
        call = function.func
    name = getattr(call, "__name__", "")
    if not callable(call) or not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise ValueError("functions: each is a function with a name of its own, in ASCII")
    missing = absent(getattr(function, "python_packages", ()))
    if missing:
        raise ValueError(
            f"function {name} needs {', '.join(missing)} in this process, where it runs: the sandbox gets a stub of it "
            "and nothing is installed for it; install that here"
        )
    return name, call


def absent(packages: Sequence[str]) -> list[str]:
    """Those of some requirements whose package is not installed here. Versions are not compared."""
    missing = []
    for requirement in packages:
        name = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
        try:
            metadata.distribution(name.group(1) if name else requirement)
        except (metadata.PackageNotFoundError, ValueError):
            missing.append(requirement)
    return missing


def stub(function: HostFunction) -> str:
    """A function's head and docstring, for a prompt."""
    about = inspect.getdoc(function)
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception:  # noqa: BLE001 - annotations may name what is not there
        signature = inspect.signature(function)
    text = f"def {function.__name__}{signature}:\n"
    if about:
        text += indent(f'"""{dedent(about)}"""', "    ") + "\n"
    return text + "    ..."
