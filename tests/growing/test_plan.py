from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import nll_loss

from lineage.errors import RecipeError, UsageError
from lineage.evaluation.data import SplitData
from lineage.extensions import REVISIONS
from lineage.growing.cache_key import ALWAYS_USED, SCHEDULE_SETTINGS
from lineage.growing.plan import GenerationPlan, check_against_data, read_split_data
from lineage.models.networks import build_network
from lineage.recipe import Recipe, TrainingSettings, load_recipe
from lineage.training.losses import OBJECTIVES
from lineage.training.optimizers import SETTINGS


@pytest.fixture(scope="module")
def split_data() -> SplitData:
    return read_split_data(load_recipe("digits"))


Key = Callable[..., str]


@pytest.fixture
def key(split_data: SplitData) -> Key:
    """The key of a generation of ``digits`` with further settings."""

    def make(*settings: str, generation: int = 0, teacher_key: str | None = None) -> str:
        return GenerationPlan(load_recipe("digits", settings), split_data, generation, teacher_key).key

    return make


@pytest.mark.parametrize(
    "setting",
    [
        "succession.seed=1",
        "data.seed=1",
        "data.validation=0.2",
        "data.train_samples=500",
        "data.subset={seed = 0, half = 0}",
        "data.crop_padding=2",
        "data.augment.policy=rand",
        "data.augment.erasing=0.1",
        "data.augment.mixup=0.2",
        "data.augment.cutmix=1",
        "network.width=8",
        "patriarch.objective=strict",
        "patriarch.strictness=0.9",
        "patriarch.top_k=4",
        "training.epochs=3",
        "training.lr=0.2",
        "training.precision=bf16",
    ],
)
def test_key_of_a_patriarch_changes_with(key: Key, setting: str) -> None:
    assert key(setting) != key()


def test_key_differs_between_halves_and_their_seeds(key: Key) -> None:
    halves = [f"data.subset={{seed = {seed}, half = {half}}}" for seed in (0, 1) for half in (0, 1)]
    assert len({key(half) for half in halves}) == 4


@pytest.mark.parametrize(
    "setting",
    [
        "model.name=other",
        "data.root=elsewhere",
        "data.workers=3",
        "succession.generations=7",
        "student.temperature=4",
        "student.label_weight=0.9",
        "patriarch.smoothing=0.3",
        "data.augment={erasing = 0, mixup = 0}",
    ],
)
def test_key_of_a_patriarch_ignores(key: Key, setting: str) -> None:
    assert key(setting) == key()


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        ("training.gamma=0.5", ""),
        ("training.milestones=[1]", ""),
        ("training.gamma=0.5", "training.schedule=constant"),
        ("training.momentum=0.5", "training.optimizer=adamw"),
        ("training.nesterov=true", "training.optimizer=adamw"),
        ("training.optimizer_options={beta1 = 0.9, eps = 1e-8}", "training.optimizer=adamw"),
        ("training.validate_every=2", ""),
        ("data.padding_mode=reflect", "data.crop_padding=0"),
    ],
)
def test_key_ignores_what_the_chosen_part_does_not_use(key: Key, setting: str, chosen: str) -> None:
    settings = [chosen] if chosen else []
    assert key(setting, *settings) == key(*settings)


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        ("training.gamma=0.5", ["training.schedule=step", "training.milestones=[1]"]),
        ("training.milestones=[2]", ["training.milestones=[1]", "training.schedule=step"]),
        ("training.momentum=0.5", []),
        ("training.nesterov=true", []),
        ("training.weight_decay=0.01", ["training.optimizer=adamw"]),
        ("training.lr=0.01", ["training.optimizer=adamw"]),
        ("training.warmup_epochs=2", []),
        ("training.batch_size=32", []),
        ("training.decay_norm_and_bias=false", []),
        ("training.clip_norm=1", []),
        ("training.ema=0.9", []),
        ("training.accumulation=2", []),
        ("training.optimizer=adamw", []),
        ("training.patience=3", []),
        ("training.balance_classes=true", []),
        ("training.validate_every=2", ["training.patience=3"]),
        ("training.optimizer_options.beta2=0.95", ["training.optimizer=adamw"]),
        ("training.schedule=constant", []),
        ("data.padding_mode=reflect", []),
    ],
)
def test_key_changes_with_what_the_chosen_part_uses(key: Key, setting: str, chosen: list[str]) -> None:
    assert key(*chosen, setting) != key(*chosen)


