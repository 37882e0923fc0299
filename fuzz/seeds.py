#!/usr/bin/env python3
"""Seeds for one target, out of the data of the tests: `seeds.py TARGET FOLDER`. Targets whose input is binary begin without."""

import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def toml(path):
    return tomllib.loads((ROOT / path).read_text())


def raw(path, begins):
    """Every raw string of a Rust file that begins so."""
    found = re.findall(r'r#"(.*?)"#', (ROOT / path).read_text(), re.S)
    filled = [text.replace("{{", "{").replace("}}", "}") if "{{" in text else text for text in found]
    return [text.replace("{blob}", "c" * 40).replace("{oid}", "a" * 64) for text in filled if re.match(begins, text)]


def lines():
    shell = [case["line"] for case in toml("tests/shell/lines.toml")["case"]]
    return shell + [step["line"] for step in toml("tests/research/steps.toml")["step"]]


def launches():
    usual = {"command": ["python", "t.py"], "arguments": [], "environment": {}, "flavor": "t4-small", "timeoutSeconds": 600,
             "dockerImage": "python:3.12"}
    for row in toml("tests/hub/launches.toml")["launch"]:
        if "raw" in row:
            yield row["raw"]
        elif "body" in row:
            yield json.dumps({**usual, **json.loads(row["body"])})


def requests():
    for path in ["src/egress/hub/request.rs", "src/egress/hub/hostile.rs"]:
        yield from re.findall(r'"((?:GET|POST|PUT|HEAD|DELETE) [^"]*)"', (ROOT / path).read_text())


def policies():
    for path in [*ROOT.glob("policies/derived/*.toml"), *ROOT.glob("tests/**/policy.toml"), *ROOT.glob("examples/**/*.toml")]:
        yield path.read_text()


def values():
    return ['{"$": ["tuple", [1, {"$": ["int", "-5"]}, {"$": ["bytes", "YQ=="]}]]}',
            '{"a": {"$": ["handle", "0123456789abcdef0123456789abcdef", "a", "b"]}}', '[1.5, -0.0, 1e308, null, "\\ud83d\\ude00"]']


def streams():
    """Strings whose first two characters choose, the second written as an escape."""
    for found in re.findall(r'"([@BC]\\u\{(?:[^"\\\n]|\\.)*)"', (ROOT / LLM).read_text()):
        text = re.sub(r"\\u\{(.)\}", lambda mark: chr(int(mark[1], 16)), found)
        yield text.replace('\\"', '"').replace("\\n", "\n").replace("\\r", "\r")


HUB, LLM, HOOK = ("src/egress/hub/hostile.rs", "src/egress/llm/hostile.rs", "src/surface/hook/hostile.rs")
TARGETS = {
    "lines": lines,
    "launches": lambda: [*launches(), *raw(HUB, r'\{"command')],
    "requests": requests,
    "commits": lambda: ["\n".join(raw(HUB, r'\{"key":"(header|file)')), *raw(HUB, r'\{"key')],
    "answers": lambda: raw(HUB, r"[0-3][\[{]"),
    "generations": lambda: raw(LLM, r"[@BC]\{"),
    "streams": streams,
    "events": lambda: raw(HOOK, r'\{"session'),
    "policy": policies,
    "json": lambda: [*launches(), *values()],
    "values": values,
}


if __name__ == "__main__":
    target, folder = sys.argv[1], Path(sys.argv[2])
    count = 0
    for seed in TARGETS.get(target, list)():
        data = seed.encode()
        (folder / hashlib.sha256(data).hexdigest()[:20]).write_bytes(data)
        count += 1
    print(f"{count} seeds of {target}")
