"""Pictures for the page, from data sets that the server's user has named on this machine."""

import logging
from collections.abc import Sequence
from threading import Condition
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache, cached

from lineage.display.image_data import Fetch
from lineage.errors import LineageError, NotFoundError, UsageError
from lineage.registry.family.family import Version
from lineage.registry.packing.record import DataRecord
from lineage.registry.packing.recording import MEASURED_FILES, data_in, settings_in

if TYPE_CHECKING:
    from lineage.data.images import Images
    from lineage.recipe import DataSettings

MOST_PICTURES = 100  # in an answer

_MOST_DATA_SETS = 2  # in memory
_SECONDS = 600  # after which a data set is looked for anew
_logger = logging.getLogger(__name__)


class PictureReader:
    """Reads test images. The last data sets are kept in memory; of several requests for one, one reads it.

    A data set that is not found, or is another, is not looked for again at once either.
    """

    def __init__(self) -> None:
        cache: TTLCache[tuple[str, DataRecord], Images | None] = TTLCache(_MOST_DATA_SETS, _SECONDS)
        self._test_part = cached(
            cache, key=lambda settings, data: (settings.model_dump_json(), data), condition=Condition()
        )(_read_test_part)

    def pictures(self, version: Version, rows: Sequence[int], fetch: Fetch) -> dict[str, Any]:
        """Return ``pictures`` of rows of a version's test part; or none, and in ``note`` why not.

        A picture is an address with the image inside, or None if the image cannot be decoded.

        Raises:
            UsageError: If a row is none of the test part.
            RegistryError: If the store does not answer.
        """
        images = self._find_images(version, fetch)
        if images is None:
            command = f"lineage evaluate {version.uri} --set data.root=FOLDER"
            note = (
                "The pictures are not at hand on the machine that serves this page. If the data set lies"
                f" there, '{command}' in the server's folder makes it known; the server's log says more."
            )
            return {"pictures": [], "note": note}
        from lineage.evaluation.pictures import picture_address

        if rows and max(rows) >= len(images):
            raise UsageError(f"A row must be below {len(images)}, but got {max(rows)}.")
        return {"pictures": [picture_address(images, row) for row in rows], "note": ""}

    def _find_images(self, version: Version, fetch: Fetch) -> "Images | None":
        files = fetch(version.model_id, MEASURED_FILES)
        from lineage.evaluation.pictures import picture_settings  # imports torch

        try:
            data = data_in(files, version.uri)
            if data is None:
                raise NotFoundError(f"{version.uri} must have a description of its data, but has none.")
            settings = picture_settings(settings_in(files, version.uri), data)
        except LineageError as error:
            _logger.warning("No pictures of %s: %s", version.uri, error)
            return None
        found: Images | None = self._test_part(settings, data)
        return found


def _read_test_part(settings: "DataSettings", data: DataRecord) -> "Images | None":
    """Return the images on this machine; None if there are none. Nothing is downloaded for a request."""
    from lineage.evaluation.pictures import read_test_part

    try:
        if settings.root is None and settings.name.startswith("hub:"):
            raise NotFoundError(
                f"Images of '{settings.name}' must lie in a folder to be served, but none is known; name one"
                " with --set data.root=FOLDER."
            )
        return read_test_part(settings, data)
    except LineageError as error:
        _logger.warning("No pictures: %s", error)
        return None
