import numpy as np
import pytest
from PIL import Image

from lineage.data.datasets import DataSet, load_dataset


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two classes of images of several sizes in a folder, read as 16×16 pixels."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for i in range(10):
                pixels = random.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return load_dataset("imagefolder", str(root), image_size=16)
