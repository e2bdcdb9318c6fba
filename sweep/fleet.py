"""The workers of a launch: one per GPU, or per share of a CPU's cores, on every node that Ray has.

A lost worker is replaced, on a node that comes while the study runs there are new ones, and a device that loses one worker after
another is left out. Nothing here decides what is worked on: that is the pool's."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweep.causes import Cause
from sweep.errors import SweepError, WorkerError, last_line
from sweep.folder import StudyFolder
from sweep.pool_actor import RemotePool
from sweep.sites import Site, sites_of
from sweep.study import Study
from sweep.worker import PASSING, Device
from sweep.worker_actor import DeviceSpec, WorkerActor, real_device
from trainables.config import TrainConfig

MAX_DEVICE_LOSSES = 3
"""How many workers in a row a device may lose, before any of them has stored or scored anything, until it is left out."""
FIRST_WAIT_S, WAIT_FACTOR = 2.0, 4.0
"""A worker that is lost is replaced at once, the next one in a row after 2 s, then 8 s."""
NODE_PATIENCE_S = 600.0
"""How long a cluster may be without any device: a node takes minutes to come."""
LOOK_EVERY_S = 1.0
DEFAULT_CONCURRENT = 8
"""Trials at a time per GPU, or per node's CPU, of a sampled study: more of them are chosen knowing less."""
LISTED_CONCURRENT = 64
"""The same where configurations are listed beforehand: then all that may share or be packed should meet."""


@dataclass
class _Seat:
    """A site and the worker that is there, or why there is none."""

    site: Site
    worker: str | None = None
    actor: Any = None
    run: Any = None  # Ray's reference to what `run` returns
    name: str = ""  # of the device; more exact once Ray has said which GPU it is
    naming: Any = None
    n_losses: int = 0  # in a row
    reason: str = ""
    not_before: float = 0.0
    left_out: bool = False
    hopeless: SweepError | None = None  # why no further worker could do better


