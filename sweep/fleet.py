"""The processes of a launch besides the driver and the trials: the pool as an actor, and one worker actor per device.

A lost worker is replaced; what is lost again and again ends the study. Nothing here decides what is worked on."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from sweep.errors import SweepError, WorkerError
from sweep.folder import StudyFolder
from sweep.messages import Answer, EvaluationOrder, Orders, Outcome, Subscription, Sync
from sweep.objective import Objective
from sweep.pool import Pool
from sweep.records import Records
from sweep.study import Study
from sweep.worker import Device, Worker
from trainables.config import TrainConfig
from trainables.storage import Place

NAMESPACE = "sweep"
MAX_WORKER_LOSSES = 3
DEFAULT_CONCURRENT = 8
"""Trials at a time per GPU, or on the CPU, of a sampled study: more of them are chosen knowing less."""
LISTED_CONCURRENT = 64
"""The same where configurations are listed beforehand: then all that may share or be packed should meet."""
MOST_CPU_WORKERS = 4
CPU_WORKER_BYTES = 2.5 * 2**30
"""A small step on one core costs hardly more than on two: a CPU is several devices of few threads. Each needs memory of its own."""


@dataclass(frozen=True)
class DeviceSpec:
    """What a worker needs to make its device."""

    name: str  # "cpu" or "cuda"
    n_threads: int
    adapters: Place
    latents: Path
    backbones: Mapping[str, str]  # as Study.backbones
    metrics: tuple[str, ...]  # as Study.metrics
    probe_with: TrainConfig  # a training like the study's, to measure with
    n_slots: int | None  # trainings that it advances together; None: it finds out what is best, up to `most_slots`
    most_slots: int
    slots_file: Path  # where it keeps what it found
    pack_options: Mapping[str, bool]  # keyword arguments of trainables.pack.Pack


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


class RemotePool:
    """The driver's and the worker's side of the pool. What the driver tells it is not waited for: Ray keeps the order, once it is up."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def wait_until_up(self) -> None:
        """What is told to an actor of this kind while its process still starts would arrive in any order."""
        ray.get(self.actor.snapshot.remote())

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


def start_pool(known: Mapping[str, Outcome], *, name: str) -> Any:
    """`name`: of this launch alone, for trials to find it by; other studies may run on the same Ray."""
    actor_class = ray.remote(num_cpus=0)(PoolActor)
    return actor_class.options(name=name, namespace=NAMESPACE).remote(known)


class WorkerActor:
    """The worker as a process. It returns from `run` when the pool is closed; what it raises ends the study."""

    def run(
        self,
        worker_id: str,
        pool: Any,
        make_device: Callable[[DeviceSpec], Device],
        spec: DeviceSpec,
        study_dir: Place,
        log: Path,
        objective: Objective,
    ) -> None:
        _log_to(log)
        # Ray sets it to an actor's CPUs, and these are none. Before torch is imported, which reads it once.
        os.environ["OMP_NUM_THREADS"] = str(spec.n_threads)
        Worker(worker_id, RemotePool(pool), make_device(spec), Records(study_dir), objective=objective).run()


class Fleet:
    """One worker per device: a GPU, or some of the CPU's cores. A lost one is replaced; what keeps dying ends the study."""

    def __init__(
        self,
        pool: RemotePool,
        folder: StudyFolder,
        study: Study,
        *,
        device: str,
        max_concurrent: int | None = None,
        pack_size: int | None = None,
        pack_options: Mapping[str, bool] | None = None,
        make_device: Callable[[DeviceSpec], Device] | None = None,
    ) -> None:
        self._pool = pool
        self._folder = folder
        self._study = study
        self._pack_size = pack_size
        self._pack_options = dict(pack_options or {})
        self._make_device = make_device or real_device
        self._device = device
        self._n_started = self._n_lost = 0
        self._running: dict[Any, tuple[str, Any]] = {}  # ref of run() -> (worker id, actor)
        self.n_devices = int(ray.cluster_resources().get("GPU", 0)) if device == "cuda" else _n_cpu_workers()
        usual = DEFAULT_CONCURRENT if study.kind == "sampled" else LISTED_CONCURRENT
        # The trainings of a trial under its seeds fill slots as those of several trials do.
        usual = usual * (self.n_devices if device == "cuda" else 1) // study.train_seeds
        wanted = max_concurrent or study.max_concurrent or usual
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
        n_threads = max(1, len(os.sched_getaffinity(0)) // self.n_devices)
        spec = DeviceSpec(
            name=self._device,
            n_threads=n_threads,
            adapters=self._folder.adapters,
            latents=self._folder.latents,
            backbones=self._study.backbones,
            metrics=self._study.metrics,
            probe_with=_typical_training(self._study),
            n_slots=self._pack_size,
            most_slots=min(self.n_concurrent * self._study.train_seeds, _most_trainings(self._study)),
            slots_file=self._folder.pack_size,
            pack_options=self._pack_options,
        )
        resources = {"num_gpus": 1, "num_cpus": 0} if self._device == "cuda" else {"num_cpus": 0}
        actor = ray.remote(**resources)(WorkerActor).remote()
        ref = actor.run.remote(worker_id, self._pool.actor, self._make_device, spec, self._folder.root, self._folder.worker_log(worker_id), self._study.objective)
        self._running[ref] = (worker_id, actor)

    def _take_end(self, ref: Any) -> SweepError | None:
        worker_id, _ = self._running.pop(ref)
        try:
            ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, SweepError) else None
            return cause or WorkerError(f"{worker_id} could not go on ({last_line(error)}). See {self._folder.worker_log(worker_id)}.")
        except ray.exceptions.RayError as error:
            return self._replace(worker_id, error)
        return None

    def _replace(self, worker_id: str, error: Exception) -> SweepError | None:
        self._pool.worker_lost(worker_id)
        self._n_lost += 1
        if self._n_lost > MAX_WORKER_LOSSES * self.n_devices:
            log = self._folder.worker_log(worker_id)
            return WorkerError(f"A study goes on when a worker is lost, but {self._n_lost} were ({last_line(error)}). See {log}.")
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
        metrics=spec.metrics,
        pack_options=spec.pack_options,
    )


def _n_cpu_workers() -> int:
    memory = int(ray.available_resources().get("memory", 0) // CPU_WORKER_BYTES)
    return max(1, min(len(os.sched_getaffinity(0)), memory, MOST_CPU_WORKERS))


def _most_trainings(study: Study) -> int:
    """How many distinct trainings a study can have at most."""
    if study.kind == "sampled":
        return study.n_trials * study.train_seeds
    return len({one for row in study.listed for one in study.replicates(study.split(row.configuration)[0])})


def _typical_training(study: Study) -> TrainConfig:
    first = study.listed[0].configuration if study.listed else study.telling_configurations("rank")[0]
    return study.split(first)[0]


def _log_to(path: Path) -> None:
    import faulthandler

    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a", buffering=1)  # noqa: SIM115  open as long as the process lives
    faulthandler.enable(file)
    logging.basicConfig(stream=file, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    logging.captureWarnings(True)


def last_line(error: Exception) -> str:
    """What an error of Ray says, without its stack."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
