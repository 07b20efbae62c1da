"""Ensembles of registered generations: measured, and registered as versions that name their members."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lineage.errors import RegistryError, UsageError
from lineage.evaluation.ensemble_metrics import score_prefixes
from lineage.evaluation.evaluate import read_test_part, recipe_of, require_same_data
from lineage.formats import json_digest
from lineage.models.ensemble import EnsembleNetwork, fit_to_data
from lineage.registry.family.family import Member, Version
from lineage.registry.family.lookup import find_key, find_version, read_ancestors
from lineage.registry.family.register import NewVersion, register
from lineage.registry.flavor import LoadedModel, load_version, log_model, weights_digest
from lineage.registry.store.artifacts import ENSEMBLE
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.runs import start_run
from lineage.training.devices import accelerate_session, make_accelerator, on_main_process
from lineage.training.measurement import measure


@dataclass(frozen=True)
class Ensemble:
    """An ensemble, measured on the test set.

    Attributes:
        members: In order; of a line of ancestors, oldest first.
        weights: One a member, summing to 1.
        member_metrics: Of each member alone.
        prefix_metrics: Of the ensembles of the first, the first two, … and all members.
        version: The ensemble's own, if it was registered.
    """

    members: tuple[Version, ...]
    weights: tuple[float, ...]
    member_metrics: tuple[dict[str, float], ...]
    prefix_metrics: tuple[dict[str, float], ...]
    version: Version | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
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
    overrides: Sequence[str] = (),
) -> Ensemble:
    """Measure the ensemble of a version with its ancestors, or of several versions; each member runs once.

    Args:
        uris: One version, whose teachers join it, or all members.
        ancestors: How many teachers join, nearest first; all by default. Only with one version.
        weights: One a member, positive; equal by default.
        name: Of a registered model that gets the ensemble as a version; it is not registered by default.
        copy: Whether the version embeds its members, which it names by reference otherwise.
        overrides: ``section.key=value``, as after ``--set``: where the images lie on this machine, say.

    Raises:
        UsageError: If members and weights do not fit.
        NotFoundError: If a version or the images are not there.
        IntegrityError: If members differ in classes or input, or the images are others.
    """
    accelerator = make_accelerator()
    versions = on_main_process(lambda: _members(uris, ancestors))
    shares = _shares(weights, len(versions))
    models = on_main_process(lambda: [load_version(version) for version in versions])
    newest = models[-1]
    recipe = recipe_of(versions[-1].uri, newest, overrides)
    part = read_test_part(recipe)
    require_same_data(versions[-1].uri, newest.spec, part.spec)
    top_k = recipe.patriarch.top_k
    seen = []
    for version, model in zip(versions, models, strict=True):
        network = fit_to_data(model.network, model.spec, part.spec, version.uri)
        network.to(accelerator.device)
        seen.append(measure(accelerator, network, part, top_k, keep_logits=True))
    logits = [measurement.logits for measurement in seen]
    prefixes = score_prefixes(logits, shares, part.images.labels, part.spec, top_k)
    registered = None
    if name is not None:
        registered = on_main_process(lambda: _register(name, versions, models, shares, copy, prefixes[-1]))
    alone = tuple(measurement.metrics for measurement in seen)
    return Ensemble(tuple(versions), tuple(shares), alone, tuple(prefixes), registered)


def _members(uris: Sequence[str], ancestors: int | None) -> list[Version]:
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


def _shares(weights: Sequence[float] | None, num_members: int) -> list[float]:
    """Weights that sum to 1."""
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
) -> Version:
    """The ensemble as a version of ``name``; the one that is there, if these members stand in it already."""
    members = tuple(
        Member(version.id, version.model_id, version.weights_sha256, share)
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
    model = LoadedModel(network, ENSEMBLE, {}, newest.spec, newest.recipe, members, copies)
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
        named = {f"test_{metric}": value for metric, value in metrics.items()}
        model_id = log_model(model, f"{name}-ensemble", run.run_id, named)
        new = NewVersion(
            generation=generation,
            teacher=None,
            objective=ENSEMBLE,
            seed=versions[-1].seed,
            recipe_digest=versions[-1].recipe_digest,
            key=key,
            metrics=named,
            weights_sha256=weights_digest(members),
            kind=ENSEMBLE,
            members=members,
        )
        version = register(name, new, model_id, run.run_id)
    except BaseException:
        with contextlib.suppress(RegistryError):  # the first error is the one to tell
            run.stop("FAILED")
        raise
    run.finish(version)
    return version
