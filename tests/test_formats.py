import pytest

from lineage.formats import change, counted, printable, quantity, spread, unit_of_changes


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("test_accuracy", 0.975, "97.50 %"),
        ("top5_accuracy", 1, "100.00 %"),
        ("validation_agreement", 0.0, "0.00 %"),
        ("test_calibration_error", 0.01234, "1.23 %"),
        ("test_cross_entropy", 0.12345, "0.1235"),
        ("test_entropy", 2.0, "2.0000"),
        ("seconds", 61.25, "61.2 s"),
        ("images_per_second", 749.4, "749 images/s"),
        ("lr", 0.00012, "0.00012"),
        ("test_accuracy", None, "–"),
    ],
)
def test_quantity_is_written_in_the_unit_of_its_metric(metric: str, value: float | None, text: str) -> None:
    assert quantity(metric, value) == text


@pytest.mark.parametrize(
    ("metric", "difference", "text"),
    [
        ("test_accuracy", 0.0028, "+0.28"),
        ("test_accuracy", -0.0028, "-0.28"),
        ("test_accuracy", -0.00001, "+0.00"),
        ("test_cross_entropy", -0.5, "-0.5000"),
        ("test_accuracy", None, "–"),
    ],
)
def test_change_carries_its_sign_and_zero_is_never_negative(
    metric: str, difference: float | None, text: str
) -> None:
    assert change(metric, difference) == text


def test_spread_has_a_deviation_only_where_there_is_one() -> None:
    assert spread("test_accuracy", 0.975, 0.0021) == "97.50 ± 0.21 %"
    assert spread("test_accuracy", 0.975, None) == "97.50 %"
    assert spread("test_cross_entropy", 0.5, 0.25) == "0.5000 ± 0.2500"


def test_changes_of_shares_are_counted_in_percentage_points() -> None:
    assert unit_of_changes("test_accuracy") == "percentage points"
    assert unit_of_changes("test_cross_entropy") == "nats"
    assert unit_of_changes("lr") == ""


def test_counted_takes_the_plural() -> None:
    assert [counted(count, "seed") for count in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


def test_printable_text_cannot_steer_a_terminal() -> None:
    assert printable("größe\x1b[31m\nred\x07") == "größe\ufffd[31m\ufffdred\ufffd"
