"""Files of logged models that are carried to another store: verified, and rewritten with its ids."""

import shutil
from pathlib import Path

import pytest

import lineage
from lineage.errors import IntegrityError
from lineage.exchange.pack import pack
from lineage.exchange.unpack import unpack
from lineage.registry.care.doctor import examine
from lineage.registry.family.lookup import read_family
from lineage.registry.flavor import load_version


@pytest.fixture(scope="module")
def carried(module_home: Path, empty_database: Path, tiny_settings: tuple[str, ...]) -> Path:
    """A folder with a packed family: two generations, their ensemble, and an ensemble of that."""
    lineage.grow("digits", generations=1, overrides=tiny_settings)
    lineage.ensemble(["models:/digits/1", "models:/digits/2"], name="digits")
    lineage.ensemble(["models:/digits/2", "models:/digits/3"], name="digits")
    pack("digits", module_home / "packed")
    assert examine("digits", lambda _: False).findings == ()
    return module_home / "packed"


@pytest.fixture
def copy(carried: Path, home: Path) -> Path:
    """The packed family in a folder of its own, beside an empty store that is the one in use."""
    return Path(shutil.copytree(carried, home / "copy"))


def test_files_that_name_versions_are_as_whole_in_the_other_store(copy: Path) -> None:
    unpack(copy)
    family = read_family("digits")
    assert [version.kind for version in family] == ["generation", "generation", "ensemble", "ensemble"]
    assert examine("digits", lambda _: False).findings == ()
    for version in family:
        assert load_version(version).spec.name == "digits"


@pytest.mark.parametrize("file", ["recipe.json", "lineage.json", "requirements.txt"])
def test_altered_file_is_refused_before_anything_is_written(copy: Path, file: str) -> None:
    place = next((copy / "models").rglob(file))
    place.write_text(place.read_text() + " ")
    with pytest.raises(IntegrityError, match=r"The files of version \d must have the SHA-256"):
        unpack(copy)
    assert not read_family("digits", missing_ok=True).versions
