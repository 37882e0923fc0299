"""One program: compile it, keep the value of its last statement, and tell its errors by its own lines."""

import ast
import linecache
import traceback

VALUE = "__weir_value__"
KEPT_SOURCES = 64
TEXT = 8_000  # characters of a traceback


def filename(number):
    """The file name of the `number`-th program; errors show it as `<agent>`."""
    return f"<agent:{number}>"


def prepare(source, number):
    """The code object; its source is kept for tracebacks of later programs that call into it."""
    name = filename(number)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    linecache.cache.pop(filename(number - KEPT_SOURCES), None)
    tree = ast.parse(source, name)
    keep_value(tree.body)
    return compile(tree, name, "exec", dont_inherit=True)


def keep_value(body):
    """Rewrites the last statement so that its value, an assignment's included, ends up in `VALUE`."""
    if not body:
        return
    last = body[-1]
    if isinstance(last, ast.Expr) or (isinstance(last, (ast.Assign, ast.AnnAssign)) and last.value is not None):
        body.insert(-1, _stored(last.value))
        last.value = _placed(ast.Name(VALUE, ast.Load()), last.value)
        if isinstance(last, ast.Expr):
            body.pop()
    elif isinstance(last, ast.AugAssign) and isinstance(last.target, ast.Name):
        body.append(_stored(_placed(ast.Name(last.target.id, ast.Load()), last)))
    elif isinstance(last, ast.Try):
        for part in (last.orelse or last.body, *(handler.body for handler in last.handlers)):
            keep_value(part)
    elif isinstance(last, (ast.If, ast.For, ast.While, ast.With)):
        keep_value(last.body)
        keep_value(getattr(last, "orelse", []))


def _stored(value):
    return _placed(ast.Assign([_placed(ast.Name(VALUE, ast.Store()), value)], value), value)


def _placed(node, like):
    """The node at the place of another one; setting it here spares a walk over the whole tree."""
    node.lineno, node.end_lineno = like.lineno, like.end_lineno
    node.col_offset, node.end_col_offset = like.col_offset, like.end_col_offset
    return node


def describe(error, number):
    """The error as type, message and a traceback that has the agent's own frames only."""
    told = traceback.TracebackException.from_exception(error, compact=True, max_group_width=5, max_group_depth=3)
    seen = set()
    _own_frames(told, seen)
    text = "".join(told.format())
    for older in range(max(1, number - KEPT_SOURCES), number):
        text = text.replace(f'"{filename(older)}"', f'"<agent>, step {older}"')
    text = text.replace(filename(number), "<agent>")
    if len(text) > TEXT:
        text = f"{text[: TEXT // 4]}\n[…]\n{text[-TEXT * 3 // 4 :]}"
    return {"type": type(error).__name__, "message": message(error, number), "traceback": text}


def message(error, number):
    """What the error says; a broken `__str__` is no way out."""
    try:
        text = str(error)
    except Exception:
        text = "the error's text could not be made"
    text = text.replace(filename(number), "<agent>")
    return text if len(text) <= TEXT else f"{text[:TEXT]}…"


def _own_frames(told, seen):
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    own = [frame for frame in told.stack if frame.filename.startswith("<agent")]
    told.stack = traceback.StackSummary.from_list(own)
    for other in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())):
        _own_frames(other, seen)
