"""One test for each pitfall of running smolagents behind a gate, S1 to S23, named after it.

They run against the stand-in gate: they show what the adapter does, not what the sandbox does.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
import smolagents
from conftest import ScriptedModel, StreamingModel, code
from fake_gate import FakeGate
from smolagents import CodeAgent, FinalAnswerTool, LocalPythonExecutor, Tool, ToolCallingAgent, tool
from smolagents.models import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole
from smolagents.utils import AgentGenerationError

import weir
from weir import (
    CodeError,
    Exhausted,
    Gate,
    GateError,
    GateExecutor,
    GateStopped,
    GateUnavailable,
    Interrupted,
)


class Client:
    """A thing of the host that no wire can carry."""

    def __init__(self) -> None:
        self.asked = 0

    def __reduce__(self) -> Any:
        raise TypeError("never pickled")

    def fetch(self) -> str:
        self.asked += 1
        return f"row {self.asked}"


@tool
def fetch(client: object) -> str:
    """Fetches one row.

    Args:
        client: the client.
    """
    return client.fetch()  # type: ignore[attr-defined]


fetch.inputs["client"]["type"] = "any"


@tool
def double(number: int) -> int:
    """Doubles a number.

    Args:
        number: the number.
    """
    return number * 2


def agent_of(gate: Gate, *replies: Any, tools: tuple = (), usage: Any = (100, 20), **options: Any) -> CodeAgent:
    model = ScriptedModel(*replies, usage=usage)
    agent = CodeAgent(tools=list(tools), model=model, max_steps=4, verbosity_level=-1, **options)
    return weir.wrap(agent, sidecar=gate)


def test_s1_variables_that_cannot_cross_become_handles(executor: GateExecutor) -> None:
    client = Client()
    executor.send_variables({"client": client, "rows": [client, 1], "name": "n", "not an identifier": 1})
    executor.send_tools({"fetch": fetch})
    assert executor("print(name, fetch(client), fetch(rows[0]))").logs == "n row 1 row 2\n"
    assert client.asked == 2


def test_s2_final_answer_runs_on_the_host_and_ends_the_cell(executor: GateExecutor) -> None:
    class Stamped(FinalAnswerTool):
        def forward(self, answer: Any) -> Any:
            return f"stamped {answer}"

    executor.send_tools({"final_answer": Stamped()})
    ran = executor("final_answer('x')\nprint('never')")
    assert (ran.output, ran.is_final_answer, ran.logs) == ("stamped x", True, "")


def test_s3_an_answer_survives_code_that_swallows_exceptions(executor: GateExecutor) -> None:
    executor.send_tools({"final_answer": FinalAnswerTool()})
    ran = executor("try:\n    final_answer(7)\nexcept BaseException:\n    pass\nprint('after')")
    assert (ran.output, ran.is_final_answer) == (7, True)


def test_s4_prints_before_an_error_reach_the_model(fake: FakeGate, gate: Gate) -> None:
    agent = agent_of(gate, code("print('seen before')\n1/0"), code("final_answer(1)"))
    assert agent.run("t") == 1
    assert "seen before" in agent.model.said() and "ZeroDivisionError" in agent.model.said()


def test_s5_logs_are_cut(gate: Gate) -> None:
    with GateExecutor(sidecar=gate, max_output=100) as executor:
        logs = executor("print('a' * 500)\nprint('end')").logs
    assert len(logs) < 200 and "characters left out" in logs and logs.endswith("end\n")


def test_s6_a_traceback_has_the_programs_own_lines_only(executor: GateExecutor) -> None:
    with pytest.raises(CodeError) as fault:
        executor("x = 1\ndef f():\n    return x / 0\nf()")
    text = str(fault.value)
    assert 'File "<agent>", line 4' in text and "return x / 0" in text and "ZeroDivisionError" in text
    assert "fake_gate" not in text and "/weir/" not in text


def test_s7_a_denial_is_catchable_in_the_program(fake: FakeGate, executor: GateExecutor) -> None:
    fake.denied.add("double")
    executor.send_tools({"double": double})
    ran = executor("try:\n    double(1)\nexcept PermissionDenied as e:\n    print(str(e).splitlines()[-1])")
    assert ran.logs == "Do not retry.\n"


def test_s7_an_uncaught_denial_reaches_the_model_unchanged(fake: FakeGate, gate: Gate) -> None:
    fake.denied.add("double")
    agent = agent_of(gate, code("double(1)"), code("final_answer('gave up')"), tools=(double,))
    assert agent.run("t") == "gave up"
    assert "[weir] denied tool double: rule-deny (L3/tool-misuse)\nDo not retry." in agent.model.said()


def test_s8_the_kill_switch_ends_the_run(fake: FakeGate, gate: Gate) -> None:
    fake.denied.add("double")
    model = ScriptedModel(*[code("double(1)")] * 9)
    agent = weir.wrap(CodeAgent(tools=[double], model=model, verbosity_level=-1), sidecar=gate, stop_after=3)
    with pytest.raises(GateStopped, match="3 refused steps"):
        agent.run("t")
    assert len(model.asked) == 3


def test_s8_interrupt_stops_the_program_that_runs_now(fake: FakeGate, gate: Gate) -> None:
    waits = threading.Event()

    @tool
    def wait() -> int:
        """Waits."""
        waits.set()
        time.sleep(0.3)
        return 1

    agent = agent_of(gate, code("while True: wait()"), tools=(wait,))
    threading.Thread(target=lambda: (waits.wait(), agent.interrupt()), daemon=True).start()
    with pytest.raises(Exception, match="interrupted"):
        agent.run("t")


def test_s8_interrupt_without_a_tool_call(executor: GateExecutor) -> None:
    threading.Timer(0.2, executor.interrupt).start()
    began = time.monotonic()
    executor.send_variables({"given": 5})
    with pytest.raises(Interrupted, match="variables of earlier steps are gone"):
        executor("while True: pass")
    assert time.monotonic() - began < 1.5
    assert executor("given").output == 5, "a new session, with the variables of the host"


def test_s8_ctrl_c_in_a_tool_cancels_the_program(fake: FakeGate, executor: GateExecutor) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    executor.send_tools({"stop": stop})
    with pytest.raises(KeyboardInterrupt):
        executor("stop()\nprint('never')")
    assert [request for request in fake.requests if request[0] == "DELETE"][0][1].startswith("/v1/executions/")
    assert executor("print('alive')").logs == (
        "alive\n[weir] the sandbox is a new one; the variables of earlier steps are gone\n"
    )
    assert executor("print('alive')").logs == "alive\n", "said once"


def test_s8_ctrl_c_while_the_program_runs_leaves_nothing_running(
    fake: FakeGate, executor: GateExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(executor.seat.session, "_post", interrupted)
    with pytest.raises(KeyboardInterrupt):
        executor("1")
    assert not fake.sessions, "the gate knows no such execution, and one on its way would still begin: the session ends"
    assert executor("2").output == 2


def test_s10_an_answer_that_comes_too_late_is_dropped_and_the_program_goes_on(
    fake: FakeGate, executor: GateExecutor
) -> None:
    fake.late = True
    executor.send_tools({"slow": lambda: 1})
    ran = executor("try:\n    slow()\nexcept Exception as e:\n    print(type(e).__name__)")
    assert ran.logs == "TimeoutError\n[weir] the answer of slow came too late and was dropped\n"


def test_s9_after_a_loss_the_model_is_told_and_the_variables_are_sent_again(executor: GateExecutor) -> None:
    executor.send_variables({"given": 5})
    executor("own = 1")
    with pytest.raises(Exhausted, match="limit_reached"):
        executor("while True: pass")
    assert "variables of earlier steps are gone" in executor.state["_print_outputs"]
    assert executor("print(given)").logs == "5\n"
    with pytest.raises(CodeError, match="NameError"):
        executor("own")


def test_s10_the_time_of_host_tools_is_not_the_programs(fake: FakeGate, executor: GateExecutor) -> None:
    executor.send_tools({"slow": lambda: time.sleep(2.2)})
    assert executor("slow()\nprint('in time')").logs == "in time\n"
    assert executor.seat.session.execute_seconds > 600, "the adapter itself does not cut a tool short"


def test_s11_the_last_value_is_the_last_statements(executor: GateExecutor) -> None:
    assert executor("1\nx = 3").output == 3
    assert executor("x + 1").output == 4
    assert executor("import math").output is None


def test_s12_a_second_run_works_and_reset_false_keeps_variables(fake: FakeGate, gate: Gate) -> None:
    agent = agent_of(
        gate, code("kept = 41\nfinal_answer(1)"), code("final_answer(kept + 1)"), code("final_answer(kept)")
    )
    assert agent.run("one") == 1
    assert agent.run("two", reset=False) == 42
    assert agent.run("three") == 41
    assert [path.split("/")[-1] for method, path, _ in fake.requests if path.endswith("/runs")] == ["runs", "runs"]
    assert len([1 for method, path, _ in fake.requests if path.endswith("/tools")]) == 1, "sent only when changed"


def test_s13_a_tool_name_that_code_overwrote_works_in_the_next_step(executor: GateExecutor) -> None:
    executor.send_tools({"double": double})
    executor("double = 5")
    assert executor("double(4)").output == 8


def test_s14_the_prompt_says_that_there_are_no_threads(gate: Gate) -> None:
    assert "without threads" in agent_of(gate).system_prompt


def test_s15_the_prompt_lists_the_gates_imports(fake: FakeGate, gate: Gate) -> None:
    fake.imports = ["math", "json"]
    agent = agent_of(gate, code("import socket"), code("final_answer(0)"), additional_authorized_imports=["socket"])
    assert str(["json", "math"]) in agent.system_prompt and "socket" not in str(agent.authorized_imports)
    assert str(["json", "math"]) in agent.memory.system_prompt.system_prompt
    agent.run("t")
    assert "[weir] denied import socket" in agent.model.said()


def test_s16_a_saved_agent_does_not_come_back_on_the_host(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(smolagents.models.MODEL_REGISTRY, "ScriptedModel", ScriptedModel)
    monkeypatch.setattr(ScriptedModel, "from_dict", classmethod(lambda cls, data: cls()), raising=False)
    agent = agent_of(gate)
    saved = agent.to_dict()
    assert saved["executor_type"] == "weir"
    with pytest.raises(ValueError, match="Unsupported executor type: weir"):
        CodeAgent.from_dict(saved)


def tool_call(name: str, **arguments: Any) -> ChatMessage:
    function = ChatMessageToolCallFunction(name=name, arguments=arguments)
    return ChatMessage(
        role=MessageRole.ASSISTANT,
        content="",
        tool_calls=[ChatMessageToolCall(id="1", type="function", function=function)],
    )


def test_s17_python_interpreter_runs_in_the_sandbox(fake: FakeGate, gate: Gate) -> None:
    from smolagents import PythonInterpreterTool

    model = ScriptedModel(
        tool_call("python_interpreter", code="import math\nprint(math.floor(2.5))\n'v'"),
        tool_call("python_interpreter", code="import os"),
        tool_call("final_answer", answer="done"),
    )
    agent = ToolCallingAgent(tools=[PythonInterpreterTool()], model=model, verbosity_level=-1)
    weir.wrap(agent, sidecar=gate)
    assert agent.run("t") == "done"
    assert [body["code"][:6] for _, path, body in fake.requests if path.endswith("/execute")] == ["import", "import"]
    assert "Stdout:\n2\n\nOutput: v" in model.said()
    assert "[weir] denied import os" in model.said()
    assert "try again or use another tool" not in model.said()


def test_s17_the_interpreter_of_a_code_agent_is_replaced_too(fake: FakeGate, gate: Gate) -> None:
    from smolagents import PythonInterpreterTool

    agent = agent_of(gate, code("final_answer(python_interpreter(code='1+1'))"), tools=(PythonInterpreterTool(),))
    assert "Output: 2" in agent.run("t")
    assert len(fake.sessions) == 2


def manager(gate: Gate, fake: FakeGate, inner_code: str) -> tuple[CodeAgent, ScriptedModel]:
    inner_model = ScriptedModel(code(inner_code), code("final_answer('inner gave up')"))
    inner = CodeAgent(
        tools=[double], model=inner_model, name="helper", description="Helps.", verbosity_level=-1, max_steps=3
    )
    outer = CodeAgent(
        tools=[],
        model=ScriptedModel(code("final_answer(helper('double 4'))")),
        managed_agents=[inner],
        verbosity_level=-1,
    )
    return weir.wrap(outer, sidecar=gate), inner_model


def test_s18_managed_agents_are_gated_at_the_same_gate(fake: FakeGate, gate: Gate) -> None:
    outer, _ = manager(gate, fake, "final_answer(double(4))")
    assert "8" in outer.run("t")
    root, below = fake.sessions.values()
    assert (root.parent, root.name) == (None, None) and (below.parent, below.name) == (root.id, "helper")
    assert [body for _, path, body in fake.requests if path.endswith("/runs")] == [], "a run is begun above only"
    assert [row["action"]["operation"] for row in fake.receipts if row["action"]["tool"] in ("helper", "double")] == [
        "tool.call",
        "agent.invoke",
    ]
    assert weir.report(outer).agents == ["agent", "agent > helper"]


def test_s18_one_budget_for_all(fake: FakeGate, gate: Gate) -> None:
    fake.budget = 7
    outer, inner = manager(gate, fake, "while True:\n    double(1)")
    with pytest.raises(AgentGenerationError, match="budget_exhausted"):
        outer.run("t")


def test_s18_a_denied_agent_call_is_denied(fake: FakeGate, gate: Gate) -> None:
    fake.denied.add("agent.invoke")
    outer, inner = manager(gate, fake, "final_answer(1)")
    outer.model.replies.append(code("final_answer('alone')"))
    assert outer.run("t") == "alone"
    assert inner.asked == [] and "denied agent helper" in outer.model.said()


def test_s19_a_forged_handle_opens_nothing(fake: FakeGate, executor: GateExecutor) -> None:
    client, forged = Client(), {"$": ["handle", "0" * 32, "Client", "x"]}
    executor.send_variables({"client": client})
    executor.send_tools({"fetch": fetch})
    fake.tamper = lambda args: {"client": forged}
    with pytest.raises(CodeError, match="HandleError: this handle is unknown"):
        executor("fetch(client)")
    assert client.asked == 0


def test_s19_handles_end_with_the_executor(gate: Gate) -> None:
    executor = GateExecutor(sidecar=gate)
    executor.send_variables({"client": Client()})
    executor("1")
    assert len(executor.handles) == 1
    executor.cleanup()
    assert len(executor.handles) == 0


@pytest.mark.parametrize("value", [
    {"$": ["handle", "0" * 32, "T", "r"]}, {"__type__": "handle"}, [float("nan"), float("inf")], 10**50, "\ud800", {1: {2: 3}},
], ids=repr)  # fmt: skip
def test_s20_user_data_never_collides_with_the_framing(executor: GateExecutor, value: Any) -> None:
    got: list[Any] = []
    executor.send_tools({"keep": lambda value: got.append(value) or value})
    executor.send_variables({"value": value})
    assert repr(executor("keep(value)").output) == repr(value) == repr(got[0])


def test_s20_a_result_that_is_too_deep_becomes_a_handle_and_says_so(executor: GateExecutor) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    executor.send_tools({"make": lambda: deep, "same": lambda thing: thing is deep})
    ran = executor("print(same(make()))")
    assert ran.logs.startswith("True\n[weir] the result of make is a handle")


def test_s21_no_logger_is_needed(gate: Gate) -> None:
    agent = CodeAgent(
        tools=[], model=ScriptedModel(code("final_answer(3)")), executor=GateExecutor(sidecar=gate), verbosity_level=-1
    )
    assert agent.run("t") == 3
    with pytest.raises(CodeError) as fault:
        agent.python_executor("1/0")
    assert fault.value.dict()["type"] == "CodeError"


def test_s22_every_generation_is_held_and_settled(fake: FakeGate, gate: Gate) -> None:
    agent = agent_of(gate, "a plan", code("1"), code("2"), code("3"), code("4"), "the last word", planning_interval=9)
    assert agent.run("t") == "the last word"
    held = [row for row in fake.decided if row["action"] == "model.generate"]
    assert len(held) == 6 and {row["resource"] for row in held} == {"scripted"}
    assert all(type(row["args"]["max_tokens"]) is int and row["args"]["max_tokens"] > 4096 for row in held)
    assert [row["usage"] for row in fake.outcomes] == [{"tokens": 120, "tokens_in": 100, "tokens_out": 20}] * 6


def test_s22_without_tokens_there_is_no_generation(fake: FakeGate, gate: Gate) -> None:
    fake.tokens = 100
    agent = agent_of(gate, code("final_answer(1)"))
    with pytest.raises(AgentGenerationError, match="denied model scripted: budget_exhausted"):
        agent.run("t")
    assert agent.model.asked == []


def test_s22_streams_are_settled_too(fake: FakeGate, gate: Gate) -> None:
    agent = CodeAgent(tools=[], model=StreamingModel(code("final_answer(1)")), stream_outputs=True, verbosity_level=-1)
    assert weir.wrap(agent, sidecar=gate).run("t") == 1
    assert [row["usage"] for row in fake.outcomes] == [{"tokens": 120, "tokens_in": 100, "tokens_out": 20}]


def test_s22_a_stream_that_is_left_and_a_call_that_fails_end_as_unknown(fake: FakeGate, gate: Gate) -> None:
    agent = CodeAgent(tools=[], model=StreamingModel("x", ConnectionError("lost")), verbosity_level=-1)
    weir.wrap(agent, sidecar=gate)
    stream = agent.model.generate_stream([])
    next(stream)
    stream.close()
    with pytest.raises(ConnectionError):
        agent.model([])
    assert [row["status"] for row in fake.outcomes] == ["unknown", "unknown"]


def test_s22_a_model_without_figures_keeps_its_reservation(fake: FakeGate, gate: Gate) -> None:
    agent_of(gate, code("final_answer(1)"), usage=None).run("t")
    assert "usage" not in fake.outcomes[0]


def test_s23_a_gate_that_is_gone_allows_nothing(fake: FakeGate, gate: Gate) -> None:
    agent = agent_of(gate, code("final_answer(double(1))"), tools=(double,))
    fake.__exit__()
    fake.socket.unlink()
    gate.client.close()
    with pytest.raises(AgentGenerationError, match="cannot be reached|no longer"):
        agent.run("t")
    assert agent.model.asked == []
    with pytest.raises(GateUnavailable):
        agent.python_executor("1")


def test_s23_the_adapter_decides_and_counts_nothing() -> None:
    """The sources hold no policy: every refusal in a run comes from a reply of the gate."""
    from pathlib import Path

    for file in ("_executor.py", "_toolcall.py", "_model.py", "_session.py", "_seat.py"):
        text = (Path(weir.__file__).parent / file).read_text()
        for word in ("tomllib", "budget =", "allowed_tools", "denied_tools"):
            assert word not in text, f"{file} has {word}"


# -- what belongs to no number ------------------------------------------------------------------


def test_a_session_that_the_gate_lost_is_said_and_replaced(fake: FakeGate, executor: GateExecutor) -> None:
    executor("x = 1")
    fake.sessions.clear()
    with pytest.raises(GateUnavailable, match="no longer knows this session"):
        executor("x")
    assert executor("print('new')").logs == "new\n"


def test_a_tool_cannot_run_code_in_the_session_that_called_it(executor: GateExecutor) -> None:
    executor.send_tools({"again": lambda: executor("1")})
    with pytest.raises(CodeError, match="already running"):
        executor("again()")


def test_an_error_of_a_tool_is_the_programs_to_catch(executor: GateExecutor) -> None:
    def broken() -> None:
        raise LookupError("no row\ud800")

    executor.send_tools({"broken": broken})
    ran = executor("try:\n    broken()\nexcept Exception as e:\n    print(type(e).__name__, e)")
    assert ran.logs == "LookupError no row?\n"


def test_objects_of_the_guest_come_out_as_text(executor: GateExecutor) -> None:
    output = executor("(x for x in 'ab')").output
    assert isinstance(output, weir.GuestObject) and "generator" in str(output)


def test_imports_that_the_policy_lacks_are_an_error_at_the_start(fake: FakeGate, gate: Gate) -> None:
    GateExecutor(["json", "collections.abc"], sidecar=gate).cleanup()
    with pytest.raises(GateError, match="does not grant the imports numpy"):
        GateExecutor(["json", "numpy"], sidecar=gate)
    assert not fake.sessions


def test_the_host_executor_is_not_in_use(gate: Gate) -> None:
    agent = agent_of(gate)
    assert not isinstance(agent.python_executor, LocalPythonExecutor)
    assert json.dumps(agent.to_dict()["executor_kwargs"]) == "{}"


class Counter(Tool):
    name, description, inputs, output_type = "count", "Counts.", {}, "integer"

    def __init__(self, start: int) -> None:
        super().__init__()
        self.value = start

    def forward(self) -> int:
        self.value += 1
        return self.value


def test_tools_keep_their_state_on_the_host(gate: Gate) -> None:
    counter = Counter(40)
    assert agent_of(gate, code("count()\nfinal_answer(count())"), tools=(counter,)).run("t") == 42 == counter.value


def nested(gate: Gate, *replies: Any) -> tuple[CodeAgent, CodeAgent]:
    """A manager of two tasks and its helper, which keeps variables from one call to the next."""
    inner = CodeAgent(
        tools=[], model=ScriptedModel(*replies), name="helper", description="Helps.", verbosity_level=-1, max_steps=3
    )
    calls = [code("final_answer(helper('go'))")] * 2
    outer = CodeAgent(tools=[], model=ScriptedModel(*calls), managed_agents=[inner], verbosity_level=-1)
    return weir.wrap(outer, sidecar=gate), inner


def test_s18_only_the_agent_above_begins_runs(fake: FakeGate, gate: Gate) -> None:
    outer, _ = nested(gate, code("kept = 41\nfinal_answer(1)"), code("final_answer(kept + 1)"))
    outer.run("one")
    root, _ = fake.sessions
    assert "42" in outer.run("two")
    assert [path for _, path, _ in fake.requests if path.endswith("/runs")] == [f"/v1/sessions/{root}/runs"]


def test_s18_the_sessions_below_follow_a_new_session_above(fake: FakeGate, gate: Gate) -> None:
    outer, inner = nested(gate, code("kept = 41\nfinal_answer(1)"), code("print(1)\nfinal_answer('kept' in globals())"))
    outer.run("one")
    outer.python_executor.seat.close()
    assert not fake.sessions, "the gate closes those below too"
    assert "False" in outer.run("two")
    root, below = fake.sessions.values()
    assert below.parent == root.id
    assert "variables of earlier steps are gone" in inner.memory.steps[-1].observations


def test_s18_an_interpreter_tool_of_a_code_agent_spends_from_the_same_accounts(fake: FakeGate, gate: Gate) -> None:
    from smolagents import PythonInterpreterTool

    agent = agent_of(gate, code("final_answer(python_interpreter(code='1+1'))"), tools=(PythonInterpreterTool(),))
    agent.run("t")
    root, below = fake.sessions.values()
    assert (below.parent, below.name) == (root.id, "python_interpreter")


def test_a_refusal_has_its_reason(fake: FakeGate, executor: GateExecutor) -> None:
    with pytest.raises(Exhausted) as ended:
        executor("while True: pass")
    assert ended.value.reason == "limit_reached"
    fake.denied.add("double")
    executor.send_tools({"double": double})
    with pytest.raises(weir.PermissionDenied) as denied:
        executor("double(1)")
    assert denied.value.reason == "rule" and not isinstance(denied.value, Exhausted)
    fake.tokens = 1
    with pytest.raises(Exhausted):
        executor.seat.decide("model.generate", "m", {"max_tokens": 2})


def test_variables_are_sent_again_when_the_gate_says_so(fake: FakeGate, executor: GateExecutor) -> None:
    executor.send_variables({"given": [5]})
    executor("given.append(6)")
    fake.denied.add("double")
    executor.send_tools({"double": double})
    with pytest.raises(weir.PermissionDenied):
        executor("double(1)")
    assert executor("given").output == [5, 6], "the interpreter is the same one after a denial"
    with pytest.raises(Exhausted):
        executor("while True: pass")
    assert executor("given").output == [5]
