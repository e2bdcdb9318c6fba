"""Processes that stop and answer nobody any more: it is said, they are replaced or done without, and a launch can always be ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sweep.clocks import LONGEST_GAP_S, AwakeClock
from sweep.driver import PROCESS_PATIENCE_S
from sweep.fleet import kill_process
from sweep.messages import Answer, Outcome, Sync
from sweep.pool import Pool
from sweep.progress import Progress
from sweep.records import TRIALS, Records, as_rows
from sweep.searcher import COMPLETE, PRUNED
from sweep.standing_orders import STUCK_AFTER_S
from sweep.worker_actor import WorkerIdentity
from tests.sweep.fakes import FakeClock, a_driver, a_trial
from tests.sweep.test_driver import Bench, listed_study
from tests.sweep.test_standing_orders import Case, case  # noqa: F401  the latter is a fixture
from trainables.activity import Phase

ROOT = Path(__file__).resolve().parents[2]


def test_a_clock_stands_still_while_its_process_does():
    time_itself = FakeClock()
    clock = AwakeClock(time_itself)
    for _ in range(10):
        time_itself.sleep(1.0)
        assert clock() == pytest.approx(time_itself.now)
    time_itself.sleep(3600.0)
    assert clock() == pytest.approx(10.0 + LONGEST_GAP_S)


@pytest.mark.parametrize(("off_by_s", "is_killed"), [(0.0, True), (1.0, True), (-1.0, True), (60.0, False)])
def test_a_worker_is_killed_also_where_the_time_of_day_was_set_and_another_process_of_its_number_is_not(off_by_s, is_killed):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        begun = psutil.Process(process.pid).create_time()
        kill_process(WorkerIdentity("cpu", "node", process.pid, begun + off_by_s))
        assert (process.wait(30) == -signal.SIGKILL) if is_killed else (process.poll() is None)
    finally:
        process.kill()
        process.wait()


def test_the_pool_says_for_how_long_a_worker_has_shown_no_progress_and_at_what():
    clock = FakeClock()
    pool = Pool(clock=clock)
    pool.sync("w", Sync(doing="loading libraries", phase=Phase.LOADING, ready=False))
    pool.sync("v", Sync(ready=False))
    clock.sleep(40)
    pool.note("w", "training, step 3 of 38", Phase.TRAINING)
    clock.sleep(30)
    snapshot = pool.snapshot()
    assert snapshot["silent_s"] == {"w": 30, "v": 70} and snapshot["phases"]["w"] is Phase.TRAINING
    assert snapshot["workers"]["w"] == "training, step 3 of 38"
    pool.worker_lost("w")
    pool.note("w", "training, step 4 of 38", Phase.TRAINING)  # it was stopped, and goes on: it is no worker any more
    assert "w" not in pool.snapshot()["silent_s"]


def test_a_study_that_ends_at_its_rungs_does_not_wait_for_a_worker_that_shows_no_progress(case):  # noqa: F811
    case.heard.urgency = 1
    case.obey()
    assert case.driver.live, "the rungs under way are waited for"
    for _ in range(20):
        case.obey(after_s=10.0)
    assert case.driver.live, "for as long as they take"
    case.silent_s = STUCK_AFTER_S
    case.obey()
    assert not case.driver.live and case.driver.stopping == "interrupted" and case.state == "interrupted"


def test_a_study_is_not_cut_off_because_a_worker_was_silent_before_it_was_asked_to_end(case):  # noqa: F811
    case.silent_s, case.heard.urgency = STUCK_AFTER_S, 1
    case.obey()
    case.silent_s = 0.0
    case.obey()
    assert case.driver.live


def test_a_trial_whose_process_keeps_its_answer_to_itself_is_judged_without_it():
    clock = FakeClock()
    driver, pool, worker = Bench(listed_study(), clock=clock).prepare()
    driver.fill()
    name = driver.next_to_run()
    driver.attend(name)
    for _ in range(10):
        worker.turn()
    answers = {name: pool.next_rung(name, 0)}
    assert answers[name].kind == "rung"
    driver.hear_unattended(answers)
    for _ in range(int(PROCESS_PATIENCE_S)):
        assert driver.trials[name].rungs == []
        clock.sleep(1.0)
        driver.hear_unattended(answers)
    assert [rung[0] for rung in driver.trials[name].rungs] == [answers[name].epoch]
    # Its process goes on, and says what is known by now: it has to leave.
    assert driver.hear(name, Answer("rung", answers[name].epoch, outcome=Outcome())) is False


def test_what_is_said_of_workers_is_said_once(capsys):
    from rich.console import Console

    driver = a_driver(a_trial(0))
    with Progress(Console(width=120), study="s") as view:
        for notices in ((), ("worker-0 is silent",), ("worker-0 is silent",), ("worker-0 is silent", "worker-0 goes on")):
            view.update(driver, {"notices": notices})
    said = capsys.readouterr().out
    assert said.count("worker-0 is silent") == said.count("worker-0 goes on") == 1


# ---- processes that are really stopped; each starts Ray

PROCESSES = {"worker": "ray::WorkerActor", "trial": "ray::RungTrial", "pool": "ray::PoolActor"}
PROGRAM = """
import sys
from pathlib import Path
from rich.console import Console
from sweep.keys import Keys
from sweep.progress import Progress
from sweep.runner import Launch, launch
from tests.sweep.fakes import FakeContent, FakeDeviceMaker
from tests.sweep.test_runner import a_study

