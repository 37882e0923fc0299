"""The adapter with the real sidecar: what only the real gate and the real sandbox can show.

Skipped, with the reason, where there is no program (``WEIR_BIN``, ``weir`` on PATH, a release build).
"""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import ScriptedModel, code
from smolagents import CodeAgent, FinalAnswerTool, ToolCallingAgent
from test_pitfalls import Client, Counter, double, fetch, tool_call

import weir
from weir import CodeError, Exhausted, GateExecutor, PermissionDenied, Refused, Sidecar
from weir._client import Client as Connection

pytestmark = pytest.mark.sidecar

PROFILE = Path(__file__).resolve().parents[3] / "policies" / "profiles" / "smolagents.toml"
TOOLS = {name: "read" for name in ("double", "fetch", "count", "same", "stop", "wait", "slow", "identity")}


@pytest.fixture(scope="module")
def sidecar(weir_binary: str) -> Iterator[Sidecar]:
    with Sidecar.from_profile(PROFILE, {**TOOLS, "shell": "exec"}, peers=["helper"]) as made:
        yield made


@pytest.fixture
def executor(sidecar: Sidecar) -> Iterator[GateExecutor]:
    with GateExecutor(sidecar=sidecar) as made:
        yield made


def agent_of(sidecar: Sidecar, *replies: Any, tools: tuple = (), **options: Any) -> CodeAgent:
    agent = CodeAgent(tools=list(tools), model=ScriptedModel(*replies), max_steps=4, verbosity_level=-1, **options)
    return weir.wrap(agent, sidecar=sidecar)


