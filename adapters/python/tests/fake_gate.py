"""A stand-in for the sidecar, for unit tests of the adapter only.

It speaks docs/protocol.md over a Unix socket and runs code by plain ``exec`` in a thread of the test's
own process. IT ISOLATES NOTHING, decides by a few sets of names, and records nothing durably. No
statement about the gate's safety, policy or speed can be made with it.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import http.server
import io
import json
import queue
import secrets
import socketserver
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from weir._wire import WireError, decode, encode

TOKEN = "fake-token"
IMPORTS = ["base64", "collections", "datetime", "decimal", "json", "math", "random", "re", "time"]
LIMITS = {"wall_ms": 2_000, "output_bytes": 100_000, "tool_ms": 30_000}


class Denied(Exception):
    """The class that generated code sees as ``PermissionDenied``."""


Denied.__name__ = Denied.__qualname__ = "PermissionDenied"


class Final(BaseException):
    pass


class Spent(BaseException):
    pass


class Stub:
    """A host object as the guest sees it."""

    def __init__(self, key: str, kind: str, text: str) -> None:
        self.handle = [key, kind, text]

    def __repr__(self) -> str:
        return self.handle[2]


def out(value: Any) -> Any:
    def opaque(thing: Any) -> Any:
        if isinstance(thing, Stub):
            return {"$": ["handle", *thing.handle]}
        return {"$": ["repr", type(thing).__name__, repr(thing)[:200]]}

    return encode(value, opaque)


def back(data: Any) -> Any:
    return decode(data, Stub)


def reason_of(fault: BaseException) -> str:
    """The reason code of a refusal."""
    codes = ("budget_exhausted", "limit_reached", "import_denied", "cancelled")
    return next((code for code in codes if code in str(fault)), "rule")


def denial(what: str, rule: str, instead: str = "") -> str:
    allowed = f"\nAllowed: {instead}." if instead else ""
    return f"[weir] denied {what}: {rule} (L3/tool-misuse){allowed}\nDo not retry."


class Session:
    def __init__(self, gate: FakeGate, body: dict[str, Any]) -> None:
        self.gate, self.id = gate, secrets.token_hex(8)
        self.parent, self.name = body.get("parent"), body.get("name")
        self.tools = {tool["name"]: tool for tool in body["tools"]}
        self.globals: dict[str, Any] = {}
        self.runs = 1
        self.execution: Execution | None = None
        self.reset()

    def reset(self) -> None:
        self.globals = {"__name__": "__agent__", "PermissionDenied": Denied}


class Execution:
    """One program in a thread; its tool calls wait for the host."""

    def __init__(self, session: Session, code: str, variables: dict[str, Any], name: str | None = None) -> None:
        self.id, self.session, self.code = name or secrets.token_hex(16), session, code
        self.variables = variables
        self.events: queue.Queue = queue.Queue()
        self.replies: queue.Queue = queue.Queue()
        self.logs = io.StringIO()
        self.answer: list[Any] = []
        self.cancelled = self.ended = False
        self.host_seconds = 0.0
        self.started = time.monotonic()
        self.calls = 0
        threading.Thread(target=self.main, daemon=True).start()

    def main(self) -> None:
        status, error, refused, reason, value = "done", None, None, None, None
        notices: list[str] = []
        try:
            value = self.run()
        except Final:
            pass
        except Denied as fault:
            status, refused, reason = "denied", str(fault), reason_of(fault)
        except Spent as fault:
            status, refused, reason = "exhausted", str(fault), reason_of(fault)
            self.session.reset()
            notices.append("the sandbox was replaced; variables of earlier steps are gone")
        except BaseException as fault:  # noqa: BLE001 - whatever the program raised
            status, error = "failed", self.describe(fault)
        if self.answer:
            value = self.answer[0]
        self.ended = True
        self.events.put(
            {
                "event": "done", "execution": self.id, "status": status, "output": out(value),
                "logs": self.logs.getvalue(), "is_final": bool(self.answer), "error": error, "denial": refused,
                "reason": reason, "replaced": status == "exhausted",
                "notices": notices, "usage": {"calls": 1 + self.calls}, "receipt": self.session.gate.record("code.run", "python"),
            }
        )  # fmt: skip

    def run(self) -> Any:
        gate, scope = self.session.gate, self.session.globals
        gate.spend("code.run", "code")
        scope["__builtins__"] = {**vars(builtins), "__import__": self.importer}
        scope.update({name: back(value) for name, value in self.variables.items()})
        for name, spec in self.session.tools.items():
            scope[name] = self.stub(spec)
        tree = ast.parse(self.code, "<agent>")
        last = remember_last(tree)
        sys.settrace(self.watch)
        try:
            with contextlib.redirect_stdout(self.logs):
                exec(compile(tree, "<agent>", "exec"), scope)
        finally:
            sys.settrace(None)
        return scope.pop("__last__", None) if last else None

    def watch(self, frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename == "<agent>":
            frame.f_trace_opcodes = True  # A loop on one line makes no line events.
            if self.cancelled:
                raise Spent("cancelled")
            if (time.monotonic() - self.started - self.host_seconds) * 1000 > LIMITS["wall_ms"]:
                raise Spent(denial("code", "limit_reached"))
            return self.watch
        return None

    def importer(self, name: str, scope: Any = None, *rest: Any) -> Any:
        ours = scope is not None and scope.get("__name__") == "__agent__"
        if ours and name.split(".")[0] not in self.session.gate.imports:
            text = denial(f"import {name}", "code.imports", f"modules {', '.join(self.session.gate.imports)}")
            raise Denied(text)
        return builtins.__import__(name, scope, *rest)

    def stub(self, spec: dict[str, Any]) -> Any:
        names = [param["name"] for param in spec["params"]]

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.call(spec, {**dict(zip(names, args, strict=False)), **kwargs})

        call.__name__, call.__doc__ = spec["name"], spec["description"]
        return call

    def call(self, spec: dict[str, Any], kwargs: dict[str, Any]) -> Any:
        gate, name = self.session.gate, spec["name"]
        action = "agent.invoke" if spec["is_agent"] else "tool.call"
        self.calls += 1
        try:
            gate.admit(action, name, kwargs)
        except (Denied, Spent):
            gate.record(action, name, refused=True)
            raise
        call, began = secrets.token_hex(8), time.monotonic()
        args = {key: out(value) for key, value in kwargs.items()}
        self.events.put({"event": "tool", "execution": self.id, "call": call, "tool": name, "args": gate.tamper(args)})
        reply = self.replies.get()
        self.host_seconds += time.monotonic() - began
        gate.record(action, name)
        if reply is None:
            raise Spent("cancelled")
        if "error" in reply:
            raise type(reply["error"]["type"], (Exception,), {})(reply["error"]["message"])
        value = back(reply["value"])
        if spec["is_final"]:
            self.answer[:] = [value]
            raise Final
        return value

    def describe(self, fault: BaseException) -> dict[str, str]:
        frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if frame.filename == "<agent>"]
        lines = self.code.splitlines()
        text = "Traceback (most recent call last):\n"
        for frame in frames:
            text += f'  File "<agent>", line {frame.lineno}\n    {lines[frame.lineno - 1].strip()}\n'
        text += "".join(traceback.format_exception_only(type(fault), fault))
        return {"type": type(fault).__name__, "message": str(fault), "traceback": text}


def remember_last(tree: ast.Module) -> bool:
    """Keeps the value of the last statement, assignments included, as smolagents' own executor does."""
    if not tree.body:
        return False
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("__last__", ast.Store())], last.value)
    elif isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name):
        tree.body.append(ast.Assign([ast.Name("__last__", ast.Store())], ast.Name(last.targets[0].id, ast.Load())))
    else:
        return False
    ast.fix_missing_locations(tree)
    return True


