import pytest
from memorised import training_metrics

import lineage
from lineage.data.datasets import MemoryImages, load_dataset
from lineage.data.splits import split_indices


@pytest.mark.usefixtures("home")
def test_training_metrics_are_those_of_the_training_images_alone(tiny_settings: tuple[str, ...]) -> None:
    lineage.grow("digits", overrides=tiny_settings, generations=0)
    found = training_metrics("models:/digits/1")
    model = lineage.load("models:/digits/1")
    images = load_dataset("digits").train
    assert isinstance(images, MemoryImages)
    train, _ = split_indices(images.labels, 10, 0.1, 0, 400)
    logits = model.logits(images.pixels[train].permute(0, 3, 1, 2).float() / 255)
    top = logits.softmax(1).max(1)
    assert found["top_probability"] == pytest.approx(float(top.values.mean()), abs=1e-5)
    assert found["accuracy"] == float((top.indices == images.labels[train]).double().mean())
