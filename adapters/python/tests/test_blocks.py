"""What is read out of a code block without parsing it: languages, values to show, imports of host functions."""

from __future__ import annotations

import pytest

from weir._blocks import READ_CHARS, magic_hint, plain_functions, refusal, shows_value


@pytest.mark.parametrize("language", ["python", "Python", "py", " PY ", "python3"])
def test_python_runs(language: str) -> None:
    assert refusal(language, "x", ["math"], []) is None


@pytest.mark.parametrize(
    ("language", "code", "said"),
    [
        ("sh", "ls", ["there is no shell", "```python"]),
        ("Bash", "pip install numpy", ["there is no shell", "Nothing can be installed", "json, math"]),
        ("console", "$ python -m pip install numpy", ["Nothing can be installed"]),
        ("pwsh", "Get-ChildItem", ["there is no shell"]),
        ("ruby", "1", ["blocks in ruby do not run here", "Python does", "JavaScript where the policy"]),
        ("", "1", ["names no language", "Begin it with ```python"]),
        ("c\x1b[31m\n", "1", ["do not run here"]),
    ],
)
def test_every_other_language_is_answered(language: str, code: str, said: list[str]) -> None:
    text = refusal(language, code, ["math", "json"], ["search"])
    assert text is not None and text.startswith("[weir] not run: ")
    for part in [*said, "A program may call search."]:
        assert part in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "code",
    ["x", "1 + 1", "f(a=1)", "x = 1\nx", "x = 1; x", "{'a': 1}['a']", "not x", "lambda a=1: a", "[\n1,\n2,\n]",
     "x == 1", "x  # y"],
)  # fmt: skip
def test_an_expression_at_the_end_is_shown(code: str) -> None:
    assert shows_value(code)


@pytest.mark.parametrize(
    "code",
    ["", "x = 1", "x: int = 1", "x += 1", "f = lambda: 1", "for i in x:\n    i", "if x: y", "if x: y; z", "def f(): 1",
     "import math", "a[1] = 2", "x = y = 1", "@f\ndef g(): pass", "assert x", "match x:\n    case 1: 2", "type X = int",
     "(never closed", "x" + " " * READ_CHARS],
)  # fmt: skip
def test_nothing_else_is_shown(code: str) -> None:
    assert not shows_value(code)


@pytest.mark.parametrize(
    ("code", "plain"),
    [
        ("from functions import add", "pass"),
        ("from functions import add, mul as m\nm(1)", "m = mul\nm(1)"),
        ("from functions import (\n    add,\n    mul,\n)\nadd(1)", "pass\n\n\n\nadd(1)"),
        ("if x:\n    from functions import add  # here\n    add(1)", "if x:\n    pass  # here\n    add(1)"),
        ("from functions import add; from functions import mul as k; k(1)", "pass; k = mul; k(1)"),
        ("from functions import *", "pass"),
        ("from functions import other", "from functions import other"),
        ("from functions import add, other", "from functions import add, other"),
        ("x = 'from functions import add'", "x = 'from functions import add'"),
        ('"""\nfrom functions import add\n"""', '"""\nfrom functions import add\n"""'),
        ("# from functions import add", "# from functions import add"),
        ("import functions_of_mine", "import functions_of_mine"),
        ("import math, functions", "import math, functions"),
        ("from functions import add\r\nadd(1)\r\n", "pass\r\nadd(1)\r\n"),
        ("from functions import add\n'never closed", "pass\n'never closed"),
        ("add(1)", "add(1)"),
    ],
)
def test_imports_of_host_functions_become_names(code: str, plain: str) -> None:
    assert plain_functions(code, "functions", {"add": 1, "mul": 1}) == plain


def test_an_import_of_the_module_becomes_an_object() -> None:
    scope = {"add": lambda a, b: a + b}
    exec(plain_functions("import functions\nimport functions as f", "functions", scope), scope)
    assert scope["functions"].add(1, 2) == scope["f"].add(2, 1) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", [
    "(" * 29_000, "-" * 29_000 + "1", "\x00", "\ud800", "[" * 9_000 + "]" * 9_000, "f" + "'{" * 9_000, "(" * 10**6,
])  # fmt: skip
def test_hostile_programs_are_only_looked_at(code: str) -> None:
    text = f"from functions import add\n{code}"
    assert isinstance(shows_value(code), bool)
    assert plain_functions(text, "functions", ["add"]).endswith(code)


def test_notebook_commands_get_a_hint() -> None:
    assert "Nothing can be installed" in str(magic_hint("!pip install x", ["math"]))
    assert "notebook" in str(magic_hint("x = 1\n%timeit x", []))
    assert magic_hint("x = 5 % 2", []) is None
