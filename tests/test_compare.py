"""Results beside published ones: what differs by more than the spread of seeds, on small made-up results."""

from pathlib import Path

import pandas as pd
import pytest

from equipose.errors import ConfigError
from equipose.study.compare import compare, rates_differ, told_apart


def write(results: Path, mses: list[float], seconds: float = 100.0, verdict: str = "reproduced") -> Path:
    """Runs of one model with these MSEs, converged below 0.1 after about `seconds`, and one claim."""
    results.mkdir()
    runs = pd.DataFrame({"dataset": "one", "model": "d4_l2", "seed": range(len(mses)), "mse": mses, "snr": 1.0})
    runs = runs.assign(converged=runs["mse"] < 0.1, seconds=300.0)
    runs = runs.assign(convergence_seconds=(seconds + runs["seed"]).where(runs["converged"]))
    runs.to_csv(results / "runs.csv", index=False)
    pd.DataFrame([{"claim": "d4_converges", "verdict": verdict}]).to_csv(results / "claims.csv", index=False)
    return results


@pytest.fixture
def reference(tmp_path) -> Path:
    return write(tmp_path / "reference", [0.010, 0.012, 0.011])


def test_the_same_but_for_the_spread_of_seeds_agrees(command, reference, tmp_path):
    here = write(tmp_path / "here", [0.011, 0.013, 0.010])
    done = command("equipose.study.compare", "--results", here, "--reference", reference)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 3 / 3 of 3" in done.stdout and "The conclusions agree." in done.stdout


def test_a_model_that_no_longer_converges_is_named_and_its_time_is_a_lower_bound(command, reference, tmp_path):
    here = write(tmp_path / "here", [2.6, 2.7, 2.65])
    done = command("equipose.study.compare", "--results", here, "--reference", reference)
    assert done.returncode == 1
    assert "Conclusions that differ: one, d4_l2: convergence\n" in done.stderr
    assert "> 300 / 101" in done.stdout


def test_a_slower_machine_is_marked_but_draws_the_same_conclusions(reference, tmp_path):
    text, conclusions = compare(write(tmp_path / "here", [0.011, 0.012, 0.010], seconds=250), reference)
    assert text.splitlines()[2].endswith("time") and conclusions == []


def test_where_runs_end_that_do_not_converge_is_no_conclusion(tmp_path):
    """On a faster machine such runs have more steps."""
    here, reference = (write(tmp_path / name, mses) for name, mses in (("a", [2.6, 2.7, 2.6]), ("b", [4.5, 4.4, 4.6])))
    assert compare(here, reference)[1] == []


def test_converged_seeds_with_another_error_are_a_conclusion(reference, tmp_path):
    here = write(tmp_path / "here", [0.050, 0.052, 0.054])
    assert compare(here, reference)[1] == ["one, d4_l2: MSE"]


def test_only_opposite_verdicts_of_a_claim_differ(reference, tmp_path):
    for verdict, expected in (("inconclusive", []), ("not reproduced", ["claim d4_converges"])):
        here = write(tmp_path / verdict, [0.010, 0.012, 0.011], verdict=verdict)
        assert compare(here, reference)[1] == expected


def test_counts_differ_beyond_chance_or_where_all_stand_against_none():
    def runs(converged: int, of: int) -> pd.Series:
        return pd.Series([True] * converged + [False] * (of - converged))

    assert rates_differ(runs(3, 3), runs(0, 3)) and rates_differ(runs(8, 8), runs(2, 8))
    assert not rates_differ(runs(8, 8), runs(6, 8)) and not rates_differ(runs(2, 4), runs(1, 4))


def test_one_seed_has_no_spread():
    assert not told_apart(pd.Series([0.01]), pd.Series([0.05, 0.06]))
    assert told_apart(pd.Series([0.010, 0.011]), pd.Series([0.050, 0.055]))


def test_nothing_to_compare_is_a_message(reference, tmp_path):
    with pytest.raises(ConfigError, match="no dataset and model in common"):
        compare(write(tmp_path / "empty", []), reference)
    with pytest.raises(ConfigError, match=r"no .*nowhere/runs.csv, .*: write it with `publish`"):
        compare(reference, tmp_path / "nowhere")
