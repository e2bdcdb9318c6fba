"""What mattered: a parameter that decides, one that does nothing, effects and interactions by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from analysis.importance import importances_of, interaction_of, main_effects, order_note
from analysis.load import load_study_records
from sweep.records import Records, RecordsError

from .simulated import LAWS, draws, least_coverage


def study(folder, configurations, objectives):
    records = Records(folder, clock=lambda: 1.0)
    for number, (configuration, objective) in enumerate(zip(configurations, objectives, strict=True)):
        trial = {"trial": f"t{number:04d}", "number": number, "configuration": configuration, "state": "COMPLETE" if objective else "FAIL"}
        records.append_trial({**trial, "best_epoch": 3, "objective": objective})
    records.compact()
    return load_study_records(folder)


@pytest.fixture
def grid(tmp_path):
    """Every caption x rank x flip, twice: the objective is 1 for v1, 2 for v2, plus 0.5 where v2 meets rank 16; flip does nothing."""
    rows = [{"caption": c, "rank": r, "flip": f} for c, r, f in itertools.product(("v1", "v2"), (4, 16), (True, False))] * 2
    return study(tmp_path / "grid", rows, [(1 if row["caption"] == "v1" else 2) + 0.5 * (row["caption"] == "v2" and row["rank"] == 16) for row in rows])


def test_the_parameter_that_decides_is_the_most_important(grid):
    found = importances_of(grid).set_index("parameter")["importance"]
    assert found.index[0] == "caption" and found["caption"] > 0.8 > 0.05 > found["flip"] and found.sum() == pytest.approx(1)


def test_continuous_parameters_and_nested_values_have_importances(tmp_path):
    rng = np.random.default_rng(0)
    rates = 10 ** rng.uniform(-5, -2, 40)
    rows = [{"learning_rate": rate, "targets": ["q", "v"] if i % 2 else ["q"], "noise": rng.uniform()} for i, rate in enumerate(rates)]
    records = study(tmp_path / "s", rows, np.abs(np.log10(rates) + 3) + 0.1)
    assert importances_of(records)["parameter"].iloc[0] == "learning_rate"
    assert main_effects(records, "learning_rate")["n"].tolist() == [10] * 4 and len(main_effects(records, "targets")) == 2


def test_main_effects_are_means_by_value_less_the_mean_of_all(grid):
    effects = main_effects(grid).set_index(["parameter", "level"])
    assert effects.loc[("caption", "v1"), ["n", "mean", "effect"]].tolist() == pytest.approx([8, 1.0, -0.625])
    assert effects.loc[("rank", "16"), ["mean", "effect"]].tolist() == pytest.approx([1.75, 0.125])
    assert effects.loc[("flip", "True"), "effect"] == pytest.approx(0)
    low, high = effects.loc[("caption", "v2"), ["low", "high"]]
    assert 2 <= low < 2.25 < high <= 2.5


def test_an_interaction_is_what_main_effects_leave_over(grid):
    found = interaction_of(grid, "caption", "rank").set_index(["caption", "rank"])["interaction"]
    assert found.to_dict() == pytest.approx({("v1", "4"): 0.125, ("v1", "16"): -0.125, ("v2", "4"): -0.125, ("v2", "16"): 0.125})
    assert interaction_of(grid, "caption", "flip")["interaction"].abs().max() < 1e-12
    with pytest.raises(RecordsError, match="`dropout` is none of caption, rank, flip"):
        interaction_of(grid, "caption", "dropout")
    with pytest.raises(RecordsError, match="both are `rank`"):
        interaction_of(grid, "rank", "rank")


def test_too_few_trials_equal_values_and_failures_have_no_importance(tmp_path):
    few = importances_of(study(tmp_path / "few", [{"rank": 4}, {"rank": 8}], [1.0, 2.0]))
    assert few["importance"].isna().all() and few["n"].tolist() == [2]
    equal = importances_of(study(tmp_path / "equal", [{"rank": i % 3} for i in range(20)], [1.0] * 20))
    assert equal["importance"].isna().all()
    failed = study(tmp_path / "failed", [{"rank": i} for i in range(3)], [None] * 3)
    assert importances_of(failed).empty and main_effects(failed).empty
    assert interaction_of(study(tmp_path / "none", [{"a": 1, "b": 1}], [None]), "a", "b").empty


def test_an_unknown_method_or_value_is_named(grid):
    with pytest.raises(RecordsError, match="ped-anova or fanova.*'forest'"):
        importances_of(grid, method="forest")
    with pytest.raises(RecordsError, match="no `dino`"):
        importances_of(grid, value="dino")


def test_fanova_agrees_or_says_what_it_needs(grid):
    try:
        import sklearn  # noqa: F401
    except ImportError:
        with pytest.raises(RecordsError, match="scikit-learn"):
            importances_of(grid, method="fanova")
    else:
        assert importances_of(grid, method="fanova")["parameter"].iloc[0] == "caption"


def test_sixteen_trials_order_no_parameters_that_do_nothing_and_many_order_the_one_that_decides(
    tmp_path,
):
    rng = np.random.default_rng(4)
    few = [
        {
            "a": str(rng.choice(["x", "y"])),
            "b": int(rng.choice([4, 8, 16])),
            "c": str(rng.choice(["u", "v"])),
        }
        for _ in range(16)
    ]
    found = importances_of(study(tmp_path / "few", few, list(1 + rng.uniform(size=16))))
    assert not found["is_told_from_next"].any()
    assert order_note(found).startswith(
        f"16 trials are too few to order these: {', '.join(found['parameter'])}."
    )
    assert (found["low"] <= found["importance"]).all() and (
        found["importance"] <= found["high"]
    ).all()
    assert (found["high"] - found["low"]).min() > 0.1
    rng = np.random.default_rng(4)
    many = [{"a": i % 5, "b": i % 3, "c": i % 2} for i in range(120)]
    decided = importances_of(
        study(tmp_path / "many", many, [1 + row["a"] + 0.1 * rng.uniform() for row in many])
    )
    assert decided["parameter"].iloc[0] == "a" and decided["is_told_from_next"].tolist() == [
        True,
        False,
        False,
    ]
    assert order_note(decided).startswith(
        "120 trials are too few to order these: b, c."
    )


def test_one_parameter_and_none_have_no_order():
    import pandas as pd

    one = pd.DataFrame(
        {"parameter": ["a"], "importance": [1.0], "is_told_from_next": [False], "n": [16]}
    )
    assert order_note(one) is None and order_note(one[:0]) is None


@pytest.mark.parametrize("law", LAWS)
def test_the_interval_of_an_interaction_covers_what_two_parameters_do_together(tmp_path, law):
    """2 x 3 cells of unequal numbers of trials; in truth the first cell alone is 1 higher."""
    cells = [(a, b) for a in range(2) for b in range(3) for _ in range(2 + b)]
    records = study(tmp_path / "s", [{"a": a, "b": b} for a, b in cells], [1.0] * len(cells))
    n = np.array([2, 3, 4] * 2, dtype=float)
    means = np.array([1.0, 0, 0, 0, 0, 0])
    design = np.array(
        [[a == 0, a == 1, b == 0, b == 1, b == 2] for a in range(2) for b in range(3)], dtype=float
    )
    fitted = design @ np.linalg.lstsq(design * n[:, None] ** 0.5, means * n**0.5, rcond=None)[0]
    rng, covered = np.random.default_rng(1), []
    for _ in range(80):
        objective = [float(a == b == 0) for a, b in cells] + draws(law, (len(cells),), rng)
        found = interaction_of(
            replace(records, trials=records.trials.assign(objective=objective)), "a", "b"
        )
        covered.append(
            ((found["low"] <= means - fitted) & (means - fitted <= found["high"])).to_numpy()
        )
    assert np.mean(covered) >= least_coverage(np.array(covered))
    half = found["high"] - found["interaction"]
    assert half.max() <= 1.25 * 2 * t.ppf(
        0.975, len(cells) - 6
    )  # of a contrast whose error is below 1
