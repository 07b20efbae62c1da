"""Comparison of a packed family with the store, by key: the part that is to be added."""

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from lineage.errors import IntegrityError
from lineage.registry.family.family import Version, from_model_version, model_name
from lineage.registry.family.lookup import family_of
from lineage.registry.family.tags import TAG
from lineage.registry.packing.contents import Contents, PackedVersion
from lineage.registry.packing.identities import Identities, numbers_in
from lineage.registry.packing.restoring import ORIGIN_TAG, Addition
from lineage.registry.store.connection import safe_uri, translated_errors
from lineage.registry.store.search import find_model_with_versions, search_runs


@translated_errors()
def plan_addition(contents: Contents, merge: bool) -> tuple[Addition, tuple[str, ...]]:
    """Compare a packed family with the store.

    Args:
        contents: Packed family.
        merge: Whether the store may hold a family of that name.

    Returns:
        What to add, and ``name/version`` of teachers and members of other families that the store lacks.

    Raises:
        IntegrityError: If the store holds the name and ``merge`` is not given, or a key with other weights.
    """
    family = contents.family
    stored = find_model_with_versions(family.name)
    if stored is not None and not merge:
        raise IntegrityError(
            f"The store must not hold '{family.name}' yet, but {safe_uri()} does; add what it lacks with"
            " --merge, or unpack into another store."
        )
    present = () if stored is None else tuple(family_of(family.name, stored.versions))
    identities = Identities()
    new = [version for version in family.versions if not _is_held(version, present, family.name, identities)]
    missing = _map_other_families(family.name, new, identities)
    known = {origin: str(run.info.run_id) for run in search_runs(family.name, "") for origin in _origins(run)}
    identities.ids = known | identities.ids
    runs = [
        run
        for run in contents.runs
        if run.run_id not in identities.ids and run.tags.get(ORIGIN_TAG) not in known
    ]
    by_id = {model.model_id: model for model in contents.models}
    models = [by_id[model_id] for model_id in dict.fromkeys(version.model_id for version in new)]
    numbers = {version.number for version in new}
    if new:
        held = {version.number for version in family.versions} - numbers
        numbers |= numbers_in(family.tags) - held
    newest = max((int(entity.version) for entity in stored.versions), default=0) if stored else 0
    addition = Addition(
        contents,
        family.name,
        stored is None,
        tuple(runs),
        tuple(models),
        tuple(new),
        tuple(sorted(numbers)),
        newest + 1,
        identities,
    )
    return addition, missing


def _origins(run: Run) -> tuple[str, ...]:
    tags, run_id = run.data.tags, str(run.info.run_id)
    return (run_id, *([tags[ORIGIN_TAG]] if ORIGIN_TAG in tags else []))


def _is_held(version: PackedVersion, present: tuple[Version, ...], name: str, identities: Identities) -> bool:
    """Tell whether the store holds a version's key; remember then what its ids are there."""
    key, weights = version.tags.get(TAG + "key"), version.tags.get(TAG + "weights_sha256", "")
    found = next((held for held in present if key and held.key == key), None)
    if found is None:
        return False
    if found.weights_sha256 != weights:
        raise IntegrityError(
            f"Version {version.number} of the file must have the weights of {found.uri}, which has the same"
            f" key, but has {weights[:12]}… in place of {found.weights_sha256[:12]}…; unpack it into another"
            " store."
        )
    identities.ids |= {version.model_id: found.model_id, version.run_id: found.run_id}
    identities.versions[f"{name}/{version.number}"] = found.id
    return True


def _map_other_families(name: str, versions: list[PackedVersion], identities: Identities) -> tuple[str, ...]:
    """Find teachers and members of other families by their weights; return those that the store lacks."""
    missing = []
    for parent, model_id, weights in _edges(name, versions):
        if model_name(parent) == name or parent in identities.versions:
            continue
        stored = find_model_with_versions(model_name(parent))
        others = () if stored is None else family_of(model_name(parent), stored.versions)
        alike = [other for other in others if other.weights_sha256 == weights]
        found = next((other for other in alike if other.id == parent), alike[0] if alike else None)
        if found is None:
            missing.append(parent)
            continue
        identities.ids[model_id] = found.model_id
        identities.versions[parent] = found.id
    return tuple(dict.fromkeys(missing))


def _edges(name: str, versions: list[PackedVersion]) -> list[tuple[str, str, str]]:
    """Return id, model id and digest of each teacher and member."""
    found = []
    for packed in versions:
        version = packed_version(name, packed)
        if version.teacher is not None:
            found.append((version.teacher, version.teacher_model_id, version.teacher_sha256))
        found += [(member.id, member.model_id, member.weights_sha256) for member in version.members]
    return found


def packed_version(name: str, packed: PackedVersion) -> Version:
    """Return a packed version as it would be read from the store.

    Raises:
        IntegrityError: If its tags were altered.
    """
    tags = [ModelVersionTag(key, value) for key, value in packed.tags.items()]
    entity = ModelVersion(name, str(packed.number), 0, source=f"models:/{packed.model_id}", tags=tags)
    version = from_model_version(entity)
    if version is None:
        raise IntegrityError(
            f"Version {packed.number} of the file must be one that lineage registered, but has no tags of it."
        )
    return version
