"""Studies whose processes are killed, one after the other, and what is left of them: `python -m tests.soak --kills 30`.

Each kill is of a study of its own, a grid over a device that only computes: it is launched in a process, its driver, worker or trial
process is killed at some moment, it is launched again if it has ended, and what it recorded is compared with the same study that nothing
has disturbed. Kills only what descends from the process that it has started itself."""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow.parquet as pq
from ray import tune

from analysis.load import load_study_records
from analysis.tables import ranked_trials
from sweep.driver import Driver, run_here
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.pool import Pool
from sweep.records import TRIALS, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import COMPLETE, RUNNING, Searcher
from sweep.study import Epochs, Study
from sweep.worker import Worker
from tests.sweep.fakes import OBJECTIVE, FakeContent, FakeDevice

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"driver": "", "worker": "ray::WorkerActor", "trial": "ray::ResourceTrainable"}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENTS = ("first seconds", "middle", "record")
LAUNCH_S = 180.0
"""The longest that a launch may take here."""
LINGER_S = 30.0
"""For how long its processes may outlive a driver that was killed."""
RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own processes may outlive a raylet that was killed for longer; they wait, and work for nobody."""
OUTAGE_S = 4.0
GRID = {"rank": tune.choice([4, 16]), "learning_rate": tune.choice([1e-4, 1e-3]), "guidance": tune.choice([2.0, 4.0])}


def a_study() -> Study:
    fixed = {"images_per_prompt": 1}
    return Study(name="s", space=GRID, sampler="grid", fixed=fixed, epochs=Epochs(max=6, rungs=(1, 3)), objective=OBJECTIVE)


# -- one launch, in a process of its own ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceMaker:
    """Makes a device in a worker's process, and lets what that process writes be watched and hindered."""

    marks: Path

    def __call__(self, spec: Any) -> FakeDevice:
        watch_writes(self.marks)
        spec.adapters.mkdir(parents=True, exist_ok=True)
        return FakeDevice(n_slots=4, n_image_sets=4, epoch_s=0.25, folder=spec.adapters)


def watch_writes(marks: Path) -> None:
    """From now on, where `marks` has `slow`, a record lies under its temporary name for a moment, and `marks` has a file with this
    process's number for so long. While it has `outage`, no record can be written."""
    replace = os.replace

    def watched(source: Any, target: Any) -> None:
        if str(target).endswith(".parquet") and (marks / "outage").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        if str(target).endswith(".parquet") and (marks / "slow").exists():
            (marks / str(os.getpid())).touch()
            time.sleep(0.2)
            (marks / str(os.getpid())).unlink()
        replace(source, target)

    os.replace = watched


def launch_here(storage: Path) -> None:
    from sweep.runner import Launch, launch

    watch_writes(storage / "marks")
    study = a_study()
    launch(study, Launch(storage, make_device=DeviceMaker(storage / "marks"), keys=Keys(study, FakeContent()), max_concurrent=4))