VALUES = [
    None, True, 5, -(10**40), 1.5, "ü\x00", "\ud800", b"\xff", bytearray(b"a"), [1, [2]], (1, (2,)), {1, 2}, frozenset("a"),
    {"a": {1: "x"}}, {"$": [1]}, 3 + 4j, dt.date(2026, 1, 2), dt.timedelta(seconds=-90, microseconds=5),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_cross_both_ways(executor: GateExecutor, value: Any) -> None:
    got: list[Any] = []
    executor.send_variables({"value": value})
    executor.send_tools({"identity": Identity(got)})
    output = executor("identity(value=value)").output
    assert repr(output) == repr(value) == repr(got[0]) or output == value == got[0]


class Identity:
    description = "Gives back what it gets."
    inputs = {"value": {"type": "any", "description": "anything"}}

    def __init__(self, got: list[Any]) -> None:
        self.got = got

    def __call__(self, value: Any) -> Any:
        self.got.append(value)
        return value


def test_s1_host_objects_are_handles(executor: GateExecutor) -> None:
    client = Client()
    executor.send_variables({"client": client})
    executor.send_tools({"fetch": fetch})
    assert executor("print(fetch(client))").logs == "row 1\n"


def test_s3_an_answer_survives_code_that_swallows_exceptions(executor: GateExecutor) -> None:
    executor.send_tools({"final_answer": FinalAnswerTool()})
    ran = executor("try:\n    final_answer(7)\nexcept BaseException:\n    pass")
    assert (ran.output, ran.is_final_answer) == (7, True)


def test_s6_tracebacks_have_the_programs_lines_only(executor: GateExecutor) -> None:
    with pytest.raises(CodeError, match=r"(?s)line 3.*ZeroDivisionError") as fault:
        executor("x = 1\ny = 2\nx / 0")
    assert "weir" not in str(fault.value).lower()


def test_s7_a_denied_tool_can_be_caught_and_says_what_to_do(executor: GateExecutor) -> None:
    ran: list[int] = []
    executor.send_tools({"shell": lambda command: ran.append(1)})
    logs = executor("try:\n    shell('ls')\nexcept PermissionDenied as e:\n    print(e)").logs
    assert logs.startswith("[weir] denied tool shell: exec-denied (L3/") and "Do not retry." in logs and not ran
    with pytest.raises(PermissionDenied, match=r"^\[weir\] denied tool shell"):
        executor("shell('ls')")
    assert not ran


def test_s7_a_tool_that_the_policy_does_not_know_is_denied(executor: GateExecutor) -> None:
    executor.send_tools({"unheard": lambda: 1})
    with pytest.raises(PermissionDenied, match="denied tool unheard"):
        executor("unheard()")


def test_s9_after_a_runaway_program_the_model_is_told(executor: GateExecutor) -> None:
    executor.send_variables({"given": 5})
    executor("own = 1")
    with pytest.raises(Exhausted):
        executor("while True:\n    try:\n        pass\n    except BaseException:\n        pass")
    assert "gone" in executor.state["_print_outputs"]
    assert executor("given").output == 5
    with pytest.raises(CodeError, match="NameError"):
        executor("own")


def test_s10_the_time_of_host_tools_is_not_the_programs(executor: GateExecutor) -> None:
    executor.send_tools({"slow": lambda: time.sleep(11)})
    assert executor("slow()\nprint('in time')").logs == "in time\n"


def test_s11_s13_last_values_and_overwritten_tools(executor: GateExecutor) -> None:
    executor.send_tools({"double": double})
    assert executor("x = 3").output == 3
    executor("double = 5")
    assert executor("double(4)").output == 8


def test_s12_runs_keep_what_the_policy_keeps(sidecar: Sidecar) -> None:
    agent = agent_of(sidecar, code("kept = 41\nfinal_answer(1)"), code("final_answer(kept + 1)"))
    assert agent.run("one") == 1
    assert agent.run("two", reset=False) == 42
    weir.close(agent)


def test_s15_denied_imports_and_the_prompt(sidecar: Sidecar) -> None:
    agent = agent_of(sidecar, code("import socket"), code("final_answer(0)"))
    assert "'json'" in agent.system_prompt and "'socket'" not in agent.system_prompt
    agent.run("t")
    assert "[weir] denied import socket" in agent.model.said()
    assert "Import of socket is not allowed" in agent.model.said()
    weir.close(agent)


def test_s17_tool_calls_and_the_interpreter(sidecar: Sidecar) -> None:
    from smolagents import PythonInterpreterTool

    model = ScriptedModel(
        tool_call("double", number=4),
        tool_call("python_interpreter", code="print(6 * 7)"),
        tool_call("python_interpreter", code="open('/etc/passwd').read()"),
        tool_call("final_answer", answer="done"),
    )
    agent = ToolCallingAgent(tools=[double, PythonInterpreterTool()], model=model, verbosity_level=-1)
    weir.wrap(agent, sidecar=sidecar)
    assert agent.run("t") == "done"
    assert "Stdout:\n42\n" in model.said() and "root:" not in model.said()
    weir.close(agent)


def test_s18_a_managed_agent(sidecar: Sidecar) -> None:
    inner = CodeAgent(
        tools=[double],
        model=ScriptedModel(code("final_answer(double(4))")),
        name="helper",
        description="Helps.",
        verbosity_level=-1,
    )
    agent = agent_of(sidecar, code("final_answer(helper('go'))"), managed_agents=[inner])
    assert "8" in agent.run("t")
    weir.close(agent)


def test_s18_an_agent_below_shares_the_accounts_and_begins_no_run(sidecar: Sidecar) -> None:
    inner = CodeAgent(
        tools=[double],
        model=ScriptedModel(code("kept = 41\nfinal_answer(1)"), code("final_answer(double(kept) + 1)")),
        name="helper",
        description="Helps.",
        verbosity_level=-1,
    )
    calls = [code("final_answer(helper('go'))")] * 2
    agent = agent_of(sidecar, *calls, managed_agents=[inner])
    agent.run("one")
    assert "83" in agent.run("two"), "the variables of the agent below outlive a run"
    above, below = agent.python_executor.seat.session, inner.python_executor.seat.session
    accounts = [row["account"] for row in sidecar.budgets()["accounts"] if row["tier"] == "session"]
    assert any(above.id in account for account in accounts)
    assert not any(below.id in account for account in accounts), accounts
    with pytest.raises(Refused) as fault:
        below.begin_run()
    assert fault.value.status == 409
    receipts = sidecar.receipts(session=above.id)["receipts"]
    (nested,) = [row for row in receipts if row["action"]["tool"] == "double"]
    assert nested["action"]["requester_context"]["delegation_chain"] == ["helper"]
    agent.python_executor.seat.close()
    with pytest.raises(Refused) as gone:
        below.set_tools([])
    assert gone.value.status == 404, "closing the root closes those below"
    weir.close(agent)


def test_s17_the_interpreter_of_a_code_agent(weir_binary: str) -> None:
    from smolagents import PythonInterpreterTool

    model = ScriptedModel(code("print(python_interpreter(code='print(6 * 7)'))\nfinal_answer(1)"))
    agent = CodeAgent(tools=[PythonInterpreterTool()], model=model, verbosity_level=-1)
    weir.wrap(agent, profile=PROFILE)
    assert weir.report(agent).denied == []
    assert agent.run("t") == 1 and "42" in agent.memory.steps[-1].observations
    weir.close(agent)


def test_s18_agents_that_are_too_deep_are_reported_and_denied(weir_binary: str) -> None:
    def agent_named(name: str, *replies: str, below: Any = ()) -> CodeAgent:
        model = ScriptedModel(*map(code, replies))
        return CodeAgent([], model, name=name, description="d", managed_agents=list(below), verbosity_level=-1)

    deep = agent_named("deep")
    middle = agent_named("middle", "final_answer(deep('go'))", "final_answer('gave up')", below=[deep])
    top = agent_named("top", "final_answer(middle('go'))", below=[middle])
    weir.wrap(top, profile=PROFILE)
    why = "tasks are handed on deeper than the policy's max_depth"
    assert weir.report(top).denied == [f"agent deep of middle: {why}", f"tool final_answer of deep: {why}"]
    assert "gave up" in top.run("t") and deep.model.asked == []
    assert "delegation of depth 2 is deeper than 1" in middle.model.said()
    weir.close(top)


def test_s18_an_agent_below_spends_the_same_budget(weir_binary: str, tmp_path: Path) -> None:
    with Sidecar.from_profile(PROFILE, TOOLS, peers=["helper"]) as first:
        text = first.policy_file.read_text()
    (budget,) = re.findall(r'id = "tool-calls-per-session"(?s:.*?)limit = \d+', text)
    policy = tmp_path / "policy.toml"
    policy.write_text(text.replace(budget, re.sub(r"limit = \d+", "limit = 4", budget)))
    with Sidecar(policy) as sidecar:
        inner = CodeAgent(
            tools=[double],
            model=ScriptedModel(code("for i in range(9):\n    print(double(i))"), code("0"), "the helper's last word"),
            name="helper",
            description="Helps.",
            verbosity_level=-1,
            max_steps=2,
        )
        agent = agent_of(
            sidecar,
            code("double(1)\ndouble(2)\nprint(helper('go'))"),
            *[code("0")] * 3,
            "the last word",
            tools=(double,),
            managed_agents=[inner],
        )
        assert agent.run("t") == "the last word"
        assert inner.memory.steps[1].observations == "Execution logs:\n0\n", "one of the four was left"
        weir.close(agent)
        told = [str(step.error.message) for step in inner.memory.steps if getattr(step, "error", None)]
        assert any("tool-calls-per-session" in text for text in told), told


def test_a_refusal_has_its_reason_and_says_whether_the_sandbox_is_new(executor: GateExecutor) -> None:
    executor.send_variables({"given": [5]})
    executor("given.append(6)")
    with pytest.raises(PermissionDenied) as denied:
        executor("import socket")
    assert denied.value.reason == "import_denied"
    assert executor("given").output == [5, 6], "a denial leaves the interpreter as it is"
    with pytest.raises(Exhausted) as ended:
        executor("while True: pass")
    assert ended.value.reason == "limit_reached"
    assert executor("given").output == [5]
    with pytest.raises(PermissionDenied) as asked:
        executor.seat.decide("tool.call", "unheard", {})
    assert asked.value.reason == "unknown_tool"


def test_the_report_names_what_the_policy_does_not_have(sidecar: Sidecar) -> None:
    class Unheard(FinalAnswerTool):
        name = "unheard"

    agent = agent_of(sidecar, tools=(double, Unheard()))
    assert weir.report(agent).denied == ["tool unheard of agent: the policy has no such tool"]
    weir.close(agent)


def test_state_of_tools_stays_on_the_host(sidecar: Sidecar) -> None:
    counter = Counter(40)
    agent = agent_of(sidecar, code("count()\nfinal_answer(count())"), tools=(counter,))
    assert agent.run("t") == 42
    weir.close(agent)


def test_interrupt_stops_a_running_program(executor: GateExecutor) -> None:
    executor("1")
    threading.Timer(0.3, executor.interrupt).start()
    began = time.monotonic()
    with pytest.raises(weir.Interrupted):
        executor("while True: pass")
    assert time.monotonic() - began < 5
    assert executor("2").output == 2


def test_nothing_of_the_host_is_in_the_sandbox(executor: GateExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in (
        "open('/etc/passwd')",
        "open('x', 'w')",
        "__import__('subprocess')",
        "__import__('os').listdir('/home')",
    ):
        with pytest.raises((CodeError, PermissionDenied)):
            executor(program)


def test_receipts_scores_and_budgets_can_be_read(sidecar: Sidecar, executor: GateExecutor) -> None:
    executor("1")
    session = executor.seat.session.id
    made = sidecar.receipts(session=session)["receipts"]
    assert made[0]["receipt_id"] == executor.receipts[-1]
    assert made[0]["action"]["operation"] == "code.run"
    assert len(sidecar.scores()["factors"]) == 10
    assert sidecar.budgets()["accounts"]


def test_a_wrong_token_is_refused(sidecar: Sidecar) -> None:
    with pytest.raises(Refused) as fault:
        Connection(sidecar.where, "wrong").get("/v1/scores")
    assert fault.value.status == 401


def test_a_sidecar_that_was_killed_allows_nothing(weir_binary: str) -> None:
    with Sidecar.from_profile(PROFILE, TOOLS) as made, GateExecutor(sidecar=made) as executor:
        executor("1")
        assert made._process is not None
        made._process.kill()
        made._process.wait()
        with pytest.raises(weir.GateUnavailable):
            executor("2")
