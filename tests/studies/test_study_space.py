import re
from pathlib import Path
from typing import Any

import pytest

from lineage.errors import NotFoundError, RecipeError
from lineage.recipe import (
    NetworkSettings,
    Range,
    Recipe,
    check_space,
    flatten,
    load_recipe,
    own_values,
    recipe_path,
    with_space,
)
from lineage.recipe.keys import number_type, takes_integers

SPACE = """
[study]
sampler = "grid"

[study.space]
"patriarch.strictness" = [0.5, 0.75, 1.0]
"student.temperature" = { low = 1, high = 8, log = true }
"""

CANNOT_HOLD = [
    (["strictnes=0.4:1"], "Unknown recipe key 'strictnes' in a study's space. Did you mean 'strictness'?"),
    (
        ["patriarch.strictnes=0.4:1"],
        "Unknown recipe key 'patriarch.strictnes' in a study's space. Did you mean 'patriarch.strictness'?",
    ),
    (
        ["signal_classes=2..4"],
        "Unknown recipe key 'signal_classes' in a study's space. Did you mean 'student.soft_target_classes'?",
    ),
    (["data.seed=0..3"], "data.seed must not vary within a study, since trials share their images; leave"),
    (
        ["model.name=a,b"],
        "model.name must not vary within a study, since all trials are one family; leave it",
    ),
    (["strictness=0.4:1", "strictness=0.5,1"], "--space must name each recipe key once, but has"),
    (
        ["strictness=0.4:"],
        "--space strictness must read LOW:HIGH, LOW:HIGH:STEP, LOW:HIGH:log, A..B or X,Y,Z,",
    ),
    (["strictness=0.4,,1"], "--space strictness must read LOW:HIGH, LOW:HIGH:STEP, LOW:HIGH:log, A..B or X"),
    (
        ["strictness=1:0.4"],
        "In study.space.patriarch.strictness, low must be at most high, but got 1 and 0.4.",
    ),
    (["temperature=0:8:log"], "In study.space.student.temperature, low must be greater than 0 with log, but"),
    (
        ["strictness=0.4:1:0"],
        "study.space.patriarch.strictness.step must be a number greater than 0, but got 0.",
    ),
    (
        ["top_k=2.5:8"],
        "study.space.patriarch.top_k must be a range of integers, as patriarch.top_k is, but got",
    ),
    (
        ["network.name=1:2"],
        "study.space.network.name must be a list of choices, since network.name is no number",
    ),
]
"""Words after ``--space``, and the beginning of the error."""

