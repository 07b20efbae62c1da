import random
from collections.abc import Callable
from functools import partial

import pytest

from lineage.display.tree_layout import NodePosition, TreeLayout, lay_out_tree


def rows(layout: TreeLayout) -> dict[str, int]:
    return {node: position.row for node, position in layout.positions.items()}


def columns(layout: TreeLayout) -> dict[str, int]:
    return {node: position.column for node, position in layout.positions.items()}


def test_family_of_nobody_takes_no_room() -> None:
    layout = lay_out_tree({}, {})
    assert (layout.positions, layout.folds, layout.num_columns) == ({}, (), 0)


def test_chain_is_a_straight_line() -> None:
    layout = lay_out_tree({"a": [], "b": ["a"], "c": ["b"]}, {})
    assert layout.positions == {
        "a": NodePosition(0, 0, None),
        "b": NodePosition(1, 0, "a"),
        "c": NodePosition(2, 0, "b"),
    }


def test_branch_begins_a_row_below_all_that_its_elder_sibling_has() -> None:
    family = {"a": [], "b": ["a"], "c": ["b"], "d": ["b"], "e": ["a"]}
    assert rows(lay_out_tree(family, {})) == {"a": 0, "b": 0, "c": 0, "d": 1, "e": 2}


def test_patriarchs_stand_below_each_other() -> None:
    layout = lay_out_tree({"a": [], "b": [], "c": ["b"], "d": ["a"]}, {})
    assert rows(layout) == {"a": 0, "b": 1, "c": 1, "d": 0}
    assert columns(layout) == {"a": 0, "b": 0, "c": 1, "d": 1}


def test_ensemble_stands_right_of_all_its_members_beside_the_last() -> None:
    layout = lay_out_tree({"a": [], "b": ["a"], "c": ["b"], "e": ["c", "a"], "s": ["e"]}, {})
    assert layout.positions["e"] == NodePosition(3, 1, "a")
    assert layout.positions["s"] == NodePosition(4, 1, "e")


def test_what_grows_later_moves_nothing_that_stands_above_it() -> None:
    family = {"a": [], "b": ["a"], "c": ["b"], "p": []}
    before = rows(lay_out_tree(family, {}))
    after = rows(lay_out_tree(family | {"d": ["p"], "q": []}, {}))
    assert {node: after[node] for node in family} == before


def test_parent_that_is_unknown_or_named_twice_is_passed_over() -> None:
    layout = lay_out_tree({"a": ["x"], "b": ["a", "a", "y"]}, {})
    assert layout.positions == {"a": NodePosition(0, 0, None), "b": NodePosition(1, 0, "a")}


@pytest.mark.parametrize(
    "family",
    [{"a": ["a"]}, {"a": ["b"], "b": ["a"]}, {"a": ["c"], "b": ["a"], "c": ["b"], "d": ["c"]}],
    ids=["of one", "of two", "of three, and a child"],
)
def test_circle_is_cut_where_its_first_node_stands(family: dict[str, list[str]]) -> None:
    layout = lay_out_tree(family, {})
    assert layout.positions["a"] == NodePosition(0, 0, None)
    assert sorted(columns(layout).values()) == list(range(len(family)))


def test_siblings_beyond_a_few_fold_and_those_worth_most_stay() -> None:
    family: dict[str, list[str]] = (
        {"root": []} | {f"s{i}": ["root"] for i in range(6)} | {"grandchild": ["s5"]}
    )
    layout = lay_out_tree(family, {"s1": 0.5, "s4": 0.4, "grandchild": 0.9}, max_unfolded=2)
    (fold,) = layout.folds
    assert fold.nodes == ("s0", "s2", "s3", "s4")
    assert (fold.parent, fold.column) == ("root", 1)
    found = rows(layout)
    assert (found["s1"], found["s5"], fold.row) == (0, 1, 2)
    assert [found[node] for node in fold.nodes] == [3, 4, 5, 6]


def test_patriarchs_beyond_a_few_fold_too() -> None:
    layout = lay_out_tree({str(i): [] for i in range(9)}, {}, max_unfolded=3)
    (fold,) = layout.folds
    assert (fold.parent, fold.column, len(fold.nodes)) == (None, 0, 6)


def test_no_two_nodes_of_any_family_share_a_spot() -> None:
    draw = random.Random(0)
    for _ in range(50):
        names = [str(number) for number in range(60)]
        family = {
            name: draw.sample(names[:number], min(number, draw.choice([0, 1, 1, 1, 3])))
            for number, name in enumerate(names)
        }
        layout = lay_out_tree(family, {})
        spots = [(position.column, position.row) for position in layout.positions.values()]
        spots += [(fold.column, fold.row) for fold in layout.folds]
        assert len(set(spots)) == len(spots)
        for name, parents in family.items():
            assert all(layout.positions[parent].column < layout.positions[name].column for parent in parents)


def test_placing_takes_work_in_proportion_to_the_family(
    count_calls: Callable[[Callable[[], object]], int],
) -> None:
    def place(size: int) -> None:
        family = {"0": []} | {str(i): [str(i - 1 if i % 10 else 0)] for i in range(1, size)}
        layout = lay_out_tree(family, {})
        assert len(layout.positions) == size
        assert len(layout.folds) == 1

    small, large = (count_calls(partial(place, size)) for size in (2_000, 20_000))
    assert large < 20 * small


def test_chain_of_ten_thousand_is_placed() -> None:
    family = {str(i): [str(i - 1)] for i in range(10_000)}
    assert lay_out_tree(family, {}).num_columns == 10_000
