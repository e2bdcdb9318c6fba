"""Studies that faults happen to, one after the other, and what is left of them: `python -m
tests.soak --faults 40`.

Each fault happens to a study of its own, a grid over a device that only computes. The study is
launched in a process; then its driver, a worker, the pool or a trial's process is killed or stopped
for a while, its disk is full, its memory is short, its journal or its storage refuses. It is
launched again where it has ended, and what it recorded is compared with the same study that nothing
has disturbed: nothing lost, nothing twice, no launch beyond its bound, and what a person reads of
it is one line. Touches only processes that it has started."""

from __future__ import annotations

import argparse
import errno
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow.parquet as pq
from ray import tune

from analysis.load import load_study_records
from analysis.tables import ranked_trials
from sweep.causes import Cause
from sweep.driver import Driver, run_here
from sweep.errors import SweepError
from sweep.folder import StudyFolder
from sweep.interrupting import sigterm_interrupts
from sweep.keys import Keys
from sweep.memory import THRESHOLD_SETTING
from sweep.pool import Pool
from sweep.records import TRIALS, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import COMPLETE, FAIL, RUNNING, Searcher
from sweep.study import Epochs, Study
from sweep.worker import Worker
from tests.sweep.fakes import OBJECTIVE, FakeContent, FakeDevice
from trainables.leases import STALE_S

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {
    "driver": "",
    "worker": "ray::WorkerActor",
    "pool": "ray::PoolActor",
    "trial": "ray::ResourceTrainable",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENTS = ("first seconds", "middle", "record")
LAUNCH_S = 240.0
"""The longest that a launch may take here, from its begin or from the end of its fault."""
LOST_AFTER_S = 30.0
"""--lost-after of the launches."""
LINGER_S = 30.0
"""For how long its processes may outlive a driver that was killed."""
RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own processes may outlive a raylet that was killed for longer; they wait, and work for
nobody."""
OUTAGE_S = 4.0
SHORT_S = 20.0
"""How long memory is short."""
DISK_MB = 24
RAY_TRIES = 3
"""How often a fault may begin anew because Ray did not start in time on a busy machine."""
MENDABLE, INTERRUPTED = 2, 130  # exit codes
NO_RAY = "Ray must be able to start on this machine"
GRID = {
    "rank": tune.choice([4, 16]),
    "learning_rate": tune.choice([1e-4, 1e-3]),
    "guidance": tune.choice([2.0, 4.0]),
}


def a_study() -> Study:
    fixed = {"images_per_prompt": 1}
    return Study(
        name="s",
        space=GRID,
        sampler="grid",
        fixed=fixed,
        epochs=Epochs(max=6, rungs=(1, 3)),
        objective=OBJECTIVE,
    )


# -- one launch, in a process of its own ------------------------------------------------------


@dataclass(frozen=True)
class DeviceMaker:
    """Makes a device in a worker's process, and lets what that process writes be watched and
    hindered."""

    marks: Path

    def __call__(self, spec: Any) -> FakeDevice:
        watch_writes(self.marks)
        spec.adapters.mkdir(parents=True, exist_ok=True)
        return FakeDevice(n_slots=4, n_image_sets=4, epoch_s=0.25, folder=spec.adapters)


def watch_writes(marks: Path) -> None:
    """From now on, where `marks` has `slow`, a record lies under its temporary name for a moment,
    and `marks` has a file with this process's number for so long. While it has `outage`, no record
    can be written."""
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


def lower_threshold(marks: Path) -> None:
    """From now on the machine counts as short of memory while `marks` has `short`: the threshold is
    below what is in use."""

    def follow() -> None:
        while True:
            if (marks / "short").exists():
                os.environ[THRESHOLD_SETTING] = "0.0001"
            else:
                os.environ.pop(THRESHOLD_SETTING, None)
            time.sleep(0.1)

    threading.Thread(target=follow, daemon=True).start()


def launch_here(storage: Path) -> int:
    """As `sweep launch` does it, with a device and content that only compute; returns the exit
    code."""
    # Of a soak in the background of a shell, it inherits that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with sigterm_interrupts():
            begun_mark(storage, os.getpid()).touch()
            return _launch_here(storage)
    except SweepError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return MENDABLE
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED


def _launch_here(storage: Path) -> int:
    from sweep.launch_commands import _exit_code
    from sweep.options import console
    from sweep.progress import Progress
    from sweep.runner import Launch, launch

    marks = marks_of(storage)
    watch_writes(marks)
    lower_threshold(marks)
    study = a_study()
    keys, make_device = Keys(study, FakeContent()), DeviceMaker(marks)
    with Progress(console(), study=study.name) as view:
        how = Launch(
            storage,
            make_device=make_device,
            keys=keys,
            max_concurrent=4,
            lost_after_s=LOST_AFTER_S,
            view=view,
        )
        driver, snapshot = launch(study, how)
    return _exit_code(driver, snapshot)


def begun_mark(storage: Path, pid: int) -> Path:
    """There once a launch's process has imported this module and obeys signals as `sweep` does."""
    return marks_of(storage) / f"begun-{pid}"


def marks_of(storage: Path) -> Path:
    """Beside the storage, whose disk may be full."""
    return storage.with_name("marks")


class Launched:
    """A launch in a process of its own, and the processes that it has started."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        marks_of(storage).mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HOME": str(storage.with_name("home")), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.soak", "--launch", str(storage)]
        self.output = Path(tempfile.mkstemp(prefix="output-", suffix=".txt", dir=storage.parent)[1])
        with open(self.output, "w") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        self._seen: dict[int, psutil.Process] = {}
        self._sessions: set[str] = set()

    @property
    def has_begun(self) -> bool:
        return begun_mark(self._storage, self._process.pid).exists()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def said(self, *codes: int) -> Iterator[str]:
        """What is wrong with its exit code, which must be one of these, and with what a person has
        read of it."""
        text, code = self.output.read_text(), self._process.returncode
        if code not in codes:
            yield f"it ended with {code} instead of {' or '.join(map(str, codes))}"
        if "Traceback" in text:
            yield "it printed a traceback"
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        if code in (0, MENDABLE) and len(errors) != (code == MENDABLE):
            yield f"it printed {len(errors)} lines of error and ended with {code}"

    def find(self, target: str) -> psutil.Process | None:
        """The process of the driver, a worker, the pool or a trial, once it is there."""
        if target == "driver":
            return psutil.Process(self._process.pid)
        return next((p for p in self.look() if _command_of(p).startswith(TARGETS[target])), None)

    def look(self) -> list[psutil.Process]:
        """All that it has started so far and that live."""
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                self._seen[process.pid] = process
                logs = [
                    word
                    for word in _command_of(process).split()
                    if word.startswith("--log_dir=/tmp/sweep-ray-")
                ]
                self._sessions |= {
                    "/".join(word.removeprefix("--log_dir=").split("/")[:3]) for word in logs
                }
        return [process for process in self._seen.values() if _lives(process)]

    def wait(self, until: Callable[[], Any], what: str) -> Any:
        """What `until` gives once it gives something.

        Raises:
            RayTooSlow: Ray did not start in time, so the launch has ended.
            TimeoutError: it takes too long, or the launch has ended before."""
        deadline = time.monotonic() + LAUNCH_S
        while not (found := until()):
            self.look()
            if time.monotonic() > deadline or (self.has_ended and not until()):
                self._require_ray()
                raise TimeoutError(f"waited for {what} in vain")
            time.sleep(0.02)
        return found

    def _require_ray(self) -> None:
        if self.has_ended and NO_RAY in self.output.read_text():
            raise RayTooSlow

    def end(self) -> list[str]:
        """Waits for its end; says what of its processes still was there LINGER_S later. They are
        killed, by their ids.

        Raises:
            RayTooSlow: it has ended because Ray did not start in time."""
        self.wait(lambda: self.has_ended, "the end of the launch")
        self._require_ray()
        deadline = time.monotonic() + LINGER_S
        while (
            left := [p for p in self.look() if not _command_of(p).startswith(RAYS_OWN)]
        ) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = [_command_of(process)[:60] for process in left]
        self.kill()
        for session in self._sessions:
            shutil.rmtree(session, ignore_errors=True)
        return (
            [f"{len(names)} processes outlived the launch by {LINGER_S:g} s: {', '.join(names)}"]
            if names
            else []
        )

    def kill(self) -> None:
        """End it and all that it has started."""
        left = self.look()
        if not self.has_ended:
            self._process.kill()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


class RayTooSlow(Exception):
    """Ray did not start in time, which a busy machine is to blame for."""


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


# -- one fault --------------------------------------------------------------------------------


def kill(
    storage: Path, target: str, number: signal.Signals, moment: str, *, after: int = 6
) -> Iterator[str]:
    """Launch the study, kill, launch it to its end. Gives what is wrong with it then. `after`:
    image sets that a middle has behind it."""
    with launched_in(storage) as launched:
        _send(launched, target, _at(launched, storage, target, moment, after), number)
        if target == "driver":
            launched.wait(lambda: launched.has_ended, "the end of the driver")
        before = raw_records(storage)
        (marks_of(storage) / "slow").unlink(missing_ok=True)
        yield from launched.end()
        if target == "driver":
            yield from launched.said(-number if number == signal.SIGKILL else INTERRUPTED)
            yield from _still_running(storage) if number != signal.SIGKILL else []
            yield from _ends_well(storage)
        elif target == "pool":
            yield from launched.said(MENDABLE)
            yield from _ends_well(storage)
        else:
            yield from launched.said(0)
        yield from differences(storage, before)


def stop(storage: Path, target: str, seconds: float, *, after: int = 6) -> Iterator[str]:
    """Stop a process for so long, or without end, as a hung GPU or file system does. A driver is
    then replaced by another launch, if that is allowed meanwhile, and must leave the study alone
    when it wakes up."""
    with launched_in(storage) as launched:
        victim = _at(launched, storage, target, "middle", after)
        victim.send_signal(signal.SIGSTOP)
        before, stopped_at = raw_records(storage), time.monotonic()
        if target == "driver" and seconds > STALE_S:
            _sleep_until(stopped_at + STALE_S + 1)
            yield from _ends_well(storage)
            whole = raw_records(storage)
            if math.isfinite(seconds):
                _sleep_until(stopped_at + seconds)
                victim.send_signal(signal.SIGCONT)
                yield from launched.end()
                yield from launched.said(MENDABLE)
                if raw_records(storage) != whole:
                    yield "the launch that was replaced has written rows"
        else:
            limit = min(seconds, LAUNCH_S)
            while time.monotonic() < stopped_at + limit and not launched.has_ended:
                launched.look()
                time.sleep(0.1)
            if math.isfinite(seconds):
                with suppress(psutil.NoSuchProcess):  # it was replaced meanwhile
                    victim.send_signal(signal.SIGCONT)
            yield from launched.end()
            is_lost = target == "pool" and seconds > LOST_AFTER_S
            yield from launched.said(MENDABLE if is_lost else 0)
            if is_lost:
                yield from _ends_well(storage)
        yield from differences(storage, before)


def outage(storage: Path) -> Iterator[str]:
    """The storage refuses all records for OUTAGE_S."""
    with launched_in(storage) as launched:
        _wait_for(launched, storage, 6)
        (marks_of(storage) / "outage").touch()
        before = raw_records(storage)
        time.sleep(OUTAGE_S)
        (marks_of(storage) / "outage").unlink()
        yield from (*launched.end(), *launched.said(0), *differences(storage, before))


def full_disk(storage: Path, *, after: int = 6) -> Iterator[str]:
    """The disk is full from some moment on; room is made when the launch has ended, and it is
    launched again.

    Raises: Skipped where no disk of its own can be mounted."""
    with small_disk(storage), launched_in(storage) as launched:
        _wait_for(launched, storage, after)
        before = raw_records(storage)
        ballast = storage / "ballast"
        with open(ballast, "wb", buffering=0) as file, suppress(OSError):
            while file.write(b"0" * 4096):
                pass
        yield from launched.end()
        yield from launched.said(MENDABLE)
        if "free" not in launched.output.read_text():
            yield "it does not say what is free"
        ballast.unlink()
        failed = [
            row["trial"]
            for row in _trials(storage)
            if row["state"] == FAIL and row["cause"] == Cause.CONFIGURATION
        ]
        if failed:
            yield f"{', '.join(failed)} count as failed"
        yield from _ends_well(storage)
        yield from differences(storage, before)


def short_memory(storage: Path, *, after: int = 6) -> Iterator[str]:
    """The machine is short of memory for SHORT_S."""
    with launched_in(storage) as launched:
        _wait_for(launched, storage, after)
        before = raw_records(storage)
        (marks_of(storage) / "short").touch()
        time.sleep(SHORT_S)
        (marks_of(storage) / "short").unlink()
        yield from launched.end()
        yield from launched.said(0)
        if "short of memory" not in launched.output.read_text():
            yield "it does not say that memory was short"
        yield from differences(storage, before)


def refusing_journal(storage: Path, *, after: int = 6) -> Iterator[str]:
    """A folder lies in the place of Optuna's journal for a while."""
    with launched_in(storage) as launched:
        _wait_for(launched, storage, after)
        before, journal = raw_records(storage), StudyFolder(storage, "s").journal
        journal.unlink()
        journal.mkdir()
        launched.wait(
            lambda: "cannot be written" in launched.output.read_text(), "a line on the journal"
        )
        journal.rmdir()
        yield from launched.end()
        yield from launched.said(0)
        if launched.output.read_text().count("cannot be written") != 1:
            yield "the journal is said more than once"
        yield from differences(
            storage, before, journal=False
        )  # whether it was written again depends on when the study ended


class Skipped(Exception):
    """A fault that this machine does not permit."""


@contextmanager
def launched_in(storage: Path) -> Iterator[Launched]:
    """The first launch of the study; whatever happens, nothing of it is left."""
    launched = Launched(storage)
    try:
        yield launched
    finally:
        launched.kill()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        raise Skipped(f"no disk can be mounted here: {' '.join(mounted.stderr.split())}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _ends_well(storage: Path) -> Iterator[str]:
    """Another launch of the study, to its end."""
    with launched_in(storage) as again:
        yield from again.end()
        yield from again.said(0)


def _wait_for(launched: Launched, storage: Path, n_image_sets: int) -> None:
    launched.wait(
        lambda: len(raw_records(storage)["evaluations"]) >= n_image_sets,
        f"{n_image_sets} image sets",
    )


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _at(launched: Launched, storage: Path, target: str, moment: str, after: int) -> psutil.Process:
    """The target's process, when the moment has come."""
    if moment == "first seconds":
        launched.wait(lambda: launched.has_begun, "the begin of the launch")
        victim = launched.wait(lambda: launched.find(target), f"a {target}")
        time.sleep(2.0 if target == "driver" else 0.2)
        return victim
    _wait_for(launched, storage, after)
    victim = launched.wait(lambda: launched.find(target), f"a {target}")
    if moment == "record":
        (marks_of(storage) / "slow").touch()
        writer = (
            str(victim.pid) if target != "trial" else "[0-9]*"
        )  # a trial's process writes none: then while another does
        launched.wait(
            lambda: list(marks_of(storage).glob(writer)), "a record that is being written"
        )
    return victim


def _send(launched: Launched, target: str, victim: psutil.Process, number: signal.Signals) -> None:
    """Signal it; another one of its kind, where it has ended by itself meanwhile, as a trial's
    process does."""
    while True:
        try:
            victim.send_signal(number)
            return
        except psutil.NoSuchProcess:
            victim = launched.wait(lambda: launched.find(target), f"another {target}")


# -- what must hold ---------------------------------------------------------------------------


def raw_records(storage: Path) -> dict[str, list[tuple]]:
    """The keys of all rows on disk, part by part, as they are."""
    keys = {"trials": ("trial", "sequence"), "evaluations": ("evaluation_key",)}
    found: dict[str, list[tuple]] = {name: [] for name in keys}
    for name, columns in keys.items():
        for part in (storage / "s" / "records" / name).glob("[!.]*.parquet"):
            with suppress(FileNotFoundError):  # compacted meanwhile
                found[name] += [
                    tuple(row.values())
                    for row in pq.read_table(part, columns=list(columns)).to_pylist()
                ]
    return found


def _still_running(storage: Path) -> list[str]:
    """A launch that could say how its trials ended has said so."""
    running = [row["trial"] for row in _trials(storage) if row["state"] == RUNNING]
    return (
        [f"{', '.join(running)} are RUNNING after the launch was asked to end"] if running else []
    )


def _trials(storage: Path) -> list[dict[str, Any]]:
    return (
        as_rows(Records(storage / "s").latest_trials(), TRIALS) if (storage / "s").exists() else []
    )


def differences(
    storage: Path, before: dict[str, list[tuple]], *, journal: bool = True
) -> Iterator[str]:
    """In what a finished study differs from one that nothing has disturbed. `before`: its raw
    records right after the fault."""
    now, whole = raw_records(storage), undisturbed()
    for name, keys in now.items():
        if lost := set(before[name]) - set(keys):
            yield f"{len(lost)} {name} are lost"
        if doubled := [key for key, n in Counter(keys).items() if n > 1]:
            yield f"{len(doubled)} {name} are there twice"
    rows = {row["trial"]: row for row in _trials(storage)}
    states = {name: row["state"] for name, row in rows.items()}
    if set(states.values()) != {COMPLETE} or len(states) != a_study().n_trials:
        yield f"trials are {dict(Counter(states.values()))} of {a_study().n_trials}"
    if journal and (in_optuna := _states_in_optuna(storage)) != [
        states[name] for name in sorted(states)
    ]:
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
            _known.append(
                Undisturbed(
                    {row["trial"]: row["rung_values"] for row in rows}, evaluations, _table(storage)
                )
            )
    return _known[0]


def _run_in_this_process(storage: Path) -> None:
    study, folder = a_study(), StudyFolder(storage, "s")
    folder.adapters.mkdir(parents=True)
    folder.write_study(study, {})
    records, pool = Records(folder.root), Pool()
    asha = Asha(study.rungs, study.reduction_factor)
    driver = Driver(
        study,
        Keys(study, FakeContent()),
        Searcher(study, journal=folder.journal),
        asha,
        pool,
        records,
        max_concurrent=4,
    )
    worker = Worker(
        "w",
        pool,
        FakeDevice(folder=folder.adapters),
        records,
        objective=study.objective,
        sleep=lambda seconds: None,
    )
    run_here(driver, pool, worker.turn)


def _table(storage: Path) -> pd.DataFrame:
    """What `analysis tables` shows, without what depends on when something was done."""
    return ranked_trials(load_study_records("s", storage)).drop(
        columns=["seconds_generate", "seconds_score"], errors="ignore"
    )


def _states_in_optuna(storage: Path) -> list[str]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(StudyFolder(storage, "s").journal))
    return [
        trial.state.name
        for trial in optuna.load_study(
            study_name="s", storage=optuna.storages.JournalStorage(backend)
        ).trials
    ]


# -- all of them ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    what: str
    happen: Callable[[Path], Iterator[str]]  # gives what is wrong afterwards


def faults() -> list[Fault]:
    """All of them, in an order in which the first few are of every kind."""
    stops = [
        ("worker", 20.0),
        ("driver", 20.0),
        ("pool", 20.0),
        ("worker", math.inf),
        ("driver", 75.0),
        ("pool", math.inf),
    ]
    stops += [
        ("worker", 120.0),
        ("driver", math.inf),
        ("pool", 60.0),
        ("worker", 60.0),
        ("driver", 120.0),
        ("pool", 120.0),
    ]
    stopped = [
        Fault(
            f"{target:6}  SIGSTOP  for {seconds:g} s", partial(stop, target=target, seconds=seconds)
        )
        for target, seconds in stops
    ]
    kills = [
        *itertools.product(("driver",), SIGNALS, MOMENTS),
        *itertools.product(("worker", "trial"), SIGNALS[:2], MOMENTS),
    ]
    kills.append(("pool", signal.SIGKILL, "middle"))
    killed = [
        Fault(
            f"{target:6}  {number.name}  {moment}",
            partial(kill, target=target, number=number, moment=moment),
        )
        for target, number, moment in kills
    ]
    others = [
        Fault("the disk is full", full_disk),
        Fault(f"memory is short for {SHORT_S:g} s", short_memory),
        Fault("the journal refuses", refusing_journal),
        Fault(f"no record can be written for {OUTAGE_S:g} s", outage),
        Fault("the disk is full, later", partial(full_disk, after=14)),
        Fault(f"memory is short for {SHORT_S:g} s, later", partial(short_memory, after=14)),
    ]
    mixed = itertools.chain.from_iterable(
        itertools.zip_longest(others, stopped, killed[::3], killed[1::3], killed[2::3])
    )
    return [fault for fault in mixed if fault is not None]


def main() -> int:
    every = faults()
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--faults", type=int, default=40, help=f"how many; after {len(every)} they begin again"
    )
    parser.add_argument("--first", type=int, default=1, help="begin with this one")
    parser.add_argument("--step", type=int, default=1, help="take every so many of them")
    parser.add_argument("--only", metavar="N,N", help="these alone, in this order")
    parser.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.launch is not None:
        return launch_here(arguments.launch)
    numbers = range(arguments.first, arguments.faults + 1, arguments.step)
    if arguments.only:
        numbers = [int(number) for number in arguments.only.split(",")]
    counts: Counter[str] = Counter()
    for number in numbers:
        fault, started = every[(number - 1) % len(every)], time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            verdict, problems = "as if nothing had happened", []
            try:
                problems = wrong_after(fault.happen, Path(folder))
            except Skipped as error:
                verdict = f"skipped: {error}"
            except RayTooSlow:
                verdict = f"skipped: Ray did not start in time {RAY_TRIES} times"
            counts["wrong" if problems else "skipped" if "skipped" in verdict else "right"] += 1
            said, took_s = "; ".join(problems) or verdict, time.monotonic() - started
            print(f"{number:3}  {fault.what:32}  {took_s:5.1f} s  {said}", flush=True)
            for output in sorted(Path(folder).glob("*/output-*.txt")) if problems else ():
                print(output.read_text()[-2000:], flush=True)
    print(", ".join(f"{n} {what}" for what, n in sorted(counts.items())), flush=True)
    return 1 if counts["wrong"] else 0


def wrong_after(happen: Callable[[Path], Iterator[str]], folder: Path) -> list[str]:
    """What is wrong after a fault, which begins anew in another storage where Ray did not start.

    Raises:
        RayTooSlow: Ray did not start RAY_TRIES times.
        Skipped: this machine does not permit the fault."""
    for attempt in range(1, RAY_TRIES + 1):
        problems, storage = [], folder / str(attempt) / "storage"
        storage.parent.mkdir()
        try:
            problems += happen(storage)
        except TimeoutError as error:
            problems.append(str(error))
        except RayTooSlow:
            print(f"Ray did not start in time (attempt {attempt} of {RAY_TRIES})", flush=True)
            continue
        return problems
    raise RayTooSlow


if __name__ == "__main__":
    sys.exit(main())
