"""What the README says is what happens."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lineage
from lineage.cli import app
from lineage.recipe import recipe_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's example, installed as a package ``mypkg``."""
    code = re.search(r"```python\n(# mypkg\.py.*?)```", README, re.DOTALL)
    assert code is not None
    site = tmp_path / "site"
    information = site / "mypkg-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "mypkg.py").write_text(code[1])
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[lineage.networks]\ntiny = mypkg:Tiny\n")
    monkeypatch.syspath_prepend(site)


@pytest.mark.usefixtures("home", "package")
def test_own_network_grows_as_the_readme_says(tiny_settings: tuple[str, ...]) -> None:
    (grown,) = lineage.grow(
        "digits",
        generations=1,
        overrides=[*(s for s in tiny_settings if "width" not in s), "network.name=mypkg:tiny"],
    )
    model = lineage.load(grown.versions[1].uri)
    assert type(model.network).__name__ == "Tiny"
    assert model.network_name == "mypkg:tiny"


def test_readme_names_every_recipe() -> None:
    table = README[README.index("| recipe |") : README.index("| section |")]
    named = set(re.findall(r"`([\w-]+)`", table))
    named |= {"cifar100" + name for name in named if name.startswith("-")}
    assert set(recipe_names()) <= named


def test_readme_uses_only_commands_that_exist() -> None:
    commands = set(re.findall(r"^\$ lineage ([a-z]+)", README, re.MULTILINE))
    assert commands
    for command in commands:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command


def test_readme_uses_only_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(
        re.findall(r"^make ([a-z]+)", README + (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    ):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_readme_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)", README, re.M)
    }
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_readme_leaves_nothing_open() -> None:
    assert not re.search(r"^[A-Z]{4,}$", README, re.MULTILINE)


def test_readme_says_of_each_recipe_whether_it_was_measured() -> None:
    table = README[README.index("| recipe |") : README.index("| section |")]
    rows = {row.split("|")[1]: row.split("|")[4] for row in table.splitlines() if row.startswith("| `")}
    for name in recipe_names():
        short = name.removeprefix("cifar100")
        (said,) = {yes for names, yes in rows.items() if f"`{name}`" in names or f"`{short}`" in names}
        measured = re.search(r"^# measured: (.*)$", (ROOT / "recipes" / f"{name}.toml").read_text(), re.M)
        assert measured is not None
        assert ("not run" in said) == (measured[1] == "not run"), name
