"""What studies take on disk, what of it no study needs, and what it would cost to make again: adapters, optimiser states, pictures.

An adapter belongs to the storage: to every study with a trial that reads it. Its optimiser state is needed while a trial may still train
on from there. Reads records and file sizes; knows of adapters only how they lie on disk (trainables/adapters.py writes them)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.folder import ADAPTERS, StudyFolder, live_studies
from sweep.launches import read_launches
from sweep.record_schema import TABLES, TRIALS
from sweep.searcher import PRUNED
from sweep.trial_rows import is_unfinished
from trainables.leases import LEASE, Leases
from trainables.storage import Place, bytes_in, folders_in, remove_tree

if TYPE_CHECKING:
    from sweep.plan import Rates

WEIGHTS, STATE = "adapter.safetensors", "state.safetensors"  # as in trainables/adapters.py, which imports torch
EPOCH = re.compile(r"epoch-(\d{5,})")
NO_ADAPTER = "none"
REMOVING = ".removing-"
"""Begins the name of a folder that is being removed."""
MOST_SIZED = 64
"""Picture folders whose files are sized; of more, every so-manyth one tells for the rest."""


@dataclass(frozen=True)
class Training:
    """What the store holds of one training."""

    key: str
    weights: Mapping[int, int] = field(default_factory=dict)  # epoch -> bytes
    states: Mapping[int, int] = field(default_factory=dict)

    @property
    def n_epochs(self) -> int:
        return max(self.weights, default=0)

    @property
    def n_bytes(self) -> int:
        return sum(self.weights.values()) + sum(self.states.values())


@dataclass(frozen=True)
class StudyUse:
    """What a study needs of the storage."""

    folder: StudyFolder
    keys: frozenset[str]  # trainings that its trials and evaluations are of
    unfinished: frozenset[str]  # of these, trainings that a trial may still train on
    stopped: frozenset[str]  # of these, trainings that early stopping has ended and no other trial reads
    n_evaluations: int
    evaluation_s: float  # what generating and scoring its pictures took


@dataclass(frozen=True)
class Disk:
    """Bytes, and what it takes to make them again. `train_s` is None where no device was measured; `launches_s` is what it took."""

    n_trainings: int
    weights_bytes: int
    states_bytes: int
    pictures_bytes: int
    pictures_exact: bool
    n_epochs: int
    n_evaluations: int
    evaluation_s: float
    train_s: float | None
    launches_s: float

    @property
    def n_bytes(self) -> int:
        return self.weights_bytes + self.states_bytes + self.pictures_bytes


@dataclass(frozen=True)
class Garbage:
    """What `sweep gc` collects of a storage."""

    unused: tuple[Training, ...]  # no study refers to them
    ended: tuple[Training, ...]  # no trial will train them on: their states go
    leftovers: tuple[Place, ...]  # folders that something that was killed was writing or removing

    def still_in(self, now: Garbage) -> Garbage:
        """What is garbage now, too: a study may have been launched since this was looked for."""
        unused, ended = ({t.key for t in trainings} for trainings in (self.unused, self.ended))
        leftovers = set(self.leftovers)
        return Garbage(
            unused=tuple(t for t in now.unused if t.key in unused),
            ended=tuple(t for t in now.ended if t.key in ended),
            leftovers=tuple(path for path in now.leftovers if path in leftovers),
        )

    @property
    def n_trainings(self) -> int:
        return len(self.unused) + len(self.ended)

    @property
    def n_bytes(self) -> int:
        return sum(t.n_bytes for t in self.unused) + self.states_bytes

    @property
    def states_bytes(self) -> int:
        return sum(sum(t.states.values()) for t in self.ended)


def studies_in(storage: Place) -> list[StudyFolder]:
    """The studies of a storage, by name."""
    return [StudyFolder(storage, path.parent.name) for path in sorted(storage.glob("*/study.json")) if not path.parent.name.startswith(".")]


def use_of(folder: StudyFolder, trials: list[dict[str, Any]] | None = None) -> StudyUse:
    """`trials`: the latest row of each, decoded, where somebody has read them already.

    Raises:
        RecordsError: its records are damaged: then nobody knows what it needs."""
    from sweep.records import Records, as_rows

    records = Records(folder.root)
    trials = as_rows(records.latest_trials(), TRIALS) if trials is None else trials
    evaluations = records.evaluations()
    of_evaluation = dict(zip(evaluations["evaluation_key"], evaluations["training_key"], strict=True))
    keys = {row["trial"]: _keys_of(row, of_evaluation) for row in trials}
    unfinished = set(chain.from_iterable(keys[row["trial"]] for row in trials if is_unfinished(row)))
    stopped = set(chain.from_iterable(keys[row["trial"]] for row in trials if row["state"] == PRUNED))
    others = set(chain.from_iterable(keys[row["trial"]] for row in trials if row["state"] != PRUNED))
    seconds = evaluations["seconds_generate"].fillna(0) + evaluations["seconds_score"].fillna(0)
    return StudyUse(
        folder,
        frozenset({*of_evaluation.values(), *chain.from_iterable(keys.values())} - {NO_ADAPTER}),
        frozenset(unfinished),
        frozenset(stopped - others),
        len(evaluations),
        float(seconds.sum()),
    )


def trainings_in(adapters: Place, keys: Iterable[str] | None = None) -> list[Training]:
    """What the store holds of these trainings; None: of all. Those of which it holds nothing are left out."""
    folders = folders_in(adapters) if keys is None else [adapters / key for key in sorted(keys)]
    found = (_training_at(folder) for folder in folders)
    return [training for training in found if training.weights or training.states]


def disk_of(use: StudyUse, rates: Rates | None) -> Disk:
    """What the study takes; adapters that it shares with others are counted with each of them. `rates`: as plan.measured_rates."""
    trainings = trainings_in(use.folder.adapters, use.keys)
    n_epochs = sum(training.n_epochs for training in trainings)
    pictures, exact = _pictures_bytes(use.folder.root / "pictures")
    return Disk(
        n_trainings=len(trainings),
        weights_bytes=sum(sum(t.weights.values()) for t in trainings),
        states_bytes=sum(sum(t.states.values()) for t in trainings),
        pictures_bytes=pictures,
        pictures_exact=exact,
        n_epochs=n_epochs,
        n_evaluations=use.n_evaluations,
        evaluation_s=use.evaluation_s,
        train_s=train_s(n_epochs, rates),
        launches_s=3600 * read_launches(use.folder.launches).hours,
    )


def train_s(n_epochs: int, rates: Rates | None) -> float | None:
    """How long so many epochs take, in packs, on the device that was measured."""
    return None if rates is None else 3600 * n_epochs / rates.epochs_per_hour


def garbage_of(storage: Place, *, keep_states: bool = False) -> Garbage:
    """What no study of the storage refers to, and optimiser states of trainings that no trial will go on with.

    Raises:
        RecordsError: a study's records are damaged."""
    uses = [use_of(folder) for folder in studies_in(storage)]
    used = frozenset().union(*(use.keys for use in uses))
    unfinished = frozenset().union(*(use.unfinished for use in uses))
    stored = trainings_in(storage / ADAPTERS)
    return Garbage(
        unused=tuple(t for t in stored if t.key not in used),
        ended=() if keep_states else tuple(t for t in stored if t.states and t.key in used - unfinished),
        leftovers=tuple(_leftovers(storage)),
    )


