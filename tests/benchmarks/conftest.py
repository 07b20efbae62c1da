"""CIFAR-100 in its form, without its images."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with noise in CIFAR-100's Parquet layout: seven images a class to train on, one for test."""
    folder = tmp_path_factory.mktemp("noise")
    draw = np.random.default_rng(0)
    for part, count in (("train", 7), ("test", 1)):
        labels = list(range(100)) * count
        images = [{"bytes": _png(draw), "path": None} for _ in labels]
        rows = pa.table({"img": images, "fine_label": labels})
        pq.write_table(rows, folder / f"{part}-00000-of-00001.parquet")
    return folder


def _png(draw: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()
