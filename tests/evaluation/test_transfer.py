import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lineage.data.batches import split_indices
from lineage.data.datasets import load_dataset
from lineage.data.images import DataSet, DataSpec, MemoryImages, memory_dataset
from lineage.errors import IntegrityError, LineageError, RecipeError, UsageError
from lineage.evaluation.data import SplitData, read_split
from lineage.evaluation.ensemble import ensemble
from lineage.evaluation.evaluate import load
from lineage.evaluation.probes import PROBES
from lineage.evaluation.transfer import transfer
from lineage.evaluation.transfer_target import Target, read_target_settings
from lineage.growing.grow import grow
from lineage.growing.succession import Lineage
from lineage.registry.family.family import Version
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
    ({"seed": -1}, UsageError, "--seed must be at least 0, but got -1."),
    ({"overrides": ["data.rot=x"]}, RecipeError, "Unknown recipe key 'data.rot'. Did you mean 'root'?"),
    (
        {"overrides": ["training.epochs=3"]},
        UsageError,
        "--set must give a setting that the logistic probe uses (data.KEY), but got 'training.epochs=3';"
        " leave it out, or train the whole network with --probe finetune.",
    ),
    (
        {"overrides": ["network.width=3"], "probe": "finetune"},
        UsageError,
        "--set must give a setting that finetuning uses (data.KEY, training.KEY), but got 'network.width=3';",
    ),
    (
        {"overrides": ["data.name=cifar10"]},
        UsageError,
        "--set must give a setting that the logistic probe uses (data.root, data.download, data.test,"
        " data.options, data.validation, data.seed, data.train_samples, data.subset, data.image_size,"
        " data.workers), but got 'data.name=cifar10'; name the data set with --to.",
    ),
    ({"overrides": ['data={name="cifar10"}']}, UsageError, "--set must give a setting that the logistic"),
    ({"overrides": ["data.flip=true"]}, UsageError, "--set must give a setting that the logistic probe uses"),
    (
        {"overrides": ["data.augment.mixup=1"]},
        UsageError,
        "--set must give a setting that the logistic probe uses",
    ),
    (
        {"overrides": ["data.padding_mode=zeros"], "probe": "finetune"},
        UsageError,
        "--set must give a setting that finetuning uses (data.root,",
    ),
    (
        {"overrides": ["training.gamma=0.5"], "probe": "finetune"},
        UsageError,
        "--set must give a setting that finetuning uses (training.epochs,",
    ),
    (
        {"overrides": ["training.optimizer=adamw", "training.momentum=0.5"], "probe": "finetune"},
        UsageError,
        "--set must give a setting that finetuning uses (training.epochs,",
    ),
    (
        {"overrides": ["training.patience=2"], "probe": "finetune"},
        UsageError,
        "--set must give a setting that finetuning uses (training.epochs,",
    ),
    (
        {"overrides": ["training.optimizer_options.beta1=0.5"], "probe": "finetune"},
        RecipeError,
        "The optimizer 'sgd' takes no options, but training.optimizer_options has 'beta1'",
    ),
    (
        {"overrides": ["training.sync_batchnorm=true"], "probe": "finetune"},
        UsageError,
        "training.sync_batchnorm must be false on CPUs,",
    ),
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
"""Arguments of ``transfer``, the class of its error, and the error's first words."""

ADAMW = ["training.lr=0.5", "training.optimizer=adamw", "data.flip=true"]
RECORDED_KEYS = [
    ("logistic", [], 0, "cd102171410627bca1d34b0d279422f0236e43092ae2238cc96f212736be2daf"),
    ("logistic", [], 7, "8df32641183c7e4a473e02f184b746d29745f876f6edfa126750b9d02889dae5"),
    (
        "knn",
        ["data.train_samples=200", "data.seed=3"],
        0,
        "f8bbf265c99260205d4a012eaa03ec470bb35b9e02653d7813979476518a5885",
    ),
    ("finetune", [], 0, "b5c80728e122d4a99a2790648c4a03eff30766c348e7f81eca059620d3f9977d"),
    ("finetune", [], 7, "351f1e63fa415556cd114b38ac2161714b2314bea9d71cb155a18fa5662714fb"),
    ("finetune", ADAMW, 0, "304eea0db94d9546203b3ffbebd024cbddb09e23d59ff64efc7f513f0fd2268f"),
]
"""Probe, overrides and seed of a transfer, and the key under which registries hold its result."""


