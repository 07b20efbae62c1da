"""Model versions as generations: found, loaded, registered, with aliases and cards."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from lineage.errors import IntegrityError, NotFoundError, UsageError, suggestion
from lineage.registry.ancestry import TAG, Family, Version, from_model_version
from lineage.registry.flavor import LoadedModel, read_model, weights_digest
from lineage.registry.store import connect, safe_uri, translated_errors

SCHEMA = 1
BEST = "best"
LATEST_GENERATION = "latest-generation"

_URI = re.compile(r"models:/(?P<name>[^/@:]+)(/(?P<version>\d+)|@(?P<alias>[\w-]+))")
_PAGE = 10_000
_STUDENTS_ON_CARD = 20


@dataclass(frozen=True)
class Birth:
    """What is known of a generation when it is registered; its tags are made from this.

    Attributes:
        generation: Index from 0.
        teacher: Its model version, or None for a patriarch.
        objective: Of a patriarch's loss, or ``student``.
        seed: Of the succession.
        recipe_digest: Of the settings.
        key: Of everything the weights depend on.
        metrics: Final numbers.
        weights_sha256: Of the weights file.
    """

    generation: int
    teacher: Version | None
    objective: str
    seed: int
    recipe_digest: str
    key: str
    metrics: dict[str, float]
    weights_sha256: str

    def tags(self) -> dict[str, str]:
        """All tags of the new version; a patriarch has no teacher and is its own root."""
        tags = {
            "schema": str(SCHEMA),
            "kind": "generation",
            "generation": str(self.generation),
            "objective": self.objective,
            "seed": str(self.seed),
            "recipe_digest": self.recipe_digest,
            "weights_sha256": self.weights_sha256,
            "metrics": json.dumps(self.metrics),
            "key": self.key,
        }
        if self.teacher is not None:
            tags |= {
                "teacher": self.teacher.id,
                "teacher_model_id": self.teacher.model_id,
                "teacher_sha256": self.teacher.weights_sha256,
                "root": self.teacher.root,
            }
        return {TAG + name: value for name, value in tags.items()}


@translated_errors()
def read_family(name: str, missing_ok: bool = False) -> Family:
    """All generations registered under ``name``: one search, and one call for the aliases.

    Args:
        name: Of the registered model.
        missing_ok: Whether a model that does not exist is an empty family.

    Raises:
        NotFoundError: If the store holds no such model.
        RegistryError: If the store does not answer.
    """
    client = connect()
    try:
        aliases_by_version: dict[str, list[str]] = {}
        for alias, number in client.get_registered_model(name).aliases.items():
            aliases_by_version.setdefault(str(number), []).append(alias)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        if missing_ok:
            return Family(name)
        known = [model.name for model in client.search_registered_models(max_results=1000)]
        raise NotFoundError(
            f"The store {safe_uri()} holds no registered model '{name}'.{suggestion(name, known)}"
        ) from error
    entities: list[ModelVersion] = []
    token: str | None = None
    while True:
        quoted = name.replace("'", "''")
        page = client.search_model_versions(f"name = '{quoted}'", max_results=_PAGE, page_token=token)
        entities += page
        token = page.token
        if not token:
            break
    versions = (
        from_model_version(e, tuple(sorted(aliases_by_version.get(str(e.version), ())))) for e in entities
    )
    return Family(name, tuple(sorted((v for v in versions if v is not None), key=lambda v: v.version)))


def find_version(uri: str) -> Version:
    """The version behind ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        UsageError: If ``uri`` has another form.
        NotFoundError: If the store holds no such model, version or alias.
        IntegrityError: If the version was not made by lineage.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise UsageError(
            f"A model URI must read models:/NAME/VERSION or models:/NAME@ALIAS, but got '{uri}'."
        )
    family = read_family(match["name"])
    if match["alias"]:
        found = [version for version in family if match["alias"] in version.aliases]
    else:
        found = [version for version in family if version.version == int(match["version"])]
    if found:
        return found[0]
    aliases = sorted(alias for version in family for alias in version.aliases)
    numbers = f"{family.versions[0].version} to {family.versions[-1].version}" if len(family) else "none"
    raise NotFoundError(
        f"{uri} is not a version of lineage in {safe_uri()}; its versions are {numbers},"
        f" its aliases {', '.join(aliases) or 'none'}."
    )


