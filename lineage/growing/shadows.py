"""Shadows: successions like an audited one, each on half of the images, that show what training changes."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor

from lineage.display.progress import Reporter
from lineage.errors import UsageError
from lineage.evaluation.data import SplitData, split_dataset
from lineage.growing.plan import check_against_data
from lineage.growing.succession import Succession
from lineage.recipe import Recipe, set_values
from lineage.registry.family.family import Version

FEWEST_SHADOWS = 4
_FIRST_SEED = 2**20  # far above the seeds that people choose


@dataclass(frozen=True, eq=False)
class ImitatedGeneration:
    """A generation that shadows imitate, with its recipe and its images."""

    version: Version
    recipe: Recipe
    split_data: SplitData


@dataclass(frozen=True, eq=False)
class PlannedGeneration:
    """One generation of a shadow, to be grown."""

    recipe: Recipe
    split_data: SplitData


@dataclass(frozen=True, eq=False)
class Shadow:
    """A succession on half of the images.

    Attributes:
        versions: Its patriarch, and its student where students are imitated.
        rows: Rows of the training part that its patriarch was trained on.
    """

    versions: tuple[Version, ...]
    rows: Tensor


def require_pairs(num_shadows: int) -> None:
    """Refuse a number of shadows that do not form two pairs or more.

    Raises:
        UsageError: If the number is neither 0 nor an even one from 4.
    """
    if num_shadows and (num_shadows < FEWEST_SHADOWS or num_shadows % 2):
        raise UsageError(
            f"--shadows must be 0 or an even number of at least {FEWEST_SHADOWS}, since each pair divides the"
            f" images, but got {num_shadows}."
        )


def plan_shadows(imitated: Sequence[ImitatedGeneration], num_shadows: int) -> list[list[PlannedGeneration]]:
    """Return the generations of each shadow, with recipe and images.

    Shadows 2j and 2j + 1 have the two halves of one division. Their seeds depend on their number
    alone, so that another line of the family finds the same shadows; they are not those of the line.

    Args:
        imitated: Patriarch, and its student if students are audited. A student on its patriarch's images is
            imitated on the shadow's half, one on other images on its own.
        num_shadows: Number of shadows.

    Raises:
        UsageError: If the images cannot be divided.
    """
    patriarch = imitated[0]
    divisions = [one.recipe.data.subset for one in imitated]
    subset_seeds = _unused({subset.seed for subset in divisions if subset is not None})
    halves = ({"seed": seed, "half": half} for seed in subset_seeds for half in (0, 1))
    seeds = _unused({one.version.seed for one in imitated}, first=_FIRST_SEED)
    shadows = []
    for half, seed in zip(islice(halves, num_shadows), seeds, strict=False):
        shadow = []
        for one in imitated:
            name = f"{patriarch.version.name}-shadows"
            changes: dict[str, Any] = {"model.name": name, "succession.seed": seed}
            if _same_images(one.split_data, patriarch.split_data):
                changes["data.subset"] = half
            recipe = set_values(one.recipe, changes)
            shadow.append(PlannedGeneration(recipe, split_dataset(one.split_data.dataset, recipe.data)))
        shadows.append(shadow)
    return shadows


def grow_shadows(
    imitated: Sequence[ImitatedGeneration],
    num_shadows: int,
    reporter: Reporter,
    teacher: Version | None = None,
) -> Iterator[Shadow]:
    """Grow shadows as planned, or pull those that are registered; all ranks must call it.

    Args:
        imitated: Patriarch, and its student if students are audited.
        num_shadows: Number of shadows.
        reporter: Progress callbacks, called on rank 0.
        teacher: Version that taught the oldest imitated generation, such as an adopted one; None for a
            patriarch.

    Yields:
        One shadow after the other.

    Raises:
        UsageError: If half of the images do not suffice for a recipe; nothing is grown then.
        TrainingError: If training fails; run again, it continues from the last epoch.
        RegistryError: If the store cannot be reached or written.
    """
    shadows = plan_shadows(imitated, num_shadows)
    for planned in shadows[0]:
        check_against_data(planned.recipe, planned.split_data)
    for number, shadow in enumerate(shadows, 1):
        reporter.notice(f"shadow {number} of {num_shadows}")
        versions: list[Version] = []
        for planned in shadow:
            above = versions[-1] if versions else teacher
            recipe = set_values(planned.recipe, {"succession.generations": int(above is not None)})
            grown = Succession(recipe, planned.split_data, reporter, from_version=above).run()
            versions += grown.versions
        yield Shadow(tuple(versions), shadow[0].split_data.train)


def _unused(used: Collection[int], first: int = 0) -> Iterator[int]:
    """Yield the seeds that are not among those in use, from ``first`` on."""
    return (seed for seed in count(first) if seed not in used)


def _same_images(first: SplitData, second: SplitData) -> bool:
    """Return whether two generations were trained on the same images."""
    same_data = first.dataset.spec.digest == second.dataset.spec.digest
    return same_data and torch.equal(first.train, second.train)
