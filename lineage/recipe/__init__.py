"""Recipes: all settings that a family is grown from, as one TOML file.

A recipe is read once, at the top; functions below that take plain arguments. Reading one needs neither torch
nor the packages that its names stand for: names of ``lineage`` itself are Literals, which a test compares
with the dicts of what can be built.
"""

from lineage.recipe.data import FIRST_IMAGE_SIZE, DataSetName, DataSettings, PolicyName
from lineage.recipe.files import (
    change_recipe,
    default_settings,
    find_recipe,
    flatten,
    load_recipe,
    parse_settings,
    recipe_names,
    recipe_path,
    require_effect,
    set_values,
)
from lineage.recipe.names import check_name, is_weights_file
from lineage.recipe.overrides import Overrides, override, override_texts
from lineage.recipe.recipe import Recipe, recipe_schema
from lineage.recipe.renamed import present_name
from lineage.recipe.sections import (
    HandlerSettings,
    ModelSettings,
    NetworkName,
    NetworkSettings,
    ObjectiveName,
    OptimizerName,
    PatriarchSettings,
    ScheduleName,
    Section,
    Sections,
    TrainingSettings,
)
from lineage.recipe.space import check_space, highest, own_values, with_space
from lineage.recipe.student import DistillationName, StudentSettings, TermName, TermSettings
from lineage.recipe.study import ObjectiveMetric, PrunerName, Range, SamplerName, StudySettings
from lineage.recipe.succession import SuccessionSettings

__all__ = [
    "FIRST_IMAGE_SIZE",
    "DataSetName",
    "DataSettings",
    "DistillationName",
    "HandlerSettings",
    "ModelSettings",
    "NetworkName",
    "NetworkSettings",
    "ObjectiveMetric",
    "ObjectiveName",
    "OptimizerName",
    "Overrides",
    "PatriarchSettings",
    "PolicyName",
    "PrunerName",
    "Range",
    "Recipe",
    "SamplerName",
    "ScheduleName",
    "Section",
    "Sections",
    "StudentSettings",
    "StudySettings",
    "SuccessionSettings",
    "TermName",
    "TermSettings",
    "TrainingSettings",
    "change_recipe",
    "check_name",
    "check_space",
    "default_settings",
    "find_recipe",
    "flatten",
    "highest",
    "is_weights_file",
    "load_recipe",
    "override",
    "override_texts",
    "own_values",
    "parse_settings",
    "present_name",
    "recipe_names",
    "recipe_path",
    "recipe_schema",
    "require_effect",
    "set_values",
    "with_space",
]
