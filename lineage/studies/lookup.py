"""A study found in its database by its name, and what it keeps there of its settings."""

from collections.abc import Sequence

import optuna
from optuna.storages import RDBStorage

from lineage.errors import NotFoundError, UsageError, suggestion
from lineage.evaluation.data_index import require_named, with_own_folder
from lineage.recipe import Recipe, change_recipe
from lineage.studies.database import open_storage, require_database, safe_url, translated_errors

SETTINGS = "lineage.settings"
RECIPE = "lineage.recipe"  # of the last session, as JSON


def load_study(storage: RDBStorage, name: str) -> optuna.Study:
    """Load a study that ``lineage`` began.

    Raises:
        NotFoundError: If the database holds none of that name.
        RegistryError: If the database does not answer.
    """
    with translated_errors(storage.url):
        names = [found.study_name for found in storage.get_all_studies()]
        if name in names:
            study = optuna.load_study(study_name=name, storage=storage)
            if SETTINGS in study.user_attrs:
                return study
    raise NotFoundError(
        f"The database {safe_url(storage.url)} holds no study '{name}' of lineage.{suggestion(name, names)}"
        " Name another database with --storage."
    )


def last_recipe(url: str, name: str, changes: Sequence[str]) -> Recipe:
    """Return the recipe with the space of a study's last session, with the images where this user has them.

    Args:
        url: URL of the database.
        name: Name of the study.
        changes: Texts ``section.key=value`` that change the recipe.

    Raises:
        NotFoundError: If the database is not there, or holds no study of that name.
        RegistryError: If the database does not answer.
        UsageError: If the study was begun before studies kept their recipes, the changes cannot hold, or the
            images come from the Hub and were not asked for.
    """
    require_database(url)
    study = load_study(open_storage(url), name)
    text = study.user_attrs.get(RECIPE)
    if text is None:
        raise UsageError(
            f"The study '{name}' must be given its recipe and settings once more, since it was begun before"
            " studies kept them; afterwards its name is enough."
        )
    digest = study.user_attrs[SETTINGS]["data"]
    stored = with_own_folder(Recipe.from_json(text), digest)
    changed = change_recipe(stored, changes)
    require_named(changed.data, stored.data.name, digest)
    return changed


def last_teacher(url: str, name: str) -> str | None:
    """Return the URI of the version that teaches all trials of a study; None where each has a patriarch.

    Raises:
        NotFoundError: If the database is not there, or holds no study of that name.
        RegistryError: If the database does not answer.
    """
    require_database(url)
    kept: tuple[str | None, str | None] = (None, None)
    uri, _key = load_study(open_storage(url), name).user_attrs[SETTINGS].get("teacher", kept)
    return None if uri is None else str(uri)


def objective_names(study: optuna.Study) -> list[str]:
    """Return the objectives of a study that ``lineage`` began, by their names in a recipe."""
    return list(study.user_attrs[SETTINGS]["objective"])
