import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lineage.errors import NotFoundError, RecipeError, UsageError
from lineage.recipe import (
    Recipe,
    find_recipe,
    load_recipe,
    override_texts,
    recipe_names,
    recipe_path,
    recipe_schema,
)

REPOSITORY = Path(__file__).parents[2]
MINIMAL = """
[model]
name = "small"
[data]
name = "digits"
[network]
name = "resnet8"
[patriarch]
objective = "strict"
[student]
label_weight = 0.5
[training]
epochs = 1
"""


@pytest.fixture
def minimal(tmp_path: Path) -> str:
    path = tmp_path / "minimal.toml"
    path.write_text(MINIMAL)
    return str(path)


@pytest.fixture(params=recipe_names())
def shipped(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_shipped_recipes_have_names_of_their_own() -> None:
    files = [*recipe_path("digits").parent.rglob("*.toml")]
    assert len(files) == len(recipe_names())


def test_shipped_recipes_are_those_promised() -> None:
    assert recipe_names() == [
        "cifar100-densenet-bc-100-12",
        "cifar100-function-matching",
        "cifar100-resnet110",
        "cifar100-resnet20",
        "cifar100-resnet32x4-to-8x4",
        "cifar100-resnet56",
        "cifar100-resnet56-to-20",
        "cifar100-small",
        "cifar100-wrn-28-10",
        "compare-confidence-penalty",
        "compare-label-smoothing",
        "compare-strict",
        "digits",
        "evidence-confidence-penalty",
        "evidence-label-smoothing",
        "evidence-strict",
        "evidence-tolerant",
        "imagefolder-finetune",
        "imagenet-resnet18",
        "imagenet-resnet50",
    ]


def test_shipped_recipe_loads_and_names_its_model_after_itself(shipped: str) -> None:
    assert load_recipe(shipped).model.name == shipped


def test_shipped_recipe_tells_source_hardware_and_measurement_in_its_header(shipped: str) -> None:
    header = recipe_path(shipped).read_text(encoding="utf-8").partition("\n[")[0]
    assert header.startswith("# ")
    assert all(f"\n# {word}" in header for word in ("source: ", "hardware: ", "measured: "))


def test_shipped_recipe_survives_json(shipped: str) -> None:
    recipe = load_recipe(shipped)
    restored = Recipe.from_json(recipe.to_json())
    assert restored == recipe
    assert restored.digest == recipe.digest


@pytest.mark.parametrize("rival", ["strict", "label-smoothing", "confidence-penalty"])
@pytest.mark.parametrize(
    ("first", "family"), [("cifar100-small", "compare"), ("evidence-tolerant", "evidence")]
)
def test_compared_recipe_differs_from_the_tolerant_one_in_the_patriarch_alone(
    first: str, family: str, rival: str
) -> None:
    tolerant, other = (load_recipe(name).model_dump() for name in (first, f"{family}-{rival}"))
    assert tolerant.pop("patriarch")["objective"] == "tolerant"
    assert other.pop("patriarch")["objective"] == rival
    assert other["model"].pop("name") != tolerant["model"].pop("name")
    assert other == tolerant


def test_linear_fade_of_the_digits_recipe_holds_once_uncommented(tmp_path: Path) -> None:
    text = recipe_path("digits").read_text(encoding="utf-8").replace("label_weight = 0.3", "")
    path = tmp_path / "fade.toml"
    path.write_text(text.replace("# label_weight", "label_weight"), encoding="utf-8")
    student = load_recipe(str(path)).student
    weights = [student.label_weight_for(generation) for generation in range(1, 7)]
    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_defaults_are_those_documented(minimal: str) -> None:
    settings = load_recipe(minimal).model_dump()
    assert settings["data"] == {
        "name": "digits",
        "root": None,
        "download": False,
        "test": None,
        "options": {},
        "validation": 0.1,
        "seed": 0,
        "train_samples": None,
        "subset": None,
        "image_size": None,
        "crop_padding": 0,
        "padding_mode": "reflect",
        "flip": False,
        "augment": None,
        "workers": 0,
    }
    assert settings["network"] == {
        "name": "resnet8",
        "width": None,
        "options": {},
        "weights": None,
        "strip_prefix": None,
    }
    assert settings["patriarch"] == {
        "objective": "strict",
        "strictness": 0.8,
        "top_k": 5,
        "smoothing": 0.1,
        "penalty": 0.1,
        "options": {},
    }
    assert settings["student"] == {
        "network": None,
        "label_weight": 0.5,
        "loss": "kl",
        "options": {},
        "loss_weight": None,
        "standardise": False,
        "terms": (),
        "warmup_epochs": 0,
        "temperature": 1.0,
        "soft_targets": "live",
        "views": None,
        "soft_target_classes": None,
    }
    assert settings["training"] == {
        "epochs": 1,
        "batch_size": 128,
        "optimizer": "sgd",
        "optimizer_options": {},
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
        "schedule": "cosine",
        "milestones": (),
        "gamma": 0.1,
        "schedule_options": {},
        "warmup_epochs": 0.0,
        "clip_norm": None,
        "precision": "fp32",
        "ema": None,
        "accumulation": 1,
        "sync_batchnorm": False,
        "balance_classes": False,
        "freeze_stages": 0,
        "layer_decay": 1.0,
        "validate_every": 1,
        "patience": None,
        "handlers": (),
    }
    assert settings["succession"] == {"generations": 2, "seed": 0, "student": ()}


def test_augmentation_that_sets_nothing_is_that_of_no_table(minimal: str) -> None:
    plain = load_recipe(minimal)
    assert load_recipe(minimal, ["data.augment={erasing = 0}"]) == plain
    cropped = load_recipe(minimal, ["data.augment.random_resized_crop={}"])
    assert cropped.digest != plain.digest
    assert load_recipe(minimal, ["data.augment.random_resized_crop.scale=[0.08, 1]"]).digest == cropped.digest


def test_stored_augmentation_is_read_as_it_was_written(minimal: str) -> None:
    augment = "{random_resized_crop = {scale = [0.2, 1]}, policy = 'rand', options.magnitude = 3, mixup = 1}"
    recipe = load_recipe(minimal, [f"data.augment={augment}"])
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(recipe.to_json()).digest == recipe.digest


def test_recipe_is_frozen(minimal: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe(minimal).training.epochs = 3


def test_single_label_weight_holds_for_every_generation(minimal: str) -> None:
    student = load_recipe(minimal).student
    assert [student.label_weight_for(generation) for generation in (1, 9)] == [0.5, 0.5]


def test_loss_weight_is_what_the_labels_leave_unless_it_is_given(minimal: str) -> None:
    fading = ["student.label_weight=[0, 0.25, 1]"]
    students = [load_recipe(minimal, fading + more).student for more in ([], ["student.loss_weight=2"])]
    assert [students[0].loss_weight_for(number) for number in (1, 2, 3, 4)] == [1.0, 0.75, 0.0, 0.0]
    assert [students[1].loss_weight_for(number) for number in (1, 4)] == [2.0, 2.0]
    assert [student.taught_generations for student in students] == [[1, 2], [1, 2, 3]]


def test_generation_has_its_own_network_label_weight_and_epochs(minimal: str) -> None:
    own = "succession.student=[{generation = 2, label_weight = 1, epochs = 7, network = {name = 'resnet32'}}]"
    weights = "student.label_weight=[0.1, 0.2, 0.3]"
    recipe = load_recipe(minimal, ["network.width=9", "student.network.name=resnet20", weights, own])
    found = [recipe.for_generation(number) for number in range(5)]
    assert [str(one.network) for one in found] == [
        "resnet8 (width=9)", "resnet20", "resnet32", "resnet20", "resnet20",
    ]  # fmt: skip
    assert [one.training.epochs for one in found] == [1, 1, 7, 1, 1]
    assert [one.student.label_weight_for(number) for number, one in enumerate(found) if number] == [
        0.1, 1, 0.3, 0.3,
    ]  # fmt: skip
    assert [one.student.label_weight for one in found[3:]] == [(0.1, 0.2, 0.3)] * 2
    assert found[2].for_generation(2) == found[2]
    recipe.require_reached(2)
    with pytest.raises(RecipeError, match="must name generations from 1 to 1, the last one that is grown, b"):
        recipe.require_reached(1)


def test_weights_of_one_generation_must_hold_with_those_of_all(minimal: str) -> None:
    own = "succession.student=[{generation = 2, label_weight = 0}]"
    load_recipe(minimal, [own, "student.loss_weight=[0, 1]"])
    with pytest.raises(RecipeError, match=r"must not both be 0, but are for generation 2, whose logits"):
        load_recipe(minimal, [own, "student.loss_weight=[1, 0]"])
    few = ["training.epochs=9", "training.patience=3", "succession.student=[{generation = 2, epochs = 2}]"]
    with pytest.raises(
        RecipeError, match=r"patience must be less than training\.epochs, 2, or it ends nothing"
    ):
        load_recipe(minimal, few)


def test_digest_does_not_depend_on_the_order_of_single_students(minimal: str) -> None:
    own = ["{generation = 1, epochs = 2}", "{generation = 2, epochs = 3}"]
    orders = (f"succession.student=[{', '.join(order)}]" for order in (own, own[::-1]))
    assert len({load_recipe(minimal, [order]).digest for order in orders}) == 1


def test_terms_are_read_with_the_last_stage_by_default(minimal: str) -> None:
    terms = "student.terms=[{name = 'hint', weight = 100}, {name = 'relation', weight = 1, stage = 2}]"
    student = load_recipe(minimal, [terms, "student.label_weight=1", "student.warmup_epochs=2"]).student
    assert [(term.name, term.weight, term.stage) for term in student.terms] == [
        ("hint", 100.0, -1),
        ("relation", 1.0, 2),
    ]


def test_label_weight_of_a_patriarch_is_refused(minimal: str) -> None:
    with pytest.raises(ValueError, match="generation must be at least 1, the first student, but got 0"):
        load_recipe(minimal).student.label_weight_for(0)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.lr=1", 1.0),
        ("training.lr = 1e-2", 0.01),
        ("data.root=../shared/data/cifar100", "../shared/data/cifar100"),
        ("data.root='../shared/data'", "../shared/data"),
        ("data.root=a=b", "a=b"),
        ("training.milestones=[3, 7]", (3, 7)),
        ("student.label_weight=[0, 1]", (0.0, 1.0)),
        ("succession.seed=4", 4),
        ("data.flip=true", True),
        ("network.name=torchvision:resnet18", "torchvision:resnet18"),
        ("network.name=my_package:my-network", "my_package:my-network"),
        ("data.name=hub:uoft-cs/cifar100", "hub:uoft-cs/cifar100"),
        ("training.schedule=my_package:poly", "my_package:poly"),
        ("model.name=Größe 2", "Größe 2"),
    ],
)
def test_override_sets_a_toml_value_or_a_bare_word(minimal: str, override: str, expected: Any) -> None:
    section, key = override.partition("=")[0].strip().split(".")
    found = load_recipe(minimal, [override]).model_dump()[section][key]
    assert found == expected
    assert type(found) is type(expected)


