"""``GateCodeExecutor``: AutoGen's interface, and one answer for each pitfall of running its code behind a gate.

Most run against the stand-in gate: they show what the adapter does, not what the sandbox does. Those marked `sidecar`
run against the real one, under the policy that is derived from the AutoGen profile.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock, CodeExecutor, FunctionWithRequirements, with_requirements
from autogen_ext.models.replay import ReplayChatCompletionClient
from autogen_ext.tools.code_execution import CodeExecutionInput, PythonCodeExecutionTool
from fake_gate import TOKEN, FakeGate

import weir
from weir import Gate, GateUnavailable
from weir._sidecar import derive
from weir.autogen import GateCodeExecutor, GateCodeExecutorConfig, GateCodeResult

PROFILE = Path(__file__).resolve().parents[3] / "policies" / "profiles" / "autogen.toml"

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.filterwarnings("ignore:No approval function set"),
]


async def run(executor: CodeExecutor, *codes: str, language: str = "python", token: Any = None) -> GateCodeResult:
    blocks = [CodeBlock(code, language) for code in codes]
    result = await executor.execute_code_blocks(blocks, token or CancellationToken())
    assert isinstance(result, GateCodeResult)
    return result


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def opened(fake: FakeGate) -> int:
    return sum(request[:2] == ("POST", "/v1/sessions") for request in fake.requests)


async def test_variables_stay_from_call_to_call(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        assert (await run(executor, "a = 'hello'")) == GateCodeResult(0, "")
        assert (await run(executor, "print(a)")) == GateCodeResult(0, "hello\n")


async def test_blocks_run_in_order_up_to_the_first_that_fails(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        result = await run(executor, "print(1)", "a = 2; print(a); 1/0", "print(3)")
        assert result.exit_code == 1 and result.output.startswith("1\n\n2\nTraceback")
        assert "ZeroDivisionError" in result.output and "3" not in result.output.split("line")[0]
        assert len(result.receipts) == 2
        assert await run(executor) == GateCodeResult(0, "")


async def test_an_error_of_the_program_is_its_traceback(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        result = await run(executor, "print('before')\nprint(undefined_variable)")
    assert result.exit_code == 1 and result.reason is None
    assert result.output.startswith("before\n")
    assert "NameError: name 'undefined_variable' is not defined" in result.output


async def test_the_value_of_a_last_expression_is_shown(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        assert (await run(executor, "x = [1, 'a']\nx")).output == "[1, 'a']"
        assert (await run(executor, "print(1)\n2")).output == "1\n2"
        assert (await run(executor, "y = 3")).output == (await run(executor, "None")).output == ""


async def test_sys_exit_is_the_exit_code(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        assert (await run(executor, "print(1)\nraise SystemExit(3)")) == GateCodeResult(3, "1\n")
        assert (await run(executor, "raise SystemExit", "print(2)")) == GateCodeResult(0, "2\n")
        assert (await run(executor, "raise SystemExit('no data')")) == GateCodeResult(1, "no data")
        assert (await run(executor, "raise SystemExit(-1)")).exit_code == 255


# -- refusals are results --


async def test_a_denial_is_a_result_with_its_reason_first(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        result = await run(executor, "print('a')", "print('b')\nimport socket", "print('c')")
    assert (result.exit_code, result.reason) == (126, "rule")
    reason, printed = result.output.split("Printed before that:\n")
    assert reason.startswith("[weir] denied import socket") and "Do not retry." in reason
    assert printed == "a\n\nb\n"


async def test_a_spent_budget_is_a_result(fake: FakeGate, gate: Gate) -> None:
    fake.budget = 1
    async with GateCodeExecutor(sidecar=gate) as executor:
        assert (await run(executor, "print(1)")).exit_code == 0
        result = await run(executor, "print(2)")
        assert (result.exit_code, result.reason) == (126, "budget_exhausted")
        assert "[weir] the sandbox was replaced" in result.output


async def test_a_gate_that_is_gone_is_a_result_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIR_TOKEN", TOKEN)
    executor = GateCodeExecutor(sidecar=f"unix:{tmp_path / 'none'}")
    result = await run(executor, "print(1)", "print(2)")
    assert result.exit_code == 69 and "cannot be reached" in result.output
    with pytest.raises(GateUnavailable):
        await executor.start()
    await executor.stop()


async def test_a_policy_with_faults_is_a_result_when_started_lazily(tmp_path: Path) -> None:
    executor = GateCodeExecutor(policy=tmp_path / "none.toml")
    assert (await run(executor, "1")).output.startswith("[weir] there is no policy file")


@pytest.mark.parametrize("language", ["sh", "bash", "shell", "pwsh", "ruby", "r", ""])
async def test_other_languages_are_answered_helpfully(gate: Gate, language: str) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        result = await run(executor, "pip install numpy", "print(1)", language=language)
    assert (result.exit_code, result.reason) == (127, "unsupported_language")
    assert result.output.startswith("[weir] not run: ")
    assert "```python" in result.output or "Nothing can be installed" in result.output


async def test_a_block_in_javascript_is_run_by_the_guest_of_that_name_or_refused_by_the_policy(
    fake: FakeGate, gate: Gate
) -> None:
    async with GateCodeExecutor(sidecar=gate, functions=[add]) as executor:
        refused = await run(executor, "add(1, 2)", language="js")
        assert (refused.exit_code, refused.reason) == (126, "no_rule")
        assert "javascript" in refused.output and "Allowed: languages python" in refused.output
        fake.languages.add("javascript")
        ran = await run(executor, "print('hi')\n41 + 1", language="JavaScript")
        assert ran == GateCodeResult(0, "hi\n"), "what is printed, as another runtime shows it"
        python = await run(executor, "41 + 1")
        assert python.output == "42"
    bodies = [body for method, path, body in fake.requests if path.endswith("/execute")]
    assert [body.get("language") for body in bodies] == ["javascript", "javascript", None]
    assert all(len(bytes.fromhex(body["execution"])) == 16 for body in bodies)


async def test_a_program_that_has_called_nothing_is_cancelled_and_its_session_stays(fake: FakeGate, gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        await run(executor, "a = 1")
        task = asyncio.create_task(run(executor, "while True: pass"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await run(executor, "print(1)")).exit_code == 0
        assert opened(fake) == 1, "the session, its budgets and its labels go on"
        assert not any(method == "DELETE" and "/sessions/" in path for method, path, _ in fake.requests)


async def test_a_program_that_is_cancelled_on_its_way_to_the_gate_does_not_run(fake: FakeGate, gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        await run(executor, "a = 1")
        fake.delay = 0.3
        task = asyncio.create_task(run(executor, "while True: pass"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        fake.delay = 0.0
        assert all(execution.cancelled for execution in list(fake.executions.values())[1:])
        assert (await run(executor, "print(1)")).exit_code == 0


async def test_long_output_is_cut_and_says_so(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate, max_output=100) as executor:
        result = await run(executor, "print('a' * 500)\nprint('end')")
    assert len(result.output) < 200 and "characters left out" in result.output and result.output.endswith("end\n")


# -- starting, stopping, sharing --


async def test_concurrent_first_calls_open_one_session(fake: FakeGate, gate: Gate) -> None:
    executor = GateCodeExecutor(sidecar=gate)
    fake.delay = 0.05
    results = await asyncio.gather(*(run(executor, f"x{n} = {n}") for n in range(8)))
    assert [result.exit_code for result in results] == [0] * 8 and opened(fake) == 1
    assert (await run(executor, "print(x0 + x7)")).output == "7\n"
    await executor.stop()


async def test_agents_in_other_threads_and_loops_share_a_session(fake: FakeGate, gate: Gate) -> None:
    executor = GateCodeExecutor(sidecar=gate)
    codes: list[int] = []

    def another_loop(n: int) -> None:
        codes.append(asyncio.run(run(executor, f"y{n} = {n}")).exit_code)

    threads = [threading.Thread(target=another_loop, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert codes == [0] * 4 and opened(fake) == 1
    assert (await run(executor, "print(y1 + y3)")).output == "4\n"
    await executor.stop()


async def test_restart_and_reset_forget_the_variables(fake: FakeGate, gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        for again in (executor.restart, executor.reset):
            await run(executor, "a = 1")
            await again()
            result = await run(executor, "a")
            assert result.exit_code == 1 and "NameError" in result.output and "[weir]" not in result.output
    assert not fake.sessions, "each session was ended"


async def test_stop_ends_the_session_and_a_later_use_begins_anew(fake: FakeGate, gate: Gate) -> None:
    executor = GateCodeExecutor(sidecar=gate)
    await executor.stop()
    await run(executor, "a = 1")
    await executor.stop()
    await executor.stop()
    assert not fake.sessions
    assert "NameError" in (await run(executor, "a")).output
    await executor.stop()


async def test_stop_breaks_off_what_runs_and_what_waits(gate: Gate) -> None:
    executor = GateCodeExecutor(sidecar=gate)
    await executor.start()
    works = [asyncio.create_task(run(executor, "while True: pass")), asyncio.create_task(run(executor, "print(1)"))]
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await executor.stop()
    for work in works:
        result = await work
        assert result.exit_code == 69 and result.output.startswith("[weir] Cancelled: the executor was stopped")
    assert time.monotonic() - began < 1.5


# -- cancellation and time --


async def test_a_token_that_was_cancelled_before_runs_nothing(fake: FakeGate, gate: Gate) -> None:
    executor, token = GateCodeExecutor(sidecar=gate), CancellationToken()
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run(executor, "print(1)", token=token)
    assert opened(fake) == 0


@pytest.mark.parametrize("how", ["token", "token of another thread", "task"])
async def test_a_cancelled_program_is_stopped_and_the_executor_goes_on(fake: FakeGate, gate: Gate, how: str) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        await run(executor, "a = 1")
        token = CancellationToken()
        task = asyncio.create_task(run(executor, "while True: pass", token=token))
        await asyncio.sleep(0.2)
        if how == "task":
            task.cancel()
        elif how == "token":
            token.cancel()
        else:
            threading.Thread(target=token.cancel).start()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 2)
        assert all(execution.cancelled for execution in list(fake.executions.values())[1:])
        after = await run(executor, "print('on'); a")
        assert after.output.startswith("on\n") and "NameError" in after.output
        assert "the variables of earlier blocks are gone" in after.output
        assert opened(fake) == 1, "the session goes on"
        assert "gone" not in (await run(executor, "print(2)")).output, "it is said once"


async def test_a_cancelled_work_that_waits_never_begins(gate: Gate) -> None:
    seen: list[int] = []

    def note() -> None:
        seen.append(1)

    async with GateCodeExecutor(sidecar=gate, functions=[note]) as executor:
        first, token = asyncio.create_task(run(executor, "while True: pass")), CancellationToken()
        await asyncio.sleep(0.1)
        second = asyncio.create_task(run(executor, "note()", token=token))
        await asyncio.sleep(0.1)
        token.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not first.done(), "the one before it is another's"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await run(executor, "1")
    assert not seen


async def test_a_function_that_is_awaited_is_cancelled_too(gate: Gate) -> None:
    ended: list[str] = []

    async def wait_long() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with GateCodeExecutor(sidecar=gate, functions=[wait_long]) as executor:
        task = asyncio.create_task(run(executor, "wait_long()"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        await asyncio.sleep(0.05)
        assert ended == ["cancelled"]
        assert (await run(executor, "print(1)")).exit_code == 0


async def test_no_function_begins_once_a_program_was_cancelled(gate: Gate) -> None:
    calls: list[int] = []
    held = threading.Event()

    def slow(n: int) -> int:
        calls.append(n)
        held.wait(5)
        return n

    async with GateCodeExecutor(sidecar=gate, functions=[slow]) as executor:
        task = asyncio.create_task(run(executor, "slow(1)\nslow(2)"))
        while not calls:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.1)
        held.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await run(executor, "print(1)")).exit_code == 0
    assert calls == [1]


async def test_a_timeout_is_a_result_and_the_executor_goes_on(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate, timeout=1) as executor:
        began = time.monotonic()
        result = await run(executor, "print('before')\nwhile True: pass", "print('never')")
        assert time.monotonic() - began < 1.6
        assert (result.exit_code, result.reason) == (124, "timeout")
        assert result.output.startswith("[weir] Timeout: the block was stopped after 1 s")
        assert result.output.endswith("Printed before that:\nbefore\n")
        assert (await run(executor, "print(1)")) == GateCodeResult(0, "1\n")


async def test_a_timeout_can_be_raised(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate, timeout=1, raise_on_timeout=True) as executor:
        with pytest.raises(asyncio.TimeoutError):
            await run(executor, "while True: pass")
        assert (await run(executor, "print(1)")).exit_code == 0


# -- functions --


async def test_functions_are_tools_behind_the_gate(fake: FakeGate, gate: Gate) -> None:
    async def later(a: int) -> int:
        await asyncio.sleep(0)
        return a + 1

    executor = GateCodeExecutor(sidecar=gate, functions=[add, later], functions_module="mine")
    async with executor:
        code = "from mine import add, later as soon\nprint(add(1, b=2), soon(1))\nimport mine\nmine.add(2, 2)"
        assert (await run(executor, code)).output == "3 2\n4"
        fake.denied = {"add"}
        refused = await run(executor, "try:\n    add(1, 2)\nexcept PermissionDenied as why:\n    print(why)")
        assert refused.exit_code == 0 and "[weir] denied tool add" in refused.output
        assert (await run(executor, "add(1, 2)")).exit_code == 126
    assert executor.functions == ["add", "later"] and executor.functions_module == "mine"


async def test_functions_with_requirements_run_here(gate: Gate) -> None:
    @with_requirements(python_packages=["pytest>=8"], global_imports=["pytest"])
    def version() -> str:
        return str(pytest.__version__)

    text = FunctionWithRequirements.from_str("def triple(n: int) -> int:\n    return 3 * n\n")
    async with GateCodeExecutor(sidecar=gate, functions=[version, text]) as executor:
        assert (await run(executor, "print(version(), triple(2))")).output == f"{pytest.__version__} 6\n"


async def test_an_object_of_the_host_stays_a_handle(gate: Gate) -> None:
    class Frame:
        def __repr__(self) -> str:
            return "secret"

    def load() -> Frame:
        return Frame()

    async with GateCodeExecutor(sidecar=gate, functions=[load]) as executor:
        result = await run(executor, "load()")
    assert "host object" in result.output and "secret" not in result.output


async def test_a_function_that_fails_is_an_error_of_the_program(gate: Gate) -> None:
    def find(name: str) -> str:
        raise LookupError(f"no {name}")

    async with GateCodeExecutor(sidecar=gate, functions=[find]) as executor:
        result = await run(executor, "find('x')")
    assert result.exit_code == 1 and "LookupError: no x" in result.output


async def test_functions_that_cannot_be_tools_are_refused() -> None:
    other = FunctionWithRequirements.from_callable(add, python_packages=["no-such-package>=1"])
    text = FunctionWithRequirements.from_str("def f():\n    return 1\n", global_imports=["math"])
    for functions, said in (
        ([other], "add needs no-such-package>=1 in this process"),
        ([text], "given as text with global_imports"),
        ([add, add], "two of the name add"),
        ([lambda: 1], "a name of its own"),
        (["add"], "a name of its own"),
    ):
        with pytest.raises(ValueError, match=said):
            GateCodeExecutor(policy="p.toml", functions=functions)
    with pytest.raises(ValueError, match='add tools={"add": "read|write|exec|network|spend"}'.replace("|", r"\|")):
        GateCodeExecutor(profile=PROFILE, functions=[add])


async def test_the_prompt_tells_of_the_functions(gate: Gate) -> None:
    executor = GateCodeExecutor(sidecar=gate, functions=[add])
    text = executor.format_functions_for_prompt()
    assert 'def add(a: int, b: int) -> int:\n    """Adds two numbers."""\n    ...' in text and "`functions`" in text
    assert executor.format_functions_for_prompt("$module_name").strip() == "functions"


async def test_a_function_without_a_place_in_the_policy_is_warned_of(
    fake: FakeGate, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    fake.unknown = {"add"}
    async with GateCodeExecutor(sidecar=gate, functions=[add]):
        assert "function add: the policy has no such tool" in caplog.text


# -- files, configuration, state --


async def test_copies_of_programs_are_kept_for_people(gate: Gate, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    async with GateCodeExecutor(sidecar=gate, code_dir=folder) as executor:
        result = await run(executor, "print(1)", "print('\ud800')")
        assert result.code_file is not None
        file = Path(result.code_file)
        assert file.parent == folder and file.suffix == ".py" and file.read_text() == "print(1)"
        assert len(list(folder.iterdir())) == 2
        outside = tmp_path / "outside"
        outside.write_text("untouched")
        file.unlink()
        file.symlink_to(outside)
        await run(executor, "print(1)")
        assert outside.read_text() == "untouched" and not file.is_symlink()
    assert (await run(GateCodeExecutor(sidecar=gate), "1")).code_file is None


async def test_a_folder_that_cannot_be_written_does_not_stop_the_program(gate: Gate, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    async with GateCodeExecutor(sidecar=gate, code_dir=file) as executor:
        result = await run(executor, "print(1)")
    assert (result.exit_code, result.code_file) == (0, None)


async def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="Timeout must be greater than or equal to 1."):
        GateCodeExecutor(policy="p.toml", timeout=0)
    with pytest.raises(ValueError, match="exactly one of"):
        GateCodeExecutor()
    with pytest.raises(ValueError, match="exactly one of"):
        GateCodeExecutor(policy="p.toml", profile="q.toml")
    with pytest.raises(ValueError, match="identifier"):
        GateCodeExecutor(policy="p.toml", functions_module="a-b")


async def test_the_configuration_goes_round(tmp_path: Path) -> None:
    made = GateCodeExecutor(
        profile=PROFILE, tools={"add": "read"}, allow=["add"], agent="a", store=tmp_path, timeout=5, functions=[add],
        code_dir=tmp_path, max_output=9, raise_on_timeout=True, functions_module="m",
    )  # fmt: skip
    model = made.dump_component()
    assert model.provider == "weir.autogen.GateCodeExecutor" and model.component_type == "code_executor"
    json.dumps(model.model_dump())
    loaded = CodeExecutor.load_component(model)
    assert isinstance(loaded, GateCodeExecutor) and loaded.dump_component() == model
    assert loaded.functions == [] and made.functions == ["add"]


async def test_a_configuration_names_an_address_and_no_token(gate: Gate) -> None:
    config = GateCodeExecutor(sidecar=gate)._to_config()
    assert config.sidecar == gate.where and TOKEN not in config.model_dump_json()


async def test_an_unknown_setting_of_a_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="bind_dir"):
        GateCodeExecutorConfig.model_validate({"policy": "p.toml", "bind_dir": "."})


async def test_a_saved_session_is_taken_up_by_another_executor(fake: FakeGate, gate: Gate) -> None:
    first, second = GateCodeExecutor(sidecar=gate), GateCodeExecutor(sidecar=gate, functions=[add])
    assert (await first.save_state())["session"] is None
    await run(first, "a = 20")
    state = json.loads(json.dumps(dict(await first.save_state())))
    assert TOKEN not in json.dumps(state)
    await second.load_state(state)
    assert (await run(second, "add(a, 1)")).output == "21" and opened(fake) == 1
    await first.stop()
    third = GateCodeExecutor(sidecar=gate)
    await third.load_state(state)
    result = await run(third, "print('new')")
    assert result.output == "new\n[weir] the saved session has ended; the variables of earlier blocks are gone\n"


async def test_a_state_of_something_else_is_refused(gate: Gate) -> None:
    executor = GateCodeExecutor(sidecar=gate)
    with pytest.raises(ValueError, match="not a GateCodeExecutorState"):
        await executor.load_state({"type": "Other"})
    with pytest.raises(weir.ProtocolError):
        await executor.load_state({**(await executor.save_state()), "session": {"id": 1}})


# -- without autogen --


async def test_weir_works_without_autogen() -> None:
    program = (
        "import sys\nsys.modules['autogen_core'] = None\nimport weir\nprint(weir.Sidecar.__name__)\n"
        "try:\n    import weir.autogen\nexcept ImportError as fault:\n    print(fault)\n"
        "print(any(name.startswith('pydantic') for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    told = "weir.autogen needs autogen-core: pip install 'weir[autogen]'"
    assert ran.stdout.splitlines() == ["Sidecar", told, "False"]


# -- inside autogen --


def fenced(*codes: str, language: str = "python") -> str:
    return "\n".join(f"```{language}\n{code}\n```" for code in codes)


async def test_a_denial_reaches_the_agent_and_the_team_goes_on(gate: Gate) -> None:
    coder = AssistantAgent("coder", ReplayChatCompletionClient([fenced("import socket"), fenced("print(6 * 7)")]))
    async with GateCodeExecutor(sidecar=gate) as executor:
        team = RoundRobinGroupChat(
            [coder, CodeExecutorAgent("runner", executor, sources=["coder"])],
            termination_condition=MaxMessageTermination(5),
        )
        result = await team.run(task="What is 6 times 7?")
    said = [message.content for message in result.messages if isinstance(message, TextMessage)]
    assert "POSIX exit code: 126" in said[2] and "[weir] denied import socket" in said[2]
    assert said[4].strip() == "42"


async def test_an_agent_that_emits_a_shell_block_is_told(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        agent = CodeExecutorAgent("runner", executor)
        message = TextMessage(content=fenced("pip install pandas", language="sh"), source="user")
        said = (await agent.on_messages([message], CancellationToken())).chat_message
    assert isinstance(said, TextMessage) and "Nothing can be installed in the sandbox" in said.content


async def test_an_agent_goes_through_its_configuration(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_TOKEN", TOKEN)
    model = CodeExecutorAgent("runner", GateCodeExecutor(sidecar=gate)).dump_component()
    agent = CodeExecutorAgent.load_component(model)
    message = TextMessage(content=fenced("print(5)"), source="user")
    said = (await agent.on_messages([message], CancellationToken())).chat_message
    assert isinstance(said, TextMessage) and said.content.strip() == "5"


async def test_the_code_tool_runs_behind_the_gate(gate: Gate) -> None:
    async with GateCodeExecutor(sidecar=gate) as executor:
        tool = PythonCodeExecutionTool(executor)
        good = await tool.run(CodeExecutionInput(code="print(100 + 200)"), CancellationToken())
        bad = await tool.run(CodeExecutionInput(code="import socket"), CancellationToken())
    assert (good.success, good.output) == (True, "300\n")
    assert not bad.success and bad.output.startswith("[weir] denied")


# -- the real gate --


@pytest.fixture(scope="module")
def real(weir_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate under the policy of the profile, with a shorter limit of time, so that reaching it takes little."""
    folder = tmp_path_factory.mktemp("policy")
    path = derive(PROFILE, {"add": "read", "send": "exec"}, [], [], folder)
    text = path.read_text("utf-8")
    assert text.count("wall_ms = 10_000") == 1
    path.write_text(text.replace("wall_ms = 10_000", "wall_ms = 2_000"), "utf-8")
    with weir.Sidecar(path) as sidecar:
        yield sidecar


