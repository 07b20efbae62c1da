"""Go on from the families of the evidence: ``python tests/evidence/further.py WHAT --data FOLDER``.

``study`` tries strictness and temperature on the validation images, ``audit`` attacks the first seed of the
strict and the tolerant arm with shadows, ``again`` grows a seed of both a second time and compares its
weights with those that were kept. Each continues where it was stopped.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from families import KEPT, LONGER, ROOT, Grower, Piece, grow_all

from lineage.registry.family.family import Version
from lineage.registry.packing.record import read_record

STUDY = "evidence-study"
SHADOWS = 16
_STRICTNESS = "strictness=0.4,0.6,0.8,1.0"
_TEMPERATURE = "temperature=1,2,4"
_STUDY_SEED = 5  # which no arm has
_ACCURACY = "test_accuracy"
_CONFIDENCE = 0.95


def study(grower: Grower) -> None:
    """Try a grid over strictness and temperature with one student each, and keep its result."""
    piece = Piece("tolerant", _STUDY_SEED)
    options = ["--name", STUDY, "--sampler", "grid", "--space", _STRICTNESS, _TEMPERATURE, "--pruner", "none"]
    own = ["succession.generations=1", f"succession.seed={_STUDY_SEED}", *grower.settings]
    settings = [word for setting in own for word in ("--set", setting)]
    result = grower.run(piece, "study", piece.recipe, *options, *settings, "--json")
    grower.kept.mkdir(parents=True, exist_ok=True)
    (grower.kept / "study.json").write_text(result, encoding="utf-8")


def audit(grower: Grower, arm: str, shadows: int = SHADOWS) -> None:
    """Attack the generations of an arm's first seed, and keep the rates with its family."""
    piece = Piece(arm, seed=0)
    roots = [setting for setting in grower.settings if setting.startswith("data.root=")]
    settings = [word for setting in roots for word in ("--set", setting)]
    grower.run(piece, "audit", grower.uri(piece), "--shadows", str(shadows), *settings)
    grower.keep(piece)


def compare_again(kept: Iterable[Version], again: Iterable[Version]) -> tuple[list[str], bool]:
    """Compare versions that were grown again with those of the same key that were kept.

    Returns:
        A sentence for each, and whether each has the same weights or an accuracy within what another seed
        would have: the 95 % prediction interval of its arm's and generation's seeds.
    """
    held = list(kept)
    by_key = {version.key: version for version in held}
    sentences, is_right = [], True
    for version in again:
        before = by_key[version.key]
        accuracies = [one.metrics[_ACCURACY] for one in held if one.generation == version.generation]
        moved = abs(version.metrics[_ACCURACY] - before.metrics[_ACCURACY])
        is_same = version.weights_sha256 == before.weights_sha256
        is_right &= is_same or moved <= _reach(accuracies)
        found = "the same weights" if is_same else f"other weights, {100 * moved:.2f} points from it"
        sentences.append(
            f"{before.name}, seed {before.seed}, generation {before.generation}:"
            f" {before.metrics[_ACCURACY]:.2%}, again {version.metrics[_ACCURACY]:.2%}, {found}"
        )
    return sentences, is_right


def _reach(values: Sequence[float]) -> float:
    """Return half of the interval in which another value lies with a probability of 95 %."""
    if len(values) < 2:
        return 0.0
    from scipy.stats import t

    num = len(values)
    quantile = float(t.ppf((1 + _CONFIDENCE) / 2, num - 1))
    return quantile * statistics.stdev(values) * (1 + 1 / num) ** 0.5


def again(grower: Grower, kept: Path, seed: int) -> bool:
    """Grow a seed of both arms in a store of its own, and tell whether it is what was kept."""
    pieces = [Piece(arm, seed) for arm in LONGER]
    is_right = grow_all(grower, [pieces], processes=len(pieces))
    for piece in pieces:
        text = f"{piece.family}.json"
        families = (read_record(folder / text).family for folder in (kept, grower.kept))
        sentences, fits = compare_again(*families)
        print("\n".join(sentences), flush=True)  # noqa: T201
        is_right &= fits
    return is_right


def main() -> bool:
    """Do what the command line says, and return whether it worked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["study", "audit", "again"])
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-100")
    parser.add_argument("--store", type=Path, default=ROOT / ".evidence", help="folder of the store")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of the texts")
    parser.add_argument("--seed", type=int, default=0, help="seed that 'again' grows")
    given = parser.parse_args()
    settings = [f"data.root={given.data.resolve()}"]
    if given.what == "again":
        store = given.store.with_name(f"{given.store.name}-again")
        return again(Grower(settings, store, store / "kept"), given.kept, given.seed)
    grower = Grower(settings, given.store, given.kept)
    if given.what == "study":
        study(grower)
    else:
        with ThreadPoolExecutor(len(LONGER)) as pool:
            list(pool.map(lambda arm: audit(grower, arm), LONGER))
    return True


if __name__ == "__main__":
    sys.exit(not main())
