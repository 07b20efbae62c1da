"""Recipes: all that a lineage is grown from, as one TOML file.

A recipe is read once, at the top; below that, functions take plain arguments. Reading one needs neither
torch nor the packages that its names stand for: our own names are Literals, which a test equates with what
is built.
"""

from lineage.recipe.files import (
    change_recipe,
    find_recipe,
    flatten,
    load_recipe,
    recipe_names,
    recipe_path,
    set_values,
)
from lineage.recipe.recipe import Recipe, present_name, recipe_schema
from lineage.recipe.sections import (
    DataSetName,
    DataSettings,
    ModelSettings,
    NetworkName,
    NetworkSettings,
    ObjectiveName,
    PatriarchSettings,
    ScheduleName,
    StudentSettings,
    SuccessionSettings,
    TrainingSettings,
)
from lineage.recipe.space import check_space, own_values, with_space
from lineage.recipe.study import ObjectiveMetric, PrunerName, Range, SamplerName, StudySettings

__all__ = [
    "DataSetName",
    "DataSettings",
    "ModelSettings",
    "NetworkName",
    "NetworkSettings",
    "ObjectiveMetric",
    "ObjectiveName",
    "PatriarchSettings",
    "PrunerName",
    "Range",
    "Recipe",
    "SamplerName",
    "ScheduleName",
    "StudentSettings",
    "StudySettings",
    "SuccessionSettings",
    "TrainingSettings",
    "change_recipe",
    "check_space",
    "find_recipe",
    "flatten",
    "load_recipe",
    "own_values",
    "present_name",
    "recipe_names",
    "recipe_path",
    "recipe_schema",
    "set_values",
    "with_space",
]
