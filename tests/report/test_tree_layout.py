import random
import time

import pytest

from lineage.report.tree_layout import NodePosition, Placement, place


def rows(placement: Placement) -> dict[str, int]:
    return {node: spot.row for node, spot in placement.spots.items()}


def columns(placement: Placement) -> dict[str, int]:
    return {node: spot.column for node, spot in placement.spots.items()}


def test_family_of_nobody_takes_no_room() -> None:
    placement = place({}, {})
    assert (placement.spots, placement.folds, placement.num_columns) == ({}, (), 0)


def test_chain_is_a_straight_line() -> None:
    placement = place({"a": [], "b": ["a"], "c": ["b"]}, {})
    assert placement.spots == {
        "a": NodePosition(0, 0, None),
        "b": NodePosition(1, 0, "a"),
        "c": NodePosition(2, 0, "b"),
    }


def test_branch_begins_a_row_below_all_that_its_elder_sibling_has() -> None:
    family = {"a": [], "b": ["a"], "c": ["b"], "d": ["b"], "e": ["a"]}
    assert rows(place(family, {})) == {"a": 0, "b": 0, "c": 0, "d": 1, "e": 2}


def test_patriarchs_stand_below_each_other() -> None:
    placement = place({"a": [], "b": [], "c": ["b"], "d": ["a"]}, {})
    assert rows(placement) == {"a": 0, "b": 1, "c": 1, "d": 0}
    assert columns(placement) == {"a": 0, "b": 0, "c": 1, "d": 1}


def test_ensemble_stands_right_of_all_its_members_beside_the_last() -> None:
    placement = place({"a": [], "b": ["a"], "c": ["b"], "e": ["c", "a"], "s": ["e"]}, {})
    assert placement.spots["e"] == NodePosition(3, 1, "a")
    assert placement.spots["s"] == NodePosition(4, 1, "e")


def test_what_grows_later_moves_nothing_that_stands_above_it() -> None:
    family = {"a": [], "b": ["a"], "c": ["b"], "p": []}
    before = rows(place(family, {}))
    after = rows(place(family | {"d": ["p"], "q": []}, {}))
    assert {node: after[node] for node in family} == before


def test_parent_that_is_unknown_or_named_twice_is_passed_over() -> None:
    placement = place({"a": ["x"], "b": ["a", "a", "y"]}, {})
    assert placement.spots == {"a": NodePosition(0, 0, None), "b": NodePosition(1, 0, "a")}


@pytest.mark.parametrize(
    "family",
    [{"a": ["a"]}, {"a": ["b"], "b": ["a"]}, {"a": ["c"], "b": ["a"], "c": ["b"], "d": ["c"]}],
    ids=["of one", "of two", "of three, and a child"],
)
def test_circle_is_cut_where_its_first_node_stands(family: dict[str, list[str]]) -> None:
    placement = place(family, {})
    assert placement.spots["a"] == NodePosition(0, 0, None)
    assert sorted(columns(placement).values()) == list(range(len(family)))


def test_siblings_beyond_a_few_fold_and_those_worth_most_stay() -> None:
    family: dict[str, list[str]] = (
        {"root": []} | {f"s{i}": ["root"] for i in range(6)} | {"grandchild": ["s5"]}
    )
    placement = place(family, {"s1": 0.5, "s4": 0.4, "grandchild": 0.9}, few=2)
    (fold,) = placement.folds
    assert fold.nodes == ("s0", "s2", "s3", "s4")
    assert (fold.parent, fold.column) == ("root", 1)
    found = rows(placement)
    assert (found["s1"], found["s5"], fold.row) == (0, 1, 2)
    assert [found[node] for node in fold.nodes] == [3, 4, 5, 6]


def test_patriarchs_beyond_a_few_fold_too() -> None:
    placement = place({str(i): [] for i in range(9)}, {}, few=3)
    (fold,) = placement.folds
    assert (fold.parent, fold.column, len(fold.nodes)) == (None, 0, 6)


def test_no_two_nodes_of_any_family_share_a_spot() -> None:
    draw = random.Random(0)
    for _ in range(50):
        names = [str(number) for number in range(60)]
        family = {
            name: draw.sample(names[:number], min(number, draw.choice([0, 1, 1, 1, 3])))
            for number, name in enumerate(names)
        }
        placement = place(family, {})
        spots = [(spot.column, spot.row) for spot in placement.spots.values()]
        spots += [(fold.column, fold.row) for fold in placement.folds]
        assert len(set(spots)) == len(spots)
        for name, parents in family.items():
            assert all(placement.spots[parent].column < placement.spots[name].column for parent in parents)


def test_placing_takes_time_in_proportion_to_the_family() -> None:
    def seconds(size: int) -> float:
        family = {"0": []} | {str(i): [str(i - 1 if i % 10 else 0)] for i in range(1, size)}
        begin = time.process_time()
        placement = place(family, {})
        passed = time.process_time() - begin
        assert len(placement.spots) == size
        assert len(placement.folds) == 1
        return passed

    small, large = (min(seconds(size) for _ in range(3)) for size in (2_000, 20_000))
    assert large < 30 * small


def test_chain_of_ten_thousand_is_placed() -> None:
    family = {str(i): [str(i - 1)] for i in range(10_000)}
    assert place(family, {}).num_columns == 10_000
