"""Check of a ``.pt2`` file, so that loading it cannot run foreign code.

The file is a zip of a graph in JSON, which ``pt2_graph`` checks, of weights as raw bytes, and of records that
``torch.export.load`` unpickles: example inputs always, weights and constants where a configuration says so.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from lineage.errors import IntegrityError
from lineage.models.pt2_graph import read_json, refusal, require_plain_graph

_INPUTS = re.compile(r"[^/]+/data/sample_inputs/[^/]+\.pt")
_CONFIG = re.compile(r"[^/]+/data/(?:weights|constants)/[^/]+_config\.json")
_GRAPH = re.compile(r"[^/]+/models/[^/]+\.json")
_LABEL = re.compile(
    r"[^/]+/(?:\.data/)?(?:version|archive_format|archive_version|byteorder|serialization_id)"
)


def clean_archive(archive: bytes) -> bytes:
    """Return ``archive`` without its example inputs, if everything else in it is data.

    Raises:
        IntegrityError: If it is not an archive of ``torch.export.save``, or holds anything that would be
            unpickled or run.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            infos = [info for info in source.infolist() if not info.is_dir()]
            if sum(info.file_size for info in infos) > len(archive):  # nothing in it may expand
                raise refusal("compressed records")
            records = {info.filename: source.read(info) for info in infos}
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
                require_plain_graph(name, content)
                target.writestr(info, content)
            else:
                raise refusal(f"its record {name}")
    return result.getvalue()


def _raw_records(config: str, records: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the records that ``config`` lists; refuse any that would be unpickled, or be larger in memory."""
    folder = config.rpartition("/")[0]
    for entry in _entries(config, read_json(config, records[config])):
        file = str(entry.get("path_name"))
        if entry.get("use_pickle") is not False or not re.fullmatch(r"(?:weight|tensor)_\d+", file):
            raise refusal(f"{folder}/{file}")
        if _num_elements(config, entry) > len(records.get(f"{folder}/{file}", b"")):
            raise refusal(f"{folder}/{file} of fewer bytes than elements")
        yield f"{folder}/{file}"


def _entries(config: str, content: Any) -> list[dict[str, Any]]:
    table = content.get("config", {}) if isinstance(content, dict) else None
    entries: list[Any] = list(table.values()) if isinstance(table, dict) else [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise _malformed(config)
    return entries


def _num_elements(config: str, entry: Mapping[str, Any]) -> int:
    """Return the number of elements of the tensor that an entry describes."""
    try:
        return math.prod(int(size["as_int"]) for size in entry["tensor_meta"]["sizes"])
    except (TypeError, KeyError, ValueError) as error:
        raise _malformed(config) from error


def _malformed(config: str) -> IntegrityError:
    return IntegrityError(
        f"{config} of an exported program must list tensors with their sizes, but does not; export the"
        " program again."
    )
