"""What stands under the name of a registered model, as MLflow has it: one call, and one search."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from lineage.errors import NotFoundError, UsageError, suggestion
from lineage.registry.family.family import TAG
from lineage.registry.store.connection import connect, safe_uri

_PAGE = 10_000


@dataclass(frozen=True)
class Entities:
    """A registered model with its versions, whoever made them.

    Attributes:
        model: With its tags and aliases.
        versions: By number, each with its aliases.
    """

    model: RegisteredModel
    versions: list[ModelVersion]


def model_versions(name: str, missing_ok: bool = False) -> list[ModelVersion]:
    """Everything registered under ``name``, whoever made it, by number, with aliases.

    Raises:
        NotFoundError: If the store holds no such model, unless that is ``missing_ok``.
        UsageError: If no model can have that name.
    """
    found = find_entities(name)
    if found is None:
        if missing_ok:
            return []
        raise _not_found(name)
    return found.versions


def read_entities(name: str) -> Entities:
    """The registered model ``name`` and all its versions.

    Raises:
        NotFoundError: If the store holds no such model.
        UsageError: If no model can have that name.
    """
    found = find_entities(name)
    if found is None:
        raise _not_found(name)
    return found


def find_entities(name: str) -> Entities | None:
    """The registered model ``name`` and all its versions, or None where the store holds none.

    Raises:
        UsageError: If no model can have that name.
    """
    try:
        # A search first: MLflow's own call for one model loads all its versions beside it
        model = read_model(name) or connect().get_registered_model(name)
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
    return Entities(model, sorted(found, key=lambda entity: int(entity.version)))


def read_model(name: str) -> RegisteredModel | None:
    """The registered model ``name`` with its tags and aliases, or None where the store holds none.

    A search, since MLflow's own call for one model loads all its versions beside it.
    """
    found = connect().search_registered_models(_named(name))
    return next((model for model in found if model.name == name), None)


def read_families() -> list[RegisteredModel]:
    """All registered models that lineage made, with tags and aliases, last changed first."""
    client = connect()
    found: list[RegisteredModel] = []
    token: str | None = None
    while True:
        page = client.search_registered_models(
            f"tags.`{TAG}schema` != ''", order_by=["last_updated_timestamp DESC"], page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found


def newest_version(name: str) -> ModelVersion | None:
    """The one of the highest number, whoever made it, without its aliases; None where there is none."""
    order = ["version_number DESC"]
    found = connect().search_model_versions(_named(name), max_results=1, order_by=order)
    return next((entity for entity in found if entity.name == name), None)


def search_versions(condition: str) -> list[ModelVersion]:
    """All versions of the store that meet a filter of MLflow's, page by page."""
    client = connect()
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        with _collector_paused():
            page = client.search_model_versions(condition, max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def has_key(name: str, key: str) -> bool:
    """Whether ``name`` has a version with that tag: a search that does not grow with the family."""
    found = search_versions(f"{_named(name)} AND tags.`{TAG}key` = '{key}'")
    return any(entity.name == name for entity in found)


def students_elsewhere(name: str) -> list[ModelVersion]:
    """Versions of other registered models whose teacher is one of ``name``, oldest first."""
    pattern = f"{filter_text(name)}/%"
    found = search_versions(f"tags.`{TAG}teacher` LIKE '{pattern}' AND {other_than(name)}")
    taught = [e for e in found if e.name != name and e.tags[f"{TAG}teacher"].startswith(f"{name}/")]
    return sorted(taught, key=lambda e: (int(e.creation_timestamp or 0), e.name, int(e.version)))


def other_than(name: str) -> str:
    """A filter that spares the store what is already read, where the name can be written in one."""
    return "name != ''" if "'" in name else f"name != '{name}'"


def filter_text(text: str) -> str:
    """``text`` inside a pattern of a filter; MLflow's has no escape, so a quote is any one character."""
    return re.sub(r"['\\]", "_", text)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking, again and again, what the database is just now giving.

    Ten thousand versions with their tags are read in 2.5 seconds with it, in more than 4 without.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _not_found(name: str) -> NotFoundError:
    known = [model.name for model in connect().search_registered_models(max_results=1000)]
    return NotFoundError(
        f"The store {safe_uri()} holds no registered model '{name}'.{suggestion(name, known)}"
    )


def _named(name: str) -> str:
    """The filter for versions of ``name``."""
    return f"name LIKE '{filter_text(name)}'" if "'" in name else f"name = '{name}'"
