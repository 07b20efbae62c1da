"""Grow the families that the evidence is made of: ``python tests/evidence/families.py --data FOLDER``.

Four arms, seed by seed, so that whatever was grown when it stops can be compared in pairs; then, for two of
them, a third student and students at temperature 4. Run again, it continues where it was stopped, and takes
what is kept as text for grown, also if its store is gone.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from lineage.registry.packing.record import FamilyRecord, VersionRecord, read_record, record_text

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "evidence"
SEEDS = range(5)
ARMS = ("strict", "tolerant", "label-smoothing", "confidence-penalty")
LONGER = ("strict", "tolerant")  # arms with a third student, and with students at another temperature
TEMPERATURE = 4

_keeping = threading.Lock()


@dataclass(frozen=True)
class Piece:
    """A succession of one seed.

    Attributes:
        arm: Name of its recipe without ``evidence-``.
        seed: Seed.
        students: Number of students.
        temperature: Temperature of students of the arm's own patriarch; None for a family with its patriarch.
    """

    arm: str
    seed: int
    students: int = 2
    temperature: int | None = None

    @property
    def recipe(self) -> str:
        """Name of the recipe, and of the family with the patriarch."""
        return f"evidence-{self.arm}"

    @property
    def family(self) -> str:
        """Name of the registered model."""
        return self.recipe if self.temperature is None else f"{self.recipe}-t{self.temperature}"

    @property
    def generations(self) -> range:
        """Generations that it leaves in its family."""
        return range(self.temperature is not None, self.students + 1)

    def __str__(self) -> str:
        return f"{self.family}, seed {self.seed}, {self.students} students"


def stages() -> list[list[Piece]]:
    """Return the pieces in order; those of one stage do not need each other."""
    arms = [[Piece(arm, seed) for arm in ARMS] for seed in SEEDS]
    longer = [
        [Piece(arm, seed, students=3) for arm in LONGER]
        + [Piece(arm, seed, temperature=TEMPERATURE) for arm in LONGER]
        for seed in SEEDS
    ]
    return arms + longer


def is_kept(piece: Piece, folder: Path) -> bool:
    """Tell whether the text of the piece's family has all its generations."""
    text = folder / f"{piece.family}.json"
    if not text.is_file():
        return False
    found = {version.generation for version in read_record(text).family if version.seed == piece.seed}
    return found.issuperset(piece.generations)


def merged(kept: FamilyRecord, grown: FamilyRecord) -> FamilyRecord:
    """Return a family that was kept, with what a store of its own, begun anew, has grown since.

    Versions that both have stay as they were kept; the others are numbered after those.
    """
    held = {version.key: version.id for version in kept.family}
    if held.items() <= {version.key: version.id for version in grown.family}.items():
        return grown
    ids, added = {}, []
    number = max(version.number for version in kept.versions)
    for version in sorted(grown.family, key=lambda version: version.version):
        if version.key in held:
            ids[version.id] = held[version.key]
        else:
            number += 1
            ids[version.id] = f"{kept.name}/{number}"
            record = next(one for one in grown.versions if one.number == version.version)
            added.append(with_ids(replace(record, number=number), ids))
    return replace(kept, versions=(*kept.versions, *added), data=kept.data | grown.data)


def with_ids(record: VersionRecord, ids: Mapping[str, str]) -> VersionRecord:
    """Return a version whose tags name others by the ids that they have in the kept texts."""
    return replace(record, tags={tag: ids.get(value, value) for tag, value in record.tags.items()})


