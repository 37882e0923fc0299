"""``weir.wrap``: puts a whole smolagents agent behind one gate, or says why it cannot.

First everything is looked at (agents, tools, models, executors), then, only if nothing stands open,
everything is changed. The policy, the counters and the records live in the sidecar; what is changed
here only leads to it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping

import smolagents
from smolagents import CodeAgent, ToolCallingAgent, default_tools
from smolagents.memory import SystemPromptStep

from ._errors import CoverageError, GateError
from ._executor import GateExecutor
from ._host import LOG_CHARS, open_gate
from ._model import NAME_CHARS, gated, model_name
from ._seat import Seat
from ._sidecar import EFFECTS, FINAL_ANSWER, Gate, Sidecar
from ._toolcall import INTERPRETER, SandboxedInterpreter, gate_tool_calls

SUPPORTED = ("1.26", "1.27")
"""Versions of smolagents whose seams this module knows."""

KNOWN_EFFECTS: dict[type, str] = {
    default_tools.FinalAnswerTool: "read",
    default_tools.UserInputTool: "read",
    default_tools.DuckDuckGoSearchTool: "network",
    default_tools.GoogleSearchTool: "network",
    default_tools.ApiWebSearchTool: "network",
    default_tools.WebSearchTool: "network",
    default_tools.VisitWebpageTool: "network",
    default_tools.WikipediaSearchTool: "network",
    default_tools.SpeechToTextTool: "read",
}
"""Effects of the framework's own tools, by exact class: a name says nothing about what a tool does."""

HOSTED_KEYS = ("tools", "web_search_options", "mcp_servers", "plugins")
"""Settings of a model that make the provider run tools on its side, where no gate stands."""

SANDBOX_NOTE = (
    "Your code runs in a sandbox behind a policy gate: CPython without threads, subprocesses or sockets, "
    "and with the modules named above only. A message that begins with '[weir] denied' is final: "
    "do not repeat the call, use what it says is allowed, or tell the user."
)


