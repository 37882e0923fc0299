"""``wrap``: what it covers, what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

import hashlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from conftest import ScriptedModel, code
from fake_gate import FakeGate
from smolagents import CodeAgent, FinalAnswerTool, PythonInterpreterTool, ToolCallingAgent, VisitWebpageTool, tool
from smolagents.agents import MultiStepAgent
from test_pitfalls import Client, double, fetch, tool_call

import weir
from weir import CoverageError, Gate, GateError, GateExecutor, PermissionDenied
from weir._model import input_bound, model_name, output_bound


def calling(*replies: Any, tools: Any = (double,), **options: Any) -> ToolCallingAgent:
    return ToolCallingAgent(
        tools=list(tools), model=ScriptedModel(*replies), verbosity_level=-1, max_steps=4, **options
    )


def coding(*replies: Any, tools: Any = (), **options: Any) -> CodeAgent:
    return CodeAgent(tools=list(tools), model=ScriptedModel(*replies), verbosity_level=-1, **options)


class TestToolCalls:
    def test_each_is_decided_on_its_arguments_and_reported(self, fake: FakeGate, gate: Gate) -> None:
        agent = weir.wrap(calling(tool_call("double", number=4), tool_call("final_answer", answer="8")), sidecar=gate)
        assert agent.run("t") == "8"
        asked = [(row["action"], row["resource"], row["args"]) for row in fake.decided if row["action"] == "tool.call"]
        assert asked == [("tool.call", "double", {"number": 4}), ("tool.call", "final_answer", {"answer": "8"})]
        ended = [row for row in fake.outcomes if row["action"] == "tool.call"]
        assert [row["status"] for row in ended] == ["done", "done"]
        assert ended[0]["result_digest"] == "sha256:" + hashlib.sha256(b"8").hexdigest()

    def test_a_denial_reaches_the_model_unchanged_and_the_tool_does_not_run(self, fake: FakeGate, gate: Gate) -> None:
        ran: list[int] = []

        @tool
        def remove(path: str) -> str:
            """Removes.

            Args:
                path: what.
            """
            ran.append(1)
            return "gone"

        fake.denied.add("remove")
        agent = calling(tool_call("remove", path="/x"), tool_call("final_answer", answer="no"), tools=(remove,))
        assert weir.wrap(agent, sidecar=gate).run("t") == "no"
        assert not ran
        assert "Error:\n[weir] denied tool remove: rule-deny (L3/tool-misuse)\nDo not retry.\nNow" in agent.model.said()

    def test_what_is_decided_is_what_the_tool_gets(self, fake: FakeGate, gate: Gate) -> None:
        got: list[str] = []

        @tool
        def say(text: str) -> str:
            """Says.

            Args:
                text: what.
            """
            got.append(text)
            return text

        agent = calling(tool_call("say", text="first"), tool_call("final_answer", answer="x"), tools=(say,))
        weir.wrap(agent, sidecar=gate)
        agent.run("t", additional_args={"first": "second", "second": "third"})
        decided = next(row for row in fake.decided if row["resource"] == "say")
        assert decided["args"] == {"text": "second"} and got == ["second"]

    def test_objects_are_decided_as_handles(self, fake: FakeGate, gate: Gate) -> None:
        agent = calling(tool_call("fetch", client="c"), tool_call("final_answer", answer="x"), tools=(fetch,))
        client = Client()
        weir.wrap(agent, sidecar=gate).run("t", additional_args={"c": client})
        decided = next(row for row in fake.decided if row["resource"] == "fetch")
        assert decided["args"]["client"]["$"][0] == "handle" and client.asked == 1

    def test_a_failing_tool_is_reported_as_failed(self, fake: FakeGate, gate: Gate) -> None:
        @tool
        def broken() -> str:
            """Breaks."""
            raise RuntimeError("no")

        agent = calling(tool_call("broken"), tool_call("final_answer", answer="x"), tools=(broken,))
        weir.wrap(agent, sidecar=gate).run("t")
        assert next(row for row in fake.outcomes if row["resource"] == "broken")["status"] == "failed"
        assert "RuntimeError: no" in agent.model.said()

    def test_an_unknown_tool_is_the_frameworks_error_and_asks_nothing(self, fake: FakeGate, gate: Gate) -> None:
        agent = calling(tool_call("nothing"), tool_call("final_answer", answer="x"))
        weir.wrap(agent, sidecar=gate).run("t")
        assert "Unknown tool nothing" in agent.model.said()
        assert not [row for row in fake.decided if row["resource"] == "nothing"]

    def test_a_managed_agent_is_invoked_not_called(self, fake: FakeGate, gate: Gate) -> None:
        inner = coding(code("final_answer('inner')"), name="helper", description="Helps.")
        outer = calling(tool_call("helper", task="go"), tool_call("final_answer", answer="x"), managed_agents=[inner])
        assert weir.wrap(outer, sidecar=gate).run("t") == "x"
        assert ("agent.invoke", "helper") in [(row["action"], row["resource"]) for row in fake.decided]

    def test_each_run_is_a_run_at_the_gate(self, fake: FakeGate, gate: Gate) -> None:
        agent = calling(tool_call("final_answer", answer="1"), tool_call("final_answer", answer="2"))
        weir.wrap(agent, sidecar=gate)
        agent.run("one")
        agent.run("two")
        assert [path for _, path, _ in fake.requests if path.endswith("/runs")] != []


class TestRefusals:
    def refused(self, agent: Any, **options: Any) -> list[str]:
        before = {name: value for name, value in vars(agent).items()}
        with pytest.raises(CoverageError) as fault:
            weir.wrap(agent, **options)
        assert vars(agent) == before, "a refusal changes nothing"
        return fault.value.problems

    def test_a_tool_of_unknown_effect_with_the_line_to_add(self) -> None:
        (problem,) = self.refused(coding(tools=(double,)), profile="p.toml")
        assert 'add tools={"double": "read"}' in problem

    def test_all_problems_at_once(self) -> None:
        agent = coding(tools=(double, fetch))
        agent.model.kwargs["web_search_options"] = {}
        agent.model.kwargs["tools"] = [{"type": "web_search"}]
        problems = self.refused(agent, profile="p.toml", tools={"other": "harmless"})
        assert len(problems) == 4 and any("provider" in text for text in problems)

    def test_a_tool_with_a_known_name_but_of_another_class_is_not_known(self) -> None:
        @tool
        def visit_webpage(url: str) -> str:
            """Deletes everything.

            Args:
                url: of what.
            """
            return url

        assert "visit_webpage" in self.refused(coding(tools=(visit_webpage,)), profile="p.toml")[0]

    def test_a_final_answer_that_a_derived_policy_cannot_know(self) -> None:
        class Rated(FinalAnswerTool):
            inputs = {name: {"type": "string", "description": "d"} for name in ("answer", "rating")}

            def forward(self, answer: str, rating: str) -> str:
                return answer + rating

        assert "it takes answer, rating" in self.refused(coding(tools=(Rated(),)), profile="p.toml")[0]

    def test_an_unknown_kind_of_agent(self, gate: Gate) -> None:
        class Odd(MultiStepAgent):
            def initialize_system_prompt(self) -> str:
                return ""

        agent = Odd(tools=[], model=ScriptedModel(), verbosity_level=-1)
        assert "neither a CodeAgent" in self.refused(agent, sidecar=gate)[0]
        with pytest.raises(CoverageError):
            weir.wrap(agent, sidecar=gate, strict=False)

    def test_a_step_loop_of_its_own(self, gate: Gate) -> None:
        class Own(CodeAgent):
            def _step_stream(self, memory_step: Any) -> Any:
                yield from super()._step_stream(memory_step)

        agent = Own(tools=[], model=ScriptedModel(code("final_answer(1)")), verbosity_level=-1)
        assert "_step_stream of its own" in self.refused(agent, sidecar=gate)[0]
        weir.wrap(agent, sidecar=gate, strict=False)
        assert "_step_stream" in weir.report(agent).open[0] and not weir.report(agent).complete

    def test_a_model_without_a_seam(self, gate: Gate) -> None:
        agent = coding()
        agent.model = lambda messages: "text"
        assert "no generate()" in self.refused(agent, sidecar=gate)[0]

    def test_an_agent_that_runs(self, gate: Gate) -> None:
        problems: list[str] = []

        @tool
        def inside() -> str:
            """Wraps its own agent."""
            problems.extend(self.refused(agent, sidecar=gate))
            return "x"

        agent = coding(code("final_answer(inside())"), tools=(inside,))
        agent.run("t")
        assert "a run is under way" in problems[0]
        assert weir.wrap(agent, sidecar=gate) is agent, "after the run it can be wrapped"

    def test_twice(self, gate: Gate) -> None:
        agent = weir.wrap(coding(), sidecar=gate)
        with pytest.raises(CoverageError, match="wrapped already"):
            weir.wrap(agent, sidecar=gate, strict=False)

    def test_not_exactly_one_policy(self, gate: Gate) -> None:
        for options in ({}, {"sidecar": gate, "policy": "p.toml"}):
            with pytest.raises(GateError, match="exactly one"):
                weir.wrap(coding(), **options)

    def test_a_gate_that_cannot_be_reached_leaves_the_agent_alone(self, fake: FakeGate, gate: Gate) -> None:
        agent = coding()
        before = dict(vars(agent))
        fake.__exit__()
        fake.socket.unlink()
        with pytest.raises(GateError):
            weir.wrap(agent, sidecar=gate)
        assert vars(agent) == before


def test_known_and_stated_effects_go_into_the_policy(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    asked: dict[str, Any] = {}

    def started(profile: Any, tools: Any, allow: Any, peers: Any, **options: Any) -> Gate:
        asked.update(profile=profile, tools=dict(tools), allow=list(allow), peers=list(peers), **options)
        return gate

    monkeypatch.setattr("weir._sidecar.Sidecar.from_profile", started)
    inner = coding(name="helper", description="Helps.")
    other = calling(tools=(PythonInterpreterTool(),), name="other", description="Has its code decided as code.")
    agent = coding(tools=(double, VisitWebpageTool()), managed_agents=[inner, other], name="chief")
    weir.wrap(agent, profile="p.toml", tools={"double": "read"}, allow=["visit_webpage"])
    assert asked["tools"] == {"double": "read", "visit_webpage": "network", "final_answer": "read"}
    assert (asked["allow"], asked["peers"], asked["agent"]) == (["visit_webpage"], ["helper", "other"], "chief")
    weir.wrap(coding(tools=(PythonInterpreterTool(),)), profile="p.toml")
    assert asked["tools"] == {"python_interpreter": "read", "final_answer": "read"}, (
        "called from code, run in the sandbox"
    )


def test_the_report_reads_well(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    agent = weir.wrap(coding(tools=(double,)), sidecar=gate)
    assert capsys.readouterr().out == "", "wrap itself prints nothing"
    report = weir.report(agent)
    text = str(report)
    assert report.complete
    for part in (
        "gate      unix:",
        "tools     double",
        "models    scripted of agent",
        "imports   base64, ",
        "not seen",
    ):
        assert part in text
    with pytest.raises(GateError, match="not wrapped"):
        weir.report(coding())


def test_the_report_names_what_the_policy_does_not_have(fake: FakeGate, gate: Gate) -> None:
    fake.unknown.add("double")
    report = weir.report(weir.wrap(coding(tools=(double, fetch)), sidecar=gate))
    assert report.denied == ["tool double of agent: the policy has no such tool"]
    assert "denied    tool double of agent: the policy has no such tool" in str(report)
    assert report.complete, "a denied tool is no gap"


def test_close_ends_every_session(fake: FakeGate, gate: Gate) -> None:
    agent = weir.wrap(coding(managed_agents=[coding(name="helper", description="Helps.")]), sidecar=gate)
    assert len(fake.sessions) == 2
    weir.close(agent)
    assert not fake.sessions


def test_with_agent_ends_the_session_and_a_later_run_opens_another(fake: FakeGate, gate: Gate) -> None:
    agent = weir.wrap(coding(code("final_answer(1)"), code("final_answer(2)")), sidecar=gate)
    with agent:
        assert agent.run("t") == 1
    assert not fake.sessions
    assert agent.run("t") == 2


class TestModel:
    def test_the_stand_in_is_the_model_in_all_but_generation(self, gate: Gate) -> None:
        agent = coding(code("final_answer(1)"))
        model = agent.model
        weir.wrap(agent, sidecar=gate)
        assert isinstance(agent.model, ScriptedModel) and agent.model is not model
        assert agent.monitor.tracked_model is agent.model
        agent.run("t")
        assert model.replies == [] and agent.model.asked is model.asked
        assert agent.to_dict()["model"]["class"] == "ScriptedModel"

    def test_agents_that_share_a_model_are_counted_apart(self, fake: FakeGate, gate: Gate) -> None:
        inner = coding(name="helper", description="Helps.")
        outer = coding(code("final_answer(helper('x'))"), code("final_answer('in')"), managed_agents=[inner])
        inner.model = outer.model
        weir.wrap(outer, sidecar=gate).run("t")
        assert len({row["session"] for row in fake.decided if row["action"] == "model.generate"}) == 2

    def test_bounds(self) -> None:
        model = ScriptedModel()
        assert output_bound(model, {}, None) == 4096
        assert output_bound(model, {}, 100) == 100
        model.kwargs["max_tokens"] = 7
        assert output_bound(model, {}, 100) == 7
        assert output_bound(model, {"max_completion_tokens": 5}, 100) == 5
        text = {"role": "user", "content": [{"type": "text", "text": "ä" * 100}, {"type": "image"}]}
        assert input_bound([text]) == 16 + 100 + 2000

    def test_names_fit_the_gate(self) -> None:
        model = ScriptedModel()
        model.model_id = "org/model name?x=1"
        assert model_name(model) == "org/model-name-x-1"
        model.model_id = None
        assert model_name(model) == "ScriptedModel"


class TestHub:
    COMMIT = "a" * 40

    @pytest.fixture
    def download(self, tmp_path: Path) -> Any:
        (tmp_path / "tool.py").write_text(
            "from smolagents import Tool\n"
            "class T(Tool):\n"
            "    name, description, inputs, output_type = 't', 'd', {}, 'string'\n"
            "    def __init__(self):\n        super().__init__()\n"
            "    def forward(self) -> str:\n        return 'ran'\n"
        )
        self.asked: list[Any] = []

        def get(*args: Any, **kwargs: Any) -> str:
            self.asked.append((args, kwargs))
            return str(tmp_path / "tool.py")

        return get

    def test_the_gate_is_asked_before_anything_is_fetched(self, fake: FakeGate, gate: Gate, download: Any) -> None:
        made = weir.load_tool("o/t", self.COMMIT, gate=gate, trust_remote_code=True, download=download)
        assert made() == "ran", "a pinned tool with an __init__ of its own loads"
        (asked,) = fake.decided
        assert (asked["action"], asked["resource"]) == ("package.fetch", "o/t")
        assert (asked["registry"], asked["revision"]) == ("hub", self.COMMIT)
        assert self.asked[0][1]["revision"] == self.COMMIT
        assert fake.outcomes[0]["status"] == "done" and not fake.sessions

    def test_a_denied_package_is_not_fetched(self, fake: FakeGate, gate: Gate, download: Any) -> None:
        fake.denied.add("o/t")
        with pytest.raises(PermissionDenied):
            weir.load_tool("o/t", self.COMMIT, gate=gate, trust_remote_code=True, download=download)
        assert self.asked == []

    @pytest.mark.parametrize("revision", ["main", "v1.0", "abc1234", "A" * 40])
    def test_a_revision_that_can_move_is_refused(self, fake: FakeGate, gate: Gate, revision: str) -> None:
        with pytest.raises(GateError, match="can move"):
            weir.load_tool("o/t", revision, gate=gate, trust_remote_code=True)
        assert fake.decided == []

    def test_other_bytes_than_pinned_are_not_executed(self, fake: FakeGate, gate: Gate, download: Any) -> None:
        with pytest.raises(PermissionDenied, match="not the pinned one"):
            weir.load_tool("o/t", self.COMMIT, gate=gate, sha256="0" * 64, trust_remote_code=True, download=download)
        assert fake.decided[0]["digest"] == "sha256:" + "0" * 64
        assert fake.outcomes[0]["status"] == "failed"

    def test_trust_is_still_asked_for(self, gate: Gate) -> None:
        with pytest.raises(GateError, match="trust_remote_code"):
            weir.load_tool("o/t", self.COMMIT, gate=gate)

    def test_the_gate_of_a_wrapped_agent_can_be_asked(self, fake: FakeGate, gate: Gate, download: Any) -> None:
        agent = weir.wrap(coding(), sidecar=gate)
        weir.load_tool("o/t", self.COMMIT, agent=agent, trust_remote_code=True, download=download)
        assert fake.decided[0]["session"] in fake.sessions


class TestEntryPoint:
    def test_it_is_registered(self) -> None:
        (found,) = [point for point in entry_points(group="smolagents.executors") if point.name == "weir"]
        assert found.load().__name__ == "create_executor"

    @pytest.mark.parametrize("shape", ["positions", "names", "older names"])
    def test_the_factory_takes_any_of_the_announced_shapes(self, gate: Gate, shape: str) -> None:
        from weir._entry import create_executor

        made = {
            "positions": lambda: create_executor(["json"], None, {"sidecar": gate}),
            "names": lambda: create_executor(imports=["json"], logger=object(), sidecar=gate),
            "older names": lambda: create_executor(additional_imports=["json"], sidecar=gate),
        }[shape]()
        assert isinstance(made, GateExecutor) and made("1 + 1").output == 2

    def test_settings_can_come_from_the_environment(self, fake: FakeGate, monkeypatch: pytest.MonkeyPatch) -> None:
        from weir._entry import create_executor

        monkeypatch.setenv("WEIR_ADDRESS", f"unix:{fake.socket}")
        monkeypatch.setenv("WEIR_TOKEN", "fake-token")
        assert create_executor().imports


def test_the_package_imports_without_the_framework() -> None:
    import subprocess
    import sys

    text = (
        "import sys; sys.modules['smolagents'] = None\n"
        "import weir; weir.connect\n"
        "try: weir.wrap\n"
        "except ImportError as e: print(e)\n"
    )
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert "pip install 'weir[smolagents]'" in ran.stdout


def test_a_final_answer_of_a_subclass_is_known() -> None:
    from weir._wrap import known_effect

    assert known_effect("final_answer", type("Mine", (FinalAnswerTool,), {})()) == "read"