def test_override_reaches_into_network_options(minimal: str) -> None:
    overrides = ["network.options.dropout=0.5", "network.options.depth=3", "network.options.wide=true"]
    assert load_recipe(minimal, overrides).network.options == {"dropout": 0.5, "depth": 3, "wide": True}


def test_overrides_as_values_are_those_as_texts(minimal: str) -> None:
    values = {
        "training.lr": 0.25,
        "data": {"root": Path("/my images"), "flip": False, "subset": {"seed": 1, "half": 0}},
        "network.options": {"rate": 1e-7, "name": 'a "b" \U0001f600\x7f'},
    }
    recipe = load_recipe(minimal, override_texts(values))
    assert (recipe.training.lr, recipe.data.root, recipe.data.flip) == (0.25, "/my images", False)
    assert recipe.data.subset is not None
    assert recipe.data.subset.model_dump() == {"seed": 1, "half": 0}
    assert recipe.network.options == values["network.options"]
    space = override_texts({"study": {"space": {"student.temperature": [1, 2.5]}}})
    assert load_recipe(minimal, space).study.space["student.temperature"] == (1, 2.5)
    assert override_texts(["training.lr=1"]) == ["training.lr=1"]


def test_overrides_that_toml_does_not_have_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"^The value of 'data\.root' must be .* got NoneType; leave"):
        override_texts({"data": {"root": None}})
    with pytest.raises(UsageError, match=r"got the text 'training\.lr=1'; put it into a list"):
        override_texts("training.lr=1")


