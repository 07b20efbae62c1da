"""A recipe that a registry holds is data: it names no folder, downloads nothing and starts few processes."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lineage.data.datasets import load_dataset
from lineage.errors import UsageError
from lineage.evaluation.data import read_dataset
from lineage.evaluation.data_index import remember_folder, require_named, stored_recipe
from lineage.evaluation.evaluate import evaluate
from lineage.growing.grow import grow
from lineage.recipe import DataSettings, Recipe, load_recipe

DIGEST = "d" * 64
SPEC = replace(load_dataset("digits").spec, digest=DIGEST)


def _stored(**data: object) -> str:
    settings = json.loads(load_recipe("digits").to_json())
    settings["data"] |= data
    return json.dumps(settings)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without an index."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("LINEAGE_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "here"


@pytest.mark.usefixtures("elsewhere")
def test_stored_recipe_brings_no_folder_no_download_and_no_crowd_of_workers() -> None:
    text = _stored(root="/somebody/elses", download=True, workers=1_000_000)
    data = stored_recipe(text, SPEC).data
    assert (data.root, data.download) == (None, False)
    assert 1 <= data.workers <= (os.cpu_count() or 1)
    assert stored_recipe(_stored(workers=1), SPEC).data.workers == 1
    assert Recipe.from_json(text).digest == stored_recipe(text, SPEC).digest


@pytest.fixture
def index(elsewhere: Path) -> Path:
    """The file that notes folders; it need not exist."""
    return elsewhere.parent / "state" / "lineage" / "data.json"


def test_folder_that_the_user_named_last_is_found_by_the_digest(elsewhere: Path, index: Path) -> None:
    for name in ("first", "second"):
        (elsewhere / name).mkdir()
        remember_folder(DIGEST, DataSettings(name="imagefolder", root=name))
    assert stored_recipe(_stored(), SPEC).data.root == str(elsewhere / "second")
    assert stored_recipe(_stored(), replace(SPEC, digest="e" * 64)).data.root is None
    assert index.stat().st_mode & 0o777 == 0o600
    assert index.parent.stat().st_mode & 0o777 == 0o700
    (elsewhere / "second").rmdir()
    assert stored_recipe(_stored(), SPEC).data.root is None


def test_folder_is_found_from_anywhere_unless_lineage_home_keeps_it(
    elsewhere: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "images").mkdir()
    remember_folder(DIGEST, DataSettings(name="imagefolder", root="images"))
    monkeypatch.chdir(elsewhere.parent)
    assert stored_recipe(_stored(), SPEC).data.root == str(elsewhere / "images")
    monkeypatch.setenv("LINEAGE_HOME", str(elsewhere / "home"))
    assert stored_recipe(_stored(), SPEC).data.root is None
    remember_folder(DIGEST, DataSettings(name="imagefolder", root="here/images"))
    assert (elsewhere / "home" / "data.json").read_text() == index.read_text()


def test_index_is_beside_unfinished_generations_where_the_user_has_no_place_for_it(
    elsewhere: Path, index: Path
) -> None:
    index.parents[1].write_text("a file, in which no folder can be made")
    (elsewhere / "images").mkdir()
    remember_folder(DIGEST, DataSettings(name="imagefolder", root="images"))
    assert (elsewhere / ".lineage" / "data.json").is_file()
    assert stored_recipe(_stored(), SPEC).data.root == str(elsewhere / "images")


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"' + DIGEST + '": 3}', "\udcff"])
def test_damaged_index_is_as_good_as_none(content: str, elsewhere: Path, index: Path) -> None:
    index.parent.mkdir(parents=True)
    index.write_text(content, errors="surrogateescape")
    assert stored_recipe(_stored(), SPEC).data.root is None
    remember_folder(DIGEST, DataSettings(name="imagefolder", root=str(elsewhere)))
    assert stored_recipe(_stored(), SPEC).data.root == str(elsewhere)


@pytest.mark.usefixtures("elsewhere")
def test_images_of_the_hub_are_fetched_only_for_a_user_who_named_them() -> None:
    named = stored_recipe(_stored(name="hub:somebody/images", download=True), SPEC).data
    with pytest.raises(UsageError, match="must be asked for, but were not"):
        require_named(named, named.name, DIGEST)
    require_named(named.model_copy(update={"download": True}), named.name, DIGEST)
    require_named(named.model_copy(update={"root": "here"}), named.name, DIGEST)
    require_named(named, "digits", DIGEST)
    remember_folder(DIGEST, DataSettings(name="hub:somebody/images"))
    require_named(named, named.name, DIGEST)


def test_data_without_a_folder_leave_no_index(elsewhere: Path, index: Path) -> None:
    read_dataset(DataSettings(name="digits"))
    assert not (elsewhere / ".lineage").exists()
    assert not index.exists()


def test_branch_and_evaluation_find_the_images_that_the_user_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "val"):
        for kind in ("cat", "dog"):
            folder = home / "images" / part / kind
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    settings = ["data.name=imagefolder", "data.image_size=16", "network.name=resnet8", "network.width=4"]
    settings += [
        "training.epochs=0",
        "training.warmup_epochs=0",
        "training.batch_size=4",
        "patriarch.top_k=2",
    ]
    settings += ["data.validation=0.25", "data.flip=false", "data.crop_padding=0"]
    grow("digits", overrides=[*settings, "data.root=images"], generations=0)
    (branch,) = grow(teacher="models:/digits/1")
    assert branch.versions[0].teacher == "digits/1"
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert evaluate("models:/digits/1").metrics
    Path(f"{home}-state", "lineage", "data.json").unlink()
    with pytest.raises(UsageError, match=r"data\.root"):
        evaluate("models:/digits/1")
