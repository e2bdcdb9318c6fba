"""The runner: a study onto Ray. Starts Ray, the pool and one worker per device, lets Ray Tune run the trials, and cleans up.

What is decided in a study is the driver's; what is done on a device the worker's. This is the only file that starts processes."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray

from sweep.driver import INTERRUPTED, Driver, past_of, trial_of_row
from sweep.errors import DeviceError, SweepError, WorkerError
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.pool import Answer, EvaluationOrder, Orders, Outcome, Pool, Subscription, Sync
from sweep.record_schema import METRIC_COLUMNS
from sweep.records import EVALUATIONS, TRIALS, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import Searcher
from sweep.study import Study
from sweep.tuning import run_trials
from sweep.worker import Device, Worker
from trainables.config import TrainConfig

NAMESPACE = "sweep"
OBJECT_STORE_BYTES = 80 * 2**20  # nothing large travels through Ray; this is near its minimum
MAX_WORKER_LOSSES = 3
SNAPSHOT_EVERY_S = 0.5
DEFAULT_CONCURRENT = 8

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_TQDM": "0",
}


class View(Protocol):
    """Who watches a launch."""

    def phase(self, text: str) -> None: ...

    def update(self, driver: Driver, snapshot: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class DeviceSpec:
    """What a worker needs to make its device."""

    name: str  # "cpu" or "cuda"
    n_threads: int
    adapters: Path
    latents: Path
    backbones: Mapping[str, str]  # as Study.backbones
    probe_with: TrainConfig  # a training like the study's, to measure with
    n_slots: int | None  # trainings that it advances together; None: it finds out what is best, up to `most_slots`
    most_slots: int
    slots_file: Path  # where it keeps what it found


@dataclass
class Launch:
    """How a study is launched, apart from what is in it."""

    storage: Path
    device: str = "auto"  # "auto", "cpu" or "cuda"
    max_concurrent: int | None = None
    pack_size: int | None = None  # None: measured
    make_device: Callable[[DeviceSpec], Device] | None = None  # None: the real one
    keys: Keys | None = None
    view: View | None = None


def launch(study: Study, how: Launch) -> tuple[Driver, Mapping[str, Any]]:
    """Run a study to its end, or on from where its records stop. Returns the driver, which knows how every trial ended, and the
    pool's last snapshot.

    Raises:
        SweepError: nothing was started, or the study could not go on; what is recorded stays valid."""
    folder = StudyFolder(how.storage, study.name)
    keys = how.keys or Keys(study)
    keys.check()
    with folder.held():
        folder.require_comparable(study)
        folder.write_study(study)
        _say(how, "starting Ray")
        # Inside of Ray, whose own handler of SIGTERM would end us on the spot.
        with _ray(how) as device, _interrupts() as interrupted:
            return _run(study, folder, keys, how, device, interrupted)


def _run(study: Study, folder: StudyFolder, keys: Keys, how: Launch, device: str, interrupted: threading.Event) -> tuple[Driver, Mapping[str, Any]]:
    records = Records(folder.root)
    pool = _RemotePool(_start_pool(_known_outcomes(records)))
    fleet = _Fleet(pool, folder, study, how, device)
    _say(how, "loading torch and diffusers on the worker")
    driver = _new_driver(study, folder, keys, records, pool, max_concurrent=fleet.n_concurrent)
    watch = _Watch(driver, pool, fleet, interrupted, how.view)
    try:
        driver.fill()
        if not driver.finished:
            run_trials(driver, pool_name=POOL, namespace=NAMESPACE, on_step=watch)
        while watch.snapshot()["requests_open"] and driver.stopping is None:
            time.sleep(0.1)
            watch()
    finally:
        driver.end_all()
        pool.close("the study has ended")
        fleet.join(timeout_s=2.0)
        watch.show()
    if driver.fatal is not None:
        raise driver.fatal
    return driver, watch.latest


def _say(how: Launch, text: str) -> None:
    if how.view is not None:
        how.view.phase(text)


def _new_driver(
    study: Study, folder: StudyFolder, keys: Keys, records: Records, pool: _RemotePool, *, max_concurrent: int
) -> Driver:
    past = [trial_of_row(row) for row in as_rows(records.latest_trials(), TRIALS)]
    searcher = Searcher(study, journal=folder.journal, past=[past_of(trial) for trial in past])
    asha = Asha(study.rungs, study.reduction_factor)
    return Driver(study, keys, searcher, asha, pool, records, max_concurrent=max_concurrent, past=past)


def _known_outcomes(records: Records) -> dict[str, Outcome]:
    """What the study's records hold already, for the pool."""
    return {row["evaluation_key"]: _outcome_of_row(row) for row in as_rows(records.evaluations(), EVALUATIONS)}


def _outcome_of_row(row: Mapping[str, Any]) -> Outcome:
    values = {name: float(row[name]) for name in METRIC_COLUMNS if row[name] is not None}
    return Outcome(values, {"perceptual": row["perceptual_backbone"], "pooled": row["pooled_backbone"]})


