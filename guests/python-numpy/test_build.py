"""What of the recipe can be held without a network: pins, the interpreter's header, the linker's command."""

import io
import os
import pathlib
import sys
import tempfile
import tomllib
import unittest
from contextlib import redirect_stderr

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import build  # noqa: E402
import compiler  # noqa: E402


class Recipe(unittest.TestCase):
    def setUp(self):
        self.guest = tomllib.loads((build.HERE / "guest.toml").read_text())
        self.manifest = self.guest["builder"]

    def test_every_download_is_pinned_by_version_and_hash(self):
        for entry in [self.manifest["numpy"], *self.manifest["tool"]]:
            self.assertIn("==", entry["requirement"])
            self.assertEqual(len(bytes.fromhex(entry["sha256"])), 32)

    def test_the_world_and_the_capabilities_are_those_of_the_plain_guest(self):
        plain = tomllib.loads((build.PLAIN / "guest.toml").read_text())
        for key in ("world", "capabilities"):
            self.assertEqual(self.guest[key], plain[key])
        self.assertIn(plain["builder"]["sha256"], [tool["sha256"] for tool in self.manifest["tool"]])

    def test_the_header_holds_the_settings_that_are_macros_and_are_set(self):
        settings = {"HAVE_FORK": 0, "SIZEOF_LONG": 4, "Py_GIL_DISABLED": 0, "CC": "clang", "WITH_PYMALLOC": 1}
        defined = [line for line in build.configuration(settings).splitlines() if line.startswith("#define")]
        self.assertEqual(defined[1:], ["#define SIZEOF_LONG 4", "#define WITH_PYMALLOC 1"])

    def test_a_component_is_stamped_with_the_sources_that_it_is_made_of(self):
        section = build.stamp(build.sources())
        self.assertEqual((section[0], section[1]), (0, len(section) - 2))
        self.assertEqual(section[2:15], bytes([12]) + b"weir:sources")
        self.assertEqual(len(bytes.fromhex(section[15:].decode())), 32)

    def test_headers_of_another_python_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            recipe = build.Build(place, self.manifest)
            with self.assertRaisesRegex(SystemExit, "no Python.h"):
                recipe.headers(place)
            (place / "Python.h").touch()
            (place / "patchlevel.h").write_text("#define PY_MAJOR_VERSION 3\n#define PY_MINOR_VERSION 13\n")
            with redirect_stderr(io.StringIO()), self.assertRaisesRegex(SystemExit, "of Python 3.13"):
                recipe.headers(place)

    def test_a_module_exports_its_entry_and_carries_its_arithmetic(self):
        words = ["-o", "numpy/fft/_pocketfft_umath.cpython-311.so", "a.o", "-lm", "-shared", "b.a"]
        command = compiler.linking("zig", "/home", words)
        self.assertIn("--export=PyInit__pocketfft_umath", command)
        self.assertEqual([word for word in command if word.endswith((".o", ".a"))][-1], "/home/builtins.o")
        self.assertNotIn("-lm", command)

    def test_the_building_python_s_own_headers_are_left_out(self):
        command = compiler.compiling("zig", "/home", "cc", ["-I/usr/include/python3.11", "-Isrc", "-c", "x.c"])
        self.assertNotIn("-I/usr/include/python3.11", command)
        self.assertGreater(command.index("-I/home/include"), command.index("-Isrc"))
        self.assertNotIn("-fignore-exceptions", command)


if __name__ == "__main__":
    unittest.main()
