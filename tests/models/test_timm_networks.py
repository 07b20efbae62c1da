import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lineage
from lineage.data.images import DataSpec
from lineage.errors import NotFoundError, RecipeError
from lineage.exchange.forms import write_weights
from lineage.models.networks import build_network, check_network
from lineage.models.pretrained import describe_weights, fit_state, original_names
from lineage.registry.store.artifacts import LoadedModel

timm = pytest.importorskip("timm", reason="timm is not installed: extra 'timm'")

DIGITS = (1, 8, 8)


def test_network_is_timms_with_features_before_its_head() -> None:
    network = build_network("timm:resnet18", 5, (3, 32, 32), {"drop_rate": 0.5}).eval()
    images = torch.randn(2, 3, 32, 32)
    own = timm.create_model("resnet18", num_classes=5).eval()
    own.load_state_dict(
        {original_names(network)[name]: value for name, value in network.state_dict().items()}
    )
    with torch.no_grad():
        logits = network(images)
        assert torch.equal(logits, own(images))
        assert torch.equal(network.model.get_classifier()(network.features(images)), logits)
    assert network.model.drop_rate == 0.5


def test_network_of_one_image_size_is_built_for_that_of_the_data() -> None:
    options = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4}
    check_network("timm:vit_tiny_patch16_224", 5, DIGITS, options)
    network = build_network("timm:vit_tiny_patch16_224", 5, DIGITS, options).eval()
    assert network.features(torch.zeros(2, *DIGITS)).shape == (2, 16)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet1", {}, r"must be one of the \d+ models of timm. Did you mean 'timm:resnet\d+'"),
        ("timm:resnet18", {"pretrained": True}, "weights from network.weights, but got the option 'pretr"),
        ("timm:resnet18", {"nothing": 1}, r"must be built from its options \(nothing=1\), but its builder"),
        ("timm:resnet18", {"weights": "V2"}, "must be 'DEFAULT' or a file, but got 'V2'"),
        ("timm:resnet8t", {"weights": "DEFAULT"}, "must be one of|must have weights, but timm lists none"),
    ],
)
def test_network_that_cannot_be_is_refused_in_one_sentence(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build_network(name, 5, (3, 32, 32), options)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeError, match=r"needs the extra 'timm', .* pip install '.\[timm\]'"):
        build_network("timm:resnet18", 5, (3, 32, 32))


def test_weights_that_cannot_be_fetched_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotFoundError, match="'timm:resnet18' must be in the Hub's cache or available"):
        build_network("timm:resnet18", 5, (3, 32, 32), {"weights": "DEFAULT"})


def test_description_of_weights_is_what_timm_says() -> None:
    found = describe_weights("timm:resnet18", "DEFAULT")
    assert (found.name, found.num_classes) == ("timm:resnet18/a1_in1k", 1000)
    assert found.class_names[0] == "n01440764"
    assert (found.input_shape, found.mean) == ((3, 224, 224), (0.485, 0.456, 0.406))


def test_files_of_timm_are_read_and_written_under_its_names(tmp_path: Path) -> None:
    own = timm.create_model("resnet18", num_classes=4, in_chans=1).eval()
    network = build_network("timm:resnet18", 4, DIGITS).eval()
    fit_state(network, own.state_dict(), "timm:resnet18")
    pixels = torch.rand(2, *DIGITS)
    spec = DataSpec("made", ("a", "b", "c", "d"), None, (0.5,), (0.25,), DIGITS, "d" * 64)
    model = LoadedModel(network, "timm:resnet18", {}, spec)
    with torch.no_grad():
        assert torch.equal(model.logits(pixels), own((pixels - 0.5) / 0.25))
    assert torch.equal(write_weights(model, tmp_path)(pixels), model.logits(pixels))


def test_network_of_timm_teaches_ours(home: Path, tiny_settings: tuple[str, ...]) -> None:
    save_file(timm.create_model("resnet18", num_classes=10, in_chans=1).state_dict(), "r18.safetensors")
    candidate = lineage.Candidate(network="timm:resnet18", weights="r18.safetensors")
    teacher = lineage.adopt("teacher", candidate, data="digits").version
    settings = [*tiny_settings, "training.epochs=1", "data.train_samples=128"]
    (line,) = lineage.grow("digits", teacher=teacher.uri, overrides=settings, name="student")
    (student,) = line.versions
    assert student.teacher == teacher.id
    assert lineage.load(student.uri).network_name == "resnet8"
