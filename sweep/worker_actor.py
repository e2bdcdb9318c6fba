"""The worker as a process on some node: it finds the study's folder there, makes its device, and runs until the pool is closed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from sweep.errors import PassingError
from sweep.folder import StudyFolder
from sweep.objective import Objective
from sweep.pool_actor import RemotePool, Reporter
from sweep.records import Records
from sweep.worker import Device, Worker, first_sync
from trainables.activity import Watch
from trainables.config import TrainConfig
from trainables.storage import Place


@dataclass(frozen=True)
class DeviceSpec:
    """What a worker needs to make its device."""

    name: str  # "cpu" or "cuda"
    worker: str
    launch: str  # names the launch of which it is, among all that share the storage
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
    content: Mapping[str, str]  # what the study's keys were made of, as Keys.content_digests


@dataclass(frozen=True)
class WorkerIdentity:
    """Which process a worker is, and the name of its device among all of the study's."""

    device: str
    node_id: str  # as Ray calls the node
    pid: int
    created_at: float  # as psutil tells it: a number is used again


class WorkerActor:
    """`run` returns when the pool is closed, and raises what makes its device useless."""

    def identity(self, node: str, otherwise: str) -> WorkerIdentity:
        """Its device is the GPU that Ray has given it, by its number on the node, or `otherwise`."""
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        device = f"{node} GPU {', '.join(map(str, gpus))}" if gpus else otherwise
        return WorkerIdentity(device, context.get_node_id(), os.getpid(), psutil.Process().create_time())

    def run(
        self,
        pool: RemotePool,
        make_device: Callable[[DeviceSpec], Device],
        spec: DeviceSpec,
        folder: StudyFolder,
        objective: Objective,
        node: str,
        device: str,
    ) -> None:
        require_shared(folder, spec.launch)
        _log_to(folder.worker_log(spec.worker))
        device_name = self.identity(node, device).device
        logging.getLogger(__name__).info("%s, process %d", device_name, os.getpid())
        # Ray sets it to an actor's CPUs, and these are none. Before torch is imported, which reads it once.
        os.environ["OMP_NUM_THREADS"] = str(spec.n_threads)
        records, watch = Records(folder.root, guard=lambda: folder.require_held_by(spec.launch)), Watch()
        pool.sync(spec.worker, first_sync(watch, device_name))
        Reporter(pool, spec.worker, watch)
        with watch.watching():
            made = make_device(spec)  # imports torch
        Worker(spec.worker, pool, made, records, objective=objective, device_name=device_name, watch=watch).run()


def require_shared(folder: StudyFolder, launch: str) -> None:
    """Raises: PassingError where this node does not see the study's folder, or sees another one under its name."""
    try:
        is_there = launch in folder.launches.read_text(encoding="utf-8")
    except OSError:
        is_there = False
    if not is_there:
        raise PassingError(
            f"Every node must see the study's storage under the same path, but {socket.gethostname()} does not see this launch in "
            f"{folder.launches}. Use --storage with a folder that all nodes share, or an s3:// address."
        )


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
        content=spec.content,
        worker=spec.worker,
        launch=spec.launch,
    )


def _log_to(path: Path) -> None:
    import faulthandler

    try:
        file = open(path, "a", buffering=1)  # noqa: SIM115  open as long as the process lives
    except OSError:  # no worker ends for want of a log
        file = open(os.devnull, "a")  # noqa: SIM115
    faulthandler.enable(file)
    logging.basicConfig(stream=file, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    logging.captureWarnings(True)
