"""Builds the Python guest with NumPy: one WebAssembly component.

usage: python3 build.py --headers DIR [--work DIR] [--output FILE]

DIR holds CPython 3.14's headers: an unpacked source release, or the folder of a distribution's development package
that has `Python.h`. Everything else comes from the configured Python index, by hash (guest.toml). Steps: tools,
NumPy's sources, the guest's own settings, compile, componentize. docs/numpy.md has the figures.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import venv

HERE = pathlib.Path(__file__).resolve().parent
PLAIN = HERE.parent / "python"
MODULE = ".cpython-314-wasm32-wasi.so"
# Settings of the interpreter that are macros of its header; the others are for its own build.
MACRO = re.compile(r"(HAVE|SIZEOF|ALIGNOF|WITH|Py|PY|_Py|USE|DOUBLE|FLOAT|PTHREAD|SYS|TIME|TM|ENABLE|POSIX)_")
OPTIONS = ["blas=none", "lapack=none", "allow-noblas=true", "disable-optimization=true", "disable-highway=true"]
OPTIONS += ["disable-intel-sort=true", "disable-svml=true", "disable-threading=true", "buildtype=release"]
NOT_NEEDED = re.compile(r"test|_simd|_dummy|example")
SOURCES = shutil.ignore_patterns("tests", "f2py", "distutils", "_build_utils", "code_generators", "include", "src")
PARTS = [("exceptions.c", "exceptions.o"), ("flags.c", "flags.o"), ("flags.c", "flags-kept.o", "-DFLAGS_LIVE_HERE")]
STAMP = b"weir:sources"
ANCHOR = "    for (m = 0; m < dm; m++) {\n        for (p = 0; p < dp; p++) {\n#if @IS_COMPLEX@ == 1\n"


def run(*command, cwd=None, **environment):
    """Runs a step; its output is shown only when it fails."""
    settings = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=cwd, env={**settings, **environment}, capture_output=True, text=True)
    if ended.returncode != 0:
        lines = (ended.stdout + ended.stderr).splitlines()
        told = "\n".join([line for line in lines if "error:" in line][:10] + lines[-20:])
        sys.exit(f"{pathlib.Path(words[0]).name} failed ({ended.returncode}):\n{told}")
    return ended.stdout


class Build:
    """One build in one folder. A step that has left its result behind is not done again."""

    def __init__(self, work, manifest):
        self.work = work
        self.manifest = manifest
        self.environment = work / "tools"
        self.home = work / "compiler"
        self.place = work / "guest"
        self.version = manifest["numpy"]["requirement"].partition("==")[2]
        self.numpy = work / f"numpy-{self.version}"
        self.compiled = work / "compiled"

    def program(self, name):
        return self.environment / "bin" / name

    def pip(self, verb, entries, *words, **environment):
        """Has pip take exactly these packages, by hash."""
        listed = "".join(f"{entry['requirement']} --hash=sha256:{entry['sha256']}\n" for entry in entries)
        requirements = self.work / f"{verb}.txt"
        requirements.write_text(listed)
        command = [self.program("python"), "-m", "pip", verb, "--require-hashes", "--no-deps", "--no-input"]
        run(*command, "--disable-pip-version-check", "-r", requirements, *words, **environment)

    def tools(self):
        if self.program("componentize-py").exists() and self.program("cython").exists():
            return
        venv.create(self.environment, with_pip=True, clear=True)
        self.pip("install", self.manifest["tool"], "--only-binary", ":all:")

    def sources(self):
        if self.numpy.exists():
            return
        backend = {"PYTHONPATH": str(HERE / "backend"), "WEIR_NUMPY_VERSION": self.version}
        only = ["--no-binary", ":all:", "--no-build-isolation", "--dest", self.work]
        self.pip("download", [self.manifest["numpy"]], *only, **backend)
        with tarfile.open(self.work / f"numpy-{self.version}.tar.gz") as archive:
            archive.extractall(self.work, filter="data")
        loops = self.numpy / "numpy/_core/src/umath/matmul.c.src"
        text = loops.read_text()
        if text.count(ANCHOR) != 1:
            sys.exit("matmul.c.src is not as expected: is the version of NumPy another one?")
        loops.write_text(text.replace(ANCHOR, (HERE / "parts/matmul_rows.c").read_text() + ANCHOR))

    def stage(self):
        """The guest's files in one folder: those of `guests/python`, and this one's entry beside them."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(PLAIN / "wit", self.place / "wit")
        for source in (PLAIN / "src", HERE / "src"):
            shutil.copytree(source, self.place / "src", dirs_exist_ok=True)

    def componentize(self, world, app, target, *words):
        command = [self.program("componentize-py"), "--quiet", "--wit-path", "wit", "--world", world, "componentize"]
        path = f"{self.environment / 'bin'}:{os.environ.get('PATH', '')}"
        command += [app, "--python-path", "src", *words, "--output", target]
        run(*command, cwd=self.place, VIRTUAL_ENV=str(self.environment), PATH=path, RUST_BACKTRACE="0")

    def headers(self, given):
        """The given headers, with the guest's own configuration in the place of the host's."""
        found = next((path for path in (given / "Include", given) if (path / "Python.h").is_file()), None)
        if found is None:
            sys.exit(f"no Python.h in {given} or its Include: give CPython 3.14's sources or headers")
        series = re.findall(r"define PY_(?:MAJOR|MINOR)_VERSION\s+(\d+)", (found / "patchlevel.h").read_text())
        if ".".join(series) != self.manifest["headers"]["version"]:
            sys.exit(f"the headers are of Python {'.'.join(series)}; 3.14 is needed")
        include = self.home / "include"
        shutil.rmtree(include, ignore_errors=True)
        shutil.copytree(found, include)
        self.componentize("packing", "settings", self.work / "settings.wasm")
        settings = json.loads((self.place / "src/settings.json").read_text())
        (include / "pyconfig.h").write_text(configuration(settings))

    def toolchain(self):
        """The compiler and what goes into every module: C++'s throw, flags, arithmetic of 128 bits."""
        found = next(self.environment.glob("lib/python3*/site-packages/ziglang"))
        zig = self.home / "zig"
        zig.unlink(missing_ok=True)
        zig.symlink_to(found / "zig")
        for language in ("cc", "c++"):
            script = self.home / language
            command = f'"{sys.executable}" "{HERE}/compiler.py" "{self.home}" {language}'
            script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            script.chmod(0o755)
        archiver = self.home / "ar"
        archiver.write_text(f'#!/bin/sh\nexec "{zig}" ar "$@"\n')
        archiver.chmod(0o755)
        for part, target, *more in PARTS:
            run(self.home / "cc", "-O2", *more, "-c", HERE / "parts" / part, "-o", self.home / target)
        builtins = ["-O", "ReleaseFast", "-fPIC", "-target", "wasm32-wasi", "-mcpu=generic+simd128"]
        builtins += ["--name", "builtins", f"-femit-bin={self.home / 'builtins.o'}"]
        run(zig, "build-obj", *builtins, found / "lib/compiler_rt.zig", cwd=self.home)

    def configure(self):
        cross = self.work / "cross.ini"
        programs = {"c": self.home / "cc", "cpp": self.home / "c++", "ar": self.home / "ar"}
        programs |= {name: self.program(name) for name in ("cython", "python")}
        lines = ["[binaries]", *(f"{name} = '{path}'" for name, path in programs.items()), "[host_machine]"]
        lines += ["system = 'wasi'", "cpu_family = 'wasm32'", "cpu = 'wasm32'", "endian = 'little'", "[properties]"]
        lines += ["needs_exe_wrapper = true", "skip_sanity_check = true", "longdouble_format = 'IEEE_QUAD_LE'"]
        cross.write_text("\n".join(lines) + "\n")
        shutil.rmtree(self.compiled, ignore_errors=True)
        meson = self.numpy / "vendored-meson/meson/meson.py"
        path = f"{self.environment / 'bin'}:{os.environ.get('PATH', '')}"
        command = [self.program("python"), meson, "setup", self.compiled, self.numpy, "--cross-file", cross]
        run(*command, *(f"-D{option}" for option in OPTIONS), PATH=path)

    def compile(self):
        """Compiles the native modules that NumPy needs to run, and puts them beside its Python files."""
        ninja = self.program("ninja")
        path = f"{self.environment / 'bin'}:{os.environ.get('PATH', '')}"
        known = run(ninja, "-C", self.compiled, "-t", "targets", "all", PATH=path)
        targets = [name for name in re.findall(r"^(numpy/[^:]*\.so):", known, re.M) if not NOT_NEEDED.search(name)]
        run(ninja, "-C", self.compiled, *targets, PATH=path)
        site = self.work / "site/numpy"
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(self.numpy / "numpy", site, ignore=ignored)
        shutil.copy(self.compiled / "numpy/__config__.py", site)
        for name in targets:
            shutil.copy(self.compiled / name, site.parent / (name.partition(".")[0] + MODULE))

    def component(self, output):
        self.componentize("packing", "pack", self.work / "packing.wasm")
        made = self.work / "python-numpy.wasm"
        self.componentize("python", "numpy_main", made, "--python-path", self.work / "site")
        output.write_bytes(made.read_bytes() + stamp(sources()))