class Grower:
    """Grows pieces by the command line, one thread a process.

    Args:
        settings: Texts ``section.key=value`` for every command.
        store: Folder of the MLflow store, the checkpoints and the logs.
        kept: Folder of the texts.
    """

    def __init__(self, settings: Sequence[str], store: Path, kept: Path) -> None:
        self.settings = settings
        self.store = store.resolve()
        self.kept = kept.resolve()

    def grow(self, piece: Piece) -> bool:
        """Grow a piece unless it is kept, and keep its family; return whether that worked."""
        if is_kept(piece, self.kept):
            print(f"{piece}: kept already", flush=True)  # noqa: T201
            return True
        try:
            self.run(piece, "grow", *self._arguments(piece))
            self.keep(piece)
        except subprocess.CalledProcessError as error:
            print(f"{piece}: failed with exit code {error.returncode}", flush=True)  # noqa: T201
            return False
        print(f"{piece}: grown and kept", flush=True)  # noqa: T201
        return True

    def _arguments(self, piece: Piece) -> list[str]:
        settings = [*self.settings]
        arguments = [piece.recipe, "--seed", str(piece.seed), "--generations", str(piece.students)]
        if piece.temperature is not None:
            arguments += ["--from", self.patriarch(piece), "--name", piece.family]
            settings.append(f"student.temperature={piece.temperature}")
        return arguments + [word for setting in settings for word in ("--set", setting)]

    def patriarch(self, piece: Piece) -> str:
        """Return the URI of the patriarch of the piece's arm and seed; grow it if the store lacks it."""
        patriarch = Piece(piece.arm, piece.seed, students=0)
        self.run(piece, "grow", *self._arguments(patriarch))
        return self.uri(patriarch)

    def uri(self, piece: Piece) -> str:
        """Return the URI of the last generation of a piece that the store holds."""
        code = (
            f"import lineage; print(next(v.uri for v in lineage.tree('{piece.family}')"
            f" if (v.seed, v.generation) == ({piece.seed}, {piece.students})))"
        )
        return self._python("-c", code).stdout.strip()

    def keep(self, piece: Piece) -> None:
        """Write the text of the piece's family in place of the one before."""
        with _keeping:
            self._keep(piece)

    def _keep(self, piece: Piece) -> None:
        record = self.record(piece, piece.family)
        if piece.family != piece.recipe:
            arm = {version.key: version.id for version in read_record(self._text(piece.recipe)).family}
            grown = self.record(piece, piece.recipe).family
            ids = {version.id: arm[version.key] for version in grown if version.key in arm}
            record = replace(record, versions=tuple(with_ids(one, ids) for one in record.versions))
        known = self._text(piece.family)
        if known.is_file():
            record = merged(read_record(known), record)
        place = self.store / known.name
        place.write_text(record_text(record), encoding="utf-8")
        self.kept.mkdir(parents=True, exist_ok=True)
        shutil.move(place, known)

    def record(self, piece: Piece, family: str) -> FamilyRecord:
        """Return what the store holds of a family."""
        place = self.store / f"{family}.json"
        place.unlink(missing_ok=True)
        self.run(piece, "pack", family, str(place), "--without-weights")
        return read_record(place)

    def _text(self, family: str) -> Path:
        return self.kept / f"{family}.json"

    def run(self, piece: Piece, *arguments: str) -> str:
        """Run ``lineage *arguments``, with its progress in the piece's log, and return what it printed."""
        with (self.store / f"{piece.family}-{piece.seed}.log").open("a") as log:
            return self._python("-m", "lineage", *arguments, stderr=log).stdout

    def _python(self, *arguments: str, stderr: object = None) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.store,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            check=True,
        )


def grow_all(grower: Grower, order: Iterable[Iterable[Piece]], processes: int) -> bool:
    """Grow all stages; return whether every piece worked."""
    grower.store.mkdir(parents=True, exist_ok=True)
    worked = True
    with ThreadPoolExecutor(processes) as pool:
        for stage in order:
            worked &= all(list(pool.map(grower.grow, stage)))
    return worked


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-100")
    parser.add_argument("--store", type=Path, default=ROOT / ".evidence", help="folder of the store")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of the texts")
    parser.add_argument("--processes", type=int, default=2, help="successions at a time, one thread each")
    given = parser.parse_args()
    grower = Grower([f"data.root={given.data.resolve()}"], given.store, given.kept)
    sys.exit(not grow_all(grower, stages(), given.processes))
