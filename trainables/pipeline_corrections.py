"""What StableDiffusionPipeline corrects in a model's configuration before it generates: the same
corrections, as functions.

Old model folders hold settings that spoil pictures; diffusers mends them when a pipeline is made,
so a model's pictures are known with them. Nothing here loads a model. What a pipeline passes on
unchanged (thresholding, skip_prk_steps, timestep_spacing) is not touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packaging import version

from trainables.model_folders import read_config
from trainables.model_sources import ModelSource, model_digest

SCHEDULER_CORRECTIONS = {"steps_offset": 1, "clip_sample": False}
"""Of every scheduler that has the setting, whatever its configuration says or leaves out."""
LEAST_SAMPLE_SIZE = 64
"""A UNet that was saved before CORRECTED_BEFORE and says less was saved with a wrong default."""
CORRECTED_BEFORE = "0.9.0"


def corrected_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler's configuration as the pipeline uses it."""
    return {**config, **SCHEDULER_CORRECTIONS}


def corrected_sample_size(unet_config: Mapping[str, Any]) -> int | list[int]:
    """How many latents a side has, or [height, width], as the pipeline uses it."""
    return LEAST_SAMPLE_SIZE if _has_wrong_default(unet_config) else unet_config["sample_size"]


def digest_for_training(source: ModelSource) -> str:
    """`model_digest`; another one where trainings differ from those made before corrections
    were."""
    return model_digest(source) + _mark(source, of_pictures=False)


def digest_for_pictures(source: ModelSource) -> str:
    """`model_digest`; another one where pictures differ from those made before corrections were."""
    return model_digest(source) + _mark(source, of_pictures=True)


def _mark(source: ModelSource, *, of_pictures: bool) -> str:
    scheduler = read_config(source.scheduler.folder, "scheduler_config.json")
    # Before, a silent configuration had steps_offset 0, every scheduler's default, and clip_sample
    # False.
    spoils = scheduler.get("clip_sample", False) is True or scheduler.get("steps_offset", 0) != 1
    corrected = ["sample_size"] * _has_wrong_default(read_config(source.unet.folder)) + [
        "scheduler"
    ] * (of_pictures and spoils)
    return f" corrected: {', '.join(corrected)}" if corrected else ""


def _has_wrong_default(unet_config: Mapping[str, Any]) -> bool:
    size, saved_by = unet_config.get("sample_size"), unet_config.get("_diffusers_version")
    old = saved_by is not None and version.parse(
        version.parse(saved_by).base_version
    ) < version.parse(f"{CORRECTED_BEFORE}.dev0")
    return old and isinstance(size, int) and size < LEAST_SAMPLE_SIZE
