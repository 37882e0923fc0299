"""HTTP/1.1 to the sidecar over a Unix socket or loopback TCP.

Connections are kept alive and reused. A request that changes something is sent at most once: when a
connection breaks after the first byte has left, nobody knows whether it was executed, and the answer
is an error, never a second try. Only reads are tried again, once.
"""

from __future__ import annotations

import http.client
import ipaddress
import select
import socket
import threading
from dataclasses import dataclass
from typing import Any, Callable
from urllib.parse import urlsplit

from ._errors import GateUnavailable, ProtocolError, Refused, WireError
from ._handles import clip
from ._json import dumps, loads

REPLY_BYTES = 16 << 20
"""Bytes of one reply; more is an error."""
CONNECT_SECONDS = 10.0
"""Time to connect."""
ANSWER_SECONDS = 30.0
"""Time for the answer to a request that runs nothing."""
JSON_TYPE = "application/json"
"""The type of every body but a file's."""
IDLE_CONNECTIONS = 8
"""Connections kept open without use."""


@dataclass(frozen=True)
class Address:
    """Where a sidecar listens: ``unix:<path>``, or ``http://<loopback address>:<port>``."""

    path: str | None = None
    host: str | None = None
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads an address.

        Raises:
            ValueError: it is neither form, or names another machine. The token would go there.
        """
        if text.startswith(("unix:", "/")):
            path = text.removeprefix("unix://").removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError("a socket's path is absolute, like unix:/run/user/1000/weir.sock")
            return cls(path=path)
        parts = urlsplit(text)
        if parts.scheme != "http" or not parts.hostname or not parts.port or parts.path.strip("/") or parts.username:
            raise ValueError("an address is unix:/path/to/socket or http://127.0.0.1:port")
        if not loopback(parts.hostname):
            raise ValueError(f"{parts.hostname} is not a loopback address; the gate runs on the agent's own machine")
        return cls(host=parts.hostname, port=parts.port)

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"http://{self.host}:{self.port}"


def loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Flight:
    """One request under way, so that another thread can break it off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._answered = threading.Event()
        self._answered.set()
        self.broken_off = False

    def begin(self, sock: socket.socket | None) -> None:
        self._answered.clear()
        with self._lock:
            self._sock = sock
            if self.broken_off and sock is not None:
                _shut(sock)

    def end(self) -> None:
        with self._lock:
            self._sock = None
        self._answered.set()

    def answered(self, seconds: float) -> bool:
        """Waits for the answer to the request under way; true at once when there is none."""
        return self._answered.wait(seconds)

    def break_off(self) -> None:
        """Closes the connection under the request; the sidecar sees that its caller is gone."""
        with self._lock:
            self.broken_off = True
            if self._sock is not None:
                _shut(self._sock)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Client:
    """A sidecar's endpoint with its token. Safe to use from several threads.

    ``gone`` says, after a connection broke, how the sidecar ended, if it has.
    """

    def __init__(self, address: Address | str, token: str, gone: Callable[[], str | None] = lambda: None) -> None:
        if not token or not token.isascii() or not token.isprintable():
            raise ValueError("a token is printable ASCII text")
        self.address = Address.parse(address) if isinstance(address, str) else address
        self._token = token
        self._gone = gone
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Client({self.address})"

    def get(self, path: str, timeout: float = ANSWER_SECONDS) -> Any:
        """The answer to a read; tried once more when a kept connection turns out to be dead."""
        try:
            return self._exchange("GET", path, None, timeout, None)
        except GateUnavailable as fault:
            if isinstance(fault.__cause__, TimeoutError):
                raise
            return self._exchange("GET", path, None, timeout, None)

    def post(self, path: str, body: Any, timeout: float = ANSWER_SECONDS, flight: Flight | None = None) -> Any:
        """The answer to a request that changes something; sent at most once."""
        return self._exchange("POST", path, body, timeout, flight)

    def put(self, path: str, body: Any, timeout: float = ANSWER_SECONDS) -> Any:
        """As :meth:`post`, with PUT."""
        return self._exchange("PUT", path, body, timeout, None)

    def get_bytes(self, path: str, timeout: float = ANSWER_SECONDS) -> bytes:
        """The content of a file; asked for once."""
        status, data = self._request("GET", path, None, timeout, None)
        if not 200 <= status < 300:
            answer(status, data)
        return data

    def put_bytes(self, path: str, content: bytes, timeout: float = ANSWER_SECONDS) -> Any:
        """As :meth:`put`, with a file's content for a body."""
        return answer(*self._request("PUT", path, content, timeout, None))

    def delete(self, path: str, timeout: float = ANSWER_SECONDS) -> Any:
        """As :meth:`post`, with DELETE and no body."""
        return self._exchange("DELETE", path, None, timeout, None)

    def close(self) -> None:
        """Closes the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange(self, method: str, path: str, body: Any, timeout: float, flight: Flight | None) -> Any:
        return answer(*self._request(method, path, None if body is None else dumps(body), timeout, flight, JSON_TYPE))

    def _request(
        self,
        method: str,
        path: str,
        raw: bytes | None,
        timeout: float,
        flight: Flight | None,
        media: str = "application/octet-stream",
    ) -> tuple[int, bytes]:
        connection = self._take()
        try:
            status, data, keep = self._send(connection, method, path, raw, timeout, flight, media)
        except BaseException as fault:
            connection.close()
            if isinstance(fault, (OSError, http.client.HTTPException)):
                raise GateUnavailable(self._why(fault, timeout)) from fault
            raise
        if keep:
            self._give_back(connection)
        else:
            connection.close()
        return status, data

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        raw: bytes | None,
        timeout: float,
        flight: Flight | None,
        media: str,
    ) -> tuple[int, bytes, bool]:
        if connection.sock is None:
            connection.timeout = min(CONNECT_SECONDS, timeout)
            connection.connect()
        connection.sock.settimeout(timeout)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if raw is not None:
            headers["Content-Type"] = media
        if flight is not None:
            flight.begin(connection.sock)
        try:
            try:
                connection.request(method, path, body=raw, headers=headers)
            except (BrokenPipeError, ConnectionResetError):
                pass  # A gate that refuses (token, size) answers before it has read the body.
            reply = connection.getresponse()
            data = reply.read(REPLY_BYTES + 1)
        finally:
            if flight is not None:
                flight.end()
        if len(data) > REPLY_BYTES:
            raise ProtocolError(f"the gate's reply is over {REPLY_BYTES} bytes")
        return reply.status, data, not reply.will_close

    def _take(self) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._fresh()
            if connection.sock is not None and not _readable(connection.sock):
                return connection
            connection.close()

    def _fresh(self) -> http.client.HTTPConnection:
        if self.address.path is not None:
            return _UnixConnection(self.address.path, CONNECT_SECONDS)
        return http.client.HTTPConnection(self.address.host or "", self.address.port, timeout=CONNECT_SECONDS)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _why(self, fault: BaseException, timeout: float) -> str:
        if isinstance(fault, TimeoutError):
            return f"the gate at {self.address} did not answer within {timeout:g} s; nothing is allowed without it"
        gone = self._gone()
        if gone is not None:
            return gone
        return f"the gate at {self.address} cannot be reached ({clip(str(fault) or type(fault).__name__, 80)})"


def _readable(sock: socket.socket) -> bool:
    """True when an idle connection has something to read: its end, or bytes that nobody asked for."""
    try:
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True


def answer(status: int, data: bytes) -> Any:
    """The JSON of a successful reply.

    Raises:
        Refused: the status is not one of success.
        ProtocolError: the body is not the JSON that the protocol promises.
    """
    if 200 <= status < 300:
        return loads(data) if data else {}
    code, message = "unknown", f"HTTP status {status}"
    try:
        error = loads(data)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (WireError, KeyError, TypeError):
        pass
    if status == 401:
        message = (
            "the token is not this gate's; pass the one that the sidecar was started with as token= or token_file=, "
            "or set WEIR_TOKEN or WEIR_TOKEN_FILE"
        )
    raise Refused(status, clip(code, 60), clip(message, 400))
