"""Of which metrics more is better: every table, figure and page that says "best" asks the same
place."""

from __future__ import annotations

import itertools

import pytest

from analysis.figures import draw_trade_off, trade_off
from analysis.importance import importances_of, main_effects
from analysis.load import load_study_records
from analysis.pareto import pareto_front
from analysis.report_numbers import report_numbers
from analysis.tables import best_of_each, pivot
from sweep.objective import METRICS
from sweep.records import Records, best_of, more_is_better

SIMILARITY = "dinov2@facebook/dinov2-small"


@pytest.fixture
def study(tmp_path):
    """Every a x b, twice: similarities grow with `a`, all good values have a=3, and `b` does next
    to nothing; of diversity the same."""
    records = Records(tmp_path / "s", clock=lambda: 1.0)
    for number, (a, b) in enumerate(itertools.product((1, 2, 3, 4), (1, 2, 3))):
        likeness = {1: 0.10, 2: 0.45, 3: 0.90, 4: 0.45}[a] + 0.001 * b
        metrics = {
            "lpips": 0.5 + 0.01 * number,
            "fid": 20.0 + number,
            "diversity": likeness,
            "dinov2": likeness,
            SIMILARITY: likeness,
        }
        row = {
            "evaluation_key": f"e{number}",
            "training_key": f"k{number}",
            "epoch": 3,
            "n_images": 4,
        }
        records.append_evaluation({**row, **metrics})
        trial = {
            "trial": f"t{number:04d}",
            "number": number,
            "state": "COMPLETE",
            "configuration": {"a": a, "b": b},
        }
        records.append_trial(
            {**trial, "best_epoch": 3, "objective": 0.5, "rung_values": [[3, 0.5, f"e{number}"]]}
        )
    return load_study_records(records.study_dir)


def test_more_is_better_of_similarities_and_diversity_alone_whatever_network_they_name():
    better = {metric for metric in METRICS if more_is_better(metric)}
    assert {
        "diversity",
        "dinov2",
        "clip_i",
        "clip_t",
        "face",
        "dinov2_heldout",
        "face_unseen",
    } <= better
    assert better.isdisjoint(
        {"lpips", "lpips_nearest", "fid", "fid_inf", "kid", "heldout_loss", "fid_seen"}
    )
    assert (
        more_is_better(SIMILARITY)
        and more_is_better("clip_i_seen@x/y")
        and more_is_better("diversity@lpips:vgg")
    )
    assert not any(
        map(
            more_is_better,
            ("objective", "epochs", "lpips@lpips:vgg", "n_copies", "a metric that nobody knows"),
        )
    )
    assert (
        best_of([1.0, 3.0], "dinov2") == 3.0
        and best_of([1.0, 3.0], "fid") == 1.0
        and best_of([], "fid") != best_of([], "fid")
    )


@pytest.mark.parametrize("value", ["dinov2", "diversity", SIMILARITY])
def test_the_best_of_a_metric_of_which_more_is_better_is_its_highest(study, value):
    best = best_of_each(study, "a", value=value)
    assert best["a"].tolist() == [3, 2, 4, 1] and best[value].tolist() == pytest.approx(
        [0.903, 0.453, 0.453, 0.103]
    )
    assert pivot(study, "a", value=value)["best"].tolist() == pytest.approx(
        [0.103, 0.453, 0.903, 0.453]
    )
    assert main_effects(study, "b", value=value)["best"].tolist() == pytest.approx(
        [0.901, 0.902, 0.903]
    )
    assert best_of_each(study, "a", value="fid")["a"].tolist() == [1, 2, 3, 4]


def test_importance_is_of_being_among_the_best_whichever_way_that_is(tmp_path):
    """The best third needs a=1, and only the worst tell by b: the shares must follow the best, as
    those of the negated metric do."""
    found = {}
    for name, sign in (("dinov2", 1), ("lpips", -1)):
        records = Records(tmp_path / name, clock=lambda: 1.0)
        for number, (a, b, twin) in enumerate(itertools.product((0, 1), (0, 1), range(6))):
            value = sign * (0.5 + 0.3 * a - 0.4 * b * (1 - a) + 0.001 * twin)
            records.append_evaluation(
                {"evaluation_key": f"e{number}", "training_key": "k", "epoch": 3, name: value}
            )
            trial = {
                "trial": f"t{number:04d}",
                "number": number,
                "state": "COMPLETE",
                "configuration": {"a": a, "b": b},
            }
            records.append_trial(
                {
                    **trial,
                    "best_epoch": 3,
                    "objective": 0.5,
                    "rung_values": [[3, 0.5, f"e{number}"]],
                }
            )
        found[name] = importances_of(load_study_records(records.study_dir), value=name).set_index(
            "parameter"
        )["importance"]
    assert (
        found["dinov2"].to_dict() == pytest.approx(found["lpips"].to_dict())
        and found["dinov2"]["a"] > 0.8
    )


def test_a_front_a_figure_and_the_page_know_the_way_too(study):
    assert pareto_front(study, "lpips", "dinov2")["trial"].tolist() == [
        "t0000",
        "t0001",
        "t0002",
        "t0003",
        "t0004",
        "t0005",
        "t0006",
        "t0007",
        "t0008",
    ]
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ax = draw_trade_off(trade_off(study, "lpips", "dinov2"), figure.subplots())
    assert "lower is better" in ax.get_xlabel() and "higher is better" in ax.get_ylabel()
    metrics = {
        metric["key"]: metric["more_is_better"] for metric in report_numbers(study)["metrics"]
    }
    assert metrics == {
        "objective": False,
        "lpips": False,
        "fid": False,
        "diversity": True,
        "dinov2": True,
    }
