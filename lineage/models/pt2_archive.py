"""Check of a ``.pt2`` file, so that loading it cannot run foreign code.

The file is a zip of a graph in JSON, weights as raw bytes, and records that ``torch.export.load`` unpickles:
the example inputs always, weights and constants where a configuration says so. torch looks up the graph's
operators by name, and sympy evaluates its sizes.
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
# Operators that a graph may call by name; torch would look up any other attribute of its modules as well.
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims|torchvision|higher_order)\.\w+(?:\.\w+)?|(?:_operator|math)\.\w+|torch\.sym_\w+"
)
# sympy evaluates sizes as Python. Its classes start with a capital, and names of symbols are words.
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop)
_PLAIN = (*_ARITHMETIC, ast.keyword, ast.Load)
_CLASS = re.compile(r"[A-Z]\w*")
_WORD = re.compile(r"(?!_)\w+")


def clean_archive(archive: bytes) -> bytes:
    """Return ``archive`` without its example inputs, if everything else in it is data.

    Raises:
        IntegrityError: If it is not an archive of ``torch.export.save``, or holds anything that would be
            unpickled or run.
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
            info = zipfile.ZipInfo(name)  # without a time stamp, so that equal programs have equal bytes
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
    """Yield the records that ``config`` lists; refuse any that would be unpickled."""
    folder = config.rpartition("/")[0]
    for entry in _json(config, records[config]).get("config", {}).values():
        file = str(entry.get("path_name"))
        if entry.get("use_pickle") is not False or not re.fullmatch(r"(?:weight|tensor)_\d+", file):
            raise _refusal(f"{folder}/{file}")
        yield f"{folder}/{file}"


def _require_plain_graph(name: str, content: bytes) -> None:
    """Refuse a graph that calls anything but torch operators, or has expressions beyond arithmetic."""
    for key, value in _items(_json(name, content)):
        if key == "expr_str" and not _is_arithmetic(str(value)):
            raise _refusal(f"the expression {value!r}")
        if key == "target" and not _OPERATOR.fullmatch(str(value)):
            raise _refusal(f"a call of {value!r}")


def _is_arithmetic(expression: str) -> bool:
    """Return whether ``expression`` consists of numbers, symbols and sympy classes alone."""
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
    """Yield every key and value at any depth; ``target`` only of nodes, which also have ``inputs``."""
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
