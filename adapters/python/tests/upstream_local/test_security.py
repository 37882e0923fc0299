"""smolagents' security inputs as attacks, with every module granted that the guest has.

Upstream asserts how its interpreter words a refusal. Here nothing is refused by name: what is asserted is that the host
is untouched. Each input has its harmless ``:`` replaced by a command that touches every canary, and is followed, in the
same session, by a program that goes for the canaries by every way that Python has. The control runs show that both
really do so where nothing holds them. Three of the 82 are skipped by upstream where the host lacks a module; they run here.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import types
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest

if os.environ.get("WEIR_UPSTREAM") != "1":
    pytest.skip("set WEIR_UPSTREAM=1 to download and run upstream's cases", allow_module_level=True)
if sys.version_info < (3, 11):
    pytest.skip("the lists are TOML, which Python reads from 3.11 on", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
from canaries import CHANNELS, SECRET, Canaries, descendants  # noqa: E402
from stand_in import Gates, policy  # noqa: E402
from suite import Lists, functions, key, load  # noqa: E402

import weir  # noqa: E402

UPSTREAM = load()
OWNER = "TestLocalPythonExecutorSecurity"
MODULES = """\
import importlib.util, pkgutil, sys
names = set(sys.stdlib_module_names) | set(sys.builtin_module_names) | set(sys.modules)
sorted(name for name in names if all(part.isidentifier() for part in name.split('.')) and name != '__main__')
"""
AFTERMATH = Path(__file__).with_name("aftermath.py").read_text("utf-8")


class Stage:
    """Where the attacks run: a gate that grants every module, and what came back from it."""

    def __init__(self) -> None:
        self.canaries = Canaries()
        self.gates = Gates()
        self.case = ""
        self.inputs: dict[str, list[str]] = {}
        self.output = ""
        listed = self.gates.executor(["*"], 20)(MODULES).output
        self.text = policy([*listed, "pandas"], 20, (), files="")  # An input imports that; the guest has none.
        self.gates.end_case()

    def armed(self, code: str) -> str:
        """An input with the canaries' command in the place of the one that does nothing."""
        for quoted in ('":"', "':'"):
            code = code.replace(quoted, repr(self.canaries.command))
        return code

    def aftermath(self) -> str:
        """What is tried with whatever the input left behind."""
        facts = {
            "FILE": str(self.canaries.file),
            "SECRET": SECRET,
            "PORT": self.canaries.port,
            "COMMAND": self.canaries.command,
            "CHILDREN": str(self.canaries.children),
        }
        return f"FACTS = {facts!r}\n{AFTERMATH}"

    def attack(self, code: str) -> None:
        """Runs an input and its aftermath in one session of the gate."""
        self.inputs.setdefault(self.case, []).append(code)
        with weir.GateExecutor(sidecar=self.gates.gate(self.text)) as executor:
            for program in (self.armed(code), self.aftermath()):
                self.output += told(executor, program)

    def stop(self) -> None:
        self.gates.stop()
        self.canaries.stop()


def told(executor: weir.GateExecutor, program: str) -> str:
    """Everything that comes back from a program."""
    try:
        done = executor(program)
        return f"{done.output!r}\n{done.logs}\n"
    except weir.GateError as fault:
        return f"{fault!r}\n{fault}\n{executor.state['_print_outputs']}\n"


def alone(program: str) -> str:
    """Everything that comes back from a program in a Python of this host."""
    command = [sys.executable, "-c", program]
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
        )
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def stage(weir_binary: str) -> Iterator[Stage]:
    made = Stage()
    yield made
    made.stop()


class Attacked:
    """Stands where upstream's tests make their executor."""

    stage: Stage

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def send_tools(self, _: Any) -> None:
        """Upstream hands out functions of the host here; the guest has those names by itself."""

    def __call__(self, code: str) -> None:
        self.stage.attack(code)


@contextmanager
def whatever(*_: Any, **__: Any) -> Iterator[Any]:
    """In the place of ``pytest.raises``: how a refusal reads is not what is tested here."""
    yield types.SimpleNamespace(value="")


class Skipped(Exception):
    """Upstream has no such module on this host; the guest may."""


def skip(reason: str) -> None:
    """In the place of ``pytest.skip``."""
    raise Skipped(reason)