# ---- the pool


POOL = "pool"


class PoolActor:
    """The pool as a process: questions may wait for their answer without keeping others from asking."""

    def __init__(self, known: Mapping[str, Outcome]) -> None:
        self._pool = Pool(known)
        self._changed = asyncio.Event()

    async def next_rung(self, trial: str, after_epoch: int, wait_s: float) -> Answer:
        deadline = time.monotonic() + wait_s
        answer = self._pool.next_rung(trial, after_epoch)
        while answer.kind == "wait" and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                break
            answer = self._pool.next_rung(trial, after_epoch)
        return answer

    async def sync(self, worker: str, sync: Sync) -> Orders:
        orders = self._pool.sync(worker, sync)
        if sync.trainings or sync.evaluations:
            self._wake()
        return orders

    async def tell(self, method: str, *arguments: Any) -> None:
        """Call one of the pool's methods that change it and return nothing."""
        getattr(self._pool, method)(*arguments)
        self._wake()

    async def snapshot(self) -> dict[str, Any]:
        return {**self._pool.snapshot(), "answers": self._pool.answers()}

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _RemotePool:
    """The driver's and the worker's side of the pool. What the driver tells it is not waited for: Ray keeps the order."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def subscribe(self, subscription: Subscription) -> None:
        self.actor.tell.remote("subscribe", subscription)

    def release(self, trial: str) -> None:
        self.actor.tell.remote("release", trial)

    def decided(self, trial: str, epoch: int) -> None:
        self.actor.tell.remote("decided", trial, epoch)

    def request(self, orders: Iterable[EvaluationOrder]) -> None:
        if orders := list(orders):
            self.actor.tell.remote("request", orders)

    def close(self, reason: str) -> None:
        self.actor.tell.remote("close", reason)

    def worker_lost(self, worker: str) -> None:
        self.actor.tell.remote("worker_lost", worker)

    def sync(self, worker: str, sync: Sync) -> Orders:
        return ray.get(self.actor.sync.remote(worker, sync))


def _start_pool(known: Mapping[str, Outcome]) -> Any:
    actor_class = ray.remote(num_cpus=0)(PoolActor)
    return actor_class.options(name=POOL, namespace=NAMESPACE).remote(known)


# ---- the workers


class WorkerActor:
    """The worker as a process. It returns from `run` when the pool is closed; what it raises ends the study."""

    def run(self, worker_id: str, pool: Any, make_device: Callable[[DeviceSpec], Device], spec: DeviceSpec, study_dir: Path) -> None:
        _log_to(study_dir / f"{worker_id}.log")
        # Ray sets it to an actor's CPUs, and these are none. Before torch is imported, which reads it once.
        os.environ["OMP_NUM_THREADS"] = str(spec.n_threads)
        Worker(worker_id, _RemotePool(pool), make_device(spec), Records(study_dir)).run()


class _Fleet:
    """One worker per device. A lost one is replaced; what keeps dying ends the study."""

    def __init__(self, pool: _RemotePool, folder: StudyFolder, study: Study, how: Launch, device: str) -> None:
        self._pool = pool
        self._folder = folder
        self._study = study
        self._pack_size = how.pack_size
        self._make_device = how.make_device or real_device
        self._device = device
        self._n_started = self._n_lost = 0
        self._running: dict[Any, tuple[str, Any]] = {}  # ref of run() -> (worker id, actor)
        self.n_devices = int(ray.cluster_resources().get("GPU", 0)) if device == "cuda" else 1
        wanted = how.max_concurrent or study.max_concurrent or DEFAULT_CONCURRENT * self.n_devices
        self.n_concurrent = max(1, min(wanted, study.n_trials))  # trials at a time
        for _ in range(self.n_devices):
            self._start()

    def check(self) -> SweepError | None:
        """Replace workers that were lost. Returns what makes it useless to go on, if anything."""
        ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0) if self._running else ([], [])
        problems = [self._take_end(ref) for ref in ended]
        return next((problem for problem in problems if problem is not None), None)

    def join(self, *, timeout_s: float) -> None:
        """Let workers finish what they write, then end them."""
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=timeout_s)
        for _, actor in self._running.values():
            ray.kill(actor)

    def _start(self) -> None:
        worker_id = f"worker-{self._n_started}"
        self._n_started += 1
        n_threads = max(1, len(os.sched_getaffinity(0)) // (self.n_devices if self._device == "cuda" else 1))
        spec = DeviceSpec(
            name=self._device,
            n_threads=n_threads,
            adapters=self._folder.adapters,
            latents=self._folder.latents,
            backbones=self._study.backbones,
            probe_with=_typical_training(self._study),
            n_slots=self._pack_size,
            most_slots=math.ceil(self.n_concurrent / self.n_devices),
            slots_file=self._folder.pack_size,
        )
        resources = {"num_gpus": 1, "num_cpus": 0} if self._device == "cuda" else {"num_cpus": 0}
        actor = ray.remote(**resources)(WorkerActor).remote()
        ref = actor.run.remote(worker_id, self._pool.actor, self._make_device, spec, self._folder.root)
        self._running[ref] = (worker_id, actor)

    def _take_end(self, ref: Any) -> SweepError | None:
        worker_id, _ = self._running.pop(ref)
        try:
            ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, SweepError) else None
            return cause or WorkerError(f"{worker_id} could not go on ({_last_line(error)}). See {self._folder.worker_log(worker_id)}.")
        except ray.exceptions.RayError as error:
            return self._replace(worker_id, error)
        return None

    def _replace(self, worker_id: str, error: Exception) -> SweepError | None:
        self._pool.worker_lost(worker_id)
        self._n_lost += 1
        if self._n_lost > MAX_WORKER_LOSSES * self.n_devices:
            log = self._folder.worker_log(worker_id)
            return WorkerError(f"A study goes on when a worker is lost, but {self._n_lost} were ({_last_line(error)}). See {log}.")
        self._start()
        return None


def real_device(spec: DeviceSpec) -> Device:
    from sweep.device import PackDevice  # imports torch, in the worker's process only

    return PackDevice(
        device=spec.name,
        n_threads=spec.n_threads,
        adapters=spec.adapters,
        latents=spec.latents,
        n_slots=spec.n_slots,
        most_slots=spec.most_slots,
        probe_with=spec.probe_with,
        probe_file=spec.slots_file,
        backbones=spec.backbones,
    )


def _typical_training(study: Study) -> TrainConfig:
    first = study.listed[0].configuration if study.listed else study.telling_configurations("rank")[0]
    return study.split(first)[0]


def _log_to(path: Path) -> None:
    import faulthandler

    file = open(path, "a", buffering=1)  # noqa: SIM115  open as long as the process lives
    faulthandler.enable(file)
    logging.basicConfig(stream=file, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    logging.captureWarnings(True)


# ---- watching, and Ctrl+C


class _Watch:
    """Called again and again while trials run: looks after the workers, hears Ctrl+C, feeds the live view."""

    def __init__(self, driver: Driver, pool: _RemotePool, fleet: _Fleet, interrupted: threading.Event, view: View | None) -> None:
        self._driver, self._pool, self._fleet, self._interrupted, self._view = driver, pool, fleet, interrupted, view
        self._asked: Any = None
        self._asked_at = -SNAPSHOT_EVERY_S
        self._stopped = False
        self.latest: dict[str, Any] = {}

    def __call__(self) -> None:
        self._driver.fatal = self._driver.fatal or self._fleet.check()
        if not self._stopped and self._interrupted.is_set():
            self._stop(INTERRUPTED)
        elif not self._stopped and self._driver.fatal is not None:
            self._stop(str(self._driver.fatal))
        self._refresh()

    def snapshot(self) -> dict[str, Any]:
        """The pool as it is now."""
        self.latest = ray.get(self._pool.actor.snapshot.remote())
        return self.latest

    def show(self) -> None:
        if self._view is not None:
            self._view.update(self._driver, self.latest)

    def _stop(self, reason: str) -> None:
        self._stopped = True
        self._driver.stop(reason)
        self._driver.end_all(reason)

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._asked is None and now - self._asked_at >= SNAPSHOT_EVERY_S:
            self._asked, self._asked_at = self._pool.actor.snapshot.remote(), now
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self.latest, self._asked = ray.get(self._asked), None
            self._driver.hear_unattended(self.latest["answers"])
            self.show()


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one interrupts at once."""
    interrupted = threading.Event()

    def hear(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- Ray


@contextmanager
def _ray(how: Launch) -> Iterator[str]:
    """A Ray of our own on this machine, and the kind of device to use.

    Raises:
        DeviceError: the wanted device is not there."""
    os.environ.update(RAY_SETTINGS)
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what matters of it we say ourselves
    # Sockets lie in there, whose paths may have 107 characters.
    session = tempfile.mkdtemp(prefix="sweep-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    try:
        _start_ray(session)
        yield _device_kind(how.device)
    except ray.exceptions.RayError as error:
        raise WorkerError(f"A study needs its Ray until it has ended, but lost it ({_last_line(error)}). Launch it again: it goes on.") from error
    finally:
        ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)


def _start_ray(session: str) -> None:
    try:
        ray.init(
            address="local",
            namespace=NAMESPACE,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=session,
        )
    except Exception as error:  # Ray raises bare ones, e.g. when a machine is too busy to start it within 30 s
        raise DeviceError(f"Ray must be able to start on this machine, but it could not ({_last_line(error)}). Launch the study again.") from error


def _device_kind(wanted: str) -> str:
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    if wanted not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"`--device` must be auto, cpu or cuda, but it is {wanted!r}.")
    if wanted == "cuda" and n_gpus == 0:
        raise DeviceError("`--device cuda` needs a free GPU, but there is none here. Use --device cpu, or a machine with a GPU.")
    return "cuda" if wanted != "cpu" and n_gpus else "cpu"


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


__all__ = ["DeviceSpec", "Launch", "launch", "real_device"]
