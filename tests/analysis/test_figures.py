"""Figures: the numbers by hand, and that all are written where matplotlib is there."""

import pytest

from analysis.extremes import draw_extremes, extremes_of
from analysis.figures import metrics_by_configuration, parallel_coordinates, trade_off, trial_curves, write_figures
from analysis.image_sets import ImageSets
from analysis.load import load_study_records
from sweep.records import Records, RecordsError


@pytest.fixture
def records(study_dir):
    return load_study_records(study_dir)


def test_metrics_stand_by_rank_each_inside_its_interval(records):
    lpips = metrics_by_configuration(records).query("metric == 'lpips'")
    assert lpips["trial"].tolist() == ["t0003", "t0002", "t0001", "t0000"]
    assert lpips["value"].tolist() == pytest.approx([0.315, 0.415, 0.515, 0.615]) and (lpips["low"] < lpips["value"]).all()


def test_curves_mark_the_best_trial_and_no_stop_where_none_was_stopped(records):
    curves = trial_curves(records)
    assert len(curves) == 8 and not curves["is_stop"].any() and set(curves.loc[curves["is_best"], "trial"]) == {"t0003"}


def test_a_parameters_values_are_spread_from_0_to_1(records):
    heights = parallel_coordinates(records).set_index("trial")
    assert list(heights.columns) == ["objective", "caption", "rank"]
    assert heights.loc["t0001"].tolist() == pytest.approx([0.5, 0.0, 1.0])


def test_one_trial_that_is_best_in_both_is_the_whole_front(records):
    assert trade_off(records).query("is_on_front")["trial"].tolist() == ["t0003"]


def test_every_figure_is_written_whole(records, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install 'lora-sweep[report]'")
    files = write_figures(records, tmp_path / "f")
    assert {file.name for file in files} == {"lpips.png", "fid.png", "curves.png", "slice-caption.png", "slice-rank.png", "parallel.png", "pareto.png"}
    assert sorted((tmp_path / "f").iterdir()) == sorted(files)


def test_the_extremes_are_the_best_trials_closest_and_furthest_pictures_and_none_is_both(pictured):
    records = load_study_records(pictured)
    images = ImageSets(records.images).rows("e3-3")
    closest, furthest = extremes_of(images, 6)
    assert closest["index"].tolist() == [0, 1] and furthest["index"].tolist() == [3, 2]
    assert extremes_of(images.head(1), 6)[0].empty and draw_extremes(records, images.assign(path=None)) is None
    greys = {pixel[0] for _, pixel in draw_extremes(records, images).getcolors(10**6) if len(set(pixel)) == 1}
    assert {150, 151, 152, 153, 245} <= greys  # the four pictures, and the training image that they are nearest to


def test_the_extremes_are_written_with_the_other_figures(pictured, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install 'lora-sweep[report]'")
    assert "extremes.png" in {file.name for file in write_figures(load_study_records(pictured), tmp_path / "f")}


def test_a_study_without_a_scored_trial_has_no_figures(tmp_path):
    folder = tmp_path / "none"
    Records(folder).append_trial({"study": "none", "trial": "t0", "number": 0, "configuration": {}, "state": "RUNNING"})
    with pytest.raises(RecordsError, match="none has none of its 1"):
        write_figures(load_study_records(folder), tmp_path / "f")
