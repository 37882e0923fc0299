"""Fenced code blocks of a conversation: which languages run, what to say of the others, and small readings of Python.

Whatever is read here was written by a model. It is looked at as a list of tokens and never parsed further, compiled
or run: a parser of this process could be brought down by nesting alone. It knows no agent framework.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from typing import Collection, Iterable, Iterator

from ._handles import clip

READ_CHARS = 30_000
"""Longest program that is looked at (about half a second at worst); a longer one runs just as well."""

PYTHON = frozenset({"python", "py", "python3"})
"""Names of the usual language, in lower case."""

JAVASCRIPT = frozenset({"javascript", "js"})
"""Names of the language that runs where the policy lets it and its guest is built."""

SHELLS = frozenset(
    {"sh", "bash", "shell", "zsh", "fish", "console", "cmd", "bat", "pwsh", "powershell", "ps1", "shellscript"}
)
"""Names of shells."""

PIP = re.compile(r"^[ \t]*[$!%]?[ \t]*(?:py(?:thon3?)? +-m +)?(?:pip3?|uv +pip|conda) +install\b", re.MULTILINE)
MAGIC = re.compile(r"^[ \t]*[!%]", re.MULTILINE)

ASSIGNMENTS = frozenset({"=", "+=", "-=", "*=", "/=", "//=", "%=", "@=", "&=", "|=", "^=", ">>=", "<<=", "**="})
OPENING, CLOSING = frozenset("([{"), frozenset(")]}")
EXPRESSIONS = frozenset({"None", "True", "False", "not", "lambda", "await"})
"""Keywords that an expression may begin with."""
FILLING = frozenset({tokenize.NL, tokenize.COMMENT, tokenize.ENCODING, tokenize.INDENT, tokenize.DEDENT})

Statement = list[tokenize.TokenInfo]


def guest(language: str) -> str | None:
    """The gate's guest for a block's language; ``None`` when there is none."""
    name = language.strip().lower()
    return "python" if name in PYTHON else "javascript" if name in JAVASCRIPT else None


def refusal(language: str, code: str, imports: Collection[str], tools: Collection[str]) -> str | None:
    """What a model is told about a block that does not run here; ``None`` when it runs."""
    name = language.strip().lower()
    if guest(name) is not None:
        return None
    if name in SHELLS:
        what = "there is no shell: the sandbox has no processes, no files of this machine and no network."
        hint = no_packages(imports) if PIP.search(code) else "Write the same as a ```python block."
    elif name:
        what = f"blocks in {clip(language, 40)} do not run here; Python does, and JavaScript where the policy lets it."
        hint = "Write the same as a ```python block."
    else:
        what, hint = "the block names no language.", "Begin it with ```python."
    calls = f" A program may call {listed(tools)}." if tools else ""
    return f"[weir] not run: {what}\n{hint}{calls}"


def no_packages(imports: Collection[str]) -> str:
    """What a model is told that wants to install something."""
    granted = f" Modules that may be imported: {listed(imports, 60)}." if imports else ""
    other = "What needs another package belongs into a tool of the host."
    return f"Nothing can be installed in the sandbox.{granted} {other}"


def listed(names: Collection[str], most: int = 20) -> str:
    """Names for a text, at most ``most``."""
    shown = [clip(name, 60) for name in sorted(names)]
    return ", ".join(shown) if len(shown) <= most else f"{', '.join(shown[:most])}, … ({len(shown)} in all)"


def magic_hint(code: str, imports: Collection[str]) -> str | None:
    """What a program with a notebook's commands in it is told after it failed."""
    if PIP.search(code):
        return no_packages(imports)
    if MAGIC.search(code):
        return "Lines that begin with ! or % are a notebook's own commands; the sandbox runs plain Python."
    return None


def shows_value(code: str) -> bool:
    """Whether the last statement is an expression at the left margin, whose value a notebook would show."""
    last: Statement = []
    for statement in statements(code):
        last = statement
    if not last or not at_margin(last[0]):
        return False
    first = last[0].string
    if (keyword.iskeyword(first) and first not in EXPRESSIONS) or first == "@":
        return False
    return not assigns(last)


def at_margin(token: tokenize.TokenInfo) -> bool:
    """Whether a statement belongs to no block; one behind a colon on the same line is taken to belong to one."""
    return token.start[1] == 0 or not token.line[:1].isspace() and ":" not in token.line[: token.start[1]]


def assigns(statement: Statement) -> bool:
    """Whether a statement gives a name a value or a type."""
    depth = 0
    for token in statement:
        if token.string == "lambda":
            return False
        depth += (token.string in OPENING) - (token.string in CLOSING)
        if depth == 0 and token.type == tokenize.OP and (token.string in ASSIGNMENTS or token.string == ":"):
            return True
    return False


def plain_functions(code: str, module: str, names: Collection[str]) -> str:
    """The program without its imports of ``module``: the functions in it are the session's tools.

    ``from functions import a, b as c`` becomes ``c = b``, ``import functions`` an object with the functions. Lines
    stay where they are. Imports of other names stay as well, and the gate answers them.
    """
    if not names or module not in code:
        return code
    lines = io.StringIO(code).readlines()  # Split as the tokens are.
    for statement in reversed(list(statements(code))):
        text = replacement([token.string for token in statement], module, names)
        if text is not None:
            replace(lines, statement, text)
    return "".join(lines)


def replacement(words: list[str], module: str, names: Collection[str]) -> str | None:
    """What stands in the place of an import of ``module``; ``None`` for anything else."""
    if words[:3] == ["from", module, "import"]:
        asked = [part for part in split(w for w in words[3:] if w not in "()") if part]
        if asked == [["*"]]:
            return "pass"
        if not asked or any(part[0] not in names or len(part) not in (1, 3) for part in asked):
            return None
        given = [f"{part[2]} = {part[0]}" for part in asked if len(part) == 3 and part[2] != part[0]]
        return "; ".join(given) or "pass"
    if words[:2] == ["import", module] and (len(words) == 2 or len(words) == 4 and words[2] == "as"):
        members = ", ".join(f"{name!r}: staticmethod({name})" for name in sorted(names))
        return f"{words[-1]} = type({module!r}, (), {{{members}}})"
    return None


def split(words: Iterable[str]) -> list[list[str]]:
    """Words between commas."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == ",":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def replace(lines: list[str], statement: Statement, text: str) -> None:
    """Puts ``text`` in the place of a statement; one of several lines leaves empty ones behind."""
    (first, left), (last, right) = statement[0].start, statement[-1].end
    head, tail = lines[first - 1][:left], lines[last - 1][right:]
    lines[first - 1 : last] = [head + text + "\n" * (last - first) + tail]


def statements(code: str) -> Iterator[Statement]:
    """The simple statements and the heads of compound ones, as tokens; those before a fault, when there is one.

    A body on the line of its head counts to the head.
    """
    if len(code) > READ_CHARS:
        return
    held: Statement = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type in FILLING:
                continue
            if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER) or token.string == ";":
                if held:
                    yield held
                held = []
            else:
                held.append(token)
    except (tokenize.TokenError, SyntaxError, ValueError):
        return
