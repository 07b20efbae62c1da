"""Recipes: all that a lineage is grown from, as one TOML file.

A recipe is read once, at the top; below that, functions take plain arguments. Reading one needs neither
torch nor the packages that its names stand for: our own names are Literals, which a test equates with what
is built.
"""

from lineage.recipe.files import change_recipe, find_recipe, flatten, load_recipe, recipe_names, recipe_path
from lineage.recipe.sections import (
    DataSetName,
    DataSettings,
    ModelSettings,
    NetworkName,
    NetworkSettings,
    ObjectiveName,
    PatriarchSettings,
    Recipe,
    ScheduleName,
    StudentSettings,
    SuccessionSettings,
    TrainingSettings,
    recipe_schema,
)

__all__ = [
    "DataSetName",
    "DataSettings",
    "ModelSettings",
    "NetworkName",
    "NetworkSettings",
    "ObjectiveName",
    "PatriarchSettings",
    "Recipe",
    "ScheduleName",
    "StudentSettings",
    "SuccessionSettings",
    "TrainingSettings",
    "change_recipe",
    "find_recipe",
    "flatten",
    "load_recipe",
    "recipe_names",
    "recipe_path",
    "recipe_schema",
]
