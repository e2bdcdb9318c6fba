"""What studies take on disk, and what is collected: stores of small files, laid out as the real store lays them out."""

import os
from contextlib import ExitStack

import pytest

from sweep import disk
from sweep.cli import main
from sweep.disk import STATE, WEIGHTS, collect, disk_of, drop_states_of_stopped, garbage_of, trainings_in, use_of
from sweep.errors import StudyError
from sweep.folder import StudyFolder, live_studies, removing
from sweep.launches import LaunchLog, Request, read_launches
from sweep.plan import Rates
from sweep.records import Records
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING
from sweep.status import disk_text, standing_of
from sweep.study import Study
from sweep.trial_rows import Trial, trial_row
from tests.sweep.fakes import FakeClock
from trainables.leases import Leases
from trainables.storage import place

RATES = Rates(device="d", epochs_per_hour=60.0, epochs_per_hour_alone=30.0, evaluations_per_hour=1.0)


def store(storage, key: str, *epochs: int, weights: int = 10, state: int = 20) -> None:
    for epoch in epochs:
        folder = storage / "adapters" / key / f"epoch-{epoch:05d}"
        folder.mkdir(parents=True)
        (folder / WEIGHTS).write_bytes(b"w" * weights)
        (folder / STATE).write_bytes(b"s" * state)


def a_study(storage, name: str, *trials: tuple[str, str, str]) -> StudyFolder:
    """trials: (state, training key, reason). Each has one evaluation of three seconds at epoch 3, with a picture of 5 bytes."""
    folder = StudyFolder(storage, name)
    folder.root.mkdir(parents=True)
    folder.write_study(Study(name=name, rows=[{"rank": i + 1} for i in range(len(trials))]), {})
    records = Records(folder.root)
    for number, (state, key, reason) in enumerate(trials):
        evaluation = f"{name}-{number}"
        rungs = [(3, 0.5 + number, evaluation)] if key else []
        records.append_trial(trial_row(Trial(f"t{number:04d}", number, {}, state=state, training_key=key, rungs=rungs, reason=reason), name))
        if key:
            records.append_evaluation({"evaluation_key": evaluation, "training_key": key, "epoch": 3, "seconds_generate": 2.0, "seconds_score": 1.0})
            (folder.root / "pictures" / evaluation).mkdir(parents=True)
            (folder.root / "pictures" / evaluation / "000.png").write_bytes(b"p" * 5)
    return folder


@pytest.fixture
def storage(tmp_path):
    """Two studies that share `shared`; `nobodys` is of a study that is gone."""
    for key in ("shared", "done", "stopped", "goes-on", "nobodys", "others"):
        store(tmp_path, key, 3, 6)
    a_study(tmp_path, "one", (COMPLETE, "shared", ""), (COMPLETE, "done", ""), (PRUNED, "stopped", "stopped early"), (FAIL, "goes-on", "interrupted"))
    a_study(tmp_path, "two", (COMPLETE, "shared", ""), (COMPLETE, "others", ""))
    return tmp_path


def keys_with(storage, name: str) -> set[str]:
    return {path.parent.parent.name for path in (storage / "adapters").glob(f"*/*/{name}")}


def test_the_names_of_files_are_those_of_the_store():
    from trainables import adapters

    assert (WEIGHTS, STATE) == (adapters.WEIGHTS, adapters.STATE)


def test_a_store_that_the_real_store_wrote_is_read_by_the_same_epochs(tmp_path):
    from tests.trainables.test_adapters import state_at
    from trainables.adapters import AdapterStore

    real = AdapterStore(tmp_path)
    real.save("k", state_at(2))
    real.save("k", state_at(100_000), resumable=False)
    (found,) = trainings_in(tmp_path)
    assert (list(found.weights), list(found.states), found.n_epochs) == (real.epochs("k"), [2], 100_000)
    assert found.n_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))


