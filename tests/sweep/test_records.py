"""Records: what was appended is read back, whatever else happens to the folder meanwhile."""

from __future__ import annotations

import math
import os
import shutil
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sweep import records as records_module
from sweep.errors import LeaseLostError, RecordsError
from sweep.launches import new_launch_id
from sweep.record_schema import TABLES, as_arrow
from sweep.records import EVALUATIONS, IMAGES, SCHEMA_VERSION, TRIALS, Records, as_rows
from sweep.worker import known_outcomes
from trainables import checksums


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path / "captions", clock=lambda: 1000.0)


def trial_row(number: int = 0, state: str = "RUNNING", **values):
    return {"study": "captions", "trial": f"t{number:04d}", "number": number, "state": state, "configuration": {"rank": 8}, **values}


def evaluation_row(key: str = "e0", **values):
    row = {"evaluation_key": key, "training_key": "k0", "epoch": 3, "configuration": {"guidance": 3.0}}
    return {**row, "lpips": 0.5, "fid": 80.0, **values}


def image_rows(n: int = 3):
    return [{"prompt": f"p{i}", "seen": i % 2 == 0, "seed": i, "lpips": 0.1 * i, "nearest_reference": "a.png"} for i in range(n)]


def pictures(n: int = 3):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def parts_of(records: Records, table) -> list[str]:
    return sorted(path.name for path in (records.study_dir / "records" / table.name).glob("*.parquet"))


def test_every_column_says_its_type_and_its_meaning():
    for table in TABLES:
        assert len(table.columns) == len(table.fields) and set(table.key) <= set(table.columns)
        assert all(c.meaning and c.dtype in ("text", "json", "integer", "number", "boolean") for c in table.fields)


def test_an_empty_folder_has_empty_tables_with_all_columns(records):
    assert list(records.trials()) == list(TRIALS.columns) and list(records.latest_trials()) == list(TRIALS.columns)
    assert list(records.evaluations()) == list(EVALUATIONS.columns) and list(records.images()) == list(IMAGES.columns)
    assert not records.study_dir.exists() and records.evaluation("e0") is None


def test_the_latest_row_of_a_trial_wins_and_all_states_stay(records):
    records.append_trial(trial_row(1))
    records.append_trial(trial_row(0))
    records.append_trial(trial_row(0, "COMPLETE", objective=0.5, rung_values=[[3, 0.5, "e0"]], labels={"baseline": True}, epochs=3))
    assert records.trials()[["trial", "sequence"]].to_records(index=False).tolist() == [("t0000", 0), ("t0000", 1), ("t0001", 0)]
    first, second = as_rows(records.latest_trials(), TRIALS)
    assert (first["state"], first["rung_values"], first["labels"]) == ("COMPLETE", [[3, 0.5, "e0"]], {"baseline": True})
    assert (second["state"], second["objective"], second["reason"], second["epochs"]) == ("RUNNING", None, None, None)
    assert (first["updated_at"], first["schema_version"]) == (1000.0, SCHEMA_VERSION)


def test_sequences_go_on_after_a_relaunch_and_after_compaction(records):
    records.append_trial(trial_row())
    records.append_trial(trial_row())
    records.compact()
    Records(records.study_dir).append_trial(trial_row(0, "FAIL", reason="interrupted"))
    assert list(records.trials()["sequence"]) == [0, 1, 2] and list(records.latest_trials()["reason"]) == ["interrupted"]


def test_an_evaluation_comes_back_with_its_images_and_exact_pictures(records):
    given = pictures()
    records.append_evaluation(evaluation_row(n_images=3, device="cpu", versions={"torch": "2"}, dino=0.25), image_rows(), given)
    row = records.evaluation("e0")
    assert (row["lpips"], row["n_images"], row["versions"], row["further_metrics"]) == (0.5, 3, {"torch": "2"}, {"dino": 0.25})
    images = records.images()
    assert list(images["index"]) == [0, 1, 2] and list(images["seen"]) == [True, False, True]
    stored = np.stack([np.asarray(Image.open(records.study_dir / path)) for path in images["path"]])
    assert (stored == given).all()


