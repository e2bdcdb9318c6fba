"""How many trainings a pack should hold on this device: measured, not guessed.

Packing gains until the device is busy; a wrong guess costs a factor. Nothing here decides which trainings meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from trainables.activity import Phase, within
from trainables.config import TrainConfig
from trainables.frozen import FrozenWork
from trainables.out_of_memory import free_memory, is_out_of_memory
from trainables.pack import Pack
from trainables.subject import Subject

SIZES = (1, 2, 4, 8, 16, 32)
WARM_STEPS, TIMED_STEPS = 1, 3
WORTH_DOUBLING = 0.95
"""A doubled pack is taken if an adapter-step then costs less than this share of before."""


@dataclass(frozen=True)
class Probe:
    """`best` is the chosen number of slots; `seconds_per_adapter_step` holds what was measured, by size."""

    best: int
    seconds_per_adapter_step: Mapping[int, float]


def probe_pack_size(
    frozen: FrozenWork,
    config: TrainConfig,
    subject: Subject,
    *,
    largest: int = SIZES[-1],
    pack_options: Mapping[str, bool] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Probe:
    """Time packs of 1, 2, 4, ... trainings for a few steps each, until doubling no longer pays, memory ends, or `largest` is reached.
    `pack_options`: keyword arguments of Pack.

    Raises:
        ModelError, SubjectError, ConfigError: the configuration cannot be trained at all.
        an error of which `is_out_of_memory` is true: not even one training fits."""
    new_pack = partial(Pack, frozen.parts(config.train_model, config.train_vae, config.dtype), frozen, **(pack_options or {}))
    measured: dict[int, float] = {}
    for size in (s for s in SIZES if s <= largest):
        try:
            with within(Phase.MEASURING, f"S={size}"):
                measured[size] = _seconds_per_adapter_step(new_pack(), config, subject, size, clock)
        except Exception as error:
            if not measured or not is_out_of_memory(error):
                raise
        if size not in measured:
            free_memory()
            break
        if size > 1 and measured[size] > WORTH_DOUBLING * measured[size // 2]:
            break
    return Probe(best_size(measured), measured)


def best_size(seconds_per_adapter_step: Mapping[int, float]) -> int:
    """The size from which doubling no longer pays; 1 where packing loses."""
    best = min(seconds_per_adapter_step)
    for size in sorted(seconds_per_adapter_step):
        if seconds_per_adapter_step[size] < WORTH_DOUBLING * seconds_per_adapter_step[best]:
            best = size
    return best


def _seconds_per_adapter_step(pack: Pack, config: TrainConfig, subject: Subject, size: int, clock: Callable[[], float]) -> float:
    for seed in range(size):
        # A schedule that depends on the length has no influence on a step's time.
        pack.add(str(seed), replace(config, train_seed=seed, lr_schedule="constant"), subject)
    pack.advance(max_steps=WARM_STEPS)
    # The fastest step: what else runs while a study starts, other workers above all, only ever adds to one.
    return min(_step_seconds(pack, clock) for _ in range(TIMED_STEPS)) / size


def _step_seconds(pack: Pack, clock: Callable[[], float]) -> float:
    _wait(pack.device)
    started = clock()
    pack.advance(max_steps=1)
    _wait(pack.device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
