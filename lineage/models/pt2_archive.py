"""What may stand in a ``.pt2`` file for it to be read without running anybody's code.

The file is a zip of a graph in JSON, weights as raw bytes, and records that ``torch.export.load`` unpickles:
the example inputs always, odd weights and constants where a configuration says so. The graph's operators are
looked up by name in torch, and its sizes are evaluated by sympy.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from lineage.errors import IntegrityError

_INPUTS = re.compile(r"[^/]+/data/sample_inputs/[^/]+\.pt")
_CONFIG = re.compile(r"[^/]+/data/(?:weights|constants)/[^/]+_config\.json")
_GRAPH = re.compile(r"[^/]+/models/[^/]+\.json")
_LABEL = re.compile(
    r"[^/]+/(?:\.data/)?(?:version|archive_format|archive_version|byteorder|serialization_id)"
)
# The operators that a graph may call by name: torch would look up any other attribute of its own as well.
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims|torchvision|higher_order)\.\w+(?:\.\w+)?|(?:_operator|math)\.\w+|torch\.sym_\w+"
)
# sympy evaluates a size as Python. Its own classes have capitals, and the names of symbols are words.
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop)
_PLAIN = (*_ARITHMETIC, ast.keyword, ast.Load)
_CLASS = re.compile(r"[A-Z]\w*")
_WORD = re.compile(r"(?!_)\w+")


def clean_archive(archive: bytes) -> bytes:
    """``archive`` without its example inputs, if all else in it is data.

    Raises:
        IntegrityError: If it is no archive of ``torch.export.save``, or holds what would be unpickled or run.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            records = {info.filename: source.read(info) for info in source.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise IntegrityError(
            f"An exported program must be a file of torch.export.save, but is not: {error}."
        ) from error
    raw = {name for config in filter(_CONFIG.fullmatch, records) for name in _raw_records(config, records)}
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as target:
        for name, content in records.items():
            info = zipfile.ZipInfo(name)  # without the time: equal programs are equal bytes
            if _INPUTS.fullmatch(name):
                target.writestr(info, b"")
            elif name in raw or _CONFIG.fullmatch(name) or _LABEL.fullmatch(name):
                target.writestr(info, content)
            elif _GRAPH.fullmatch(name):
                _require_plain_graph(name, content)
                target.writestr(info, content)
            else:
                raise _refusal(f"its record {name}")
    return result.getvalue()


def _raw_records(config: str, records: Mapping[str, bytes]) -> Iterator[str]:
    """The records that ``config`` lists, all of which must be read as raw bytes."""
    folder = config.rpartition("/")[0]
    for entry in _json(config, records[config]).get("config", {}).values():
        file = str(entry.get("path_name"))
        if entry.get("use_pickle") is not False or not re.fullmatch(r"(?:weight|tensor)_\d+", file):
            raise _refusal(f"{folder}/{file}")
        yield f"{folder}/{file}"


def _require_plain_graph(name: str, content: bytes) -> None:
    """Refuse a graph that calls anything but operators, or whose expressions are more than arithmetic."""
    for key, value in _items(_json(name, content)):
        if key == "expr_str" and not _is_arithmetic(str(value)):
            raise _refusal(f"the expression {value!r}")
        if key == "target" and not _OPERATOR.fullmatch(str(value)):
            raise _refusal(f"a call of {value!r}")


def _is_arithmetic(expression: str) -> bool:
    """Whether ``expression`` is made of numbers, symbols and classes of sympy alone."""
    try:
        return all(map(_is_plain, ast.walk(ast.parse(expression, mode="eval"))))
    except (SyntaxError, ValueError, RecursionError):
        return False


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and _CLASS.fullmatch(node.func.id) is not None
    if isinstance(node, ast.Name):
        return _WORD.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str | bytes) or _WORD.fullmatch(str(node.value)) is not None
    return isinstance(node, _PLAIN)


def _items(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth; a node's target, but no other thing of that name."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key != "target" or "inputs" in tree:
                yield key, value
            yield from _items(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _items(value)


def _json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise IntegrityError(f"{name} of an exported program must be JSON, but is not: {error}.") from error


def _refusal(found: str) -> IntegrityError:
    return IntegrityError(
        f"An exported program must hold tensors and operators of torch alone, but holds {found}, which could"
        " run code; save it with torch.export.save from plain weights."
    )