def test_a_study_takes_its_adapters_states_and_pictures_and_says_what_they_cost(storage):
    disk = disk_of(use_of(StudyFolder(storage, "one")), RATES)
    assert (disk.n_trainings, disk.weights_bytes, disk.states_bytes, disk.pictures_bytes) == (4, 4 * 2 * 10, 4 * 2 * 20, 4 * 5)
    assert (disk.n_epochs, disk.n_evaluations, disk.evaluation_s, disk.train_s) == (24, 4, 12.0, 24 * 60.0)
    assert "4 trainings of 24 epochs in all and 4 evaluations, about 24 minutes" in disk_text(disk)
    clock = FakeClock()
    log = LaunchLog(StudyFolder(storage, "one").launches, "a", Request(), clock=clock)
    clock.sleep(1800)
    log.end("finished")
    assert "its launches took about 30 minutes" in disk_text(disk_of(use_of(StudyFolder(storage, "one")), None))


def test_pictures_of_many_evaluations_are_sized_by_a_part_of_them(tmp_path):
    folder = a_study(tmp_path, "many")
    for number in range(640):
        (folder.root / "pictures" / f"{number:03d}").mkdir(parents=True)
        (folder.root / "pictures" / f"{number:03d}" / "000.png").write_bytes(b"p" * 7)
    disk = disk_of(use_of(folder), None)
    assert (disk.pictures_bytes, disk.pictures_exact) == (640 * 7, False) and "about" in disk_text(disk)


def test_what_no_study_refers_to_is_collected_and_states_of_what_has_ended(storage):
    garbage = garbage_of(storage)
    assert [t.key for t in garbage.unused] == ["nobodys"] and [t.key for t in garbage.ended] == ["done", "others", "shared", "stopped"]
    assert garbage.n_bytes == 2 * 30 + 4 * 2 * 20
    collect(storage, garbage)
    assert keys_with(storage, WEIGHTS) == {"shared", "done", "stopped", "goes-on", "others"} and keys_with(storage, STATE) == {"goes-on"}
    assert garbage_of(storage).n_bytes == 0
    assert not list((storage / "adapters").glob("*/.lease"))


def test_states_can_be_kept(storage):
    assert garbage_of(storage, keep_states=True).n_bytes == 60


def test_a_state_stays_as_long_as_any_study_may_train_on(storage):
    a_study(storage, "three", (RUNNING, "done", ""))
    assert "done" not in {t.key for t in garbage_of(storage).ended}


def test_the_end_of_a_launch_drops_states_of_what_was_stopped_early_only(storage):
    drop_states_of_stopped(StudyFolder(storage, "one"))
    assert keys_with(storage, STATE) == {"shared", "done", "goes-on", "nobodys", "others"} and "stopped" in keys_with(storage, WEIGHTS)


def test_a_training_that_another_process_holds_is_left_alone(storage):
    other = Leases(storage / "adapters")
    other.acquire("nobodys")
    other.acquire("stopped")
    collect(storage, garbage_of(storage))
    assert "nobodys" in keys_with(storage, WEIGHTS) and "stopped" in keys_with(storage, STATE)


def test_trainings_under_further_seeds_are_known_by_their_evaluations(tmp_path):
    store(tmp_path, "seed0", 3)
    store(tmp_path, "seed1", 3)
    folder = a_study(tmp_path, "s", (PRUNED, "seed0", ""))
    records = Records(folder.root)
    records.append_evaluation({"evaluation_key": "e1", "training_key": "seed1", "epoch": 3})
    trial = Trial("t0000", 0, {}, state=PRUNED, training_key="seed0", rungs=[(3, 0.5, "s-0", "e1")], n_rows=1)
    records.append_trial(trial_row(trial, "s"))
    assert use_of(folder).stopped == use_of(folder).keys == {"seed0", "seed1"}


# -- the commands --------------------------------------------------------------------------------------------------------


def line_of(capsys, *arguments) -> str:
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_list_has_a_line_per_study_and_says_which_is_damaged(storage, capsys):
    broken = a_study(storage, "broken", (COMPLETE, "done", ""))
    next((broken.root / "records" / "trials").glob("*.parquet")).write_bytes(b"no parquet")
    assert main(["list", "--storage", str(storage)]) == 0
    said = capsys.readouterr().out
    row = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]] for line in said.splitlines() if line.startswith("│")}
    assert row["one"] == ["not finished", "3", "0", "4", "0.5000", "260 bytes"]
    assert row["two"][0] == "finished" and row["broken"][0] == "damaged" and "broken: A part of the records" in said
    assert main(["list", "--storage", str(storage / "nothing")]) == 0