def test_image_rows_without_their_evaluation_row_are_not_read(records, monkeypatch):
    def fail_at_evaluations(path, *args, **kwargs):
        if path.parent.name == "evaluations":
            raise RecordsError("killed here")
        return write(path, *args, **kwargs)

    write = records_module.write_atomically
    monkeypatch.setattr(records_module, "write_atomically", fail_at_evaluations)
    with pytest.raises(RecordsError):
        records.append_evaluation(evaluation_row(), image_rows(), pictures())
    assert parts_of(records, IMAGES) == ["e0.parquet"] and records.images().empty
    records.compact()
    monkeypatch.undo()
    records.append_evaluation(evaluation_row(), image_rows(), pictures())
    assert len(records.images()) == 3


def test_writing_twice_is_writing_once_before_and_after_compaction(records):
    for lpips in (0.5, 0.6):
        records.append_evaluation(evaluation_row(lpips=lpips), image_rows())
    records.append_evaluation(evaluation_row("e1"), image_rows())
    assert len(records.evaluations()) == 2 and records.evaluation("e0")["lpips"] == 0.6
    records.compact()
    records.append_evaluation(evaluation_row(lpips=0.7), image_rows())
    assert len(records.evaluations()) == 2 and records.evaluation("e0")["lpips"] == 0.7 and len(records.images()) == 6
    records.compact()
    assert records.evaluation("e0")["lpips"] == 0.7 and records.evaluation("e1")["lpips"] == 0.5
    (part,) = parts_of(records, EVALUATIONS)
    assert part.startswith("compact-000002-")


def test_compaction_changes_no_table(records):
    for number in range(5):
        records.append_trial(trial_row(number))
        records.append_trial(trial_row(number, "COMPLETE", objective=number / 10))
        records.append_evaluation(evaluation_row(f"e{number}"), image_rows())
    before = (records.trials(), records.evaluations(), records.images())
    records.compact()
    for old, new in zip(before, (records.trials(), records.evaluations(), records.images()), strict=True):
        pd.testing.assert_frame_equal(old, new)
    assert [len(parts_of(records, table)) for table in TABLES] == [1, 1, 1]


def test_a_reader_survives_a_compaction_that_interrupts_it(records, monkeypatch):
    for number in range(3):
        records.append_trial(trial_row(number))
    list_parts = Records._parts

    def compacted_after_listing(self, table):
        parts = list_parts(self, table)
        monkeypatch.undo()
        records.compact()
        return parts

    monkeypatch.setattr(Records, "_parts", compacted_after_listing)
    assert len(Records(records.study_dir).trials()) == 3


def test_a_compaction_that_died_before_deleting_loses_and_doubles_nothing(records, monkeypatch):
    for number in range(3):
        records.append_trial(trial_row(number))
    monkeypatch.setattr(records_module, "remove", lambda parts: None)
    records.compact()
    assert len(parts_of(records, TRIALS)) == 4 and len(records.trials()) == 3


def test_temporary_files_are_never_read_and_never_left_by_a_failed_write(records, monkeypatch):
    records.append_trial(trial_row())
    folder = records.study_dir / "records" / "trials"
    (folder / ".t0001-000000.parquet.abc.tmp").write_bytes(b"PAR1 half")
    assert len(records.trials()) == 1

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RecordsError, match="No space left on device.*--storage"):
        records.append_trial(trial_row(1))
    assert sorted(p.name for p in folder.iterdir()) == [".t0001-000000.parquet.abc.tmp", "t0000-000000.parquet"]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RecordsError, match=f"{tmp_path}/file/captions.*--storage DIR"):
        Records(tmp_path / "file" / "captions").append_trial(trial_row())


def with_a_flipped_bit(whole: bytes) -> bytes:
    at = whole.index(b"RUNNING")  # a text of one row: parquet alone would read it as RTNNING
    return whole[: at + 1] + bytes([whole[at + 1] ^ 1]) + whole[at + 2 :]


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: b"PAR1 not parquet", lambda whole: whole[:-20], with_a_flipped_bit])
def test_a_damaged_part_is_named_and_the_others_stay_readable(records, damage):
    for number in range(3):
        records.append_trial(trial_row(number))
    part = records.study_dir / "records" / "trials" / "t0001-000000.parquet"
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(RecordsError, match=f"{part} is damaged.*sweep repair captions"):
        records.trials()
    with pytest.warns(UserWarning, match="t0001-000000.parquet is damaged.*left out"):
        rest = Records(records.study_dir, skip_damaged=True).trials()
    assert list(rest["trial"]) == ["t0000", "t0002"]


