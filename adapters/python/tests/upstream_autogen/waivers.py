"""The waived cases of upstream's, read from ``waivers.txt``."""

from __future__ import annotations

from pathlib import Path


def waivers() -> dict[str, str]:
    """Reasons by ``file::case``."""
    rows = Path(__file__).with_suffix(".txt").read_text("utf-8").splitlines()
    return dict(row.split(" = ", 1) for row in rows if row.strip() and not row.startswith("#"))  # type: ignore[misc]