@dataclass
class Coverage:
    """What stands behind the gate and what does not."""

    gate: Gate
    agents: list[str] = field(default_factory=list)
    tools: dict[str, str] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True when nothing that the gate should see was left open."""
        return not self.open

    def __str__(self) -> str:
        rows = [
            ("gate", str(self.gate.where)),
            ("policy", str(self.gate.policy_file or "as the running sidecar has it")),
            ("agents", ", ".join(self.agents)),
            ("tools", ", ".join(f"{name} ({how})" for name, how in self.tools.items())),
            ("models", ", ".join(self.models)),
            ("imports", ", ".join(self.imports) or "none"),
            *(("replaced", text) for text in self.replaced),
            *(("denied", text) for text in self.denied),
            *(("open", text) for text in self.open),
            *(("not seen", text) for text in NOT_SEEN),
        ]
        if isinstance(self.gate, Sidecar) and not self.gate.keeps_records:
            rows.append(("records", "until this process ends; pass store= to keep them"))
        return "\n".join(f"{name:<9} {text}" for name, text in rows)


NOT_SEEN = (
    "what a tool does on the host once its call was allowed",
    "step callbacks, final answer checks and other code of the host",
)


@dataclass
class Place:
    """One agent and where it stands."""

    agent: Any
    name: str
    above: Place | None = None
    seat: Seat | None = None
    executor: GateExecutor | None = None

    @property
    def chain(self) -> list[str]:
        """The names of the agents from the outermost to this one."""
        return [*(self.above.chain if self.above else []), self.name]


def wrap(
    agent: Any,
    *,
    profile: Any = None,
    policy: Any = None,
    sidecar: Gate | str | None = None,
    tools: Mapping[str, str] | None = None,
    allow: Iterable[str] = (),
    strict: bool = True,
    store: str | os.PathLike[str] | None = None,
    stop_after: int | None = None,
    output_tokens: int | None = None,
) -> Any:
    """Puts ``agent`` and every agent that it manages behind one gate, and returns it.

    Args:
        profile, policy, sidecar: exactly one: a threat profile from which a policy is derived, a
            policy's file, or a gate that runs.
        tools: with ``profile``, the effect class of each tool of your own: read, write, exec, network
            or spend. The framework's own tools are known.
        allow: with ``profile``, tools that need no approval by a person.
        strict: refuse when something cannot be covered. Otherwise it is left open and listed by
            :func:`report`.
        store: folder that keeps balances, receipts and scores beyond this process.
        stop_after: end the run by :class:`GateStopped` after so many refused steps in a row.
        output_tokens: output tokens to hold per generation when neither call nor model says.

    Raises:
        CoverageError: in strict mode, with everything that stands open; the agent is unchanged then.
        GateError: the gate could not be started.
    """
    places = survey(agent)
    effects, problems = inspect_all(places, tools or {}, wants_effects=profile is not None)
    wrapped = [place for place in places if "_weir" in vars(place.agent)]
    if wrapped or unknown_class(places[0]) or (strict and problems):
        raise CoverageError(
            [
                f"{place.name}: it is wrapped already; once closed, its next run starts the gate again"
                for place in wrapped
            ]
            + problems
        )
    places = [place for place in places if not unknown_class(place)]
    peers = sorted({place.name for place in places if place.above})
    gate, started = open_gate(
        profile, policy, sidecar, tools=effects, allow=allow, peers=peers, agent=places[0].name, store=store
    )
    coverage = Coverage(gate=gate, open=problems)
    try:
        for place in places:
            above = place.above.seat if place.above else None
            place.seat = Seat(gate, above, place.name if above else None)
            place.executor = GateExecutor(seat=place.seat, max_output=log_chars(place.agent), stop_after=stop_after)
            coverage.imports = place.executor.imports  # Opens the session: the last thing that can fail.
            coverage.denied += without_place(place)
        stand_ins = models(places, output_tokens, coverage, strict)
    except BaseException:
        for place in places:
            if place.seat is not None:
                place.seat.close()
        if started:
            gate.stop()
        raise
    for place in places:
        cover(place, stand_ins[id(place.agent)], effects, coverage)
    places[0].agent._weir_gate = gate if started else None
    return agent


def report(agent: Any) -> Coverage:
    """What :func:`wrap` put behind the gate and what it left open.

    Raises:
        GateError: the agent is not wrapped.
    """
    coverage: Coverage | None = vars(agent).get("_weir")
    if coverage is None:
        raise GateError("this agent is not wrapped")
    return coverage


def close(agent: Any) -> None:
    """Ends the sessions of a wrapped agent and stops the sidecar that ``wrap`` started for it."""
    report(agent)
    for place in survey(agent):
        executor = vars(place.agent).get("_weir_executor")
        if executor is not None:
            executor.cleanup()
    gate = vars(agent).get("_weir_gate")
    if gate is not None:
        gate.stop()


# -- looking -------------------------------------------------------------------------------------


def survey(agent: Any) -> list[Place]:
    """The agent and every agent below it, each once."""
    found: list[Place] = []
    seen: set[int] = set()

    def visit(each: Any, above: Place | None) -> None:
        if id(each) in seen:
            return
        seen.add(id(each))
        name = str(getattr(each, "name", None) or "agent")
        place = Place(each, name, above)
        found.append(place)
        below = getattr(each, "managed_agents", None)
        for managed in below.values() if isinstance(below, dict) else ():
            visit(managed, place)

    visit(agent, None)
    return found


def unknown_class(place: Place) -> list[str]:
    """The problem of an agent whose seams nobody here knows."""
    if isinstance(place.agent, (CodeAgent, ToolCallingAgent)):
        return []
    return [f"{place.name}: {type(place.agent).__name__} is neither a CodeAgent nor a ToolCallingAgent"]


def inspect_all(
    places: list[Place], stated: Mapping[str, str], wants_effects: bool
) -> tuple[dict[str, str], list[str]]:
    """The effect of every tool, and everything that could not be covered."""
    effects: dict[str, str] = {}
    problems: list[str] = []
    if not smolagents.__version__.startswith(SUPPORTED):
        problems.append(f"smolagents {smolagents.__version__} is not one of the versions known here: {SUPPORTED}")
    for name, effect in stated.items():
        if effect not in EFFECTS:
            problems.append(
                f"tools={{{name!r}: {effect!r}}}: there is no such effect class; there are {', '.join(EFFECTS)}"
            )
    for place in places:
        unknown = unknown_class(place)
        problems += unknown
        if not unknown:
            problems += loop_problems(place) + model_problems(place)
            problems += tool_problems(place, stated, effects, wants_effects)
    return effects, problems


def loop_problems(place: Place) -> list[str]:
    agent, base = place.agent, CodeAgent if isinstance(place.agent, CodeAgent) else ToolCallingAgent
    problems = []
    for method in ("_step_stream", "process_tool_calls", "run", "_run_stream"):
        own = getattr(type(agent), method, None)
        if own is not getattr(base, method, None) or method in vars(agent):
            problems.append(f"{place.name}: it has a {method} of its own, which need not pass the gate")
    steps = agent.memory.steps
    last = steps[-1] if steps else None
    if last is not None and not getattr(last, "is_final_answer", False) and agent.step_number <= agent.max_steps:
        problems.append(f"{place.name}: a run is under way or broke off; wrap before it, or call agent.memory.reset()")
    if not all(c in NAME_CHARS for c in place.name):
        problems.append(f"{place.name}: an agent's name has only ASCII letters, digits and . _ - : / @")
    return problems


def model_problems(place: Place) -> list[str]:
    model = place.agent.model
    if not callable(getattr(model, "generate", None)):
        return [f"{place.name}: its model has no generate(), so its tokens cannot be counted"]
    if not hasattr(model, "__dict__"):
        return [f"{place.name}: no stand-in can be made for its model {type(model).__name__}"]
    settings = getattr(model, "kwargs", None)
    hosted = [key for key in HOSTED_KEYS if isinstance(settings, dict) and settings.get(key)]
    return [f"{place.name}: its model has `{key}`: tools that run at the provider pass no gate" for key in hosted]


def tool_problems(place: Place, stated: Mapping[str, str], effects: dict[str, str], wanted: bool) -> list[str]:
    problems = []
    for name, tool in place.agent.tools.items():
        if not name.isidentifier() or not name.isascii() or len(name) > 128:
            problems.append(f"tool {name!r} of {place.name}: its name is not an ASCII identifier")
            continue
        effect = stated.get(name) or known_effect(name, tool)
        if effect is not None and is_called(place.agent, name, tool):
            effects[name] = effect
        if name == FINAL_ANSWER and wanted and set(tool.inputs) != {"answer"}:
            problems.append(
                f"tool {name} of {place.name}: it takes {', '.join(tool.inputs) or 'nothing'}, a derived policy "
                "knows `answer` only; edit the policy's [[tool]] and pass it as policy="
            )
        if effect is None and wanted:
            problems.append(
                f"tool {name} of {place.name}: its effect is unknown; "
                f'add tools={{"{name}": "read"}} (or write, exec, network, spend)'
            )
    return problems


def is_interpreter(name: str, tool: Any) -> bool:
    """Whether a tool runs code on the host, so that the sandbox takes its place."""
    return name == INTERPRETER or isinstance(tool, default_tools.PythonInterpreterTool)


def is_called(agent: Any, name: str, tool: Any) -> bool:
    """Whether calls of a tool are calls for the gate: all but those that are decided as code alone."""
    return isinstance(agent, CodeAgent) or not is_interpreter(name, tool)


def known_effect(name: str, tool: Any) -> str | None:
    """The effect of one of the framework's own tools."""
    if is_interpreter(name, tool):
        return "read"  # The sandbox stands in its place, and the program in it is decided as code.
    if name == FINAL_ANSWER and isinstance(tool, default_tools.FinalAnswerTool):
        return "read"
    return KNOWN_EFFECTS.get(type(tool))


