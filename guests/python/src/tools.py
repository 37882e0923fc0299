"""Tools as functions: each call is one message to the gate, which decides, records and runs it.

A stub binds positions to names and nothing more. The denial, the tool's own error and the end of the program
come back as exceptions; which of them it is, the gate says.
"""

import functools
import inspect

from wit_world.imports import host

import values


class PermissionDenied(Exception):
    """The gate refused. The text says why and what is allowed instead; the same call will be refused again."""


class ImportDenied(PermissionDenied, ImportError):
    """The gate refused an import."""


class ImportAbsent(ImportDenied, ModuleNotFoundError):
    """The gate refused an import of what is not here anyway."""


class ToolError(Exception):
    """The tool ran and failed. `kind` is the type of its error on the host."""

    def __init__(self, kind, message):
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class Ended(BaseException):
    """Ends the program from inside a call: the answer is recorded, or a limit is reached."""


def ask(kind, name, args="{}"):
    """Sends one message and returns the value of the answer."""
    answer = values.parse(host.call(kind, name, args))
    if "value" in answer:
        return answer["value"]
    if "denied" in answer:
        raise (ImportDenied if kind == "import" else PermissionDenied)(answer["denied"])
    if "ended" in answer:
        raise Ended(answer["ended"])
    raise ToolError(answer["error"]["type"], answer["error"]["message"])


class Tool:
    """One tool's stub."""

    def __init__(self, spec, limit, flush):
        self._limit, self._flush = limit, flush
        self._names = [param["name"] for param in spec["params"]]
        self._required = [param["name"] for param in spec["params"] if param["required"]]
        self.__name__ = self.__qualname__ = self.name = spec["name"]
        self.__doc__ = self.description = spec["description"]
        self.__module__ = "tools"
        self._params = spec["params"]

    @functools.cached_property
    def __signature__(self):
        # Seldom asked for, and dearer than all the rest of a tool: every new interpreter makes its tools.
        return signature(self._params)

    def __call__(self, *args, **kwargs):
        bound = self.bind(args, kwargs)
        self._flush()
        return ask("tool", self.name, values.pack(bound, self._limit))

    def __repr__(self):
        return f"<tool {self.name}{self.__signature__ or ''}>"

    def bind(self, args, kwargs):
        """Arguments by name, or `TypeError` as a function would raise it."""
        if len(args) > len(self._names):
            raise TypeError(f"{self.name}() takes {len(self._names)} positional arguments but {len(args)} were given")
        bound = dict(zip(self._names, args))
        for name, value in kwargs.items():
            if name not in self._names:
                known = ", ".join(self._names) or "none"
                raise TypeError(f"{self.name}() got an unexpected argument {name!r}; its arguments are: {known}")
            if name in bound:
                raise TypeError(f"{self.name}() got multiple values for argument {name!r}")
            bound[name] = value
        missing = [name for name in self._required if name not in bound]
        if missing:
            raise TypeError(f"{self.name}() misses {', '.join(map(repr, missing))}")
        return bound


def signature(params):
    """The signature for `help()`, or None where Python cannot say it."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    optional = False
    shown = []
    for param in params:
        optional = optional or not param["required"]
        default = ... if optional else inspect.Parameter.empty
        try:
            shown.append(inspect.Parameter(param["name"], kind, default=default))
        except ValueError:
            return None
    return inspect.Signature(shown)
