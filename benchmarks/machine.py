"""What a benchmark ran on, and how two sides are timed against each other. Shared by all benchmarks; measures nothing of its own."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.cores import n_cores

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "ray", "optuna", "lpips", "torch-fidelity", "numpy")


def machine() -> dict[str, Any]:
    """CPU, cores, memory, load, GPUs and package versions, ready for JSON. Imports torch."""
    import torch

    return {
        "cpu": _cpu_name(),
        "n_cores": n_cores(),
        "n_threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "load_1_min": round(os.getloadavg()[0], 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def described(facts: Mapping[str, Any]) -> str:
    """Two lines for people."""
    gpus = ", ".join(facts["gpus"]) or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['cpu']}, {facts['n_cores']} cores, {facts['n_threads']} threads, {facts['memory_gib']} GiB, {gpus},"
        f" load {facts['load_1_min']}\nPython {facts['python']}, {versions}"
    )


def seconds_in_turn(
    sides: Mapping[str, Callable[[], Any]], *, n_rounds: int, synchronize: Callable[[], None] | None = None
) -> dict[str, list[float]]:
    """Wall seconds of every side in every round, one side after the other in each, so that a busy spell hits both.

    Every side runs once before, untimed, if `n_rounds` > 1. `synchronize` waits for a device before a clock is read.
    """
    wait = synchronize or (lambda: None)
    if n_rounds > 1:
        for side in sides.values():
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(n_rounds):
        for name, side in sides.items():
            wait()
            start = time.perf_counter()
            side()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the rounds' ratios: how many times faster the second is."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError, AttributeError):  # not told on this system
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(described(machine()))
