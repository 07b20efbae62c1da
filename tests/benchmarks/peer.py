"""Students of the same teachers by ``lineage`` and by torchdistill: ``peer.py --data FOLDER``.

For each seed ``lineage`` grows a patriarch and its student from ``peer.toml``. torchdistill's own box then
distils the same patriarch, in evaluation mode, into a student of the same network with initial weights, order
and views of its own, with the settings of the same recipe. Both train on one thread. Run again, it continues
with the epoch at which it was stopped.
"""

import argparse
import json
import os
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

import lineage
from lineage.cli.startup import prepare_process
from lineage.display.comparison import Spread
from lineage.display.progress import ConsoleReporter
from lineage.evaluation.data import SplitData, read_split
from lineage.evaluation.report_values import mean_interval
from lineage.models.networks import build_network
from lineage.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
RECIPE = Path(__file__).with_name("peer.toml")


@dataclass(frozen=True)
class Outcome:
    """Test accuracies of one seed.

    Attributes:
        seed: Seed of both tools.
        teacher: Accuracy of the patriarch that teaches both students.
        lineage: Accuracy of the student that ``lineage`` trained.
        torchdistill: Accuracy of the student that torchdistill trained.
    """

    seed: int
    teacher: float
    lineage: float
    torchdistill: float


def contest(seed: int, overrides: Sequence[str]) -> Outcome:
    """Train both students of a seed, in the store and the folder in use, and measure them.

    Args:
        seed: Seed of both tools.
        overrides: Texts ``section.key=value``, ``data.root=FOLDER`` among them.
    """
    reporter = ConsoleReporter(Console(stderr=True))
    (grown,) = lineage.grow(str(RECIPE), seeds=[seed], overrides=overrides, reporter=reporter)
    patriarch, student = grown.versions
    recipe = load_recipe(str(RECIPE), overrides)
    split_data = read_split(recipe.data)
    teacher = lineage.load(patriarch.uri).network.eval()
    state = Path(f"torchdistill-{recipe.digest[:12]}-{seed}.pt")
    return Outcome(
        seed,
        patriarch.metrics["test_accuracy"],
        student.metrics["test_accuracy"],
        accuracy(distil(teacher, recipe, split_data, seed, state), split_data, recipe.training.batch_size),
    )


def distil(teacher: nn.Module, recipe: Recipe, split_data: SplitData, seed: int, state: Path) -> nn.Module:
    """Let torchdistill train a student of ``teacher``; its state is in a file after each epoch.

    Args:
        teacher: Network in evaluation mode.
        recipe: Recipe of SGD with a cosine schedule, whose data are in memory.
        split_data: Its data.
        seed: Seed of initial weights, order and views.
        state: File of the state, from which the training continues.
    """
    from boxes import Pictures, make_box

    spec, training = split_data.dataset.spec, recipe.training
    torch.manual_seed(seed)
    network = recipe.network
    student = build_network(network.name, spec.num_classes, spec.input_shape, network.builder_options)
    pictures = Pictures(split_data.dataset.train, split_data.train, spec, recipe.data.crop_padding)  # type: ignore[arg-type]
    box = make_box(
        teacher,
        student,
        "classifier",
        pictures,
        training.batch_size,
        recipe.student.label_weight_for(1),
        recipe.student.temperature,
        training.model_dump(include={"lr", "momentum", "nesterov", "weight_decay"}),
        training.epochs * (len(pictures) // training.batch_size),
    )
    parts = {"student": student, "optimizer": box.optimizer, "schedule": box.lr_scheduler}
    done = 0
    if state.is_file():
        saved = torch.load(state)
        done = saved.pop("epochs")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    for epoch in range(done, training.epochs):
        torch.manual_seed(seed * training.epochs + epoch)
        box.pre_epoch_process(epoch=epoch)
        losses = [_step(box, *batch) for batch in box.train_data_loader]
        box.post_epoch_process()
        _save(state, {"epochs": epoch + 1} | {name: part.state_dict() for name, part in parts.items()})
        _print(f"torchdistill, seed {seed}, epoch {epoch + 1}: loss {statistics.fmean(losses):.4f}")
    return student


def accuracy(network: nn.Module, split_data: SplitData, batch_size: int) -> float:
    """Return the share of test images that ``network`` classifies rightly."""
    from boxes import Pictures

    images = split_data.dataset.test
    pictures = Pictures(images, torch.arange(len(images)), split_data.dataset.spec)  # type: ignore[arg-type]
    network.eval()
    with torch.inference_mode():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in DataLoader(pictures, batch_size))
    return right / len(pictures)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return accuracies in % as a Markdown table: one row a seed, then means with their 95 % intervals."""
    rows = ["| seed | teacher | student by lineage | student by torchdistill | lineage − torchdistill |"]
    rows.append("|---|---|---|---|---|")
    columns = {name: [100 * getattr(outcome, name) for outcome in outcomes] for name in _TOOLS}
    columns["difference"] = [a - b for a, b in zip(columns["lineage"], columns["torchdistill"], strict=True)]
    for outcome, *values, difference in zip(outcomes, *columns.values(), strict=True):
        cells = [f"{value:.2f}" for value in values]
        rows.append(f"| {outcome.seed} | {' | '.join(cells)} | {difference:+.2f} |")
    means = [_mean(values) for values in columns.values()]
    rows.append(f"| mean and 95 % interval | {' | '.join(means)} |")
    return "\n".join(rows)


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Return a sentence that compares the difference of the means with the spread over seeds."""
    ours, theirs = ([100 * getattr(outcome, name) for outcome in outcomes] for name in _TOOLS[1:])
    difference = abs(statistics.fmean(ours) - statistics.fmean(theirs))
    spread = max(max(values) - min(values) for values in (ours, theirs))
    judged = "within" if difference <= spread else "beyond"
    return (
        f"The means differ by {difference:.2f} points, {judged} the {spread:.2f} points"
        " between the best and the worst seed of a tool."
    )