class FakeGate:
    """The stand-in; use it as a context manager."""

    def __init__(self, socket: Path, denied: set[str] = frozenset(), budget: int = 10_000, tokens: int = 10**9) -> None:
        self.socket, self.denied, self.budget, self.tokens = socket, set(denied), budget, tokens
        self.unknown: set[str] = set()
        self.imports = list(IMPORTS)
        self.sessions: dict[str, Session] = {}
        self.executions: dict[str, Execution] = {}
        self.holds: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.decided: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []
        self.receipts: list[dict[str, Any]] = []
        self.tamper = lambda args: args
        self.languages = {"python"}
        self.delay = 0.0
        self.late = False
        self.lock = threading.Lock()

    def __enter__(self) -> FakeGate:
        self.server = Server(str(self.socket), self)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for execution in self.executions.values():
            execution.cancelled = True
            execution.replies.put(None)
        self.server.shutdown()
        self.server.server_close()

    def spend(self, action: str, what: str) -> None:
        with self.lock:
            self.budget -= 1
            if self.budget < 0:
                raise Spent(denial(what, "budget_exhausted"))

    def admit(self, action: str, name: str, args: dict[str, Any]) -> None:
        what = {"agent.invoke": "agent", "model.generate": "model"}.get(action, "tool")
        with self.lock:
            if name in self.denied or action in self.denied:
                raise Denied(denial(f"{what} {name}", "rule-deny"))
            if action == "model.generate":
                if args["max_tokens"] > self.tokens:
                    raise Denied(denial(f"model {name}", "budget_exhausted"))
                self.tokens -= args["max_tokens"]
        self.spend(action, f"{what} {name}")

    def record(self, action: str, name: str, refused: bool = False) -> str:
        self.receipts.append(
            {
                "receipt_id": secrets.token_hex(8),
                "action": {"tool": name, "operation": action},
                "decision": {"result": "DENY" if refused else "ALLOW", "reason": "rule-deny" if refused else "allowed"},
            }
        )
        return self.receipts[-1]["receipt_id"]

    def handle(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.requests.append((method, path, body))
        parts = path.split("?")[0].strip("/").split("/")
        if path == "/health/ready":
            return 200, {}
        if path == "/v1/sessions" and method == "POST":
            if ("parent" in body) != ("name" in body):
                return 400, {"error": {"code": "malformed", "message": "`parent` and `name` stand together"}}
            if "parent" in body and body["parent"] not in self.sessions:
                return 404, {"error": {"code": "not_found", "message": "no such session is open"}}
            session = Session(self, body)
            self.sessions[session.id] = session
            made = {"session": session.id, "agent": "fake", "policy": "sha256:" + "0" * 64}
            return 201, {**made, "imports": self.imports, "limits": LIMITS}
        if path == "/v1/decide":
            return self.decide(body)
        if path == "/access/v1/evaluation":
            reason = "unknown_tool" if body["resource"]["id"] in self.unknown else "allowed"
            return 200, {"decision": reason == "allowed", "context": {"effect": "allow", "reason": reason}}
        if path == "/v1/outcome":
            return self.outcome(body)
        if path == "/v1/scores":
            return 200, {"policy": "fake", "factors": []}
        if path.startswith("/v1/receipts"):
            return 200, {"receipts": self.receipts[::-1]}
        if parts[:2] == ["v1", "sessions"] and parts[2] in self.sessions:
            return self.in_session(method, self.sessions[parts[2]], parts[3:], body)
        if parts[:2] == ["v1", "executions"] and parts[2] in self.executions:
            return self.in_execution(method, self.executions[parts[2]], parts[3:], body)
        return 404, {"error": {"code": "malformed", "message": f"nothing at {path}"}}

    def end(self, session: Session) -> None:
        """Ends a session and those that work for it."""
        for below in [each for each in self.sessions.values() if each.parent == session.id]:
            self.end(below)
        self.sessions.pop(session.id, None)
        if session.execution is not None:
            session.execution.cancelled = True
            session.execution.replies.put(None)

    def in_session(self, method: str, session: Session, rest: list[str], body: Any) -> tuple[int, Any]:
        if method == "DELETE":
            self.end(session)
            return 200, {}
        if rest == ["event"]:
            return self.next_event(session.execution)
        if rest == ["tools"]:
            session.tools = {tool["name"]: tool for tool in body["tools"]}
            return 200, {}
        if rest == ["runs"]:
            if session.parent is not None:
                return 409, {"error": {"code": "conflict", "message": "runs belong to the session above"}}
            session.runs += 1
            return 201, {"run": f"run-{session.runs}"}
        if (language := body.get("language", "python")) not in self.languages:
            return 200, refused_language(body["execution"], language)
        if session.execution is not None and not session.execution.ended:
            return 409, {"error": {"code": "malformed", "message": "the session's execution has not ended"}}
        execution = session.execution = Execution(
            session, body["code"], body.get("variables", {}), body.get("execution")
        )
        self.executions[execution.id] = execution
        return self.next_event(execution)

    def in_execution(self, method: str, execution: Execution, rest: list[str], body: Any) -> tuple[int, Any]:
        if method == "DELETE":
            execution.cancelled = True
            execution.replies.put(None)
            until = time.monotonic() + 1
            while not execution.ended and time.monotonic() < until:
                time.sleep(0.005)  # As the sidecar waits, a while.
            return 200, {}
        if self.late:
            self.late = False
            execution.replies.put({"error": {"type": "TimeoutError", "message": "the tool did not answer in time"}})
            return 409, {"error": {"code": "malformed", "message": "no tool call waits for an answer"}}
        execution.replies.put(body)
        return self.next_event(execution)

    def next_event(self, execution: Execution) -> tuple[int, Any]:
        """The next event. As with the sidecar, a caller that hangs up does not cancel by that alone."""
        return 200, execution.events.get()

    def decide(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.decided.append(body)
        receipt = self.record(body["action"], body["resource"])
        try:
            self.admit(body["action"], body["resource"], body["args"])
        except (Denied, Spent) as refused:
            reason = reason_of(refused)
            return 200, {"call": "c", "effect": "deny", "denial": str(refused), "reason": reason, "receipt": receipt}
        call = secrets.token_hex(8)
        self.holds[call] = body
        return 200, {"call": call, "effect": "allow", "denial": None, "reason": None, "receipt": None}

    def outcome(self, body: dict[str, Any]) -> tuple[int, Any]:
        held = self.holds.pop(body["call"], None)
        if held is None:
            return 404, {"error": {"code": "malformed", "message": "no such call"}}
        if held["action"] == "model.generate" and "usage" in body:
            self.tokens += held["args"]["max_tokens"] - body["usage"]["tokens"]
        self.outcomes.append({**held, **body})
        return 200, {"receipt": self.record(held["action"], held["resource"])}


def refused_language(execution: str, language: str) -> dict[str, Any]:
    text = denial("code", "no_rule", "languages python").replace("no_rule", f"no_rule ({language})")
    return {
        "event": "done", "execution": execution, "status": "denied", "output": None, "logs": "", "is_final": False,
        "error": None, "denial": text, "reason": "no_rule", "replaced": False, "notices": [], "usage": {}, "receipt": "r",
    }  # fmt: skip


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, gate: FakeGate) -> None:
        self.gate = gate
        super().__init__(path, Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        gate: FakeGate = self.server.gate  # type: ignore[attr-defined]
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(gate.delay)
        if not self.path.startswith("/health") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status, reply = 401, {"error": {"code": "malformed", "message": "wrong token"}}
        else:
            try:
                status, reply = gate.handle(self.command, self.path, json.loads(raw) if raw else None)
            except (KeyError, WireError) as fault:
                status, reply = 400, {"error": {"code": "malformed", "message": repr(fault)}}
        data = json.dumps(reply, ensure_ascii=False).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = answer
