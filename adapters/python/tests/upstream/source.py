"""Brings smolagents' own tests here: the source archive, pinned by hash, into a cache folder.

Nothing of it is committed. Only one file is unpacked, and it is executed as a test.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
MEMBER = "smolagents-1.26.0/tests/test_remote_executors.py"


def cache() -> Path:
    """Where the archive is kept; its name carries the hash."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "weir" / "upstream" / pinned()[:16]


def pinned() -> str:
    """The archive's SHA-256."""
    found = re.search(r"sha256:([0-9a-f]{64})", REQUIREMENTS.read_text())
    assert found is not None
    return found.group(1)


def archive() -> Path:
    """The archive, downloaded when it is not in the cache, verified in any case."""
    folder = cache()
    found = list(folder.glob("smolagents-*.tar.gz"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--no-binary", ":all:", "--no-build-isolation", "-r", str(REQUIREMENTS), "-d", str(folder)]
        subprocess.run(command, check=True)
        found = list(folder.glob("smolagents-*.tar.gz"))
    (file,) = found
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == pinned(), f"{file} is not what was pinned; remove it"
    return file


def load() -> types.ModuleType:
    """The module of upstream's tests for remote executors.

    The archive leaves out the markers that it imports, and the module names a container client at its
    top; both are replaced by empty ones, because no case that is taken over uses them.
    """
    with tarfile.open(archive()) as packed:
        member = packed.extractfile(MEMBER)
        assert member is not None
        source = member.read()
    path = cache() / "test_remote_executors.py"
    path.write_bytes(source)
    package = types.ModuleType("weir_upstream")
    package.__path__ = []
    utils, markers = types.ModuleType("weir_upstream.utils"), types.ModuleType("weir_upstream.utils.markers")
    utils.__path__ = []
    markers.require_run_all = pytest.mark.skip(reason="needs a service")  # type: ignore[attr-defined]
    for module in (package, utils, markers):
        sys.modules[module.__name__] = module
    if importlib.util.find_spec("docker") is None:
        sys.modules.setdefault("docker", types.ModuleType("docker"))
    spec = importlib.util.spec_from_file_location("weir_upstream.test_remote_executors", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