def write_between(page: Path, name: str, text: str) -> None:
    """Put ``text`` between the markers ``<!-- name -->`` and ``<!-- /name -->`` of a page."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    written = page.read_text()
    if not (begin in written and end in written):
        raise ValueError(f"{page} must have the markers {begin} and {end}, but lacks one; add them.")
    page.write_text(re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", written, flags=re.DOTALL))


_TOOLS = ("teacher", "lineage", "torchdistill")


def _step(box: "nn.Module", images: torch.Tensor, labels: torch.Tensor, *more: object) -> float:
    """Take one step of a box; return the loss."""
    box.pre_forward_process()
    loss = box.forward_process(images, labels, more[0] if more else None)
    box.post_forward_process(loss=loss)
    return loss.item()


def _save(file: Path, state: Mapping[str, object]) -> None:
    written = file.with_suffix(".new")
    torch.save(dict(state), written)
    written.replace(file)


def _mean(values: Sequence[float]) -> str:
    spread = Spread.of(values)
    interval = mean_interval(spread)
    return f"{spread.mean:.2f}" + ("" if interval is None else f" ± {interval[1] - spread.mean:.2f}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _seeds(text: str) -> Iterable[int]:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    """Train both sides of all seeds, and write and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-100")
    parser.add_argument("--seeds", type=_seeds, default="0..2", help="A..B, both included")
    parser.add_argument("--store", type=Path, default=ROOT / ".peer", help="folder of store and states")
    parser.add_argument("--out", type=Path, help="JSON file of the accuracies")
    parser.add_argument(
        "--page", type=Path, help="page whose table is written, such as docs/explanation/peer.md"
    )
    given = parser.parse_args()
    out, page = (None if path is None else path.resolve() for path in (given.out, given.page))
    overrides = [f"data.root={given.data.resolve()}"]
    given.store.mkdir(parents=True, exist_ok=True)
    os.chdir(given.store)
    for variable in ("MLFLOW_TRACKING_URI", "LINEAGE_HOME"):
        os.environ.pop(variable, None)
    torch.set_num_threads(1)
    prepare_process()
    outcomes: list[Outcome] = []
    for seed in given.seeds:
        outcomes.append(contest(seed, overrides))
        if out is not None:
            out.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2) + "\n")
        _print(table(outcomes))
    text = f"{table(outcomes)}\n\n{verdict(outcomes)}"
    _print(text)
    if page is not None:
        write_between(page, "peer", text)


if __name__ == "__main__":
    main()
