"""Check of the graph in a ``.pt2`` file, which is JSON, before torch reads it.

torch looks operators up by name, lets sympy evaluate sizes as Python, and writes names into Python source
that it compiles. So every string in the graph must belong to a small vocabulary.
"""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from lineage.errors import IntegrityError
from lineage.models.pt2_operators import is_pure

_NAME = re.compile(r"\w*", re.ASCII)
_TEXT = re.compile(r"[\w .,:;/|+<=>-]*", re.ASCII)  # no quote, bracket, backslash or line break
_WORD = re.compile(r"(?!_)[\w.]+", re.ASCII)
_NAMED = {"name", "as_name", "forward_arg_names", "user_input_name"}
_VALUES = {"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "custom_obj_values"}
# Written for people or for what is not done here: guards are compiled only where they are asked for
_UNREAD = {"metadata", "guards_code"}
_CODE = {"as_graph", "as_operator", "as_custom_obj", "custom_obj", "class_fqn"}
_SPECS = {"in_spec", "out_spec"}
_CONTAINERS = {"builtins.tuple": "null", "builtins.list": "null", "builtins.dict": r"\[(\"\w+\"(, )?)*\]"}
# What sympy prints for sizes: its own classes, and torch's functions of integers
_SIZE_CLASSES = """
    Symbol Integer Rational Float Add Mul Pow Max Min Mod Abs Eq Ne Lt Le Gt Ge Equality Unequality
    StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not FloorDiv ModularIndexing Where
    PythonMod CleanDiv CeilToInt FloorToInt CeilDiv PowByNatural FloatTrueDiv IntTrueDiv TruncToFloat
    TruncToInt RoundToInt ToFloat Identity
"""
_SYMPY = frozenset(_SIZE_CLASSES.split())
_POWERS = ("Pow", "PowByNatural")
_LARGEST_POWER = 8
_PLAIN = (ast.Expression, ast.UnaryOp, ast.USub, ast.keyword, ast.Load)


def require_plain_graph(name: str, content: bytes) -> None:
    """Refuse a graph that calls anything but pure operators, or holds text that could become code.

    Args:
        name: Name of the record, for the error.
        content: Record of the graph.

    Raises:
        IntegrityError: If it does, or is not JSON.
    """
    for key, value in _strings("", read_json(name, content)):
        if key == "target":
            if not is_pure(value):
                raise refusal(f"a call of {value!r}")
        elif key == "expr_str":
            if not _is_arithmetic(value):
                raise refusal(f"the expression {value!r}")
        elif key in _CODE:
            raise refusal(f"{key} {value!r}")
        elif key in _SPECS:
            if not _is_plain_spec(value):
                raise refusal(f"{key} {value!r}")
        elif not (_NAME if key in _NAMED or key in _VALUES else _TEXT).fullmatch(value):
            raise refusal(f"{key or 'key'} {value!r}")


def read_json(name: str, content: bytes) -> Any:
    """Return what the record ``name`` holds.

    Raises:
        IntegrityError: If it is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} of an exported program must be JSON, but is not: {error}.") from error


def refusal(found: str) -> IntegrityError:
    """Return the error that says that the archive holds ``found``, which may be code."""
    return IntegrityError(
        f"An exported program must hold tensors and pure operators of torch alone, but holds {found}, which"
        " could run code; export a network without it."
    )


def _strings(key: str, tree: Any) -> Iterator[tuple[str, str]]:
    """Yield every string with the key that it stands under, and every key itself.

    Keys of a table of values are names, and come with the key of the table.
    """
    open_ends = [(key, tree)]
    while open_ends:  # a deep tree must not exhaust Python's stack
        key, value = open_ends.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, list):
            open_ends += [(key, item) for item in value]
        elif isinstance(value, dict):
            for name, item in value.items():
                yield (key if key in _VALUES else ""), name
                if name in _CODE and item not in (None, {}):
                    yield name, str(item)[:80]
                elif name not in _UNREAD:
                    open_ends.append((name, item))


def _is_plain_spec(spec: str) -> bool:
    """Return whether the structure of inputs or outputs consists of tuples, lists and dicts alone."""
    try:
        version, tree = json.loads(spec)
        return type(version) is int and _is_container(tree)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_container(tree: Any) -> bool:
    if set(tree) != {"type", "context", "children_spec"}:
        return False
    if tree["type"] is None:
        return tree["context"] is None and tree["children_spec"] == []
    context = _CONTAINERS.get(tree["type"])
    return (
        context is not None
        and re.fullmatch(context, tree["context"], re.ASCII) is not None
        and all(map(_is_container, tree["children_spec"]))
    )


def _is_arithmetic(expression: str) -> bool:
    """Return whether ``expression`` consists of numbers, symbols and classes for sizes alone."""
    try:
        return all(map(_is_plain, ast.walk(ast.parse(expression, mode="eval"))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        return function in _SYMPY and (function not in _POWERS or _is_small_power(node))
    if isinstance(node, ast.Constant):
        return (
            not isinstance(node.value, str | bytes)
            or re.fullmatch(r"(?!_)[\w.]+", str(node.value)) is not None
        )
    return isinstance(node, _PLAIN) or (isinstance(node, ast.Name) and not node.id.startswith("_"))


def _is_small_power(power: ast.Call) -> bool:
    """Return whether a power has a small number as its exponent, and no power in its base."""
    if len(power.args) != 2:
        return False
    base, exponent = power.args
    number = exponent.args[0] if isinstance(exponent, ast.Call) and len(exponent.args) == 1 else exponent
    if isinstance(number, ast.UnaryOp):
        number = number.operand
    is_small = (
        isinstance(number, ast.Constant) and type(number.value) is int and number.value <= _LARGEST_POWER
    )
    inner = (node.id for node in ast.walk(base) if isinstance(node, ast.Name))
    return is_small and not any(name in _POWERS for name in inner)
