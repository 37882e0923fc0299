"""A folder of this machine beside a session's own folder at the gate: files go there before a program and come back.

The gate's folder is the one that programs see; this one is never mounted. What comes back was named by a program: a
path is looked at again here, links in the folder are never followed, and a file is there whole or not at all.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Any, Iterator, Sequence

from ._errors import GateError, Refused
from ._handles import clip
from ._session import Session

FILE_BYTES = 16 << 20
"""Bytes of one file; the gate takes and gives no more at once."""
FILES = 1_000
"""Files that are sent; a policy's quota is most often smaller."""
NO_SCRATCH = (
    "work_dir: the policy gives a session no folder of its own, so there is nothing to keep beside it. Add [code.scratch] "
    "with guest, bytes and files to the policy, or leave work_dir out"
)

Stamp = tuple[int, int]


class WorkDir:
    """The folder, and what of it both sides have."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: str | None = None
        self._known: dict[str, Stamp] = {}

    def changed(self, session: Session) -> list[str]:
        """The files that the session does not have as they are here now."""
        if session.scratch is None:
            raise GateError(NO_SCRATCH)
        if session.id != self._session:
            self._session, self._known = session.id, {}
        self.path.mkdir(parents=True, exist_ok=True)
        return [name for name, stamp in sorted(files(self.path)) if self._known.get(name) != stamp]

    def send(self, session: Session, names: Sequence[str]) -> list[str]:
        """Puts files into the session's folder; what to say of those that stayed here.

        Raises:
            Refused: the gate does not know the session any more.
        """
        notes = []
        for name in names[:FILES]:
            try:
                content, stamp = read(self.path / name)
                session.put_file(name, content)
                self._known[name] = stamp
            except Refused as fault:
                if fault.status == 404:
                    raise
                notes.append(f"work_dir: {clip(name, 80)} was not sent: {fault}")
            except OSError as fault:
                notes.append(f"work_dir: {clip(name, 80)} was not sent: {fault.strerror or fault}")
        if len(names) > FILES:
            notes.append(f"work_dir: {len(names) - FILES} more files were not sent; it holds at most {FILES}")
        return notes

    def fetch(self, session: Session, changes: Sequence[dict[str, Any]]) -> list[str]:
        """Brings here what a program left or removed; what to say of the rest."""
        notes = []
        for change in changes:
            name = str(change.get("path"))
            try:
                if change.get("digest") is not None:
                    self._known[name] = write(self.path, name, session.get_file(name))
                elif self._known.pop(name, None) is not None:
                    remove(self.path, name)
            except (GateError, OSError, ValueError) as fault:
                notes.append(f"work_dir: {clip(name, 80)} was not fetched: {clip(str(fault), 200)}")
        return notes


def files(root: Path) -> Iterator[tuple[str, Stamp]]:
    """The ordinary files below a folder by their paths; links are left out."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            seen = path.lstat()
            if stat.S_ISREG(seen.st_mode):
                yield path.relative_to(root).as_posix(), (seen.st_mtime_ns, seen.st_size)


def read(path: Path) -> tuple[bytes, Stamp]:
    """A file's content, of an ordinary file that is not too long."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        seen = os.fstat(file.fileno())
        if not stat.S_ISREG(seen.st_mode):
            raise OSError("it is not an ordinary file")
        content = file.read(FILE_BYTES + 1)
    if len(content) > FILE_BYTES:
        raise OSError(f"it is over {FILE_BYTES} bytes")
    return content, (seen.st_mtime_ns, seen.st_size)


def write(root: Path, name: str, content: bytes) -> Stamp:
    """Writes a file below a folder, in the place of whatever has its name."""
    folder, last = parent(root, name, make=True)
    part = f".weir-{secrets.token_hex(8)}"
    try:
        made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=folder)
        try:
            with open(made, "wb") as file:
                file.write(content)
                file.flush()
                seen = os.fstat(made)
            os.replace(part, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(part, dir_fd=folder)
            raise
    finally:
        os.close(folder)
    return seen.st_mtime_ns, seen.st_size


def remove(root: Path, name: str) -> None:
    """Removes a file below a folder, if it is there."""
    try:
        folder, last = parent(root, name, make=False)
    except FileNotFoundError:
        return
    try:
        os.unlink(last, dir_fd=folder)
    except FileNotFoundError:
        pass
    finally:
        os.close(folder)


def parent(root: Path, name: str, make: bool) -> tuple[int, str]:
    """The open folder of a path below ``root``, and the path's last part.

    Raises:
        ValueError: it is no path of that kind.
        OSError: a part of it is a link, or no folder.
    """
    *above, last = parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError("the gate named a path that leads elsewhere")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in above:
            if make:
                try:
                    os.mkdir(part, dir_fd=folder)
                except FileExistsError:
                    pass
            below = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = below
    except BaseException:
        os.close(folder)
        raise
    return folder, last
