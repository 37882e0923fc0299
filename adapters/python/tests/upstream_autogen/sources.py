"""Brings autogen's own tests here: from a checkout, or from its source archives, pinned by hash, in a cache folder.

``AUTOGEN_SOURCE`` names a checkout of autogen at the tag python-v0.7.5, commit
83afbf5857aac683340d4c692194e548b1e8edda; without it the archives are downloaded once. Either way each file is the one
whose digest stands here. Nothing of it is committed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

DIGESTS = {
    "autogen-agentchat/tests/test_code_executor_agent.py": (
        "ba4281c1d2b0595752e73dce4077716389ffde04b5c4445f78d9f39d874f6619"
    ),
    "autogen-ext/tests/tools/test_python_code_executor_tool.py": (
        "b629a52fc1dbf3ef4381283c25a5de64232d3ea93569cc9f68020124c9863a27"
    ),
    "autogen-ext/tests/code_executors/test_jupyter_code_executor.py": (
        "5f1cd87d055cf16511a8ae2365e5ada19cc6eb419d6c257d2a4d706d968b9060"
    ),
}
"""Files of upstream's tests, by package and path, with their SHA-256."""


def enabled() -> bool:
    """Whether upstream's cases were asked for."""
    return os.environ.get("WEIR_UPSTREAM") == "1" or bool(os.environ.get("AUTOGEN_SOURCE"))


def source(name: str) -> tuple[str, bytes]:
    """The path and the text of the file with this name, verified."""
    (path,) = [path for path in DIGESTS if path.endswith(f"/{name}")]
    checkout = os.environ.get("AUTOGEN_SOURCE")
    text = (Path(checkout) / "python" / "packages" / path).read_bytes() if checkout else unpacked(path)
    digest = hashlib.sha256(text).hexdigest()
    assert digest == DIGESTS[path], f"{path} is not that of autogen 0.7.5; its digest is {digest}"
    return path, text


def unpacked(path: str) -> bytes:
    package, inside = path.split("/", 1)
    with tarfile.open(archive(package)) as packed:
        member = packed.extractfile(f"{package.replace('-', '_')}-0.7.5/{inside}")
        assert member is not None
        return member.read()


def archive(package: str) -> Path:
    """A package's source archive, downloaded when it is not in the cache, verified in any case."""
    line = next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith(f"{package}=="))
    found = re.search(r"sha256:([0-9a-f]{64})", line)
    assert found is not None
    pinned = found.group(1)
    folder = cache() / pinned[:16]
    files = list(folder.glob("*.tar.gz"))
    if not files:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = folder / "requirements.txt"
        wanted.write_text(line + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--no-binary", ":all:", "--no-build-isolation", "-r", str(wanted), "-d", str(folder)]
        subprocess.run(command, check=True)
        files = list(folder.glob("*.tar.gz"))
    (file,) = files
    assert hashlib.sha256(file.read_bytes()).hexdigest() == pinned, f"{file} is not what was pinned; remove it"
    return file


def cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "weir" / "upstream"
