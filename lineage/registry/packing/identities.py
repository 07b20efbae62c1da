"""New ids and version numbers of a family in another store, put into all texts that name the former ones."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from lineage.registry.family.family import model_name
from lineage.registry.family.tags import TAG

LOG = TAG + "log."
TOMBSTONE = TAG + "removed."

_ID = re.compile(r"(?<![0-9a-f])(m-)?[0-9a-f]{32}(?![0-9a-f])")
_FIELDS = TypeAdapter(dict[str, Any])


@dataclass
class Identities:
    """Former and new ids.

    Attributes:
        ids: New ids of runs and logged models by former ones.
        versions: New ``name/version`` by the former.
        digests: New digests of models' files by the former ones, of files that name what has a new id.
    """

    ids: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def rewrite(self, text: str) -> str:
        """Return ``text`` with new ids, versions and digests of files in place of the former ones."""
        for former, new in self.digests.items():
            text = text.replace(former, new)
        text = _ID.sub(lambda match: self.ids.get(match[0], match[0]), text)
        for name in {model_name(version_id) for version_id in self.versions}:
            for start, middle in (
                (re.escape(name), "/"),
                (f"#/models/{re.escape(quote(name, safe=''))}", "/versions/"),
            ):
                pattern = rf"(?<![\w.-])(?<!\w/){start}{middle}(\d+)(?!\d)"
                text = re.sub(pattern, partial(self._renamed, name), text)
        return text

    def number(self, name: str, number: int) -> int | None:
        """Return the new number of a version; None if it has none."""
        found = self.versions.get(f"{name}/{number}")
        return None if found is None else int(found.rpartition("/")[2])

    def rewrite_tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return tags with rewritten values."""
        return {key: self.rewrite(value) for key, value in tags.items()}

    def rewrite_log(self, name: str, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags of a registered model's log, with new ids and numbers; others are left out."""
        found = {}
        for key, value in tags.items():
            fields = _read(value) if key.startswith(LOG) else None
            if fields is not None:
                numbers = {
                    place: self.number(name, fields[place])
                    for place in ("version", "previous")
                    if isinstance(fields.get(place), int)
                }
                if None not in numbers.values():
                    found[key] = self.rewrite(json.dumps(fields | numbers))
        return found

    def rewrite_tombstones(self, name: str, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tombstones in a registered model's tags, with new ids and numbers."""
        found = {}
        for key, value in tags.items():
            number = key.removeprefix(TOMBSTONE) if key.startswith(TOMBSTONE) else ""
            new = self.number(name, int(number)) if number.isdecimal() else None
            fields = _read(value)
            if new is not None and fields is not None:
                found[f"{TOMBSTONE}{new}"] = self.rewrite(json.dumps(fields | {"version": new}))
        return found

    def _renamed(self, name: str, match: "re.Match[str]") -> str:
        new = self.versions.get(f"{name}/{match[1]}")
        if new is None:
            return match[0]
        link = "/versions/" in match[0]
        new_name, _, number = new.rpartition("/")
        return f"#/models/{quote(new_name, safe='')}/versions/{number}" if link else new


def numbers_in(tags: Mapping[str, str]) -> set[int]:
    """Return the version numbers that the log and the tombstones of a registered model name."""
    found: set[int] = set()
    for key, value in tags.items():
        if key.startswith(LOG):
            fields = _read(value) or {}
            found |= {n for n in (fields.get("version"), fields.get("previous")) if isinstance(n, int)}
        elif key.startswith(TOMBSTONE) and key.removeprefix(TOMBSTONE).isdecimal():
            found.add(int(key.removeprefix(TOMBSTONE)))
    return found


def _read(text: str) -> dict[str, Any] | None:
    try:
        return _FIELDS.validate_json(text)
    except ValueError:
        return None
