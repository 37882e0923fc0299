"""The world of the example: a provider of rented machines whose clock runs six hundred times as fast, and a model.

Both speak on loopback, as far as the example needs it. Neither is real; what the gate does with them is.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FASTER = 600
TRAINING = 12 * 60
"""Seconds that every training takes, by the provider's clock."""


class Jobs:
    """Machines by the minute."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun: dict[str, tuple[float, dict[str, Any]]] = {}

    def launch(self, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            name = f"job{len(self.begun) + 1}"
            owner = {"id": "u", "name": namespace, "type": "org"}
            self.begun[name] = (time.monotonic(), {**spec, "id": name, "owner": owner, "createdAt": "2026-11-01T00:00:00.000Z"})
        return self.show(name)

    def show(self, name: str) -> dict[str, Any]:
        with self.lock:
            since, job = self.begun[name]
        ran = int((time.monotonic() - since) * FASTER)
        longest = min(TRAINING, job.get("timeoutSeconds") or 1800)
        stage = "COMPLETED" if ran >= longest else "RUNNING"
        seconds = min(ran, longest)
        durations = {"schedulingSecs": 0, "runningSecs": seconds, "totalSecs": seconds}
        return {**job, "status": {"stage": stage, "message": None}, "durations": durations}


class Handler(BaseHTTPRequestHandler):
    jobs = Jobs()
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        match parts:
            case ["api", "jobs", "hardware"]:
                row = {"prettyName": "T4", "cpu": "4", "ram": "15 GB", "unitCostUSD": 0.006667, "unitLabel": "minute"}
                self.answer(200, [{"name": "t4-small", "unitCostMicroUSD": 6667, **row}])
            case ["api", "jobs", _, name] if name in self.jobs.begun:
                self.answer(200, self.jobs.show(name))
            case ["api", "jobs", _]:
                self.answer(200, [self.jobs.show(name) for name in list(self.jobs.begun)])
            case _:
                self.answer(404, {"error": "not here"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        match self.path.split("?")[0].strip("/").split("/"):
            case ["api", "jobs", namespace]:
                self.answer(200, self.jobs.launch(namespace, body))
            case ["v1", "messages"]:
                text = [{"type": "text", "text": "Train once more with half the learning rate."}]
                usage = {"input_tokens": 1200, "output_tokens": 300}
                message = {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "content": text}
                self.answer(200, {**message, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage})
            case _:
                self.answer(404, {"error": "not here"})


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
