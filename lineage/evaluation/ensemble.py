"""Ensembles of registered generations: measured, and registered as versions that name their members."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lineage.data.images import DataSpec
from lineage.errors import RegistryError, UsageError
from lineage.evaluation.evaluate import (
    read_measurement_settings,
    read_test_subset,
    require_same_data,
    score_logits,
)
from lineage.evaluation.predictions import describe
from lineage.evaluation.running_ensemble import MeanProbabilities
from lineage.formats import json_digest, quantity
from lineage.models.ensemble import EnsembleNetwork, fit_to_data
from lineage.recipe import Overrides, check_name, override_texts
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_key, find_version, read_ancestors
from lineage.registry.family.register import NewVersion, register
from lineage.registry.family.tags import Member
from lineage.registry.flavor import load_version, log_model
from lineage.registry.store.artifacts import ENSEMBLE, LoadedModel, weights_digest
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.runs import start_run
from lineage.training.devices import accelerate_session, make_accelerator
from lineage.training.measurement import measure
from lineage.training.top_classes import TopClasses, top_classes
from lineage.training.turns import on_main_process


@dataclass(frozen=True)
class Ensemble:
    """An ensemble measured on its test set.

    Attributes:
        members: Members in order; of a version with its ancestors, the oldest first.
        weights: One weight a member, summing to 1.
        member_metrics: Metrics of each member alone.
        prefix_metrics: Metrics of the ensembles of the first, the first two, … and all members.
        version: The ensemble's own version, if it was registered.
    """

    members: tuple[Version, ...]
    weights: tuple[float, ...]
    member_metrics: tuple[dict[str, float], ...]
    prefix_metrics: tuple[dict[str, float], ...]
    version: Version | None = None

    def __repr__(self) -> str:
        accuracy = quantity("accuracy", self.prefix_metrics[-1]["test_accuracy"])
        return f"<Ensemble of {', '.join(member.uri for member in self.members)}: test accuracy {accuracy}>"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        rows = zip(self.members, self.weights, self.member_metrics, self.prefix_metrics, strict=True)
        return {
            "members": [
                {"uri": member.uri, "weight": weight, "alone": alone, "ensemble": so_far}
                for member, weight, alone, so_far in rows
            ],
            "version": None if self.version is None else self.version.to_json(),
        }


@accelerate_session()
def ensemble(
    uris: Sequence[str],
    *,
    ancestors: int | None = None,
    weights: Sequence[float] | None = None,
    name: str | None = None,
    copy: bool = False,
    overrides: Overrides = (),
) -> Ensemble:
    """Measure the ensemble of a version with its ancestors, or of several versions; each member runs once.

    Args:
        uris: URIs of all members, or of one version, whose teachers join it.
        ancestors: Number of teachers that join one version, nearest first; all by default.
        weights: One positive weight a member, oldest first; equal by default.
        name: Registered model that gets the ensemble as a version; by default it is not registered.
        copy: Whether the registered version embeds its members in place of naming them by reference.
        overrides: Values by key, or texts ``section.key=value`` that change where and how the images are
            read, such as ``data.root=FOLDER``; other settings are refused.

    Returns:
        The metrics of every member and of the ensembles of the first, the first two and so on.

    Raises:
        UsageError: If members and weights do not fit, ``copy`` is given without ``name``, no model
            may have the name, or an override has no effect.
        NotFoundError: If a version or the images are not there.
        IntegrityError: If members differ in classes or input, or the images are not those that the last
            member was grown on.

    Examples:
        >>> found = lineage.ensemble(["models:/digits@best"], name="digits-ensemble")
        >>> [metrics["accuracy"] for metrics in found.prefix_metrics]
        [0.9333, 0.9556, 0.9583]
    """
    if copy and name is None:
        raise UsageError("--copy must be given with --register NAME, but there is none.")
    if name is not None:
        check_name(name, "--register")
    accelerator = make_accelerator()
    versions = on_main_process(lambda: _find_members(uris, ancestors))
    shares = _normalise(weights, len(versions))
    models = on_main_process(lambda: [load_version(version) for version in versions])
    newest = models[-1]
    settings = read_measurement_settings(versions[-1].uri, newest, override_texts(overrides))
    subset = read_test_subset(settings)
    require_same_data(versions[-1].uri, newest.spec, subset.spec)
    top_k = settings.patriarch.top_k
    measured = []
    for version, model in zip(versions, models, strict=True):
        network = fit_to_data(model.network, model.spec, subset.spec, version.uri)
        network.to(accelerator.device)
        measured.append(measure(accelerator, network, subset, top_k, keep_logits=True))
    logits = [measurement.logits for measurement in measured]
    prefixes, top = _score_prefixes(logits, shares, subset.images.labels, subset.spec, top_k)
    registered = None
    if name is not None:
        registered = on_main_process(
            lambda: _register(name, versions, models, shares, copy, prefixes[-1], describe(top))
        )
    alone = tuple(measurement.metrics for measurement in measured)
    return Ensemble(tuple(versions), tuple(shares), alone, tuple(prefixes), registered)


def _score_prefixes(
    logits: Sequence[Tensor], weights: Sequence[float], labels: Tensor, spec: DataSpec, top_k: int
) -> tuple[list[dict[str, float]], TopClasses]:
    """Return the metrics of the ensembles of the first, the first two, …, and the top classes of the last.

    Args:
        logits: One tensor a member, shape (N, C).
        weights: One weight a member.
        labels: Classes, shape (N,).
        spec: Description of the data.
        top_k: K of the metrics.
    """
    superclasses = None if spec.superclasses is None else torch.tensor(spec.superclasses)
    mean = MeanProbabilities(labels)
    prefixes = []
    for member, weight in zip(logits, weights, strict=True):
        mean.add(member, weight)
        prefixes.append(score_logits(mean.logits, labels, top_k, superclasses))
    return prefixes, top_classes(mean.logits, labels, top_k, superclasses)


def _find_members(uris: Sequence[str], ancestors: int | None) -> list[Version]:
    """Return the members, oldest first where they are a version and its teachers."""
    if len(uris) > 1:
        if ancestors is not None:
            raise UsageError(
                f"--ancestors must be given with one version, but got {len(uris)};"
                " name either all members or one."
            )
        return [find_version(uri) for uri in uris]
    version = find_version(uris[0])
    teachers = read_ancestors(version)
    if ancestors is not None:
        if not 0 <= ancestors <= len(teachers):
            raise UsageError(
                f"--ancestors must be from 0 to {len(teachers)}, the number of teachers of {version.uri},"
                f" but got {ancestors}."
            )
        teachers = teachers[:ancestors]
    return [*reversed(teachers), version]


def _normalise(weights: Sequence[float] | None, num_members: int) -> list[float]:
    """Return ``weights`` scaled to sum to 1; equal ones where none are given."""
    if weights is None:
        return [1 / num_members] * num_members
    if len(weights) != num_members or min(weights) <= 0:
        raise UsageError(
            f"--weights must be {num_members} positive numbers, one a member, oldest first, but got"
            f" {list(weights)}."
        )
    return [weight / sum(weights) for weight in weights]


def _register(
    name: str,
    versions: Sequence[Version],
    models: Sequence[LoadedModel],
    shares: Sequence[float],
    copy: bool,
    metrics: dict[str, float],
    predictions: str,
) -> Version:
    """Register the ensemble as a version of ``name``, unless one with these members and weights is there."""
    members = tuple(
        Member(version.id, version.model_id, version.weights_sha256, share, version.files_sha256)
        for version, share in zip(versions, shares, strict=True)
    )
    depends_on = [[member.weights_sha256, member.weight] for member in members]
    key = json_digest([ENSEMBLE, copy, depends_on])
    existing = find_key(name, key)
    if existing is not None:
        return existing
    newest = models[-1]
    generation = max(version.generation for version in versions)
    network = EnsembleNetwork([model.network for model in models], shares)
    copies = tuple(models) if copy else ()
    model = LoadedModel(network, ENSEMBLE, {}, newest.spec, newest.recipe, members, copies, predictions)
    run = start_run(
        ensure_experiment(name),
        f"{name} ensemble of {len(members)}",
        versions,
        {"key": key, "kind": ENSEMBLE, "generation": str(generation)},
        newest.recipe,
        {f"member.{number}": json.dumps(asdict(member)) for number, member in enumerate(members)},
        newest.spec,
    )
    try:
        test_metrics = {f"test_{metric}": value for metric, value in metrics.items()}
        model_id = log_model(model, f"{name}-ensemble", run.run_id, test_metrics)
        new_version = NewVersion(
            generation=generation,
            teacher=None,
            objective=ENSEMBLE,
            seed=versions[-1].seed,
            recipe_digest=versions[-1].recipe_digest,
            key=key,
            metrics=test_metrics,
            weights_sha256=weights_digest(members),
            kind=ENSEMBLE,
            members=members,
        )
        version = register(name, new_version, model_id, run.run_id)
    except BaseException:
        with contextlib.suppress(RegistryError):  # the first error is the one to report
            run.stop("FAILED")
        raise
    run.finish(version)
    return version