def log_chars(agent: Any) -> int:
    return getattr(agent, "max_print_outputs_length", None) or LOG_CHARS


# -- changing ------------------------------------------------------------------------------------


def models(places: list[Place], output_tokens: int | None, coverage: Coverage, strict: bool) -> dict[int, Any]:
    """A stand-in for the model of every agent."""
    made = {}
    for place in places:
        assert place.seat is not None
        model = place.agent.model
        try:
            made[id(place.agent)] = gated(model, place.seat, output_tokens)
            coverage.models.append(f"{model_name(model)} of {place.name}")
        except GateError as fault:
            if strict:
                raise CoverageError([f"{place.name}: {fault}"]) from fault
            made[id(place.agent)] = model
            coverage.open.append(f"{place.name}: {fault}")
    return made


def without_place(place: Place) -> list[str]:
    """What the agent has and the policy has no place for, so that every call of it will be denied."""
    assert place.seat is not None
    session, agent = place.seat.session, place.agent
    asked = [("tool.call", "tool", name) for name, tool in agent.tools.items() if is_called(agent, name, tool)]
    asked += [("agent.invoke", "agent", name) for name in agent.managed_agents]
    answers = [(kind, name, session.no_place(action, kind, name)) for action, kind, name in asked]
    return [f"{kind} {name} of {place.name}: {why}" for kind, name, why in answers if why]