class Fleet:
    """Guarantees: at most one worker per site; every loss is told to the pool; a device that is left out stays so in this launch."""

    def __init__(
        self,
        pool: RemotePool,
        folder: StudyFolder,
        study: Study,
        *,
        device: str,
        launch: str,
        is_cluster: bool = False,
        max_concurrent: int | None = None,
        pack_size: int | None = None,
        pack_options: Mapping[str, bool] | None = None,
        make_device: Callable[[DeviceSpec], Device] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`launch` is in the study's list of launches, by which nodes see that they see it. `is_cluster`: nodes may come later on."""
        self._pool = pool
        self._folder = folder
        self._study = study
        self._pack_size = pack_size
        self._pack_options = dict(pack_options or {})
        self._make_device = make_device or real_device
        self._device = device
        self._is_cluster = is_cluster
        self._max_concurrent = max_concurrent
        self._clock = clock
        self._launch = launch
        self._seats: dict[tuple[str, int], _Seat] = {}
        self._keepers: list[Any] = []
        self._n_started = 0
        self._closing = False
        self._looked_at = -math.inf
        self._last_usable_at = clock()
        if is_cluster:
            self._ask_for_nodes()
        self._look()

    @property
    def n_devices(self) -> int:
        """Devices that are in use."""
        return len(self._usable())

    def n_concurrent(self, study: Study) -> int:
        """Trials of it at a time, for the devices that there are now."""
        usual = DEFAULT_CONCURRENT if study.kind == "sampled" else LISTED_CONCURRENT
        usable = self._usable()
        n = len(usable) if self._device == "cuda" else len({seat.site.node_id for seat in usable})
        # The trainings of a trial under its seeds fill slots as those of several trials do.
        wanted = study.max_concurrent or self._max_concurrent or usual * n // study.train_seeds
        return max(1, min(wanted, study.n_trials))

    @property
    def left_out(self) -> dict[str, str]:
        """Devices that are used no more, by name, and why. A node of which none is left is named as a whole."""
        out = [seat for seat in self._seats.values() if seat.left_out]
        n_sites = Counter(seat.site.node_id for seat in self._seats.values())
        n_out = Counter(seat.site.node_id for seat in out)
        named = {}
        for seat in out:
            node, n = seat.site.node, n_out[seat.site.node_id]
            named[f"{node}, all {n} devices" if n == n_sites[seat.site.node_id] > 1 else seat.name] = seat.reason
        return named

    def check(self, n_done: Mapping[str, int] | None = None) -> SweepError | None:
        """Replace workers that were lost, use nodes that have come. Returns what makes it useless to go on, if anything.

        n_done: by worker, what it has stored and scored so far."""
        self._learn_names()
        running = {seat.run: seat for seat in self._seats.values() if seat.worker is not None}
        ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
        for ref in ended:
            self._take_end(running[ref], n_done or {})
        if ended or self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._look()
        return self._useless()

    def join(self, *, timeout_s: float) -> None:
        """Let workers finish what they write, then end them."""
        running = [seat for seat in self._seats.values() if seat.worker is not None]
        if running:
            ray.wait([seat.run for seat in running], num_returns=len(running), timeout=timeout_s)
        for actor in (*(seat.actor for seat in running), *self._keepers):
            ray.kill(actor)
        if self._is_cluster:
            self._ask_for_nodes(0)

    # ---- private, in the order of use

    def _ask_for_nodes(self, n: int | None = None) -> None:
        """Tell an autoscaler, if there is one, how many GPUs the study can use: workers are bound to nodes that are there already."""
        from ray.autoscaler.sdk import request_resources

        if self._device == "cuda":
            useful = math.ceil(_most_trainings(self._study) / DEFAULT_CONCURRENT)
            request_resources(bundles=[{"GPU": 1}] * (useful if n is None else n))

    def _look(self) -> None:
        """See which sites there are, and put workers where there is none."""
        self._looked_at = self._clock()
        there = {(site.node_id, site.index): site for site in sites_of(ray.nodes(), self._device)}
        gone = [key for key, seat in self._seats.items() if key not in there and seat.worker is None and not seat.left_out]
        for key in gone:
            del self._seats[key]
        for key, site in there.items():
            kind = "GPU" if self._device == "cuda" else "CPU"
            self._seats.setdefault(key, _Seat(site, name=f"{site.node} {kind} {site.index}"))
        for key in there:
            seat = self._seats[key]
            if not (self._closing or seat.worker or seat.left_out) and self._clock() >= seat.not_before:
                self._start(seat)

    def _start(self, seat: _Seat) -> None:
        seat.worker = f"worker-{self._n_started}"
        self._n_started += 1
        spec = DeviceSpec(
            name=self._device,
            worker=seat.worker,
            launch=self._launch,
            n_threads=seat.site.n_threads,
            adapters=self._folder.adapters,
            latents=self._folder.latents,
            backbones=self._study.backbones,
            metrics=self._study.metrics,
            probe_with=_typical_training(self._study),
            n_slots=self._pack_size,
            most_slots=min(self.n_concurrent(self._study) * self._study.train_seeds, _most_trainings(self._study)),
            slots_file=self._folder.pack_size,
            pack_options=self._pack_options,
            content=self._folder.read_description()["content"],
        )
        seat.actor = self._on_node_of(seat, WorkerActor)
        seat.naming = seat.actor.device_name.remote(seat.site.node, seat.name)
        arguments = (spec, self._folder, self._study.objective, seat.site.node, seat.name)
        seat.run = seat.actor.run.remote(self._pool, self._make_device, *arguments)

    def _on_node_of(self, seat: _Seat, actor_class: type) -> Any:
        there = NodeAffinitySchedulingStrategy(seat.site.node_id, soft=False)
        return ray.remote(num_cpus=0, num_gpus=int(self._device == "cuda"))(actor_class).options(scheduling_strategy=there).remote()

    def _learn_names(self) -> None:
        for seat in self._seats.values():
            if seat.naming is not None and ray.wait([seat.naming], timeout=0)[0]:
                try:
                    seat.name = ray.get(seat.naming)
                except ray.exceptions.RayError:  # it was lost before it could say
                    pass
                seat.naming = None

    def _take_end(self, seat: _Seat, n_done: Mapping[str, int]) -> None:
        worker, run, actor = seat.worker, seat.run, seat.actor
        seat.worker = seat.actor = seat.run = seat.naming = None
        try:
            ray.get(run)
            self._closing = True  # it returns only once the pool is closed
        except ray.exceptions.RayError as error:
            ray.kill(actor)  # one that raised still holds its device
            self._take_loss(seat, worker, error, has_worked=n_done.get(worker, 0) > 0)

    def _take_loss(self, seat: _Seat, worker: str, error: Exception, *, has_worked: bool) -> None:
        node_lives = any(node["NodeID"] == seat.site.node_id and node["Alive"] for node in ray.nodes())
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, SweepError) else None
        seat.reason = str(cause or last_line(error))
        self._pool.worker_lost(worker, f"{worker} on {seat.name} was lost ({seat.reason})", Cause.LOST, node_lives)
        if not node_lives:  # that is nobody's fault, and the seat goes with it
            return
        seat.n_losses = 1 if has_worked else seat.n_losses + 1
        seat.not_before = self._clock() + (FIRST_WAIT_S * WAIT_FACTOR ** (seat.n_losses - 2) if seat.n_losses > 1 else 0.0)
        if cause is not None and not isinstance(cause, PASSING):  # it would say the same again
            seat.hopeless = cause
        if seat.hopeless or seat.n_losses >= MAX_DEVICE_LOSSES:
            self._leave_out(seat)

    def _leave_out(self, seat: _Seat) -> None:
        seat.left_out = True
        if seat.hopeless is None:
            seat.reason = f"lost {seat.n_losses} workers in a row, the last one: {seat.reason}"
        if self._device == "cuda":  # Ray would give it to the next worker of the node whose own GPU is free again
            self._keepers.append(self._on_node_of(seat, _Keeper))

    def _usable(self) -> list[_Seat]:
        return [seat for seat in self._seats.values() if not seat.left_out]

    def _useless(self) -> SweepError | None:
        if self._usable():
            self._last_usable_at = self._clock()
            return None
        out = self.left_out
        if out:
            said = {str(seat.hopeless): seat.hopeless for seat in self._seats.values()}
            if len(said) == 1 and None not in said.values():
                return next(iter(said.values()))
            described = "; ".join(f"{name}: {reason}" for name, reason in out.items())
            return WorkerError(f"A study needs a device, but all are left out ({described}). Launch it again when one is mended: it goes on.")
        if self._is_cluster and self._clock() - self._last_usable_at < NODE_PATIENCE_S:
            return None
        return WorkerError(
            f"A study needs a device, but for {self._clock() - self._last_usable_at:.0f} s no node of its Ray has had one. "
            "Launch it again when there is one: it goes on."
        )


class _Keeper:
    """Holds a GPU that is left out."""


def _most_trainings(study: Study) -> int:
    """How many distinct trainings a study can have at most."""
    if study.kind == "sampled":
        return study.n_trials * study.train_seeds
    return len({one for row in study.listed for one in study.replicates(study.split(row.configuration)[0])})


def _typical_training(study: Study) -> TrainConfig:
    first = study.listed[0].configuration if study.listed else study.telling_configurations("rank")[0]
    return study.split(first)[0]
