"""Which of the waiting trainings are a worker's share, so that packs fill and no device idles. Arithmetic over the pool's entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sweep.pool_entries import TrainingEntry, WorkerEntry
from trainables.config import pack_signature

JOINING_COST = 0.4
"""What one more training adds to a pack's step, where the first costs 1. Of all that is measured only the order of size matters here."""


def with_room(waiting: Sequence[TrainingEntry], held: Sequence[TrainingEntry]) -> list[TrainingEntry]:
    """Those that may join what a worker has: a last attempt is made alone."""
    if any(training.attempts.is_last for training in held):
        return []
    others = [training for training in waiting if not training.attempts.is_last]
    return others if held or others else list(waiting[:1])


def share_of(
    worker: str,
    waiting: Sequence[TrainingEntry],
    held: Mapping[str, Sequence[TrainingEntry]],
    workers: Mapping[str, WorkerEntry],
    now: float,
) -> list[TrainingEntry]:
    """This worker's share if all that wait were spread now, each to where the least is to do then; first what joins a pack of its.

    Workers that are still loading have a share too. What can meet few others in a pack is placed first, the rest around it.
    `held`: by worker, the trainings that it has."""
    packs = {name: Counter(pack_signature(training.config) for training in own) for name, own in held.items()}
    n_alike = Counter(pack_signature(training.config) for training in waiting)
    has = set(packs[worker])
    mine = []
    for training in sorted(waiting, key=lambda t: n_alike[pack_signature(t.config)]):
        signature = pack_signature(training.config)
        free = [name for name in packs if name == worker or packs[name].total() < workers[name].n_slots]
        devices = {workers[name].device for name in free}
        suited = [name for name in free if training.attempts.suits(workers[name].device, devices, now)]
        chosen = min(suited or free, key=lambda name: (_load(packs[name] + Counter([signature])), name != worker))
        packs[chosen][signature] += 1
        if chosen == worker:
            mine.append(training)
    return sorted(mine, key=lambda training: (pack_signature(training.config) not in has, waiting.index(training)))


def _load(packs: Counter) -> float:
    """What a step of each of a worker's packs costs; they take turns."""
    return sum(1 + JOINING_COST * (n - 1) for n in packs.values() if n)