study = a_study(samples=12)
with Progress(Console(width=300), study="s") as view:
    how = Launch(Path(sys.argv[1]), make_device=FakeDeviceMaker(epoch_s=0.5), keys=Keys(study, FakeContent()), view=view, max_concurrent=3,
                 lost_after_s=float(sys.argv[2]))
    driver, snapshot = launch(study, how)
print("ended", driver.stopping, snapshot["n_losses"], flush=True)
"""


class Launched:
    """A launch in a process group of its own, one of whose processes is stopped once something is scored."""

    def __init__(self, tmp_path, home, target: str, *, lost_after_s: float) -> None:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(lost_after_s)]
        environment = {**os.environ, "HOME": str(home)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines = []
        while "objective" not in "".join(self.lines):
            self.lines.append(self.process.stdout.readline())
        victim, deadline = None, time.monotonic() + 60
        while victim is None and time.monotonic() < deadline:
            victim = next((p for p in self.processes() if " ".join(p.cmdline()).startswith(PROCESSES[target])), None)
        victim.send_signal(signal.SIGSTOP)
        self.before = self.processes()

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                process.cmdline()
                found.append(process)
            except psutil.Error:
                continue
        return found

    def end(self, *, within_s: float) -> str:
        output, _ = self.process.communicate(timeout=within_s)
        _, left = psutil.wait_procs(self.before, timeout=10)
        for process in left:
            process.kill()
        assert not left
        return "".join(self.lines) + output


@pytest.mark.ray
def test_a_worker_that_is_stopped_for_good_is_replaced_and_the_study_ends_as_if_nothing_had_happened(tmp_path, ray_home):
    output = Launched(tmp_path, ray_home, "worker", lost_after_s=5.0).end(within_s=120)
    assert "showed no progress for" in output and "and is replaced" in output and "(raylet)" not in output
    assert output.splitlines()[-1].startswith("ended None")
    rows = as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)
    assert len(rows) == 12 and {row["state"] for row in rows} <= {COMPLETE, PRUNED}


@pytest.mark.ray
@pytest.mark.parametrize(("target", "number"), [("worker", signal.SIGINT), ("worker", signal.SIGTERM), ("trial", signal.SIGINT), ("pool", signal.SIGINT)])
def test_a_launch_ends_within_a_minute_of_being_asked_to_whatever_is_stopped(tmp_path, ray_home, target, number):
    launched = Launched(tmp_path, ray_home, target, lost_after_s=300.0)
    os.killpg(launched.process.pid, number)
    output = launched.end(within_s=60)
    assert output.splitlines()[-1].startswith("ended interrupted") and "Traceback" not in output
    assert {row["cause"] for row in as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)} <= {"interrupted", None}
