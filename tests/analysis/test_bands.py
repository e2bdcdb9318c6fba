"""Bands: every bound of the paper, only over the paper's networks, and the warning beside FID of few images."""

import io

import pandas as pd
import pytest
from rich.console import Console

from analysis.bands import ENOUGH_IMAGES_FOR_FID, fid_band, fid_warning, lpips_band
from analysis.load import load_study_records
from analysis.tables import ranked_trials
from analysis.text import print_ranked
from sweep.records import Records


@pytest.mark.parametrize(("value", "word"), [(0.149, "excellent"), (0.15, "good"), (0.25, "good"), (0.251, "weak"), (0.752, "weak")])
def test_lpips_over_alexnet_has_the_papers_bands(value, word):
    assert lpips_band(value, "lpips:alex") == word
    assert lpips_band(value, "lpips:vgg") is None and lpips_band(value, "embedded:perceptual") is None


@pytest.mark.parametrize(
    ("value", "word"), [(9.9, "excellent"), (10.0, "good"), (30.0, "good"), (30.1, "moderate"), (50.0, "moderate"), (50.1, "poor"), (181.6, "poor")]
)
def test_fid_over_inception_has_the_papers_bands(value, word):
    assert fid_band(value, "inception") == word and fid_band(value, "embedded:pooled") is None
    assert fid_band(float("nan"), "inception") is None


def test_the_warning_names_the_fewest_images_and_ends_where_they_are_enough():
    rows = pd.DataFrame({"pooled_backbone": ["inception", "inception", "embedded:pooled"], "n_images": [ENOUGH_IMAGES_FOR_FID, 20, 4]})
    assert "FID of 20 images is mostly bias" in fid_warning(rows)
    assert fid_warning(rows.iloc[[0, 2]]) is None


@pytest.fixture
def real_study(tmp_path):
    """A trial over the paper's networks: groups, intervals, copies, a similarity and a metric that was left out; and an older row without."""
    records = Records(tmp_path / "real")
    networks = {"perceptual_backbone": "lpips:alex", "pooled_backbone": "inception"}
    values = {"lpips": 0.2, "fid": 181.6, "kid": 0.1, "lpips_seen": 0.18, "lpips_unseen": 0.23, "dinov2": 0.625, "dinov2_seen": 0.7}
    facts = {"n_images": 20, "n_references": 151, "n_seen": 12, "n_unseen": 8, "n_copies": 3, "skipped": {"clip_t": "no weights"}}
    row = {"training_key": "k", "epoch": 3, "configuration": {}, **networks}
    records.append_evaluation({**row, "evaluation_key": "e0", **values, **facts, "intervals": {"fid": [170.0, 190.0, 20], "lpips": [0.1, 0.3, 20]}})
    records.append_evaluation({**row, "evaluation_key": "e1", "lpips": 0.4, "fid": 200.0, "n_images": 20, "schema_version": 2})
    for number, key in enumerate(("e0", "e1")):
        trial = {"trial": f"t{number:04d}", "number": number, "state": "COMPLETE", "configuration": {"rank": 4}}
        records.append_trial({**trial, "objective": 0.5 + number, "best_epoch": 3, "rung_values": [[3, 0.5, key]]})
    return load_study_records(tmp_path / "real")


def test_the_ranked_table_shows_bands_groups_similarities_and_copies_with_their_notes(real_study):
    ranked = ranked_trials(real_study)
    assert ranked["lpips_band"].tolist() == ["good", "weak"] and ranked["fid_band"].tolist() == ["poor", "poor"]
    assert ranked.loc[0, ["fid_low", "fid_high"]].tolist() == [170.0, 190.0] and pd.isna(ranked.loc[1, "fid_low"])
    file = io.StringIO()
    print_ranked(real_study, ranked, Console(file=file, width=400))
    text = file.getvalue()
    for expected in ("0.200 good", "181.6 poor", "0.180 / 0.230", "0.625", "FID of 20 images is mostly bias", "3 pictures of 1 rows", "Left out: clip_t: no weights"):
        assert expected in text, expected
    assert "held-out loss" not in text  # no row has one


def test_embedded_networks_have_no_bands(study_dir):
    ranked = ranked_trials(load_study_records(study_dir))
    assert ranked["lpips_band"].isna().all() and ranked["fid_band"].isna().all() and fid_warning(ranked) is None
