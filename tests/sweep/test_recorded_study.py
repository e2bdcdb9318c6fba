"""A study read from its folder: whose adapter is chosen, and by which networks a file is scored."""

import pytest

from sweep import foreign_scoring
from sweep.errors import StudyError
from sweep.folder import StudyFolder
from sweep.recorded_study import RecordedStudy
from sweep.records import Records
from sweep.study import Study


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    folder.root.mkdir()
    study = Study(name="s", rows=[{"rank": 4}], train_seeds=3, metrics=("dinov2",))
    folder.write_study(study, {"weights of dinov2": "12"})
    records = Records(folder.root)
    for seed, objective in ((1, 0.5), (2, 0.4)):  # the set of the first seed is lost
        row = {"evaluation_key": f"e{seed}", "training_key": f"k{seed}", "epoch": 3}
        configuration = {"guidance": 7.5, "prompts": [{"text": "a", "seen": True}]}
        records.append_evaluation({**row, "configuration": configuration, "objective": objective})
    trial = {"trial": "t0000", "number": 0, "state": "COMPLETE", "training_key": "k0"}
    best = {"best_epoch": 3, "objective": 0.45, "rung_values": [[3, 0.45, "e0", "e1", "e2"]]}
    records.append_trial({**trial, "configuration": {"rank": 4}, "epochs": 3, **best})
    return folder


def test_the_chosen_adapter_is_named_by_its_own_seed_though_the_set_of_another_is_lost(
    folder, monkeypatch
):
    monkeypatch.setattr(RecordedStudy, "_store_with", lambda *given: folder.adapters)
    chosen = RecordedStudy(folder).choose("t0000")
    assert (chosen.training_key, chosen.train.train_seed) == ("k2", 2)
    assert chosen.evaluation.guidance == 7.5


@pytest.mark.parametrize("now", [{"weights of dinov2": "12"}, {}])
def test_a_file_is_scored_by_the_networks_that_the_study_had(folder, monkeypatch, now):
    study = RecordedStudy(folder)
    monkeypatch.setattr(foreign_scoring, "metric_digests", lambda metrics: now)
    foreign_scoring._require_same_weights(study)
    other = {"weights of dinov2": "34"}
    monkeypatch.setattr(foreign_scoring, "metric_digests", lambda metrics: other)
    with pytest.raises(StudyError, match="weights of dinov2 have changed since. Restore them"):
        foreign_scoring._require_same_weights(study)
