"""Searches of the store: registered models, model versions, logged models and runs, as MLflow's entities."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
from mlflow.entities import LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from lineage.errors import NotFoundError, UsageError, suggestion
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, find_experiment, safe_uri


@dataclass(frozen=True)
class ModelWithVersions:
    """A registered model with all its versions, also those that ``lineage`` did not make.

    Attributes:
        model: Registered model with its tags and aliases.
        versions: Model versions in the order of their numbers, each with its aliases.
    """

    model: RegisteredModel
    versions: list[ModelVersion]


def read_model_with_versions(name: str) -> ModelWithVersions:
    """Return the registered model ``name`` and all its versions.

    Raises:
        NotFoundError: If the store holds no such model.
        UsageError: If no model can have that name.
    """
    found = find_model_with_versions(name)
    if found is not None:
        return found
    known = [model.name for model in connect().search_registered_models(max_results=1000)]
    raise NotFoundError(
        f"The store {safe_uri()} holds no registered model '{name}'.{suggestion(name, known)}"
    )


def find_model_with_versions(name: str) -> ModelWithVersions | None:
    """Return the registered model ``name`` and all its versions; None if the store holds none.

    Raises:
        UsageError: If no model can have that name.
    """
    try:
        # A search first: MLflow's own call for one model loads all its versions beside it
        model = find_model(name) or connect().get_registered_model(name)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE):
            raise UsageError(
                f"A registered model's name must be a text without '/' and ':', but got '{name}'."
            ) from error
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None
    aliases: dict[str, list[str]] = {}
    for alias, number in sorted(model.aliases.items()):
        aliases.setdefault(str(number), []).append(alias)
    found = [entity for entity in search_versions(_named(name)) if entity.name == name]
    for entity in found:
        entity.aliases = aliases.get(str(entity.version), [])
    return ModelWithVersions(model, sorted(found, key=lambda entity: int(entity.version)))


def find_model(name: str) -> RegisteredModel | None:
    """Return the registered model ``name`` with its tags and aliases; None if the store holds none."""
    found = connect().search_registered_models(_named(name))
    return next((model for model in found if model.name == name), None)


def search_families() -> list[RegisteredModel]:
    """Return all registered models that ``lineage`` made, with tags and aliases, last changed first."""
    connect()
    return mlflow.search_registered_models(
        filter_string=f"tags.`{TAG}schema` != ''", order_by=["last_updated_timestamp DESC"]
    )


def newest_version(name: str) -> ModelVersion | None:
    """Return the version of ``name`` with the highest number, without its aliases; None if there is none."""
    order = ["version_number DESC"]
    found = connect().search_model_versions(_named(name), max_results=1, order_by=order)
    return next((entity for entity in found if entity.name == name), None)


def search_versions(condition: str) -> list[ModelVersion]:
    """Return all model versions of the store that meet an MLflow filter."""
    connect()
    with _garbage_collector_paused():
        return mlflow.search_model_versions(filter_string=condition)


def has_key(name: str, key: str) -> bool:
    """Tell whether ``name`` has a version with that key, by a search whose cost does not grow with it."""
    found = search_versions(f"{_named(name)} AND tags.`{TAG}key` = '{key}'")
    return any(entity.name == name for entity in found)


def search_students_elsewhere(name: str) -> list[ModelVersion]:
    """Return versions of other registered models whose teacher is a version of ``name``, oldest first."""
    pattern = f"{_filter_text(name)}/%"
    found = search_versions(f"tags.`{TAG}teacher` LIKE '{pattern}' AND {_other_than(name)}")
    taught = [e for e in found if e.name != name and e.tags[f"{TAG}teacher"].startswith(f"{name}/")]
    return sorted(taught, key=lambda e: (int(e.creation_timestamp or 0), e.name, int(e.version)))


def search_families_below(name: str) -> set[str]:
    """Return names of other registered models with students of ``name``, or with ensembles of any members."""
    ensembles = search_versions(f"tags.`{TAG}kind` = 'ensemble' AND {_other_than(name)}")
    return {entity.name for entity in [*search_students_elsewhere(name), *ensembles]} - {name}


def search_runs(name: str, condition: str) -> list[Run]:
    """Return runs of a family's experiment that meet an MLflow filter, oldest first."""
    experiment = find_experiment(name)
    if not experiment:
        return []
    found: list[Run] = mlflow.search_runs(
        [experiment], condition, order_by=["attributes.start_time ASC"], output_format="list"
    )
    return found


def search_open_runs_below(run_id: str) -> list[Run]:
    """Return the runs of any experiment that are RUNNING and nested under a run, oldest first."""
    connect()
    found: list[Run] = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}' AND attributes.status = 'RUNNING'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    return found


def search_logged_models(name: str) -> list[LoggedModel]:
    """Return all logged models of a family's experiment."""
    experiment = find_experiment(name)
    if not experiment:
        return []
    return mlflow.search_logged_models([experiment], output_format="list")


def _other_than(name: str) -> str:
    """Return a filter that leaves out ``name``, as far as filters can write it; callers filter again."""
    return "name != ''" if "'" in name else f"name != '{name}'"


def _filter_text(text: str) -> str:
    """Return ``text`` for a LIKE pattern; patterns have no escapes, so a quote becomes any one character."""
    return re.sub(r"['\\]", "_", text)


@contextmanager
def _garbage_collector_paused() -> Iterator[None]:
    """Pause the garbage collector, which would walk the growing result again and again.

    Ten thousand versions with their tags are read in 2.5 seconds with the pause, in more than 4 without.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _named(name: str) -> str:
    """Return the filter for ``name``, as far as filters can write it; callers filter again."""
    return f"name LIKE '{_filter_text(name)}'" if "'" in name else f"name = '{name}'"
