from pathlib import Path

import peer
import pytest
import torch
from peer import Outcome, contest, table, verdict, write_between

import lineage

OUTCOMES = [Outcome(0, 0.40, 0.41, 0.40), Outcome(1, 0.41, 0.42, 0.42), Outcome(2, 0.42, 0.43, 0.41)]


def test_table_has_every_seed_and_the_means_with_their_t_intervals() -> None:
    """The factor of t for three values and 95 % is 4.3027; the differences 1, 0, 2 deviate by 1."""
    *_, first, second, third, means = table(OUTCOMES).splitlines()
    assert first == "| 0 | 40.00 | 41.00 | 40.00 | +1.00 |"
    assert (second[:3], third[:3]) == ("| 1", "| 2")
    assert means == ("| mean and 95 % interval | 41.00 ± 2.48 | 42.00 ± 2.48 | 41.00 ± 2.48 | 1.00 ± 2.48 |")
    assert table(OUTCOMES[:1]).splitlines()[-1] == "| mean and 95 % interval | 40.00 | 41.00 | 40.00 | 1.00 |"


def test_verdict_compares_the_means_with_the_widest_spread_of_a_tool() -> None:
    assert verdict(OUTCOMES).startswith("The means differ by 1.00 points, within the 2.00 points between")
    apart = [Outcome(0, 0.4, 0.41, 0.30), Outcome(1, 0.4, 0.42, 0.31)]
    assert "differ by 11.00 points, beyond the 1.00 points" in verdict(apart)


def test_table_takes_the_place_between_its_markers_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peer -->\nold\n<!-- /peer -->\nafter\n")
    write_between(page, "peer", r"new \1")
    assert page.read_text() == "before\n<!-- peer -->\nnew \\1\n<!-- /peer -->\nafter\n"
    with pytest.raises(ValueError, match="lacks one"):
        write_between(page, "other", "new")


@pytest.mark.usefixtures("home")
def test_both_tools_teach_by_the_same_patriarch_and_continue_to_the_same_bits(
    noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchdistill", reason="needs torchdistill: 'pip install --group bench'")

    overrides = [f"data.root={noise}", "data.train_samples=200", "network.width=4"]
    overrides += ["training.epochs=2", "training.batch_size=40"]

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(peer, "_print", stop)
        contest(0, overrides)
    (state,) = Path().glob("torchdistill-*-0.pt")
    assert torch.load(state)["epochs"] == 1
    outcome = contest(0, overrides)
    continued = torch.load(state)["student"]
    assert [version.generation for version in lineage.tree("peer")] == [0, 1]
    state.unlink()
    assert contest(0, overrides) == outcome
    whole = torch.load(state)
    assert whole["epochs"] == 2
    assert all(torch.equal(continued[name], value) for name, value in whole["student"].items())
    assert whole["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)
