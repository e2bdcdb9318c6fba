"""How many cores this process may use. The one place that asks; macOS and Windows cannot say which cores a process is kept to."""

from __future__ import annotations

import os


def n_cores() -> int:
    """Those that the system lets this process run on (taskset, Slurm, a container), or all of the machine where it cannot say; at least 1."""
    kept_to = getattr(os, "sched_getaffinity", None)
    return len(kept_to(0)) if kept_to is not None else os.cpu_count() or 1
