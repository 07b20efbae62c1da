"""Test images for a page that is one file: some of each data set, with what each version predicted."""

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, cast

import numpy as np

from lineage.display.image_data import Fetch, Measured, image_document, read_measured
from lineage.errors import IntegrityError, LineageError, NotFoundError
from lineage.evaluation.pictures import picture_address, picture_settings, read_test_part
from lineage.registry.family.family import Family, Version
from lineage.registry.packing.recording import MEASURED_FILES, settings_in
from lineage.registry.store.files import fetch_files

MOST_VERSIONS = 100  # newest ones whose predictions are in a file

_logger = logging.getLogger(__name__)


def page_images(family: Family, count: int, fetch: Fetch = fetch_files) -> dict[str, Any]:
    """Return test images for ``family_html``.

    Of each data set those are chosen on which the versions differ most: of which half are right, as near as
    can be. Only the newest ``MOST_VERSIONS`` versions are read.

    Args:
        family: Family to show.
        count: Number of images of each data set.
        fetch: Reads files of logged models.

    Returns:
        ``images``, the result of ``image_document`` by the id of the version; ``pictures``, by the digest of
        the data set, a ``note`` on why there are none, and addresses by row.

    Raises:
        RegistryError: If the store does not answer.
    """
    fetch = cast("Fetch", cache(fetch))
    versions = sorted(family, key=attrgetter("version"))[-MOST_VERSIONS:]
    groups: dict[tuple[str, bytes], dict[str, Measured]] = {}
    for version in versions:
        try:
            found = read_measured(version.model_id, version.uri, fetch)
        except (NotFoundError, IntegrityError):
            continue  # its document says so
        same_images = found.data.digest, found.predictions.labels.tobytes()
        groups.setdefault(same_images, {})[version.id] = found
    rows = {
        version_id: chosen
        for group in groups.values()
        for chosen in [_choose_rows(group.values(), count)]
        for version_id in group
    }
    pictures: dict[str, Any] = {}
    for (digest, _), group in groups.items():
        shown = next(version for version in versions if version.id in group)
        pictures[digest] = _read_pictures(shown, group[shown.id], rows[shown.id], fetch)
    documents = {version.id: image_document(version, fetch, rows.get(version.id)) for version in versions}
    return {"images": documents, "pictures": pictures}


def _choose_rows(group: Iterable[Measured], count: int) -> list[int]:
    """Return rows of the images, of which as near to half of the versions as possible are right."""
    right = [found.predictions.classes[:, 0] == found.predictions.labels for found in group]
    nearest = np.argsort(np.abs(np.mean(right, axis=0) - 0.5), kind="stable")[:count]
    return sorted(nearest.tolist())


def _read_pictures(version: Version, found: Measured, rows: Sequence[int], fetch: Fetch) -> dict[str, Any]:
    try:
        recipe = settings_in(fetch(version.model_id, MEASURED_FILES), version.uri)
        images = read_test_part(picture_settings(recipe, found.data), found.data)
    except LineageError as error:
        _logger.warning("No pictures of %s: %s", version.uri, error)  # names folders, which the page must not
        note = (
            "The pictures were not at hand where this file was written. After 'lineage evaluate"
            f" {version.uri} --set data.root=FOLDER' there, write it again."
        )
        return {"note": note, "addresses": {}}
    return {"note": "", "addresses": {row: picture_address(images, row) for row in rows}}
