"""Generated pictures per second, beside StableDiffusionPipeline."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.run import Run, median_s, new_pack, peak_gib, timed, wait
from trainables.config import EvalConfig
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.lora import Adapter
from trainables.models import decode_latents

TFLOP_PER_UNET_PASS = 0.803


def generation(run: Run) -> None:
    """Pictures per second at 50 guided steps; decoding and PNGs apart; the pipeline beside it."""
    frozen = run.frozen()
    parts = frozen.parts(run.model, None, "bfloat16")
    pack = new_pack(run, 4, dropout=0.0)
    pack.advance(max_steps=2)
    adapters = [pack.adapter(key) for key in pack.keys]
    steps = 4 if run.small else 20
    for n_adapters, n_images in (
        ((1, 1), (4, 4)) if run.small else ((1, 1), (1, 4), (1, 16), (4, 20))
    ):
        _generation_line(run, frozen, parts, adapters[:n_adapters], n_images, steps)
    for n in (1, 4, 16):
        latents = torch.randn(n, *parts.latent_shape, device=run.device)
        with peak_gib(run) as peak:
            seconds = median_s(
                run, lambda latents=latents: decode_latents(parts, latents), n_rounds=3
            )
        run.say(
            "generation",
            f"decoding {n:2}: {n / seconds:.2f} pictures/s, peak {peak():.2f} GiB",
            n=n,
            pictures_s=n / seconds,
        )
    _png_line(run, parts)
    del pack
    _pipeline_line(run, steps)


def _generation_line(
    run: Run, frozen: FrozenWork, parts: Any, adapters: Sequence[Adapter], n_images: int, steps: int
) -> None:
    if run.left_s <= 0:
        return
    config = EvalConfig(
        infer_model=run.model,
        prompts=("{trigger}, close-up",),
        images_per_prompt=n_images,
        steps=steps,
        infer_dtype="bfloat16",
    )
    sets = [ImageSet(adapter, config, "J3NN13") for adapter in adapters]
    marks: list[float] = []

    def mark(done: int, total: int) -> None:
        wait(run)
        marks.append(time.perf_counter())

    generate(
        parts,
        [ImageSet(s.adapter, replace(config, steps=2), "J3NN13") for s in sets],
        frozen=frozen,
    )
    with peak_gib(run) as peak:
        seconds = timed(run, lambda: generate(parts, sets, frozen=frozen, on_step=mark))
    n = len(adapters) * n_images
    per_step = (marks[-1] - marks[0]) / (len(marks) - 1)
    at_50 = n / (seconds + (50 - steps) * per_step)
    text = f"{len(adapters)} x {n_images:2}: {at_50:.2f} pictures/s at 50 steps (from {steps})"
    speed = f"{1e3 * per_step:.0f} ms a step, {run.mfu(2 * n * TFLOP_PER_UNET_PASS / per_step)}"
    numbers = {"pictures_s": at_50, "n": n, "peak_gib": peak()}
    run.say("generation", f"{text}, {speed}, peak {peak():.2f} GiB", **numbers)


def _png_line(run: Run, parts: Any) -> None:

    pixels = np.random.default_rng(0).integers(
        0, 256, (parts.resolution, parts.resolution, 3), dtype=np.uint8
    )
    started = time.perf_counter()
    for _ in range(5):
        Image.fromarray(pixels).save(io.BytesIO(), "PNG")
    run.say(
        "generation",
        f"a PNG of noise takes {1e3 * (time.perf_counter() - started) / 5:.0f} ms on one core",
    )


def _pipeline_line(run: Run, steps: int) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        run.model, torch_dtype=torch.bfloat16, safety_checker=None
    ).to(run.device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline("a photo", num_inference_steps=2)
    for n in (1, 4):
        seconds = timed(
            run, lambda n=n: pipeline("a photo", num_inference_steps=steps, num_images_per_prompt=n)
        )
        rate = n / seconds * steps / 50
        run.say(
            "generation",
            f"StableDiffusionPipeline, {n} at once: {rate:.2f} pictures/s, 50 steps (from {steps})",
            pictures_s=rate,
        )
