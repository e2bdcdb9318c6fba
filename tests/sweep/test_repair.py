"""What of a study is damaged or missing is named by `status` and made whole by `sweep repair`, which says first what it will do.

Studies run in this process, with a device that only computes; adapters are files of the real format beside its marks."""

import json
import os
import shutil
import zlib
from contextlib import ExitStack
from dataclasses import asdict

import numpy as np
import pytest
from ray import tune
from safetensors import safe_open
from safetensors.numpy import load_file, save

from sweep import launch_commands
from sweep.cli import main
from sweep.damage import Remedy, check_study, is_whole_png
from sweep.driver import Driver, run_here
from sweep.errors import StudyError
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.launches import LaunchLog, Request
from sweep.pool import Pool
from sweep.records import EVALUATIONS, IMAGES, TRIALS, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import COMPLETE, PastTrial, Searcher
from sweep.study import Study, load_study
from sweep.trial_rows import past_of, trial_of_row
from sweep.worker import Worker, known_outcomes
from tests.sweep.fakes import FakeContent, FakeDevice
from trainables import checksums
from trainables.config import TrainConfig
from trainables.leases import LEASE, STALE_S

SOURCE = """
from ray import tune
from sweep import Epochs, Objective, Study

study = Study(
    space={"rank": tune.choice([4, 8, 16, 32]), "learning_rate": tune.loguniform(1e-4, 1e-2), "guidance": tune.choice([2.0, 4.0])},
    epochs=Epochs(max=4, rungs=(2,)),
    objective=Objective(lpips=0.5, fid=0.5, scales={"lpips": 1.0, "fid": 200.0}),
    early_stopping="off",
    samples=6,
)
"""
N_TRIALS = 6


class StoringDevice(FakeDevice):
    """One whose adapters are safetensors files in the storage, sealed as the real ones are."""

    def __init__(self, folder: StudyFolder) -> None:
        super().__init__()
        self.adapters = folder.adapters

    def _file(self, key, epoch):
        return self.adapters / key / f"epoch-{epoch:05d}" / "adapter.safetensors"

    def save(self, key):
        super().save(key)
        file = self._file(key, self._slots[key][1])
        file.parent.mkdir(parents=True, exist_ok=True)
        content = save({"x": np.arange(64, dtype=np.float32)}, {checksums.NAME: checksums.BLANK, "config": json.dumps(self._config(key))})
        file.write_bytes(checksums.sealed(content))

    def _config(self, key):
        return asdict(self._slots[key][0].config)

    def _is_stored(self, key, epoch):
        return self._file(key, epoch).exists()

    def _stored_config(self, key, epoch):
        with safe_open(self._file(key, epoch), framework="np") as file:
            return TrainConfig(**json.loads(file.metadata()["config"]))


class Setup:
    """A study that was launched to its end, and a `launch` for repair that runs in this process."""

    def __init__(self, folder) -> None:
        self.storage = folder / "sweeps"
        self.file = folder / "mine.py"
        self.file.write_text(SOURCE)
        self.study = load_study(self.file)
        self.folder = StudyFolder(self.storage, "mine")
        self.launched = []
        self.device = StoringDevice(self.folder)

    def launch(self, study, *, again=(), gone_adapters=()):
        with self.folder.held():
            keys = Keys(study, FakeContent())
            self.folder.write_study(study, keys.content_digests())
            request = Request({}, {"device": "cpu"}, str(self.file), str(self.file.parent))
            log = LaunchLog(self.folder.launches, "id", request)
            records = Records(self.folder.root)
            past = [trial_of_row(row) for row in as_rows(records.latest_trials(), TRIALS)]
            pool = Pool({key: outcome for key, outcome in known_outcomes(records).items() if key not in again})
            self.device = StoringDevice(self.folder)
            searcher = Searcher(study, past=[past_of(trial) for trial in past])
            driver = Driver(
                study, keys, searcher, Asha(study.rungs, None), pool, records, max_concurrent=1, past=past, gone_adapters=gone_adapters
            )
            worker = Worker("w", pool, self.device, records, objective=study.objective, sleep=lambda seconds: None)
            run_here(driver, pool, worker.turn)
            log.end("finished")
        return driver

    def run_to_end(self, study, storage, options, **_):
        self.launched.append(options)
        return self.launch(study, again=options.get("again", ()), gone_adapters=options.get("gone_adapters", ())), 0

    @property
    def trained(self) -> set:
        return {(entry[1], entry[2]) for entry in self.device.log if entry[0] == "save"}

    @property
    def scored(self) -> set:
        return {key for entry in self.device.log if entry[0] == "evaluate" for key in entry[1]}

    def rows(self, table):
        records = Records(self.folder.root)
        frames = {TRIALS: records.latest_trials, EVALUATIONS: records.evaluations, IMAGES: records.images}
        return as_rows(frames[table](), table)

    def parts(self, table, pattern="*"):
        return sorted((self.folder.root / "records" / table).glob(f"{pattern}.parquet"))


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Setup:
    made = Setup(tmp_path_factory.mktemp("launched"))
    made.launch(made.study)
    return made


