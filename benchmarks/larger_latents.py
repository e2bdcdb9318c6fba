"""embedded:base at other sizes of its latents, for the benchmarks: the same weights, asked for larger pictures. Their content is no
matter there: a step and a picture take as long as with a model of that size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.naive import EMBEDDED

USUAL = 8


def model_at(latents: int, folder: Path) -> str:
    """A name for benchmarks to load: the embedded model itself at its usual 8, else a copy in `folder` that makes latents x latents."""
    if latents == USUAL:
        return "embedded:base"
    shutil.copytree(EMBEDDED / "base", folder / "model")
    file = folder / "model" / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sample_size": latents}))
    return str(folder / "model")


def at_latents(latents: int) -> str:
    """What a title says of a size that is not the usual one."""
    return "" if latents == USUAL else f", {latents}x{latents} latents"
