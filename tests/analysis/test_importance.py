"""What mattered: a parameter that decides, one that does nothing, effects and interactions by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from analysis.importance import importances_of, interaction_of, main_effects
from analysis.load import load_study_records
from sweep.records import Records, RecordsError


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
