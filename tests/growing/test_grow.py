import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from PIL import Image

import lineage
from lineage.errors import IntegrityError, UsageError
from lineage.registry.family.lookup import read_ancestors

Grow = Callable[..., tuple[lineage.Version, ...]]


@pytest.fixture
def grow(home: Path, tiny_settings: tuple[str, ...]) -> Grow:
    """Function that grows the tiny ``digits`` in ``home`` and returns the versions of one lineage."""

    def grow_tiny(
        recipe: str | None = "digits", *settings: str, **options: Any
    ) -> tuple[lineage.Version, ...]:
        own = () if "teacher" in options and recipe is None else tiny_settings
        (grown,) = lineage.grow(recipe, overrides=[*own, *settings], **options)
        return grown.versions

    return grow_tiny


def test_branch_grows_from_the_middle_of_a_family(grow: Grow) -> None:
    trunk = grow(generations=4)
    (branch,) = grow(None, teacher=trunk[2].uri, seeds=[1])
    assert (branch.name, branch.version, branch.generation) == ("digits", 6, 3)
    assert branch.teacher == trunk[2].id
    family = lineage.tree("digits")
    assert [student.version for student in family.students(trunk[2])] == [4, 6]
    nearest_first = [trunk[2].id, trunk[1].id, trunk[0].id]
    assert [version.id for version in family.ancestors(branch)] == nearest_first
    assert [version.id for version in read_ancestors(branch)] == nearest_first
    assert [version.version for version in family.descendants(trunk[2])] == [4, 6, 5]


def test_branch_that_exists_is_pulled(grow: Grow) -> None:
    trunk = grow(generations=2)
    (same,) = grow(None, teacher=trunk[1].uri)
    assert same.uri == trunk[2].uri
    (hot,) = grow(None, "student.temperature=4", teacher=trunk[1].uri)
    assert hot.version == 4
    (again,) = grow(None, "student.temperature=4", teacher=trunk[1].uri)
    assert again.uri == hot.uri


def test_branch_of_several_generations_counts_on(grow: Grow) -> None:
    trunk = grow(generations=0)
    students = grow(None, teacher="models:/digits@latest-generation", generations=2)
    assert [version.generation for version in students] == [1, 2]
    assert students[0].teacher == trunk[0].id
    assert students[1].root == trunk[0].id


def test_branch_with_no_generations_grows_nothing(grow: Grow) -> None:
    trunk = grow(generations=0)
    assert grow(None, teacher=trunk[0].uri, generations=0) == ()


def test_student_may_have_another_architecture_and_name(grow: Grow) -> None:
    (teacher,) = grow(generations=0)
    (student,) = grow(None, "network.width=8", teacher=teacher.uri, name="wide")
    assert (student.id, student.teacher) == ("wide/1", "digits/1")
    assert lineage.load(student.uri).network_options["width"] == 8
    assert [version.id for version in read_ancestors(student)] == ["digits/1"]
    assert lineage.tree("wide").roots == (student,)


def test_recipe_given_replaces_the_stored_one(grow: Grow, tmp_path: Path) -> None:
    (teacher,) = grow(generations=0)
    (student,) = grow("digits", "training.lr=0.05", teacher=teacher.uri)
    stored = lineage.load(student.uri).recipe
    assert '"lr":0.05' in stored.replace(" ", "")


def test_ensemble_of_a_branch_counts_its_ancestors(grow: Grow) -> None:
    trunk = grow(generations=1)
    (branch,) = grow(None, teacher=trunk[1].uri, seeds=[3])
    found = lineage.ensemble([branch.uri])
    assert found.prefix_metrics[-1]["accuracy"] == branch.metrics["ensemble_accuracy"]


def test_teacher_of_other_images_is_refused(grow: Grow) -> None:
    (teacher,) = grow(generations=0)
    with pytest.raises(IntegrityError, match=r"classes in the same order.* has 10 .* and 'cifar100' 100"):
        lineage.grow("cifar100-small", teacher=teacher.uri, overrides=_real_images("cifar100"))
    assert len(lineage.tree("digits")) == 1


