"""The thread in which an AutoGen executor's blocks run at the gate, one call after another.

Agents that share an executor cannot meet here, whatever loops they run in, and the first of them opens the one
session. A program is broken off from other threads; ``switch`` is held while one begins, ends or is broken off.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import re
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from autogen_core.code_executor import CodeBlock

from ._blocks import guest, plain_functions, refusal
from ._code_result import TIMEOUT, UNAVAILABLE, UNSUPPORTED, GateCodeResult, Part, outcome, result_of
from ._errors import GateError, GateUnavailable
from ._handles import Handles
from ._host import CANCELLED, ERROR_CHARS, answer, cut, failure, tool_spec, with_notices
from ._seat import Seat
from ._session import CANCEL_SECONDS, Done, ToolReply
from ._sidecar import Gate, write_private
from ._work_dir import NO_SCRATCH, WorkDir

log = logging.getLogger("weir.autogen")

POLL_SECONDS = 0.02
"""Between two attempts to stop a program that has not quite begun."""
GONE = "the variables of earlier blocks are gone"


@dataclass(eq=False)
class Work:
    """One call of ``execute_code_blocks``.

    ``ended_by`` says what broke it off: ``cancel``, ``stop`` or ``time``. ``running`` is set while a program of it is
    at the gate, ``awaited`` while that waits for a coroutine of the host.
    """

    loop: asyncio.AbstractEventLoop
    era: int
    ended_by: str | None = None
    running: bool = False
    awaited: Future[Any] | None = None


@dataclass(frozen=True)
class Setup:
    """What does not change while an executor lives. ``open_gate`` says whether the gate was started by it."""

    open_gate: Callable[[], tuple[Gate, bool]]
    functions: Mapping[str, Callable[..., Any]]
    functions_module: str
    timeout: int | None
    raise_on_timeout: bool
    work_dir: Path | None
    code_dir: Path | None
    max_output: int


class Worker:
    """The thread, the gate and the session of one executor. Methods marked as queued run in the thread."""

    def __init__(self, setup: Setup, handles: Handles) -> None:
        self.setup, self.handles = setup, handles
        self.gate: Gate | None = None
        self._owned = False
        self._seat: Seat | None = None
        self._opening: int | None = None
        self._work_dir = WorkDir(setup.work_dir) if setup.work_dir is not None else None
        self._notes: list[str] = []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weir-autogen")
        self._switch = threading.Lock()
        self._work: Work | None = None
        self._era = 0

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Queues a call for the thread."""
        return self._pool.submit(call, *args)

    def work(self, loop: asyncio.AbstractEventLoop) -> Work:
        """A new work, for :meth:`run`."""
        return Work(loop, self._era)

    # -- from other threads --

    def break_off_all(self) -> None:
        """Breaks off the work under way, and each that waits behind it when its turn comes."""
        with self._switch:
            self._era += 1
            work = self._work
        if work is not None:
            self.break_off(work, "stop")

    def break_off(self, work: Work, who: str, over: Callable[[], bool] = lambda: False) -> None:
        """Stops a work's program and waits until it is; one that has not begun never will. ``over`` calls it off."""
        until = time.monotonic() + CANCEL_SECONDS
        while time.monotonic() < until:
            with self._switch:
                if over():
                    return
                work.ended_by = work.ended_by or who
                if not work.running or self._seat is None:
                    return
                self._seat.cancel()
                awaited = work.awaited
                if awaited is not None:
                    awaited.cancel()
            time.sleep(POLL_SECONDS)

    # -- queued: the session --

    def open(self) -> Seat:
        """Queued. The session, opened when there is none."""
        seat = self._place()
        opening = seat.open()
        if self._work_dir is not None and seat.session.scratch is None:
            raise GateError(NO_SCRATCH)
        if self._opening is None:
            self._warn_of_functions(seat)
        elif self._opening != opening:
            self._notes.append(f"the sandbox is a new one; {GONE}")
        self._opening = opening
        return seat

    def _place(self) -> Seat:
        if self._seat is None:
            if self.gate is None:
                self.gate, self._owned = self.setup.open_gate()
            self._seat = Seat(self.gate)
            self._seat.set_tools([tool_spec(name, call) for name, call in self.setup.functions.items()])
        return self._seat

    def _warn_of_functions(self, seat: Seat) -> None:
        for name in self.setup.functions:
            reason = seat.session.no_place("tool.call", "tool", name)
            if reason is not None:
                log.warning("function %s: %s; its calls will be denied", name, reason)

    def close(self) -> None:
        """Queued. Ends the session, and the gate when it was started here."""
        self._leave()
        gate, self.gate = self.gate, None
        if gate is not None and self._owned:
            gate.stop()

    def _leave(self) -> None:
        seat, self._seat, self._opening = self._seat, None, None
        self._notes = []
        self.handles.clear()
        if seat is not None:
            seat.close()

    def renew(self) -> None:
        """Queued. Begins a new session."""
        self._leave()
        try:
            self.open()
        except GateUnavailable:
            if not self._owned:
                raise
            self.close()  # The gate that was started here has ended: begin with another.
            self.open()

    def saved(self) -> dict[str, Any] | None:
        """Queued. The session, for :meth:`take_up`."""
        return self._seat.saved() if self._seat is not None else None

    def take_up(self, saved: Any) -> None:
        """Queued. Goes on with a saved session, or says at the next block that it has ended."""
        self._leave()
        if saved is None:
            return
        seat = self._place()
        if seat.rejoin(saved):
            self._opening = seat.open()
        else:
            log.warning("the gate no longer has the saved session")
            self._notes.append(f"the saved session has ended; {GONE}")

    # -- queued: blocks --

    def run(self, work: Work, blocks: Sequence[CodeBlock]) -> GateCodeResult:
        """Queued. Runs blocks up to the first that does not end well.

        Raises:
            asyncio.TimeoutError: when the set-up asks for it.
        """
        with self._switch:
            self._work = work
            if work.era != self._era:
                work.ended_by = work.ended_by or "stop"
        try:
            file = keep(self.setup.code_dir, blocks)
            parts: list[Part] = []
            for block in blocks:
                parts.append(self._guarded(work, block))
                if parts[-1].exit_code != 0:
                    break
        finally:
            with self._switch:
                self._work = None
        if work.ended_by == "time" and self.setup.raise_on_timeout:
            raise asyncio.TimeoutError(parts[-1].why)
        return result_of(parts, file, self.setup.max_output)

    def _guarded(self, work: Work, block: CodeBlock) -> Part:
        """A block's part; whatever goes wrong at the gate is one, too."""
        try:
            return self._broken_off(work) or self._part(work, block)
        except (GateError, OSError) as fault:
            return self._broken_off(work) or Part(UNAVAILABLE, why=f"[weir] {cut(str(fault), ERROR_CHARS)}")

    def _part(self, work: Work, block: CodeBlock) -> Part:
        seat = self.open()
        imports, functions = seat.session.imports, self.setup.functions
        refused = refusal(block.language, block.code, imports, functions)
        if refused is not None:
            return Part(UNSUPPORTED, why=refused, reason="unsupported_language")
        if self._work_dir is not None:
            self._notes += self._work_dir.send(seat.session, self._work_dir.changed(seat.session))
        language, code = guest(block.language), block.code
        if language == "python":
            code = plain_functions(code, self.setup.functions_module, functions)
        done = self._timed(work, seat, code, None if language == "python" else language)
        if done is None:
            return self._broken_off(work) or Part(UNAVAILABLE)
        if self._work_dir is not None and seat.is_open:
            self._notes += self._work_dir.fetch(seat.session, done.files)
        stopped = self._broken_off(work, done)
        part = stopped or outcome(done, block.code, imports, language == "python")
        notices, self._notes = [*(() if stopped else done.notices), *self._notes], []
        if part.why:
            part.why = with_notices(part.why, notices)
        else:
            part.printed = with_notices(part.printed, notices)
        return part

    def _timed(self, work: Work, seat: Seat, code: str, language: str | None) -> Done | None:
        """Runs one program, within ``timeout``; ``None`` when it was broken off before it began."""
        over = threading.Event()
        timer = threading.Timer(self.setup.timeout or 0, self.break_off, (work, "time", over.is_set))
        timer.daemon = True
        with self._switch:
            if work.ended_by is not None:
                return None
            work.running = True
        if self.setup.timeout is not None:
            timer.start()
        stopped = True
        try:
            done = seat.execute(code, {}, lambda name, args: self._on_tool(work, name, args), language)
            stopped = done.replaced or not seat.is_open
            return done
        finally:
            timer.cancel()
            with self._switch:
                over.set()
                work.running = False
            self._settle(work, stopped)

    def _settle(self, work: Work, stopped: bool) -> None:
        """Notes for the next program what this one lost, unless its own result says so."""
        if work.ended_by == "time":
            if stopped:
                self._opening = None
            else:
                work.ended_by = None  # It ended by itself in the same moment.
        elif work.ended_by is not None and stopped:
            self._opening = CANCELLED

    def _on_tool(self, work: Work, name: str, args: dict[str, Any]) -> ToolReply:
        if work.ended_by is not None:
            return failure("Cancelled", "the execution was cancelled")  # Allowed, but nobody wants it any more.
        tools = {name: here(work, call) for name, call in self.setup.functions.items()}
        reply, note = answer(tools, self.handles, name, args)
        if note:
            self._notes.append(note)
        return reply

    def _broken_off(self, work: Work, done: Done | None = None) -> Part | None:
        """The part of a block that was broken off from this side; ``None`` when it was not."""
        if work.ended_by is None:
            return None
        printed, receipt = (done.logs, done.receipt) if done is not None else ("", None)
        if work.ended_by == "time":
            why = f"[weir] Timeout: the block was stopped after {self.setup.timeout} s; {GONE}."
            return Part(TIMEOUT, printed, why, "timeout", receipt)
        why = f"[weir] Cancelled: the executor was stopped; {GONE}."
        return Part(UNAVAILABLE, printed, why, "cancelled", receipt)


def here(work: Work, call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the host, run to its end: a coroutine in the loop of the caller, who waits there."""

    def run(**kwargs: Any) -> Any:
        value = call(**kwargs)
        if not inspect.iscoroutine(value):
            return value
        awaited = work.awaited = asyncio.run_coroutine_threadsafe(value, work.loop)
        try:
            return awaited.result()
        finally:
            work.awaited = None

    return run


def keep(folder: Path | None, blocks: Sequence[CodeBlock]) -> str | None:
    """Keeps a copy of each program in a folder; the path of the first. A program goes on without its copy."""
    if folder is None or not blocks:
        return None
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for block in blocks:
            text = block.code.encode("utf-8", "backslashreplace").decode("utf-8")
            name = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
            paths.append(folder.absolute() / f"block_{name}.{suffix(block.language)}")
            write_private(paths[-1], text)
    except OSError as fault:
        log.warning("no copy of a program was kept: %s", fault)
        return None
    return str(paths[0])


def suffix(language: str) -> str:
    """The ending of a kept program's file."""
    name = language.strip().lower()
    return {"python": "py", "javascript": "js"}.get(guest(language) or "") or (name if re.fullmatch(r"[a-z0-9]{1,12}", name) else "txt")
