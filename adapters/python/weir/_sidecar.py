"""The gate as seen by a host: a sidecar that already runs, or one that is started here.

A started sidecar gets a private folder (mode 0700) with its socket, its token (mode 0600) and, unless
told otherwise, its store. It ends with this process.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from importlib import metadata
from pathlib import Path
from typing import Any, Iterable, Mapping, TextIO
from urllib.parse import unquote, urlsplit

from ._client import Address, Client
from ._errors import GateError, GateUnavailable, PolicyError, Refused
from ._handles import clip

START_SECONDS = 600.0
"""Time for a start; the first one builds the sandbox's guest, about a minute."""
STOP_SECONDS = 15.0
"""Time for a graceful stop."""
QUIET_SECONDS = 1.0
"""A start that takes longer shows the sidecar's messages."""
POLICY_STATUS = 2
"""The status with which the sidecar's program ends when the policy has faults."""
DERIVE_SECONDS = 60.0
"""Time to derive a policy."""
EFFECTS = ("read", "write", "exec", "network", "spend")
"""The effect classes of tools."""
FINAL_ANSWER = "final_answer"
"""The tool that ends a task."""


AGAIN = "Nothing is allowed without it. After weir.close(agent) or stop() the next use starts another."
"""What can be done about a sidecar that ended."""


class Gate:
    """A sidecar that runs already. Make one with :func:`connect`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where})"

    @property
    def where(self) -> str:
        """The address, for people."""
        return str(self._client.address)

    @property
    def policy_file(self) -> Path | None:
        """The policy's file, when this process knows it."""
        return None

    @property
    def client(self) -> Client:
        """The connection."""
        return self._client

    def receipts(self, session: str | None = None, limit: int = 100) -> Any:
        """Signed receipts, newest first."""
        query = f"?limit={int(limit)}" + (f"&session={session}" if session else "")
        return self.client.get(f"/v1/receipts{query}")

    def scores(self) -> Any:
        """The factors: declared, permitted and observed."""
        return self.client.get("/v1/scores")

    def budgets(self) -> Any:
        """The accounts with what is posted, pending and left."""
        return self.client.get("/v1/budgets")

    def stop(self) -> None:
        """Closes the connections. A sidecar that was started elsewhere goes on."""
        self._client.close()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def connect(address: str, token: str | None = None, token_file: str | os.PathLike[str] | None = None) -> Gate:
    """A sidecar that runs already, at ``unix:/path`` or ``http://127.0.0.1:port``.

    Without ``token`` and ``token_file``, the variables ``WEIR_TOKEN`` and ``WEIR_TOKEN_FILE`` are read.
    """
    if token is None:
        file = token_file or os.environ.get("WEIR_TOKEN_FILE")
        token = Path(file).read_text("utf-8").strip() if file else os.environ.get("WEIR_TOKEN")
    if not token:
        raise GateError("the gate wants a token: pass token= or token_file=, or set WEIR_TOKEN or WEIR_TOKEN_FILE")
    return Gate(Client(Address.parse(address), token))


def binary() -> str:
    """The sidecar's program: ``WEIR_BIN``, then ``weir`` on ``PATH``, then the checkout's release build.

    The working folder is not searched: a program that happens to lie there is not the gate.

    Raises:
        GateUnavailable: there is none.
    """
    named = os.environ.get("WEIR_BIN")
    if named:
        if os.access(named, os.X_OK) and os.path.isfile(named):
            return named
        raise GateUnavailable(f"WEIR_BIN names {named}, which is not a program")
    found = shutil.which("weir")
    if found:
        return found
    for folder in checkout():
        built = folder / "target" / "release" / "weir"
        if os.access(built, os.X_OK):
            return str(built)
        raise GateUnavailable(
            f"the program `weir` is not built: run `cargo build --release` in {folder}, or set WEIR_BIN"
        )
    raise GateUnavailable(
        "the program `weir` was not found: set WEIR_BIN to it, put it on PATH, or install this package from a checkout"
    )


