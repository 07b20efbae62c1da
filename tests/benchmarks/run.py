"""Times everything and writes the tables of ``docs/explanation/performance.md``: ``make bench``.

A run takes about half an hour; with two busy cores its numbers mean nothing. ``--only`` takes some sections.
"""

import argparse
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))  # large.py

from common import Row
from costs import machinery, start, step
from loading import at_rest, memory_path, streamed
from speed import teacher, training
from studying import study

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "performance.md"
DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar100"
Section = Callable[[Path, int], list[Row]]
SECTIONS: dict[str, tuple[str, list[Section]]] = {
    "training": ("Training, ResNet-20 taught by ResNet-20, CIFAR-100, batches of 128", [training, teacher]),
    "study": ("Students that share a teacher, 3 epochs of 1,280 images each", [study]),
    "loading": ("Loading", [memory_path, streamed, at_rest]),
    "costs": ("Start and idle costs", [start, machinery]),
    "step": ("A step that costs nothing: one layer, batch 8", [step]),
}


def main() -> int:
    """Run the sections that were asked for; 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of CIFAR-100")
    parser.add_argument("--only", choices=SECTIONS, nargs="*", default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    holds = True
    for name in given.only:
        started = time.monotonic()
        title, sections = SECTIONS[name]
        rows = [row for section in sections for row in section(given.data.resolve(), given.rounds)]
        holds &= all(row.holds for row in rows)
        _write(name, title, rows)
        sys.stdout.write("\n".join(map(str, rows)) + f"\n{name}: {time.monotonic() - started:.0f} s\n")
        sys.stdout.flush()
    return 0 if holds else 1


def _write(name: str, title: str, rows: list[Row]) -> None:
    """Put a table between its markers in the page."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    machine = f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads"
    head = f"| {title} ({machine}) | median | lowest … highest | bar |\n|---|---|---|---|"
    table = "\n".join([begin, head, *map(str, rows), end])
    text = PAGE.read_text()
    PAGE.write_text(re.sub(f"{begin}.*?{end}", lambda _: table, text, flags=re.DOTALL))


if __name__ == "__main__":
    sys.exit(main())