@pytest.mark.sidecar
async def test_the_profile_of_autogen_is_enforced(real: Gate) -> None:
    sent: list[str] = []

    def send(text: str) -> None:
        sent.append(text)

    async with GateCodeExecutor(sidecar=real, functions=[add, send]) as executor:
        assert (await run(executor, "import math\nprint(add(1, 2), math.pi)")).output == "3 3.141592653589793\n"
        denied = await run(executor, "print('b'); import subprocess")
        assert (denied.exit_code, denied.reason) == (126, "import_denied")
        refused = await run(executor, "send('x')")
        assert refused.exit_code == 126 and "[weir] denied tool send" in refused.output and not sent
        files = await run(executor, "open('x.txt', 'w')")
        assert files.exit_code == 1 and "the sandbox has no files" in files.output
        newest = real.receipts()["receipts"]
        assert {receipt["receipt_id"] for receipt in newest} >= set(denied.receipts + refused.receipts)


@pytest.mark.sidecar
async def test_limits_of_the_policy_have_exit_codes(real: Gate) -> None:
    async with GateCodeExecutor(sidecar=real) as executor:
        memory = await run(executor, "x = bytearray(400 << 20)")
        assert (memory.exit_code, memory.reason) == (137, "limit_reached") and "memory" in memory.output
        endless = await run(executor, "print('before')\nwhile True: pass")
        assert (endless.exit_code, endless.reason) == (124, "limit_reached")
        assert endless.output.startswith("[weir] Timeout: ")
        assert endless.output.endswith("Printed before that:\nbefore\n")