def test_last_of_several_overrides_holds(minimal: str) -> None:
    assert load_recipe(minimal, ["training.epochs=5", "training.epochs=7"]).training.epochs == 7


def test_override_repairs_a_value_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(MINIMAL.replace("epochs = 1", "epochs = -1"))
    assert load_recipe(str(path), ["training.epochs=1"]).training.epochs == 1


REFUSED = {
    "patriarch.strictnes=0.5": "Unknown recipe key 'patriarch.strictnes'. Did you mean 'strictness'?",
    "student.signals=stored": "Unknown recipe key 'student.signals'. Did you mean 'student.soft_targets'?",
    "signal_classes=3": "Unknown recipe key 'signal_classes'. Did you mean 'student.soft_target_classes'?",
    "patriach.top_k=3": "Unknown recipe key 'patriach'. Did you mean 'patriarch'?",
    "data.temperature=2": "Unknown recipe key 'data.temperature'. Did you mean 'student.temperature'?",
    "epochs=3": "Unknown recipe key 'epochs'. Did you mean 'training.epochs'?",
    "training.zzz=3": "Unknown recipe key 'training.zzz'.",
    "patriarch={}": "A recipe must have the key 'patriarch.objective', but this one has not.",
    "training=3": "training must be a table of keys, but got 3.",
    "patriarch.strictness=0": "patriarch.strictness must be greater than 0 and at most 1, but got 0.",
    "patriarch.top_k=1": "patriarch.top_k must be at least 2, but got 1.",
    "patriarch.smoothing=1": "patriarch.smoothing must be at least 0 and less than 1, but got 1.",
    "data.validation=1.0": "data.validation must be at least 0 and less than 1, but got 1.0.",
    "data.train_samples=0": "data.train_samples must be greater than 0, but got 0.",
    "data.subset=3": "data.subset must be a table of keys, but got 3.",
    "data.subset={half = 0}": "A recipe must have the key 'data.subset.seed', but this one has not.",
    "data.subset={seed = 1, half = 2}": "data.subset.half must be at least 0 and at most 1, but got 2.",
    "data.subset={seed = 1, half = 0, halv = 1}": (
        "Unknown recipe key 'data.subset.halv'. Did you mean 'half'?"
    ),
    "data.subset={seed = -1, half = 2}": ("data.subset.seed must be at least 0, but got -1; 1 more problem."),
    "data.augment={erasing = 2}": "data.augment.erasing must be at least 0 and at most 1, but got 2.",
    "data.augment.mixup=-1": "data.augment.mixup must be at least 0 and at most 100, but got -1.",
    "data.augment={policy = 'triviel'}": (
        "data.augment.policy must be 'trivial', 'rand' or 'package:name', but got 'triviel'. Did you mean"
        " 'trivial'?"
    ),
    "data.augment.options.magnitude=[1]": (
        "data.augment.options.magnitude must be true or false, an integer, a number or a text, but got [1]."
    ),
    "data.augment.options={magnitude = 3}": (
        "data.augment.options has no effect without data.augment.policy, but has magnitude; set the policy or"
        " leave them out."
    ),
    "data.augment.random_resized_crop={scale = [0, 1]}": (
        "data.augment.random_resized_crop.scale[0] must be greater than 0 and at most 1, but got 0."
    ),
    "data.augment.random_resized_crop={scale = [1, 0.5]}": (
        "data.augment.random_resized_crop.scale must be two numbers, the smaller one first, but got [1.0,"
        " 0.5]."
    ),
    "data.augment.random_resized_crop.ratio=[1]": (
        "data.augment.random_resized_crop.ratio must be two numbers, the smaller one first, but got [1.0]."
    ),
    "data.augment.random_resized_crop={scael = [0.5, 1]}": (
        "Unknown recipe key 'data.augment.random_resized_crop.scael'. Did you mean 'scale'?"
    ),
    "data={name = 'digits', crop_padding = 1, augment.random_resized_crop = {}}": (
        "data.crop_padding has no effect where data.augment.random_resized_crop is set, but is 1; leave one"
        " of them out."
    ),
    "data.download=2026-01-02": "data.download must be true or false, but got 2026-01-02.",
    "data.root=3": "data.root must be a text, but got 3.",
    "data.name=cifar1000": (
        "data.name must be 'digits', 'cifar10', 'cifar100', 'imagefolder', 'imagenet', 'hub:owner/name' or "
        "'package:name', but got 'cifar1000'. Did you mean 'cifar100'?"
    ),
    "patriarch.objective=tolerat": (
        "patriarch.objective must be 'tolerant', 'strict', 'label-smoothing', 'confidence-penalty' or "
        "'package:name', but got 'tolerat'. Did you mean 'tolerant'?"
    ),
    "model.name=a/b": (
        "model.name must be a text that is not empty and holds neither '/' nor ':', but got 'a/b'."
    ),
    "model.name=''": "model.name must be a text that is not empty and holds neither '/' nor ':', but got ''.",
    "student.temperature=-1": "student.temperature must be greater than 0, but got -1.",
    "student.label_weight=1.5": "student.label_weight must be at least 0 and at most 1, but got 1.5.",
    "student.label_weight=[0, 2]": "student.label_weight[1] must be at least 0 and at most 1, but got 2.",
    "student.label_weight=[]": "student.label_weight must be a list that is not empty, but got [].",
    "student.loss=kld": (
        "student.loss must be 'kl', 'dkd', 'dist' or 'package:name', but got 'kld'. Did you mean 'kl'?"
    ),
    "training.patience=1": (
        "training.patience must be less than training.epochs, 1, or it ends nothing, but got 1; lower it or"
        " leave it out."
    ),
    "training.validate_every=0": "training.validate_every must be greater than 0, but got 0.",
    "student.loss_weight=-1": "student.loss_weight must be at least 0, but got -1.",
    "student.loss_weight=[]": "student.loss_weight must be a list that is not empty, but got [].",
    "student.options.beta=[1]": (
        "student.options.beta must be true or false, an integer, a number or a text, but got [1]."
    ),
    "student={label_weight = [0.5, 0], loss_weight = 0}": (
        "student.label_weight and student.loss_weight must not both be 0, but are for generation 2, whose"
        " logits would learn from nothing; raise one."
    ),
    "student={label_weight = 1, loss = 'dkd'}": (
        "student.loss has no effect where no student looks at its teacher: student.loss_weight, which is 1 -"
        " student.label_weight by default, is 0; raise it, or leave the setting out."
    ),
    "student={label_weight = 0.5, loss_weight = 0, warmup_epochs = 3}": (
        "student.warmup_epochs has no effect where no student looks at its teacher: student.loss_weight,"
        " which is 1 - student.label_weight by default, is 0; raise it, or leave the setting out."
    ),
    "student={label_weight = 0, standardise = true, soft_targets = 'stored', soft_target_classes = 3}": (
        "student.standardise needs the logits of all classes, but student.soft_target_classes stores the"
        " largest 3; leave one of them out."
    ),
    "student.terms=[{name = 'hint', weight = 0}]": (
        "student.terms[0].weight must be greater than 0, but got 0."
    ),
    "student.terms=[{name = 'hint', weight = 1}, {name = 'hunt', weight = 1}]": (
        "student.terms[1].name must be 'hint', 'attention', 'relation', 'explanation' or 'prior', but"
        " got 'hunt'. Did you mean 'hint'?"
    ),
    "student.terms=[{name = 'hint', weight = 1, stage = 0}]": (
        "student.terms.stage must not be 0: stages count from 1, or back from -1."
    ),
    "student.terms=[{name = 'hint'}]": (
        "A recipe must have the key 'student.terms[0].weight', but this one has not."
    ),
    "student.terms=[{name = 'hint', weight = 1, stag = 2}]": (
        "Unknown recipe key 'student.terms[0].stag'. Did you mean 'stage'?"
    ),
    "student.terms=[3]": "student.terms[0] must be a table of keys, but got 3.",
    "student.terms=[{name = 'hint', weight = 1}, {name = 'hint', weight = 2, stage = -1}]": (
        "student.terms must have each term once a stage, but has 'hint' twice at stage -1; give one of them"
        " the sum of the weights."
    ),
    "student={label_weight = 1, soft_targets = 'stored', terms = [{name = 'hint', weight = 1}]}": (
        "The term 'hint' of student.terms looks at the teacher's feature maps, which stored soft targets do"
        " not hold; set student.soft_targets to 'live', or leave out the term."
    ),
    "student={label_weight = 1, soft_targets = 'stored', terms = [{name = 'explanation', weight = 1,"
    " differentiate = true}]}": (
        "The term 'explanation' of student.terms looks at the teacher's differentiated logits, which stored"
        " soft targets do not hold; set student.soft_targets to 'live', or leave out the term."
    ),
    "student={label_weight = 1, soft_targets = 'stored', terms = [{name = 'explanation', weight = 1},"
    " {name = 'explanation', weight = 1, stage = 2}]}": (
        "student.terms must have 'explanation' once where soft targets are stored, which hold those of one"
        " stage, but has it 2 times; keep one, or set student.soft_targets to 'live'."
    ),
    "student.terms=[{name = 'hint', weight = 1, differentiate = true}]": (
        "student.terms.differentiate must be left out but for the term 'explanation', but is set for 'hint',"
        " which has no use for it."
    ),
    "succession.student=[{generation = 0, epochs = 1}]": (
        "succession.student[0].generation must be at least 1 and at most 100,000, but got 0."
    ),
    "succession.student=[{epochs = 1}]": (
        "A recipe must have the key 'succession.student[0].generation', but this one has not."
    ),
    "succession.student=[{generation = 1}]": (
        "succession.student must have a network, label_weight or epochs for generation 1, but has none; give"
        " one, or leave the entry out."
    ),
    "succession.student=[{generation = 2, epochs = 1}, {generation = 2, label_weight = 1}]": (
        "succession.student must have each generation once, but has 2 2 times; put its settings into one"
        " entry."
    ),
    "succession.student=[{generation = 1, epoch = 1}]": (
        "Unknown recipe key 'succession.student[0].epoch'. Did you mean 'epochs'?"
    ),
    "succession.student=[{generation = 1, network = {name = 'resnet9'}}]": (
        "succession.student[0].network.name must be 'resnet8', 'resnet20', 'resnet32', 'resnet44',"
        " 'resnet56', 'resnet110', 'resnet8x4', 'resnet32x4', 'densenet-bc-100-12', 'densenet-bc-190-40',"
        " 'wrn-16-2', 'wrn-28-10', 'wrn-40-2', 'torchvision:NAME' or 'package:name',"
        " but got 'resnet9'. Did you mean 'resnet8'?"
    ),
    "student={label_weight = 1, loss_weight = 1, network = {width = 3}}": (
        "A recipe must have the key 'student.network.name', but this one has not."
    ),
    "student.network={name = 'resnet8', strip_prefix = 'net.'}": (
        "strip_prefix must come with a file as the network's weights; remove it."
    ),
    "student.label_weight=much": "student.label_weight must be a number or a list, but got 'much'.",
    "training.epochs=ten": "training.epochs must be an integer, but got 'ten'.",
    "training.epochs=1.0": "training.epochs must be an integer, but got 1.0.",
    "training.epochs=true": "training.epochs must be an integer, but got true.",
    "training.lr='0.1'": "training.lr must be a number, but got '0.1'.",
    "training.lr=false": "training.lr must be a number, but got false.",
    "training.lr=nan": "training.lr must be a finite number, but got nan.",
    "training.ema=1": "training.ema must be greater than 0 and less than 1, but got 1.",
    "training.precision=bf17": (
        "training.precision must be 'fp32', 'bf16' or 'fp16', but got 'bf17'. Did you mean 'bf16'?"
    ),
    "training.milestones=[1.5]": "training.milestones[0] must be an integer, but got 1.5.",
    "training.milestones=[2, 2]": "training.milestones must be ascending, but got [2, 2].",
    "training.schedule=step": (
        "training.schedule 'step' needs training.milestones, a list of epochs, but got none."
    ),
    "training.accumulation=3": (
        "training.batch_size must be divisible by training.accumulation, but got 128 and 3."
    ),
    "training={epochs = 1, nesterov = true, momentum = 0}": (
        "training.nesterov needs a training.momentum greater than 0, but got 0."
    ),
    "succession.generations=-1": "succession.generations must be at least 0 and at most 100,000, but got -1.",
    "network.options.c=[1]": (
        "network.options.c must be true or false, an integer, a number or a text, but got [1]."
    ),
    "network.options=3": "network.options must be a table, but got 3.",
    "data.root": "--set must be given section.key=value, but got 'data.root'.",
    "data..root=x": "--set must be given section.key=value, but got 'data..root=x'.",
    "data.root=": "--set must be given TOML, but 'data.root=' is not: Invalid value.",
    "data.root='../shared": """--set must be given TOML, but 'data.root='../shared' is not: Expected "'".""",
    "data.seed=1\nflip=true": "--set must give one value, but got several in 'data.seed=1\nflip=true'.",
    "model.name.first=x": "--set model.name.first needs a table 'model.name', but it is a value.",
}


