"""Registration of one generation: its run, its network and its version. Rank 0 alone calls it."""

from torch import nn

from lineage.errors import NotFoundError
from lineage.growing.leases import LEASE_NOTE
from lineage.growing.plan import GenerationPlan
from lineage.recipe import flatten
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_key
from lineage.registry.family.register import NewVersion, register, settle
from lineage.registry.flavor import log_model
from lineage.registry.store.artifacts import LoadedModel, weights_digest
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.runs import GenerationRun, resume_run, start_run

_RUN_FILE = "run_id"


def find_registered(plan: GenerationPlan) -> Version | None:
    """Return the version that has the plan's key."""
    return find_key(plan.recipe.model.name, plan.key)


def find_and_settle(plan: GenerationPlan) -> Version | None:
    """Return the version that has the plan's key, and finish what a crash left undone after it."""
    version = find_registered(plan)
    if version is not None:
        settle(version.name)
        left = _left_run(plan)
        if left is not None:
            left.finish(version)
        plan.checkpoint.discard()
    return version


def open_run(plan: GenerationPlan, teacher: Version | None, fresh: bool) -> GenerationRun:
    """Return the generation's run: the one that a killed process left, or a new one.

    Args:
        plan: Plan of the generation.
        teacher: Version of its teacher; None for a patriarch.
        fresh: Whether to end the run that was left, drop its local state and start anew.
    """
    left = _left_run(plan)
    if fresh:
        if left is not None:
            left.stop("KILLED")
        lease = plan.checkpoint.read_note(LEASE_NOTE)
        plan.checkpoint.discard()
        if lease is not None:
            plan.checkpoint.write_note(LEASE_NOTE, lease)
    elif left is not None:
        return left
    plan.checkpoint.make_folder()
    recipe = plan.recipe
    run = start_run(
        ensure_experiment(recipe.model.name),
        f"{recipe.model.name} generation {plan.generation}, seed {recipe.succession.seed}",
        () if teacher is None else (teacher,),
        {
            "key": plan.key,
            "generation": str(plan.generation),
            "epochs": str(recipe.training.epochs),
            "seed": str(recipe.succession.seed),
        },
        plan.family_recipe.to_json(),
        flatten(plan.family_recipe),
        plan.split_data.dataset.spec,
    )
    plan.checkpoint.write_note(_RUN_FILE, run.run_id)
    return run


def register_network(
    plan: GenerationPlan,
    teacher: Version | None,
    network: nn.Module,
    metrics: dict[str, float],
    predictions: str,
    run: GenerationRun,
) -> Version:
    """Register the network unless another machine has done so; close its run and drop its local state.

    Args:
        plan: Plan of the generation.
        teacher: Version of its teacher; None for a patriarch.
        network: Trained network.
        metrics: Final metrics by name.
        predictions: What it predicted on the test part, as ``predictions_text``.
        run: Run of the generation.
    """
    version = find_registered(plan) or _log_and_register(plan, teacher, network, metrics, predictions, run)
    run.finish(version)
    plan.checkpoint.discard()
    return version


def _log_and_register(
    plan: GenerationPlan,
    teacher: Version | None,
    network: nn.Module,
    metrics: dict[str, float],
    predictions: str,
    run: GenerationRun,
) -> Version:
    recipe = plan.recipe
    model = LoadedModel(
        network,
        recipe.network.name,
        plan.network_options,
        plan.split_data.dataset.spec,
        plan.family_recipe.to_json(),
        predictions=predictions,
    )
    name = recipe.model.name
    logged_name = f"{name}-generation-{plan.generation}"
    model_id = log_model(model, logged_name, run.run_id, metrics, recipe.training.epochs)
    new_version = NewVersion(
        generation=plan.generation,
        teacher=teacher,
        objective=plan.objective,
        seed=recipe.succession.seed,
        recipe_digest=plan.family_recipe.digest,
        key=plan.key,
        metrics=metrics,
        weights_sha256=weights_digest(network),
        code={kind: source.to_json() for kind, source in plan.sources.items()},
        network="" if recipe.network == plan.family_recipe.network else str(recipe.network),
    )
    return register(name, new_version, model_id, run.run_id)


def _left_run(plan: GenerationPlan) -> GenerationRun | None:
    """Return the run noted beside the checkpoint, opened again, if the store in use holds it."""
    run_id = plan.checkpoint.read_note(_RUN_FILE)
    if run_id is None:
        return None
    try:
        return resume_run(run_id)
    except NotFoundError:
        return None
