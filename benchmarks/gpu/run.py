"""What all steps share: device, model, clock, log; and how time and memory are read.

Measures nothing of its own."""

from __future__ import annotations

import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from trainables.config import TrainConfig
from trainables.frozen import FrozenWork
from trainables.pack import Pack
from trainables.subject import load_subject

BATCH, RANK = 2, 32
WARM_STEPS, TIMED_STEPS = 3, 10
GIB = 2**30
PRODUCTS, CONVOLUTIONS = torch.backends.cuda.matmul, torch.backends.cudnn.conv


@dataclass
class Run:
    """What all steps share: the device, the model's folder, the clock, and where lines go."""

    device: str
    small: bool
    deadline: float
    log: Path | None
    folder: Path
    model: str = ""
    ceiling_tflops: float = math.nan  # of a bfloat16 product
    lines: list[str] = field(default_factory=list)
    _frozen: tuple[str, FrozenWork] | None = None

    def frozen(self, dtype: str = "bfloat16") -> FrozenWork:
        """The model, loaded in one precision at a time; drawn latents instead of encoded ones."""
        if self._frozen is None or self._frozen[0] != dtype:
            self._frozen = None
            free(self)
            self._frozen = dtype, FrozenWork(self.device)
            parts = self._frozen[1].parts(self.model, None, dtype)
            n_images = len(load_subject("embedded:subject").train)
            latents = torch.randn(
                n_images, *parts.latent_shape, generator=torch.Generator().manual_seed(0)
            ).to(self.device)
            self._frozen[1].latents = lambda *_, **__: latents
        return self._frozen[1]

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def mfu(self, tflop_per_s: float) -> str:
        """The share of the card's measured product speed; on a CPU it would mean nothing."""
        return f"MFU {100 * tflop_per_s / self.ceiling_tflops:.0f} %" if self.cuda else "no MFU"

    def say(self, step: str, text: str, **numbers: Any) -> None:
        line = f"{step:10} {text}"
        self.lines.append(line)
        print(line, flush=True)
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "text": text, **numbers}) + "\n")


def wait(run: Run) -> None:
    if run.cuda:
        torch.cuda.synchronize()


def timed(run: Run, work: Callable[[], object]) -> float:
    wait(run)
    started = time.perf_counter()
    work()
    wait(run)
    return time.perf_counter() - started


def median_s(run: Run, work: Callable[[], object], *, n_rounds: int) -> float:
    work()
    return statistics.median(timed(run, work) for _ in range(n_rounds))


def gib(run: Run) -> float:
    return torch.cuda.memory_allocated() / GIB if run.cuda else math.nan


@contextmanager
def peak_gib(run: Run) -> Iterator[Callable[[], float]]:
    if run.cuda:
        torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() / GIB if run.cuda else math.nan


def free(run: Run) -> None:
    gc.collect()
    if run.cuda:
        torch.cuda.empty_cache()


@contextmanager
def fp32_precision(precision: str, *settings: Any) -> Iterator[None]:
    """What float32 means on a GPU, "ieee" or "tf32", in PRODUCTS, CONVOLUTIONS, or both."""
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        yield
    finally:
        for setting, old in zip(settings, before, strict=True):
            setting.fp32_precision = old


def new_pack(
    run: Run,
    size: int,
    *,
    dropout: float,
    dtype: str = "bfloat16",
    pack: Mapping[str, bool] | None = None,
) -> Pack:
    """A pack of `size` trainings of the model, rank 32, batch 2 each."""
    config = TrainConfig(
        train_model=run.model,
        rank=RANK,
        alpha=16.0,
        dropout=dropout,
        dtype=dtype,
        learning_rate=1e-4,
    )
    frozen, subject = run.frozen(dtype), load_subject("embedded:subject")
    parts = frozen.parts(run.model, None, dtype)
    parts.unet.disable_gradient_checkpointing()  # it would stay on from an earlier pack
    filled = Pack(parts, frozen, **(pack or {}))
    for seed in range(size):
        filled.add(str(seed), replace(config, train_seed=seed), subject)
    return filled
