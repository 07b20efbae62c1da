import hashlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from torch import nn
from torchvision.models import ViT_B_16_Weights

from lineage.data import imagenet
from lineage.data.datasets import load_dataset
from lineage.errors import IntegrityError
from lineage.models.ensemble import fit_to_data
from lineage.models.pretrained import describe_weights

WORDS = imagenet.imagenet_words()
IDS = tuple(f"n{1_000_000 + 7 * number:08d}" for number in range(1000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet of a thousand made-up classes with one file each."""
    root, picture = tmp_path_factory.mktemp("imagenet"), BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "JPEG")
    for part in ("train", "val"):
        for name in IDS:
            (root / part / name).mkdir(parents=True)
            (root / part / name / "1.JPEG").write_bytes(picture.getvalue())
    return root


def test_torchvisions_words_are_a_thousand_and_the_same_for_all_weights() -> None:
    assert len(WORDS) == 1000
    assert tuple(ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.meta["categories"]) == WORDS


def test_teacher_with_torchvisions_words_fits_the_folder_of_ids(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset("imagenet", str(folder)).spec
    own = describe_weights("torchvision:resnet18", "IMAGENET1K_V1")
    # the real ids are a table that nobody wants here: the made-up ones take their place
    monkeypatch.setattr(imagenet, "_IDS_SHA256", hashlib.sha256("\n".join(IDS).encode()).hexdigest())
    network = nn.Flatten()
    assert fit_to_data(network, own, data, "resnet18") is network
    assert fit_to_data(network, data, own, "resnet18") is network


def test_a_thousand_other_ids_are_other_classes(folder: Path) -> None:
    data = load_dataset("imagenet", str(folder)).spec
    own = describe_weights("torchvision:resnet18", "IMAGENET1K_V1")
    with pytest.raises(IntegrityError, match=r"class 0 is 'tench'\) and 'imagenet' 1000 \(class 0 is 'n01"):
        fit_to_data(nn.Flatten(), own, data, "resnet18")


@pytest.mark.parametrize("names", [WORDS[::-1], WORDS[:-1], ("cat", "dog")])
def test_words_in_another_order_or_number_are_other_classes(names: tuple[str, ...]) -> None:
    assert not imagenet.same_classes(WORDS, names)
    assert imagenet.same_classes(names, names)
