"""Plain words for what a sandbox does not have: threads, a network, a keyboard, files.

None of this is the boundary; without it the same calls would fail too, only less readably.
"""

import _socket
import asyncio
import socket
import threading
import time


def _refuse(kind, text):
    def refused(*args, **kwargs):
        raise kind(text)

    return refused


_no_thread = _refuse(RuntimeError, "can't start new thread: the sandbox has none; call one after another, or use asyncio")
_no_network = _refuse(PermissionError, "the sandbox has no network; use a tool that the policy allows")
no_keyboard = _refuse(EOFError, "input() has nobody to ask in the sandbox; take values from variables or tools")
no_files = _refuse(PermissionError, "the sandbox has no files: the policy grants no folder")


class _NoSocket(socket.socket):
    def __init__(self, *args, **kwargs):
        _no_network()

    def __del__(self):
        pass


class _Waiting:
    """Stands where asyncio expects a selector: with nothing to watch, selecting is sleeping."""

    @staticmethod
    def select(timeout):
        if timeout is None:
            raise RuntimeError("asyncio waits for something that cannot happen in the sandbox")
        if timeout > 0:
            time.sleep(timeout)
        return []


class _Loop(asyncio.BaseEventLoop):
    """An event loop without sockets: tasks, timers and queues work, and that is all there is."""

    def __init__(self):
        super().__init__()
        self._selector = _Waiting

    def _process_events(self, events):
        pass

    def _write_to_self(self):
        pass


class _Policy(asyncio.events._BaseDefaultEventLoopPolicy):
    _loop_factory = _Loop


def install():
    """Puts the plain words in place, once, before the image is stored."""
    for name in ("_start_new_thread", "_start_joinable_thread"):
        setattr(threading, name, _no_thread)
    socket.socket = socket.SocketType = _socket.socket = _socket.SocketType = _NoSocket
    for module in (socket, _socket):
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
            if hasattr(module, name):
                setattr(module, name, _no_network)
    socket.create_connection = socket.create_server = socket.socketpair = _no_network
    asyncio.events._event_loop_policy = _Policy()
