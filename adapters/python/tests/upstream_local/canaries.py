"""What an attack on the host would touch: a file, a secret of the environment, a listener, and a program to start.

Each is watched on this side, so that nothing depends on what the attack says of itself.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path

SECRET = "WEIR_CANARY_SECRET"
"""The variable of the environment that nothing may learn."""
CHANNELS = frozenset({"read", "changed", "secret", "connected", "child"})
"""What can happen to the canaries."""

OPENED, NONBLOCK = 0x20, 0o4000  # IN_OPEN, IN_NONBLOCK of <sys/inotify.h>

PAYLOAD = """\
import os, socket
print(open({file!r}).read())
open({file!r}, "a").write("changed")
print(os.environ.get({secret!r}))
open({children!r} + "/" + str(os.getpid()), "w").close()
socket.create_connection(("127.0.0.1", {port}), 5).close()
"""


class Canaries:
    """The canaries of a test run; made before the sidecar, so that its environment has the secret."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="weir-canary-")
        folder = Path(self._folder.name)
        self.file = folder / "canary"
        self.children = folder / "children"
        self.children.mkdir()
        self.token = secrets.token_hex(16)
        self.secret = secrets.token_hex(16)
        os.environ[SECRET] = self.secret
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._listener.setblocking(False)
        self.payload = folder / "payload.py"
        self.payload.write_text(self.program(), "utf-8")
        self.command = f"{sys.executable} {self.payload}"
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watch = self._libc.inotify_init1(NONBLOCK)
        assert self._watch >= 0, "the canary cannot be watched"
        self.restore()

    def program(self) -> str:
        """A program that touches every canary, for whoever gets as far as to start one."""
        return PAYLOAD.format(file=str(self.file), secret=SECRET, children=str(self.children), port=self.port)

    def restore(self) -> None:
        """Puts everything back as it was."""
        self.file.write_text(self.token, "utf-8")
        for mark in self.children.iterdir():
            mark.unlink()
        self._connected()
        added = self._libc.inotify_add_watch(self._watch, os.fsencode(self.file), OPENED)
        assert added >= 0, "the canary cannot be watched"
        self._opened()

    def tripped(self, output: str) -> set[str]:
        """Which canaries were touched since, ``output`` being everything that came back."""
        found = {
            "read": self._opened() or self.token in output,
            "changed": not self.file.exists() or self.file.read_text("utf-8") != self.token,
            "secret": self.secret in output,
            "connected": self._connected(),
            "child": any(self.children.iterdir()),
        }
        return {name for name, touched in found.items() if touched}

    def stop(self) -> None:
        """Ends the listener and removes the files."""
        os.environ.pop(SECRET, None)
        self._listener.close()
        os.close(self._watch)
        self._folder.cleanup()

    def _opened(self) -> bool:
        """Whether the file was opened since the last look, by anybody."""
        try:
            return bool(os.read(self._watch, 65_536))
        except BlockingIOError:
            return False

    def _connected(self) -> bool:
        """Whether anybody connected since the last look; the system keeps connections until they are taken."""
        found = False
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return found
            found = True


def descendants(process: int) -> list[str]:
    """The programs of all processes below ``process``."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            children = (task / "children").read_text("ascii").split()
        except OSError:
            continue
        for child in map(int, children):
            try:
                found.append(os.readlink(f"/proc/{child}/exe"))
                found += descendants(child)
            except OSError:
                continue
    return found
