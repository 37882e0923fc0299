"""smolagents' interpreter, with the real gate in its place.

The names that upstream's tests import are replaced by functions of the same signature. Every program runs in a session
of a real sidecar under a policy that grants what the case grants, and nothing is evaluated on this host. Two things are
translated, because upstream words them itself: which statement of a program failed, and that time ran out. The type and
the text of an error are always those that came out of the gate.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import tempfile
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Iterable

from smolagents.local_python_executor import (
    BASE_BUILTIN_MODULES,
    BASE_PYTHON_TOOLS,
    CodeOutput,
    ExecutionTimeoutError,
    InterpreterError,
    PrintContainer,
)

import weir
from weir._wire import GuestObject

UNLIMITED_MS = 60_000
"""The wall limit of a case that turns upstream's off: the gate has no program without one."""
GATES = 3
"""Sidecars that are kept for the next case with the same policy."""
OWN = ("_print_outputs", "_operations_count", "__name__")
"""Keys of upstream's state that are the interpreter's and no variables."""
LOOK = "{name: value for name, value in globals().items() if not name.startswith('__') and name not in %r}"

POLICY = """\
[policy]
id = "upstream"

[code]
imports = [{imports}]
clock = "real"
randomness = "seeded"

[code.limits]
wall_ms = {wall_ms}
fuel = 10_000_000_000

[memory]
survive = "session"

[[rule]]
id = "code"
effect = "allow"
actions = ["code.run", "code.import"]
reason = "a case of the acceptance suite"
"""

FILES = """
[[code.file]]
guest = "/"
host = "files"
access = "read"
"""
"""An empty folder for the cases that are granted `os`: upstream's list of modules is its only grant of files."""

TOOLS = """
[[rule]]
id = "tools"
effect = "allow"
actions = ["tool.call"]
reason = "the tools of the case"
"""

TOOL = """
[[tool]]
name = "{name}"
effect = "read"
extra_args = true
"""


class Told:
    """What a case was told last, for the check that a waived case fails for the stated reason."""

    text = ""

    def keep(self, error: Exception) -> Exception:
        """Notes the error and returns it."""
        self.text = str(error)
        return error


TOLD = Told()