@translated_errors()
def load_version(version: Version) -> LoadedModel:
    """The network of ``version``, pulled from the registry and verified.

    Raises:
        IntegrityError: If the weights are not those that were registered.
        NotFoundError: If the store no longer holds them.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{version.model_id}", dst_path=place))
        found = weights_digest(folder)
        if found != version.weights_sha256:
            raise IntegrityError(
                f"The weights of {version.uri} must have the SHA-256 {version.weights_sha256[:12]}… they were"
                f" registered with, but have {found[:12]}…; do not use them, restore the artifacts of"
                f" {version.model_id}."
            )
        return read_model(folder)


@translated_errors()
def register(name: str, birth: Birth, model_id: str, run_id: str) -> Version:
    """Make the logged model a version of ``name``: tags, teacher edge and card in one call, then aliases.

    Returns:
        The version as a later reader finds it.
    """
    client = connect()
    _ensure_registered_model(client, name)
    tags = birth.tags()
    draft = from_model_version(
        ModelVersion(name, "0", 0, source=f"models:/{model_id}", run_id=run_id, tags=_as_entities(tags))
    )
    assert draft is not None
    created = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        tags=tags,
        description=card(draft, birth.teacher, ()),
        model_id=model_id,
    )
    family = settle(name)
    return next(version for version in family if version.version == int(created.version))


@translated_errors()
def settle(name: str) -> Family:
    """Bring the aliases of ``name`` and the cards of its newest edges up to date; safe to run again.

    ``best`` points to the highest validation accuracy, and to nothing where no version has one;
    ``latest-generation`` to the highest generation, then the newest version.
    """
    client = connect()
    family = read_family(name)
    generations = [version for version in family if version.kind == "generation"]
    validated = [version for version in generations if "validation_accuracy" in version.metrics]
    wanted = {LATEST_GENERATION: max(generations, key=lambda v: (v.generation, v.version), default=None)}
    wanted[BEST] = max(validated, key=lambda v: (v.metrics["validation_accuracy"], -v.version), default=None)
    moved = False
    for alias, version in wanted.items():
        if version is not None and alias not in version.aliases:
            client.set_registered_model_alias(name, alias, str(version.version))
            moved = True
    if generations:
        newest = generations[-1]
        teacher = family.teacher(newest)
        if teacher is not None:
            text = card(teacher, family.teacher(teacher), family.students(teacher))
            client.update_model_version(name, str(teacher.version), description=text)
    return read_family(name) if moved else family


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    """Create the registered model ``name`` unless it exists."""
    try:
        client.create_registered_model(name, tags={TAG + "schema": str(SCHEMA)})
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def card(version: Version, teacher: Version | None, students: tuple[Version, ...]) -> str:
    """Markdown that the stock MLflow UI shows with a version: its numbers, and links along its edges."""
    title = f"**Generation {version.generation}** of {version.name}"
    lines = [f"{title} · {version.objective} · seed {version.seed}", ""]
    accuracy = version.metrics.get("test_accuracy")
    if accuracy is not None:
        text = f"- test accuracy {accuracy:.2%}"
        if teacher is not None and "test_accuracy" in teacher.metrics:
            text += f" (teacher {teacher.metrics['test_accuracy']:.2%})"
        lines.append(text)
    lines.append(f"- teacher: {_link(version.teacher)}" if version.teacher else "- patriarch: no teacher")
    if students:
        shown = ", ".join(_link(student.id) for student in students[:_STUDENTS_ON_CARD])
        more = len(students) - _STUDENTS_ON_CARD
        lines.append(f"- students: {shown}" + (f" and {more} more" if more > 0 else ""))
    return "\n".join(lines)


def _link(version_id: str) -> str:
    name, _, number = version_id.partition("/")
    return f"[{version_id}](#/models/{name}/versions/{number})"


def _as_entities(tags: dict[str, str]) -> list[mlflow.entities.model_registry.ModelVersionTag]:
    return [mlflow.entities.model_registry.ModelVersionTag(key, value) for key, value in tags.items()]
