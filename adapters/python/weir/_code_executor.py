"""AutoGen's ``CodeExecutor`` behind the gate: the blocks of a conversation run in one sandboxed session.

What goes wrong with a block is its result: an exception would end the whole team. No policy is decided in this file;
what happens at the gate stands in ``_code_work``, what a model is told in ``_code_result``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from string import Template
from typing import Any, Callable, ClassVar, Mapping, Sequence

from autogen_core import CancellationToken, Component
from autogen_core.code_executor import CodeBlock, CodeExecutor
from pydantic import BaseModel, ConfigDict

from ._code_result import GateCodeResult
from ._code_work import Setup, Work, Worker
from ._functions import PROMPT, host_functions, stub
from ._handles import Handles
from ._host import LOG_CHARS, open_gate
from ._sidecar import EFFECTS, Gate, Sidecar

log = logging.getLogger("weir.autogen")

STATE_TYPE, STATE_VERSION = "GateCodeExecutorState", "1.0.0"


class GateCodeExecutorConfig(BaseModel):
    """Configuration of :class:`GateCodeExecutor`; it holds no secret, no function and no program."""

    model_config = ConfigDict(extra="forbid")

    policy: str | None = None
    profile: str | None = None
    sidecar: str | None = None
    tools: dict[str, str] = {}
    allow: list[str] = []
    agent: str = "agent"
    store: str | None = None
    timeout: int | None = None
    raise_on_timeout: bool = False
    functions_module: str = "functions"
    work_dir: str | None = None
    code_dir: str | None = None
    max_output: int = LOG_CHARS


class GateCodeExecutor(CodeExecutor, Component[GateCodeExecutorConfig]):
    """Runs Python blocks in the gate's sandbox, and JavaScript blocks where the policy lets it; their variables stay
    from call to call, each language's own.

    Args:
        policy, profile, sidecar: exactly one: a policy's file, a threat profile to derive one from, or a gate that
            runs (its address, or a :class:`weir.Gate`). It is started or reached when first needed.
        tools: with ``profile``, the effect class of each function, such as ``{"search": "read"}``.
        allow: with ``profile``, functions that need no approval.
        agent, store: the agent's name at the gate, and the folder of balances and receipts, when it is started here.
        timeout: seconds for one block, with its functions and a person's time to approve; ``None`` leaves it to the
            policy's limits.
        raise_on_timeout: raise ``asyncio.TimeoutError``, as AutoGen's Jupyter executor does, instead of a result.
        functions: functions of this process that programs may call, each call through the gate. Coroutines run in
            the loop of the caller.
        functions_module: the module from which programs may import them, too.
        work_dir: a folder whose files are put into the session's own folder before a block, and into which what a block
            leaves there is brought back. It needs a policy with ``[code.scratch]``: programs see that folder under
            the policy's name for it.
        code_dir: a folder in which a copy of each program is kept, for people. The sandbox does not see it.
        max_output: characters of output for the model.
        describe: what a program is shown of an object of this host; by default its type and size.
    """

    component_config_schema = GateCodeExecutorConfig
    component_provider_override = "weir.autogen.GateCodeExecutor"

    SUPPORTED_LANGUAGES: ClassVar[list[str]] = ["python", "py", "python3", "javascript", "js"]

    def __init__(
        self,
        *,
        policy: str | os.PathLike[str] | None = None,
        profile: str | os.PathLike[str] | None = None,
        sidecar: Gate | str | None = None,
        tools: Mapping[str, str] | None = None,
        allow: Sequence[str] = (),
        agent: str = "agent",
        store: str | os.PathLike[str] | None = None,
        timeout: int | None = None,
        raise_on_timeout: bool = False,
        functions: Sequence[Any] = (),
        functions_module: str = "functions",
        work_dir: str | os.PathLike[str] | None = None,
        code_dir: str | os.PathLike[str] | None = None,
        max_output: int = LOG_CHARS,
        describe: Callable[[Any], str] | None = None,
    ) -> None:
        if sum(choice is not None for choice in (profile, policy, sidecar)) != 1:
            raise ValueError("name exactly one of profile=, policy= and sidecar=")
        if timeout is not None and timeout < 1:
            raise ValueError("Timeout must be greater than or equal to 1.")
        if not functions_module.isidentifier():
            raise ValueError("functions_module is a Python identifier")
        self._policy, self._profile, self._sidecar = policy, profile, sidecar
        self._effects, self._allow = dict(tools or {}), list(allow)
        self._agent, self._store = agent, store
        self._timeout, self._raise_on_timeout = timeout, raise_on_timeout
        self._functions = host_functions(functions)
        self._functions_module = functions_module
        self._work_dir = Path(work_dir) if work_dir is not None else None
        self._code_dir = Path(code_dir) if code_dir is not None else None
        self._max_output, self._describe = max_output, describe
        if profile is not None:
            require_effects(self._functions, self._effects)
        self.handles = Handles(describe)
        self._worker = Worker(self._setup(), self.handles)

    # -- what can be read --

    @property
    def timeout(self) -> int | None:
        """Seconds for one block; ``None`` when only the policy's limits count."""
        return self._timeout

    @property
    def work_dir(self) -> Path | None:
        """The folder of this machine beside the session's own."""
        return self._work_dir

    @property
    def code_dir(self) -> Path | None:
        """Where copies of programs are kept."""
        return self._code_dir

    @property
    def functions(self) -> list[str]:
        """The names of the functions that programs may call."""
        return sorted(self._functions)

    @property
    def functions_module(self) -> str:
        """The module from which programs may import the functions."""
        return self._functions_module

    @property
    def gate(self) -> Gate | None:
        """The gate, once it was needed: its receipts, budgets and scores."""
        return self._worker.gate

    def format_functions_for_prompt(self, prompt_template: str = PROMPT) -> str:
        """The functions as a text for a prompt; the template has ``$module_name`` and ``$functions``."""
        stubs = "\n\n".join(stub(function) for function in self._functions.values())
        return Template(prompt_template).substitute(module_name=self._functions_module, functions=stubs)

    # -- AutoGen's interface --

    async def execute_code_blocks(
        self, code_blocks: list[CodeBlock], cancellation_token: CancellationToken
    ) -> GateCodeResult:
        """Runs blocks in order up to the first that does not end well.

        Refusals, limits, a gate that is gone and unknown languages are results, with exit codes of their own.

        Raises:
            asyncio.CancelledError: the token or the task was cancelled; the program was stopped.
            asyncio.TimeoutError: with ``raise_on_timeout``, after ``timeout``.
        """
        if cancellation_token.is_cancelled():
            raise asyncio.CancelledError
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self._carry_out(self._worker.work(loop), list(code_blocks)))

        def cancel() -> None:
            if not task.done():
                loop.call_soon_threadsafe(task.cancel)

        cancellation_token.add_callback(cancel)
        return await task

    async def start(self) -> None:
        """Starts or reaches the gate and opens the session; without it the first block does that.

        Raises:
            GateError: that failed; the text says why.
        """
        await self._queued(self._worker.open)

    async def stop(self) -> None:
        """Breaks off what runs and ends the session, and the gate if it was started here; a later use begins anew."""
        await self._break_off()
        await self._queued(self._worker.close)

    async def restart(self) -> None:
        """Breaks off what runs and begins a new session, without the variables of this one. The gate goes on."""
        await self._break_off()
        await self._queued(self._worker.renew)

    async def reset(self) -> None:
        """Prepares for another task: as :meth:`restart`. AutoGen's agents do not call this by themselves."""
        await self.restart()

    async def save_state(self) -> Mapping[str, Any]:
        """The session's name, for :meth:`load_state`. The variables stay at the gate and live as long as it keeps
        the session: do not stop the executor, nor the gate, in between."""
        saved = await self._queued(self._worker.saved)
        return {"type": STATE_TYPE, "version": STATE_VERSION, "session": saved}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes up a saved session. When the gate no longer has it, the next result says so and a new one begins.

        Raises:
            ValueError: it is not a state of this executor.
            GateError: the gate cannot be reached.
        """
        if state.get("type") != STATE_TYPE or state.get("version") != STATE_VERSION:
            raise ValueError(f"this is not a {STATE_TYPE} of version {STATE_VERSION}")
        await self._break_off()
        await self._queued(self._worker.take_up, state.get("session"))

    def _to_config(self) -> GateCodeExecutorConfig:
        if self._functions or self._describe is not None:
            log.warning("functions and describe= are not part of a configuration; give them again after loading")
        return GateCodeExecutorConfig(
            policy=text_of(self._policy),
            profile=text_of(self._profile),
            sidecar=address_of(self._sidecar),
            tools=self._effects,
            allow=self._allow,
            agent=self._agent,
            store=text_of(self._store),
            timeout=self._timeout,
            raise_on_timeout=self._raise_on_timeout,
            functions_module=self._functions_module,
            work_dir=text_of(self._work_dir),
            code_dir=text_of(self._code_dir),
            max_output=self._max_output,
        )

    @classmethod
    def _from_config(cls, config: GateCodeExecutorConfig) -> GateCodeExecutor:
        return cls(**config.model_dump())

    # -- in the caller's loop --

    def _setup(self) -> Setup:
        return Setup(
            open_gate=lambda: open_gate(
                self._profile,
                self._policy,
                self._sidecar,
                tools=self._effects,
                allow=self._allow,
                agent=self._agent,
                store=self._store,
            ),
            functions=self._functions,
            functions_module=self._functions_module,
            timeout=self._timeout,
            raise_on_timeout=self._raise_on_timeout,
            work_dir=self._work_dir,
            code_dir=self._code_dir,
            max_output=self._max_output,
        )

    async def _queued(self, call: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.wrap_future(self._worker.submit(call, *args))

    async def _carry_out(self, work: Work, blocks: list[CodeBlock]) -> GateCodeResult:
        queued = self._worker.submit(self._worker.run, work, blocks)
        try:
            result: GateCodeResult = await asyncio.shield(asyncio.wrap_future(queued))
            return result
        except asyncio.CancelledError:
            if not queued.cancel():
                await asyncio.to_thread(self._worker.break_off, work, "cancel", queued.done)
            raise

    async def _break_off(self) -> None:
        await asyncio.to_thread(self._worker.break_off_all)


def require_effects(functions: Mapping[str, Any], effects: Mapping[str, str]) -> None:
    """Every function of a derived policy has its effect class.

    Raises:
        ValueError: one has none.
    """
    for name in functions:
        if effects.get(name) not in EFFECTS:
            raise ValueError(f'function {name}: its effect is unknown; add tools={{"{name}": "{"|".join(EFFECTS)}"}}')


def text_of(path: Any) -> str | None:
    """A path for a configuration."""
    return None if path is None else os.fspath(path)


def address_of(sidecar: Gate | str | None) -> str | None:
    """A gate's address for a configuration; its token is never part of one.

    Raises:
        ValueError: it is a sidecar of this process, which no configuration can name.
    """
    if isinstance(sidecar, Sidecar):
        raise ValueError(
            "a Sidecar object of this process cannot stand in a configuration; pass policy= or profile=, or the "
            "address of a gate that runs"
        )
    return sidecar.where if isinstance(sidecar, Gate) else sidecar
