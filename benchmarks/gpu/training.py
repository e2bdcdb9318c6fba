"""Training: pictures per second, memory and kernels of packs, beside a plain diffusers loop."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from benchmarks.gpu.run import (
    BATCH,
    PRODUCTS,
    RANK,
    TIMED_STEPS,
    WARM_STEPS,
    Run,
    fp32_precision,
    free,
    median_s,
    new_pack,
    peak_gib,
    timed,
    wait,
)
from trainables.pack import Pack

TFLOP_PER_TRAINED_PICTURE = 1.78
"""Forward 0.803, backward without weight gradients 0.978: SD1.5's UNet, counted on meta tensors."""


def training(run: Run) -> None:
    """Pictures per second by pack size, dropout, precision, checkpointing; a plain loop beside."""
    sizes = (2,) if run.small else (1, 2, 4, 8, 16)
    alone = _plain_loop(run)
    for dropout in (0.1, 0.0):
        for autocast in (True, False):
            for size in sizes:
                _training_line(
                    run,
                    size,
                    f"bfloat16 dropout {dropout} autocast {autocast}",
                    alone,
                    dropout=dropout,
                    pack={"autocast": autocast},
                )
    for size in (2,) if run.small else (8, 16, 32):
        _training_line(
            run,
            size,
            "bfloat16 dropout 0.1 checkpointed",
            alone,
            dropout=0.1,
            pack={"gradient_checkpointing": True},
        )
    for size in (1,) if run.small else (1, 4):
        _training_line(run, size, "float32 dropout 0.1", alone, dropout=0.1, dtype="float32")
    if run.cuda:
        with fp32_precision("tf32", PRODUCTS):
            _training_line(
                run, 4, "float32 (TF32 products) dropout 0.1", alone, dropout=0.1, dtype="float32"
            )
    _profile(run, 2 if run.small else 4)


def compilation(run: Run) -> None:
    """torch.compile of the step: seconds until the first steps are done, and what it brings."""
    if run.left_s < 60 or not run.cuda:
        run.say("compile", "left out: it needs a GPU and more than a minute")
        return
    size = 4
    pack = new_pack(run, size, dropout=0.1, pack={"compile": True})
    seconds = timed(run, lambda: pack.advance(max_steps=WARM_STEPS))
    step_s = statistics.median(_step_seconds(run, pack, 1)[0] for _ in range(TIMED_STEPS))
    rate = size * BATCH / step_s
    text = f"S = {size}: {rate:.1f} pictures/s, first {WARM_STEPS} steps {seconds:.0f} s"
    run.say("compile", text, pictures_s=rate, compile_s=seconds)


def _training_line(
    run: Run,
    size: int,
    name: str,
    alone: float,
    *,
    dropout: float,
    dtype: str = "bfloat16",
    pack: Mapping[str, bool] | None = None,
) -> None:
    if run.left_s <= 0:
        return
    free(run)
    try:
        filled = new_pack(run, size, dropout=dropout, dtype=dtype, pack=pack)
        filled.advance(max_steps=WARM_STEPS)
        with peak_gib(run) as peak:
            step_s, host_s = _step_seconds(run, filled, 2 if run.small else TIMED_STEPS)
    except torch.OutOfMemoryError:
        run.say("training", f"{name} S = {size}: does not fit the memory")
        return
    rate = size * BATCH / step_s
    numbers = {
        "S": size,
        "pictures_s": rate,
        "step_ms": 1e3 * step_s,
        "host_ms": 1e3 * host_s,
        "peak_gib": peak(),
    }
    text = (
        f"{rate:7.1f} pictures/s, step {1e3 * step_s:6.1f} ms (host {1e3 * host_s:6.1f}), "
        f"{run.mfu(rate * TFLOP_PER_TRAINED_PICTURE)}, peak {peak():5.2f} GiB"
    )
    run.say(
        "training",
        f"{name} S = {size:2}: {text}, {rate / alone:5.2f}x the plain loop",
        name=name,
        **numbers,
    )


def _plain_loop(run: Run) -> float:
    """Pictures per second of diffusers' UNet with a peft LoRA and AdamW, latents and text ready."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    unet = (
        UNet2DConditionModel.from_pretrained(f"{run.model}/unet", torch_dtype=torch.bfloat16)
        .to(run.device)
        .requires_grad_(False)
    )
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=16, lora_dropout=0.1, target_modules=targets))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimiser = torch.optim.AdamW(parameters, lr=1e-4)
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents = torch.randn(BATCH, 4, side, side, device=run.device)
    text = torch.randn(BATCH, 77, width, device=run.device)

    def step() -> None:
        noise, timesteps = (
            torch.randn_like(latents),
            torch.randint(0, 1000, (BATCH,), device=run.device),
        )
        with torch.autocast(run.device, torch.bfloat16):
            predicted = unet(latents + noise, timesteps, text, return_dict=False)[0]
        F.mse_loss(predicted.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    for _ in range(WARM_STEPS):
        step()
    with peak_gib(run) as peak:
        seconds = median_s(run, step, n_rounds=2 if run.small else TIMED_STEPS)
    rate = BATCH / seconds
    name = f"plain diffusers + peft loop, batch {BATCH}, bfloat16"
    run.say("training", f"{name}: {rate:.1f} pictures/s, peak {peak():.2f} GiB", pictures_s=rate)
    return rate


def _step_seconds(run: Run, pack: Pack, n_steps: int) -> tuple[float, float]:
    """(seconds per step, seconds until the last was asked for): the second is Python's share."""
    wait(run)
    started = time.perf_counter()
    pack.advance(max_steps=n_steps)
    asked = time.perf_counter()
    wait(run)
    return (time.perf_counter() - started) / n_steps, (asked - started) / n_steps


def _profile(run: Run, size: int) -> None:
    """Two steps by the profiler: kernels, and where the device's time goes."""
    pack = new_pack(run, size, dropout=0.1)
    pack.advance(max_steps=WARM_STEPS)
    kinds = [torch.profiler.ProfilerActivity.CPU] + [
        torch.profiler.ProfilerActivity.CUDA
    ] * run.cuda
    with torch.profiler.profile(activities=kinds) as profile:
        pack.advance(max_steps=2)
        wait(run)
    rows = profile.key_averages()
    clock = "self_device_time_total" if run.cuda else "self_cpu_time_total"
    time_of = operator.attrgetter(clock)
    total = sum(time_of(row) for row in rows) or 1
    kernels = (
        sum(row.count for row in rows if row.device_type != torch.autograd.DeviceType.CPU)
        if run.cuda
        else 0
    )
    run.say(
        "training",
        f"profile S = {size}: a step has {kernels / 2:.0f} kernels, {total / 2e3:.1f} ms of device",
    )
    for row in sorted(rows, key=time_of, reverse=True)[:14]:
        run.say(
            "training",
            f"  {100 * time_of(row) / total:5.1f} % {row.count // 2:6} a step  {row.key[:110]}",
        )