def test_settings_name_students_and_count_them_unless_options_do(grow: Grow) -> None:
    (teacher,) = grow(generations=0)
    settings = ("model.name=elsewhere", "succession.generations=2")
    assert [student.id for student in grow(None, *settings, teacher=teacher.uri)] == [
        "elsewhere/1",
        "elsewhere/2",
    ]
    (student,) = grow(None, *settings, teacher=teacher.uri, name="there", generations=1)
    assert student.id == "there/1"


def test_teacher_of_other_contents_under_the_same_name_is_refused(grow: Grow, tmp_path: Path) -> None:
    for folder, shift in (("ours", 0), ("theirs", 1)):
        for part in ("train", "test"):
            _write_images(tmp_path / folder / part, range(shift, 40 + shift))
    settings = ("data.name=imagefolder", "data.image_size=16", "network.name=resnet20", "data.validation=0.1")
    few = ("data.train_samples=24", "training.batch_size=8", "patriarch.top_k=2", "training.epochs=1")
    few += ("data.crop_padding=0",)
    (teacher,) = grow("digits", *settings, *few, "data.root=ours", generations=0)
    sentence = r"models:/digits/1 was grown on data with the digest \w{12}….* 'imagefolder' here have \w{12}…"
    with pytest.raises(IntegrityError, match=sentence):
        grow("digits", *settings, *few, "data.root=theirs", teacher=teacher.uri)
    assert len(lineage.tree("digits")) == 1


@pytest.mark.parametrize("recipe", ["digits", None])
@pytest.mark.parametrize("setting", ["data.seed=1", "data.validation=0.2"])
def test_student_is_never_validated_on_what_trained_its_teacher(
    grow: Grow, recipe: str | None, setting: str
) -> None:
    (teacher,) = grow(generations=0)
    with pytest.raises(
        UsageError, match=r"those of models:/digits/1, 0 and 0\.1, .* but are [01] and 0\.[12]"
    ):
        grow(recipe, setting, teacher=teacher.uri)
    assert len(lineage.tree("digits")) == 1


def test_student_may_see_fewer_images_or_hold_out_none(grow: Grow) -> None:
    (teacher,) = grow(generations=0)
    (fewer,) = grow(None, "data.train_samples=300", teacher=teacher.uri)
    assert "validation_accuracy" in fewer.metrics
    (blind,) = grow(None, "data.validation=0", "data.seed=1", teacher=teacher.uri)
    assert "validation_accuracy" not in blind.metrics


def test_student_of_a_teacher_that_held_out_none_holds_out_none(grow: Grow) -> None:
    (teacher,) = grow("digits", "data.validation=0", generations=0)
    with pytest.raises(UsageError, match=r"must be those of models:/digits/1, 0 and 0\.0"):
        grow("digits", teacher=teacher.uri)


@pytest.mark.parametrize("copy", [False, True])
def test_student_of_an_ensemble_is_never_validated_on_what_trained_a_member(grow: Grow, copy: bool) -> None:
    (other,) = grow("digits", "data.seed=1", generations=0)
    (usual,) = grow("digits", generations=0)
    committee = lineage.ensemble([other.uri, usual.uri], name="committee", copy=copy).version
    assert committee is not None
    with pytest.raises(
        UsageError, match=r"must be those of models:/digits/1, 1 and 0\.1, .* but are 0 and 0\.1"
    ):
        grow(None, teacher=committee.uri)


def test_neither_recipe_nor_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match="A recipe or a teacher must be given, but got neither"):
        lineage.grow()


def _write_images(part: Path, levels: range) -> None:
    for name in ("dark", "light"):
        (part / name).mkdir(parents=True)
        for level in levels:
            grey = level if name == "dark" else 255 - level
            Image.new("RGB", (16 + level, 16), (grey,) * 3).save(part / name / f"{level}.png")


def _real_images(name: str) -> list[str]:
    folder = Path(__file__).parents[3] / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"needs {name} in {folder}")
    return [f"data.root={folder}"]