class Launched:
    """A launch in a process of its own, and the processes that it has started."""

    def __init__(self, storage: Path) -> None:
        environment = {**os.environ, "HOME": str(storage / "home"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.soak", "--launch", str(storage)]
        with open(storage / "output.txt", "a") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        self._seen: dict[int, psutil.Process] = {}
        self._sessions: set[str] = set()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def find(self, target: str) -> psutil.Process | None:
        """The driver's, a worker's or a trial's process, once it is there."""
        if target == "driver":
            return psutil.Process(self._process.pid)
        return next((p for p in self.look() if _command_of(p).startswith(TARGETS[target])), None)

    def look(self) -> list[psutil.Process]:
        """All that it has started so far and that live."""
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                self._seen[process.pid] = process
                logs = [word for word in _command_of(process).split() if word.startswith("--log_dir=/tmp/sweep-ray-")]
                self._sessions |= {"/".join(word.removeprefix("--log_dir=").split("/")[:3]) for word in logs}
        return [process for process in self._seen.values() if _lives(process)]

    def wait(self, until: Callable[[], Any], what: str) -> Any:
        """What `until` gives once it gives something. Raises: TimeoutError where that takes too long, or the launch has ended before."""
        deadline = time.monotonic() + LAUNCH_S
        while not (found := until()):
            self.look()
            if time.monotonic() > deadline or (self.has_ended and not until()):
                raise TimeoutError(f"waited for {what} in vain")
            time.sleep(0.02)
        return found

    def end(self) -> list[str]:
        """Waits for its end; says what of its processes still was there LINGER_S later. They are killed, by their ids."""
        self.wait(lambda: self.has_ended, "the end of the launch")
        deadline = time.monotonic() + LINGER_S
        while (left := [p for p in self.look() if not _command_of(p).startswith(RAYS_OWN)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = [_command_of(process)[:60] for process in left]
        self.kill()
        for session in self._sessions:
            shutil.rmtree(session, ignore_errors=True)
        return [f"{len(names)} processes outlived the launch by {LINGER_S:g} s: {', '.join(names)}"] if names else []

    def kill(self) -> None:
        """End it and all that it has started."""
        left = self.look()
        if not self.has_ended:
            self._process.kill()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def _command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- one kill ------------------------------------------------------------------------------------------------------------


def kill(storage: Path, target: str, number: signal.Signals, moment: str, *, after: int = 6) -> list[str]:
    """Launch the study, kill, launch it to its end. Returns what is wrong with it then. `after`: image sets that a middle has behind it."""
    (storage / "marks").mkdir(parents=True)
    launched, problems = Launched(storage), []
    try:
        _send(launched, target, _at(launched, storage, target, moment, after), number)
        if target == "driver":
            launched.wait(lambda: launched.has_ended, "the end of the driver")
        before = raw_records(storage)
        (storage / "marks" / "slow").unlink(missing_ok=True)
        problems += launched.end()
        if target == "driver":
            problems += _still_running(storage) if number != signal.SIGKILL else []
            launched = Launched(storage)
            problems += launched.end()
        problems += differences(storage, before)
    except TimeoutError as error:
        problems.append(str(error))
    finally:
        launched.kill()
    return problems


def outage(storage: Path) -> list[str]:
    """Launch the study, and let its storage refuse all records for OUTAGE_S. Returns what is wrong with it at its end."""
    (storage / "marks").mkdir(parents=True)
    launched = Launched(storage)
    try:
        launched.wait(lambda: len(raw_records(storage)["evaluations"]) >= 6, "6 image sets")
        (storage / "marks" / "outage").touch()
        before = raw_records(storage)
        time.sleep(OUTAGE_S)
        (storage / "marks" / "outage").unlink()
        return [*launched.end(), *differences(storage, before)]
    except TimeoutError as error:
        return [str(error)]
    finally:
        launched.kill()


def _at(launched: Launched, storage: Path, target: str, moment: str, after: int) -> psutil.Process:
    """The target's process, when the moment has come."""
    if moment == "first seconds":
        victim = launched.wait(lambda: launched.find(target), f"a {target}")
        time.sleep(2.0 if target == "driver" else 0.2)
        return victim
    launched.wait(lambda: len(raw_records(storage)["evaluations"]) >= after, f"{after} image sets")
    victim = launched.wait(lambda: launched.find(target), f"a {target}")
    if moment == "record":
        (storage / "marks" / "slow").touch()
        writer = str(victim.pid) if target != "trial" else "[0-9]*"  # a trial's process writes none: then while another does
        launched.wait(lambda: list((storage / "marks").glob(writer)), "a record that is being written")
    return victim


def _send(launched: Launched, target: str, victim: psutil.Process, number: signal.Signals) -> None:
    """Signal it; another one of its kind, where it has ended by itself meanwhile, as a trial's process does."""
    while True:
        try:
            victim.send_signal(number)
            return
        except psutil.NoSuchProcess:
            victim = launched.wait(lambda: launched.find(target), f"another {target}")


# -- what must hold ------------------------------------------------------------------------------------------------------


def raw_records(storage: Path) -> dict[str, list[tuple]]:
    """The keys of all rows on disk, part by part, as they are."""
    keys = {"trials": ("trial", "sequence"), "evaluations": ("evaluation_key",)}
    found: dict[str, list[tuple]] = {name: [] for name in keys}
    for name, columns in keys.items():
        for part in (storage / "s" / "records" / name).glob("[!.]*.parquet"):
            with suppress(FileNotFoundError):  # compacted meanwhile
                found[name] += [tuple(row.values()) for row in pq.read_table(part, columns=list(columns)).to_pylist()]
    return found


def _still_running(storage: Path) -> list[str]:
    """A launch that could say how its trials ended has said so."""
    rows = as_rows(Records(storage / "s").latest_trials(), TRIALS) if (storage / "s").exists() else []
    running = [row["trial"] for row in rows if row["state"] == RUNNING]
    return [f"{', '.join(running)} are RUNNING after the launch was asked to end"] if running else []


def differences(storage: Path, before: dict[str, list[tuple]]) -> Iterator[str]:
    """In what a finished study differs from one that nothing has disturbed. `before`: its raw records right after the kill."""
    now, whole = raw_records(storage), undisturbed()
    for name, keys in now.items():
        if lost := set(before[name]) - set(keys):
            yield f"{len(lost)} {name} are lost"
        if doubled := [key for key, n in Counter(keys).items() if n > 1]:
            yield f"{len(doubled)} {name} are there twice"
    rows = {row["trial"]: row for row in as_rows(Records(storage / "s").latest_trials(), TRIALS)}
    states = {name: row["state"] for name, row in rows.items()}
    if set(states.values()) != {COMPLETE} or len(states) != a_study().n_trials:
        yield f"trials are {dict(Counter(states.values()))} of {a_study().n_trials}"
    if (in_optuna := _states_in_optuna(storage)) != [states[name] for name in sorted(states)]:
        yield f"Optuna has {dict(Counter(in_optuna))}"
    if {name: row["rung_values"] for name, row in rows.items()} != whole.rungs:
        yield "rungs are others"
    if {key for (key,) in now["evaluations"]} != whole.evaluations:
        yield "image sets are others"
    try:
        pd.testing.assert_frame_equal(_table(storage), whole.table)
    except AssertionError as error:
        yield f"the table is another: {' '.join(str(error).split())[:200]}"


@dataclass(frozen=True)
class Undisturbed:
    rungs: dict[str, list]
    evaluations: set[str]
    table: pd.DataFrame


def undisturbed(_known: list[Undisturbed] = []) -> Undisturbed:  # noqa: B006  computed once
    """What the study gives in this process, without Ray."""
    if not _known:
        with tempfile.TemporaryDirectory() as folder:
            storage = Path(folder)
            _run_in_this_process(storage)
            rows = as_rows(Records(storage / "s").latest_trials(), TRIALS)
            evaluations = {key for (key,) in raw_records(storage)["evaluations"]}
            _known.append(Undisturbed({row["trial"]: row["rung_values"] for row in rows}, evaluations, _table(storage)))
    return _known[0]


def _run_in_this_process(storage: Path) -> None:
    study, folder = a_study(), StudyFolder(storage, "s")
    folder.adapters.mkdir(parents=True)
    folder.write_study(study, {})
    records, pool = Records(folder.root), Pool()
    asha = Asha(study.rungs, study.reduction_factor)
    driver = Driver(study, Keys(study, FakeContent()), Searcher(study, journal=folder.journal), asha, pool, records, max_concurrent=4)
    worker = Worker("w", pool, FakeDevice(folder=folder.adapters), records, objective=study.objective, sleep=lambda seconds: None)
    run_here(driver, pool, worker.turn)


def _table(storage: Path) -> pd.DataFrame:
    """What `analysis tables` shows, without what depends on when something was done."""
    return ranked_trials(load_study_records("s", storage)).drop(columns=["seconds_generate", "seconds_score"], errors="ignore")


def _states_in_optuna(storage: Path) -> list[str]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(StudyFolder(storage, "s").journal))
    return [trial.state.name for trial in optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend)).trials]


# -- all of them ---------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--first", type=int, default=1, help="begin with this one")
    parser.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.launch is not None:
        launch_here(arguments.launch)
        return 0
    every = list(itertools.product(TARGETS, SIGNALS, MOMENTS))
    n_bad = 0
    for i in range(arguments.first - 1, arguments.kills + 1):
        started = time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            storage = Path(folder) / "storage"
            if i < arguments.kills:
                target, number, moment = every[i % len(every)]
                what = f"{i + 1:3}  {target:6}  {number.name}  {moment:13}"
                problems = kill(storage, target, number, moment, after=6 + 5 * (i // len(every)))
            else:
                what, problems = f"     no record can be written for {OUTAGE_S:g} s", outage(storage)
            n_bad += bool(problems)
            print(f"{what}  {time.monotonic() - started:5.1f} s  {'; '.join(problems) or 'as if nothing had happened'}", flush=True)
            if problems:
                print((storage / "output.txt").read_text()[-2000:], flush=True)
    print(f"{arguments.kills - arguments.first + 1} kills and an outage, {n_bad} with something wrong", flush=True)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
