"""Studies through a real Ray and Ray Tune, with a device that only computes. Each of them starts Ray: half a minute."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest

from sweep.control import AT_RUNGS, ask
from sweep.errors import ModelError, StudyError, SweepError
from sweep.folder import StudyFolder
from sweep.launches import read_launches
from sweep.records import EVALUATIONS, TRIALS, Records, as_rows
from sweep.searcher import COMPLETE, PRUNED
from sweep.study import Epochs, Study
from sweep.trial_rows import trial_of_row
from tests.sweep.fakes import OBJECTIVE, SPACE, FakeContent, FakeDeviceMaker
from tests.sweep.logged import tensorboard_scalars

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(ray_home, monkeypatch):
    monkeypatch.setenv("HOME", str(ray_home))


def a_study(**changes) -> Study:
    return Study(**{"name": "s", "space": SPACE, "samples": 10, "epochs": Epochs(max=6, rungs=(1, 3)), "objective": OBJECTIVE, **changes})


def test_a_study_ends_with_every_trial_ended_and_survives_the_loss_of_its_worker(tmp_path):
    from sweep.keys import Keys
    from sweep.runner import Launch, launch

    study = a_study(loggers=("tensorboard",))
    make_device = FakeDeviceMaker(epoch_s=0.02, dies_at=tmp_path / "died")
    driver, snapshot = launch(study, Launch(tmp_path, make_device=make_device, keys=Keys(study, FakeContent()), max_concurrent=3))
    assert (tmp_path / "died").exists()
    assert {trial.state for trial in driver.trials.values()} <= {COMPLETE, PRUNED} and len(driver.trials) == 10
    rows = as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)
    assert {row["trial"]: row["objective"] for row in rows} == {trial.id: trial.objective for trial in driver.trials.values()}
    keys = {row["evaluation_key"] for row in as_rows(Records(tmp_path / "s").evaluations(), EVALUATIONS)}
    assert {rung[2] for trial in driver.trials.values() for rung in trial.rungs} <= keys
    assert snapshot["requests_open"] == 0
    scalars = tensorboard_scalars(tmp_path / "s" / "tensorboard")
    for trial in driver.trials.values():
        assert scalars[trial.id, "objective"] == {epoch: [pytest.approx(value)] for epoch, value, *_ in trial.rungs}
        assert set(scalars[trial.id, "lpips"]) == set(scalars[trial.id, "train_loss"]) == {epoch for epoch, *_ in trial.rungs}

    again, _ = launch(a_study(samples=11), Launch(tmp_path, make_device=FakeDeviceMaker(), keys=Keys(study, FakeContent())))
    assert again.started_now == {"t0010"} and len(again.trials) == 11


PROGRAM = """
import sys
from contextlib import nullcontext
from pathlib import Path
from sweep.errors import SweepError
from sweep.keys import Keys
from sweep.runner import Launch, launch
from tests.sweep.fakes import FakeContent, FakeDeviceMaker
from tests.sweep.test_runner import a_study

class View:
    def phase(self, text): pass
    def during(self, folder, launch): return nullcontext()
    def update(self, driver, snapshot):
        if any(trial.rungs for trial in driver.trials.values()): print("scored", flush=True)

study = a_study(samples=12)
how = Launch(Path(sys.argv[1]), make_device=FakeDeviceMaker(epoch_s=float(sys.argv[2])), keys=Keys(study, FakeContent()), view=View(), max_concurrent=2)
try:
    driver, _ = launch(study, how)
except SweepError as error:
    sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