def test_key_holds_how_stages_are_trained_where_the_network_starts_from_weights(
    key: Key, tmp_path: Path
) -> None:
    file = tmp_path / "start.safetensors"
    save_file(build_network("resnet8", 10, (1, 8, 8), {}).state_dict(), file)
    start = f"network.weights='{file}'"
    found = {key(start), key(start, "training.freeze_stages=1"), key(start, "training.layer_decay=0.5")}
    assert len(found) == 3
    student = f"student.network={{name = 'resnet8', weights = '{file}'}}"
    assert key(student, "training.freeze_stages=1") == key()  # the patriarch starts from random weights
    trained = "training.freeze_stages=1"
    assert key(student, trained, generation=1, teacher_key="a") != key(student, generation=1, teacher_key="a")


def test_stages_that_are_frozen_keep_the_weights_of_the_start(
    split_data: SplitData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINEAGE_HOME", str(tmp_path / "home"))
    start = build_network("resnet8", 10, (1, 8, 8), {"width": 4}).state_dict()
    save_file(start, tmp_path / "start.safetensors")
    settings = ["network.width=4", f"network.weights='{tmp_path}/start.safetensors'", "training.epochs=1"]
    settings += ["training.freeze_stages=2", "training.layer_decay=0.5"]
    training = GenerationPlan(load_recipe("digits", settings), split_data, 0, None).make_training(None)
    assert {group["lr_factor"] for group in training.optimizer.param_groups} == {0.125, 0.25, 0.5, 1.0}
    trained = training.run().network.state_dict()
    kept = {name for name, value in trained.items() if torch.equal(value, start[name])}
    assert kept == {
        name for name in start if name.startswith(("trunk.0.", "trunk.1.", "trunk.3.", "trunk.4."))
    }


def test_every_training_setting_is_always_used_or_of_an_optimizer_or_schedule() -> None:
    used = {*ALWAYS_USED, *SCHEDULE_SETTINGS, *SETTINGS, "optimizer", "schedule"}
    used |= {
        "sync_batchnorm",
        "optimizer_options",
        "handlers",
        "patience",
        "validate_every",
        "balance_classes",
        "freeze_stages",
        "layer_decay",
    }
    assert used == set(TrainingSettings.model_fields)


def test_key_of_a_student_holds_its_own_settings_and_its_teacher(key: Key) -> None:
    student = key(generation=1, teacher_key="a")
    assert key("student.temperature=4", generation=1, teacher_key="a") != student
    assert key(generation=1, teacher_key="b") != student
    assert key(generation=2, teacher_key="a") != student
    assert key("patriarch.strictness=0.5", generation=1, teacher_key="a") == student


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (["student.soft_targets=stored"], True),
        (["student.views=4"], True),
        (["student.views=12"], False),  # one for every epoch
        (["student.soft_target_classes=3"], False),  # nothing is stored
        (["training.sync_batchnorm=true"], True),
        (["student.loss=dkd"], True),
        (["student.loss=dist"], True),
        (["student.loss_weight=2"], True),
        (["student.loss_weight=0.7"], False),  # 1 - λ
        (["student.standardise=true"], True),
        (["student.warmup_epochs=2"], True),
        (["student.terms=[{name = 'hint', weight = 1}]"], True),
    ],
)
def test_key_of_a_student_depends_on_what_it_sees_of_its_teacher(
    key: Key, settings: list[str], changes: bool
) -> None:
    assert (key(*settings, generation=1, teacher_key="a") != key(generation=1, teacher_key="a")) is changes


@pytest.mark.parametrize("setting", ["student.views=4", "student.soft_target_classes=3"])
def test_key_of_a_student_depends_on_how_soft_targets_are_stored(key: Key, setting: str) -> None:
    stored = "student.soft_targets=stored"
    assert key(stored, setting, generation=1, teacher_key="a") != key(stored, generation=1, teacher_key="a")


