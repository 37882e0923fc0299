"""A small Hugging Face Hub for tests: one pinned repository, one that takes uploads, jobs with a clock that a test sets.

It keeps every request that reached it, so that a test can say what did not.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FakeHub:
    """The Hub on one loopback port, its large files on another host name."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, bool]] = {}
        self.corrupt: set[str] = set()
        self.asked: list[tuple[str, str, str | None, bytes]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.sent: dict[str, bytes] = {}
        self.commits: list[list[dict[str, Any]]] = []
        hub = self

        class Handler(_Handler):
            world = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> FakeHub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def blobs(self) -> str:
        return f"http://localhost:{self.port}"

    def run(self, seconds: int) -> None:
        """Sets the clock of every job that has not ended."""
        for job in self.jobs.values():
            if job["status"]["stage"] in ("SCHEDULING", "RUNNING"):
                job["status"]["stage"] = "RUNNING"
                job["durations"]["runningSecs"] = seconds

    def end(self, stage: str) -> None:
        for job in self.jobs.values():
            job["status"]["stage"] = stage

    def count(self, method: str, path: str) -> int:
        return sum(1 for asked in self.asked if asked[0] == method and asked[1].startswith(path))


class _Handler(BaseHTTPRequestHandler):
    world: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def read(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            whole = b""
            while size := int(self.rfile.readline().strip(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_any(self) -> None:
        body = self.read()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.world.asked.append((self.command, self.path, token, body))
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        match self.command, parts:
            case ("GET", ["blob", digest]):
                found = next((f for f in self.world.files.items() if sha256(f[1][0]) == digest), None)
                if found is None:
                    self.answer(404)
                else:
                    self.answer(200, self.content(found[0]))
            case ("PUT", ["put", oid]):
                self.world.sent[oid] = body
                self.answer(200, ETag='"t"')
            case ("POST", ["verify", _]):
                self.answer(200, {})
            case (_, ["api", "jobs", *rest]):
                self.job(rest, parse_qs(url.query), body)
            case ("GET", ["api", "models", "team", "base", "revision", _]):
                self.answer(200, {"id": "team/base", "sha": COMMIT})
            case ("GET", ["api", "models", "team", "base", "tree", _]):
                self.answer(200, [self.row(path) for path in self.world.files])
            case ("GET" | "HEAD", ["team", "base", "resolve", _, *path]):
                self.resolve("/".join(path))
            case ("POST", ["api", "models", "team", "out", "preupload", _]):
                files = json.loads(body)["files"]
                row = lambda file: {  # noqa: E731
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] > 1000 else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                self.answer(200, {"files": [row(file) for file in files]})
            case ("POST", ["team", "out.git", "info", "lfs", "objects", "batch"]):
                self.answer(200, {"transfer": "basic", "objects": [self.plan(o) for o in json.loads(body)["objects"]]})
            case ("POST", ["api", "models", "team", "out", "commit", _]):
                self.world.commits.append([json.loads(line) for line in body.splitlines()])
                url_ = f"https://huggingface.co/team/out/commit/{COMMIT}"
                self.answer(200, {"success": True, "commitUrl": url_, "commitOid": COMMIT, "hookOutput": ""})
            case ("POST", ["api", "repos", "create"]):
                self.answer(200, {"url": "https://huggingface.co/team/out"})
            case _:
                self.answer(404, {"error": "not here"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def content(self, path: str) -> bytes:
        content = self.world.files[path][0]
        return content[:-1] + b"X" if path in self.world.corrupt else content

    def row(self, path: str) -> dict[str, Any]:
        content, large = self.world.files[path]
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob(content), "xetHash": "a" * 64}
        if large:
            row["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return row

    def resolve(self, path: str) -> None:
        if path not in self.world.files:
            return self.answer(404, X_Error_Code="EntryNotFound")
        content, large = self.world.files[path]
        common = {"X-Repo-Commit": COMMIT, "X-Xet-Hash": "a" * 64, "Link": '<https://cas.example/x>; rel="xet-auth"'}
        if large:
            digest = sha256(content)
            place = f"{self.world.blobs}/blob/{digest}?Signature=s"
            return self.answer(302, **common, Location=place, X_Linked_Etag=f'"{digest}"', X_Linked_Size=str(len(content)))
        self.answer(200, self.content(path), **common, ETag=f'"{blob(content)}"')

    def plan(self, wanted: dict[str, Any]) -> dict[str, Any]:
        oid = wanted["oid"]
        upload = {"href": f"{self.world.blobs}/put/{oid}", "header": {}}
        verify = {"href": f"{self.world.url}/verify/{oid}"}
        return {**wanted, "actions": {"upload": upload, "verify": verify}}

    def job(self, rest: list[str], query: dict[str, list[str]], body: bytes) -> None:
        jobs = self.world.jobs
        match self.command, rest:
            case ("GET", ["hardware"]):
                row = {"prettyName": "x", "cpu": "4", "ram": "15 GB", "unitCostUSD": 0.006667, "unitLabel": "minute"}
                self.answer(200, [{"name": "t4-small", "unitCostMicroUSD": 6667, **row}])
            case ("POST", [namespace]):
                spec = json.loads(body)
                job = {**spec, "id": f"job{len(jobs)}", "owner": {"id": "u1", "name": namespace, "type": "user"}}
                job["createdAt"] = "2026-11-21T21:00:00.000Z"
                job["status"] = {"stage": "SCHEDULING", "message": None}
                job["durations"] = {"schedulingSecs": 0, "runningSecs": 0, "totalSecs": 0}
                jobs[job["id"]] = job
                self.answer(200, job)
            case ("GET", [_]):
                wanted = [label.split("=", 1) for label in query.get("label", [])]
                of = lambda job: all(job["labels"].get(key) == value for key, value in wanted)  # noqa: E731
                self.answer(200, [job for job in jobs.values() if of(job)])
            case (_, [_, name]) if name not in jobs:
                self.answer(404, {"error": "no such job"})
            case ("GET", [_, name]):
                self.answer(200, jobs[name])
            case ("POST", [_, name, "cancel"]):
                jobs[name]["status"]["stage"] = "CANCELED"
                self.answer(200, {})
            case ("GET", [_, _, "logs"]):
                events = "".join(f"data: {json.dumps({'data': line})}\n\n" for line in ("===== Job started", "step 1"))
                self.answer(200, events.encode(), Content_Type="text/event-stream")
            case _:
                self.answer(404, {"error": "not here"})