class Gates:
    """Sidecars by policy; the least recently used one beyond ``GATES`` is stopped."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="weir-upstream-")
        self._gates: OrderedDict[str, weir.Sidecar] = OrderedDict()
        self._open: list[weir.GateExecutor] = []
        self._made = 0

    def executor(self, imports: Iterable[str], seconds: float | None, tools: Iterable[str] = ()) -> weir.GateExecutor:
        """A new session under the policy that grants exactly this."""
        executor = weir.GateExecutor(sidecar=self.gate(policy(imports, seconds, tools)))
        self._open.append(executor)
        return executor

    def gate(self, text: str) -> weir.Sidecar:
        """The sidecar of a policy."""
        found = self._gates.pop(text, None)
        if found is None:
            self._made += 1
            path = Path(self._folder.name) / f"{self._made}.toml"
            (path.parent / "files").mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
            found = weir.Sidecar(path)
        self._gates[text] = found
        return found

    def end_case(self) -> None:
        """Ends the sessions of a case, and the sidecars that were used longest ago."""
        for executor in self._open:
            executor.cleanup()
        self._open.clear()
        while len(self._gates) > GATES:
            self._gates.popitem(last=False)[1].stop()

    def stop(self) -> None:
        """Ends everything."""
        self.end_case()
        for gate in self._gates.values():
            gate.stop()
        self._gates.clear()
        self._folder.cleanup()


GATE = Gates()


def policy(imports: Iterable[str], seconds: float | None, tools: Iterable[str], files: str | None = None) -> str:
    """The policy's text. Upstream's ``*`` is every module there is, ``name.*`` is ``name`` with what is under it."""
    names = {name.removesuffix(".*") for name in imports}
    if "*" in names:
        names = names - {"*"} | set(sys.stdlib_module_names) - {"this", "antigravity"}
    if files is None:
        files = FILES if "os" in names else ""
    wall = UNLIMITED_MS if seconds is None else int(seconds * 1000)
    text = POLICY.format(imports=", ".join(f'"{name}"' for name in sorted(names)), wall_ms=wall)
    tools = sorted(tools)
    return text + files + (TOOLS if tools else "") + "".join(TOOL.format(name=name) for name in tools)


class Remote:
    # An object that stays in the guest: looking at it is one more program in its session.
    __slots__ = ("_session", "_path")

    def __init__(self, session: Session, path: str) -> None:
        self._session = session
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return self._session.look(f"{self._path}.{name}")

    def __iter__(self) -> Any:
        return iter(self._session.look(f"list({self._path})"))

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, type) and getattr(builtins, other.__name__, None) is other:
            return bool(self._session.look(f"{self._path} is {other.__name__}"))
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __instancecheck__(self, other: Any) -> bool:
        return type(other) is Remote and self._session.look(f"isinstance({other._path}, {self._path})")

    @property
    def __doc__(self) -> Any:  # type: ignore[override]
        return self._session.look(f"{self._path}.__doc__")

    @property
    def __class__(self) -> Any:
        kinds = {"type": type, "generator": types.GeneratorType}
        kind = f"'type' if isinstance({self._path}, type) else type({self._path}).__name__"
        return kinds.get(self._session.look(kind), Remote)


class Session:
    """A session at the gate, in upstream's terms."""

    def __init__(self, imports: Iterable[str], seconds: float | None, tools: dict[str, Any]) -> None:
        self._tools = {name: tool for name, tool in tools.items() if not native(name, tool)}
        self._seconds = seconds
        self._gate = GATE.executor(imports, seconds, self._tools)
        self._gate.send_tools(self._tools)

    def run(self, code: str, state: dict[str, Any]) -> tuple[Any, bool]:
        """Runs one program with the variables of ``state`` and brings ``state`` up to date."""
        self._gate.send_variables({name: value for name, value in state.items() if self._is_sent(name, value)})
        logs = state["_print_outputs"] = PrintContainer()
        try:
            output = self._gate(code)
        except weir.GateError as fault:
            logs.value = str(self._gate.state["_print_outputs"])
            if not isinstance(fault, weir.Exhausted):
                self._update(state)
            raise TOLD.keep(self._error(code, fault)) from fault
        logs.value = output.logs
        TOLD.text = repr(output.output)
        self._update(state)
        return self._named(code, output.output), output.is_final_answer

    def look(self, expression: str) -> Any:
        """The value of an expression over the session's variables."""
        try:
            return self._wrapped(self._gate(expression).output, expression)
        except weir.CodeError as fault:
            if "AttributeError" in str(fault):
                raise AttributeError(str(fault)) from fault
            raise

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those modules that the guest does not have."""
        names = sorted({name.split(".")[0] for name in names} - {"*"})
        return list(self.look(f"[n for n in {names!r} if __import__('importlib.util').util.find_spec(n) is None]"))

    @staticmethod
    def _is_sent(name: str, value: Any) -> bool:
        return name not in OWN and type(value) is not Remote

    def _update(self, state: dict[str, Any]) -> None:
        kept = {name: state[name] for name in OWN if name in state}
        seen = self._gate(LOOK % (tuple(self._tools),)).output
        state.clear()
        state.update({name: self._wrapped(value, name) for name, value in seen.items()})
        state.update(kept)

    def _wrapped(self, value: Any, path: str) -> Any:
        if isinstance(value, GuestObject):
            return Remote(self, path)
        if type(value) is dict:
            return {key: self._wrapped(item, f"{path}[{key!r}]") for key, item in value.items()}
        return value

    def _named(self, code: str, value: Any) -> Any:
        """The last value; one that stayed in the guest is reached by the name that it was assigned to."""
        last = ast.parse(code).body[-1:] if isinstance(value, GuestObject) else []
        if last and isinstance(last[0], ast.Assign) and isinstance(last[0].targets[0], ast.Name):
            if value.type_name == "generator":
                return Remote(self, last[0].targets[0].id)
        return value

    def _error(self, code: str, fault: weir.GateError) -> Exception:
        text = str(fault)
        if isinstance(fault, weir.Exhausted) and re.search(r"limit of \d+ ms", text):
            limit = f"Code execution exceeded the maximum execution time of {self._seconds} seconds"
            return ExecutionTimeoutError(f"{limit}: {text}")
        lines = re.findall(r'File "<agent>", line (\d+)', text)
        if not lines:
            return InterpreterError(f"Code execution failed due to: {text}")
        # What follows the last frame is the error; a caret belongs to it where the text could not be read at all.
        try:
            tree = ast.parse(code)
        except SyntaxError:
            return InterpreterError(f"Code parsing failed on line {lines[-1]} due to: {text[text.rindex('line') :]}")
        at = next((node for node in tree.body if node.lineno <= int(lines[0]) <= (node.end_lineno or 0)), None)
        segment = ast.get_source_segment(code, at) if at is not None else None
        return InterpreterError(f"Code execution failed at line '{segment}' due to: {error_of(text)}")


def error_of(text: str) -> str:
    """What a traceback says after its last frame."""
    rows = text.split("\n")
    last = max(number for number, row in enumerate(rows) if row.startswith("  "))
    return "\n".join(rows[last + 1 :])


def native(name: str, tool: Any) -> bool:
    """True for what upstream passes as a tool and a whole interpreter has by itself."""
    return BASE_PYTHON_TOOLS.get(name) is tool or getattr(builtins, name, None) is tool


def evaluate_python_code(
    code: str,
    static_tools: dict[str, Callable[..., Any]] | None = None,
    custom_tools: dict[str, Callable[..., Any]] | None = None,
    state: dict[str, Any] | None = None,
    authorized_imports: list[str] = BASE_BUILTIN_MODULES,
    max_print_outputs_length: int | None = None,
    timeout_seconds: float | None = 30,
) -> tuple[Any, bool]:
    """One program in a session of its own."""
    tools = {**(custom_tools or {}), **(static_tools or {})}
    return Session(authorized_imports, timeout_seconds, tools).run(code, {} if state is None else state)


def evaluate_node(
    node: ast.AST, state: dict[str, Any], static_tools: Any, custom_tools: Any, authorized_imports: Any
) -> Any:
    """Upstream evaluates a node of a tree; its source text is the program here."""
    try:
        return evaluate_python_code(ast.unparse(node), static_tools, custom_tools, state)[0]
    finally:
        state.pop("_print_outputs", None)


class LocalPythonExecutor:
    """One session for all programs of an executor."""

    def __init__(
        self,
        additional_authorized_imports: list[str],
        max_print_outputs_length: int | None = None,
        additional_functions: dict[str, Callable[..., Any]] | None = None,
        timeout_seconds: float | None = 30,
    ) -> None:
        self.state: dict[str, Any] = {"__name__": Session([], 30, {}).look("__name__")}
        self._imports = sorted({*BASE_BUILTIN_MODULES, *additional_authorized_imports})
        self._tools: dict[str, Any] = dict(additional_functions or {})
        self._seconds = timeout_seconds
        self._session: Session | None = None
        missing = Session(["*"], 30, {}).missing(additional_authorized_imports)
        if missing:
            raise InterpreterError(f"Non-installed authorized modules: {', '.join(missing)}")

    def send_tools(self, tools: dict[str, Any]) -> None:
        self._tools.update(tools)

    def send_variables(self, variables: dict[str, Any]) -> None:
        self.state.update(variables)

    def __call__(self, code_action: str) -> CodeOutput:
        if self._session is None:
            self._session = Session(self._imports, self._seconds, self._tools)
        value, final = self._session.run(code_action, self.state)
        return CodeOutput(output=value, logs=str(self.state["_print_outputs"]), is_final_answer=final)


REPLACED = {
    "evaluate_python_code": evaluate_python_code,
    "LocalPythonExecutor": LocalPythonExecutor,
    "evaluate_boolop": evaluate_node,
    "evaluate_condition": evaluate_node,
    "evaluate_delete": evaluate_node,
    "evaluate_subscript": evaluate_node,
}
"""Names of upstream's module and what stands in for them here."""
