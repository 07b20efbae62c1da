"""A stratified split, bit for bit that of scikit-learn, whose import takes longer than most commands.

The split decides which images train a network. Its rows stand behind keys and digests in the registry, so
they must also stay the same whatever version of scikit-learn is installed.
"""

import numpy as np
import numpy.typing as npt

_Integers = npt.NDArray[np.int64]


def stratified_split(labels: _Integers, num_first: int, seed: int) -> tuple[_Integers, _Integers]:
    """Split rows into two parts in which every class has the same share.

    Source: scikit-learn 1.9, ``train_test_split(..., stratify=labels, random_state=seed)``.

    Args:
        labels: Class of each row, shape (N,).
        num_first: Number of rows in the first part.
        seed: Seed, in [0, 2³²).

    Returns:
        Rows of the first and of the second part, each sorted.
    """
    random = np.random.RandomState(seed)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rows_of_classes = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    first_counts = _share(counts, num_first, random)
    _share(counts - first_counts, len(labels) - num_first, random)  # scikit-learn draws here too
    first, second = [], []
    for rows, count in zip(rows_of_classes, first_counts, strict=True):
        shuffled = rows[random.permutation(len(rows))]
        first.append(shuffled[:count])
        second.append(shuffled[count:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def _share(counts: _Integers, num_rows: int, random: np.random.RandomState) -> _Integers:
    """Return how many rows to draw from each class: the largest remainders are rounded up, ties by lot."""
    exact = counts / counts.sum() * num_rows
    shares = np.floor(exact)
    missing = int(num_rows - shares.sum())
    remainders = exact - shares
    for value in np.unique(remainders)[::-1]:
        if missing <= 0:
            break
        (tied,) = np.where(remainders == value)
        chosen = random.choice(tied, size=min(len(tied), missing), replace=False)
        shares[chosen] += 1
        missing -= len(chosen)
    whole: _Integers = shares.astype(np.int64)
    return whole