def test_every_flipped_bit_of_a_part_is_noticed_or_changes_nothing(records):
    records.append_evaluation(evaluation_row(further_metrics={"kid@inception": 0.25}))
    part = records.study_dir / "records" / "evaluations" / "e0.parquet"
    intact, row = part.read_bytes(), as_rows(records.evaluations(), EVALUATIONS)
    n_noticed, bits = 0, range(0, 8 * len(intact), 61)  # without a common factor with 8: each bit of a byte has its turn
    for at, bit in (divmod(i, 8) for i in bits):
        part.write_bytes(intact[:at] + bytes([intact[at] ^ 1 << bit]) + intact[at + 1 :])
        try:
            assert as_rows(records.evaluations(), EVALUATIONS) == row
        except RecordsError as error:
            n_noticed += str(part) in str(error) and "\n" not in str(error)
    assert n_noticed >= 0.95 * len(bits)  # the rest are the bits of the words that introduce the checksum


def test_parts_of_before_there_were_checksums_are_read_and_other_programs_read_those_with_one(records):
    records.append_trial(trial_row())
    part = records.study_dir / "records" / "trials" / "t0000-000000.parquet"
    assert checksums.NAME.encode() in part.read_bytes()
    rows = pq.read_table(part)
    assert rows.schema.equals(TRIALS.schema) and pd.read_parquet(part)["trial"].tolist() == ["t0000"]
    pq.write_table(rows, part)
    assert checksums.NAME.encode() not in part.read_bytes() and len(records.trials()) == 1


def test_a_copied_study_reads_the_same_and_finds_its_pictures(records, tmp_path):
    records.append_trial(trial_row())
    records.append_evaluation(evaluation_row(), image_rows(), pictures())
    copy = Records(shutil.copytree(records.study_dir, tmp_path / "elsewhere" / "copy"))
    shutil.rmtree(records.study_dir)
    assert len(copy.trials()) == 1 and all((copy.study_dir / path).is_file() for path in copy.images()["path"])


def test_nan_and_missing_stay_apart_on_disk_and_are_nan_in_frames(records):
    records.append_evaluation(evaluation_row("nan", fid=float("nan"), kid=None, device=None))
    part = records.study_dir / "records" / "evaluations" / "nan.parquet"
    on_disk = pq.read_table(part).to_pylist()[0]
    assert math.isnan(on_disk["fid"]) and on_disk["kid"] is None and on_disk["lpips_nearest"] is None
    frame = records.evaluations()
    assert frame[["fid", "kid"]].isna().all(axis=None) and frame["epoch"].dtype == "Int64"
    assert records.evaluation("nan")["device"] is None


def test_json_columns_hold_numpy_numbers_and_no_nan(records):
    records.append_trial(trial_row(configuration={"rank": np.int64(4), "lr": np.float64(0.5)}, rung_values=[[3, float("nan"), "e"]]))
    row = as_rows(records.trials(), TRIALS)[0]
    assert row["configuration"] == {"rank": 4, "lr": 0.5} and row["rung_values"] == [[3, None, "e"]]


def test_an_unknown_column_or_a_wrong_type_is_refused(records):
    with pytest.raises(RecordsError, match="trials has no column `stat`.*`state`"):
        records.append_trial({"trial": "t0000", "number": 0, "stat": "RUNNING"})
    with pytest.raises(RecordsError, match="`number` of trials is of type integer.*'one'"):
        records.append_trial(trial_row() | {"number": "one"})
    with pytest.raises(RecordsError, match="e0 gives 2 and 3"):
        records.append_evaluation(evaluation_row(), image_rows(3), pictures(2))
    with pytest.raises(RecordsError, match="uint8.*float64"):
        records.append_evaluation(evaluation_row(), image_rows(3), pictures(3) / 255)
    assert records.evaluations().empty


