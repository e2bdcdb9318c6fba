"""Stand-ins for what takes seconds: a device that computes its results from the configuration, and records in memory.

`FakeDevice` keeps the contract of sweep.worker.Device, so whole studies run through the real pool, worker, searcher and
scheduler in milliseconds."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray import tune

from sweep.causes import Cause
from sweep.messages import EvaluationOrder, TrainingOrder, TrainingReport
from sweep.objective import Objective
from sweep.searcher import FAIL, RUNNING
from sweep.trial_rows import Trial
from sweep.worker import ScoredImages
from trainables.config import TrainConfig
from trainables.errors import ConfigError

BACKBONES = {"perceptual": "embedded:perceptual", "pooled": "embedded:pooled"}
OBJECTIVE = Objective(lpips=0.5, fid=0.5, scales={"lpips": 1.0, "fid": 200.0})
SPACE = {
    "rank": tune.choice([4, 8, 16, 32]),
    "learning_rate": tune.choice([1e-4, 1e-3, 1e-2]),
    "guidance": tune.choice([2.0, 4.0, 8.0]),
}


class FakeSubject:
    reference_digest = "r"
    trigger = "J3NN13"
    caption_versions = ("v1", "v2")
    train, heldout = ("image",) * 5, ("image",) * 2
    heldout = ()

    def training_digest(self, version: str, *, masks: bool = False) -> str:
        return f"digest of {version}"


class FakeContent:
    def subject(self, name: str) -> FakeSubject:
        return FakeSubject()

    def model_digest(self, model: str, vae: str | None) -> str:
        return f"{model}+{vae}"

    digest_for_training = digest_for_pictures = model_digest

    def resolution(self, model: str, vae: str | None) -> int:
        return 64

    def require_model(self, model: str, vae: str | None) -> None:
        pass

    def require_vae(self, vae: str) -> None:
        pass

    def require_network(self, name: str) -> None:
        pass


def synthetic_values(config: TrainConfig | None, epoch: int, guidance: float) -> dict[str, float]:
    """A landscape with one best place: rank 16, learning rate 1e-3, guidance 4; more epochs help, and every further seed adds 0.01."""
    if config is None:
        return {"lpips": 0.9, "fid": 180.0}
    miss = math.log2(config.rank / 16) ** 2 + math.log10(config.learning_rate / 1e-3) ** 2 + ((guidance - 4) / 4) ** 2
    lpips = 0.3 + 0.05 * miss + 0.3 * math.exp(-epoch / 4) + 0.01 * config.train_seed
    return {"lpips": lpips, "fid": 200 * lpips}


@dataclass
class FakeDevice:
    """A device whose epochs take `epoch_s` seconds and whose adapters are marks in a folder or a set."""

    n_slots: int = 8
    n_image_sets: int = 8
    epoch_s: float = 0.0
    open_s: float = 0.0
    folder: Path | None = None  # where adapters are marked, so that other processes see them
    diverges: Callable[[TrainConfig], bool] = lambda config: False
    log: list[tuple] = field(default_factory=list)
    stored: dict[tuple[str, int], TrainConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._slots: dict[str, list] = {}  # key -> [order, epoch]

    @property
    def held(self) -> tuple[str, ...]:
        return tuple(self._slots)

    def open(self) -> None:
        time.sleep(self.open_s)

    def start(self, order: TrainingOrder) -> TrainingReport:
        if order.config.rank > 512:
            raise ConfigError(f"`rank` must fit the model, but it is {order.config.rank}. Use e.g. 16.")
        stored = tuple(e for e in range(1, 400) if self._is_stored(order.key, e))
        missing = [e for e in order.epochs if e not in stored]
        first = max((e for e in stored if missing and e < missing[0]), default=0)
        self.log.append(("start", order.key, first))
        if not missing:
            return TrainingReport(order.key, max(order.epochs), stored=stored)
        self._slots[order.key] = [order, first]
        return TrainingReport(order.key, first, stored=stored)

    def stop(self, key: str) -> None:
        self.log.append(("stop", key))
        self._slots.pop(key, None)

    def advance(self) -> list[TrainingReport]:
        time.sleep(self.epoch_s)
        self.log.append(("advance", self.held))
        return [self._epoch(key) for key in self.held]

    def save(self, key: str) -> None:
        order, epoch = self._slots[key]
        self.stored[key, epoch] = order.config
        if self.folder is not None:
            _write_whole(self.folder / f"{key}@{epoch}", json.dumps(asdict(order.config)))
        self.log.append(("save", key, epoch))

    def evaluate(self, orders: Sequence[EvaluationOrder]) -> list[ScoredImages]:
        self.log.append(("evaluate", tuple(order.key for order in orders)))
        return [self._image_set(order) for order in orders]

    def _stored_config(self, key: str, epoch: int) -> TrainConfig:
        if self.folder is None:
            return self.stored[key, epoch]
        return TrainConfig(**json.loads((self.folder / f"{key}@{epoch}").read_text()))

    def _is_stored(self, key: str, epoch: int) -> bool:
        return (key, epoch) in self.stored or (self.folder is not None and (self.folder / f"{key}@{epoch}").exists())

    def _epoch(self, key: str) -> TrainingReport:
        slot = self._slots[key]
        slot[1] += 1
        if self.diverges(slot[0].config):
            del self._slots[key]
            return TrainingReport(key, slot[1], error=f"training diverged in epoch {slot[1]}: the loss is not finite", cause=Cause.CONFIGURATION)
        return TrainingReport(key, slot[1], mean_loss=1 / slot[1], seconds_per_epoch=self.epoch_s)

    def _image_set(self, order: EvaluationOrder) -> ScoredImages:
        assert order.training_key is None or self._is_stored(order.training_key, order.epoch), order
        config = self._stored_config(order.training_key, order.epoch) if order.training_key else None
        n = order.config.n_images
        return ScoredImages(
            key=order.key,
            values=synthetic_values(config, order.epoch, order.config.guidance),
            backbones=BACKBONES,
            images=np.zeros((n, 4, 4, 3), np.uint8),
            image_rows=[{"prompt": "p", "seed": i, "seen": True, "lpips": 0.5, "lpips_nearest": 0.4, "nearest_reference": "train/0000.png"} for i in range(n)],
            row={"seconds_generate": 0.01, "seconds_score": 0.01, "device": "fake", "n_images": n},
        )


@dataclass
class MemoryRecords:
    """Keeps what a worker and a driver record, in order."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # of evaluations
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)  # of trials, by id

    def append_evaluation(self, row: dict[str, Any], image_rows: Sequence[dict[str, Any]], pictures: Any) -> None:
        assert len(image_rows) == len(pictures)
        self.rows.append(dict(row))

    def append_trial(self, row: dict[str, Any]) -> None:
        assert row["sequence"] == self.latest.get(row["trial"], {"sequence": -1})["sequence"] + 1, row
        self.latest[row["trial"]] = {**row, "rung_values": list(row["rung_values"]), "configuration": dict(row["configuration"])}


