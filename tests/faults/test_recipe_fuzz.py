"""Any values that TOML or JSON can hold are a recipe, or are refused in a short sentence."""

import json
from typing import Any

import pytest

from lineage.errors import RecipeError
from lineage.recipe import Recipe, load_recipe

hypothesis = pytest.importorskip("hypothesis", reason="Hypothesis makes the values: pip install hypothesis")
st = pytest.importorskip("hypothesis.strategies")

_SETTINGS = json.loads(load_recipe("digits").to_json())
_KEYS = [(section, key) for section, table in _SETTINGS.items() for key in table]
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers().map(lambda n: n * 10**400), st.floats(), st.text()
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_quickly = hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)


def _read(settings: Any) -> None:
    for read in (lambda: Recipe.from_dict(settings), lambda: Recipe.from_json(json.dumps(settings))):
        try:
            recipe = read()
        except RecipeError as error:
            assert all(0 < len(problem) < 2_000 for problem in error.problems)
            assert str(error).replace("\n", "").isprintable()
        else:
            assert Recipe.from_json(recipe.to_json()).digest == recipe.digest


@_quickly
@hypothesis.given(st.sampled_from(_KEYS), _values)
def test_any_value_of_a_key_is_read_or_refused(place: tuple[str, str], value: Any) -> None:
    section, key = place
    _read(_SETTINGS | {section: _SETTINGS[section] | {key: value}})


@_quickly
@hypothesis.given(st.dictionaries(st.sampled_from([*_SETTINGS, "none"]) | st.text(max_size=8), _values))
def test_any_tables_are_read_or_refused(tables: dict[str, Any]) -> None:
    _read(_SETTINGS | tables)
