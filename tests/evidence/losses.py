"""Teach small students by every loss and term: ``python tests/evidence/losses.py --data FOLDER``.

The teachers are the strict patriarchs of the evidence, of width 48, the students are of width 16 and see the
images 40 times. What each reached is kept in ``losses.json``. Run again, it continues where it was stopped.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from families import KEPT, ROOT, Grower, Piece

SEEDS = range(3)
FILE = "losses.json"
_ARM = "strict"
_STUDENT = ("network.width=16", "training.epochs=40", "training.warmup_epochs=8")
_KL = ("student.label_weight=0.1", "student.temperature=4")
_SOURCE = ("student.label_weight=1", "student.loss_weight=1", "student.temperature=4")
_METRICS = ("test_accuracy", "test_agreement", "seconds")


def _with_term(name: str, weight: float) -> tuple[str, ...]:
    return (*_KL, f"student.terms=[{{name = '{name}', weight = {weight}}}]")


LESSONS = {
    "labels": ("student.label_weight=1",),
    "kl": _KL,
    "dkd": (*_SOURCE, "student.loss=dkd", "student.warmup_epochs=4"),
    "dist": (*_SOURCE, "student.loss=dist"),
    "hint": _with_term("hint", 100),
    "attention": _with_term("attention", 1000),
    "relation": _with_term("relation", 1),
    "explanation": _with_term("explanation", 5),
    "prior": _with_term("prior", 1),
}
"""Settings of each lesson; weights are those of the sources, chosen before anything was measured."""


@dataclass(frozen=True)
class Lesson:
    """One student of one teacher.

    Attributes:
        name: Key of ``LESSONS``.
        seed: Seed of the teacher and of the student.
    """

    name: str
    seed: int

    @property
    def family(self) -> str:
        """Name of the registered model."""
        return f"losses-{self.name}"


def teach(grower: Grower, lesson: Lesson, teacher: str) -> None:
    """Train the student unless the store holds it."""
    settings = [*grower.settings, *_STUDENT, *LESSONS[lesson.name]]
    options = ["--name", lesson.family, "--seed", str(lesson.seed), "--generations", "1"]
    words = [word for setting in settings for word in ("--set", setting)]
    grower.run(lesson, "grow", f"evidence-{_ARM}", "--from", teacher, *options, *words)
    print(f"{lesson.family}, seed {lesson.seed}: done", flush=True)  # noqa: T201


def teach_all(grower: Grower, seeds: Iterable[int], processes: int) -> None:
    """Train all students, seed by seed, and keep what they reached."""
    for seed in seeds:
        teacher = grower.patriarch(Piece(_ARM, seed))
        lessons = [Lesson(name, seed) for name in LESSONS]
        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(lambda lesson, uri=teacher: teach(grower, lesson, uri), lessons))
        keep(grower, seed)


def keep(grower: Grower, seed: int) -> None:
    """Add what the students of a seed reached to the file, in place of what it held of them."""
    place = grower.kept / FILE
    rows = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else []
    rows = [row for row in rows if row["seed"] != seed]
    for name in LESSONS:
        lesson = Lesson(name, seed)
        student = next(
            version for version in grower.record(lesson, lesson.family).family if version.seed == seed
        )
        found = {metric: student.metrics[metric] for metric in _METRICS}
        rows.append({"lesson": name, "seed": seed, "key": student.key, **found})
    grower.kept.mkdir(parents=True, exist_ok=True)
    text = ",\n".join(json.dumps(row) for row in sorted(rows, key=lambda row: (row["seed"], row["lesson"])))
    place.write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-100")
    parser.add_argument("--store", type=Path, default=ROOT / ".evidence", help="folder of the store")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of the texts")
    parser.add_argument("--processes", type=int, default=2, help="students at a time, one thread each")
    given = parser.parse_args()
    own = Grower([f"data.root={given.data.resolve()}"], given.store, given.kept)
    sys.exit(teach_all(own, SEEDS, given.processes))