def contained(function: Any) -> Any:
    """The test as an attack: it succeeds when no canary was touched."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        stage = Attacked.stage
        stage.canaries.restore()
        stage.output = ""
        try:
            function(*args, **kwargs)
        except Skipped:
            module = kwargs["dangerous_module"]
            stage.attack(f'\nimport sys\nsys.modules["{module}"]\n')
        except AssertionError:
            pass  # Upstream's wording.
        check(stage)

    return run


def check(stage: Stage) -> None:
    """That the attack ran to its end, was stopped by no list, and touched nothing."""
    assert stage.inputs[stage.case] and "the aftermath ended" in stage.output, stage.output[-2000:]
    assert "is not allowed" not in stage.output, stage.output[-2000:]
    touched = stage.canaries.tripped(stage.output)
    assert not touched, f"{stage.case} touched {sorted(touched)}"
    process = stage.gates.gate(stage.text)._process
    assert process is not None and process.poll() is None, "the sidecar ended"
    own = os.path.realpath(weir._sidecar.binary())
    assert {program for program in descendants(process.pid) if program != own} == set()


@pytest.fixture(autouse=True)
def case(request: pytest.FixtureRequest, stage: Stage) -> None:
    """Says which case runs."""
    Attacked.stage = stage
    node = request.node
    params = node.callspec.params if hasattr(node, "callspec") else {}
    stage.case = key(f"{OWNER}::{node.originalname}", node.function, params) if node.cls else ""


def collect() -> type:
    """Upstream's class with its tests as attacks."""
    lenient = types.SimpleNamespace(raises=whatever, skip=skip, importorskip=lambda _: None)
    UPSTREAM.LocalPythonExecutor = Attacked  # type: ignore[attr-defined]
    UPSTREAM.pytest = lenient  # type: ignore[attr-defined]
    owner: type = getattr(UPSTREAM, OWNER)
    for name, function in list(functions(UPSTREAM)):
        if name.startswith(f"{OWNER}::"):
            setattr(owner, name.rpartition("::")[2], contained(function))
    return owner


TestLocalPythonExecutorSecurity = collect()


def test_every_security_input_was_an_attack(request: pytest.FixtureRequest, stage: Stage) -> None:
    asked = [item for item in request.session.items if getattr(item, "cls", None) is TestLocalPythonExecutorSecurity]
    if len(asked) < len(Lists().security_cases):
        pytest.skip("only a part of the cases was asked for")
    assert sorted(stage.inputs) == sorted(Lists().security_cases)


def test_the_sidecar_has_the_secret_that_must_not_come_out(stage: Stage) -> None:
    process = stage.gates.gate(stage.text)._process
    assert process is not None
    assert stage.canaries.secret in Path(f"/proc/{process.pid}/environ").read_text("utf-8", "replace")


CONTROLS = (
    "import os; os.system(':')",
    "import importlib\nimportlib.import_module('os').system(':')",
    "import sys\nsys.modules['os'].system(':')",
    "import sys\nsys._getframe().f_builtins['__import__']('os').system(':')",
    "import queue; queue.threading._sys.modules['os'].system(':')",
)


@pytest.mark.parametrize("code", CONTROLS)
def test_the_inputs_touch_every_canary_where_nothing_holds_them(stage: Stage, code: str) -> None:
    stage.canaries.restore()
    assert stage.canaries.tripped(alone(stage.armed(code))) == CHANNELS


def test_the_inputs_that_upstream_wrote_do_so_too(stage: Stage) -> None:
    if len(stage.inputs) < len(Lists().security_cases):
        pytest.skip("only a part of the cases was asked for")
    programs = sorted({stage.armed(code) for inputs in stage.inputs.values() for code in inputs if '":"' in code})
    programs += sorted({stage.armed(code) for inputs in stage.inputs.values() for code in inputs if "':'" in code})
    complete = 0
    for program in programs:
        stage.canaries.restore()
        complete += stage.canaries.tripped(alone(program)) == CHANNELS
    assert complete >= 5, f"{complete} of {len(programs)}"


def test_the_aftermath_touches_every_canary_where_nothing_holds_it(stage: Stage) -> None:
    stage.canaries.restore()
    output = alone(stage.aftermath())
    assert "the aftermath ended" in output
    assert stage.canaries.tripped(output) == CHANNELS


def test_what_a_policy_grants_is_seen_by_the_canaries(stage: Stage) -> None:
    folder = stage.canaries.file.parent
    row = f'[[code.file]]\nguest = "{folder}"\nhost = "{folder}"\naccess = "write"\nbytes = 1_000_000\nfiles = 1_000\n'
    granted = policy(["*"], 20, (), files=row)
    stage.canaries.restore()
    with weir.GateExecutor(sidecar=stage.gates.gate(granted)) as executor:
        output = told(executor, stage.aftermath())
    assert "the aftermath ended" in output
    assert stage.canaries.tripped(output) == {"read", "changed"}