@pytest.mark.sidecar
async def test_a_program_of_the_real_gate_is_stopped_in_a_moment(real: Gate) -> None:
    async with GateCodeExecutor(sidecar=real, timeout=1, functions=[add]) as executor:
        await run(executor, "a = 1")
        for code in ("import time\ntime.sleep(8)", "print(add(1, 1))\nwhile True: pass"):
            began, token = time.monotonic(), CancellationToken()
            task = asyncio.create_task(run(executor, code, token=token))
            await asyncio.sleep(0.3)
            token.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 0.9
            assert "the variables of earlier blocks are gone" in (await run(executor, "print(1)")).output
        slow = await run(executor, "print('early')\nimport time\ntime.sleep(8)")
        assert slow.exit_code == 124 and slow.output.endswith("early\n")
        assert (await run(executor, "print(2)")) == GateCodeResult(0, "2\n")


@pytest.mark.sidecar
async def test_an_executor_starts_and_stops_a_gate_of_its_own(weir_binary: str, tmp_path: Path) -> None:
    executor = GateCodeExecutor(profile=PROFILE, store=tmp_path / "store", agent="coder")
    assert executor.gate is None, "nothing starts before it is needed"
    assert (await run(executor, "print(1)")).exit_code == 0
    gate = executor.gate
    assert isinstance(gate, weir.Sidecar) and gate.receipts()["receipts"]
    process = gate._process
    assert process is not None
    process.kill()
    process.wait()
    dead = await run(executor, "print(2)")
    assert dead.exit_code == 69 and "was ended by signal 9" in dead.output
    await executor.restart()
    assert (await run(executor, "print(3)")).output == "3\n"
    await executor.stop()
    assert executor.gate is None
