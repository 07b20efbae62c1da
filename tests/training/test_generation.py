import copy
import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from lineage.data.batches import Augmentation, training_batches
from lineage.data.images import DataSet, MemoryImages, memory_dataset
from lineage.errors import TrainingError
from lineage.models.networks import build_network
from lineage.models.stage_order import StageOrder
from lineage.models.stages import map_shapes
from lineage.training.checkpoints import Checkpoint
from lineage.training.config import TrainConfig
from lineage.training.devices import make_accelerator
from lineage.training.distillation import DISTILLATIONS, distillation_loss
from lineage.training.engines import Loss
from lineage.training.explanation import Explanation
from lineage.training.generation import GenerationData, GenerationTraining, TrainResult
from lineage.training.handlers import constant, cosine
from lineage.training.losses import strict_loss
from lineage.training.measurement import Subset, measure
from lineage.training.optimizers import build_optimizer
from lineage.training.student_loss import build_student_loss
from lineage.training.taught import TaughtNetwork, Terms
from lineage.training.teachers import LiveTeacher
from lineage.training.terms import TERMS, build_term, explains

NUM_CLASSES = 6


@pytest.fixture(scope="module")
def dataset() -> DataSet:
    """Six classes of small grey images that a network can tell apart, with superclasses."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randint(0, 200, (NUM_CLASSES, 8, 8, 1), generator=generator)

    def part(size: int) -> MemoryImages:
        labels = torch.arange(size) % NUM_CLASSES
        noise = torch.randint(0, 55, (size, 8, 8, 1), generator=generator)
        return MemoryImages((patterns[labels] + noise).to(torch.uint8), labels)

    return memory_dataset("patterns", part(130), part(45), "abcdef", [0, 0, 1, 1, 2, 2])


Build = Callable[..., GenerationTraining]
PLAIN = Augmentation(1, "zeros", True)
STRONG = Augmentation(1, "zeros", True, policy="trivial", erasing=0.5, mixup=1.0, cutmix=1.0)


@pytest.fixture
def build(dataset: DataSet, tmp_path: Path) -> Build:
    """Makes a training of two epochs on ``dataset``; arguments change it."""

    def make(
        teacher: nn.Module | None = None,
        *,
        seed: int = 0,
        folder: str = "state",
        lr: float = 0.05,
        batch_size: int = 32,
        network: nn.Module | None = None,
        precision: Any = "fp32",
        loss: Loss | None = None,
        stages: Sequence[str] = (),
        explained: Mapping[int, nn.Linear | None] = MappingProxyType({}),
        augmentation: Augmentation = PLAIN,
        workers: int = 0,
        **config: Any,
    ) -> GenerationTraining:
        accumulation = config.get("accumulation", 1)
        accelerator = make_accelerator(precision, accumulation)
        if network is None:
            torch.manual_seed(seed)
            network = small_network()
        spec = dataset.spec
        rows = torch.arange(130)
        settings = {"lr": lr, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
        batches = training_batches(
            dataset.train,
            spec,
            rows[:100],
            batch_size,
            augmentation,
            data_seed=0,
            order_seed=seed,
            workers=workers,
            accumulation=accumulation,
        )
        live = teacher and LiveTeacher(accelerator, teacher, spec.input_shape, stages, explained)
        return GenerationTraining(
            accelerator=accelerator,
            network=network,
            optimizer=build_optimizer("sgd", network, decay_norm_and_bias=True, **settings),
            loss=loss or (student_loss if teacher is not None else patriarch_loss),
            teacher=live,
            data=GenerationData(
                batches,
                Subset(dataset.train, rows[100:], spec, batch_size, workers),
                Subset(dataset.test, torch.arange(45), spec, batch_size, workers),
            ),
            config=TrainConfig(
                **{"epochs": 2, "lr": lr, "schedule": cosine(2), "seed": seed, "top_k": 3} | config
            ),
            checkpoint=Checkpoint(tmp_path / folder),
        )

    return make


def small_network() -> nn.Module:
    return build_network("resnet8", NUM_CLASSES, (1, 8, 8), {"width": 4})


def patriarch_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, share: float) -> Tensor:
    assert (teacher_logits, share) == (None, 1)
    return strict_loss(logits, labels)


def student_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, share: float) -> Tensor:
    assert teacher_logits is not None
    assert share == 1
    return distillation_loss(logits, teacher_logits, labels, 0.5, 2.0)


def loss_on_labels(logits: Tensor, labels: Tensor, _logits: Tensor | None, _share: float) -> Tensor:
    return strict_loss(logits, labels)


def weights(trained: TrainResult) -> dict[str, Tensor]:
    return trained.network.state_dict()


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_training_gives_the_same_bits_twice(build: Build) -> None:
    first, second = build(folder="a").run(), build(folder="b").run()
    assert_equal(weights(first), weights(second))
    assert first.test.metrics == second.test.metrics
    assert torch.equal(first.test.logits, second.test.logits)


def test_training_depends_on_the_seed_of_order_alone(build: Build) -> None:
    torch.manual_seed(5)
    start = small_network().state_dict()

    def run(seed: int) -> TrainResult:
        network = small_network()
        network.load_state_dict(start)
        return build(seed=seed, network=network, folder=str(seed)).run()

    one, other = run(0), run(1)
    assert any(not torch.equal(v, weights(other)[k]) for k, v in weights(one).items())


class StoppedError(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize(
    ("average_decay", "augmentation"), [(None, PLAIN), (0.9, PLAIN), (None, STRONG)], ids=str
)
@pytest.mark.parametrize("moment", [Events.ITERATION_COMPLETED(once=5), Events.EPOCH_COMPLETED(once=2)])
def test_training_resumes_to_the_same_bits(
    build: Build, moment: Any, average_decay: float | None, augmentation: Augmentation
) -> None:
    settings = {"epochs": 3, "average_decay": average_decay, "schedule": cosine(3)}
    settings["augmentation"] = augmentation
    whole = build(folder="whole", **settings).run()

    def crash(trainer: Engine) -> None:
        trainer.add_event_handler(moment, stop)

    def stop(_: Engine) -> None:
        raise StoppedError

    torn = build(folder="torn", **settings)
    with pytest.raises(StoppedError):
        torn.run(crash)
    torch.manual_seed(99)
    resumed = build(folder="torn", seed=0, **settings)
    assert resumed.checkpoint.epoch == 1
    trained = resumed.run()
    assert_equal(weights(whole), weights(trained))
    assert [record["train_loss"] for record in trained.history] == [
        record["train_loss"] for record in whole.history
    ]


def test_training_that_stops_early_resumes_to_the_same_epoch_and_bits(build: Build) -> None:
    settings = {"epochs": 9, "patience": 2, "schedule": constant(), "lr": 1e-6}  # learns nothing
    lines: list[str] = []
    whole = build(folder="whole", **settings).run(notify=lines.append)
    epochs = len(whole.history)
    assert 3 <= epochs < 9
    assert lines == [f"stopped after epoch {epochs}: no higher validation accuracy for 2 epochs"]

    def stop(_: Engine) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        build(folder="torn", **settings).run(
            lambda trainer: trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3 * epochs - 1), stop)
        )
    resumed = build(folder="torn", **settings).run()
    assert_equal(weights(whole), weights(resumed))
    assert len(resumed.history) == epochs
    steps: list[int] = []  # killed after its last checkpoint, it only measures
    again = build(folder="torn", **settings)
    again.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: steps.append(e.state.iteration))
    assert_equal(weights(whole), weights(again.run()))
    assert steps == []


def test_validation_every_few_epochs_changes_no_weights(build: Build) -> None:
    each, few = build(epochs=3, folder="each").run(), build(epochs=3, folder="few", validate_every=2).run()
    assert_equal(weights(each), weights(few))
    validated = ["validation_accuracy" in record for record in few.history]
    assert validated == [False, True, True]
    assert few.history[2]["validation_accuracy"] == each.history[2]["validation_accuracy"]


def test_training_that_is_done_measures_without_training(build: Build) -> None:
    first = build().run()
    steps: list[int] = []
    again = build()
    again.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: steps.append(e.state.iteration))
    second = again.run()
    assert steps == []
    assert_equal(weights(first), weights(second))
    assert len(second.history) == 2


def test_training_of_no_epochs_registers_the_first_weights(build: Build) -> None:
    network = small_network()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    trained = build(network=network, epochs=0).run()
    assert_equal(weights(trained), start)
    assert set(trained.history[0]) >= {"validation_accuracy"}


def test_student_never_moves_its_teacher(build: Build) -> None:
    torch.manual_seed(3)
    teacher = small_network()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    modes: list[bool] = []
    training = build(teacher=teacher)
    assert isinstance(training.teacher, LiveTeacher)
    frozen = training.teacher.network
    folded = {name: value.clone() for name, value in frozen.state_dict().items()}
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda _: modes.append(any(m.training for m in frozen.modules()))
    )
    training.run()
    assert_equal(teacher.state_dict(), before)
    assert_equal(frozen.state_dict(), folded)
    assert modes
    assert not any(modes)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_student_and_teacher_see_the_same_view(build: Build) -> None:
    seen: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    torch.manual_seed(3)
    teacher, student = small_network(), small_network()

    def record(who: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[who].append(inputs[0].clone())

    training = build(teacher=teacher, network=student, epochs=1)
    assert isinstance(training.teacher, LiveTeacher)
    for who, network in (("teacher", training.teacher.network), ("student", student)):
        network.register_forward_pre_hook(partial(record, who))
    training.trainer.run(max_epochs=1, epoch_length=3)
    assert len(seen["student"]) == 3
    for ours, theirs in zip(seen["student"], seen["teacher"], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_student_trains_with_every_distillation_loss_and_resumes_to_the_same_bits(
    build: Build, name: str
) -> None:
    loss = build_student_loss(name, {}, label_weight=0.5, loss_weight=1, temperature=2)
    torch.manual_seed(3)
    settings: dict[str, Any] = {"teacher": small_network(), "loss": loss, "teacher_warmup": 2}

    def stop(_: Engine) -> None:
        raise StoppedError

    whole = build(folder="whole", **settings).run()
    with pytest.raises(StoppedError):
        build(folder="torn", **settings).run(
            lambda trainer: trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), stop)
        )
    assert_equal(weights(whole), weights(build(folder="torn", **settings).run()))
    assert whole.history[0]["train_loss"] != whole.history[1]["train_loss"]


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_are_made_once_and_all_is_gone_when_a_generation_ends(build: Build, workers: int) -> None:
    """Without help of the collector, which comes when it likes."""
    process = psutil.Process()
    before = set(process.children(recursive=True))
    counts: list[tuple[int, int]] = []

    def started() -> int:
        return len(set(process.children(recursive=True)) - before)

    training = build(small_network(), workers=workers, epochs=3)
    kept = [weakref.ref(each) for each in (training.network, training.teacher.network, training.trainer)]

    def count(trainer: Engine) -> None:
        @trainer.on(Events.EPOCH_COMPLETED)
        def _count(_: Engine) -> None:
            counts.append((started(), process.num_fds()))

    gc.collect()
    gc.disable()
    try:
        result = training.run(count)
        del training
        assert started() == 0
        assert [each() for each in kept] == [None, None, None]
    finally:
        gc.enable()
    assert len(result.history) == 3
    assert [children for children, _ in counts] == [2 * workers] * 3
    assert counts[0][1] >= counts[1][1] >= counts[2][1]


TermsOf = Callable[[nn.Module, nn.Module], TaughtNetwork]


@pytest.fixture
def with_terms() -> TermsOf:
    """Gives a student all terms, at its second and its last stage, for a teacher of another width."""

    def give(network: nn.Module, teacher: nn.Module) -> TaughtNetwork:
        stages, shape = ["trunk.4", "trunk"], (1, 8, 8)
        shapes, teacher_shapes = (map_shapes(each, stages, shape) for each in (network, teacher))
        torch.manual_seed(7)
        places = [(name, index) for name in TERMS for index in (0, 1) if index == 1 or not explains(name)]
        heads = [network.classifier if explains(name) else None for name, _ in places]
        terms = [
            build_term(name, shapes[index], teacher_shapes[index], head=head)
            for (name, index), head in zip(places, heads, strict=True)
        ]
        return TaughtNetwork(network, Terms(terms, [10.0] * len(terms), [stages[i] for _, i in places]))

    return give


def of_terms(network: TaughtNetwork, teacher: nn.Module) -> dict[str, Any]:
    """What the teacher of a student with terms must show."""
    terms = enumerate(network.terms.terms)
    explained = {index: teacher.classifier for index, term in terms if isinstance(term, Explanation)}
    return {"stages": network.terms.stages, "explained": explained}


@pytest.mark.parametrize("average_decay", [None, 0.9])
def test_student_trains_with_every_term_and_resumes_to_the_same_bits(
    build: Build, with_terms: TermsOf, average_decay: float | None
) -> None:
    torch.manual_seed(3)
    teacher, start = build_network("resnet8", NUM_CLASSES, (1, 8, 8), {"width": 6}), small_network()
    adapters: list[dict[str, Tensor]] = []

    def make(folder: str) -> GenerationTraining:
        network = with_terms(copy.deepcopy(start), teacher)
        settings = of_terms(network, teacher) | {"average_decay": average_decay}
        training = build(teacher, network=network, folder=folder, clip_norm=1.0, **settings)
        adapters.append(training.accelerator.unwrap_model(training.network).terms.state_dict())
        return training

    def stop(_: Engine) -> None:
        raise StoppedError

    whole = make("whole").run()
    with pytest.raises(StoppedError):
        make("torn").run(lambda trainer: trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), stop))
    assert_equal(weights(whole), weights(make("torn").run()))
    assert weights(whole).keys() == start.state_dict().keys()
    assert (
        sum("adapter" in name for name in adapters[0]) == 8
    )  # weight and bias of hint and prior at two stages
    assert_equal(adapters[0], adapters[2])
    before = with_terms(start, teacher).terms.state_dict()
    assert all(not torch.equal(value, before[name]) for name, value in adapters[0].items())


@pytest.mark.parametrize("is_taught", [False, True])
def test_frozen_modules_stay_as_they_were(build: Build, with_terms: TermsOf, is_taught: bool) -> None:
    network = small_network()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    frozen = StageOrder(network, (1, 8, 8), "it").freeze(1)
    torch.manual_seed(3)
    teacher = build_network("resnet8", NUM_CLASSES, (1, 8, 8), {"width": 6}) if is_taught else None
    settings: dict[str, Any] = {"frozen": frozen}
    if teacher is not None:
        taught = with_terms(network, teacher)
        settings |= {"teacher": teacher, "network": taught, **of_terms(taught, teacher)}
    trained = weights(build(**({"network": network} | settings)).run())
    kept = {name for name, value in trained.items() if torch.equal(value, start[name])}
    assert kept == {name for name in start if name.startswith(("trunk.0.", "trunk.1.", "trunk.3."))}


def test_weight_of_the_teacher_rises_over_its_warmup(build: Build) -> None:
    shares: list[float] = []

    def loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, share: float) -> Tensor:
        shares.append(share)
        return strict_loss(logits, labels)

    build(teacher=small_network(), loss=loss, epochs=3, teacher_warmup=2).run()
    assert shares == [0.5] * 3 + [1.0] * 6


def test_teacher_that_the_loss_does_not_need_runs_on_no_batch(build: Build) -> None:
    training = build(teacher=small_network(), loss=loss_on_labels, needs_teacher=False, epochs=1)
    assert isinstance(training.teacher, LiveTeacher)
    seen: list[int] = []
    training.teacher.network.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    record = training.run().history[0]
    assert sum(seen) == 30 + 45  # it is compared with on the validation and the test part
    assert "validation_agreement" in record


def test_accumulation_takes_the_steps_of_whole_batches(build: Build) -> None:
    torch.manual_seed(4)
    start = nn.Sequential(nn.Flatten(), nn.Linear(64, NUM_CLASSES))  # no BatchNorm: parts add up exactly

    def run(accumulation: int) -> dict[str, Tensor]:
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, NUM_CLASSES))
        network.load_state_dict(start.state_dict())
        trained = build(network=network, accumulation=accumulation, folder=str(accumulation), clip_norm=0.5)
        return weights(trained.run())

    whole, parts = run(1), run(4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


def test_average_of_weights_is_what_is_evaluated(build: Build) -> None:
    torch.manual_seed(0)
    plain = build(folder="plain").run()
    averaged = build(folder="averaged", average_decay=0.99).run()
    name = next(iter(weights(plain)))
    assert not torch.equal(weights(plain)[name], weights(averaged)[name])
    assert plain.history[-1]["train_loss"] == averaged.history[-1]["train_loss"]
    assert plain.history[-1]["validation_cross_entropy"] != averaged.history[-1]["validation_cross_entropy"]


def test_average_of_weights_follows_its_formula(build: Build) -> None:
    decay = 0.8
    training = build(average_decay=decay, epochs=1, schedule=constant())
    expected = {name: value.clone() for name, value in training.network.named_parameters()}

    @training.trainer.on(Events.ITERATION_COMPLETED)
    def _follow(_: Engine) -> None:
        for name, value in training.network.named_parameters():
            expected[name].mul_(decay).add_(value.detach(), alpha=1 - decay)

    trained = training.run()
    for name, value in trained.network.named_parameters():
        torch.testing.assert_close(value, expected[name])


def test_loss_that_is_not_finite_ends_training(build: Build) -> None:
    with pytest.raises(
        TrainingError, match=r"must be finite, but is not in epoch 1, from batch \d on, which .*training\.lr"
    ):
        build(lr=1e30, schedule=constant()).run()


def test_checkpoint_holds_no_epoch_whose_loss_is_not_finite(build: Build) -> None:
    training = build(lr=1e30, schedule=constant())
    with pytest.raises(TrainingError):
        training.run()
    assert training.checkpoint.epoch == 0


def test_record_of_an_epoch_holds_loss_rate_speed_and_validation(build: Build) -> None:
    record = build(teacher=small_network()).run().history[0]
    measured = {
        "accuracy",
        "top5_accuracy",
        "cross_entropy",
        "calibration_error",
        "top_probability",
        "entropy",
        "top_score_difference",
        "secondary_mass",
        "superclass_share",
        "agreement",
    }
    names = {f"validation_{name}" for name in measured}
    assert set(record) == {"train_loss", "lr", "images_per_second"} | names
    assert record["images_per_second"] > 0


def test_measurement_counts_every_sample_once(build: Build, dataset: DataSet) -> None:
    training = build()
    network = small_network().eval()
    part = Subset(dataset.test, torch.arange(45), dataset.spec, 32)
    seen = measure(training.accelerator, network, part, 3, keep_logits=True)
    mean, std = dataset.spec.mean[0], dataset.spec.std[0]
    images = (dataset.test.pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        logits = network(images)
    torch.testing.assert_close(seen.logits, logits)
    accuracy = (logits.argmax(1) == dataset.test.labels).double().mean().item()
    assert seen.metrics["accuracy"] == accuracy
    expected = nn.functional.cross_entropy(logits.double(), dataset.test.labels).item()
    assert seen.metrics["cross_entropy"] == pytest.approx(expected, abs=1e-6)


def test_bfloat16_trains_but_measures_in_float32(build: Build) -> None:
    training = build(precision="bf16", epochs=1)
    kinds: list[torch.dtype] = []
    first = next(module for module in training.network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda _module, _inputs, output: kinds.append(output.dtype))
    trained = training.run()
    assert set(kinds) == {torch.bfloat16}
    assert trained.test.logits.dtype == torch.float32
    assert {value.dtype for value in weights(trained).values()} <= {torch.float32, torch.int64}
    again = measure(training.accelerator, trained.network, training.data.test, 3, keep_logits=True)
    assert torch.equal(again.logits, trained.test.logits)


def test_test_set_is_read_once_and_last(build: Build, dataset: DataSet) -> None:
    reads: list[int] = []
    training = build()

    sizes: list[int] = []
    training.evaluated.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    training.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: reads.append(sum(sizes)))
    training.run()
    assert reads == [0, 30]  # the validation part, 30 images, once an epoch, after this handler
    assert sum(sizes) == 2 * 30 + 45
