"""Test images of a report, with what two networks say of each; pictures where the data set is at hand."""

from collections.abc import Sequence

import numpy as np

from lineage.display.figures.values import Example, Guess, Pixels
from lineage.errors import LineageError
from lineage.evaluation.pictures import (
    OtherContentsError,
    picture,
    picture_settings,
    read_test_part,
)
from lineage.formats import first_line
from lineage.registry.packing.record import DataRecord, VersionRecord
from lineage.registry.store.predicted import Predictions

NUM_EXAMPLES = 12


def choose_images(first: Predictions, last: Predictions, count: int = NUM_EXAMPLES) -> list[tuple[str, int]]:
    """Choose test images that tell two networks apart, each with the reason.

    A third are those that the last network learned, a third those that it lost, surest first, and the rest
    those that both have right and to whose second classes the last one gives most; of each kind, images of
    different classes as far as there are any.
    """
    was, now = (predicted.classes[:, 0] == predicted.labels for predicted in (first, last))
    secondary = last.probabilities[:, 1:].sum(axis=1)
    sure = last.probabilities[:, 0]
    chosen: list[tuple[str, int]] = []
    for reason, held, score, share in (
        ("learned", now & ~was, sure, count // 3),
        ("lost", was & ~now, sure, 2 * count // 3),
        ("both right", was & now, secondary, count),
        ("both wrong", ~was & ~now, sure, count),
    ):
        rows = np.flatnonzero(held)
        best = rows[np.argsort(-score[rows], kind="stable")]
        _, of_new_class = np.unique(last.labels[best], return_index=True)
        repeated = np.ones(len(best), dtype=bool)
        repeated[of_new_class] = False
        order = np.argsort(repeated, kind="stable")  # one of each class before a second
        chosen += [(reason, int(row)) for row in best[order][: share - len(chosen)]]
    return chosen


def make_examples(
    chosen: Sequence[tuple[str, int]],
    networks: Sequence[tuple[str, Predictions]],
    names: Sequence[str],
    pixels: Sequence[Pixels] | None,
) -> list[Example]:
    """Return the chosen images with what each network says of them.

    Args:
        chosen: Reason and row of each image.
        networks: Title and predictions of each network.
        names: Names of the classes.
        pixels: The images; None if they are not at hand.
    """
    examples = []
    for place, (reason, row) in enumerate(chosen):
        label = int(networks[0][1].labels[row])
        guesses = []
        for title, predicted in networks:
            classes = predicted.classes[row].tolist()
            guesses.append(
                Guess(
                    title,
                    [names[number] for number in classes],
                    predicted.probabilities[row].tolist(),
                    classes.index(label) if label in classes else None,
                )
            )
        picture = None if pixels is None else pixels[place]
        examples.append(Example(f"image {row}: {names[label]} ({reason})", picture, guesses))
    return examples


def read_pictures(
    record: VersionRecord, data: DataRecord, rows: Sequence[int], overrides: Sequence[str]
) -> tuple[list[Pixels] | None, str]:
    """Read test images as the version saw them.

    Args:
        record: Version that was measured on them.
        data: Its data set.
        rows: Rows of the test part.
        overrides: Texts ``data.key=value`` that say where the images are.

    Returns:
        Images, each (H, W, 3), and ""; or None, and why they are not at hand.

    Raises:
        LineageError: If there are overrides, and with them no images are found.
    """
    try:
        images = read_test_part(picture_settings(record.settings, data, overrides), data)
    except OtherContentsError as error:
        return None, str(error)
    except LineageError as error:
        if overrides:
            raise
        return None, f"The pictures are not at hand: {first_line(error)}."
    return [picture(images, row) for row in rows], ""