def test_run_of_the_newest_generation_keeps_the_tree(grow: Grow) -> None:
    trunk = grow(generations=1)
    client = MlflowClient()

    def pages(version: lineage.Version) -> list[str]:
        return [file.path for file in client.list_artifacts(version.run_id) if file.path.endswith(".html")]

    assert (pages(trunk[0]), pages(trunk[1])) == ([], ["family.html"])
    page = mlflow.artifacts.load_text(f"runs:/{trunk[1].run_id}/family.html")
    found = re.search(r'id="data">(.*?)</script>', page)
    assert found is not None
    kept = json.loads(found[1])
    assert [node["id"] for node in kept["family"]["nodes"]] == [trunk[0].id, trunk[1].id]
    assert kept["settings"][trunk[1].recipe_digest]["network.width"] == "4"
    grow(generations=1)  # finds all there is
    assert pages(trunk[0]) == []


def test_runs_of_a_succession_say_recipe_and_hardware(grow: Grow) -> None:
    (patriarch,) = grow(generations=0)
    tags = MlflowClient().get_run(patriarch.run_id).data.tags
    assert tags["lineage.recipe_digest"] == patriarch.recipe_digest
    assert (tags["lineage.device"], tags["lineage.processes"]) == ("cpu", "1")


def test_synchronised_batchnorm_is_refused_on_cpus_and_nothing_is_created(grow: Grow) -> None:
    (patriarch,) = grow(generations=0)
    synchronised = "training.sync_batchnorm=true"
    growings: list[Callable[[], Any]] = [
        lambda: grow("digits", synchronised, name="other"),
        lambda: grow(None, synchronised, teacher=patriarch.uri),
        lambda: lineage.study(
            "digits", name="batchnorm", space=["training.sync_batchnorm=true,false"], trials=2
        ),
    ]
    before = len(MlflowClient().search_experiments())
    for start in growings:
        with pytest.raises(UsageError, match=r"training.sync_batchnorm must be false on CPUs"):
            start()
    assert len(MlflowClient().search_experiments()) == before
    assert lineage.tree("digits").versions == (patriarch,)


def test_no_seeds_are_refused(grow: Grow) -> None:
    with pytest.raises(UsageError, match="Seeds must be at least one, but there are none"):
        grow(seeds=[])


@pytest.mark.usefixtures("home")
def test_student_of_another_architecture_learns_from_its_teachers_maps(
    tiny_settings: tuple[str, ...],
) -> None:
    (elders,) = lineage.grow("digits", generations=0, overrides=tiny_settings)
    named = ("hint', weight = 10", "attention', weight = 100, stage = 2", "explanation', weight = 5")
    terms = "student.terms=[" + ", ".join(f"{{name = '{each}}}" for each in named) + "]"
    changes = ["network.name=resnet20", "network.width=6", "student.label_weight=1"]
    teacher = elders.versions[0].uri

    (plain,), (taught,) = (
        lineage.grow(teacher=teacher, overrides=[*changes, *more]) for more in ([], [terms])
    )

    (student,) = taught.versions
    assert student.weights_sha256 != plain.versions[0].weights_sha256
    measured = lineage.evaluate(student.uri)
    assert measured.metrics == measured.recorded
    (again,) = lineage.grow(teacher=teacher, overrides=[*changes, terms])
    assert (again.num_trained, again.versions) == (0, taught.versions)
    with pytest.raises(UsageError, match=r"stages of the network 'resnet20', which has 3 stages"):
        lineage.grow(teacher=teacher, overrides=[*changes, terms.replace("stage = 2", "stage = 9")])
    hashes = {student.weights_sha256, plain.versions[0].weights_sha256}
    explained = "student.terms=[{name = 'explanation', weight = 5}]"
    stored = "student.soft_targets=stored"
    for more in ([stored], [stored, explained], [explained.replace("5", "5, differentiate = true")]):
        (others,) = lineage.grow(teacher=teacher, overrides=[*changes, "student.label_weight=0.5", *more])
        hashes.add(others.versions[0].weights_sha256)
    assert len(hashes) == 5
    lineage.ensemble([student.uri, teacher], name="both")
    with pytest.raises(UsageError, match=r"stages of the teacher, which has 0 stages"):
        lineage.grow("digits", teacher="models:/both/1", overrides=[*tiny_settings, terms])
