"""Packages in memory: compiled once for this interpreter, and imported from what the start image holds.

The gate has unpacked and checked the wheels. It asks three things while an image is made and nothing afterwards: to
compile modules (in an interpreter that is thrown away, so that the compiler's garbage stays out of the image), to
take files in, and to import what programs will import. There is no file system behind any of this.
"""

import base64
import gc
import importlib.machinery
import io
import marshal
import re
import struct
import sys
import types
import warnings
import zlib

ROOT = "/packages"
TOLD = 160  # characters of one error

_files = {}  # path below ROOT -> compressed content, of everything that is no module
_modules = {}  # dotted name -> (is a package, path below ROOT or None, compressed code or None)
_folders = {}  # path below ROOT -> names in it
TOPS = set()  # the modules that programs may import, with all that is below them


class Importer:
    """Finds, loads and describes what the packages hold."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        found = _modules.get(name)
        if found is None:
            return None
        package, path, code = found
        origin = f"{ROOT}/{path}" if path else None
        spec = importlib.machinery.ModuleSpec(name, Importer, origin=origin, is_package=package)
        spec.has_location = path is not None
        if package:
            spec.submodule_search_locations.append(f"{ROOT}/{name.replace('.', '/')}")
        return spec

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        code = Importer.get_code(module.__name__)
        if code is not None:
            exec(code, module.__dict__)

    @staticmethod
    def get_code(name):
        package, path, code = _modules[name]
        if path is None:
            return None
        data = zlib.decompress(code)
        return marshal.loads(data[1:]) if data[:1] == COMPILED else compiled(path, data[1:])

    @staticmethod
    def get_source(name):
        return None

    @staticmethod
    def is_package(name):
        return _modules[name][0]

    @staticmethod
    def get_data(path):
        inner = path.removeprefix(f"{ROOT}/")
        if inner == path or inner not in _files:
            raise FileNotFoundError(f"no such file in the sandbox's packages: {path}")
        return zlib.decompress(_files[inner])

    @staticmethod
    def get_resource_reader(name):
        return Reader(name.replace(".", "/"))

    @staticmethod
    def find_distributions(context=None):
        from importlib.metadata import Distribution

        class Wheel(Distribution):
            def __init__(self, folder):
                self.folder = folder

            def read_text(self, filename):
                data = _files.get(f"{self.folder}/{filename}")
                return None if data is None else zlib.decompress(data).decode("utf-8", "replace")

            def locate_file(self, path):
                return Node(str(path))

        wanted = normal(context.name) if getattr(context, "name", None) else None
        infos = sorted(folder for folder in _folders[""] if folder.endswith(".dist-info"))
        names = [normal(folder.removesuffix(".dist-info").rpartition("-")[0]) for folder in infos]
        return [Wheel(folder) for folder, name in zip(infos, names) if wanted in (None, name)]


class Walk:
    """One folder of the packages, for `pkgutil` and whoever looks for modules there."""

    def __init__(self, path):
        self.folder = path.removeprefix(f"{ROOT}/")
        if self.folder == path:
            raise ImportError("not in the sandbox's packages", path=path)

    @staticmethod
    def find_spec(name, target=None):
        return Importer.find_spec(name)

    def iter_modules(self, prefix=""):
        start = self.folder.replace("/", ".") + "."
        for name, (package, _, _) in sorted(_modules.items()):
            last = name.removeprefix(start)
            if last != name and "." not in last:
                yield prefix + last, package


class Reader:
    """What `importlib.resources` asks a package for."""

    def __init__(self, folder):
        self.folder = folder

    def files(self):
        return Node(self.folder)


class Node:
    """One file or folder of the packages, as `importlib.resources` wants it."""

    def __init__(self, path):
        self.path = path

    @property
    def name(self):
        return self.path.rpartition("/")[2]

    def __repr__(self):
        return f"<in the sandbox's packages: {self.path}>"

    def __str__(self):
        return f"{ROOT}/{self.path}"

    def is_file(self):
        return self.path in _files

    def is_dir(self):
        return self.path in _folders

    def iterdir(self):
        return iter([Node(f"{self.path}/{name}") for name in sorted(_folders.get(self.path, ()))])

    def joinpath(self, *parts):
        path = [part for text in (self.path, *map(str, parts)) for part in text.split("/") if part]
        return Node("/".join(path))

    __truediv__ = joinpath

    def read_bytes(self):
        return Importer.get_data(str(self))

    def read_text(self, encoding="utf-8", errors="strict"):
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode="r", encoding="utf-8", errors="strict", newline=None):
        data = io.BytesIO(self.read_bytes())
        return data if "b" in mode else io.TextIOWrapper(data, encoding, errors, newline)


COMPILED, SOURCE = b"c", b"s"


def normal(name):
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "_", name).lower()


def compiled(path, source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compile(source, f"{ROOT}/{path}", "exec", dont_inherit=True, optimize=0)


def press(files):
    """The modules compiled; one that does not compile stays source and says so when it is imported."""
    pressed = []
    for path, _, text in files:
        source = base64.b64decode(text)
        try:
            data = COMPILED + marshal.dumps(compiled(path, source))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            data = SOURCE + source
        pressed.append([path, base64.b64encode(zlib.compress(data, 6)).decode()])
    return pressed


def add(files):
    """Takes files in: modules as `press` gave them, everything else as it is."""
    for path, name, text in files:
        *folders, last = path.split("/")
        # A module's text is not here: it is no file for anybody.
        for depth, part in enumerate(folders if name else (*folders, last)):
            _folders.setdefault("/".join(folders[:depth]), set()).add(part)
        _folders.setdefault("/".join(folders), set())
        data = base64.b64decode(text)
        if name is None:
            _files[path] = zlib.compress(data, 6)
            continue
        _modules[name] = (last == "__init__.py", path, data)
        parents = name.split(".")
        for count in range(1, len(parents)):
            # A folder without a file of its own is a package all the same.
            _modules.setdefault(".".join(parents[:count]), (True, None, None))


def ready(tops):
    """Makes the packages importable, and imports what programs will import; why some of it cannot be."""
    for name in tops:
        if name in sys.stdlib_module_names or name in sys.modules:
            raise ImportError(f"it brings a module `{name}`, which the sandbox has already")
    _folders.setdefault("", set())
    TOPS.update(tops)
    if Importer not in sys.meta_path:
        sys.meta_path.insert(len(sys.meta_path) - 1, Importer)
        sys.path_hooks.insert(0, Walk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failed = [[name, f"{type(error).__name__}: {error}"[:TOLD]] for name in tops if (error := imported(name))]
    gc.collect()
    return failed


def imported(name):
    """Imports a module for every program to come; the error, if there is one."""
    error = attempted(name)
    if isinstance(error, ModuleNotFoundError) and error.name == "ctypes":
        # Some only ask how long a C integer is. They are told; nobody else finds the module.
        sys.modules["ctypes"] = sizes()
        error = attempted(name)
        del sys.modules["ctypes"]
    return error


def attempted(name):
    before = set(sys.modules)
    try:
        __import__(name)
    except BaseException as error:
        # Half of it must not stay: the program that imports it is to see the error itself.
        for half in set(sys.modules) - before:
            if half.partition(".")[0] in TOPS:
                del sys.modules[half]
        return error.with_traceback(None)
    return None


def sizes():
    """What of `ctypes` can be had without it: the sizes of the integers of this guest's C."""
    module = types.ModuleType("ctypes")
    kinds = {"c_short": "h", "c_int": "i", "c_uint": "I", "c_long": "l", "c_ulong": "L", "c_longlong": "q", "c_size_t": "N"}
    for name, code in kinds.items():
        setattr(module, name, type(name, (), {"size": struct.calcsize(code)}))
    module.sizeof = lambda kind: kind.size
    return module


_tasks = {"press": press, "add": add, "ready": ready}


def serve(request):
    """One task of the gate; the answer, or why there is none."""
    try:
        return {"value": _tasks[request["task"]](request["of"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:TOLD]}
