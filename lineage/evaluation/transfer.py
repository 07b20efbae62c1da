"""Transfer: what the networks of a family are worth on another data set, generation by generation."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from accelerate import Accelerator
from ignite.engine import Engine, Events
from torch import nn

from lineage.errors import UsageError
from lineage.evaluation.features import FittedDataSet, extract_features, fit_images
from lineage.evaluation.finetuning import make_finetuning
from lineage.evaluation.probes import LabelledFeatures, find_probe, fit_probe
from lineage.evaluation.transfer_target import BATCH_SIZE, FINETUNE, Target, read_settings, read_target
from lineage.processes import is_main_process
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version, read_ancestors
from lineage.registry.flavor import LoadedModel, load_version
from lineage.registry.store.transfers import Transfer, log_transfer
from lineage.report.progress import epoch_line
from lineage.training.devices import accelerate_session, init_processes, make_accelerator, on_main_process
from lineage.training.measurement import Subset

Tell = Callable[[str], None]


@accelerate_session()
def transfer(
    uri: str,
    to: str,
    *,
    ancestors: int | None = 0,
    overrides: Sequence[str] = (),
    probe: str = "logistic",
    seed: int = 0,
    tell: Tell = lambda _line: None,
) -> list[Transfer]:
    """Measure a version, and its ancestors, on another data set, and write each result to the registry.

    The images are normalised as those the network was trained on. A probe sees frozen features, computed once
    an image; its setting is chosen on a validation part of the target's training images and it is then fitted
    on both. With ``finetune``, the whole network under a fresh classifier is trained for a few epochs. The
    target's test part is read once a version.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        to: The target, as ``data.name`` of a recipe names it.
        ancestors: How many of its teachers to measure as well, nearest first; None for all. Ensembles have no
            features and are left out.
        overrides: ``data.key=value`` of the target, and with ``finetune`` ``training.key=value``.
        probe: A key of ``PROBES``, or ``finetune``.
        seed: Of what a probe draws, and of finetuning.
        tell: Is given a line whenever there is something to tell, on rank 0.

    Returns:
        One result a version, the oldest ancestor first.

    Raises:
        UsageError: If an argument cannot hold, or the images do not fit the network; nothing is written then.
        NotFoundError: If a version or the images are not there.
        IntegrityError: If a version's weights are not those that were registered.
        TrainingError: If finetuning fails, or a process is lost; run again, it continues from the last epoch.
    """
    settings = read_settings(to, probe, seed, overrides)
    init_processes()
    speak: Tell = tell if is_main_process() else lambda _line: None
    versions = on_main_process(lambda: _line(uri, ancestors, speak))
    target = read_target(settings, probe)
    results = []
    for version in versions:
        result = _transfer_one(version, target, speak)
        results.append(on_main_process(partial(log_transfer, result)))
        on_main_process(target.checkpoint(version).discard)
        speak(f"{version.uri}: {to} test accuracy {result.metrics['transfer_accuracy']:.2%}")
    return results


def _line(uri: str, ancestors: int | None, tell: Tell) -> list[Version]:
    """The version and its ancestors, oldest first, without ensembles.

    Raises:
        UsageError: If the version is an ensemble, or has fewer ancestors.
    """
    version = find_version(uri)
    if version.members:
        members = ", ".join(f"models:/{member.id}" for member in version.members)
        raise UsageError(f"{uri} must be one network, but is an ensemble; transfer a member: {members}.")
    teachers = () if ancestors == 0 else read_ancestors(version)
    if ancestors is not None and not 0 <= ancestors <= len(teachers):
        raise UsageError(
            f"--ancestors must be 'all' or from 0 to {len(teachers)}, the number of teachers of"
            f" {version.uri}, but got {ancestors}."
        )
    line = [*reversed(teachers[:ancestors]), version]
    for ensemble in (each for each in line if each.members):
        tell(f"{ensemble.uri} is an ensemble, which has no features; left out")
    return [each for each in line if not each.members]


def _transfer_one(version: Version, target: Target, tell: Tell) -> Transfer:
    """Pull one version and measure it on the target."""
    started = time.perf_counter()
    model = on_main_process(lambda: load_version(version))
    fitted = fit_images(target.dataset, model.spec, version.uri)
    for note in fitted.notes:
        tell(f"{version.uri}: {note}")
    measure = _finetune if target.probe == FINETUNE else _probe
    chosen, metrics, notes = measure(version, model, target, fitted, tell)
    seconds = time.perf_counter() - started
    return Transfer(
        version=version,
        target=target.dataset.spec.name,
        target_digest=target.dataset.spec.digest,
        probe=target.probe,
        seed=target.seed,
        settings=target.chosen_settings,
        chosen=chosen,
        metrics={f"transfer_{name}": value for name, value in metrics.items()}
        | {"transfer_seconds": seconds},
        key=target.key(version),
        notes=fitted.notes + notes,
    )


_Found = tuple[dict[str, float], dict[str, float], tuple[str, ...]]


def _probe(version: Version, model: LoadedModel, target: Target, fitted: FittedDataSet, tell: Tell) -> _Found:
    """Frozen features, and a classifier of scikit-learn on them: what was chosen, metrics and notes."""
    accelerator = make_accelerator()
    dataset, workers = fitted.dataset, target.settings.data.workers
    rows = torch.cat([target.train, target.validation])
    learning = Subset(dataset.train, rows, dataset.spec, BATCH_SIZE, workers)
    test = Subset(dataset.test, torch.arange(len(dataset.test)), dataset.spec, BATCH_SIZE, workers)
    tell(f"{version.uri}: features of {len(learning) + len(test):,} images")
    network = model.network.to(accelerator.device)
    both = _labelled(accelerator, network, learning, version.uri)
    of_test = _labelled(accelerator, network, test, version.uri)
    middle = len(target.train)
    of_train = LabelledFeatures(both.features[:middle], both.labels[:middle])
    of_validation = LabelledFeatures(both.features[middle:], both.labels[middle:])
    tell(f"{version.uri}: {target.probe} on {both.features.shape[1]} features")
    probe = find_probe(target.probe)
    found = on_main_process(lambda: fit_probe(probe, of_train, of_validation, of_test, target.seed))
    metrics = {"accuracy": found.test_accuracy, "validation_accuracy": found.validation_accuracy}
    unfinished = f"{version.uri}: the {target.probe} probe stopped before it converged."
    return {found.setting: found.value}, metrics, () if found.converged else (unfinished,)


def _labelled(accelerator: Accelerator, network: nn.Module, part: Subset, who: str) -> LabelledFeatures:
    features = extract_features(accelerator, network, part, who)
    return LabelledFeatures(features.numpy(), part.images.labels[part.indices].numpy())


def _finetune(
    version: Version, model: LoadedModel, target: Target, fitted: FittedDataSet, tell: Tell
) -> _Found:
    """The whole network under a fresh classifier, trained for a few epochs."""
    how = target.finetuning()
    precision = target.settings.training.precision
    training = make_finetuning(
        make_accelerator(precision, how.course.accumulation),
        model.network,
        fitted.dataset,
        (target.train, target.validation),
        how,
        target.checkpoint(version),
    )
    epochs = how.course.epochs

    def attach(trainer: Engine) -> None:
        @trainer.on(Events.EPOCH_COMPLETED)
        def _tell(engine: Engine) -> None:
            numbers = epoch_line(engine.state.metrics)
            tell(f"{version.uri}: epoch {engine.state.epoch}/{epochs}, {numbers}")

    trained = training.run(attach)
    last = trained.history[-1]
    validated = {name: value for name, value in last.items() if name.startswith("validation_")}
    return {}, trained.test.metrics | validated, ()