def collect(storage: Place, garbage: Garbage) -> Garbage:
    """Remove it, while `removing` keeps launches out. Returns what was removed: a training that
    another process holds stays."""
    adapters = storage / ADAPTERS
    leases = Leases(adapters)
    for path in garbage.leftovers:
        remove_tree(path)
    return Garbage(
        unused=tuple(t for t in garbage.unused if _remove_training(adapters, t.key, leases)),
        ended=tuple(t for t in garbage.ended if _drop_states(adapters, t.key, leases)),
        leftovers=garbage.leftovers,
    )


def drop_states_of_stopped(folder: StudyFolder) -> None:
    """At the end of a launch: trainings that were stopped early will not go on, in this study or
    in another one of the storage.

    While another study runs they stay, for `sweep gc`: what it will train on from is not in its
    records yet."""
    if live_studies(folder.storage, but=folder.root.name):
        return
    stopped = {training.key for training in trainings_in(folder.adapters, use_of(folder).stopped) if training.states}
    if not stopped:
        return
    others = [use_of(other) for other in studies_in(folder.storage) if other.root != folder.root]
    needed = frozenset().union(*(use.unfinished for use in others))
    leases = Leases(folder.adapters)
    for key in sorted(stopped - needed):
        _drop_states(folder.adapters, key, leases)