def ignored(folder, names):
    """What of NumPy's sources is not for running."""
    left = set(SOURCES(folder, names))
    return left | {name for name in names if "." in name and not name.endswith((".py", ".so"))}


def configuration(settings):
    """The header that says how the guest's CPython was configured."""
    known = sorted(name for name, value in settings.items() if MACRO.match(name) and isinstance(value, int) and value)
    lines = [f"#define {name} {settings[name]}" for name in known]
    return "\n".join(["#ifndef Py_PYCONFIG_H", "#define Py_PYCONFIG_H", *lines, "#endif", ""])


def sources():
    """SHA-256 over the plain guest's files, as `weir guest add` has it: names and contents, each after its length."""
    digest = hashlib.sha256()
    found = [path for path in PLAIN.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for name, path in sorted((path.relative_to(PLAIN).as_posix(), path) for path in found):
        for part in (name.encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def stamp(digest):
    """The custom section that says of which sources a component was made; both lengths take one byte."""
    body = bytes([len(STAMP)]) + STAMP + digest.encode()
    return bytes([0, len(body)]) + body


def arguments():
    parser = argparse.ArgumentParser(description="Builds the Python guest with NumPy.")
    parser.add_argument("--headers", type=pathlib.Path, required=True, help="CPython 3.14's sources or headers")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build-numpy"), help="folder to build in")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("python-numpy.wasm"))
    return parser.parse_args()


def main():
    if sys.version_info < (3, 12) and not hasattr(tarfile, "data_filter"):
        sys.exit("Python 3.11.4 or later is needed")
    given = arguments()
    work = given.work.resolve()
    (work / "compiler").mkdir(parents=True, exist_ok=True)
    build = Build(work, tomllib.loads((HERE / "guest.toml").read_text())["builder"])
    steps = [build.tools, build.sources, build.stage, lambda: build.headers(given.headers.resolve())]
    steps += [build.toolchain, build.configure, build.compile, lambda: build.component(given.output)]
    told = ["installing the tools", "fetching NumPy's sources", "collecting the guest's files"]
    told += ["reading the guest's settings", "preparing the compiler", "configuring", "compiling", "componentizing"]
    for number, (step, what) in enumerate(zip(steps, told, strict=True), 1):
        start = time.monotonic()
        step()
        print(f"{number}/{len(steps)} {what}: {time.monotonic() - start:.0f} s", flush=True)
    bytes_ = given.output.read_bytes()
    print(f"{given.output}: {len(bytes_)} bytes, sha256 {hashlib.sha256(bytes_).hexdigest()}")


if __name__ == "__main__":
    main()
