"""The connection: tokens, addresses, slow and vanished gates, and what is never sent twice."""

from __future__ import annotations

import json
import re
import socket
import stat
import threading
import time
import types
from pathlib import Path

import pytest
from fake_gate import TOKEN, FakeGate

import weir
from weir import Address, Client, Gate, GateUnavailable, PolicyError, ProtocolError, Refused, Sidecar, WireError
from weir._client import Flight
from weir._sidecar import binary, private_folder, write_private


def test_a_wrong_token_is_refused(fake: FakeGate) -> None:
    with pytest.raises(Refused, match="the token is not this gate's; pass the one") as fault:
        Client(f"unix:{fake.socket}", "other").get("/v1/receipts")
    assert fault.value.status == 401


def test_a_token_that_could_break_the_request_is_refused() -> None:
    for token in ("", "a\r\nX: y", "ä"):
        with pytest.raises(ValueError):
            Client("http://127.0.0.1:1", token)


@pytest.mark.parametrize("text", [
    "http://example.org:80", "http://10.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1", "unix:relative", "nonsense",
    "http://user@127.0.0.1:80", "http://127.0.0.1:80/path", "http://localhost.example.org:80",
])  # fmt: skip
def test_the_token_goes_to_this_machine_only(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


@pytest.mark.parametrize(
    "text", ["unix:/a/b", "/a/b", "http://127.0.0.1:8080", "http://[::1]:80", "http://localhost:1"]
)
def test_addresses_of_this_machine(text: str) -> None:
    assert str(Address.parse(text))


def test_connections_are_kept_and_reused(fake: FakeGate) -> None:
    client = Client(f"unix:{fake.socket}", TOKEN)
    client.get("/v1/receipts")
    first = client._idle[0]
    client.post("/v1/sessions", {"tools": []})
    assert client._idle == [first]


def test_a_connection_that_ended_while_idle_is_replaced_before_anything_is_sent(fake: FakeGate) -> None:
    client = Client(f"unix:{fake.socket}", TOKEN)
    client.get("/v1/receipts")
    client._idle[0].sock.shutdown(socket.SHUT_RDWR)
    assert client.post("/v1/sessions", {"tools": []})["session"]


def serve_once(path: Path, replies: list[bytes], seen: list[bytes]) -> threading.Thread:
    """A server that takes one request per connection and answers it with the next of ``replies``."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def main() -> None:
        with listener:
            for reply in replies:
                connection, _ = listener.accept()
                with connection:
                    seen.append(whole(connection))
                    connection.sendall(reply)

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    return thread


def whole(connection: socket.socket) -> bytes:
    """One request with its body."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += connection.recv(65536)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    while length and len(body) < int(length.group(1)):
        body += connection.recv(65536)
    return head + body


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_a_request_that_changes_something_is_never_sent_twice(tmp_path: Path) -> None:
    seen: list[bytes] = []
    thread = serve_once(tmp_path / "s", [b"", http("200 OK", b"{}")], seen)
    with pytest.raises(GateUnavailable):
        Client(f"unix:{tmp_path / 's'}", "t").post("/v1/decide", {})
    assert len(seen) == 1
    Client(f"unix:{tmp_path / 's'}", "t").post("/v1/decide", {})  # Lets the server end.
    thread.join(2)


def test_a_refusal_that_comes_before_the_body_was_read_is_read(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def main() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.sendall(http("413 Too Large", b'{"error":{"code":"too_large","message":"over a limit"}}'))

    threading.Thread(target=main, daemon=True).start()
    with pytest.raises(Refused, match="413 too_large"):
        Client(f"unix:{tmp_path / 's'}", "t").post("/x", {"code": "x" * 4_000_000})


def test_a_read_is_tried_once_more(tmp_path: Path) -> None:
    seen: list[bytes] = []
    serve_once(tmp_path / "s", [b"", http("200 OK", b"[1]")], seen).join(0)
    assert Client(f"unix:{tmp_path / 's'}", "t").get("/v1/scores") == [1]
    assert len(seen) == 2


@pytest.mark.parametrize("body", [b"{", b'{"a":1,"a":1}', b"NaN"])
def test_a_reply_that_is_not_strict_json_is_an_error(tmp_path: Path, body: bytes) -> None:
    serve_once(tmp_path / "s", [http("200 OK", body)], [])
    with pytest.raises(WireError):
        Client(f"unix:{tmp_path / 's'}", "t").post("/x", {})


def test_an_error_page_of_something_else_is_still_an_error(tmp_path: Path) -> None:
    serve_once(tmp_path / "s", [http("502 Bad", b"<html>")], [])
    with pytest.raises(Refused, match="502"):
        Client(f"unix:{tmp_path / 's'}", "t").post("/x", {})


def test_a_reply_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weir._client.REPLY_BYTES", 100)
    serve_once(tmp_path / "s", [http("200 OK", b" " * 5000)], [])
    with pytest.raises(ProtocolError, match="over 100 bytes"):
        Client(f"unix:{tmp_path / 's'}", "t").post("/x", {})


def test_a_gate_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(GateUnavailable, match="cannot be reached"):
        Client(f"unix:{tmp_path / 'nothing'}", "t").get("/v1/scores")


def test_a_slow_gate_is_not_waited_for_for_ever(fake: FakeGate) -> None:
    fake.delay = 1.0
    began = time.monotonic()
    with pytest.raises(GateUnavailable, match="did not answer within 0.1 s"):
        Client(f"unix:{fake.socket}", TOKEN).get("/v1/receipts", timeout=0.1)
    assert time.monotonic() - began < 0.9


def test_another_thread_can_break_a_request_off(fake: FakeGate) -> None:
    fake.delay = 5.0
    flight = Flight()
    threading.Timer(0.1, flight.break_off).start()
    began = time.monotonic()
    with pytest.raises(GateUnavailable):
        Client(f"unix:{fake.socket}", TOKEN).post("/v1/sessions", {"tools": []}, flight=flight)
    assert time.monotonic() - began < 3


def test_connect_reads_the_token_from_a_file(fake: FakeGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert weir.connect(f"unix:{fake.socket}", token_file=tmp_path / "token").receipts() == {"receipts": []}
    monkeypatch.setenv("WEIR_TOKEN", TOKEN)
    assert isinstance(weir.connect(f"unix:{fake.socket}"), Gate)
    monkeypatch.delenv("WEIR_TOKEN")
    with pytest.raises(weir.GateError, match="wants a token"):
        weir.connect(f"unix:{fake.socket}")


class TestSidecar:
    """Starting one, with a script in the place of the program."""

    @pytest.fixture
    def program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "weir"
        monkeypatch.setenv("WEIR_BIN", str(path))
        return path

    @staticmethod
    def script(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def test_a_policy_with_faults_is_an_error_with_all_of_them(
        self, program: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.script(program, "echo 'policy.toml:3: unknown field `tols`' >&2; exit 2")
        (tmp_path / "policy.toml").write_text("")
        with pytest.raises(PolicyError, match="(?s)does not start under .*policy.toml:.*unknown field"):
            Sidecar(tmp_path / "policy.toml")
        assert capfd.readouterr().err == "", "said once, in the error"

    def test_a_program_that_ends_is_an_error_with_its_last_words(self, program: Path, tmp_path: Path) -> None:
        self.script(program, "echo 'no space left' >&2; exit 1")
        (tmp_path / "policy.toml").write_text("")
        with pytest.raises(GateUnavailable, match="(?s)status 1.*no space left"):
            Sidecar(tmp_path / "policy.toml")

    def test_the_checkout_that_it_was_installed_from_has_the_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("WEIR_BIN", raising=False)
        monkeypatch.setenv("PATH", "")
        root = tmp_path / "a checkout"
        for folder in ("policies", "adapters/python", "target/release"):
            (root / folder).mkdir(parents=True)
        (root / "Cargo.toml").touch()
        origin = json.dumps({"url": (root / "adapters" / "python").as_uri(), "dir_info": {}})
        installed = types.SimpleNamespace(read_text={"direct_url.json": origin}.get)
        monkeypatch.setattr("weir._sidecar.metadata.distribution", lambda name: installed)
        monkeypatch.setattr("weir._sidecar.__file__", str(tmp_path / "weir" / "_sidecar.py"))
        with pytest.raises(GateUnavailable, match=f"cargo build --release` in {root}"):
            binary()
        self.script(root / "target" / "release" / "weir", "")
        assert binary() == str(root / "target" / "release" / "weir")
        installed.read_text = {}.get
        with pytest.raises(GateUnavailable, match="was not found: set WEIR_BIN"):
            binary()

    def test_it_gets_its_arguments_a_private_token_and_is_stopped(
        self, program: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = Path(__file__).parent
        self.script(program, f'exec python3 {here / "fake_sidecar.py"} {tmp_path / "log"} "$@"')
        monkeypatch.setattr("weir._sidecar.QUIET_SECONDS", 0.0)
        (tmp_path / "policy.toml").write_text("")
        sidecar = Sidecar(tmp_path / "policy.toml", agent="researcher")
        folder = Path(sidecar.where.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
        arguments = (tmp_path / "log").read_text()
        assert arguments.startswith("serve --policy ") and "--agent researcher" in arguments
        assert "building the guest" in capfd.readouterr().err, "a start that takes a while says why"
        assert sidecar.receipts() == {"receipts": []}
        process = sidecar._process
        sidecar.stop()
        assert process is not None and process.returncode == 0
        assert (tmp_path / "log").read_text().endswith("SIGTERM\n")
        assert not (folder / "token").exists()
        assert sidecar.receipts() == {"receipts": []}, "a later use starts it again"
        sidecar._process.kill()  # type: ignore[union-attr]
        sidecar._process.wait()  # type: ignore[union-attr]
        with pytest.raises(GateUnavailable, match="signal 9(?s:.*)the next use starts another"):
            sidecar.receipts()
        with pytest.raises(GateUnavailable, match="signal 9"):
            sidecar._client.get("/v1/receipts")
        sidecar._at_exit()
        assert not folder.exists()

    def test_a_profile_is_derived_with_the_tools_of_the_agent(self, program: Path, tmp_path: Path) -> None:
        self.script(program, f'echo "$@" >> {tmp_path / "log"}; echo derived')
        (tmp_path / "p.toml").write_text("")
        from weir._sidecar import derive

        policy = derive(
            tmp_path / "p.toml", {"b": "write", "a": "read", "final_answer": "read"}, ["b"], ["helper"], tmp_path
        )
        assert policy.read_text() == "derived\n"
        line = (tmp_path / "log").read_text().strip()
        assert line == f"policy derive {tmp_path / 'p.toml'} --tool a=read --tool b=write --allow b --peer helper"
        with pytest.raises(PolicyError, match="no effect class"):
            derive(tmp_path / "p.toml", {"a": "harmless"}, [], [], tmp_path)
        with pytest.raises(PolicyError, match="allow: there is no tool bb; there are b"):
            derive(tmp_path / "p.toml", {"b": "write"}, ["bb"], [], tmp_path)

    def test_a_profile_with_faults_is_an_error_with_all_of_them(self, program: Path, tmp_path: Path) -> None:
        self.script(program, "echo 'p.txt:3: factor missing' >&2; echo 'p.txt:9: layer 8' >&2; exit 2")
        with pytest.raises(PolicyError, match="(?s)p.txt:3.*p.txt:9"):
            Sidecar.from_profile(tmp_path / "p.txt")

    def test_no_program_is_said_with_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEIR_BIN", "/nowhere/weir")
        with pytest.raises(GateUnavailable, match="WEIR_BIN names /nowhere/weir"):
            binary()

    def test_a_socket_path_stays_short_enough(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        long = tmp_path / ("x" * 100)
        long.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
        folder = private_folder()
        assert len(str(folder / "s")) < 100
        folder.rmdir()

    def test_a_token_file_is_never_one_that_others_made(self, tmp_path: Path) -> None:
        target = tmp_path / "elsewhere"
        (tmp_path / "token").symlink_to(target)
        write_private(tmp_path / "token", "secret")
        assert not target.exists() and not (tmp_path / "token").is_symlink()
