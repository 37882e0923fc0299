"""The guest's entry: everything at the top of this file runs once, before the image is stored.

The gate calls `run` once per program. Variables stay in `__main__` between calls; tools, modules and limits
are told anew each time. Whatever happens in here, the gate believes none of it without checking.
"""

import library

library.install()

import builtins
import gc
import importlib
import io
from json import dumps, loads
import sys
import types

# Imported here, these are ready in every new interpreter at no cost.
import abc, argparse, array, ast, asyncio, base64, binascii, bisect, calendar, cmath, codecs, collections.abc  # noqa: E401
import colorsys, concurrent.futures, configparser, contextlib, contextvars, copy, csv, dataclasses, datetime  # noqa: E401
import decimal, difflib, email.message, enum, fnmatch, fractions, functools, glob, graphlib, hashlib, heapq  # noqa: E401
import hmac, html.parser, inspect, itertools, keyword, linecache, locale, logging, math, numbers, operator  # noqa: E401
import os.path, pathlib, pickle, platform, pprint, queue, random, re, reprlib, secrets, shlex, shutil, signal  # noqa: E401
import statistics, string, struct, tempfile, textwrap, threading, time, timeit, token, tokenize, traceback  # noqa: E401
import typing, unicodedata, urllib.parse, uuid, warnings, weakref, zlib, zoneinfo  # noqa: E401
import encodings.ascii, encodings.idna, encodings.latin_1, encodings.punycode, encodings.unicode_escape  # noqa: E401
import encodings.utf_16, encodings.utf_32, encodings.utf_8_sig  # noqa: E401

from wit_world.imports import host

import absent
import cell
import imports
import packages
import tools
import values

absent.install()

RESERVE = 4 << 20  # bytes given back when memory runs out, so that the error itself can be told
SLICE = 64 << 10  # characters of one message of output


class Output(io.TextIOBase):
    """Standard output and error: whole lines go to the gate at once, so that a stopped program loses none."""

    def __init__(self):
        self.parts = []
        self.full = False

    encoding = "utf-8"
    errors = "backslashreplace"

    def writable(self):
        return True

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        if not self.full:
            self.parts.append(text)
            if "\n" in text or len(text) > SLICE:
                self.flush()
        return len(text)

    def flush(self):
        parts, self.parts = self.parts, []
        if not parts:
            return
        text = "".join(parts)
        for start in range(0, len(text), SLICE):
            if self.full:
                return
            piece = text[start : start + SLICE].encode("utf-8", "backslashreplace").decode("utf-8")
            self.full = not host.write(piece)


