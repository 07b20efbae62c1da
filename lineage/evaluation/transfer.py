"""Transfer of registered versions to another data set: probes on frozen features, or finetuning."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from ignite.engine import Engine, Events
from torch import nn

from lineage.display.progress import epoch_line
from lineage.errors import UsageError
from lineage.evaluation.data import full_test_subset
from lineage.evaluation.features import FittedDataSet, extract_features, fit_images
from lineage.evaluation.finetuning import make_finetuning
from lineage.evaluation.probes import LabelledFeatures, find_probe, fit_probe
from lineage.evaluation.transfer_target import (
    BATCH_SIZE,
    FINETUNE,
    Target,
    read_target,
    read_target_settings,
)
from lineage.processes import is_main_process
from lineage.recipe import Overrides, override_texts
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version, read_ancestors
from lineage.registry.flavor import load_version
from lineage.registry.store.artifacts import LoadedModel
from lineage.registry.store.transfers import Transfer, log_transfer
from lineage.training.devices import accelerate_session, make_accelerator
from lineage.training.measurement import Subset
from lineage.training.turns import on_main_process

Tell = Callable[[str], None]


@accelerate_session()
def transfer(
    uri: str,
    to: str,
    *,
    ancestors: int | None = 0,
    overrides: Overrides = (),
    probe: str = "logistic",
    seed: int = 0,
    tell: Tell = lambda _line: None,
) -> list[Transfer]:
    """Measure a version, and its ancestors, on another data set, and log each result to the registry.

    The images are normalised as those the network was trained on. A probe fits a classifier on frozen
    features, which are computed once an image; its one setting is chosen on a validation part of the target's
    training images, and it is then fitted on both parts. With ``finetune``, the whole network is trained
    under a fresh classifier for a few epochs. The target's test part is read once a version.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        to: Target data set, as ``data.name`` of a recipe.
        ancestors: Number of teachers to measure as well, nearest first; None for all. Ensembles have no
            features and are left out.
        overrides: Values by key, or texts ``data.key=value`` for the target and, with ``finetune``,
            ``training.key=value``; settings without effect are refused.
        probe: A key of ``PROBES`` (``logistic``, ``svm``, ``knn``), or ``finetune``.
        seed: Seed of probes that draw, and of finetuning.
        tell: Callback for one-line progress messages, called on rank 0.

    Returns:
        One result a version, the oldest ancestor first.

    Raises:
        UsageError: If an argument cannot hold, an override has no effect, or the images do not fit the
            network; nothing is logged then.
        NotFoundError: If a version or the images are not there.
        IntegrityError: If a version's weights are not those that were registered.
        TrainingError: If finetuning fails or a process is lost; run again, it continues from the last epoch.

    Examples:
        >>> results = lineage.transfer("models:/cifar100@best", "digits", ancestors=None)
        >>> [result.metrics["transfer_accuracy"] for result in results]
        [0.9139, 0.9222, 0.9278]
    """
    if seed < 0:
        raise UsageError(f"--seed must be at least 0, but got {seed}.")
    settings = read_target_settings(to, probe, override_texts(overrides))
    training = settings.training
    make_accelerator(training.precision, sync_batchnorm=training.sync_batchnorm)
    report: Tell = tell if is_main_process() else lambda _line: None
    versions = on_main_process(lambda: _find_versions(uri, ancestors, report))
    target = read_target(settings, probe, seed)
    results = []
    for version in versions:
        result = _transfer_one(version, target, report)
        results.append(on_main_process(partial(log_transfer, result)))
        on_main_process(target.checkpoint(version).discard)
        report(f"{version.uri}: {to} test accuracy {result.metrics['transfer_accuracy']:.2%}")
    return results


def _find_versions(uri: str, ancestors: int | None, tell: Tell) -> list[Version]:
    """Return the version and its ancestors, oldest first, without ensembles.

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
    """Load one version and measure it on the target."""
    started = time.perf_counter()
    model = on_main_process(lambda: load_version(version))
    dataset = target.split_data.dataset
    fitted = fit_images(dataset, model.spec, version.uri)
    for note in fitted.notes:
        tell(f"{version.uri}: {note}")
    measure = _finetune if target.probe == FINETUNE else _probe
    chosen, metrics, notes = measure(version, model, target, fitted, tell)
    seconds = time.perf_counter() - started
    return Transfer(
        version=version,
        target=dataset.spec.name,
        target_digest=dataset.spec.digest,
        probe=target.probe,
        seed=target.seed,
        settings=target.result_settings,
        chosen=chosen,
        metrics={f"transfer_{name}": value for name, value in metrics.items()}
        | {"transfer_seconds": seconds},
        key=target.key(version),
        notes=fitted.notes + notes,
    )


_Result = tuple[dict[str, float], dict[str, float], tuple[str, ...]]
"""The probe's chosen setting, metrics by name, and notes."""


def _probe(
    version: Version, model: LoadedModel, target: Target, fitted: FittedDataSet, tell: Tell
) -> _Result:
    """Fit a classifier of scikit-learn on the frozen network's features."""
    accelerator = make_accelerator()
    dataset, workers = fitted.dataset, target.settings.data.workers
    train, validation = target.split_data.train, target.split_data.validation
    training_part = Subset(dataset.train, torch.cat([train, validation]), dataset.spec, BATCH_SIZE, workers)
    test_part = full_test_subset(dataset, BATCH_SIZE, workers)
    tell(f"{version.uri}: features of {len(training_part) + len(test_part):,} images")
    network = model.network.to(accelerator.device)
    both = _labelled(accelerator, network, training_part, version.uri)
    test = _labelled(accelerator, network, test_part, version.uri)
    tell(f"{version.uri}: {target.probe} on {both.features.shape[1]} features")
    probe = find_probe(target.probe)
    fit = on_main_process(lambda: fit_probe(probe, both, len(train), test, target.seed))
    metrics = {"accuracy": fit.test_accuracy, "validation_accuracy": fit.validation_accuracy}
    unfinished = f"{version.uri}: the {target.probe} probe stopped before it converged."
    return {fit.setting: fit.value}, metrics, () if fit.converged else (unfinished,)


def _labelled(accelerator: Accelerator, network: nn.Module, part: Subset, who: str) -> LabelledFeatures:
    features = extract_features(accelerator, network, part, who)
    return LabelledFeatures(features.numpy(), part.images.labels[part.indices].numpy())


def _finetune(
    version: Version, model: LoadedModel, target: Target, fitted: FittedDataSet, tell: Tell
) -> _Result:
    """Train the whole network under a fresh classifier for a few epochs."""
    finetuning = target.finetuning()
    config = finetuning.config
    precision = target.settings.training.precision
    training = make_finetuning(
        make_accelerator(precision, config.accumulation, config.sync_batchnorm),
        model.network,
        replace(target.split_data, dataset=fitted.dataset),
        finetuning,
        target.checkpoint(version),
    )

    def attach(trainer: Engine) -> None:
        @trainer.on(Events.EPOCH_COMPLETED)
        def _tell(engine: Engine) -> None:
            numbers = epoch_line(engine.state.metrics)
            tell(f"{version.uri}: epoch {engine.state.epoch}/{config.epochs}, {numbers}")

    trained = training.run(attach, lambda line: tell(f"{version.uri}: {line}"))
    last = trained.history[-1]
    validation = {name: value for name, value in last.items() if name.startswith("validation_")}
    return {}, trained.test.metrics | validation, ()
