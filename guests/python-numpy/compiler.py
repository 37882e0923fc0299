"""The compiler that NumPy's build calls: zig's clang for WebAssembly, with LLVM's linker for shared modules.

usage: compiler.py HOME cc|c++ ARGUMENT...

HOME holds `include` (the guest's Python headers), and objects that go into every module because the guest's own
libraries have nothing for them. Kept apart from build.py because it runs some hundred times.
"""

import os
import subprocess
import sys

TARGET = ["-target", "wasm32-wasi", "-mcpu=generic+simd128", "-fPIC", "-fvisibility=hidden", "-fno-sanitize=all"]
TARGET += ["-w"]  # NumPy's own warnings, by the thousand, would hide an error
# As the guest's own libraries were built: they emulate these parts of POSIX.
DEFINED = ["-D_GNU_SOURCE", "-D_WASI_EMULATED_SIGNAL", "-D_WASI_EMULATED_PROCESS_CLOCKS", "-D_WASI_EMULATED_MMAN"]
# Floating-point flags: WebAssembly has none, parts/flags.c does.
DEFINED += ["-DFE_INVALID=1", "-DFE_DIVBYZERO=4", "-DFE_OVERFLOW=8", "-DFE_UNDERFLOW=16"]
# The namespace of the C++ library that the guest carries; without it no name of that library would be found.
# Exceptions cannot unwind there: `catch` is compiled away, and a throw ends the instance (parts/exceptions.c).
CPLUSPLUS = ["-fignore-exceptions", "-fvisibility-inlines-hidden", "-U_LIBCPP_ABI_NAMESPACE"]
CPLUSPLUS += ["-D_LIBCPP_ABI_NAMESPACE=__2"]
LINKED = ["-shared", "--experimental-pic", "--unresolved-symbols=import-dynamic", "--no-entry", "--gc-sections"]
LINKED += ["-Bsymbolic", "--strip-debug"]
KEEPER = "_multiarray_umath"  # the module that all others need holds the flags


def linking(zig, home, words):
    """The command that links one Python module; it exports its entry and nothing else by name."""
    target = words[words.index("-o") + 1]
    module = os.path.basename(target).split(".")[0]
    objects = [word for word in words if word.endswith((".o", ".a", ".obj")) and not word.startswith("-")]
    exported, own = [f"--export=PyInit_{module}"], ["flags.o", "exceptions.o", "builtins.o"]
    if module == KEEPER:
        exported.append("--export=weir_float_flags")
        own.insert(0, "flags-kept.o")
    own = [os.path.join(home, name) for name in own]
    return [zig, "wasm-ld", *LINKED, *exported, "-o", target, *objects, *own]


def compiling(zig, home, language, words):
    """Any other command. The build's own Python is not the guest's: its headers are left out."""
    include = os.path.join(home, "include")
    kept = [word for word in words if not (word.startswith("-I") and "include/python3" in word)]
    extra = CPLUSPLUS if language == "c++" else []
    # Last of all: CPython and NumPy both have a refcount.h, and NumPy's files mean their own.
    return [zig, language, *TARGET, *DEFINED, *extra, *kept, "-I" + include]


def main(home, language, *words):
    zig = os.path.join(home, "zig")
    if "-shared" in words:
        return subprocess.call(linking(zig, home, list(words)))
    return subprocess.call(compiling(zig, home, language, words))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
