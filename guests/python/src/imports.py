"""The list of importable modules, applied to the agent's own `import` statements only.

This is a convenience, not the boundary: it tells an agent early and readably what it may use, and puts the
attempt on record. What keeps code in is that the component has no file, socket, process or variable of the
host to reach, whatever it imports.
"""

import builtins
import importlib
import importlib.util
import sys

import packages
import tools

_import = builtins.__import__
_import_module = importlib.import_module
SHOWN = 280  # characters of the list in an error
NAMED = 60  # characters of a module's name there
DENIAL = 399  # characters of a refusal


class Imports:
    """The agent's `__import__`."""

    def __init__(self):
        self.granted = frozenset()

    def allows(self, name):
        """True when the module or one of its parents is granted, by name or as a package's."""
        parts = name.split(".")
        return parts[0] in packages.TOPS or any(".".join(parts[:count]) in self.granted for count in range(1, len(parts) + 1))

    def __call__(self, name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and isinstance(name, str):
            self.check(name, fromlist or ())
        try:
            return _import(name, globals, locals, fromlist, level)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(f"{error.name}.")):
                raise self.missing(name) from None
            raise

    def import_module(self, name, package=None):
        """`importlib.import_module` for callers that are the agent's code."""
        if sys._getframe(1).f_code.co_filename.startswith("<agent"):
            self.check(name, ())
        return _import_module(name, package)

    def check(self, name, fromlist):
        """Asks the gate about a module outside the list, which decides and records."""
        if self.allows(name) or (fromlist and all(self.allows(f"{name}.{part}") for part in fromlist)):
            return
        try:
            tools.ask("import", name)
        except tools.PermissionDenied as error:
            text = str(error)
            told = f"Import of {name} is not allowed"
            if not _present(name.partition(".")[0]):
                raise self.neither(name, text) from None
            raise tools.ImportDenied(text if told in text else f"{told}. {text}") from None

    def missing(self, name):
        """The error for a granted module that this interpreter lacks."""
        return ModuleNotFoundError(self.absence(name, SHOWN), name=name)

    def neither(self, name, denial):
        """The error for a module that is neither granted nor here: the gate's first line, and what there is."""
        head = denial.partition("\n")[0][: 2 * NAMED]
        start, end = f"{head}\nImport of {name[:NAMED]} is not allowed: ", ".\nDo not retry."
        text = self.absence(name[:NAMED], DENIAL - len(start) - len(end) - NAMED - 40)
        return tools.ImportAbsent(f"{start}{text}{end}", name=name)

    def absence(self, name, room):
        """That the module is not here, and what is: packages first."""
        there = sorted(packages.TOPS) + sorted(module for module in self.granted if _present(module))
        text = ", ".join(there)
        if len(text) > room:
            text = text[:room].rsplit(",", 1)[0] + ", …"
        return f"{name} is not in this sandbox; available: {text or 'none'}"


def _present(name):
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False