@pytest.mark.parametrize("override", REFUSED)
def test_override_that_cannot_hold_is_refused_in_one_sentence(minimal: str, override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(minimal, [override])
    assert str(caught.value) == REFUSED[override]
    assert caught.value.__cause__ is None


def test_several_problems_are_counted_after_the_first(minimal: str) -> None:
    with pytest.raises(RecipeError, match=r"^data.seed must be at least 0, but got -1; 2 more problems\.$"):
        load_recipe(minimal, ["data.seed=-1", "training.lr=x", "network.name=none"])


def test_mistyped_key_is_told_before_the_one_it_leaves_missing(tmp_path: Path) -> None:
    path = tmp_path / "mistyped.toml"
    path.write_text(MINIMAL.replace("epochs", "epoch"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert str(caught.value) == (
        "Unknown recipe key 'training.epoch'. Did you mean 'epochs'? 1 more problem."
    )


def test_missing_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(MINIMAL.replace("[student]\nlabel_weight = 0.5", ""))
    with pytest.raises(RecipeError, match=r"must have the section \[student\], but this one has not\."):
        load_recipe(str(path))
    assert load_recipe(str(path), ["student.label_weight=1"]).student.label_weight == 1.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"[data]\nseed = 1\nseed = 2", r"Cannot overwrite a value \(at line 3.*may stand only once\.$"),
        (b"[data]\n[data]", r"Cannot declare .* twice \(at line 2.*may stand only once\.$"),
        (b"[data]\nseed == 2", r"Invalid value \(at line 2, column 7\)\.$"),
        (b"# \xff", r"must be UTF-8 text"),
    ],
)
def test_file_that_is_no_toml_is_refused_with_its_place(tmp_path: Path, text: bytes, sentence: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(text)
    with pytest.raises(RecipeError, match=sentence) as caught:
        load_recipe(str(path))
    assert f"'{path}'" in str(caught.value)


def test_unknown_recipe_is_not_found_and_its_neighbour_suggested() -> None:
    with pytest.raises(NotFoundError) as caught:
        load_recipe("digts")
    expected = "There is no recipe 'digts'. Did you mean 'digits'? 'lineage recipes ls' lists them."
    assert str(caught.value) == expected


@pytest.mark.parametrize("path", ["missing.toml", "./digits", "folder/digits"])
def test_path_that_does_not_exist_is_not_found(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match=f"there is nothing at '{path}'"):
        load_recipe(path)


def test_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="must be a file, but there is a folder at"):
        load_recipe(str(tmp_path))


