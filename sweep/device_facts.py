"""What this process can say of its device for records and messages: its kind, its name, the versions of what computes on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import cache

import torch

from sweep.errors import DeviceError

PACKAGES = ("torch", "diffusers", "transformers", "peft", "lpips", "torch-fidelity", "numpy")


def device_kind(wanted: str) -> str:
    """"cpu" or "cuda" for --device, as far as this process sees a GPU.

    Raises: DeviceError where the wanted one is not there."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"`--device` must be auto, cpu or cuda, but it is {wanted!r}.")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceError("`--device cuda` needs a GPU, but torch sees none. Use --device cpu.")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


@cache
def device_name(device: str) -> str:
    """The device as a record names it."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu {platform.machine()}, {os.cpu_count()} cores"


@cache
def versions() -> dict[str, str]:
    """Of Python and the packages that numbers come from."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
