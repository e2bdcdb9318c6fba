"""Two trials of two caption versions and their control: four prompts, of which v2 has seen the
first two and v3 the first three."""

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.load import load_study_records
from analysis.prompt_groups import label_notes
from analysis.prompts import seen_and_unseen
from analysis.tables import ranked_trials
from sweep.records import Records

LABELS = {"v1": [False] * 4, "v2": [True, True, False, False], "v3": [True, True, True, False]}
N_PER_PROMPT = 2
LPIPS = np.repeat([0.1, 0.2, 0.3, 0.4], N_PER_PROMPT)  # of the control; a trial's are half of it


def values_of_groups(lpips, version):
    seen = np.repeat(LABELS[version], N_PER_PROMPT)
    groups = {"seen": lpips[seen], "unseen": lpips[~seen]}
    return {
        f"{name}_{group}": scale * own.mean()
        for group, own in groups.items()
        if len(own)
        for name, scale in (("lpips", 1), ("fid", 100), ("kid", 10))
    }


def write(folder, *, best="v2", control="v3", control_labels=LABELS, **changes):
    """`control`: the version of the trial that asked for it."""
    records = Records(folder)
    for number, version in enumerate(["v2", "v3"]):
        key, lpips = f"e{number}", LPIPS / 2
        add_evaluation(records, key, f"k{number}", lpips, version, LABELS, **changes)
        objective = 0.1 if version == best else 0.2
        ended = {
            "state": "COMPLETE",
            "epochs": 3,
            "best_epoch": 3,
            "objective": objective,
            "rung_values": [[3, objective, key]],
        }
        records.append_trial(
            {
                "study": "s",
                "trial": f"t000{number}",
                "number": number,
                "configuration": {"caption": version},
                **ended,
            }
        )
    add_evaluation(records, "c", "none", LPIPS, control, control_labels, **changes)
    return load_study_records(folder)


def add_evaluation(records, key, training, lpips, version, labels, **changes):
    seen = np.repeat(labels[version], N_PER_PROMPT)
    images = [
        {"prompt": f"p{i // N_PER_PROMPT}", "seen": bool(seen[i]), "seed": i, "lpips": value}
        for i, value in enumerate(lpips)
    ]
    facts = {
        "caption": version,
        "seen_prompts": labels,
        "groups": {v: values_of_groups(lpips, v) for v in labels},
    }
    row = {
        "evaluation_key": key,
        "training_key": training,
        "epoch": 3,
        "configuration": {"images_per_prompt": N_PER_PROMPT, "guidance": 4.0},
    }
    counts = {"n_images": len(images), "n_seen": int(seen.sum()), "n_unseen": int((~seen).sum())}
    records.append_evaluation(
        {
            **row,
            **counts,
            "lpips": lpips.mean(),
            **values_of_groups(lpips, version),
            **facts,
            **changes,
        },
        images,
    )


def control_of(records):
    return ranked_trials(records).set_index("trial").loc["control"]


@pytest.mark.parametrize("best", ["v2", "v3"])
def test_a_control_takes_the_labels_of_the_best_trial_beside_it(tmp_path, best):
    records = write(tmp_path / "s", best=best)
    control = control_of(records)
    for name, value in values_of_groups(LPIPS, best).items():
        assert control[name] == pytest.approx(value)
    assert (control["n_seen"], control["n_unseen"]) == {"v2": (4, 4), "v3": (6, 2)}[best]
    images = records.images[records.images["evaluation_key"] == "c"]
    assert (
        images.sort_values("index")["seen"].tolist()
        == np.repeat(LABELS[best], N_PER_PROMPT).tolist()
    )


def test_a_trial_has_the_labels_of_its_own_captions(tmp_path):
    table = seen_and_unseen(write(tmp_path / "s")).set_index("trial")
    assert table["lpips_seen"].to_dict() == pytest.approx({"t0000": 0.075, "t0001": 0.1})
    assert table["n_unseen"].to_dict() == {"t0000": 4, "t0001": 2}


def test_a_control_that_was_labelled_under_other_captions_keeps_no_distances(tmp_path):
    edited = {**LABELS, "v2": [True, False, False, False]}
    control = control_of(write(tmp_path / "s", best="v2", control_labels=edited))
    assert np.isnan(control[["fid_seen", "kid_unseen"]].to_numpy(dtype=float)).all()
    assert (control["n_seen"], control["n_unseen"]) == (4, 4)
    assert (control["lpips_seen"], control["lpips_unseen"]) == pytest.approx((0.15, 0.35))


def test_labels_of_an_earlier_version_are_dropped_and_said(tmp_path):
    records = write(tmp_path / "s", seen_prompts=None, groups=None, caption=None, schema_version=5)
    assert ranked_trials(records)[["lpips_seen", "fid_unseen", "n_seen"]].isna().all(axis=None)
    assert seen_and_unseen(records).empty
    (note,) = label_notes("s", records.evaluations)
    assert "3 image sets" in note and "python -m sweep rescore s" in note
    assert label_notes("s", write(tmp_path / "new").evaluations) == []


@pytest.mark.parametrize("table", ["ranked", "seen"])
def test_the_command_that_labels_them_leads_to_the_studys_storage(tmp_path, capsys, table):
    storage = tmp_path / "my sweeps"
    write(storage / "s", seen_prompts=None, groups=None, caption=None, schema_version=5)
    assert main(["tables", "s", "--storage", str(storage), "--table", table]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"`python -m sweep rescore s --storage '{storage}'`" in said