class FakeClock:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class FakeDeviceMaker:
    """Makes a FakeDevice in a worker's process. `dies_at` is a mark: the first worker to see it missing writes it and ends its process."""

    epoch_s: float = 0.0
    dies_at: Path | None = None

    def __call__(self, spec: Any) -> FakeDevice:
        spec.adapters.mkdir(parents=True, exist_ok=True)
        device = FakeDevice(epoch_s=self.epoch_s, folder=spec.adapters)
        return DyingDevice(**vars_of(device), mark=self.dies_at) if self.dies_at is not None else device


@dataclass
class DyingDevice(FakeDevice):
    """Ends its process in its second epoch, once: then the mark is there."""

    mark: Path | None = None

    def advance(self) -> list[TrainingReport]:
        if self.mark is not None and not self.mark.exists() and any(slot[1] for slot in self._slots.values()):
            self.mark.touch()
            os._exit(1)
        return super().advance()


def _write_whole(path: Path, text: str) -> None:
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


def vars_of(device: FakeDevice) -> dict[str, Any]:
    return {"epoch_s": device.epoch_s, "folder": device.folder}


def a_trial(number: int, state: str = RUNNING, *rungs: tuple[int, float], **rest: Any) -> Trial:
    named = [(epoch, value, f"key{number}@{epoch}") for epoch, value in rungs]
    return Trial(f"t{number:04d}", number, {"rank": 8}, state=state, rungs=named, max_epochs=12, **rest)


def a_driver(*trials: Trial, n_trials: int = 10, now: bool = True, **rest: Any) -> SimpleNamespace:
    """What a view sees of a driver. `now`: this launch has started its trials."""
    scored = [t for t in trials if t.rungs and t.state != FAIL]
    seen = {
        "study": SimpleNamespace(name="s", objective=OBJECTIVE, train_seeds=1),
        "trials": {t.id: t for t in trials},
        "live": [t for t in trials if t.state == RUNNING],
        "best": min(scored, key=lambda t: t.objective, default=None),
        "started_now": {t.id for t in trials} if now else set(),
        "n_trials": n_trials,
        "controls": {"c"},
        "photographs": set(),
        "metrics": {},
        "stopping": None,
        "stop_cause": None,
        "paused": False,
        "finished": False,
    }
    return SimpleNamespace(**{**seen, **rest})
