"""Verdicts on the paper's statements, from synthetic results."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from equipose.errors import ConfigError
from equipose.study.claims import (
    RunRow,
    as_markdown,
    asked_or_found,
    assess,
    claims_table,
    judge,
    rate_interval,
)
from equipose.study.run_table import NUMBERS

PAPER = Path(__file__).parents[1] / "workflow/resources/paper"

CLAIMS = yaml.safe_load((Path(__file__).parents[1] / "workflow/report/claims.yaml").read_text())


def result(model="d4_l2", dataset="one", mse=0.01, converged=True, seed=0, **more) -> RunRow:
    return {"model": model, "dataset": dataset, "seed": seed, "converged": converged, "mse": mse} | more


def rate(between, of=None):
    return {"test": "rate", "number": "converged", "of": of or {"model": "d4_l2"}, "between": between}


def ratio(between):
    sides = {"of": {"model": "d4_l2"}, "over": {"model": "standard_sym"}}
    return {"test": "ratio", "number": "mse", "between": between} | sides


def test_every_claim_of_the_file_can_be_assessed():
    """On nothing at all: each is "not run", and none names a test or number that does not exist."""
    table = claims_table(CLAIMS, [])
    assert set(table["verdict"]) == {"not run"} and len(table) >= 20
    assert all(claim.get("number") in NUMBERS for claim in CLAIMS["claims"].values())


def test_a_rate_is_judged_by_its_exact_interval():
    assert rate_interval(8, 8, 0.95) == pytest.approx((0.631, 1.0), abs=1e-3)
    assert rate_interval(0, 8, 0.95) == pytest.approx((0.0, 0.369), abs=1e-3)
    eight = [result() for _ in range(8)]
    assert assess(rate([0.6, 1.0]), eight, 0.95, 3).verdict == "reproduced"
    assert assess(rate([0.0, 0.5]), eight, 0.95, 3).verdict == "not reproduced"
    assert assess(rate([0.8, 1.0]), eight, 0.95, 3).verdict == "inconclusive"


@pytest.fixture
def nine(paper_config, tmp_path) -> list[RunRow]:
    """Nine runs are asked for. Two failed, and two are missing: one never began, and one is still training."""
    asked = {"datasets": ["80s_snr1"], "models": ["d4_l2"], "seeds": [*range(9)], "budget": {"steps": 5}}
    logs = tmp_path / "logs/train/80s_snr1/d4_l2"
    logs.mkdir(parents=True)
    for seed, log in ((5, "error: the loss is not finite"), (6, "error: killed"), (7, "step 8/12")):
        (logs / f"seed{seed}.log").write_text(log + "\n")
    done = [result(dataset="80s_snr1", seed=seed, snr=1.0, has_converged=True) for seed in range(5)]
    return asked_or_found(paper_config | {"experiments": {"mine": asked}}, ["mine"], tmp_path, pd.DataFrame(done))


def test_a_run_that_failed_counts_as_not_converged_and_one_that_is_missing_does_not_count(nine):
    found = assess(rate([0.0, 1.0], {"model": "d4_l2", "snr": 1.0}), nine, 0.95, 3)
    assert (found.estimate, found.runs) == (pytest.approx(5 / 7), 7)
    assert found.failed == "80s_snr1/d4_l2 seed 5, 6"
    assert found.missing == "80s_snr1/d4_l2 seed 7, 8"


def test_every_claim_of_the_file_is_judged_where_runs_have_failed(nine):
    """Also those about runs with right or wrong poses, which a failed run does not have."""
    failed = [run for run in nine if run["seed"] in (5, 6)]
    table = claims_table(CLAIMS, failed).set_index("claim")
    assert len(failed) == 2 and table.loc["d4_converges_ribosome_snr1", "estimate"] == 0.0
    assert table.loc["verdict_finds", "verdict"] == "not run" and np.isnan(table.loc["verdict_refuses", "estimate"])


def test_a_run_that_failed_has_no_other_number(nine):
    found = assess({"test": "value", "number": "mse", "of": {}, "between": [0, 1]}, nine, 0.95, 3)
    assert (found.estimate, found.runs) == (0.01, 5)


def test_what_a_missing_run_would_have_shown_is_open(nine):
    """Two runs did not converge, and the two missing ones may not converge either."""
    for outcome, failed in ((False, "80s_snr1/d4_l2 seed 5, 6"), (True, "")):
        found = assess(rate([0.0, 1.0], {"converged": outcome}), nine, 0.95, 3)
        assert (found.failed, found.missing) == (failed, "80s_snr1/d4_l2 seed 7, 8")


def test_the_table_of_claims_names_the_runs_that_no_number_counts(nine):
    claims = {"all": rate([0.8, 1.0]) | {"where": "Table 1", "says": "All converge, |S_i| = N."}}
    specification = {"confidence": 0.95, "seeds": 3, "claims": claims}
    text = as_markdown(claims_table(specification, nine), 0.95, nine)
    assert r"| All converge, \|S_i\| = N. | Table 1 |" in text, "a bar ends no cell"
    assert "Failed, counted as not converged: 80s_snr1/d4_l2 seed 5, 6." in text
    assert "Asked for but missing, and not counted: 80s_snr1/d4_l2 seed 7, 8." in text
    done = [run for run in nine if "unfinished" not in run]
    assert "count" not in as_markdown(claims_table(specification, done), 0.95, done)


def every(between, **more):
    return {"test": "every", "number": "converged", "of": {"model": "d4_l2"}, "between": between} | more


def test_a_statement_about_every_run_is_refuted_by_one_and_needs_eight():
    eight = [result() for _ in range(8)]
    assert assess(every([1, 1]), eight, 0.95, 3).verdict == "reproduced"
    assert assess(every([1, 1]), eight[:7], 0.95, 3).verdict == "inconclusive"
    for others in (eight, eight * 4):
        assert assess(every([1, 1]), [*others, result(converged=False)], 0.95, 3).verdict == "not reproduced"
        assert assess(every([0, 0]), [*others, result(converged=False)], 0.95, 3).verdict == "not reproduced"


def test_nothing_follows_from_runs_that_were_too_short_to_converge():
    short = [result(converged=False, images_seen=100) for _ in range(8)]
    long = [result(converged=False, images_seen=1000) for _ in range(8)]
    for claim in (every([1, 1], images=500), every([0, 0], images=500), rate([0.6, 1.0]) | {"images": 500}):
        found = assess(claim, short, 0.95, 3)
        assert (found.verdict, found.short) == ("inconclusive", 8)
        assert assess(claim, long, 0.95, 3).verdict != "inconclusive"
    assert assess(every([1, 1], images=500), [*short, long[0]], 0.95, 3).verdict == "not reproduced"
    assert assess(every([0, 0], images=500), [*short, result()], 0.95, 3).verdict == "not reproduced"


@pytest.fixture
def table1() -> list[RunRow]:
    """Eight runs of 6,000 s for each row of the paper's Table 1, the three best with its mean numbers.

    Where a row has no time of convergence, those of its runs that converged did so at the end.
    """
    rows = []
    for row in pd.read_csv(PAPER / "table1.csv").to_dict("records"):
        converged = round(8 * row["converged_percent"] / 100)
        seconds = row["conv_time_s"] if np.isfinite(row["conv_time_s"]) else 5999.0
        step = 0.485 if row["encoder"] == "standard" else 0.44
        for seed in range(8):
            ended = result(
                f"{row['encoder']}_{row['loss']}",
                row["dataset"],
                seed=seed,
                mse=row["mse"] if seed < 3 else max(row["mse"], 0.05) if seed < converged else 2.6,
                converged=seed < converged,
                snr=1.0 if "snr1" in row["dataset"] else "noiseless",
                snr_px=128,
                images_seen=64 * 6000 / step,
                seconds=6000.0,
                steps=6000 / step,
                seconds_per_step=step,
                resolution=row["resolution_A"],
            )
            times = {"convergence_seconds": seconds, "convergence_steps": seconds / step}
            rows.append(ended | (times if seed < converged else {}))
    return rows


@pytest.mark.parametrize(
    "claim",
    [
        "standard_converges",
        "c4_l2_rarely",
        "c4_mir_converges",
        "d4_converges_noiseless",
        "d4_converges_ribosome_snr1",
        "d4_sooner",
        "d4_fewer_steps",
        "d4_step_no_slower",
        "d4_more_accurate",
        "c4_mir_more_accurate",
        "d4_resolution",
        "c4_l2_stays_on_plateau",
    ],
)
def test_the_paper_s_own_runs_would_reproduce_its_claims(table1, claim):
    found = assess(CLAIMS["claims"][claim], table1, CLAIMS["confidence"], CLAIMS["seeds"])
    assert found.verdict == "reproduced", found


def test_as_good_is_not_better():
    """At 32 px two good maps have the same resolution, that of the voxels."""
    results = [result(name) for name in ("d4_l2", "standard_sym") for _ in range(4)]
    assert assess(ratio([0.0, 1.0]), results, 0.95, 3).verdict == "inconclusive"


def test_a_dataset_with_one_seed_does_not_count_beside_one_with_enough():
    results = [result(name, mse=mse) for name, mse in (("d4_l2", 0.01), ("standard_sym", 0.04)) for _ in range(3)]
    results += [result(name, "two", mse) for name, mse in (("d4_l2", 1.0), ("standard_sym", 0.01))]
    found = assess(ratio([0.0, 1.0]), results, 0.95, 3)
    assert (found.estimate, found.verdict, found.runs) == (pytest.approx(0.25), "reproduced", 3)
    single = [run for run in results if run["dataset"] == "two"]
    assert assess(ratio([0.0, 200.0]), single, 0.95, 3).verdict == "inconclusive"


def test_runs_of_which_none_is_what_a_statement_is_about_are_not_called_not_run():
    asked = {"test": "value", "number": "mse", "of": {"model": "d4_l2", "converged": True}, "between": [0, 1]}
    assert assess(asked, [result(converged=False)], 0.95, 3).verdict == "no such run"
    assert assess(asked, [result("c4_l2")], 0.95, 3).verdict == "not run"


def steps(between, **more):
    sides = {"of": {"model": "d4_l2"}, "over": {"model": "standard_sym"}}
    return {"test": "ratio", "number": "convergence_steps", "between": between} | sides | more


def test_a_run_that_has_not_converged_needs_longer_than_it_was_trained():
    """Three of D4 need 600 steps; of the standard model two do not converge in 1,200, and one needs 900."""
    fast = [result(convergence_steps=600, steps=700) for _ in range(3)]
    slow = [result("standard_sym", converged=False, steps=1200, images_seen=1000) for _ in range(2)]
    slow += [result("standard_sym", convergence_steps=900, steps=1000)]
    found = assess(steps([0, 0.667], images=500), fast + slow, 0.95, 3)
    assert (found.bound, found.estimate, found.verdict) == ("at most", 0.5, "reproduced")
    assert (found.low, found.high) == (0, pytest.approx(2 / 3))
    assert assess(steps([0, 0.5]), fast + slow, 0.95, 3).verdict == "inconclusive"
    assert assess(steps([0, 0.667], images=2000), fast + slow, 0.95, 3).verdict == "inconclusive"  # too short to tell

    other_way = assess(
        steps([0, 1.0]) | {"of": {"model": "standard_sym"}, "over": {"model": "d4_l2"}}, fast + slow, 0.95, 3
    )
    assert (other_way.bound, other_way.estimate, other_way.verdict) == ("at least", 2.0, "not reproduced")


def test_a_ratio_of_runs_that_never_converge_is_none():
    never = [result(name, converged=False, steps=9) for name in ("d4_l2", "standard_sym") for _ in range(3)]
    assert assess(steps([0, 1.0]), never, 0.95, 3).verdict == "no such run"


def test_a_side_that_never_converges_needs_longer_than_one_that_does():
    """The worst outcome for a statement counts, too: three runs of D4, trained longer than the other model needs."""
    never = [result(converged=False, steps=1200, images_seen=1000) for _ in range(3)]
    other = [result("standard_sym", convergence_steps=500, steps=600) for _ in range(3)]
    found = assess(steps([0, 1.0]), never + other, 0.95, 3)
    assert (found.bound, found.estimate, found.verdict) == ("at least", 2.4, "not reproduced")


def test_a_statement_about_every_dataset_is_judged_by_the_worst():
    results = [result(name, dataset, mse) for _ in range(3) for name, dataset, mse in (
        ("d4_l2", "one", 0.01), ("standard_sym", "one", 0.1), ("d4_l2", "two", 0.3), ("standard_sym", "two", 0.1)
    )]  # fmt: skip
    assert assess(ratio([0.0, 2.0]), results, 0.95, 3).estimate == pytest.approx(1.55)
    found = assess(ratio([0.0, 2.0]) | {"across": "worst"}, results, 0.95, 3)
    assert found.estimate == pytest.approx(3) and found.verdict == "not reproduced"


def test_seconds_are_compared_on_one_machine():
    """On each, D4 takes twice the other's seconds. D4's runs on the fast machine say nothing about the slow one's."""
    asked = ratio([0.0, 1.0]) | {"number": "seconds_per_step"}
    fast, slow = ({"processor": name, "precision": "float32"} for name in ("fast", "slow"))
    results = [result(seconds_per_step=0.2, **fast) for _ in range(3)]
    results += [result("standard_sym", seconds_per_step=1.0, **slow) for _ in range(3)]
    assert assess(asked, results, 0.95, 3).verdict == "no such run"
    results += [result(seconds_per_step=2.0, **slow) for _ in range(3)]
    results += [result("standard_sym", seconds_per_step=0.1, **fast) for _ in range(3)]
    assert assess(asked, results, 0.95, 3).estimate == pytest.approx(2.0)