def test_the_state_of_a_study_is_that_of_its_launch(storage):
    folder = StudyFolder(storage, "one")
    log = LaunchLog(folder.launches, "a", Request())
    assert standing_of(folder).state == "killed"
    with folder.held("a"):
        assert standing_of(folder).state.startswith("running on ")
    log.end("interrupted")
    assert standing_of(folder).state == "interrupted"
    with folder.held("b"):
        assert standing_of(folder).state.startswith("starting on ")


def test_status_says_that_interrupted_trials_are_tried_again(tmp_path, capsys):
    records = Records(tmp_path / "s", clock=lambda: 1.0)
    for number, cause in enumerate(("interrupted", "disk", "lost", "configuration")):
        row = {"trial": f"t{number:04d}", "number": number, "configuration": {}, "state": FAIL}
        records.append_trial({**row, "cause": cause, "reason": cause})
    assert main(["status", "s", "--storage", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "3 not finished (tried again at the next launch), 1 failed of 4" in said
    with StudyFolder(tmp_path, "s").held():
        main(["status", "s", "--storage", str(tmp_path)])
    assert "3 running, 1 failed of 4" in capsys.readouterr().out


def test_gc_says_what_it_would_collect_asks_and_collects(storage, capsys):
    assert main(["gc", "--dry-run", "--storage", str(storage)]) == 0
    said = capsys.readouterr().out
    assert "1 training (6 epochs) that no study refers to: 60 bytes" in said and "optimiser states of 4 trainings" in said
    assert "nobodys" in keys_with(storage, WEIGHTS)
    assert "--yes" in line_of(capsys, "gc", "--storage", storage)
    assert main(["gc", "--yes", "--storage", str(storage)]) == 0
    assert "220 bytes are free again" in capsys.readouterr().out and "nobodys" not in keys_with(storage, WEIGHTS)
    assert main(["gc", "--storage", str(storage)]) == 0 and "is needed" in capsys.readouterr().out


def test_nothing_is_collected_while_a_study_runs_or_where_it_is_not_known_what_one_needs(storage, capsys):
    with StudyFolder(storage, "two").held("a"):
        assert "two does" in line_of(capsys, "gc", "--yes", "--storage", storage)
    next((storage / "one" / "records" / "trials").glob("*.parquet")).write_bytes(b"no parquet")
    assert "damaged" in line_of(capsys, "gc", "--yes", "--storage", storage)
    assert "nobodys" in keys_with(storage, WEIGHTS)


def test_rm_removes_a_study_and_what_only_it_uses(storage, capsys):
    assert "--yes" in line_of(capsys, "rm", "one", "--storage", storage)
    with StudyFolder(storage, "one").held("a"):
        assert "in use" in line_of(capsys, "rm", "one", "--yes", "--storage", storage)
    assert StudyFolder(storage, "one").exists
    assert main(["rm", "one", "--yes", "--storage", str(storage)]) == 0
    assert "3 of its 4 trainings, used by no other study, go with it (180 bytes)" in capsys.readouterr().out
    assert keys_with(storage, WEIGHTS) == {"shared", "nobodys", "others"}
    assert sorted(path.name for path in storage.iterdir()) == ["adapters", "two"]


def test_rm_keeps_all_adapters_while_another_study_runs(storage):
    with StudyFolder(storage, "two").held("a"):
        assert main(["rm", "one", "--yes", "--storage", str(storage)]) == 0
    assert "done" in keys_with(storage, WEIGHTS) and not StudyFolder(storage, "one").exists
    assert "done" in {t.key for t in garbage_of(storage).unused}


def test_a_study_whose_records_are_damaged_can_be_removed_and_leaves_its_adapters(storage, capsys):
    next((storage / "one" / "records" / "trials").glob("*.parquet")).write_bytes(b"no parquet")
    assert main(["rm", "one", "--yes", "--storage", str(storage)]) == 0
    assert "damaged" in capsys.readouterr().out and not StudyFolder(storage, "one").exists and "done" in keys_with(storage, WEIGHTS)


def test_what_an_interrupted_removal_left_is_collected(storage):
    (storage / ".removing-x" / "records").mkdir(parents=True)
    (storage / "adapters" / "done" / ".writing-y").mkdir()
    assert Leases(storage).acquire(".removing-x")  # who is removing it still holds the study's lease
    assert live_studies(storage) == []
    collect(storage, garbage_of(storage))
    assert not list(storage.glob(".removing-*")) and not list((storage / "adapters").glob("*/.writing-*"))


def test_stop_pause_and_set_ask_the_live_launch_and_set_waits_for_a_resume_otherwise(storage, capsys):
    for command in (["stop", "one"], ["pause", "one"]):
        assert "only a study that runs" in line_of(capsys, *command, "--storage", storage).lower()
    assert "samples" in line_of(capsys, "set", "one", "samples=0", "--storage", storage)
    assert "`rank` is none of the limits" in line_of(capsys, "set", "one", "rank=4", "--storage", storage)
    assert main(["set", "one", "samples=9", "--storage", str(storage)]) == 0 and "does not run" in capsys.readouterr().out
    assert read_launches(StudyFolder(storage, "one").launches).request.overrides == {"samples": "9"}
    with StudyFolder(storage, "one").held("a"):
        assert main(["pause", "one", "--storage", str(storage)]) == 0 and main(["set", "one", "samples=7", "--storage", str(storage)]) == 0
        assert main(["stop", "one", "--now", "--storage", str(storage)]) == 0
        asked = StudyFolder(storage, "one").control.read_text()
    assert '"paused": true' in asked and '"stop": "now"' in asked and '"samples": 7' in asked


# -- what happens while the question waits -------------------------------------------------------------------------------


@pytest.fixture
def meanwhile(monkeypatch):
    """Does something while a command asks; the answer is yes."""

    def during(do) -> None:
        monkeypatch.setattr("sweep.storage_commands.confirm", lambda question, *, yes: do())

    return during


def test_a_study_that_is_launched_and_ends_while_the_question_waits_loses_nothing(storage, meanwhile, capsys):
    meanwhile(lambda: a_study(storage, "new", (COMPLETE, "nobodys", ""), (RUNNING, "done", "")))
    assert main(["gc", "--storage", str(storage)]) == 0
    said = capsys.readouterr().out
    assert "2 trainings are in use by now and stay" in said and f"{3 * 2 * 20} bytes are free again" in said
    assert {"nobodys", "done"} <= keys_with(storage, WEIGHTS) and "done" in keys_with(storage, STATE)


def test_rm_keeps_what_a_study_that_was_launched_while_the_question_waits_shares_with_it(storage, meanwhile, capsys):
    meanwhile(lambda: a_study(storage, "new", (COMPLETE, "done", "")))
    assert main(["rm", "one", "--storage", str(storage)]) == 0
    said = capsys.readouterr().out
    assert "3 of its 4 trainings" in said and "2 of its 4 trainings, used by no other study, go with it (120 bytes)" in said
    assert "done" in keys_with(storage, WEIGHTS) and not StudyFolder(storage, "one").exists


@pytest.mark.parametrize("name", ["one", "new", "two"])
def test_nothing_is_lost_of_a_study_that_is_launched_while_the_question_waits_and_still_runs(storage, meanwhile, name, capsys):
    """Its records do not say yet what it reads; a new one has no study.json yet."""
    with ExitStack() as running:
        meanwhile(lambda: running.enter_context(StudyFolder(storage, name).held("a")))
        before = keys_with(storage, WEIGHTS), keys_with(storage, STATE)
        assert f"{name} does" in line_of(capsys, "gc", "--storage", storage)
        assert (keys_with(storage, WEIGHTS), keys_with(storage, STATE)) == before
    with ExitStack() as running:
        meanwhile(lambda: running.enter_context(StudyFolder(storage, name).held("a")))
        if name == "one":
            assert "in use by process" in line_of(capsys, "rm", "one", "--storage", storage)
        else:
            assert main(["rm", "one", "--storage", str(storage)]) == 0
            assert f"All adapters stay while {name} runs" in capsys.readouterr().out
        assert (keys_with(storage, WEIGHTS), keys_with(storage, STATE)) == before


def test_a_study_that_has_gone_on_while_its_removal_was_asked_about_is_not_removed(storage, meanwhile, capsys):
    def go_on() -> None:
        with StudyFolder(storage, "one").held("a") as hold:
            Records(storage / "one", guard=hold.require).append_evaluation({"evaluation_key": "one-0", "training_key": "shared", "epoch": 3})

    meanwhile(go_on)
    assert "other records now, so nothing was removed" in line_of(capsys, "rm", "one", "--storage", storage)
    assert StudyFolder(storage, "one").exists and "done" in keys_with(storage, WEIGHTS)
    meanwhile(lambda: None)
    assert main(["rm", "one", "--storage", str(storage)]) == 0  # the way out


def test_a_launch_begins_when_a_removal_has_ended_and_not_before(storage, monkeypatch, caplog):
    with ExitStack() as removal:
        removal.enter_context(removing(storage))
        monkeypatch.setattr("sweep.folder.sleep", lambda seconds: removal.close())
        with StudyFolder(storage, "two").held("a"):
            assert StudyFolder(storage, "two").holder is not None
    (said,) = [record.getMessage() for record in caplog.records if record.name == "sweep.folder"]
    assert said.startswith(f"waiting for process {os.getpid()} on ")
    monkeypatch.setattr("sweep.folder.sleep", lambda seconds: None)
    with removing(storage):
        with pytest.raises(StudyError, match=f"process {os.getpid()} on .* still does"), StudyFolder(storage, "two").held("a"):
            pass
        assert StudyFolder(storage, "two").holder is None
        with pytest.raises(StudyError, match="by one process at a time"), removing(storage):
            pass


def test_a_training_that_begins_anew_while_its_folder_is_removed_keeps_what_it_stores(storage, monkeypatch):
    remove = disk.remove_tree

    def slow(folder) -> None:
        assert Leases(storage / "adapters").acquire("nobodys")
        store(storage, "nobodys", 9)
        remove(folder)

    monkeypatch.setattr(disk, "remove_tree", slow)
    collect(storage, garbage_of(storage, keep_states=True))
    assert [training.n_epochs for training in trainings_in(storage / "adapters", ["nobodys"])] == [9]
    (storage / "adapters" / ".removing-left").mkdir()
    assert storage / "adapters" / ".removing-left" in garbage_of(storage).leftovers


def test_a_launch_that_ends_leaves_states_alone_while_another_study_runs(storage):
    with StudyFolder(storage, "new").held("a"):
        drop_states_of_stopped(StudyFolder(storage, "one"))
    assert "stopped" in keys_with(storage, STATE)
    drop_states_of_stopped(StudyFolder(storage, "one"))
    assert "stopped" not in keys_with(storage, STATE)


def test_a_store_is_collected_by_the_same_rules(s3, tmp_path, monkeypatch, meanwhile, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = place(s3)
    for key in ("used", "unused"):
        for name in (WEIGHTS, STATE):
            (root / "adapters" / key / "epoch-00003" / name).write_bytes(b"x")
    a_study(root, "s", (COMPLETE, "used", ""))
    with ExitStack() as running:
        meanwhile(lambda: running.enter_context(StudyFolder(root, "new").held("a")))
        assert "new does" in line_of(capsys, "gc", "--storage", s3)
    meanwhile(lambda: None)
    assert main(["gc", "--storage", s3]) == 0
    left = sorted(str(path).removeprefix(f"{root}/adapters/") for path in (root / "adapters").rglob("*") if path.is_file())
    assert left == [f"used/epoch-00003/{WEIGHTS}"]
