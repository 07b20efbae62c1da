"""The README, CONTRIBUTING and the pages beside them name what exists."""

import re
from pathlib import Path
from urllib.parse import urldefrag

import pytest
from pages import DOCS, PAGES, README, ROOT, links
from reference_pages import PAGES as GENERATED

import lineage

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
CHANGELOG = ROOT / "CHANGELOG.md"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of the page on extensions, installed as a package ``mypkg``."""
    page = (DOCS / "how-to" / "extend.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert "# mypkg.py" in code
    site = tmp_path / "site"
    information = site / "mypkg-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "mypkg.py").write_text(code)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[lineage.networks]\ntiny = mypkg:Tiny\n[lineage.objectives]\nfocal = mypkg:build_focal\n"
        "[lineage.schedules]\nfloored = mypkg:build_floored\n"
        "[lineage.distillations]\nmargin = mypkg:build_margin\n"
        "[lineage.handlers]\nkappa = mypkg:build_kappa\n"
        "[lineage.augmentations]\ndimmed = mypkg:build_dimmed\n"
    )
    monkeypatch.syspath_prepend(site)


@pytest.mark.usefixtures("home", "package")
def test_own_network_and_losses_grow_as_the_guide_says(tiny_settings: tuple[str, ...]) -> None:
    own = ("network.name=mypkg:tiny", "patriarch.objective=mypkg:focal", "patriarch.options.focus=1.5")
    own += ("training.schedule=mypkg:floored", "training.schedule_options.floor=0.1")
    own += ("student.loss=mypkg:margin", "student.options.margin=1")
    own += ("training.handlers=[{name = 'mypkg:kappa', options = {weights = 'quadratic'}}]",)
    own += ("data.augment.policy=mypkg:dimmed", "data.augment.options.least=0.25")
    (grown,) = lineage.grow(
        "digits",
        generations=1,
        overrides=[*(setting for setting in tiny_settings if "width" not in setting), *own],
    )
    assert -1 <= grown.versions[1].metrics["validation_kappa"] <= 1
    model = lineage.load(grown.versions[1].uri)
    assert type(model.network).__name__ == "Tiny"
    assert model.network_name == "mypkg:tiny"
    assert grown.versions[0].objective == "mypkg:focal"
    assert grown.versions[1].code.keys() == {"network", "distillation", "augmentation", "schedule"}


def test_readme_is_short() -> None:
    assert len(README.read_bytes()) <= 9_000


def test_pages_name_only_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {
        target
        for page in (*PAGES, CONTRIBUTING)
        for target in re.findall(r"(?:^\$? ?|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test", "docs", "setup", "check", "bench", "evidence"} <= named
    for target in named:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING, CHANGELOG], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        file, heading = urldefrag(link)
        target = (page.parent / file).resolve() if file else page
        if link.startswith("http"):
            continue
        if target.is_relative_to(DOCS) and str(target.relative_to(DOCS)) in GENERATED:
            assert page.is_relative_to(DOCS), f"{link}: a code host does not show generated pages"
            continue
        assert target.exists(), link
        if heading:
            assert heading in _headings(target), link


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    found = {str(page.relative_to(DOCS)) for page in PAGES if page != README}
    assert sorted(listed) == sorted({*found, *GENERATED})


def test_readme_links_every_page_that_a_code_host_shows() -> None:
    linked = {(ROOT / link).resolve() for link in links(README)}
    assert {page for page in PAGES if page not in (README, DOCS / "index.md")} <= linked


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=lambda page: page.stem)
def test_page_leaves_nothing_open(page: Path) -> None:
    assert not re.search(r"^[A-Z]{4,}$|\b(TODO|TBD|FIXME)\b", page.read_text(), re.MULTILINE)


def _headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as MkDocs makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", h.lower()).strip()) for h in headings}
