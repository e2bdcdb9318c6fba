"""The orchestra: reads study files, runs Ray Tune over them, keeps the records, owns the command line."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Looked up on first use, so that `import sweep.records` stays free of everything that a study needs.
_HOMES = {"Epochs": "sweep.study", "Objective": "sweep.objective", "Prompt": "trainables.config", "Scale": "sweep.scale", "Study": "sweep.study"}

__all__ = ["Epochs", "Objective", "Prompt", "Scale", "Study"]  # noqa: F822


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sweep' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
