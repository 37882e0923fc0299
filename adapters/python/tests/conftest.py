"""Fixtures: the stand-in gate, a scripted model, and the real sidecar where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Iterator

import pytest
from fake_gate import TOKEN, FakeGate
from smolagents import ChatMessage, Model
from smolagents.models import ChatMessageStreamDelta, MessageRole, TokenUsage

import weir
from weir import Client, Gate, GateUnavailable
from weir._sidecar import binary


@pytest.fixture
def fake() -> Iterator[FakeGate]:
    folder = Path(tempfile.mkdtemp(prefix="weir-test-"))
    with FakeGate(folder / "s") as gate:
        yield gate
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def gate(fake: FakeGate) -> Iterator[Gate]:
    made = Gate(Client(f"unix:{fake.socket}", TOKEN))
    yield made
    made.stop()


@pytest.fixture
def executor(gate: Gate) -> Iterator[Any]:
    with weir.GateExecutor(sidecar=gate) as made:
        yield made


class ScriptedModel(Model):
    """Says what it is told to, in order, and keeps what it was asked."""

    def __init__(self, *replies: Any, usage: tuple[int, int] | None = (100, 20)) -> None:
        super().__init__(model_id="scripted")
        self.replies = list(replies)
        self.asked: list[Any] = []
        self.usage = TokenUsage(*usage) if usage else None

    def generate(self, messages: Any, **_: Any) -> ChatMessage:
        self.asked.append(list(messages))
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, ChatMessage):
            reply.token_usage = self.usage
            return reply
        return ChatMessage(role=MessageRole.ASSISTANT, content=reply, token_usage=self.usage)

    def said(self) -> str:
        """Everything that the last question held."""
        parts = [part for message in self.asked[-1] for part in message.content]
        return "\n".join(part if isinstance(part, str) else str(part.get("text")) for part in parts)


class StreamingModel(ScriptedModel):
    def generate_stream(self, messages: Any, **kwargs: Any) -> Iterator[ChatMessageStreamDelta]:
        message = self.generate(messages, **kwargs)
        yield ChatMessageStreamDelta(content=message.content)
        yield ChatMessageStreamDelta(content="", token_usage=message.token_usage)


def code(text: str) -> str:
    return f"Thought: I write code.\n<code>\n{text}\n</code>"


@pytest.fixture(scope="session")
def weir_binary() -> str:
    """The real sidecar's program. A build without its commands is none, unless WEIR_BIN insists on it."""
    try:
        path = binary()
    except GateUnavailable as fault:
        if os.environ.get("WEIR_BIN"):
            raise
        pytest.skip(f"no sidecar: {fault}")
    helped = subprocess.run([path, "serve", "--help"], capture_output=True, timeout=30, check=False)
    if b"--policy" not in helped.stdout and not os.environ.get("WEIR_BIN"):
        pytest.skip(f"no sidecar: {path} has no `serve` yet")
    return path