def own_trainings(folder: StudyFolder) -> list[Training]:
    """Those that no other study of the storage refers to."""
    others = [use_of(other).keys for other in studies_in(folder.storage) if other.root != folder.root]
    return trainings_in(folder.adapters, use_of(folder).keys - frozenset().union(*others))


def stamp_of(folder: StudyFolder) -> frozenset[tuple[Any, ...]]:
    """Another value after anything was written into the study's records."""
    parts = []
    for table in TABLES:
        for part in (folder.root / "records" / table.name).glob("*.parquet"):
            with suppress(FileNotFoundError):  # compacted meanwhile, into one that has another name
                stat = part.stat()
                parts.append((table.name, part.name, stat.st_size, stat.st_mtime))
    return frozenset(parts)


def remove_study(folder: StudyFolder, trainings: Collection[Training]) -> None:
    """The study's folder, and these trainings. What is left when it is interrupted, `sweep gc` collects."""
    aside: Place = folder.root
    if isinstance(aside, Path):  # at once, so that nobody sees half of a study; a store cannot
        aside = folder.storage / f"{REMOVING}{folder.root.name}"
        remove_tree(aside)
        folder.root.rename(aside)
    leases = Leases(folder.adapters)
    for training in trainings:
        _remove_training(folder.adapters, training.key, leases)
    remove_tree(aside)


# ---- private


def _keys_of(row: Mapping[str, Any], of_evaluation: Mapping[str, str]) -> set[str]:
    """A trial's trainings: its own, and by its scored rungs those under its further seeds."""
    scored = {of_evaluation.get(key) for _, _, *keys in row["rung_values"] or [] for key in keys}
    return {key for key in (row["training_key"], *scored) if key} - {NO_ADAPTER}


def _training_at(folder: Place) -> Training:
    weights, states = {}, {}
    for epoch in folders_in(folder):
        if match := EPOCH.fullmatch(epoch.name):
            for sizes, name in ((weights, WEIGHTS), (states, STATE)):
                if (n := _size(epoch / name)) is not None:
                    sizes[int(match[1])] = n
    return Training(folder.name, weights, states)


def _size(path: Place) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _pictures_bytes(folder: Place) -> tuple[int, bool]:
    """Bytes of a study's pictures, and whether they were all counted."""
    sets = folders_in(folder)
    step = max(1, len(sets) // MOST_SIZED)
    sized = sets[::step]
    n_bytes = sum(bytes_in(path) for path in sized)
    return (round(n_bytes * len(sets) / len(sized)) if sized else 0), step == 1


def _leftovers(storage: Place) -> Iterator[Place]:
    for place in (storage, storage / ADAPTERS):
        yield from place.glob(f"{REMOVING}*")
    yield from (storage / ADAPTERS).glob("*/.writing-*")


def _remove_training(adapters: Place, key: str, leases: Leases) -> bool:
    """Whether it was removed: not where another process holds it."""
    if not leases.acquire(key):
        return False
    # A process that asks for it from now on begins anew, and must not lose what it stores: a folder
    # goes at once, and a store file by file but for the claims, of which ours goes last.
    folder = adapters / key
    if isinstance(folder, Path):
        aside = adapters / f"{REMOVING}{key}-{uuid.uuid4().hex[:8]}"
        folder.rename(aside)
        leases.release(key)
        remove_tree(aside)
    else:
        files = [path for path in folder.rglob("*") if path.is_file()]
        for file in [path for path in files if path.parent.name != LEASE]:
            file.unlink(missing_ok=True)
        leases.release(key)
    return True


def _drop_states(adapters: Place, key: str, leases: Leases) -> bool:
    """Whether its states were removed: not where another process holds it."""
    if not leases.acquire(key):
        return False
    for path in (adapters / key).glob(f"epoch-*/{STATE}"):
        path.unlink(missing_ok=True)
    leases.release(key)
    return True
