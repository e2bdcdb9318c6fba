"""How much of this machine's memory is in use, within the limit of its container. What is done when it is short is the fleet's business.

Ray's own monitor is switched off in a Ray that a launch starts: it kills every process, the small ones that hold the study together too."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

THRESHOLD_SETTING = "RAY_memory_usage_threshold"
DEFAULT_THRESHOLD = 0.95


@dataclass(frozen=True)
class MemoryUse:
    """`used` of `total` bytes. What the kernel gives back when it is asked for counts as free."""

    used: int
    total: int

    @property
    def share(self) -> float:
        return self.used / self.total

    def __str__(self) -> str:
        return f"{self.used / 1e9:.1f} of {self.total / 1e9:.1f} GB are in use"


def memory_use(cgroup: Path = Path("/sys/fs/cgroup")) -> MemoryUse:
    """Of the machine, or of the container where that has less."""
    machine = psutil.virtual_memory()
    whole = MemoryUse(machine.total - machine.available, machine.total)
    own = _use_of(cgroup, "memory.max", "memory.current", "inactive_file")
    own = own or _use_of(cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return own if own is not None and own.total < whole.total else whole


def memory_threshold() -> float:
    """The share in use from which the machine is short of memory: that of Ray, and its variable."""
    try:
        share = float(os.environ.get(THRESHOLD_SETTING, DEFAULT_THRESHOLD))
    except ValueError:
        return DEFAULT_THRESHOLD
    return share if 0 < share <= 1 else DEFAULT_THRESHOLD


def n_kernel_kills(vmstat: Path = Path("/proc/vmstat")) -> int | None:
    """How many processes the kernel has killed for memory since the machine started; None where it does not say."""
    with suppress(OSError, ValueError):
        for line in vmstat.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def spare_this_process() -> None:
    """Let the kernel kill others first: Ray offers all processes that it starts as victims."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("0")


def _use_of(cgroup: Path, limit: str, use: str, cache: str) -> MemoryUse | None:
    try:
        total, used = int((cgroup / limit).read_text()), int((cgroup / use).read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return MemoryUse(max(0, used - int(stat.get(cache, 0))), total)
    except (OSError, ValueError):  # no such file, or "max": there is no limit
        return None
