import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lineage.data.batches import split_indices
from lineage.data.datasets import load_dataset
from lineage.errors import IntegrityError, LineageError, RecipeError, UsageError
from lineage.evaluation.ensemble import ensemble
from lineage.evaluation.evaluate import load
from lineage.evaluation.probes import PROBES
from lineage.evaluation.transfer import transfer
from lineage.evaluation.transfer_target import read_settings
from lineage.growing.grow import grow
from lineage.growing.succession import Lineage
from lineage.registry.family.lookup import find_version
from lineage.registry.store.transfers import read_transfers

FEW = ("data.train_samples=200",)
QUICK = ("training.epochs=2", "training.batch_size=50", "training.lr=0.05", *FEW)
CANNOT_HOLD = [
    ({"to": "digit"}, RecipeError, "data.name must be "),
    ({"to": "cifar10"}, UsageError, "Data set 'cifar10' is read from a folder, but none is given;"),
    ({"probe": "svn"}, UsageError, "A probe must be one of logistic, svm, knn or finetune, but got 'svn'."),
    (
        {"ancestors": -1},
        UsageError,
        "--ancestors must be 'all' or from 0 to 0, the number of teachers of models:/digits/1, but got -1.",
    ),
    ({"seed": -1}, RecipeError, "succession.seed must be at least 0, but got -1."),
    ({"overrides": ["data.rot=x"]}, RecipeError, "Unknown recipe key 'data.rot'. Did you mean 'root'?"),
    (
        {"overrides": ["training.epochs=3"]},
        UsageError,
        "--set must give data.KEY=VALUE of the target, whose name --to gives, or, with --probe finetune,"
        " training.KEY=VALUE, but got 'training.epochs=3' with --probe logistic.",
    ),
    ({"overrides": ["network.width=3"], "probe": "finetune"}, UsageError, "--set must give data.KEY=VALUE"),
    ({"overrides": ["data.name=cifar10"]}, UsageError, "--set must give data.KEY=VALUE of the target, whose"),
    (
        {"overrides": ["data.validation=0"]},
        UsageError,
        "data.validation must be greater than 0 for --probe logistic, whose setting is chosen on it, but",
    ),
    (
        {"overrides": ["training.batch_size=2000"], "probe": "finetune"},
        UsageError,
        "training.batch_size must be at most the number of training images",
    ),
    ({"uri": "models:/digits/9"}, LineageError, "The store "),
]
"""Arguments of ``transfer``, its error and how that begins."""


