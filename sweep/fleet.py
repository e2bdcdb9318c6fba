"""The workers of a launch: one per GPU, or per share of a CPU's cores, on every node that Ray has.

A lost worker is replaced, on a node that comes while the study runs there are new ones, and a device that loses one worker after
another is left out. A worker that is silent for too long is lost; where memory is short, the largest one is ended. Nothing here decides
what is worked on: that is the pool's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweep.causes import Cause
from sweep.clocks import AwakeClock
from sweep.errors import DiskError, SweepError, WorkerError
from sweep.folder import StudyFolder
from sweep.memory import THRESHOLD_SETTING, memory_threshold, memory_use, n_kernel_kills
from sweep.moment import SILENT_AFTER_S
from sweep.pool_actor import RemotePool
from sweep.ray_errors import SHORT_OF_MEMORY, is_out_of_memory, said_by
from sweep.room import refusal_of
from sweep.sites import Site, sites_of
from sweep.study import Study
from sweep.worker import PASSING, Device
from sweep.worker_actor import DeviceSpec, WorkerActor, WorkerIdentity, real_device
from trainables.activity import Phase
from trainables.config import TrainConfig

MAX_DEVICE_LOSSES = 3
"""How many workers in a row a device may lose, before any of them has stored or scored anything, until it is left out."""
FIRST_WAIT_S, WAIT_FACTOR = 2.0, 4.0
"""A worker that is lost is replaced at once, the next one in a row after 2 s, then 8 s."""
LOST_AFTER_S = 300.0
"""A worker that shows no progress for so long is lost; in phases in which minutes may pass without a sign, SLOW_FACTOR times as long."""
SLOW_FACTOR = 4.0
MEMORY_PAUSE_S = 10.0
"""How long at least no worker is started, and none ended, after one was ended because memory was short."""
MEMORY_PATIENCE_S = 300.0
"""How long memory may be short while there is no worker of ours that could be ended."""
CLOCK_STEP_S = 2.0
"""By how much two processes may differ on when a third one began."""
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
    asking: Any = None  # Ray's reference to the identity of its worker
    process: WorkerIdentity | None = None
    started_at: float = 0.0
    kernel_kills: int | None = None  # of this machine when it started
    was_silent: bool = False
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
        lost_after_s: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`launch` is in the study's list of launches, by which nodes see that they see it. `is_cluster`: nodes may come later on.
        `lost_after_s`: None: LOST_AFTER_S."""
        self._pool = pool
        self._folder = folder
        self._study = study
        self._pack_size = pack_size
        self._pack_options = dict(pack_options or {})
        self._make_device = make_device or real_device
        self._device = device
        self._is_cluster = is_cluster
        self._max_concurrent = max_concurrent
        self._lost_after_s = lost_after_s or LOST_AFTER_S
        self._clock = clock = clock or AwakeClock()
        self._notices: list[str] = []
        self._no_room: DiskError | None = None
        self._hopeless: WorkerError | None = None
        self._short_until = -math.inf  # of memory
        self._enough_at = clock()
        self._launch = launch
        # Read once: a worker that is replaced needs no storage that answers just now.
        self._content = folder.read_description()["content"]
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

    @property
    def notices(self) -> tuple[str, ...]:
        """What has happened to workers so far, in lines for whoever watches."""
        return tuple(self._notices)

    def silent_s(self, snapshot: Mapping[str, Any]) -> dict[str, float]:
        """By running worker, for how long it has noted no progress. snapshot: as Pool.snapshot."""
        now, known = self._clock(), snapshot.get("silent_s", {})
        # One that the pool has never heard of has been silent since it was started.
        return {seat.worker: known.get(seat.worker, now - seat.started_at) for seat in self._seats.values() if seat.worker is not None}

    def check(self, snapshot: Mapping[str, Any] | None = None) -> SweepError | None:
        """Replace workers that were lost, use nodes that have come. Returns what makes it useless to go on, if anything.

        snapshot: the latest, as Pool.snapshot."""
        snapshot = snapshot or {}
        n_done = snapshot.get("n_done", {})
        self._learn_identities()
        running = {seat.run: seat for seat in self._seats.values() if seat.worker is not None}
        ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
        for ref in ended:
            self._take_end(running[ref], n_done)
        self._end_silent(snapshot)
        if ended or self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._watch_memory(n_done)
            self._look()
        return self._useless()

    def join(self, *, timeout_s: float) -> None:
        """Let workers finish what they write, then end them."""
        running = [seat for seat in self._seats.values() if seat.worker is not None]
        if running:
            ray.wait([seat.run for seat in running], num_returns=len(running), timeout=timeout_s)
        for seat in running:
            self._kill(seat)
        for keeper in self._keepers:
            ray.kill(keeper)
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
            if not (self._closing or seat.worker or seat.left_out) and self._clock() >= max(seat.not_before, self._short_until):
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
            content=self._content,
        )
        seat.actor = self._on_node_of(seat, WorkerActor)
        seat.asking, seat.process = seat.actor.identity.remote(seat.site.node, seat.name), None
        seat.started_at, seat.kernel_kills, seat.was_silent = self._clock(), n_kernel_kills(), False
        arguments = (spec, self._folder, self._study.objective, seat.site.node, seat.name)
        seat.run = seat.actor.run.remote(self._pool, self._make_device, *arguments)

    def _on_node_of(self, seat: _Seat, actor_class: type) -> Any:
        there = NodeAffinitySchedulingStrategy(seat.site.node_id, soft=False)
        return ray.remote(num_cpus=0, num_gpus=int(self._device == "cuda"))(actor_class).options(scheduling_strategy=there).remote()

    def _learn_identities(self) -> None:
        for seat in self._seats.values():
            if seat.asking is not None and ray.wait([seat.asking], timeout=0)[0]:
                try:
                    seat.process = ray.get(seat.asking)
                    seat.name = seat.process.device
                except ray.exceptions.RayError:  # it was lost before it could say
                    pass
                seat.asking = None

    def _take_end(self, seat: _Seat, n_done: Mapping[str, int]) -> None:
        try:
            ray.get(seat.run)
            seat.worker = None
            self._closing = True  # it returns only once the pool is closed
        except ray.exceptions.RayError as error:
            raised = error.cause if isinstance(error, ray.exceptions.RayTaskError) else None
            own = raised if isinstance(raised, SweepError) else None
            self._no_room = self._no_room or (refusal_of(raised) if raised is not None else None)  # another worker would find the same
            cause = Cause.MEMORY if self._was_killed_for_memory(seat, error) else Cause.LOST
            reason = str(own) if own else SHORT_OF_MEMORY if cause is Cause.MEMORY else said_by(error)
            self._lose(seat, reason, cause, has_worked=n_done.get(seat.worker, 0) > 0, own=own)

    def _was_killed_for_memory(self, seat: _Seat, error: Exception) -> bool:
        kills = n_kernel_kills()
        return is_out_of_memory(error) or (kills is not None and seat.kernel_kills is not None and kills > seat.kernel_kills)

    def _end_silent(self, snapshot: Mapping[str, Any]) -> None:
        """Say which workers are silent, and end those that are silent for too long."""
        phases, silent, doing = snapshot.get("phases", {}), self.silent_s(snapshot), snapshot.get("workers", {})
        for seat in [seat for seat in self._seats.values() if seat.worker is not None]:
            silent_s, phase = silent[seat.worker], phases.get(seat.worker, Phase.LOADING)
            limit_s = self._lost_after_s * (SLOW_FACTOR if phase.is_slow else 1.0)
            what = f"{seat.worker} on {seat.name} ({doing.get(seat.worker) or phase})"
            if silent_s >= SILENT_AFTER_S and not seat.was_silent:
                self._notices.append(f"{what} has shown no progress for {silent_s:.0f} s; after {limit_s:.0f} s it is replaced")
            elif silent_s < SILENT_AFTER_S and seat.was_silent:
                self._notices.append(f"{what} goes on")
            seat.was_silent = silent_s >= SILENT_AFTER_S
            if silent_s >= limit_s:
                has_worked = snapshot.get("n_done", {}).get(seat.worker, 0) > 0
                self._notices.append(f"{what} showed no progress for {silent_s:.0f} s and is replaced")
                self._lose(seat, f"it showed no progress for {silent_s:.0f} s while {doing.get(seat.worker) or phase}", Cause.LOST, has_worked=has_worked)

    def _watch_memory(self, n_done: Mapping[str, int]) -> None:
        """Where this machine is short of memory, end the largest worker, and start none until there is room again."""
        if self._is_cluster:  # every node's Ray looks after its own
            return
        use, now = memory_use(), self._clock()
        if use.share < memory_threshold():
            self._enough_at = now
            return
        if now < self._short_until:
            return
        self._short_until = now + MEMORY_PAUSE_S
        sizes = {key: _resident_bytes(seat.process) for key, seat in self._seats.items() if seat.worker is not None and seat.process}
        if sizes:
            seat = self._seats[max(sizes, key=sizes.__getitem__)]
            reason = f"{SHORT_OF_MEMORY}: {use}, {max(sizes.values()) / 1e9:.1f} GB of it by this worker"
            self._notices.append(f"{seat.worker} on {seat.name} is ended, {reason}; it is started again when there is room")
            self._lose(seat, reason, Cause.MEMORY, has_worked=n_done.get(seat.worker, 0) > 0)
        elif now - self._enough_at >= MEMORY_PATIENCE_S:
            self._hopeless = WorkerError(
                f"A study needs memory, but {SHORT_OF_MEMORY} for {now - self._enough_at:.0f} s: {use}. Close other programs and launch it "
                f"again: it goes on. ({THRESHOLD_SETTING} is {memory_threshold():g}.)"
            )

    def _lose(self, seat: _Seat, reason: str, cause: Cause, *, has_worked: bool, own: SweepError | None = None) -> None:
        """A worker is lost, or has to go. `own`: the error of ours that it ended with."""
        self._kill(seat)  # one that raised still holds its device
        worker, seat.worker, seat.reason = seat.worker, None, reason
        seat.actor = seat.run = seat.asking = None
        node_lives = any(node["NodeID"] == seat.site.node_id and node["Alive"] for node in ray.nodes())
        self._pool.worker_lost(worker, f"{worker} on {seat.name} was lost ({reason})", cause, node_lives)
        if not node_lives:  # that is nobody's fault, and the seat goes with it
            return
        seat.n_losses = 1 if has_worked else seat.n_losses + 1
        seat.not_before = self._clock() + (FIRST_WAIT_S * WAIT_FACTOR ** (seat.n_losses - 2) if seat.n_losses > 1 else 0.0)
        if self._no_room is not None:  # the device is not at fault
            return
        if own is not None and not isinstance(own, PASSING):  # it would say the same again
            seat.hopeless = own
        if seat.hopeless or seat.n_losses >= MAX_DEVICE_LOSSES:
            self._leave_out(seat)

    def _kill(self, seat: _Seat) -> None:
        """End a worker's process, also one that is stopped or hangs and hears nothing that Ray asks of it."""
        process = seat.process
        if process is not None and process.node_id == ray.get_runtime_context().get_node_id():
            kill_process(process)
        elif process is not None:
            there = NodeAffinitySchedulingStrategy(process.node_id, soft=False)
            ray.remote(num_cpus=0)(kill_process).options(scheduling_strategy=there).remote(process)
        ray.kill(seat.actor)

    def _leave_out(self, seat: _Seat) -> None:
        seat.left_out = True
        if seat.hopeless is None:
            seat.reason = f"lost {seat.n_losses} workers in a row, the last one: {seat.reason}"
        if self._device == "cuda":  # Ray would give it to the next worker of the node whose own GPU is free again
            self._keepers.append(self._on_node_of(seat, _Keeper))

    def _usable(self) -> list[_Seat]:
        return [seat for seat in self._seats.values() if not seat.left_out]

    def _useless(self) -> SweepError | None:
        if self._no_room or self._hopeless:
            return self._no_room or self._hopeless
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


def kill_process(process: WorkerIdentity) -> None:
    """End this process of this machine, if it still is the one that is meant."""
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid)
        # Each process reckons it from the time of day and the boot, and the former may be set meanwhile.
        if abs(found.create_time() - process.created_at) < CLOCK_STEP_S:
            found.kill()


def _resident_bytes(process: WorkerIdentity) -> int:
    with suppress(psutil.Error):
        return psutil.Process(process.pid).memory_info().rss
    return 0


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