def checkout() -> list[Path]:
    """The checkout that this package lies in or was installed from; empty when there is none."""
    here = Path(__file__).resolve()
    try:
        origin = json.loads(metadata.distribution("weir").read_text("direct_url.json") or "{}")
        url = urlsplit(str(origin.get("url", "")))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        url = urlsplit("")
    source = [Path(unquote(url.path))] if url.scheme == "file" and not url.netloc else []
    folders = [folder for path in (here, *source) for folder in (path, *path.parents)]
    return [folder for folder in folders if (folder / "Cargo.toml").is_file() and (folder / "policies").is_dir()][:1]


def derive(
    profile: str | os.PathLike[str], tools: Mapping[str, str], allow: Iterable[str], peers: Iterable[str], into: Path
) -> Path:
    """Derives a policy from a threat profile (TOML, or the text of a listing) and returns its file.

    Raises:
        PolicyError: with what the sidecar's program said.
    """
    source = Path(profile)
    if source.suffix != ".toml":
        imported = into / "profile.toml"
        imported.write_text(_output([binary(), "profile", "import", str(source)], f"profile {source.name}"), "utf-8")
        source = imported
    command = [binary(), "policy", "derive", str(source)]
    for name, effect in sorted(tools.items()):
        if effect not in EFFECTS:
            raise PolicyError(f"tool {name}: `{effect}` is no effect class; there are {', '.join(EFFECTS)}")
        if name == FINAL_ANSWER:
            continue  # Every derived policy has it.
        command += ["--tool", f"{name}={effect}"]
    for name in allow:
        if name not in tools:
            raise PolicyError(f"allow: there is no tool {name}; there are {', '.join(sorted(tools)) or 'none'}")
        command += ["--allow", name]
    for name in peers:
        command += ["--peer", name]
    policy = into / "policy.toml"
    policy.write_text(_output(command, f"profile {source.name}"), "utf-8")
    return policy