def cover(place: Place, model: Any, effects: Mapping[str, str], coverage: Coverage) -> None:
    agent, seat, executor = place.agent, place.seat, place.executor
    assert seat is not None and executor is not None
    agent.model = agent.monitor.tracked_model = model
    replace_interpreter(place, coverage)
    for name, tool in agent.tools.items():
        how = "sandbox" if isinstance(tool, SandboxedInterpreter) else effects.get(name, "effect as in the policy")
        coverage.tools[name] = how
    if isinstance(agent, CodeAgent):
        cover_code(agent, executor, coverage)
    else:
        cover_tool_calls(agent, seat, executor)
    interrupt = agent.interrupt

    def interrupt_now() -> None:
        interrupt()
        executor.interrupt()

    agent.interrupt = interrupt_now
    agent.memory.system_prompt = SystemPromptStep(system_prompt=agent.system_prompt)
    coverage.agents.append(" > ".join(place.chain))
    agent._weir, agent._weir_executor = coverage, executor


def cover_code(agent: Any, executor: GateExecutor, coverage: Coverage) -> None:
    old = agent.python_executor
    coverage.replaced.append(f"{type(old).__name__} of {agent.name or 'agent'} by the sandbox")
    if hasattr(old, "cleanup"):
        old.cleanup()
    agent.python_executor = executor
    # A reloaded agent must not run on the host by itself: this type is unknown to the framework,
    # so that loading fails until an executor is named.
    agent.executor_type = "weir"
    agent.executor_kwargs = {}
    agent.authorized_imports = sorted(executor.imports)
    agent.additional_authorized_imports = list(agent.authorized_imports)
    agent.instructions = f"{agent.instructions}\n\n{SANDBOX_NOTE}" if agent.instructions else SANDBOX_NOTE


def cover_tool_calls(agent: Any, seat: Seat, executor: GateExecutor) -> None:
    gate_tool_calls(agent, seat, executor.handles)
    run = agent.run

    def run_anew(*args: Any, **kwargs: Any) -> Any:
        seat.begin_run()
        return run(*args, **kwargs)

    agent.run = run_anew


def replace_interpreter(place: Place, coverage: Coverage) -> None:
    """Puts the sandbox where ``python_interpreter`` would run in this process."""
    agent = place.agent
    for name, tool in list(agent.tools.items()):
        if not is_interpreter(name, tool):
            continue
        assert place.seat is not None and place.executor is not None
        executor = place.executor
        if isinstance(agent, CodeAgent):  # Its own executor is busy with the program that calls the tool.
            executor = GateExecutor(seat=Seat(place.seat.gate, place.seat, name), max_output=log_chars(agent))
        sandboxed = SandboxedInterpreter(executor, coverage.imports)
        sandboxed.name = name
        agent.tools[name] = sandboxed
        coverage.replaced.append(f"{name} of {place.name} by the sandbox")
