from pathlib import Path

import pytest

from lineage.errors import IntegrityError
from lineage.registry.family.adopted import fetch_program


@pytest.mark.parametrize("text", ["", "[", "5", "flavors: 5", "flavors: {pytorch: 5}"])
def test_damaged_description_of_a_model_is_refused(home: Path, text: str) -> None:
    (home / "model").mkdir()
    (home / "model" / "MLmodel").write_text(text)
    with pytest.raises(IntegrityError, match=r"The file MLmodel of .* must be what MLflow wrote"):
        fetch_program(str(home / "model"), (1, 8, 8))