def test_shipped_name_wins_over_a_file_so_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "mine"):
        Path(name).write_text(MINIMAL)
    assert find_recipe("digits") == recipe_path("digits")
    assert load_recipe("./digits").model.name == "small"
    assert load_recipe("mine").model.name == "small"


@pytest.mark.parametrize(
    "override",
    [
        "model.name=other",
        "succession.seed=3",
        "succession.generations=7",
        "data.root=/elsewhere",
        "data.download=true",
        "data.workers=4",
        "training.lr=0.10",
        "training.warmup_epochs=0",
    ],
)
def test_digest_is_the_same_whatever_the_name_seed_or_machine(minimal: str, override: str) -> None:
    assert load_recipe(minimal, [override]).digest == load_recipe(minimal).digest


@pytest.mark.parametrize(
    "override",
    [
        "data.seed=1",
        "data.flip=true",
        "data.validation=0",
        "network.width=8",
        "network.options.a=1",
        "patriarch.strictness=1",
        "student.temperature=2",
        "training.epochs=2",
    ],
)
def test_digest_changes_with_a_setting(minimal: str, override: str) -> None:
    assert load_recipe(minimal, [override]).digest != load_recipe(minimal).digest


def test_digest_is_a_sha256_that_stays(minimal: str) -> None:
    assert load_recipe(minimal).digest == "801b7921ca636b3d449f4ec661da816ab1bee666603a5adb0e4327d54f24d045"


