"""One program: compile it, keep the value of its last statement, and tell its errors by its own lines."""

import ast
import difflib
import keyword
import linecache
import reprlib
import traceback

VALUE = "__weir_value__"
KEPT_SOURCES = 64
TEXT = 8_000  # characters of a traceback
SHORT = 120  # characters of a program that may be compiled as an expression at once
_STATEMENTS = frozenset(keyword.kwlist) - {"None", "True", "False", "not", "lambda"} | {"type", "match"}
INDEXED = 300  # characters of what an index was applied to

_short = reprlib.Repr(maxdict=12, maxlist=8, maxtuple=8, maxset=8, maxstring=80, maxother=80, maxlevel=3)


def filename(number):
    """The file name of the `number`-th program; errors show it as `<agent>`."""
    return f"<agent:{number}>"


def prepare(source, number):
    """The code object, whose evaluation gives None or the value of a program that is one expression; other values end
    up in `VALUE`. The source is kept for tracebacks of later programs that call into it."""
    name = filename(number)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    linecache.cache.pop(filename(number - KEPT_SOURCES), None)
    if _expression(source):
        # Without a tree in between it takes half the time; what is none after all is told of its errors below.
        try:
            return compile(source, name, "eval", dont_inherit=True)
        except SyntaxError:
            pass
    tree = ast.parse(source, name)
    keep_value(tree.body)
    return compile(tree, name, "exec", dont_inherit=True)


def _expression(source):
    """True when the program may well be one short expression: a guess, and cheap."""
    if len(source) > SHORT or "\n" in source or "=" in source or not source or source[0].isspace():
        return False
    return source.partition(" ")[0] not in _STATEMENTS


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
    clue = indexed(error)
    if clue:
        told.__notes__ = [*(told.__notes__ or ()), clue]
    text = "".join(told.format())
    for older in range(max(1, number - KEPT_SOURCES), number):
        text = text.replace(f'"{filename(older)}"', f'"<agent>, step {older}"')
    text = text.replace(filename(number), "<agent>")
    if len(text) > TEXT:
        text = f"{text[: TEXT // 4]}\n[…]\n{text[-TEXT * 3 // 4 :]}"
    return {"type": type(error).__name__, "message": message(error, number), "traceback": text}


def indexed(error):
    """What a failed index was applied to, and the keys that it resembles; None where that cannot be told safely."""
    trace = error.__traceback__ if isinstance(error, (KeyError, IndexError, TypeError)) else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith("<agent"):
        return None
    try:
        node = _subscript(trace)
        value, key = _plain(node.value, trace.tb_frame), _plain(node.slice, trace.tb_frame)
        text = f"Could not index {_short.repr(value)[:INDEXED]} with {_short.repr(key)}."
        near = _near(value, key)
        return f"{text} Maybe you meant one of these indexes instead: {near}" if near else text
    except Exception:
        return None


def _near(value, key):
    """Keys that are written like this one."""
    if type(value) is not dict or type(key) is not str or len(value) > 1_000 or len(key) > 200:
        return []
    return difflib.get_close_matches(key, [name for name in value if type(name) is str])


def _subscript(trace):
    """The `value[key]` that the frame stopped in."""
    code = trace.tb_frame.f_code
    first, last, start, end = list(code.co_positions())[trace.tb_lasti // 2]
    for node in ast.walk(ast.parse("".join(linecache.getlines(code.co_filename)))):
        if isinstance(node, ast.Subscript) and (node.lineno, node.end_lineno) == (first, last):
            if (node.col_offset, node.end_col_offset) == (start, end):
                return node
    raise LookupError


def _plain(node, frame):
    """The value of an expression that can be had without running any of the agent's code."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        names = frame.f_locals if node.id in frame.f_locals else frame.f_globals
        return names[node.id]
    if isinstance(node, ast.Tuple):
        return tuple(_plain(item, frame) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return -node.operand.value
    if isinstance(node, ast.Subscript):
        value = _plain(node.value, frame)
        if type(value) in (dict, list, tuple, str):
            return value[_plain(node.slice, frame)]
    raise LookupError


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