@pytest.fixture(scope="module")
def grown(module_home: Path, tiny_settings: tuple[str, ...]) -> Lineage:
    """A tiny family of three, which the module's tests look at."""
    (lineage,) = grow("digits", overrides=tiny_settings)
    return lineage


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and bright photos of many sizes, in class folders."""
    root = tmp_path_factory.mktemp("photos")
    for part, size in (("train", 12), ("test", 4)):
        for name, level in (("bright", 220), ("dark", 30)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(size):
                Image.new("RGB", (20 + index, 24), (level, level - index, level)).save(
                    folder / f"{index}.png"
                )
    return root


def numbers(results: Any) -> list[dict[str, float]]:
    """Metrics without what the clock says."""
    return [{k: v for k, v in result.metrics.items() if k != "transfer_seconds"} for result in results]


def num_runs() -> int:
    client = MlflowClient()
    return len(client.search_runs([found.experiment_id for found in client.search_experiments()]))


@pytest.mark.parametrize("probe", [*PROBES, "finetune"])
def test_every_probe_gives_the_same_numbers_twice(grown: Lineage, probe: str) -> None:
    overrides = QUICK if probe == "finetune" else FEW
    first, second = (
        transfer("models:/digits/2", "digits", probe=probe, overrides=overrides) for _ in range(2)
    )
    assert numbers(first) == numbers(second)
    assert 0 < first[0].metrics["transfer_accuracy"] <= 1
    assert "transfer_validation_accuracy" in first[0].metrics
    assert first[0].key == second[0].key
    assert first[0].run_id != second[0].run_id


def test_logistic_transfer_equals_one_written_out(grown: Lineage) -> None:
    (result,) = transfer("models:/digits/3", "digits", overrides=["data.seed=4"])
    model = load("models:/digits/3")
    dataset: Any = load_dataset("digits")
    train, validation = split_indices(dataset.train.labels, 10, 0.1, 4, None)
    body = model.network.features

    def features(images: Any) -> Any:
        pixels = images.pixels.permute(0, 3, 1, 2) / 255
        return body((pixels - model.mean[0]) / model.std[0]).detach().numpy()  # type: ignore[operator]

    of_train, labels = features(dataset.train), dataset.train.labels.numpy()

    def accuracy(strength: float, fitted: Any, part: Any, part_labels: Any) -> float:
        scaler = StandardScaler().fit(of_train[fitted])
        probe = LogisticRegression(C=strength, max_iter=1000)
        probe.fit(scaler.transform(of_train[fitted]), labels[fitted])
        return float(probe.score(scaler.transform(part), part_labels))

    chosen = result.chosen["C"]
    of_validation = accuracy(chosen, train.numpy(), of_train[validation], labels[validation.numpy()])
    assert result.metrics["transfer_validation_accuracy"] == pytest.approx(of_validation, abs=0.01)
    both = sorted([*train.tolist(), *validation.tolist()])
    of_test = accuracy(chosen, both, features(dataset.test), dataset.test.labels.numpy())
    assert result.metrics["transfer_accuracy"] == pytest.approx(of_test, abs=0.006)


@pytest.mark.parametrize(("ancestors", "wanted"), [(0, [3]), (1, [2, 3]), (2, [1, 2, 3]), (None, [1, 2, 3])])
def test_ancestors_come_first_and_oldest(grown: Lineage, ancestors: int | None, wanted: list[int]) -> None:
    results = transfer("models:/digits/3", "digits", ancestors=ancestors, overrides=FEW)
    assert [result.version.version for result in results] == wanted
    assert [result.version.generation for result in results] == [number - 1 for number in wanted]


def test_results_are_found_by_a_later_reader(grown: Lineage) -> None:
    (result,) = transfer("models:/digits@best", "digits", overrides=["data.train_samples=150"], seed=5)
    assert read_transfers(result.version)[-1] == result
    assert result.settings == {"data.validation": 0.1, "data.seed": 0, "data.train_samples": 150}
    assert json.loads(json.dumps(result.to_json())) == result.to_json()


def test_other_sizes_and_grey_are_fitted_and_told(grown: Lineage, folder_of_images: Path) -> None:
    told: list[str] = []
    arguments = {"overrides": [f"data.root={folder_of_images}"], "probe": "knn", "tell": told.append}
    with pytest.raises(UsageError, match="models:/digits/1 must be given images of 1 channel, but those of"):
        transfer("models:/digits/1", "imagefolder", **arguments)  # type: ignore[arg-type]
    settings = ["data.name=imagefolder", f"data.root={folder_of_images}", "data.image_size=16"]
    settings += ["network.width=4", "training.epochs=0", "patriarch.top_k=2", "data.validation=0.25"]
    settings += ["training.batch_size=4", "data.crop_padding=0"]
    grow("digits", name="photos", generations=0, overrides=settings)
    (result,) = transfer("models:/photos/1", "digits", overrides=FEW, tell=told.append)
    assert result.notes == (
        "Images are resized from 8×8 to 16×16 pixels.",
        "Grey is repeated to 3 channels.",
    )
    assert f"models:/photos/1: {result.notes[0]}" in told
    arguments["overrides"] = [f"data.root={folder_of_images}", "data.validation=0.25"]
    (streamed,) = transfer("models:/photos/1", "imagefolder", **arguments)  # type: ignore[arg-type]
    assert streamed.metrics["transfer_accuracy"] >= 0.5


def test_finetuning_leaves_no_state_behind(grown: Lineage) -> None:
    transfer("models:/digits/1", "digits", probe="finetune", overrides=QUICK)
    assert not list(Path(".lineage").glob("*"))


def test_finetuning_needs_no_validation_part(grown: Lineage) -> None:
    overrides = ["data.validation=0", "training.epochs=1"]
    (result,) = transfer("models:/digits/1", "digits", probe="finetune", overrides=overrides)
    assert "transfer_validation_accuracy" not in result.metrics
    assert result.settings["training.epochs"] == 1


def test_key_depends_on_what_the_numbers_depend_on(grown: Lineage) -> None:
    def key(uri: str = "models:/digits/1", **arguments: Any) -> str:
        arguments.setdefault("overrides", FEW)
        return transfer(uri, "digits", **arguments)[0].key

    keys = [
        key(),
        key("models:/digits/2"),
        key(probe="knn"),
        key(seed=1),
        key(overrides=["data.seed=1", *FEW]),
    ]
    assert len(set(keys)) == len(keys)
    assert key(overrides=["data.workers=0", *FEW]) == keys[0]


@pytest.mark.parametrize(("arguments", "error", "start"), CANNOT_HOLD)
def test_what_cannot_hold_is_refused_and_nothing_written(
    grown: Lineage, arguments: dict[str, Any], error: type[LineageError], start: str
) -> None:
    before = num_runs()
    with pytest.raises(error) as refusal:
        transfer(**{"uri": "models:/digits/1", "to": "digits"} | arguments)
    assert str(refusal.value).startswith(start)
    assert num_runs() == before


def test_ensemble_is_refused_with_its_members(grown: Lineage) -> None:
    registered = ensemble(["models:/digits/2"], name="digits-ensemble").version
    assert registered is not None
    with pytest.raises(UsageError) as refusal:
        transfer(registered.uri, "digits")
    assert str(refusal.value) == (
        f"{registered.uri} must be one network, but is an ensemble; transfer a member: models:/digits/1,"
        " models:/digits/2."
    )


def test_ensemble_among_the_teachers_is_left_out_and_told(
    grown: Lineage, tiny_settings: tuple[str, ...]
) -> None:
    registered = ensemble(["models:/digits/2"], name="digits-teachers").version
    assert registered is not None
    (student,) = grow(teacher=registered.uri, name="digits-taught", overrides=tiny_settings)
    told: list[str] = []
    uri = student.versions[0].uri
    (result,) = transfer(uri, "digits", ancestors=None, overrides=FEW, tell=told.append)
    assert result.version == student.versions[0]
    assert told[0] == f"{registered.uri} is an ensemble, which has no features; left out"


def test_altered_weights_are_refused(grown: Lineage) -> None:
    version = find_version("models:/digits/1")
    file = next(Path("mlruns").rglob(f"{version.model_id}/**/weights.safetensors"))
    contents = file.read_bytes()
    try:
        file.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
        with pytest.raises(IntegrityError, match="The weights of models:/digits/1 must have the SHA-256"):
            transfer("models:/digits/2", "digits", ancestors=1, overrides=FEW)
    finally:
        file.write_bytes(contents)


def test_settings_of_a_target_have_the_defaults_of_a_recipe() -> None:
    settings = read_settings("cifar10", "finetune", 7, ["data.root=here", "training.lr=0.5"])
    assert (settings.data.name, settings.data.root, settings.data.validation) == ("cifar10", "here", 0.1)
    assert (settings.training.lr, settings.training.epochs, settings.succession.seed) == (0.5, 5, 7)
