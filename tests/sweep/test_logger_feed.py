"""What loggers are told of whole studies in this process, read back from what they have written."""

import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweep import logger_feed
from sweep.driver import Driver
from sweep.folder import StudyFolder
from sweep.logger_feed import Feeds
from sweep.loggers import LoggedTrial
from sweep.searcher import COMPLETE, FAIL, PRUNED
from tests.sweep.fakes import synthetic_values
from tests.sweep.logged import mlflow_scalars, tensorboard_hparams, tensorboard_scalars, wandb_scalars
from tests.sweep.test_driver import Bench, a_study

ROOT = Path(__file__).resolve().parents[2]


class LoggedBench(Bench):
    """A study whose launches tell loggers."""

    def __init__(self, study, storage, *names: str, **options) -> None:
        self.folder = StudyFolder(storage, study.name)
        self.folder.here.mkdir(parents=True, exist_ok=True)
        super().__init__(study, self.folder.root, **options)
        self.names = names

    def append_evaluation(self, row, image_rows, pictures) -> None:
        self.records.append_evaluation(row)
        self.memory.append_evaluation(row, image_rows, pictures)

    def launch(self, *, turns: int = 100_000) -> Driver:
        with Feeds(self.names, self.folder) as feeds:
            feeds.start(self.rows())
            driver, pool, worker = self.prepare()
            worker.records, driver._records = self, feeds.over(self.records)
            return self.run(driver, pool, worker, turns=turns)


def told_of_tensorboard(bench: LoggedBench):
    folder = bench.folder.root / "tensorboard"
    params = tensorboard_hparams(folder)
    assert {len(written) for written in params.values()} == {1}
    return tensorboard_scalars(folder), {trial: written[0]["state"] for trial, written in params.items()}, {t: w[0] for t, w in params.items()}


def told_of_mlflow(bench: LoggedBench):
    from mlflow import MlflowClient

    scalars, runs = mlflow_scalars(MlflowClient(), "s")
    assert {len(of_trial) for of_trial in runs.values()} == {1}
    ends = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
    tags = {trial: run.data.tags for trial, (run,) in runs.items()}
    assert all(run.info.status == ends[tags[trial]["state"]] for trial, (run,) in runs.items())
    params = {trial: {name: float(text) for name, text in run.data.params.items()} for trial, (run,) in runs.items()}
    return scalars, {trial: of_run["state"] for trial, of_run in tags.items()}, params


def told_of_wandb(bench: LoggedBench):
    scalars, summaries, configs = wandb_scalars(bench.folder.root)
    return scalars, {trial: summary["state"] for trial, summary in summaries.items()}, configs


TOLD = {"tensorboard": told_of_tensorboard, "mlflow": told_of_mlflow, "wandb": told_of_wandb}
PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}


@pytest.fixture(params=list(TOLD))
def name(request, tmp_path, monkeypatch) -> str:
    """A logger. TensorBoard's package comes with ray[tune]."""
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param], reason=f"needs pip install -e '.[{request.param}]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return request.param


def require_told(bench: LoggedBench, driver: Driver, name: str) -> None:
    scalars, states, params = TOLD[name](bench)
    assert states == {trial.id: trial.state for trial in driver.trials.values()}
    for trial in driver.trials.values():
        train, _, evaluation = bench.study.split(trial.configuration)
        for metric in ("lpips", "fid"):
            expected = {epoch: [synthetic_values(train, epoch, evaluation.guidance)[metric]] for epoch, *_ in trial.rungs}
            assert scalars[trial.id, metric] == {epoch: pytest.approx(values) for epoch, values in expected.items()}
        assert scalars[trial.id, "objective"] == {epoch: [pytest.approx(value)] for epoch, value, *_ in trial.rungs}
        for epoch, losses in scalars[trial.id, "train_loss"].items():
            assert losses == [pytest.approx(1 / epoch)], "FakeDevice's loss"
        assert {p: params[trial.id][p] for p in trial.configuration} == trial.configuration


def test_every_rung_of_every_trial_is_told_once_also_by_launches_that_are_cut_off(name, tmp_path):
    bench = LoggedBench(a_study(samples=6), tmp_path, name)
    first = bench.launch(turns=8)
    assert {trial.state for trial in first.trials.values()} == {PRUNED, FAIL} and any(len(trial.rungs) for trial in first.trials.values())
    bench.launch(turns=6)
    require_told(bench, bench.launch(), name)
    before = TOLD[name](bench)
    bench.launch()
    assert TOLD[name](bench) == before, "nothing was left to tell"


def test_a_logger_that_is_added_later_is_told_of_the_trials_that_have_ended(name, tmp_path):
    bench = LoggedBench(a_study(samples=4), tmp_path)
    driver = bench.launch()
    assert not (bench.folder.root / "tensorboard").exists()
    bench.names = (name,)
    assert bench.launch().started_now == set()
    require_told(bench, driver, name)


