"""Build step one: compile the standard library with the guest's own interpreter into one file.

The finished component has no file system, so every module that is to be importable must lie in its memory.
Compiling here, in an interpreter that is thrown away, keeps the compiler's garbage out of the stored image.
"""

import marshal
import os
import zlib

LIBRARY = "/python"
TARGET = os.path.join(os.path.dirname(__file__), "stdlib.bin")

# Without the C half, a window system, processes or an installer these can only fail; leaving them out
# makes `import` say so plainly.
LEFT_OUT = frozenset(
    "antigravity bz2 config-3.14-wasm32-wasi ctypes curses ensurepip idlelib lzma multiprocessing pydoc_data "
    "site-packages ssl test this tkinter turtle turtledemo venv webbrowser".split()
)


def modules(folder, prefix=""):
    """Every module below `folder` as (dotted name, is a package, path), in a fixed order."""
    for entry in sorted(os.listdir(folder)):
        path = f"{folder}/{entry}"
        stem, suffix = os.path.splitext(entry)
        if stem in LEFT_OUT or stem == "__pycache__":
            continue
        if suffix == ".py" and stem != "__init__":
            yield prefix + stem, False, path
        elif not suffix and os.path.isfile(f"{path}/__init__.py"):
            yield prefix + stem, True, f"{path}/__init__.py"
            yield from modules(path, f"{prefix}{stem}.")
        elif not suffix and os.path.isdir(path) and prefix:
            yield from modules(path, f"{prefix}{stem}.")


def compiled(path):
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True, optimize=0)
    return zlib.compress(marshal.dumps(code), 9)


with open(TARGET, "wb") as archive:
    marshal.dump({name: (package, compiled(path)) for name, package, path in modules(LIBRARY)}, archive)


class WitWorld:
    def packed(self):
        """Never called: the file above is the result."""
