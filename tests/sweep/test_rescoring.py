"""Further metrics for stored pictures: they equal what the pictures scored when they were made, and nothing is generated."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.load import load_study_records
from analysis.tables import ranked_trials
from sweep.cli import main
from sweep.damage import check_study
from sweep.errors import RecordsError
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.messages import PHOTOGRAPHS
from sweep.records import EVALUATIONS, IMAGES, METRIC_COLUMNS, Records, as_rows
from sweep.rescoring import rescore
from sweep.study import Epochs
from tests.sweep.test_repeatability import launched, study  # noqa: F401  a fixture
from tests.trainables.networks import write_clip, write_dinov2
from trainables import evaluate
from trainables.errors import ModelError
from trainables.metric_weights import find_metric_weights


@pytest.fixture
def folder(study, tmp_path):  # noqa: F811
    """A study of one trial, run and recorded."""
    one = dataclasses.replace(study, space={}, samples=None, rows=[{"rank": 2}])
    made = StudyFolder(tmp_path, "s")
    launched(one, tmp_path, max_concurrent=1)
    made.write_study(one, Keys(one).content_digests())
    return made


def test_stored_pictures_score_as_they_did_when_they_were_generated(folder, monkeypatch):
    monkeypatch.setattr(evaluate, "generate", lambda *_, **__: pytest.fail("nothing is generated again"))
    told = []
    before = as_rows(Records(folder.root).evaluations(), EVALUATIONS)
    n = rescore(folder, perceptual="embedded:perceptual", pooled="embedded:pooled", progress=lambda *counts: told.append(counts))
    rows = as_rows(Records(folder.root).evaluations(), EVALUATIONS)
    assert n == len(rows) == len(before) == 3 and told[-1] == (3, 3)  # two rungs and the control
    for row, old in zip(rows, before, strict=True):
        added = ("further_metrics", "intervals", "groups")
        assert {k: v for k, v in row.items() if k not in added} == {k: v for k, v in old.items() if k not in added}
        assert row["intervals"].items() >= old["intervals"].items()
        assert row["intervals"]["fid@embedded:pooled"] == pytest.approx(old["intervals"]["fid"])
        for metric, network in (("lpips", "perceptual"), ("lpips_nearest", "perceptual"), ("diversity", "perceptual"), ("fid", "pooled"), ("kid", "pooled")):
            assert row["further_metrics"][f"{metric}@embedded:{network}"] == pytest.approx(row[metric], rel=1e-9)


def test_what_has_its_values_is_not_scored_again_and_a_further_network_adds_to_them(folder, monkeypatch):
    assert rescore(folder, perceptual=None, pooled="embedded:pooled") == 3
    assert rescore(folder, perceptual="embedded:perceptual", pooled="embedded:pooled") == 3
    assert rescore(folder, perceptual="embedded:perceptual", pooled=None) == 0
    rows = as_rows(Records(folder.root).evaluations(), EVALUATIONS)
    assert all({"fid@embedded:pooled", "lpips@embedded:perceptual"} <= set(row["further_metrics"]) for row in rows)


def test_a_missing_picture_an_unknown_network_and_no_network_are_one_line(folder, capsys):
    with pytest.raises(ModelError, match="nope"):
        rescore(folder, perceptual="lpips:nope", pooled=None)
    next(folder.root.glob("pictures/*/000.png")).unlink()
    with pytest.raises(RecordsError, match="000.png"):
        rescore(folder, perceptual="embedded:perceptual", pooled=None)


def test_similarities_join_the_sets_and_the_images_and_a_second_network_has_its_own_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "generate", lambda *_, **__: pytest.fail("nothing is generated again"))
    first, second = (write_dinov2(tmp_path / name, seed=seed) for name, seed in (("first", 0), ("second", 1)))
    assert rescore(folder, metrics=[f"dinov2={first}"]) == 3 and rescore(folder, metrics=[f"dinov2={first}"]) == 0
    assert rescore(folder, metrics=[f"dinov2={second}"]) == 3
    images = as_rows(Records(folder.root).images(), IMAGES)
    for row in as_rows(Records(folder.root).evaluations(), EVALUATIONS):
        label = find_metric_weights(f"dinov2={second}").label
        assert row["further_networks"] == {"dinov2": find_metric_weights(f"dinov2={first}").label, f"dinov2@{label}": label}
        own = [image for image in images if image["evaluation_key"] == row["evaluation_key"]]
        for name in ("dinov2", f"dinov2@{label}"):
            assert row["further_metrics"][name] == pytest.approx(np.mean([image["further_metrics"][name] for image in own]))
            assert row["intervals"][name][2] == len(own) == 5
        assert row["further_metrics"]["dinov2"] != row["further_metrics"][f"dinov2@{label}"]
        assert all((folder.root / image["path"]).exists() and image["lpips"] for image in own)


OF_GROUPS = ("caption", "seen_prompts", "groups", "n_seen", "n_unseen", *(name for name in METRIC_COLUMNS if name.endswith("seen")))


def as_an_earlier_version_wrote_it(folder):
    """The records with what a study declared to be seen: the first prompt alone, of five."""
    records = Records(folder.root)
    images = as_rows(records.images(), IMAGES)
    for row in as_rows(records.evaluations(), EVALUATIONS):
        own = [{**image, "seen": image["index"] == 0} for image in images if image["evaluation_key"] == row["evaluation_key"]]
        declared = {"n_seen": 1, "n_unseen": 4, "lpips_seen": 0.1, "lpips_unseen": 0.2, "fid_unseen": 3.0, "kid_unseen": 4.0}
        records.append_evaluation({**row, **dict.fromkeys(OF_GROUPS), **declared, "schema_version": 5}, own)


def test_records_of_an_earlier_version_are_completed_as_if_they_were_scored_now(folder, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "generate", lambda *_, **__: pytest.fail("nothing is generated again"))
    fresh = as_rows(Records(folder.root).evaluations(), EVALUATIONS)
    assert all(row["seen_prompts"] == {"v1": [False] * 5} and row["lpips_unseen"] == pytest.approx(row["lpips"]) for row in fresh)
    as_an_earlier_version_wrote_it(folder)
    assert load_study_records(folder.root).evaluations[["lpips_unseen", "fid_unseen"]].isna().all(axis=None)
    assert main(["rescore", str(folder.root)]) == 0 and "3 image sets" in capsys.readouterr().out
    for row, wanted in zip(as_rows(Records(folder.root).evaluations(), EVALUATIONS), fresh, strict=True):
        for name in OF_GROUPS:
            assert row[name] == pytest.approx(wanted[name]) if isinstance(wanted[name], float) else row[name] == wanted[name] or name == "groups"
        assert row["groups"]["v1"] == pytest.approx(wanted["groups"]["v1"])
        assert row["lpips"] == wanted["lpips"] and row["intervals"].items() >= {k: v for k, v in wanted["intervals"].items() if "seen" not in k}.items()
    images = load_study_records(folder.root).images
    assert not images["seen"].astype(bool).any()
    assert main(["rescore", str(folder.root)]) == 0 and "0 image sets" in capsys.readouterr().out


def test_without_its_pictures_an_earlier_study_gets_the_values_of_its_image_rows_alone(folder):
    as_an_earlier_version_wrote_it(folder)
    for picture in folder.root.glob("pictures/*/*.png"):
        picture.unlink()
    assert main(["rescore", str(folder.root)]) == 0
    for row in as_rows(Records(folder.root).evaluations(), EVALUATIONS):
        assert row["lpips_unseen"] == pytest.approx(row["lpips"]) and row["lpips_seen"] is None
        assert row["fid_unseen"] is None and row["kid_unseen"] is None


def test_faces_of_an_earlier_version_are_counted_over_all_pictures(folder, capsys):
    records = Records(folder.root)
    row = as_rows(records.evaluations(), EVALUATIONS)[0]
    own = [image for image in as_rows(records.images(), IMAGES) if image["evaluation_key"] == row["evaluation_key"]]
    own = [{**image, "further_metrics": {"face": 0.6} if image["index"] == 2 else None} for image in own]
    older = {**row, "further_metrics": {"face": 0.6}, "further_networks": {"face": "sface"}, "intervals": {**row["intervals"], "face": [None, None, 1]}}
    records.append_evaluation(older, own)
    assert main(["rescore", str(folder.root)]) == 0 and "1 image sets" in capsys.readouterr().out
    row = as_rows(Records(folder.root).evaluations(), EVALUATIONS)[0]
    assert row["further_metrics"]["face"] == pytest.approx(0.6 / 5) and row["intervals"]["face"][2] == 5


def test_captions_that_changed_since_cannot_say_what_was_seen(folder, capsys):
    as_an_earlier_version_wrote_it(folder)
    description = json.loads(folder.description.read_text())
    description["content"] = {k: "other" if k.startswith("captions v1") else v for k, v in description["content"].items()}
    folder.description.write_text(json.dumps(description))
    before = as_rows(Records(folder.root).evaluations(), EVALUATIONS)
    assert main(["rescore", str(folder.root)]) == 2 and "captions that the study had" in capsys.readouterr().err
    assert as_rows(Records(folder.root).evaluations(), EVALUATIONS) == before


@pytest.fixture
def with_heldout(subject, tmp_path):
    """The subject with two more photographs that are held out."""
    folder = Path(shutil.copytree(subject, tmp_path / "with heldout"))
    for i in (4, 5, 6, 7, 8):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "split": "train" if i < 4 else "heldout"} for i in range(9)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_photographs_are_scored_once_by_a_launch_and_of_an_older_study_by_rescore(study, with_heldout, tmp_path, monkeypatch):  # noqa: F811
    one = dataclasses.replace(study, subject=with_heldout, space={}, samples=None, rows=[{"rank": 2}], epochs=Epochs(max=1))
    found = []
    for name in ("new", "old"):
        with monkeypatch.context() as patched:
            if name == "old":  # an earlier version asked for none
                patched.setattr(Keys, "photographs", lambda self, subscription: [])
            driver, records = launched(one, tmp_path / name, max_concurrent=1)
        made = StudyFolder(tmp_path / name, "s")
        made.write_study(one, Keys(one).content_digests())
        if name == "old":
            assert not [row for row in as_rows(records.evaluations(), EVALUATIONS) if row["training_key"] == PHOTOGRAPHS]
            assert main(["rescore", str(made.root)]) == 0
        (row,) = [row for row in as_rows(Records(made.root).evaluations(), EVALUATIONS) if row["training_key"] == PHOTOGRAPHS]
        found.append({k: v for k, v in row.items() if k not in ("created_at", "seconds_score", "seconds_generate")})
        images = [image for image in as_rows(Records(made.root).images(), IMAGES) if image["evaluation_key"] == row["evaluation_key"]]
        assert [image["prompt"] for image in images] == [f"{i}.png" for i in range(4, 9)] and row["n_images"] == 5
        assert row["lpips"] == pytest.approx(np.mean([image["lpips"] for image in images]))
        parts = [one.part for one in check_study(made).damages]
        assert not [part for part in parts if row["evaluation_key"] in part or PHOTOGRAPHS in part]
        assert row["adapter_file"] == "your held-out photographs" and row["fid"] is not None  # as many as a trial has pictures
        ranked = ranked_trials(load_study_records(made.root)).set_index("trial")
        assert ranked.loc["your held-out photographs", "lpips"] == row["lpips"]
        assert main(["rescore", str(made.root)]) == 0 and len(Records(made.root).evaluations()) == 3  # a rung, the control, the photographs
    assert found[0] == found[1]


def test_another_class_word_is_another_value_of_clip_t(folder, subject, tmp_path):
    clip = write_clip(tmp_path / "clip")
    label = find_metric_weights(f"clip_t={clip}").label
    about = Path(subject) / "subject.json"
    before = about.read_text()
    try:
        assert rescore(folder, metrics=[f"clip_t={clip}"]) == 3 and rescore(folder, metrics=[f"clip_t={clip}"]) == 0
        about.write_text(json.dumps(json.loads(before) | {"class_word": "dog"}))
        assert rescore(folder, metrics=[f"clip_t={clip}"]) == 3
    finally:
        about.write_text(before)
    for row in as_rows(Records(folder.root).evaluations(), EVALUATIONS):
        assert row["further_networks"] == {"clip_t": label, f"clip_t@{label}, class word 'dog'": f"{label}, class word 'dog'"}
        assert row["further_metrics"]["clip_t"] != row["further_metrics"][f"clip_t@{label}, class word 'dog'"]


def test_a_value_that_left_pictures_out_is_made_anew(folder, tmp_path):
    """As `face` of older records, in which pictures without a face did not count."""
    dinov2 = write_dinov2(tmp_path / "dinov2")
    rescore(folder, metrics=[f"dinov2={dinov2}"])
    records = Records(folder.root)
    rows = as_rows(records.evaluations(), EVALUATIONS)
    images = as_rows(records.images(), IMAGES)
    own = [image for image in images if image["evaluation_key"] == rows[0]["evaluation_key"]]
    low, high, n = rows[0]["intervals"]["dinov2"]
    older = {**rows[0], "further_metrics": {"dinov2": 0.5}, "intervals": {**rows[0]["intervals"], "dinov2": [low, high, n - 1]}}
    records.append_evaluation(older, own)
    assert rescore(folder, metrics=[f"dinov2={dinov2}"]) == 1 and rescore(folder, metrics=[f"dinov2={dinov2}"]) == 0
    assert as_rows(Records(folder.root).evaluations(), EVALUATIONS)[0]["further_metrics"] == rows[0]["further_metrics"]


def test_a_similarity_without_its_weights_is_one_line(folder, capsys):
    before = as_rows(Records(folder.root).evaluations(), EVALUATIONS)
    assert main(["rescore", str(folder.root), "--metric", "dinov2=/nowhere"]) == 2
    assert "no /nowhere" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert as_rows(Records(folder.root).evaluations(), EVALUATIONS) == before
