"""The standard library in memory: a finder that imports from the archive that `pack.py` wrote."""

import importlib.machinery
import importlib.util
import marshal
import os
import sys
import zlib

with open(os.path.join(os.path.dirname(__file__), "stdlib.bin"), "rb") as _file:
    _ARCHIVE = marshal.load(_file)


class Library:
    """Finds and loads archived modules; unpacked only when imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        found = _ARCHIVE.get(name)
        if found is None:
            return None
        return importlib.util.spec_from_loader(name, Library, origin="memory", is_package=found[0])

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        exec(Library.get_code(module.__name__), module.__dict__)

    @staticmethod
    def get_code(name):
        return marshal.loads(zlib.decompress(_ARCHIVE[name][1]))

    @staticmethod
    def get_source(name):
        return None

    @staticmethod
    def is_package(name):
        return _ARCHIVE[name][0]


def install():
    """Puts the archive in the place of the build's folders, which do not exist at run time."""
    kept = [finder for finder in sys.meta_path if finder is not importlib.machinery.PathFinder]
    sys.meta_path[:] = [*kept, Library, importlib.machinery.PathFinder]


def detach():
    """Forgets the build's folders, once everything that only they hold has been imported."""
    sys.path.clear()
    sys.path_importer_cache.clear()
