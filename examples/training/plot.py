"""Spend against budget over time, as SVG, from the journal that `weir audit export` prints.

Standard input: the export. Argument: the file to write. What is held counts above what is spent; both must stay below the line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

WIDTH, HEIGHT, LEFT, TOP = 860, 250, 70, 40
ROWS = (("gpu_ms", "GPU-minutes of the session", 60_000, 3_600_000), ("micro_usd", "USD of the session", 1_000_000, 1_000_000))
"""Kind, title, how many of its units one unit of the axis has, and the derived policy's limit."""


def series(entries: list[dict[str, Any]], kind: str, limit: int) -> list[tuple[int, int, int, int]]:
    """Time, spent, spent and held, limit: one row for each entry that changes any of them."""
    held: dict[str, int] = {}
    spent, rows = 0, []
    for entry in entries:
        body = entry["body"]
        match body["kind"]:
            case "intent":
                held[body["call"]["id"]] = body["held"].get(kind, 0)
            case "part":
                spent += body["posted"].get(kind, 0)
                held[body["call"]] -= body["posted"].get(kind, 0)
            case "outcome" | "expire":
                spent += body["posted"].get(kind, 0)
                held.pop(body["call"], None)
            case "raise":
                limit += body["by"].get(kind, 0)
            case _:
                continue
        rows.append((entry["at"], spent, spent + sum(held.values()), limit))
    return rows


def panel(rows: list[tuple[int, int, int, int]], title: str, unit: int, top: int) -> str:
    start, end = rows[0][0], max(rows[-1][0], rows[0][0] + 1)
    most = max(row[3] for row in rows) * 1.1
    x = lambda at: LEFT + (at - start) / (end - start) * (WIDTH - LEFT - 20)  # noqa: E731
    y = lambda amount: top + HEIGHT - amount / most * (HEIGHT - 20)  # noqa: E731

    def steps(column: int) -> str:
        points, before = [], None
        for row in rows:
            if before is not None:
                points.append(f"{x(row[0]):.1f},{y(before):.1f}")
            points.append(f"{x(row[0]):.1f},{y(row[column]):.1f}")
            before = row[column]
        return " ".join(points)

    base = f"{x(end):.1f},{y(0):.1f} {x(start):.1f},{y(0):.1f}"
    parts = [f'<text x="{LEFT}" y="{top + 8}" font-weight="bold">{title}</text>']
    parts += [f'<polygon points="{steps(2)} {base}" fill="#c8dcf0"/>', f'<polygon points="{steps(1)} {base}" fill="#2f6fab"/>']
    parts.append(f'<polyline points="{steps(3)}" fill="none" stroke="#b3261e" stroke-width="2"/>')
    for part in range(5):
        amount = most / 1.1 * part / 4
        parts.append(f'<text x="{LEFT - 8}" y="{y(amount) + 4:.1f}" text-anchor="end">{amount / unit:.4g}</text>')
    parts.append(f'<text x="{WIDTH - 20}" y="{top + HEIGHT + 16}" text-anchor="end">{(end - start) / 1000:.0f} s</text>')
    return "\n".join(parts)


def main() -> None:
    entries = [json.loads(line) for line in sys.stdin]
    entries = [entry for entry in entries if "body" in entry]
    panels = [panel(series(entries, kind, limit), title, unit, TOP + at * (HEIGHT + 60)) for at, (kind, title, unit, limit) in enumerate(ROWS)]
    legend = '<text x="70" y="20">dark: spent; light: held for what runs; red: the budget, raised once by a person</text>'
    size = f'width="{WIDTH}" height="{TOP + 2 * (HEIGHT + 60)}"'
    body = "\n".join(panels)
    style = 'font-family="sans-serif" font-size="13" style="background:#fff"'
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{legend}\n{body}\n</svg>\n')


if __name__ == "__main__":
    main()
