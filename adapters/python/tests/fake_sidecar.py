"""The stand-in gate as a program, for the tests of starting and stopping one. It isolates nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import fake_gate  # noqa: E402


def main() -> None:
    log, arguments = Path(sys.argv[1]), sys.argv[2:]
    log.write_text(" ".join(arguments) + "\n")
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    fake_gate.TOKEN = Path(options["--token-file"]).read_text().strip()
    print("building the guest (first start only)", file=sys.stderr, flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    denied = set(filter(None, os.environ.get("WEIR_FAKE_DENIED", "").split(",")))
    with fake_gate.FakeGate(Path(options["--socket"]), denied) as gate:
        gate.imports.append("statistics")
        stop.wait()
    log.write_text(log.read_text() + "SIGTERM\n")


main()
