"""Pictures and training seeds in one interval, by simulation: coverage, width, equal trials,
trials that differ, and every verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from analysis.comparison import compare_studies, comparison_notes
from analysis.joint import joint_differences, joint_means, joint_recorded
from analysis.load import load_study_records
from analysis.report_numbers import report_numbers
from analysis.selection import best_set, paired_comparisons
from analysis.tables import ranked_trials
from sweep.records import Records

from .simulated import (
    LAWS,
    N_TRIALS,
    error_and_width,
    images_of,
    least_coverage,
    lpips_of_trials,
    with_values,
    write_study,
)

SEEDS = (1, 2, 3, 5)
SPREADS = ({"seed_sd": 1.0}, {"seed_sd": 0.25, "both_sd": 1.0}, {"seed_sd": 0.0})
"""Seeds decide, pictures decide, and seeds do nothing."""


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("spread", SPREADS, ids=["seeds", "pictures", "no-seeds"])
@pytest.mark.parametrize("n_seeds", SEEDS)
def test_a_trials_interval_covers_pictures_and_seeds_and_is_not_much_wider_than_it_must_be(
    n_seeds, spread, law
):
    rng, covered, widths = np.random.default_rng(n_seeds), [], []
    for _ in range(40):
        found = joint_means(images_of(lpips_of_trials(law, n_seeds, rng, **spread)))
        covered.append((found.low <= 0) & (found.high >= 0))
        widths.append((found.high - found.low).mean())
    assert np.mean(covered) >= least_coverage(np.array(covered))
    assert np.mean(widths) <= 1.25 * error_and_width(n_seeds, **spread)[1]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n_seeds", SEEDS)
def test_equal_trials_differ_in_5_percent_and_trials_three_standard_errors_apart_in_80(
    n_seeds, law
):
    rng, differ, told = np.random.default_rng(n_seeds), [], []
    apart = 3 * 2**0.5 * error_and_width(n_seeds)[0]
    for _ in range(120):
        values = lpips_of_trials(law, n_seeds, rng)
        differ.append(joint_differences(images_of(values), 0).p[1:] < 0.05)
        values[1::2] += apart
        found = joint_differences(images_of(values), 0)
        told.append((found.low[1::2] > 0) & (found.p[1::2] < 0.05))
    assert np.mean(differ) <= 0.05 + 2 * np.mean(differ, axis=1).std() / len(differ) ** 0.5
    assert np.mean(told) >= 0.8 - 2 * np.mean(told, axis=1).std() / len(told) ** 0.5


def test_the_interval_of_one_seed_is_that_of_its_pictures_and_of_two_trials_the_paired_t_test():
    values = lpips_of_trials("normal", 1, np.random.default_rng(0), n_trials=2)
    found = joint_differences(images_of(values), 0)
    d = (values[1] - values[0]).ravel()
    half = t.ppf(0.975, 19) * d.std(ddof=1) / 20**0.5
    assert (found.low[1], found.high[1]) == pytest.approx((d.mean() - half, d.mean() + half))
    two = lpips_of_trials("normal", 2, np.random.default_rng(0), n_trials=1)
    alone, means = joint_means(images_of(two)), two[0].mean(axis=0)
    assert (
        alone.high[0] - alone.low[0] > 2 * 12.7 * np.std(means, ddof=1) / 2**0.5
    )  # Student's two seeds, and pictures


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_a_metric_of_whole_sets_is_covered_whether_or_not_its_pictures_err_alike_under_every_seed(
    n_seeds, share
):
    """Its recorded interval is of one set; LPIPS of the same pictures tells what of it more seeds
    do not make less."""
    rng, covered, widths = np.random.default_rng(n_seeds), [], []
    error = 1.0
    for _ in range(150):
        alike, own = rng.normal(size=(N_TRIALS, 1)), rng.normal(size=(N_TRIALS, n_seeds))
        values = rng.normal(size=(N_TRIALS, n_seeds)) + error * (
            share**0.5 * alike + (1 - share) ** 0.5 * own
        )
        half = t.ppf(0.975, 19) * error * np.sqrt(rng.chisquare(19, values.shape) / 19)
        images = images_of(
            lpips_of_trials("normal", n_seeds, rng, both_sd=0.01)
            if share
            else np.random.default_rng(1).normal(size=(N_TRIALS, 20, n_seeds))
        )
        found = joint_recorded(values, values - half, values + half, images)
        covered.append((found.low <= 0) & (found.high >= 0))
        widths.append((found.high - found.low).mean())
    assert np.mean(covered) >= least_coverage(np.array(covered))
    variance = (1 + error**2 * (1 - share)) / n_seeds + error**2 * share
    assert np.mean(widths) <= 1.25 * 2 * t.ppf(0.975, 16) * variance**0.5


@pytest.mark.parametrize("n_seeds, law", [*((n, "normal") for n in SEEDS), (3, "exponential")])
def test_the_set_holds_the_truly_best_as_often_as_promised(tmp_path, n_seeds, law):
    records, rng, kept = (
        write_study(tmp_path / "s", np.zeros((N_TRIALS, 20, n_seeds))),
        np.random.default_rng(n_seeds),
        [],
    )
    for _ in range(10):  # all are equally good: any of them is truly the best
        best = best_set(with_values(records, lpips_of_trials(law, n_seeds, rng)))
        kept.append(best.set_index("trial")["in_set"].sort_index().to_numpy())
    assert np.mean(kept) >= least_coverage(np.array(kept))


@pytest.mark.parametrize("n_seeds", SEEDS)
def test_the_page_says_what_the_set_says_and_names_a_closer_rival_first(tmp_path, n_seeds):
    values = 0.1 * lpips_of_trials("normal", n_seeds, np.random.default_rng(7), n_trials=4)
    values -= values.mean(axis=(1, 2), keepdims=True)
    near = write_study(
        tmp_path / "near", values + np.array([0.5, 0.5, 3.0, 3.0])[:, None, None], best=0
    )
    first, warning = report_numbers(near)["cannot_tell"][0], "One training seed"
    assert best_set(near).set_index("trial")["in_set"].sort_index().tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert (
        first.startswith("Of the next 3 in rank, 1 cannot be told from t0000 by LPIPS: t0001.")
        and "3 comparisons" in first
    )
    assert any(line.startswith(warning) for line in report_numbers(near)["cannot_tell"]) == (
        n_seeds == 1
    )
    far = write_study(
        tmp_path / "far", values + np.array([3.0, 3.0, 0.5, 3.0])[:, None, None], best=0
    )
    first = report_numbers(far)["cannot_tell"][0]
    assert first.startswith("t0002 is closer to the subject by LPIPS than t0000") and "p " in first


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_equal_trials_of_two_studies_differ_in_5_percent_and_far_ones_are_told_apart(
    tmp_path, n_seeds
):
    first, second = (
        write_study(tmp_path / name, np.zeros((6, 20, n_seeds)), best=3) for name in "ab"
    )
    rng, differ, told = np.random.default_rng(n_seeds), [], []
    for _ in range(14):
        one, other = (lpips_of_trials("normal", n_seeds, rng, n_trials=6) for _ in range(2))
        found = compare_studies([with_values(first, one), with_values(second, other)]).iloc[1]
        differ.append(found["p_holm"] < 0.05)
        assert (
            found["vs_first"] == pytest.approx(other[3].mean() - one[3].mean())
            and found["vs_first_low"] < found["vs_first"] < found["vs_first_high"]
        )
        far = compare_studies(
            [with_values(first, one), with_values(second, other + 8 * error_and_width(n_seeds)[0])]
        ).iloc[1]
        told.append(far["vs_first_low"] > 0)
    assert np.mean(differ) <= 0.05 + 2 * (0.05 * 0.95 / 14) ** 0.5 and np.mean(told) >= 0.8


@pytest.mark.parametrize("n_seeds", [(1, 3), (3, 1), (3, 3), (1, 1)])
def test_a_study_of_one_training_seed_is_named_beside_what_it_is_compared_with(tmp_path, n_seeds):
    rng = np.random.default_rng(0)
    studies = [
        write_study(tmp_path / name, lpips_of_trials("normal", n, rng, n_trials=3))
        for name, n in zip(("one", "other"), n_seeds, strict=True)
    ]
    table = compare_studies(studies)
    assert table["n_train_seeds"].tolist() == list(n_seeds)
    named = [name for name, n in zip(("one", "other"), n_seeds, strict=True) if n == 1]
    notes = [note for note in comparison_notes(table) if "training seed" in note]
    assert len(notes) == bool(named) and all(" and ".join(named) + ": " in note for note in notes)
    assert comparison_notes(table.assign(vs_first=np.nan)) == []


def test_a_table_has_all_training_seeds_in_every_number(tmp_path):
    """Two seeds, of which the second is far worse: values, bands, intervals, rescored values and
    copies are of both."""
    records = Records(tmp_path / "s", clock=lambda: 1.0)
    networks = {
        "perceptual_backbone": "lpips:alex",
        "pooled_backbone": "inception",
        "n_references": 20,
    }
    for number in range(3):
        for seed, (fid, copies) in enumerate([(8.0, 0), (52.0, 7)]):
            key, fid = f"e{number}-{seed}", fid + number
            images = [
                {"prompt": "p", "seed": i, "lpips": 0.1 * (1 + seed) + 0.001 * i} for i in range(20)
            ]
            row = {
                "evaluation_key": key,
                "training_key": key,
                "epoch": 3,
                "lpips": 0.1 * (1 + seed) + 0.0095,
                "fid": fid,
                "n_images": 20,
                "n_copies": copies,
            }
            further = {"clip_i": 0.8 - 0.2 * seed, "lpips@lpips:vgg": 0.3 + 0.2 * seed}
            records.append_evaluation(
                {
                    **row,
                    **networks,
                    "further_metrics": further,
                    "intervals": {"fid": [fid - 5, fid + 5, 20]},
                },
                images,
            )
        trial = {
            "trial": f"t{number:04d}",
            "number": number,
            "state": "COMPLETE",
            "configuration": {"rank": number},
            "training_key": f"k{number}",
        }
        records.append_trial(
            {
                **trial,
                "best_epoch": 3,
                "objective": 0.1 * number,
                "rung_values": [[3, 0.1 * number, f"e{number}-0", f"e{number}-1"]],
            }
        )
    ranked = ranked_trials(load_study_records(tmp_path / "s"))
    best = ranked.iloc[0]
    assert (
        best["fid"],
        best["lpips"],
        best["clip_i"],
        best["lpips@lpips:vgg"],
        best["n_copies"],
    ) == pytest.approx((30.0, 0.1595, 0.7, 0.4, 7))
    assert (best["fid_band"], best["lpips_band"]) == (
        "good",
        "good",
    )  # of the means; the first seed's are excellent
    assert (
        best["fid_low"] < 8
        and best["fid_high"] > 52
        and best["lpips_low"] < 0.1
        and best["lpips_high"] > 0.2
    )
    assert (ranked["fid_low"] < ranked["fid"]).all() and (ranked["fid"] < ranked["fid_high"]).all()
    page = report_numbers(load_study_records(tmp_path / "s"))["trials"][0]
    assert (page["fid_low"], page["fid_high"], page["n_copies"]) == pytest.approx(
        (best["fid_low"], best["fid_high"], 7), rel=1e-6
    )


def test_pairs_are_of_the_same_picture_and_the_same_seed(tmp_path):
    values = np.random.default_rng(0).normal(size=(1, 20, 3)) + np.array([0.0, 0.2])[:, None, None]
    pair = paired_comparisons(write_study(tmp_path / "s", values), "t0000").iloc[0]
    assert (
        pair[["difference", "low", "high"]].tolist() == pytest.approx([0.2] * 3)
        and pair["n"] == 20
        and pair["p"] < 1e-9
    )


def test_a_control_has_pictures_but_no_training_seeds(tmp_path):
    values = lpips_of_trials("normal", 3, np.random.default_rng(1), n_trials=6)
    records = write_study(tmp_path / "s", values)
    images = [
        {"prompt": f"p{i % 5}", "seed": i // 5, "lpips": value}
        for i, value in enumerate(values[0, :, 0])
    ]
    Records(tmp_path / "s").append_evaluation(
        {"evaluation_key": "c", "training_key": "none", "epoch": 0, "lpips": 0.0, "n_images": 20},
        images,
    )
    control = ranked_trials(load_study_records(tmp_path / "s")).query("is_control").iloc[0]
    alone = joint_means(images_of(values[:1, :, :1]))
    assert (control["lpips_low"], control["lpips_high"]) == pytest.approx(
        (alone.low[0], alone.high[0])
    )
    assert pd.isna(control["n_train_seeds"]) and len(records.trials) == 6