def test_the_best_runs_are_those_of_least_error():
    """As in Table 1. The fourth run of each model is left out: its poses are wrong."""
    results = [result(mse=mse, resolution=20.0) for mse in (0.01, 0.02, 0.03)] + [result(mse=5.0, resolution=200.0)]
    results += [result("standard_sym", mse=mse, resolution=40.0) for mse in (0.1, 0.2, 0.3)]
    results += [result("standard_sym", mse=6.0, resolution=1.0)]
    found = assess(ratio([0.0, 0.6]) | {"number": "resolution", "best": 3}, results, 0.95, 3)
    assert (found.estimate, found.runs, found.runs_compared, found.verdict) == (0.5, 3, 3, "reproduced")


def test_few_seeds_are_inconclusive_however_clear_they_look():
    assert assess(rate([0.0, 1.0]), [result()] * 2, 0.95, 3).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [(0.01, 0.04, "reproduced"), (0.08, 0.04, "not reproduced")],
)
def test_a_ratio_compares_medians_dataset_by_dataset(ours, theirs, verdict):
    """A second dataset, a hundred times harder for both, changes nothing; nor does a third that one side lacks."""
    rng = np.random.default_rng(0)
    results = [result(dataset="three", mse=1e6)]
    for dataset, hardness in (("one", 1), ("two", 100)):
        for model, mse in (("d4_l2", ours), ("standard_sym", theirs)):
            spread = 1 + 0.1 * rng.random(4)
            results += [result(model, dataset, hardness * mse * factor) for factor in spread]
    found = assess(ratio([0.0, 0.5]), results, 0.95, 3)
    assert found.verdict == verdict and found.estimate == pytest.approx(ours / theirs, rel=0.1)
    assert (found.runs, found.runs_compared) == (8, 8)


def test_a_wide_interval_is_inconclusive():
    results = [result(mse=mse) for mse in (0.001, 0.01, 1.0)] + [result("standard_sym", mse=0.05) for _ in range(3)]
    assert assess(ratio([0.0, 0.5]), results, 0.95, 3).verdict == "inconclusive"


def test_an_interval_is_judged_by_all_of_it():
    assert judge(0.2, 0.4, [0, 0.5]) == "reproduced"
    assert judge(0.6, 0.9, [0, 0.5]) == "not reproduced"
    assert judge(0.4, 0.6, [0, 0.5]) == "inconclusive"


def test_an_unknown_number_is_a_message():
    with pytest.raises(ConfigError, match="no test `value` with number `beauty`"):
        assess({"test": "value", "number": "beauty", "of": {}, "between": [0, 1]}, [], 0.95, 3)
