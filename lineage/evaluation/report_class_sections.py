"""The parts of a report on single images and on classes, from what both ends of a lineage predicted."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from lineage.display.figures import classes
from lineage.display.figures.page import Figure, Section, Table
from lineage.evaluation import report_values as values
from lineage.evaluation.report_examples import choose_images, make_examples, read_pictures
from lineage.evaluation.report_values import ReportData
from lineage.registry.family.family import Version
from lineage.registry.packing.record import FamilyRecord
from lineage.registry.store.predicted import Predictions

_MOST_CLASSES = 2000
_MOST_SIMILAR = 12


@dataclass(frozen=True)
class _Ends:
    """The patriarch and the latest generation of one lineage, both with predictions."""

    record: FamilyRecord
    versions: tuple[Version, Version]
    predictions: tuple[Predictions, Predictions]

    @property
    def titles(self) -> tuple[str, str]:
        return "patriarch", f"generation {self.versions[1].generation}"


def _ends(material: ReportData) -> _Ends | None:
    """Return both ends of the first lineage with predictions, longest lineages first."""
    for record in material.records:
        by_id = {version.id: version for version in record.family}
        for latest in sorted(record.family, key=lambda version: (-version.generation, version.version)):
            patriarch = by_id.get(latest.root)
            if latest.kind == "ensemble" or patriarch is None or patriarch == latest:
                continue
            first, last = material.predictions_of(patriarch), material.predictions_of(latest)
            if first is not None and last is not None and np.array_equal(first.labels, last.labels):
                return _Ends(record, (patriarch, latest), (first, last))
    return None


def has_images(material: ReportData) -> bool:
    """Return whether there are predictions to show images with."""
    return _ends(material) is not None


def examples_section(material: ReportData) -> Section | None:
    """Test images with what the patriarch and the latest generation say of them."""
    ends = _ends(material)
    data = None if ends is None else ends.record.data_of(ends.versions[1])
    if ends is None or data is None:
        return None
    chosen = choose_images(*ends.predictions)
    stored = next(one for one in ends.record.versions if one.number == ends.versions[1].version)
    pixels, note = read_pictures(stored, data, [row for _, row in chosen], material.overrides)
    networks = list(zip(ends.titles, ends.predictions, strict=True))
    examples = make_examples(chosen, networks, data.class_names, pixels)
    patriarch, latest = ends.versions
    figure = Figure(
        "images",
        f"The most probable classes of {patriarch.uri} and {latest.uri} in percent, the right one in green:"
        " images that the latest generation learned or lost, and images that both have right, to whose other"
        " classes it gives most.",
        1.28 * -(-len(examples) // classes.EXAMPLES_A_ROW),
        partial(classes.paint_examples, examples=examples),
    )
    return Section("Images", [note] if note else [], [figure])


def similarity_section(material: ReportData) -> Section | None:
    """How alike classes are to the networks, against the superclasses."""
    ends = _ends(material)
    data = None if ends is None else ends.record.data_of(ends.versions[1])
    if ends is None or data is None:
        return None
    if len(data.class_names) > _MOST_CLASSES:
        note = f"Not drawn: the similarity of {len(data.class_names):,} classes needs too much memory."
        return Section("Similar classes", [note], [], [])
    found = [values.class_similarity(predicted) for predicted in ends.predictions]
    drawn = [
        values.order_classes(title, matrix, data.class_names, data.superclasses)
        for title, matrix in zip(ends.titles, found, strict=True)
    ]
    text, groups = [], data.superclasses
    if groups is not None:
        shares = [values.nearest_inside(matrix, groups) for matrix in found]
        if all(share is not None for share in shares):
            (first, _), (last, chance) = (share for share in shares if share is not None)
            text.append(
                f"The most similar class lies in the same superclass for {first:.0%} of the classes of the"
                f" patriarch and {last:.0%} of those of the latest generation; by chance it would for"
                f" {chance:.0%}."
            )
    caption = "Mean probability that images of one class give to another, from the most probable classes."
    if groups is not None:
        caption += " Classes are ordered by superclass, with lines between."
    figure = Figure("similarity", caption, 3.8, partial(classes.paint_similarities, similarities=drawn))
    rows = [
        [
            f"{data.class_names[one]} → {data.class_names[other]}",
            f"{found[0][one, other]:.2%}",
            f"{found[1][one, other]:.2%}",
            *([] if groups is None else ["same" if groups[one] == groups[other] else "other"]),
        ]
        for one, other in values.most_similar(found[1], _MOST_SIMILAR)
    ]
    head = ["images of → probability given to", *ends.titles, *([] if groups is None else ["superclass"])]
    return Section("Similar classes", text, [figure], [Table(head, rows)] if rows else [])
