"""What a trial costs when its training costs nothing: whole studies through Ray Tune with a device that computes its numbers at once.

    python -m benchmarks.overhead [--trials 200] [--write]

The marginal time is the difference between a study of `--trials` trials and one of 20, over the difference of their trials."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from sweep import Epochs, Objective, Study
from sweep.messages import EvaluationOrder, TrainingOrder, TrainingReport
from sweep.runner import Launch, launch
from sweep.worker import ScoredImages

FEW = 20


class InstantDevice:
    """Keeps the contract of sweep.worker.Device; an epoch and an image set take no time, and a value follows from the configuration."""

    n_slots, n_image_sets = 8, 8

    def __init__(self) -> None:
        self._slots: dict[str, list[Any]] = {}  # key -> [order, epoch]
        self._configs: dict[str, Any] = {}

    @property
    def held(self) -> tuple[str, ...]:
        return tuple(self._slots)

    def open(self) -> None:
        pass

    def start(self, order: TrainingOrder) -> TrainingReport:
        self._slots[order.key], self._configs[order.key] = [order, 0], order.config
        return TrainingReport(order.key, 0)

    def stop(self, key: str) -> None:
        self._slots.pop(key, None)

    def advance(self) -> list[TrainingReport]:
        for slot in self._slots.values():
            slot[1] += 1
        return [TrainingReport(key, epoch, mean_loss=1.0, seconds_per_epoch=0.0) for key, (_, epoch) in self._slots.items()]

    def save(self, key: str) -> None:
        pass

    def evaluate(self, orders: Sequence[EvaluationOrder]) -> list[ScoredImages]:
        return [self._image_set(order) for order in orders]

    def _image_set(self, order: EvaluationOrder) -> ScoredImages:
        config = self._configs.get(order.training_key)
        value = 1.0 if config is None else abs(np.log10(config.learning_rate) + 3) + 1 / order.epoch
        row = {"seconds_generate": 0.0, "seconds_score": 0.0, "device": "none"}
        return ScoredImages(order.key, {"lpips": value, "fid": value}, {"perceptual": "embedded:perceptual", "pooled": "embedded:pooled"}, row=row)


def make_device(spec: Any) -> InstantDevice:
    return InstantDevice()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    few, many = seconds_of_study(FEW), seconds_of_study(arguments.trials)
    lines = [
        "TPE, ASHA, rungs at 1, 2 and 3 epochs, 8 trials at a time, records of every state and score, training that does nothing",
        f"{FEW:4} trials {few:7.1f} s",
        f"{arguments.trials:4} trials {many:7.1f} s",
        f"marginal {(many - few) / (arguments.trials - FEW):.3f} s per trial",
    ]
    report("python -m benchmarks.overhead", "Overhead of a trial", lines, write=arguments.write, facts=facts)


def seconds_of_study(n_trials: int) -> float:
    """Wall time of a launch, from starting Ray to the last record."""
    study = Study(
        name="overhead",
        space={"learning_rate": tune.loguniform(1e-5, 1e-1), "rank": tune.choice([4, 8, 16])},
        epochs=Epochs(max=3, rungs=(1, 2)),
        objective=Objective(lpips=1.0, scales={"lpips": 1.0}),
        samples=n_trials,
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        driver, _ = launch(study, Launch(Path(folder), make_device=make_device))
        seconds = time.perf_counter() - started
    assert len(driver.trials) == n_trials and driver.best is not None
    print(f"{n_trials} trials: {seconds:.1f} s", flush=True)
    return seconds


if __name__ == "__main__":
    main()
