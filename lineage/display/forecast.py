"""What a call of ``grow`` would do, as plain values, and its table: ``growing`` finds it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from lineage.display.table_style import add_row, new_table, numeric
from lineage.formats import counted
from lineage.registry.family.family import Version

_DIGITS = 12  # of a key


@dataclass(frozen=True)
class ExpectedGeneration:
    """A generation that a call of ``grow`` would find or train.

    Attributes:
        seed: Seed of its succession.
        generation: Index from 0.
        network: Its network with its options.
        key: Digest of everything that its weights depend on.
        version: Version that has this key; None if it would be trained.
        seconds: Mean time that generations of its recipe took; None if none was trained, or it is registered.
    """

    seed: int
    generation: int
    network: str
    key: str
    version: Version | None
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        uri = None if self.version is None else self.version.uri
        return {
            "seed": self.seed,
            "generation": self.generation,
            "network": self.network,
            "key": self.key,
            "version": uri,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Forecast:
    """What a call of ``grow`` would do.

    Attributes:
        name: Registered model.
        data: Name of the data set.
        num_train: Number of images to train on.
        num_validation: Number of images that are held out.
        num_test: Number of test images.
        num_classes: Number of classes.
        networks: Number of parameters of each network.
        generations: Generations, seed by seed, the oldest first.
    """

    name: str
    data: str
    num_train: int
    num_validation: int
    num_test: int
    num_classes: int
    networks: Mapping[str, int]
    generations: tuple[ExpectedGeneration, ...]

    def __repr__(self) -> str:
        count = counted(len(self.generations), "generation")
        return f"<Forecast of {self.name}: {count}, {len(self.to_train)} to train>"

    @property
    def to_train(self) -> tuple[ExpectedGeneration, ...]:
        """Generations that are not registered yet."""
        return tuple(expected for expected in self.generations if expected.version is None)

    @property
    def seconds(self) -> float | None:
        """Time to train all that is missing, one after the other; None if it is not known of each."""
        times = [expected.seconds for expected in self.to_train]
        return None if None in times else sum(time for time in times if time is not None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        generations = [expected.to_json() for expected in self.generations]
        return vars(self) | {"generations": generations, "seconds": self.seconds}


def forecast_table(forecast: Forecast) -> Table:
    """Return the table that ``lineage grow --dry-run`` prints: one row for each generation."""
    several = len(forecast.networks) > 1
    names = ("network", "outcome", "key") if several else ("outcome", "key")
    table = new_table(*numeric("seed", "generation"), *names, title=forecast.name)
    for row in forecast.generations:
        outcome = "to train" if row.version is None else f"registered: v{row.version.version}"
        if row.seconds is not None:
            outcome += f", {_duration(row.seconds)}"
        network = [row.network] if several else []
        add_row(table, str(row.seed), str(row.generation), *network, outcome, row.key[:_DIGITS])
    return table


def forecast_lines(forecast: Forecast) -> list[str]:
    """Return the sentences below the table: images, network and time."""
    images = {
        "train on": forecast.num_train,
        "validate on": forecast.num_validation,
        "test on": forecast.num_test,
    }
    shown = ", ".join(f"{number:,} to {purpose}" for purpose, number in images.items())
    missing = len(forecast.to_train)
    time = "" if forecast.seconds is None else f", about {_duration(forecast.seconds)} one after the other"
    return [
        f"{forecast.data}, {forecast.num_classes:,} classes: {shown}",
        *(f"{network}: {number:,} parameters" for network, number in forecast.networks.items()),
        f"{counted(missing, 'generation')} to train{time}"
        if missing
        else "All generations are registered; nothing would be trained.",
    ]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min"
        if hours
        else f"{minutes} min {seconds:02} s"
        if minutes
        else f"{seconds} s"
    )