def _output(command: list[str], what: str) -> str:
    try:
        ran = subprocess.run(
            command, capture_output=True, timeout=DERIVE_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise PolicyError(f"{what}: {fault}") from fault
    if ran.returncode != 0:
        raise PolicyError(f"{what}:\n{ran.stderr.decode('utf-8', 'replace').strip()[:4000]}")
    return ran.stdout.decode("utf-8")


class Sidecar(Gate):
    """A sidecar that belongs to this process.

    Args:
        policy: the policy's file.
        agent: the agent's name at the gate; accounts, receipts and scores stand under it.
        store: folder of balances, receipts and scores. Without it they go when the sidecar stops.
        progress: where the sidecar's messages go when its start takes a while; ``None`` means standard error.
    """

    def __init__(
        self,
        policy: str | os.PathLike[str],
        agent: str = "agent",
        store: str | os.PathLike[str] | None = None,
        progress: TextIO | None = None,
        folder: Path | None = None,
    ) -> None:
        if not Path(policy).is_file():
            raise PolicyError(f"there is no policy file {policy}")
        self.agent = agent
        self._policy = Path(policy)
        self._store = Path(store) if store is not None else None
        self._progress = progress
        self._folder = folder or private_folder()
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()
        self._tail: deque[str] = deque(maxlen=40)
        self._starting = self._showing = False
        self._lock = threading.RLock()
        self._lines = threading.Lock()
        atexit.register(self._at_exit)
        self.start()

    @classmethod
    def from_profile(
        cls,
        profile: str | os.PathLike[str],
        tools: Mapping[str, str] | None = None,
        allow: Iterable[str] = (),
        peers: Iterable[str] = (),
        **options: Any,
    ) -> Sidecar:
        """Starts a sidecar with the policy derived from a threat profile.

        ``tools`` gives every tool its effect class; ``allow`` names tools that need no approval;
        ``peers`` names the agents that may be called. The policy stands in :attr:`policy_file`.
        """
        folder = private_folder()
        try:
            policy = derive(profile, tools or {}, allow, peers, folder)
            return cls(policy, folder=folder, **options)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @property
    def where(self) -> str:
        return f"unix:{self._folder / 's'}"

    @property
    def policy_file(self) -> Path:
        return self._policy

    @property
    def keeps_records(self) -> bool:
        """True when balances, receipts and scores outlive the sidecar."""
        return self._store is not None

    @property
    def client(self) -> Client:
        with self._lock:
            process = self._process
            if process is None:
                self.start()
            elif process.poll() is not None:
                raise GateUnavailable(f"{self._ended(process.returncode)}\n{AGAIN}")
            return self._client

    def _gone(self) -> str | None:
        """How the sidecar ended, for a request whose connection broke."""
        process = self._process
        if process is None or self._starting:
            return None
        try:
            return f"{self._ended(process.wait(0.2))}\n{AGAIN}"
        except subprocess.TimeoutExpired:
            return None

    def start(self) -> None:
        """Starts the sidecar and waits until it is ready; does nothing while one runs.

        Raises:
            PolicyError: the policy has faults; each with its line.
            GateUnavailable: it ended, or was not ready in time. The message has its last lines.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            token = secrets.token_hex(32)
            token_file = self._folder / "token"
            write_private(token_file, token + "\n")
            sock = self._folder / "s"
            store = self._store or self._folder / "store"
            command = [binary(), "serve", "--policy", str(self._policy), "--socket", str(sock)]
            command += ["--token-file", str(token_file), "--store", str(store), "--agent", self.agent]
            self._client = Client(Address(path=str(sock)), token, self._gone)
            self._tail.clear()
            self._starting = True
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            threading.Thread(target=self._read, args=(self._process,), daemon=True, name="weir-sidecar").start()
            try:
                self._await_ready(self._process)
            except BaseException:
                self.stop()
                raise
            finally:
                self._starting = self._showing = False

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        began = time.monotonic()
        pause = 0.005
        while time.monotonic() < began + START_SECONDS:
            if process.poll() is not None:
                time.sleep(0.05)  # Lets the reader take the last lines.
                if process.returncode == POLICY_STATUS:
                    raise PolicyError(f"the gate does not start under {self._policy}:\n{self.tail}")
                raise GateUnavailable(self._ended(process.returncode))
            if not self._showing and time.monotonic() > began + QUIET_SECONDS:
                self._show()
            try:
                self._client.get("/health/ready", timeout=5.0)
                return
            except (GateUnavailable, Refused):
                time.sleep(pause)
                pause = min(pause * 1.5, 0.25)
        raise GateUnavailable(f"the sidecar was not ready within {START_SECONDS:g} s:\n{self.tail}")

    def _show(self) -> None:
        """Shows what the sidecar has said so far, and from now on what it says."""
        with self._lines:
            self._showing = True
            for line in self._tail:
                print(line, file=self._progress or sys.stderr, flush=True)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for raw in lines:
                line = clip(raw.decode("utf-8", "replace").rstrip("\r\n"), 300)
                with self._lines:
                    self._tail.append(line)
                    if self._showing:
                        print(line, file=self._progress or sys.stderr, flush=True)

    @property
    def tail(self) -> str:
        """The sidecar's last messages."""
        with self._lines:
            return "\n".join(self._tail)

    def _ended(self, code: int) -> str:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        said = f"; its last messages:\n{self.tail}" if self._tail else ""
        return f"the sidecar {how}{said}"

    def stop(self) -> None:
        """Stops the sidecar gracefully and waits; a later use starts it again."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        self._client.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in ("token", "s"):
            (self._folder / name).unlink(missing_ok=True)

    def _at_exit(self) -> None:
        if os.getpid() != self._pid:
            return  # A fork of this process: the sidecar is not its own.
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def private_folder() -> Path:
    """A new folder of mode 0700 with a path short enough for a socket."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    usable = base if base and len(base) < 60 and os.access(base, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="weir-", dir=usable))
    if len(str(folder)) > 90:
        shutil.rmtree(folder)
        folder = Path(tempfile.mkdtemp(prefix="weir-", dir="/tmp"))
    return folder


def write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