def test_records_of_a_newer_schema_are_refused_rather_than_misread(records):
    records.append_trial(trial_row(schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(RecordsError, match=f"schema {SCHEMA_VERSION + 1}.*Update"):
        records.trials()


def test_records_of_an_older_schema_read_with_missing_columns(records):
    records.append_trial(trial_row())
    part = records.study_dir / "records" / "trials" / "t0000-000000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["objective_formula", "labels"]), part)
    assert records.trials()["objective_formula"].isna().all() and len(records.trials()) == 1


def test_evaluations_and_images_of_schema_2_are_read_and_known_and_go_on_beside_new_ones(records):
    added = {"fid_inf", "heldout_loss", "intervals", "skipped", "further_networks", "n_copies", "lpips_unseen"}
    records.append_evaluation(evaluation_row(schema_version=2), image_rows(3), pictures(3))
    for table, names in (("evaluations", added), ("images", {"nearest_index", "is_copy", "further_metrics"})):
        part = records.study_dir / "records" / table / "e0.parquet"
        pq.write_table(pq.read_table(part).drop_columns(sorted(names)), part)
    records.append_evaluation(evaluation_row("e1", heldout_loss=0.1, intervals={"fid": [1.0, 2.0, 3]}), image_rows(3), pictures(3))
    for _ in range(2):
        old, new = as_rows(records.evaluations(), EVALUATIONS)
        assert all(old[name] is None for name in added) and (new["heldout_loss"], new["intervals"]) == (0.1, {"fid": [1.0, 2.0, 3]})
        assert records.images()["is_copy"].isna().all() and len(records.images()) == 6
        assert set(known_outcomes(records)) == {"e0", "e1"} and "heldout_loss" not in known_outcomes(records)["e0"].values
        records.compact()


def test_an_outcome_from_the_records_has_the_further_metrics_and_their_networks(records):
    networks = {"dinov2": "facebook/dinov2-base sha256:0"}
    records.append_evaluation(evaluation_row(dinov2=0.5, further_networks=networks, perceptual_backbone="lpips:alex"))
    outcome = known_outcomes(records)["e0"]
    assert outcome.values["dinov2"] == 0.5 and outcome.backbones == {"perceptual": "lpips:alex", "pooled": None, **networks}


def test_a_hundred_thousand_rows_read_within_seconds(records):
    rows = [{"evaluation_key": f"e{n:05d}", "index": i, "prompt": "p", "lpips": 0.5} for n in range(5000) for i in range(20)]
    evaluations = [evaluation_row(f"e{n:05d}", created_at=float(n)) for n in range(5000)]
    for table, its_rows in ((IMAGES, rows), (EVALUATIONS, [{**row, "configuration": "{}"} for row in evaluations])):
        folder = records.study_dir / "records" / table.name
        os.makedirs(folder)
        pq.write_table(as_arrow(table, its_rows), folder / "compact-000001.parquet")
    started = time.perf_counter()
    assert len(records.images()) == 100_000
    assert time.perf_counter() - started < 10  # 0.3 s on an idle core; a per-row path takes minutes


def test_a_launch_that_was_replaced_overwrites_no_row_of_the_one_that_has_replaced_it(tmp_path):
    """Its guard passed, it slept, and only then it wrote: whatever the order, the later launch's row counts."""
    earlier, later = (new_launch_id(lambda at=at: at) for at in (1000.0, 1060.5))
    for first, second in ((earlier, later), (later, earlier)):
        folder = tmp_path / first
        for launch in (first, second):
            Records(folder, launch=launch).append_trial({**trial_row(), "sequence": 1, "reason": launch})
        for _ in range(2):
            (row,) = as_rows(Records(folder).latest_trials(), TRIALS)
            assert row["reason"] == later
            Records(folder).compact()


def test_a_row_that_a_launch_wrote_while_it_was_replaced_is_taken_back(tmp_path):
    """It slept between the question whether it still has the study and the write."""
    answers = [None, LeaseLostError("another has taken it over")]

    def guard() -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    with pytest.raises(LeaseLostError):
        Records(tmp_path / "s", launch="slept", guard=guard).append_trial(trial_row())
    assert not answers and Records(tmp_path / "s").trials().empty
    answers += [None, RecordsError("the storage does not answer")]
    Records(tmp_path / "s", launch="awake", guard=guard).append_trial(trial_row())
    assert not answers and len(Records(tmp_path / "s").trials()) == 1


def test_nothing_is_written_where_the_guard_refuses(tmp_path):
    def refuse() -> None:
        raise LeaseLostError("another has taken it over")

    records = Records(tmp_path / "s", guard=refuse)
    with pytest.raises(LeaseLostError):
        records.append_trial(trial_row())
    with pytest.raises(LeaseLostError):
        records.append_evaluation(evaluation_row(), image_rows(), pictures())
    assert not (tmp_path / "s").exists()


def test_ids_of_launches_sort_by_their_begin():
    moments = [0.0, 1.0, 1.8e9, 1.8e9 + 0.001, 9e9]
    ids = [new_launch_id(lambda at=at: at) for at in moments]
    assert ids == sorted(ids) and len({len(launch) for launch in ids}) == 1
    assert new_launch_id(lambda: 1.0) != new_launch_id(lambda: 1.0)
