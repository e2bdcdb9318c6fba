"""The pool as a process, and how others speak with it. It lives where the driver does: no other node's loss takes it along."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweep.causes import Cause
from sweep.clocks import AwakeClock
from sweep.memory import spare_this_process
from sweep.messages import Answer, EvaluationOrder, Orders, Outcome, Subscription, Sync, TrainingOrder
from sweep.pool import Pool
from trainables.activity import Phase, Watch

NAMESPACE = "sweep"
REPORT_EVERY_S = 1.0


class PoolActor:
    """The pool as a process: questions may wait for their answer without keeping others from asking."""

    def __init__(self, known: Mapping[str, Outcome]) -> None:
        spare_this_process()
        self._pool = Pool(known, clock=AwakeClock())  # nobody is silent because this process was stopped
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

    async def note(self, worker: str, doing: str, phase: Phase) -> None:
        self._pool.note(worker, doing, phase)

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

    def request(self, orders: Iterable[EvaluationOrder], trainings: Iterable[TrainingOrder] = ()) -> None:
        orders, trainings = list(orders), list(trainings)
        if orders or trainings:
            self.actor.tell.remote("request", orders, trainings)

    def close(self, reason: str) -> None:
        self.actor.tell.remote("close", reason)

    def worker_lost(self, worker: str, reason: str, cause: Cause, counts: bool) -> None:
        self.actor.tell.remote("worker_lost", worker, reason, cause, counts)

    def sync(self, worker: str, sync: Sync) -> Orders:
        return ray.get(self.actor.sync.remote(worker, sync))


class Reporter:
    """Passes a worker's notes on to the pool, on a thread of its own, as often as there are new ones."""

    def __init__(self, pool: RemotePool, worker: str, watch: Watch) -> None:
        self._pool, self._worker, self._watch = pool, worker, watch
        self._n_reported = -1
        threading.Thread(target=self._report_for_ever, name="reporter", daemon=True).start()

    def _report_for_ever(self) -> None:
        while True:
            time.sleep(REPORT_EVERY_S)
            if (n_notes := self._watch.n_notes) != self._n_reported:
                self._n_reported, activity = n_notes, self._watch.activity
                try:  # one at a time: a pool that does not answer must not be flooded once it does
                    ray.get(self._pool.actor.note.remote(self._worker, str(activity), activity.phase))
                except ray.exceptions.RayError:  # the pool is gone, and the launch with it
                    return


def start_pool(known: Mapping[str, Outcome], *, name: str) -> Any:
    """`name`: of this launch alone, for trials to find it by; other studies may run on the same Ray."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class = ray.remote(num_cpus=0)(PoolActor)
    return actor_class.options(name=name, namespace=NAMESPACE, scheduling_strategy=here).remote(known)