@pytest.fixture
def setup(launched, tmp_path, monkeypatch) -> Setup:
    shutil.copytree(launched.storage, tmp_path / "sweeps")
    copy = Setup(tmp_path)
    copy.folder.launches.write_text(copy.folder.launches.read_text().replace(str(launched.file.parent), str(tmp_path)))
    monkeypatch.setattr(launch_commands, "_run_to_end", copy.run_to_end)
    monkeypatch.setattr("sweep.repair.Keys", lambda study: Keys(study, FakeContent()))
    return copy


def flip(file, at=-30):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def status(setup, capsys) -> str:
    assert main(["status", "mine", "--storage", str(setup.storage)]) == 0
    return capsys.readouterr().out


def repair(setup, capsys, code=0) -> str:
    assert main(["repair", "mine", "--storage", str(setup.storage), "--yes"]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out + captured.err


def is_whole(setup) -> bool:
    return not check_study(setup.folder).damages


def test_a_whole_study_is_left_alone(setup, capsys):
    before = {path: path.read_bytes() for path in setup.storage.rglob("*") if path.is_file()}
    assert "repair" not in status(setup, capsys)
    assert repair(setup, capsys).strip() == "mine is whole: nothing is damaged or missing."
    assert {path: path.read_bytes() for path in setup.storage.rglob("*") if path.is_file()} == before and not setup.launched


@pytest.mark.parametrize("numbers", [[2], [0, 3], [4]])
def test_trials_whose_rows_were_moved_away_are_tried_again_by_a_relaunch_under_their_numbers(setup, capsys, numbers):
    for number in numbers:
        for part in setup.parts("trials", f"t{number:04d}-*"):
            part.unlink()
    said = status(setup, capsys)
    assert all(f"trial t{number:04d} is missing" in said for number in numbers) and "sweep repair mine" in said
    driver = setup.launch(setup.study)
    assert driver.started_now == {f"t{number:04d}" for number in numbers} and driver.n_trials == N_TRIALS
    rows = setup.rows(TRIALS)
    assert [row["number"] for row in rows] == list(range(N_TRIALS)) and all(row["state"] == COMPLETE for row in rows)
    assert is_whole(setup)


def test_a_lost_trial_that_is_the_last_one_is_tried_again_too(setup):
    for part in setup.parts("trials", "t0005-*"):
        part.unlink()
    assert setup.launch(setup.study).started_now == {"t0005"} and len(setup.rows(TRIALS)) == N_TRIALS


@pytest.mark.parametrize("sampler", ["grid", "rows"])
def test_of_a_listed_study_the_lost_rows_own_configuration_is_tried_again(sampler):
    listed = {"grid": {"space": {"rank": tune.choice([4, 8, 16])}, "sampler": "grid"}, "rows": {"rows": [{"rank": 4}, {"rank": 8}, {"rank": 16}]}}
    study = Study(name="s", **listed[sampler])
    first = Searcher(study)
    asked = [first.ask() for _ in range(3)]
    past = [PastTrial(s.number, COMPLETE, s.configuration, s.sampled, rungs=((1, 0.5),)) for s in asked if s.number != 1]
    again = Searcher(study, past=past)
    suggestion = again.ask()
    assert (suggestion.trial, suggestion.configuration) == ("t0001", asked[1].configuration)
    assert again.ask() is None and again.n_trials == 3


@pytest.mark.parametrize("is_damaged", [True, False])
def test_scores_of_ended_trials_that_are_lost_are_computed_again(setup, capsys, is_damaged):
    before = {row["evaluation_key"]: row["lpips"] for row in setup.rows(EVALUATIONS)}
    lost = setup.rows(TRIALS)[1]["rung_values"][0][2]
    (part,) = setup.parts("evaluations", lost)
    flip(part) if is_damaged else part.unlink()
    assert (f"records/evaluations/{lost}.parquet is damaged" if is_damaged else f"evaluation {lost} is missing") in status(setup, capsys)
    said = repair(setup, capsys)
    assert Remedy.SCORED.value in said and "mine is whole again" in said
    assert setup.scored == {lost} and not setup.trained
    assert {row["evaluation_key"]: row["lpips"] for row in setup.rows(EVALUATIONS)} == before


def test_lost_scores_whose_adapter_is_lost_as_well_are_trained_for_again_by_a_relaunch(setup):
    row = setup.rows(TRIALS)[1]
    epoch, _, lost = row["rung_values"][0]
    setup.parts("evaluations", lost)[0].unlink()
    shutil.rmtree(setup.folder.adapters / row["training_key"])
    setup.launch(setup.study)
    assert setup.scored == {lost} and setup.trained == {(row["training_key"], epoch)}


@pytest.mark.parametrize("what", ["flipped row part", "lost row part", "lost picture", "flipped picture", "cut picture", "lost folder"])
def test_image_rows_and_pictures_are_made_again(setup, capsys, what):
    key = setup.rows(TRIALS)[3]["rung_values"][1][2]
    (part,) = setup.parts("images", key)
    pictures = sorted((setup.folder.root / "pictures" / key).iterdir())
    before = {path: path.read_bytes() for path in pictures}
    {
        "flipped row part": lambda: flip(part, at=40),
        "lost row part": part.unlink,
        "lost picture": pictures[2].unlink,
        "flipped picture": lambda: flip(pictures[2]),
        "cut picture": lambda: pictures[2].write_bytes(before[pictures[2]][:-9]),
        "lost folder": lambda: shutil.rmtree(pictures[0].parent),
    }[what]()
    assert key in status(setup, capsys)
    said = repair(setup, capsys)
    assert "mine is whole again" in said and setup.scored == {key} and not setup.trained
    assert {path: path.read_bytes() for path in pictures} == before and is_whole(setup)
    assert sum(row["evaluation_key"] == key for row in setup.rows(IMAGES)) == len(pictures)


@pytest.mark.parametrize("damage", [flip, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(file.read_bytes()[:90]), lambda file: file.unlink()])
def test_adapters_are_trained_again_and_nothing_is_scored_for_it(setup, capsys, damage):
    row = setup.rows(TRIALS)[0]
    file = setup.folder.adapters / row["training_key"] / "epoch-00002" / "adapter.safetensors"
    damage(file)
    assert f"adapters/{row['training_key']}/epoch-00002/adapter.safetensors is" in status(setup, capsys)
    assert "trained again" in (said := repair(setup, capsys)) and "mine is whole again" in said
    assert setup.trained == {(row["training_key"], 2)} and not setup.scored
    assert np.array_equal(load_file(file)["x"], np.arange(64))


def test_optimiser_states_and_latents_that_are_damaged_are_put_aside(setup, capsys):
    key = setup.rows(TRIALS)[0]["training_key"]
    state = setup.folder.adapters / key / "epoch-00002" / "state.safetensors"
    adapter = state.with_name("adapter.safetensors").read_bytes()
    setup.folder.latents.mkdir()
    latents = setup.folder.latents / "a.safetensors"
    for file in (state, latents):
        file.write_bytes(adapter)
        flip(file)
    said = repair(setup, capsys)
    assert Remedy.FORGOTTEN.value in said and "mine is whole again" in said and not setup.launched
    assert not state.exists() and not latents.exists()
    assert sorted(path.name for path in (setup.folder.root / "damaged").rglob("*.safetensors")) == ["a.safetensors", "state.safetensors"]


TEXTS = [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"a": 1}', b"[" * 100_000]


@pytest.mark.parametrize("content", [*TEXTS, None])
def test_a_description_is_written_again_from_the_source(setup, capsys, content):
    before = setup.folder.read_description()
    setup.folder.description.unlink() if content is None else setup.folder.description.write_bytes(content)
    assert "study.json is" in status(setup, capsys)
    for command in (["export", "mine", "--best"], ["score", "x.safetensors", "--study", "mine"], ["generate", "mine", "--best", "--prompt", "x"]):
        assert main([*command, "--storage", str(setup.storage)]) == 2
        line = capsys.readouterr().err.strip()
        assert "\n" not in line and "study.json" in line and "`sweep repair mine` writes it again" in line
    if content is not None:
        with pytest.raises(StudyError, match="sweep repair mine"):  # what a launch asks first
            setup.folder.require_comparable(setup.study, {})
    assert Remedy.DESCRIPTION.value in (said := repair(setup, capsys)) and "mine is whole again" in said
    assert setup.folder.read_description() == before | {"directory": str(setup.file.parent)}


def test_a_description_of_other_trainings_is_not_written(setup, capsys):
    setup.folder.description.unlink()
    setup.folder.source.write_text(SOURCE.replace("early_stopping", 'fixed={"batch": 3}, early_stopping'))
    assert "are not those of" in repair(setup, capsys, code=1) and not setup.folder.description.exists()


@pytest.mark.parametrize("content", [b"", b"study = (", b"\xff", b"a\0b", None])
def test_a_source_is_copied_again_from_the_file_that_was_launched_if_it_is_the_same(setup, capsys, content):
    setup.folder.source.unlink() if content is None else setup.folder.source.write_bytes(content)
    assert "study.py is" in status(setup, capsys)
    assert Remedy.SOURCE.value in repair(setup, capsys) and setup.folder.source.read_text() == SOURCE
    setup.folder.source.write_bytes(b"study = (")
    setup.file.write_text(SOURCE.replace("samples=6", "samples=7"))
    assert "has changed in samples" in repair(setup, capsys, code=1)


@pytest.mark.parametrize("content", [*TEXTS, b'{"request": {}, "launches": [{"id": 3}]}', b'{"request": {"overrides": 3}, "launches": []}'])
def test_a_list_of_launches_is_begun_anew(setup, capsys, content):
    setup.folder.launches.write_bytes(content)
    assert "launches.json is damaged" in status(setup, capsys) and main(["resume", "mine", "--storage", str(setup.storage)]) == 2
    assert "sweep repair mine" in capsys.readouterr().err
    assert Remedy.LAUNCHES.value in repair(setup, capsys) and not setup.folder.launches.exists() and is_whole(setup)


@pytest.mark.parametrize("content", TEXTS)
def test_requests_and_measured_sizes_that_are_damaged_are_put_aside_and_stop_nothing(setup, capsys, content):
    for file in (setup.folder.control, setup.folder.pack_size):
        file.write_bytes(content)
    assert "control.json is damaged" in status(setup, capsys)
    assert "mine is whole again" in repair(setup, capsys) and not setup.folder.control.exists()


def test_repair_asks_first_and_does_nothing_without_an_answer(setup, capsys):
    file = setup.folder.adapters / setup.rows(TRIALS)[0]["training_key"] / "epoch-00002" / "adapter.safetensors"
    flip(file)
    before = {path: path.read_bytes() for path in setup.storage.rglob("*") if path.is_file()}
    assert main(["repair", "mine", "--storage", str(setup.storage)]) == 2
    captured = capsys.readouterr()
    assert "trained again" in captured.out and "--yes" in captured.err
    assert {path: path.read_bytes() for path in setup.storage.rglob("*") if path.is_file()} == before and not setup.launched


def answering(monkeypatch, meanwhile):
    """The answer is yes, after something has happened while the question waited."""
    monkeypatch.setattr(launch_commands, "confirm_with_person", lambda question, *, yes: meanwhile())


def test_what_another_study_has_made_again_while_the_question_waits_is_left_alone(
    setup, capsys, monkeypatch
):
    keys = [row["training_key"] for row in setup.rows(TRIALS)[:2]]
    shared, own = (
        setup.folder.adapters / key / "epoch-00002" / "adapter.safetensors" for key in keys
    )
    whole = shared.read_bytes()
    flip(shared)
    flip(own)
    answering(monkeypatch, lambda: shared.write_bytes(whole))
    assert main(["repair", "mine", "--storage", str(setup.storage)]) == 0
    assert setup.trained == {(keys[1], 2)} and shared.read_bytes() == whole and is_whole(setup)
    aside = {path.parent.parent.name for path in setup.folder.root.glob("damaged/**/*.safetensors")}
    assert aside == {keys[1]}


def test_a_study_that_another_process_has_taken_while_the_question_waits_is_not_repaired(
    setup, capsys, monkeypatch
):
    damaged = setup.parts("trials", "t0001-*")[0]
    flip(damaged)
    with ExitStack() as other:

        def sleep_too_long() -> None:
            lease = setup.folder.root / LEASE
            os.utime(lease, (lease.stat().st_mtime - STALE_S - 1,) * 2)
            other.enter_context(setup.folder.held("another"))

        answering(monkeypatch, sleep_too_long)
        assert main(["repair", "mine", "--storage", str(setup.storage)]) == 2
    assert "has taken mine over" in capsys.readouterr().err
    assert damaged.exists() and not setup.launched


def test_a_study_that_runs_is_not_repaired(setup, capsys):
    flip(setup.parts("trials", "t0001-*")[0])
    with setup.folder.held("another"):
        assert main(["repair", "mine", "--storage", str(setup.storage), "--yes"]) == 2
    assert "in use" in capsys.readouterr().err and setup.parts("trials", "t0001-*")


def test_what_is_damaged_is_kept_aside(setup, capsys):
    (part, *_) = setup.parts("trials", "t0002-*")
    flip(part)
    content = part.read_bytes()
    repair(setup, capsys)
    (kept,) = (setup.folder.root / "damaged").rglob(part.name)
    assert kept.read_bytes() == content and kept.parts[-3:-1] == ("records", "trials")


def test_a_compacted_part_that_is_damaged_is_computed_again_whole(setup, capsys):
    Records(setup.folder.root).compact()
    for table in ("trials", "evaluations", "images"):
        flip(setup.parts(table)[0])
    assert status(setup, capsys).count("is damaged") == 3
    assert "mine is whole again" in repair(setup, capsys)
    assert len(setup.rows(TRIALS)) == N_TRIALS and all(row["state"] == COMPLETE for row in setup.rows(TRIALS))


def test_every_flipped_bit_of_a_picture_is_noticed(setup):
    picture = next((setup.folder.root / "pictures").rglob("*.png")).read_bytes()
    assert is_whole_png(picture)
    for i in range(8 * len(picture)):
        at, bit = divmod(i, 8)
        assert not is_whole_png(picture[:at] + bytes([picture[at] ^ 1 << bit]) + picture[at + 1 :])
    assert not is_whole_png(picture[:-1]) and not is_whole_png(b"") and not is_whole_png(picture + b"x")
    assert zlib.crc32(b"IEND").to_bytes(4, "big") in picture  # the checksums are those of the PNG specification


def test_files_of_before_there_were_checksums_are_whole(setup):
    import pyarrow.parquet as pq

    for part in (setup.folder.root / "records").rglob("*.parquet"):
        pq.write_table(pq.read_table(part), part)
    assert is_whole(setup)