@pytest.fixture(scope="module")
def grown(module_home: Path, tiny_settings: tuple[str, ...]) -> Lineage:
    """A tiny family of three, which the module's tests only read."""
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
    """Return metrics without times."""
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
    messages: list[str] = []
    arguments = {"overrides": [f"data.root={folder_of_images}"], "probe": "knn", "tell": messages.append}
    with pytest.raises(UsageError, match="models:/digits/1 must be given images of 1 channel, but those of"):
        transfer("models:/digits/1", "imagefolder", **arguments)  # type: ignore[arg-type]
    settings = ["data.name=imagefolder", f"data.root={folder_of_images}", "data.image_size=16"]
    settings += ["network.width=4", "training.epochs=0", "patriarch.top_k=2", "data.validation=0.25"]
    settings += ["training.batch_size=4", "data.crop_padding=0"]
    grow("digits", name="photos", generations=0, overrides=settings)
    (result,) = transfer("models:/photos/1", "digits", overrides=FEW, tell=messages.append)
    assert result.notes == (
        "Images are resized from 8×8 to 16×16 pixels.",
        "Grey is repeated to 3 channels.",
    )
    assert f"models:/photos/1: {result.notes[0]}" in messages
    arguments["overrides"] = [f"data.root={folder_of_images}", "data.validation=0.25"]
    (streamed,) = transfer("models:/photos/1", "imagefolder", **arguments)  # type: ignore[arg-type]
    assert streamed.metrics["transfer_accuracy"] >= 0.5


def test_finetuning_leaves_no_state_behind(grown: Lineage) -> None:
    transfer("models:/digits/1", "digits", probe="finetune", overrides=QUICK)
    assert {path.name for path in Path(".lineage").glob("*")} <= {"data.json", "data.lock"}


def test_finetuning_needs_no_validation_part(grown: Lineage) -> None:
    overrides = ["data.validation=0", "training.epochs=1", "data.augment.mixup=0.5"]
    (result,) = transfer("models:/digits/1", "digits", probe="finetune", overrides=overrides)
    assert "transfer_validation_accuracy" not in result.metrics
    assert result.settings["training.epochs"] == 1
    assert result.settings["data.augment"] == {"mixup": 0.5}


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
    messages: list[str] = []
    uri = student.versions[0].uri
    (result,) = transfer(uri, "digits", ancestors=None, overrides=FEW, tell=messages.append)
    assert result.version == student.versions[0]
    assert messages[0] == f"{registered.uri} is an ensemble, which has no features; left out"


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
    settings = read_target_settings("cifar10", "finetune", ["data.root=here", "training.lr=0.5"])
    assert (settings.data.name, settings.data.root, settings.data.validation) == ("cifar10", "here", 0.1)
    assert (settings.training.lr, settings.training.epochs) == (0.5, 5)


@pytest.mark.parametrize(("probe", "overrides", "seed", "key"), RECORDED_KEYS)
def test_key_of_a_result_is_the_one_that_was_recorded(
    probe: str, overrides: list[str], seed: int, key: str
) -> None:
    spec = DataSpec(
        name="made-up",
        class_names=("a", "b"),
        superclasses=None,
        mean=(0.25,),
        std=(0.5,),
        input_shape=(1, 8, 8),
        digest="d" * 64,
    )
    images = MemoryImages(torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    split_data = SplitData(DataSet(images, images, spec), torch.arange(3), torch.arange(1))
    target = Target(read_target_settings("digits", probe, overrides), probe, seed, split_data)
    assert target.key(Version(name="digits", version=1, weights_sha256="w" * 64)) == key


def test_settings_of_a_result_name_the_half_that_it_learned_from() -> None:
    half = ["data.subset={seed = 1, half = 0}"]
    settings = read_target_settings("digits", "logistic", half)
    found = Target(settings, "logistic", 0, read_split(settings.data)).result_settings
    assert found["data.subset"] == {"seed": 1, "half": 0}


def test_finetuning_synchronises_batchnorm_where_it_is_asked_to() -> None:
    settings = read_target_settings("digits", "finetune", ["training.sync_batchnorm=true"])
    images = MemoryImages(torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    split_data = SplitData(memory_dataset("made-up", images, images, "ab"), torch.arange(3), torch.arange(1))
    assert Target(settings, "finetune", 0, split_data).finetuning().config.sync_batchnorm