def test_a_failed_trial_that_was_never_scored_is_told_with_its_reason(tmp_path):
    bench = LoggedBench(a_study(space={}, rows=[{"rank": 8}, {"rank": 600}]), tmp_path, "tensorboard")
    bench.launch()
    params = tensorboard_hparams(bench.folder.root / "tensorboard")
    assert (params["t0000"][0]["state"], params["t0001"][0]["state"]) == (COMPLETE, FAIL)
    assert "600" in params["t0001"][0]["reason"] and tensorboard_scalars(bench.folder.root / "tensorboard")["t0001", "epochs"] == {0: [0.0]}


def test_of_several_training_seeds_the_mean_is_told(tmp_path):
    bench = LoggedBench(a_study(space={}, rows=[{"rank": 16, "guidance": 4.0}], train_seeds=3), tmp_path, "tensorboard")
    bench.launch()
    scalars = tensorboard_scalars(bench.folder.root / "tensorboard")
    lpips = 0.3 + 0.3 * math.exp(-12 / 4) + 0.01 * 1  # FakeDevice's, whose seeds 0, 1, 2 add 0.01 each
    assert scalars["t0000", "lpips"][12] == [pytest.approx(lpips)] and scalars["t0000", "train_loss"][12] == [pytest.approx(1 / 12)]


def test_tensorboards_own_reader_finds_scalars_and_hyperparameters(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the viewer: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    bench = LoggedBench(a_study(samples=2), tmp_path, "tensorboard")
    bench.launch(turns=8)
    driver = bench.launch()
    for trial in driver.trials.values():
        read = EventAccumulator(str(bench.folder.root / "tensorboard" / trial.id)).Reload()
        assert [(event.step, event.value) for event in read.Scalars("ray/tune/objective")] == [(e, pytest.approx(v)) for e, v, *_ in trial.rungs]
        assert "_hparams_/session_start_info" in read.PluginTagToContent("hparams")


KILLED = """
import os, sys, time
from pathlib import Path
from sweep.folder import StudyFolder
from sweep.loggers import LoggedTrial, make_logger

folder = StudyFolder(sys.argv[2], "s")
logger, trial = make_logger(sys.argv[1], folder), LoggedTrial("t0000", {"rank": 8}, str(folder.here / "tensorboard" / "t0000"))
logger.log_trial_start(trial)
for epoch in (1, 3):
    logger.log_trial_result(0, trial, {"training_iteration": epoch, "objective": 1 / epoch})
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_launch_has_told_is_neither_lost_nor_doubled(name, tmp_path):
    folder = StudyFolder(tmp_path, "s")
    folder.here.mkdir()
    env = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}  # a launch of its own, not a part of this one's
    assert subprocess.run([sys.executable, "-c", KILLED, name, str(tmp_path)], cwd=ROOT, env=env).returncode == -9
    logger = logger_feed.make_logger(name, folder)
    assert not logger.has_ended("t0000")
    trial = LoggedTrial("t0000", {"rank": 8}, str(folder.here / "tensorboard" / "t0000"), {"state": COMPLETE, "epochs": 9})
    logger.log_trial_start(trial)
    for epoch in (1, 3, 9):  # a trial that is tried again hears all of its rungs
        logger.log_trial_result(0, trial, {"training_iteration": epoch, "objective": 1 / epoch})
    logger.log_trial_end(trial)
    scalars, states, _ = TOLD[name](SimpleNamespace(folder=folder))
    assert scalars["t0000", "objective"] == {epoch: [pytest.approx(1 / epoch)] for epoch in (1, 3, 9)} and states == {"t0000": COMPLETE}
    assert logger.has_ended("t0000") and logger_feed.make_logger(name, folder).has_ended("t0000")


class BrokenLogger:
    """Takes a start, and then nothing."""

    def has_ended(self, trial_id: str) -> bool:
        return False

    def log_trial_start(self, trial: Any) -> None:
        pass

    def log_trial_result(self, iteration: int, trial: Any, result: Mapping[str, Any]) -> None:
        raise ConnectionError("no route to host")


def test_a_logger_that_fails_is_said_once_and_neither_the_study_nor_the_others_end(tmp_path, monkeypatch, caplog):
    make = logger_feed.make_logger
    monkeypatch.setattr(logger_feed, "make_logger", lambda name, folder: BrokenLogger() if name == "wandb" else make(name, folder))
    bench = LoggedBench(a_study(samples=4), tmp_path, "wandb", "tensorboard")
    driver = bench.launch()
    assert {trial.state for trial in driver.trials.values()} <= {COMPLETE, PRUNED}
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the logger wandb has stopped (ConnectionError: no route to host). The study goes on, and the next launch tells it what it missed."]
    require_told(bench, driver, "tensorboard")


def test_a_logger_that_hangs_does_not_hold_the_end_of_a_launch(tmp_path, monkeypatch, caplog):
    never = threading.Event()
    monkeypatch.setattr(logger_feed, "PATIENCE_S", 0.05)
    monkeypatch.setattr(logger_feed, "make_logger", lambda name, folder: never.wait())
    try:
        assert LoggedBench(a_study(samples=2), tmp_path, "wandb").launch().finished
        assert ["has not taken all" in record.getMessage() for record in caplog.records] == [True]
    finally:
        never.set()


def test_a_launch_without_a_trial_leaves_nothing_behind(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    with Feeds(("tensorboard", "mlflow", "wandb"), folder) as feeds:
        feeds.start([])
    assert not folder.root.exists()
