"""Measures one peer and prints a JSON object; started by `run`, with the Python that has the peer.

What is measured is the same for all: a fresh start with `print(1 + 1)` and its end, a step in a live session, a call of
a function of the host, and a fixed CPU-bound program. A peer that lacks one of these says so. Nothing here installs
anything or reaches a network.
"""

import contextlib
import io
import json
import subprocess
import sys
import time

FRESH = "print(1 + 1)"
CPU = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(24)"
FEW, MANY = 10, 910  # some peers stop a program at 1,000 calls; calls of the two programs whose difference is one call's time


def timed(work, seconds, most=2_000):
    """Times of `work` until there are `most` or the time is over; the first one counts only where it took all of it."""
    times, until = [], time.perf_counter() + seconds
    while len(times) <= most and (not times or time.perf_counter() < until):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times[1:] or times


def summary(times):
    """Best, median, ninth tenth and count of what was measured, in seconds."""
    times = sorted(times)
    return {"best": times[0], "p50": times[len(times) // 2], "p90": times[len(times) * 9 // 10], "runs": len(times)}


def one_call(run, text, seconds):
    """The time of one call: that of many less that of few, by their medians."""
    few = summary(timed(lambda: run(text.format(n=FEW)), seconds / 2, most=200))
    many = summary(timed(lambda: run(text.format(n=MANY)), seconds / 2, most=200))
    return {"p50": max(many["p50"] - few["p50"], 0.0) / (MANY - FEW), "runs": many["runs"]}


def measured(seconds, fresh=None, step=None, call=None, cpu=None):
    """All measurements that a peer has; `call` is a function that runs a program and the program's text."""
    found = {}
    for what, work in (("fresh", fresh), ("step", step), ("cpu", cpu)):
        if work:
            found[what] = summary(timed(work, seconds))
    if call:
        found["call"] = one_call(*call, seconds)
    return found


def smolagents(seconds):
    from smolagents.local_python_executor import LocalPythonExecutor

    def opened():
        executor = LocalPythonExecutor([])
        executor.send_tools({"echo": lambda value: value})
        return executor

    live = opened()
    live("x = 1")
    return measured(
        seconds,
        fresh=lambda: opened()(FRESH),
        step=lambda: live("x + 1"),
        call=(live, "for i in range({n}): echo(i)"),
        cpu=lambda: live(CPU),
    )


def pydantic_monty(seconds):
    from pydantic_monty import Monty

    tools = {"echo": lambda value: value}
    with Monty() as pool:

        def fresh():
            with pool.checkout() as session:
                session.feed_run(FRESH, print_callback=lambda *_: None)

        def calling(text):
            # A session ends after a thousand calls, so that each program has one of its own.
            with pool.checkout() as session:
                session.feed_run(text, external_lookup=tools)

        with pool.checkout() as live:
            live.feed_run("x = 1")
            return measured(
                seconds,
                fresh=fresh,
                step=lambda: live.feed_run("x + 1"),
                call=(calling, "for i in range({n}): echo(i)"),
                cpu=lambda: live.feed_run(CPU),
            )


def pyeryx(seconds):
    import eryx

    tools = [{"name": "echo", "description": "gives its value back", "fn": lambda value: {"value": value}}]
    live, calling = eryx.Session(), eryx.Session(callbacks=tools)
    live.execute("x = 1")
    return measured(
        seconds,
        fresh=lambda: eryx.Sandbox().execute(FRESH),
        step=lambda: live.execute("x + 1"),
        call=(calling.execute, "for i in range({n}): await echo(value=i)"),
        cpu=lambda: live.execute(CPU),
    )


def subprocess_of(command, seconds):
    """A peer that is a process for each program: it has no sessions and no calls."""

    def fresh():
        done = subprocess.run(command(FRESH), capture_output=True, text=True, check=True, timeout=20)
        if done.stdout != "2\n":
            raise RuntimeError(f"said {done.stdout[:80]!r}")

    inside = f"import time\nt = []\nfor i in range(12):\n    s = time.perf_counter()\n    exec(compile({CPU!r}, 'x', 'exec'), {{}})\n"
    inside += "    t.append(time.perf_counter() - s)\nprint(t[2:])"
    found = measured(seconds, fresh=fresh)
    done = subprocess.run(command(inside), capture_output=True, text=True, check=True, timeout=20)
    found["cpu"] = summary(json.loads(done.stdout))
    return found


def native(seconds):
    return subprocess_of(lambda code: [sys.executable, "-I", "-c", code], seconds)


def bubblewrap(seconds):
    cell = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", "/", "/", "--proc", "/proc"]
    return subprocess_of(lambda code: [*cell, "--dev", "/dev", sys.executable, "-I", "-c", code], seconds)


PEERS = {peer.__name__.replace("_", "-"): peer for peer in (native, bubblewrap, smolagents, pydantic_monty, pyeryx)}


def main(name, seconds):
    with contextlib.redirect_stdout(io.StringIO()):
        found = PEERS[name](float(seconds))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
