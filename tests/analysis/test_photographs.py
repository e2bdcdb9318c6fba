"""Held-out photographs at LPIPS 0.2 and FID 10, no adapter at 1.0 and 110, the best trial half of
the way."""

import pandas as pd
import pytest

from analysis.cost import cost
from analysis.curves import learning_curves
from analysis.load import load_study_records
from analysis.photographs import photograph_notes, way_to_photographs
from analysis.report_numbers import report_numbers
from analysis.tables import ranked_trials
from sweep.records import Records

N = 8
NAME = "your held-out photographs"


def write(
    folder, *, n_of_fid=N, best_lpips=0.6, photographs_lpips=0.2, n_photographs=12, **changes
):
    records = Records(folder)
    add(records, "e0", "k0", best_lpips, 60.0, N)
    add(records, "c", "none", 1.0, 110.0, N)
    fid = (
        {"intervals": {"fid": [9.0, 11.0, n_of_fid]}}
        if n_of_fid
        else {"fid": None, "intervals": {}, "skipped": {"fid": "there are 3"}}
    )
    add(
        records,
        "p",
        "photographs",
        photographs_lpips,
        fid.pop("fid", 10.0),
        n_photographs,
        **{"adapter_file": NAME, **fid, **changes},
    )
    ended = {
        "state": "COMPLETE",
        "epochs": 3,
        "best_epoch": 3,
        "objective": 0.6,
        "rung_values": [[3, 0.6, "e0"]],
        "training_key": "k0",
    }
    records.append_trial(
        {"study": "s", "trial": "t0000", "number": 0, "configuration": {"rank": 4}, **ended}
    )
    return load_study_records(folder)


def add(records, key, training, lpips, fid, n, **changes):
    images = [
        {
            "prompt": f"{training == 'photographs'} {i}",
            "seed": 0,
            "lpips": lpips + 0.01 * (i % 2) - 0.005,
        }
        for i in range(n)
    ]
    row = {
        "evaluation_key": key,
        "training_key": training,
        "epoch": 3,
        "configuration": {"guidance": 4.0},
        "objective": lpips,
    }
    measured = {
        "lpips": lpips,
        "fid": fid,
        "intervals": {"fid": [(fid or 0) - 1, (fid or 0) + 1, n]},
    }
    networks = {"perceptual_backbone": "embedded:perceptual", "pooled_backbone": "embedded:pooled"}
    records.append_evaluation(
        {**row, **networks, "n_images": n, "n_references": 20, **measured, **changes}, images
    )


def test_photographs_have_a_row_of_their_own_without_a_rank(tmp_path):
    records = write(tmp_path / "s")
    ranked = ranked_trials(records)
    row = ranked.set_index("trial").loc[NAME]
    assert (
        (row["lpips"], row["fid"]) == (0.2, 10.0)
        and pd.isna(row["rank_number"])
        and not row["is_control"]
    )
    assert row["lpips_low"] < 0.2 < row["lpips_high"]
    assert row["state_word"] == "-" and row[list(records.parameters)].isna().all()
    assert ranked["rank_number"].dropna().tolist() == [1] and ranked.loc[0, "trial"] == "t0000"
    (shown,) = [trial for trial in report_numbers(records)["trials"] if trial["trial"] == NAME]
    assert shown["is_trial"] is False and shown["lpips"] == 0.2
    assert learning_curves(records)["training"].tolist() == ["t0000"]
    assert (
        cost(records).set_index("work").loc["evaluation", "asked"]
        == cost(records).set_index("work").loc["evaluation", "done"]
        == 2
    )


def test_the_way_is_a_share_between_no_adapter_and_photographs(tmp_path):
    records = write(tmp_path / "s")
    shares = way_to_photographs(records, ranked_trials(records))
    assert shares.to_dict() == pytest.approx({"lpips": 0.5, "fid": 0.5})
    assert photograph_notes(records, ranked_trials(records)) == [
        "Of the way from no adapter to your held-out photographs t0000 has gone 50% in lpips, 50% "
        "in fid."
    ]


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"n_of_fid": 12}, {"lpips"}),  # FID of other numbers of pictures does not compare
        ({"n_of_fid": None}, {"lpips"}),  # too few photographs for an FID
        ({"n_photographs": 1}, {"fid"}),  # too few for an interval of LPIPS
        (
            {"photographs_lpips": 1.1},
            {"fid"},
        ),  # further away than no adapter: there is no way to go
    ],
)
def test_there_is_a_share_only_where_both_ends_are_known(tmp_path, changes, wanted):
    records = write(tmp_path / "s", **changes)
    assert set(way_to_photographs(records, ranked_trials(records)).index) == wanted


def test_a_study_without_them_says_nothing(tmp_path):
    records = write(tmp_path / "s", training_key="file:x", adapter_file="mine")
    assert photograph_notes(records, ranked_trials(records)) == []