ENDS_CANNOT_HOLD = [
    (["strictness=0.4:1.5"], "patriarch.strictness must be greater than 0 and at most 1, but got 1.5."),
    (["label_weight=-0.1:1"], "student.label_weight must be at least 0 and at most 1, but got -0.1."),
    (["optimizer=sgd,adam"], "'lamb', 'muon' or 'package:name', but got 'adam'. Did you mean 'adamw'?"),
    (["flip=1,0"], "data.flip must be true or false, but got 1."),
    (
        [],
        "A study must have a space, but this one has none; add [study.space] to the recipe or give --space,",
    ),
]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Shipped recipe ``digits`` with a section ``[study]``."""
    file = tmp_path / "study.toml"
    file.write_text(recipe_path("digits").read_text() + SPACE)
    return load_recipe(str(file))


def test_study_is_read_from_a_recipe(recipe: Recipe) -> None:
    assert recipe.study.sampler == "grid"
    assert recipe.study.space == {
        "patriarch.strictness": (0.5, 0.75, 1.0),
        "student.temperature": Range(low=1, high=8, log=True),
    }


def test_study_enters_neither_digest_nor_settings(recipe: Recipe) -> None:
    plain = load_recipe("digits")
    assert recipe.digest == plain.digest
    assert flatten(recipe) == flatten(plain)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_dotted_keys_need_no_quotes(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    text = "[study.space]\npatriarch.strictness = [0.5, 1.0]\nstudent.temperature = { low = 1, high = 8 }\n"
    file.write_text(recipe_path("digits").read_text() + text)
    assert list(load_recipe(str(file)).study.space) == ["patriarch.strictness", "student.temperature"]


@pytest.mark.parametrize(
    ("word", "key", "axis"),
    [
        ("strictness=0.4:1.0", "patriarch.strictness", Range(low=0.4, high=1.0)),
        ("strictness=0.5:1:0.25", "patriarch.strictness", Range(low=0.5, high=1, step=0.25)),
        ("temperature=1:8:log", "student.temperature", Range(low=1, high=8, log=True)),
        ("student.label_weight=0.1:0.9", "student.label_weight", Range(low=0.1, high=0.9)),
        ("top_k=2..8", "patriarch.top_k", Range(low=2, high=8, step=1)),
        ("top_k=2..8:2", "patriarch.top_k", Range(low=2, high=8, step=2)),
        ("width=4..64:log", "network.width", Range(low=4, high=64, log=True)),
        ("lr=1e-3:1e-1:log", "training.lr", Range(low=1e-3, high=1e-1, log=True)),
        ("optimizer=sgd,adamw", "training.optimizer", ("sgd", "adamw")),
        ("nesterov=true,false", "training.nesterov", (True, False)),
        ("strictness=0.5,0.75,1.0", "patriarch.strictness", (0.5, 0.75, 1.0)),
        ("network.options.width=4..8", "network.options.width", Range(low=4, high=8, step=1)),
    ],
)
def test_space_is_read_from_the_command_line(word: str, key: str, axis: Any) -> None:
    assert with_space(load_recipe("digits"), [word]).study.space == {key: axis}


def test_words_of_a_space_may_come_together_or_apart() -> None:
    words = ["strictness=0.4:1.0", "top_k=2..8"]
    apart = with_space(load_recipe("digits"), words)
    assert with_space(load_recipe("digits"), [" ".join(words)]) == apart
    assert list(apart.study.space) == ["patriarch.strictness", "patriarch.top_k"]


@pytest.mark.parametrize("head", ["", "[space]\n", "[study.space]\n"])
def test_space_is_read_from_a_file_and_replaces_the_recipes(
    recipe: Recipe, head: str, tmp_path: Path
) -> None:
    file = tmp_path / "a space.toml"
    file.write_text(head + '"training.lr" = [0.05, 0.1]\ntop_k = { low = 2, high = 4 }\n')
    space = with_space(recipe, [str(file)]).study.space
    assert space == {"training.lr": (0.05, 0.1), "patriarch.top_k": Range(low=2, high=4)}


def test_further_study_keys_of_a_space_file_replace_the_recipes(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('[study]\nsampler = "random"\ntrials = 3\n[study.space]\ntop_k = [2, 4]\n')
    study = with_space(recipe, [str(file), "strictness=0.5,1.0"], ["study.seed=3"]).study
    assert (study.sampler, study.trials) == ("random", 3)
    assert study.space == {"patriarch.top_k": (2, 4), "patriarch.strictness": (0.5, 1.0)}


def test_tables_of_several_space_files_come_together(recipe: Recipe, tmp_path: Path) -> None:
    files = [tmp_path / "a.toml", tmp_path / "b.toml"]
    files[0].write_text("patriarch.strictness = [0.5, 1.0]\n")
    files[1].write_text("patriarch.top_k = [2, 4]\n")
    space = with_space(recipe, [str(file) for file in files]).study.space
    assert space == {"patriarch.strictness": (0.5, 1.0), "patriarch.top_k": (2, 4)}


@pytest.mark.parametrize(
    ("text", "overrides", "sentence"),
    [
        (
            '[study]\nsampler = "grid"\n[study.space]\ntop_k = [2, 4]',
            ["study.sampler=random"],
            "study.sampler must be given once, but comes from --space and from another option; leave one",
        ),
        (
            "top_k = [2, 4]",
            ["study.space.strictness=[0.5, 1.0]"],
            "study.space must be given once, but comes from --space and from another option; leave one",
        ),
        (
            "[model]\nname = 'm'\n[study.space]\ntop_k = [2, 4]",
            [],
            "A file of --space must hold a table of recipe keys, [space] or [study] alone, but",
        ),
        ("[space]\ntop_k = [2, 4]\n[study]\ntrials = 3", [], "has 'space' beside 'study'; leave it out"),
        ("[study]\ntrials = 3", [], "A file of --space must have a table [study.space], but"),
        ("study = 3", [], "A file of --space must have a table [study.space], but"),
        ("space = 3", [], "must be a table of recipe keys, but is 3."),
        (
            "[study]\nsamplr = 'grid'\n[study.space]\ntop_k = [2, 4]",
            [],
            "Unknown recipe key 'study.samplr'. Did you mean 'sampler'?",
        ),
        ("[data]\nflip = [true, false]\nx = [1]", [], "Unknown recipe key 'data.x' in a study's space."),
    ],
)
def test_space_file_with_keys_that_would_have_no_effect_is_refused(
    text: str, overrides: list[str], sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        with_space(load_recipe("digits", overrides), [str(file)], overrides)


def test_space_of_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        NotFoundError, match=r"--space must be key=RANGE or a TOML file, but there is no file 'x'"
    ):
        with_space(load_recipe("digits"), ["x"])


@pytest.mark.parametrize(("words", "sentence"), CANNOT_HOLD)
def test_space_that_cannot_be_read_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        with_space(load_recipe("digits"), words)


@pytest.mark.parametrize(("words", "sentence"), ENDS_CANNOT_HOLD)
def test_every_end_of_a_space_must_hold(words: list[str], sentence: str) -> None:
    recipe = with_space(load_recipe("digits"), words)
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        list(check_space(recipe))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["soft_targets=stored", "soft_target_classes=3"], ["temperature=1:4"]),
        (["soft_targets=stored"], ["temperature=1,4", "soft_target_classes=2..3"]),
        (["soft_target_classes=3"], ["temperature=1:4", "soft_targets=live,stored"]),
        ([], ["temperature=1:4", "soft_targets=stored", "soft_target_classes=3,5"]),
    ],
)
def test_temperature_must_not_vary_where_top_classes_are_stored(
    settings: list[str], words: list[str]
) -> None:
    digits = load_recipe("digits", [f"student.{setting}" for setting in settings])
    with pytest.raises(RecipeError, match=r"student\.temperature must not vary in a study whose stored soft"):
        list(check_space(with_space(digits, words)))


@pytest.mark.parametrize(
    "words",
    [
        ["temperature=2", "soft_targets=stored", "soft_target_classes=3,5"],
        ["temperature=1:4", "soft_targets=live", "soft_target_classes=3"],
        ["temperature=1:4", "soft_targets=live,stored"],
    ],
)
def test_temperature_may_vary_where_all_classes_are_stored_or_none(words: list[str]) -> None:
    assert list(check_space(with_space(load_recipe("digits"), words)))


def test_ends_of_a_space_are_checked_with_every_choice_of_other_keys() -> None:
    words = ["soft_target_classes=2..20", "soft_targets=live,stored", "optimizer=adamw"]
    found = [flatten(variant) for variant in check_space(with_space(load_recipe("digits"), words))]
    keys = ("student.soft_target_classes", "student.soft_targets", "training.optimizer")
    combinations = {tuple(settings[key] for key in keys) for settings in found}
    assert {(20, "stored", "sgd"), (2, "stored", "sgd"), (20, "live", "adamw")} <= combinations


def test_values_that_contradict_each_other_are_refused_only_if_no_trial_could_hold() -> None:
    digits = load_recipe("digits", ["training.nesterov=false"])
    assert list(check_space(with_space(digits, ["momentum=0.0,0.9", "nesterov=true,false"])))
    with pytest.raises(RecipeError, match=r"training\.nesterov needs a training\.momentum greater than 0"):
        list(check_space(with_space(digits, ["momentum=0.0:0.9", "nesterov=true"])))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("{ lo = 1, high = 8 }", "takes low, high, step and log, but got 'lo'. Did you mean 'low'?"),
        ("{ low = 1 }", "must have low and high, but lacks high."),
        ("{ low = 1, high = 'x' }", "must be a number, but got 'x'."),
        (
            "{ low = 1, high = 8, step = 1, log = true }",
            "step and log exclude each other, but got step 1 and log.",
        ),
        ("{ low = 1, high = 8, log = 1 }", "must be true or false, but got 1."),
        ("[]", "must be a list of choices or a table of low and high, but got []."),
        ("[[1]]", "must be one value, but got [1]."),
        ("3", "must be a list of choices or a table of low and high, but got 3."),
    ],
)
def test_range_that_cannot_hold_is_refused(table: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    text = f'[study.space]\n"student.temperature" = {table}\n'
    file.write_text(recipe_path("digits").read_text() + text)
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        load_recipe(str(file))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("study.samplr=tpe", "Unknown recipe key 'study.samplr'. Did you mean 'sampler'?"),
        (
            "study.sampler=tp",
            "study.sampler must be 'tpe', 'gp', 'cmaes', 'grid', 'random', 'qmc' or 'nsgaii'",
        ),
        ("study.trials=0", "study.trials must be greater than 0, but got 0."),
        ("study.grace=60", "study.grace must be greater than study.heartbeat, but got 60 and 60."),
        (
            "study.objective=test_accuracy",
            "study.objective must be measured on the validation part, but got 'test_accuracy': what is",
        ),
        (
            "study.objective=ensemble_accuracy",
            "study.objective must be measured on the validation part, but got",
        ),
        ("study.objective=acuracy", "but got 'acuracy'. Did you mean 'accuracy'?"),
        ("study.objective=accuracy,accuracy", "study.objective must name each metric once, but got"),
        ("study.objective=3", "study.objective must be a metric, or several between commas, but got 3."),
        ("study.space=3", "study.space must be a table of recipe keys, but got 3."),
    ],
)
def test_study_settings_that_cannot_hold_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        load_recipe("digits", [override])


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("accuracy,seconds", ("accuracy", "seconds")),
        ("['accuracy', 'calibration']", ("accuracy", "calibration")),
        ("validation_accuracy,validation_calibration_error", ("accuracy", "calibration")),
    ],
)
def test_objectives_are_read_from_a_text_or_a_list(given: str, names: tuple[str, ...]) -> None:
    assert load_recipe("digits", [f"study.objective={given}"]).study.objective == names


def test_pruner_is_median_but_for_a_grid_and_several_objectives() -> None:
    def in_use(*settings: str) -> str:
        return load_recipe("digits", [f"study.{setting}" for setting in settings]).study.pruner_in_use

    assert in_use() == "median"
    assert in_use("sampler=grid") == "none"
    assert in_use("sampler=grid", "pruner=hyperband") == "hyperband"
    assert in_use("objective=accuracy,seconds", "pruner=median") == "none"


def test_own_values_are_those_of_the_recipe_where_all_lie_inside() -> None:
    digits = load_recipe("digits")
    words = ["strictness=0.4:1.0:0.2", "temperature=1:8:log", "label_weight=0.1:0.9", "top_k=2..8"]
    assert own_values(with_space(digits, words)) == {
        "patriarch.strictness": 0.8,
        "student.temperature": 1.0,
        "student.label_weight": 0.3,
        "patriarch.top_k": 3,
    }
    assert own_values(with_space(digits, ["strictness=0.5:1.0:0.25"])) is None
    assert own_values(with_space(digits, ["optimizer=adamw"])) is None
    assert own_values(with_space(digits, ["width=4..8"])) is None  # the network's own default is no number


def test_augmentation_varies_though_the_recipe_has_none() -> None:
    words = ["data.augment.mixup=0:1", "data.augment.policy=trivial,rand"]
    recipes = list(check_space(with_space(load_recipe("digits"), words)))
    found = {(r.data.augment.mixup, r.data.augment.policy) for r in recipes if r.data.augment is not None}
    assert found == {
        (1.0, None),
        *((mixup, policy) for mixup in (0.0, 1.0) for policy in ("trivial", "rand")),
    }
    with pytest.raises(
        RecipeError, match=r"data.augment.mixup must be at least 0 and at most 100, but got 200"
    ):
        list(check_space(with_space(load_recipe("digits"), ["data.augment.mixup=0:200"])))


def test_types_of_keys_are_those_of_the_sections() -> None:
    assert [number_type(key) for key in ("patriarch.top_k", "student.label_weight", "data.flip")] == [
        int,
        float,
        None,
    ]
    assert takes_integers("network.width", (4, 8))
    assert takes_integers("network.options.width", (4, 8))
    assert not takes_integers("network.options.rate", (0.5, 1))
    assert not takes_integers("student.temperature", (1, 8))


def test_options_of_a_distillation_loss_vary() -> None:
    recipe = with_space(load_recipe("digits", ["student.loss=dkd"]), ["student.options.beta=2:8"])
    assert [found.student.options for found in check_space(recipe)] == [{"beta": 2.0}, {"beta": 8.0}]


def test_network_of_students_and_options_of_a_policy_vary() -> None:
    settings = ["student.network.name=resnet20", "data.augment.policy=rand"]
    space = [
        "network.width=4,8",
        "student.network.width=2..4",
        "student.network.options.depth=1:3",
        "data.augment.options.num_ops=1..2",
    ]
    recipe = with_space(load_recipe("digits", settings), space)
    assert list(recipe.study.space) == [axis.partition("=")[0] for axis in space]
    network, student, option, policy = [found for found in check_space(recipe) if found != recipe][:8:2]
    assert (network.network.width, student.student.network) == (4, NetworkSettings(name="resnet20", width=2))
    assert option.student.network == NetworkSettings(name="resnet20", options={"depth": 1.0})
    assert policy.data.augment is not None
    assert policy.data.augment.options == {"num_ops": 1}


def test_warm_up_must_say_whether_of_the_student_or_of_the_learning_rate() -> None:
    with pytest.raises(RecipeError, match=r"may be student\.warmup_epochs or training\.warmup_epochs; write"):
        with_space(load_recipe("digits"), ["warmup_epochs=0..3"])
