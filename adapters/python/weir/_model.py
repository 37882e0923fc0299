"""A model whose every generation is admitted and settled by the gate.

Planning steps, the final answer after too many steps and streams call the model outside the executor;
here all of them pass. The gated model shares its state with the original and is of its class, so the
framework cannot tell them apart.
"""

from __future__ import annotations

from typing import Any, Iterable, Iterator

from ._errors import GateError
from ._seat import Seat

OUTPUT_TOKENS = 4096
"""Output tokens that are held when neither the call nor the model states a maximum."""
IMAGE_TOKENS = 2_000
"""Tokens that are held for one image."""
MESSAGE_TOKENS = 16
"""Tokens that are held for one message besides its text."""
MAX_KEYS = ("max_tokens", "max_new_tokens", "max_completion_tokens")
NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/@")


def gated(model: Any, seat: Seat, output_tokens: int | None = None) -> Any:
    """A stand-in for ``model`` at ``seat``.

    Raises:
        GateError: the model's class cannot be stood in for.
    """

    def generate(_self: Any, messages: Any, *args: Any, **kwargs: Any) -> Any:
        admission = admit(model, seat, messages, kwargs, output_tokens)
        try:
            message = model.generate(messages, *args, **kwargs)
        except BaseException:
            # The provider may have worked and charged before it failed: nobody here knows.
            seat.outcome(admission, "unknown")
            raise
        seat.outcome(admission, "done", usage_of(getattr(message, "token_usage", None)))
        return message

    def generate_stream(_self: Any, messages: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        admission = admit(model, seat, messages, kwargs, output_tokens)
        used: dict[str, int] | None = None
        try:
            for delta in model.generate_stream(messages, *args, **kwargs):
                usage = getattr(delta, "token_usage", None)
                if usage is not None:
                    part, before = usage_of(usage) or {}, used or {}
                    used = {kind: before.get(kind, 0) + amount for kind, amount in part.items()}
                yield delta
        except BaseException:  # GeneratorExit as well: a stream left early was paid for.
            seat.outcome(admission, "unknown")
            raise
        seat.outcome(admission, "done", used)

    own = type(model)
    parts: dict[str, Any] = {"generate": generate, "__module__": own.__module__, "__qualname__": own.__qualname__}
    parts["__call__"] = lambda self, *args, **kwargs: self.generate(*args, **kwargs)
    if hasattr(model, "generate_stream"):
        parts["generate_stream"] = generate_stream
    try:
        stand_in: Any = object.__new__(type(own.__name__, (own,), parts))
        stand_in.__dict__ = model.__dict__
    except (TypeError, AttributeError) as fault:
        raise GateError(f"model {own.__name__}: no stand-in can be made for its class ({fault})") from fault
    return stand_in


def admit(model: Any, seat: Seat, messages: Any, kwargs: dict[str, Any], output_tokens: int | None) -> Any:
    """Asks the gate for one generation, with an upper bound of its tokens."""
    bound = output_bound(model, kwargs, output_tokens) + input_bound(messages)
    return seat.decide("model.generate", model_name(model), {"max_tokens": bound})


def output_bound(model: Any, kwargs: dict[str, Any], stated: int | None) -> int:
    """The most output tokens: as the call says, as the model says, as ``wrap`` was told, or the default."""
    for source in (kwargs, getattr(model, "kwargs", None) or {}):
        for key in MAX_KEYS:
            value = source.get(key)
            if type(value) is int and value > 0:
                return value
    return stated if stated is not None else OUTPUT_TOKENS


def input_bound(messages: Iterable[Any]) -> int:
    """A bound of the input's tokens: half its UTF-8 bytes. Common tokenizers need a quarter to a third."""
    total = 0
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else getattr(message, "content", None)
        total += MESSAGE_TOKENS
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                total += (len(text.encode("utf-8", "replace")) + 1) // 2
            elif isinstance(part, dict):
                total += IMAGE_TOKENS
    return total


def usage_of(usage: Any) -> dict[str, int] | None:
    """What was used, read and written apart, as they are priced; without figures the whole reservation counts."""
    if usage is None:
        return None
    read, written = int(usage.input_tokens), int(usage.output_tokens)
    return {"tokens": read + written, "tokens_in": read, "tokens_out": written}


def model_name(model: Any) -> str:
    """The model's name at the gate: its id, or its class."""
    name = str(getattr(model, "model_id", None) or type(model).__name__)
    return "".join(c if c in NAME_CHARS else "-" for c in name)[:128]