print("stopping", driver.stopping, flush=True)
"""


def started(tmp_path, *, epoch_s: float) -> subprocess.Popen:
    """A launch in a process group of its own, once it has scored something."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(epoch_s)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline().strip() == "scored"
    return process


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_launch_whose_ray_was_killed_says_so_and_the_next_one_goes_on(tmp_path, name):
    from sweep.keys import Keys
    from sweep.runner import Launch, launch

    process = started(tmp_path, epoch_s=0.5)
    below = psutil.Process(process.pid).children(recursive=True)
    [one.kill() for one in below if one.name() == name]
    out, err = process.communicate(timeout=90)
    assert process.returncode == 2 and "Traceback" not in out + err
    said = f"error: A study needs its Ray until it has ended, but Ray's {name} was killed. Launch the study again: it goes on."
    assert err.strip().splitlines()[-1] == said
    until(lambda: not any(one.is_running() for one in below))

    study = a_study(samples=12)
    driver, _ = launch(study, Launch(tmp_path, make_device=FakeDeviceMaker(), keys=Keys(study, FakeContent())))
    assert {trial.state for trial in driver.trials.values()} <= {COMPLETE, PRUNED} and len(driver.trials) == 12


def until(condition, *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_study_is_paused_resumed_limited_and_stopped_through_its_folder(tmp_path):
    process, folder = started(tmp_path, epoch_s=0.1), StudyFolder(tmp_path, "s")
    state = lambda: read_launches(folder.launches).entries[-1].state  # noqa: E731
    rows = lambda: as_rows(Records(folder.root).trials(), TRIALS)  # noqa: E731
    with pytest.raises(StudyError, match="s is in use by process .* --name s-2"), folder.held():
        pass
    ask(folder, paused=True)
    until(lambda: state() == "paused")
    time.sleep(3)  # the rungs under way
    n_rows = len(rows())
    time.sleep(2)
    assert len(rows()) == n_rows and process.poll() is None
    ask(folder, paused=False, limits={"samples": 200})
    until(lambda: len(rows()) > n_rows and folder.read_description()["samples"] == 200)
    ask(folder, stop=AT_RUNGS)
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "stopping interrupted by `sweep stop`" == f"stopping {state()}" and folder.holder is None
    latest = as_rows(Records(folder.root).latest_trials(), TRIALS)
    assert {row["reason"] for row in latest if row["state"] == "FAIL"} == {"interrupted by `sweep stop`"}
    assert {row["state"] for row in latest} <= {COMPLETE, PRUNED, "FAIL"}
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.journal)))
    assert "RUNNING" not in {trial.state.name for trial in optuna.load_study(study_name="s", storage=storage).trials}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_every_trial_and_say_so(tmp_path, number):
    process = started(tmp_path, epoch_s=0.5)
    sent_at = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does, and timeout, and Slurm: to the whole group
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "stopping interrupted" and time.monotonic() - sent_at < 40
    rows = as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)
    assert rows and all(row["state"] != "RUNNING" for row in rows)
    assert {row["reason"] for row in rows if row["state"] == "FAIL"} == {"interrupted"}


@dataclasses.dataclass(frozen=True)
class DyingMaker:
    """Makes no device: every worker ends while it opens its own."""

    def __call__(self, spec):
        os._exit(3)


@dataclasses.dataclass(frozen=True)
class DamagedMaker:
    def __call__(self, spec):
        raise ModelError("A model must be whole, but embedded:base is not. Install it again.")


@pytest.mark.parametrize(("make_device", "message"), [(DyingMaker(), "all are left out.*lost 3 workers in a row.*Launch it again"), (DamagedMaker(), "must be whole")])
def test_a_study_whose_devices_all_fail_ends_in_one_line_and_can_be_launched_again(tmp_path, monkeypatch, make_device, message):
    from sweep import fleet
    from sweep.keys import Keys
    from sweep.runner import Launch, launch

    monkeypatch.setattr(fleet, "FIRST_WAIT_S", 0.1)
    study = a_study(samples=2)
    with pytest.raises(SweepError, match=message):
        launch(study, Launch(tmp_path, make_device=make_device, keys=Keys(study, FakeContent())))
    rows = as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)
    assert rows and all(row["reason"].startswith("interrupted") for row in rows)
    assert {trial_of_row(row).state for row in rows} == {"RUNNING"}, "a relaunch tries them again"