class Guest:
    """The interpreter as the agent sees it."""

    def __init__(self):
        self.module = types.ModuleType("__main__")
        self.output = Output()
        self.imports = imports.Imports()
        self.stubs = {}
        self.grant = None
        self.aside = False
        self.limit = 0
        self.opens = absent.no_files
        self.number = 0
        self.reserve = bytearray(RESERVE)
        self.builtins = dict(vars(builtins))
        self.builtins.update(
            __import__=self.imports,
            input=absent.no_keyboard,
            PermissionDenied=tools.PermissionDenied,
            ToolError=tools.ToolError,
            HostObject=values.HostObject,
        )
        self.module.__dict__["__builtins__"] = self.builtins

    def take(self, grant):
        """Takes over what programs may use from now on."""
        self.aside = grant.get("aside", False)
        self.limit = grant["result_bytes"]
        self.imports.granted = frozenset(grant["imports"])
        self.opens = builtins.open if grant["files"] else absent.no_files
        space = self.module.__dict__
        for name, stub in self.stubs.items():
            if space.get(name) is stub:
                del space[name]
        self.stubs = {spec["name"]: tools.Tool(spec, self.limit, self.output.flush) for spec in grant["tools"]}

    def prepare(self, variables):
        """Sets what a program begins with: its variables, and tools under their names whatever stood there."""
        if not self.aside:
            self.number += 1
            if self.number == 1:
                # The stored image has drawn already: without this every session would draw the same.
                random.seed()
        self.builtins["open"] = self.opens
        self.output.full = False
        space = self.module.__dict__
        if variables != "{}":
            space.update(values.parse(variables))
        space.update(self.stubs)

    def run(self, code, request):
        """Runs one program; returns the answer's JSON text.

        The request is two lines of JSON: what may be used, which seldom changes, and the variables. One line alone
        is about packages, while an image is made.
        """
        grant, _, variables = request.partition("\n")
        if not variables:
            return dumps(packages.serve(loads(grant)["packages"]))
        space = self.module.__dict__
        status, error, value = "done", None, None
        try:
            if grant != self.grant:
                self.take(loads(grant))
                self.grant = grant
            self.prepare(variables)
            program = cell.prepare(code, self.number)
            value = eval(program, space)
        except MemoryError as raised:
            self.reserve = None
            status, error = "failed", self.told(raised)
        except tools.Ended as raised:
            status = str(raised)
        except SystemExit as raised:
            if raised.code not in (None, 0):
                status, error = "failed", self.told(raised)
        except tools.PermissionDenied as raised:
            status, error = "denied", self.told(raised)
        except BaseException as raised:
            status, error = "failed", self.told(raised)
        value = space.pop(cell.VALUE, value)
        return self.answer(status, value if status == "done" else None, error)

    def answer(self, status, value, error):
        try:
            output, cut = values.pack_result(value, self.limit)
        except MemoryError as raised:
            self.reserve = None
            status, output, cut, error = "failed", "null", False, self.told(raised)
        self.output.flush()
        if self.reserve is None and error is None:
            self.retake()
        if status == "done" and not cut:
            return f'{{"status": "done", "error": null, "cut": false, "output": {output}}}'
        rest = dumps({"status": status, "error": error, "cut": cut})
        return f'{rest[:-1]}, "output": {output}}}'

    def retake(self):
        """Sets memory aside again, once a program has ended well: the one after the error may need it to tidy up."""
        try:
            self.reserve = bytearray(RESERVE)
        except MemoryError:
            pass

    def told(self, raised):
        """The error for the gate; an error while telling is told by its type alone."""
        try:
            return cell.describe(raised, self.number)
        except (Exception, RecursionError):
            name = type(raised).__name__
            return {"type": name, "message": cell.message(raised, self.number), "traceback": ""}


class Understudy:
    """Stands in for the gate while the image is made: there is none to call yet."""

    @staticmethod
    def call(kind, name, args):
        return '{"value": null}'

    @staticmethod
    def write(text):
        return True


REHEARSED = (
    "x = 1\nfor i in range(3):\n    x += i\nprint(x, 'text', 1.5)\nx + 1",
    "import json, math\ny = json.loads(json.dumps({'a': [1, 2.5, None]}))\ntool(y, b=math.pi)\nf'{y}'",
    "def f(a, *b, **c):\n    return [v for v in (a, b, c)]\nf(1, 2, c=3)",
    "class A:\n    def __init__(self): self.x = 1\nA().x",
    "try:\n    {}['missing']\nexcept KeyError as e:\n    z = str(e)\nz",
    "1 / 0",
    "import absent_module",
)


def appear(guest):
    """Makes `guest` the interpreter's main program."""
    sys.modules["__main__"] = guest.module
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = guest.output


def rehearse():
    """Runs ordinary programs before the image is stored, in a guest that is then thrown away.

    The interpreter adapts its own code while it runs; done here, a new instance has it done already, and
    writes to far fewer pages of the image on its first program.
    """
    global host
    real, host = host, Understudy
    tools.host = Understudy
    guest = Guest()
    appear(guest)
    params = [{"name": "a", "required": True}, {"name": "b", "required": False}]
    spec = {"name": "tool", "description": "", "params": params, "is_final": False, "is_agent": False}
    grant = {"tools": [spec], "imports": ["json", "math"], "files": False, "result_bytes": 10_000}
    variables = dumps({"v": [1, {"a": "b"}]})
    for turn in range(20):
        grant["result_bytes"] += turn % 2  # So that taking a grant is rehearsed as well as keeping one.
        for code in REHEARSED:
            guest.run(code, f"{dumps(grant)}\n{variables}")
    tools.host = host = real
    linecache.cache.clear()


rehearse()
GUEST = Guest()
appear(GUEST)
sys.stdin = sys.__stdin__ = None
importlib.import_module = GUEST.imports.import_module
builtins.PermissionDenied = tools.PermissionDenied
builtins.ToolError = tools.ToolError


class WitWorld:
    def run(self, code: str, request: str) -> str:
        return GUEST.run(code, request)


library.detach()
# What is collected here need not be looked at in every new interpreter. Never `gc.freeze()`: with CPython 3.14.0
# it makes later collections many times slower.
gc.collect()