@pytest.mark.parametrize(
    "setting",
    [
        "student.soft_targets=stored",
        "student.views=4",
        "student.soft_target_classes=3",
        "training.sync_batchnorm=true",
        "training.lr=0.2",
        "data.subset={seed = 0, half = 0}",
        "student.network.name=resnet20",
        "succession.student=[{generation = 2, epochs = 2}]",
    ],
)
def test_digest_changes_with(minimal: str, setting: str) -> None:
    assert load_recipe(minimal, [setting]).digest != load_recipe(minimal).digest


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "must be JSON, but reading it failed"), ("[1]", "A recipe must be a table of keys")],
)
def test_json_that_is_no_recipe_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        Recipe.from_json(text)


def test_stored_recipe_is_read_by_the_first_names_of_its_keys(minimal: str) -> None:
    settings = ["student.soft_targets=stored", "study.space.student.soft_target_classes=[2, 3]"]
    recipe = load_recipe(minimal, settings)
    first = recipe.to_json()
    for present, name in {"soft_targets": "signals", "soft_target_classes": "signal_classes"}.items():
        first = first.replace(present, name)
    assert Recipe.from_json(first) == recipe
    assert Recipe.from_json(first).digest == recipe.digest


def test_schema_describes_every_section_and_key() -> None:
    schema = recipe_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "lineage recipe"
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Recipe.model_fields)
    for section in schema["$defs"].values():
        assert section["description"]
        assert section["additionalProperties"] is False
        assert all(key["description"] for key in section["properties"].values())