def test_key_of_a_student_holds_the_options_of_its_loss_as_its_builder_reads_them(key: Key) -> None:
    def keyed(*settings: str) -> str:
        return key("student.loss=dkd", *settings, generation=1, teacher_key="a")

    assert keyed("student.options.beta=8") == keyed("student.options={beta = 8.0, alpha = 1}") == keyed()
    assert keyed("student.options.beta=2") != keyed()


def test_key_of_a_student_holds_weight_and_stage_of_its_terms(key: Key) -> None:
    keys = {
        key(f"student.terms=[{{name = 'hint', {more}}}]", generation=1, teacher_key="a")
        for more in ("weight = 1", "weight = 1, stage = -1", "weight = 2", "weight = 1, stage = 2")
    }
    assert len(keys) == 3


def test_key_of_a_student_holds_the_revision_of_its_terms(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    term = "student.terms=[{name = 'hint', weight = 1}]"
    before = key(term, generation=1, teacher_key="a")
    monkeypatch.setitem(REVISIONS, ("term", "attention"), 1)
    assert key(term, generation=1, teacher_key="a") == before
    monkeypatch.setitem(REVISIONS, ("term", "hint"), 1)
    assert key(term, generation=1, teacher_key="a") != before


def test_key_of_a_student_that_does_not_look_at_its_teacher_holds_nothing_of_the_loss(key: Key) -> None:
    fading = ["student.label_weight=[0.5, 1]"]
    last = [key(*fading, *more, generation=2, teacher_key="a") for more in ([], ["student.loss=dkd"])]
    assert last[0] == last[1]


@pytest.mark.parametrize(
    "setting",
    ["student.soft_targets=stored", "student.views=4", "student.loss=dkd", "student.warmup_epochs=2"],
)
def test_key_of_a_patriarch_knows_nothing_of_students(key: Key, setting: str) -> None:
    assert key(setting) == key()


def test_soft_targets_share_a_digest_whatever_the_student(split_data: SplitData) -> None:
    def digest(*settings: str) -> str:
        recipe = load_recipe("digits", ["student.soft_targets=stored", *settings])
        return GenerationPlan(recipe, split_data, 1, "a").soft_targets_digest

    for same in ("succession.seed=3", "student.temperature=4", "training.lr=0.3", "student.views=3"):
        assert digest(same) == digest()
    for other in (
        "data.seed=1",
        "data.crop_padding=2",
        "data.augment.mixup=0.1",
        "training.precision=bf16",
        "student.soft_target_classes=3",
    ):
        assert digest(other) != digest()


def test_more_soft_target_classes_than_classes_are_refused(split_data: SplitData) -> None:
    recipe = load_recipe("digits", ["student.soft_targets=stored", "student.soft_target_classes=10"])
    with pytest.raises(UsageError, match=r"at least 1 and below the number of classes, 10, but got 10"):
        check_against_data(recipe, split_data)


def test_loss_that_takes_no_soft_labels_is_refused_where_views_are_mixed(
    split_data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES, "strict", lambda: lambda logits, labels: nll_loss(logits, labels))
    check_against_data(load_recipe("digits", ["patriarch.objective=strict"]), split_data)
    recipe = load_recipe("digits", ["patriarch.objective=strict", "data.augment.cutmix=1"])
    sentence = r"loss 'strict' must take soft labels, shape \(B, 10\), .* but fails: .*; choose another loss"
    with pytest.raises(RecipeError, match=sentence):
        check_against_data(recipe, split_data)
    check_against_data(load_recipe("digits", ["data.augment.mixup=0.2"]), split_data)


def test_key_of_a_student_holds_only_its_own_label_weight(key: Key) -> None:
    fading = "student.label_weight=[0.3, 0.6]"
    assert key(fading, generation=1, teacher_key="a") == key(
        "student.label_weight=0.3", generation=1, teacher_key="a"
    )
    assert key(fading, generation=2, teacher_key="a") == key(
        "student.label_weight=0.6", generation=2, teacher_key="a"
    )


def test_key_depends_on_contents_and_not_on_their_name(split_data: SplitData) -> None:
    recipe = load_recipe("digits")
    spec = split_data.dataset.spec

    def keyed(**changes: object) -> str:
        dataset = replace(split_data.dataset, spec=replace(spec, **changes))
        return GenerationPlan(recipe, replace(split_data, dataset=dataset), 0, None).key

    assert keyed() == keyed(name="other")
    assert keyed() != keyed(digest="other")


def test_seeds_of_generations_and_successions_never_meet(split_data: SplitData) -> None:
    seeds = {
        GenerationPlan(load_recipe("digits", [f"succession.seed={seed}"]), split_data, generation, None).seed
        for seed in range(6)
        for generation in range(6)
    }
    assert len(seeds) == 36


def test_first_weights_depend_on_the_seed_alone(split_data: SplitData) -> None:
    def first(*settings: str) -> dict[str, torch.Tensor]:
        plan = GenerationPlan(load_recipe("digits", ["network.width=4", *settings]), split_data, 0, None)
        torch.manual_seed(torch.seed() % 2**31)
        return {k: v.clone() for k, v in plan.make_training(None).network.state_dict().items()}

    weights, same, other = first(), first("training.lr=0.5"), first("succession.seed=1")
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    assert any(not torch.equal(value, other[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("setting", "error", "text"),
    [
        ("patriarch.top_k=11", RecipeError, "between 2 and the number of classes, 10, but got 11"),
        ("training.batch_size=5000", UsageError, "at most the number of training images, 1293, but got 5000"),
        ("network.name=densenet-bc-100-12", RecipeError, "no options, but got .width."),
        ("network.options.depth=3", RecipeError, "'depth'"),
        ("network.options.width=3", RecipeError, "width is 8 and options.width is 3"),
        ("data.crop_padding=8", UsageError, "crop_padding must be"),
        ("training.schedule=nobody:nothing", RecipeError, "Unknown schedule 'nobody:nothing'"),
        ("patriarch.objective=nobody:nothing", RecipeError, "Unknown objective 'nobody:nothing'"),
        ("student.loss=nobody:nothing", RecipeError, "Unknown distillation 'nobody:nothing'"),
        ("student.options.beta=2", RecipeError, "distillation loss 'kl' takes no options"),
        (
            "student.terms=[{name = 'attention', weight = 1, stage = 4}]",
            UsageError,
            "stages of the network 'resnet8', which has 3 stages, but has stage = 4",
        ),
        (
            "student.terms=[{name = 'relation', weight = 1}]",
            RecipeError,
            "must be 1 where the term 'relation' of student.terms compares the samples of a batch",
        ),
        (
            "student={label_weight = 0.3, loss = 'dist'}",
            RecipeError,
            "training.accumulation must be 1 where student.loss 'dist' compares the samples of a batch, but",
        ),
    ],
)
def test_material_refuses_what_does_not_fit_the_data(setting: str, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        read_split_data(load_recipe("digits", ["network.width=8", "training.accumulation=2", setting]))


def test_validation_is_apart_from_training_and_the_same_for_every_seed() -> None:
    def split(recipe: Recipe) -> tuple[list[int], list[int]]:
        split_data = read_split_data(recipe)
        return split_data.train.tolist(), split_data.validation.tolist()

    train, validation = split(load_recipe("digits"))
    assert not set(train) & set(validation)
    assert split(load_recipe("digits", ["succession.seed=7"])) == (train, validation)
    assert split(load_recipe("digits", ["data.seed=7"])) != (train, validation)


@pytest.mark.parametrize("generation", [0, 1])
def test_synchronised_batchnorm_is_refused_on_cpus_before_training(
    split_data: SplitData, generation: int
) -> None:
    recipe = load_recipe("digits", ["training.sync_batchnorm=true"])
    plan = GenerationPlan(recipe, split_data, generation, "a" if generation else None)
    with pytest.raises(UsageError, match=r"training.sync_batchnorm must be false on CPUs"):
        check_against_data(recipe, split_data)
    with pytest.raises(UsageError, match=r"training.sync_batchnorm must be false on CPUs"):
        plan.make_training(None)