def test_schema_offers_names_and_limits_to_an_editor() -> None:
    sections = recipe_schema()["$defs"]
    offered = sections["NetworkSettings"]["properties"]["name"]["anyOf"][0]["enum"]
    assert {"resnet8", "wrn-28-10", "densenet-bc-100-12"} <= set(offered)
    strictness = sections["PatriarchSettings"]["properties"]["strictness"]
    assert (strictness["exclusiveMinimum"], strictness["maximum"], strictness["default"]) == (0, 1, 0.8)


def test_recipe_is_read_without_torch_or_mlflow() -> None:
    code = (
        "import sys, lineage.recipe;"
        "lineage.recipe.load_recipe('digits');"
        "print({'torch', 'mlflow'} & {*sys.modules})"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout == "set()\n"


def test_wheel_carries_the_recipes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = (
        "import json, lineage.recipe as r;"
        "print(json.dumps([str(r.recipe_path('digits')), r.recipe_names(), r.load_recipe('digits').digest]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    outcome = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    path, names, digest = json.loads(outcome.stdout)
    assert Path(path) == installed / "lineage" / "recipes" / "digits.toml"
    assert names == recipe_names()
    assert digest == load_recipe("digits").digest


@pytest.mark.parametrize("setting", ["freeze_stages=1", "layer_decay=0.5"])
def test_settings_of_stages_are_refused_without_weights_to_start_from(minimal: str, setting: str) -> None:
    with pytest.raises(RecipeError, match=r"is for networks that start from weights, but none does; set"):
        load_recipe(minimal, [f"training.{setting}"])
    student = "student.network={name = 'torchvision:resnet18', weights = 'DEFAULT'}"
    assert load_recipe(minimal, [f"training.{setting}", student])


@pytest.mark.parametrize("key", ["patience", "validate_every"])
def test_settings_of_validation_are_refused_without_a_validation_part(minimal: str, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(minimal, ["training.epochs=9", f"training.{key}=2", "data.validation=0"])
    assert str(caught.value) == (
        f"training.{key} needs a validation part, but data.validation is 0; set it to 0.1, or leave"
        f" training.{key} out."
    )
