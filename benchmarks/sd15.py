"""Stable Diffusion 1.5's architecture at 512x512 on a GPU, random weights: training pictures per second for packs of S, eager and
compiled, with and without gradient checkpointing; generated pictures per second by batch; peak memory.

    python -m benchmarks.sd15 [--sizes 1 2 4 8] [--steps 10] [--write]

Speed does not depend on the weights. Without a GPU it says so and measures nothing; `--small` runs it through on a CPU with narrow layers."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from trainables.config import EvalConfig, TrainConfig
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.pack import Pack
from trainables.subject import Subject, load_subject

BATCH, RANK = 2, 32
WARM_STEPS = 3
MODES = {"eager": {}, "compiled": {"compile": True}, "checkpointed": {"gradient_checkpointing": True}}
TOKENIZER = Path(__file__).resolve().parents[1] / "trainables" / "embedded" / "base" / "tokenizer"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sd15", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--steps", type=int, default=10, help="timed training steps; generation takes twice as many")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--small", action="store_true", help="narrow layers and 64 pixels, to try the script without a GPU")
    add_write_flag(parser)
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.small:
        print("benchmarks.sd15 needs a GPU, and there is none here: nothing was measured. Use --small to try the script.")
        return
    facts = machine()
    device = "cpu" if arguments.small else "cuda"
    with tempfile.TemporaryDirectory() as folder:
        model = written_model(Path(folder), small=arguments.small)
        lines = [f"random weights, {arguments.dtype} base, fp32 adapters, rank {RANK}, batch {BATCH} per adapter, {arguments.steps} timed steps"]
        lines += training_lines(model, device, arguments)
        lines += generation_lines(model, device, arguments)
    report("python -m benchmarks.sd15", "Stable Diffusion 1.5 on a GPU", lines, write=arguments.write, facts=facts)


def training_lines(model: str, device: str, arguments: argparse.Namespace) -> Iterator[str]:
    """Pictures per second by mode and number of adapters."""
    subject = load_subject("embedded:subject")
    config = TrainConfig(train_model=model, rank=RANK, alpha=16.0, dtype=arguments.dtype)
    for mode in arguments.modes:
        frozen = FrozenWork(device)  # of its own: checkpointing stays switched on in a UNet
        first = None
        for size in arguments.sizes:
            try:
                seconds, gib = step_seconds(frozen, config, subject, size, n_steps=arguments.steps, options=MODES[mode])
            except torch.OutOfMemoryError:
                yield f"train {mode:12} S = {size:2}   does not fit the memory"
                break
            rate = size * BATCH / seconds
            first = first or rate
            yield f"train {mode:12} S = {size:2}   {rate:8.2f} pictures/s   {rate / first:5.2f}x   peak {gib:5.1f} GiB"
        del frozen
        _empty()


def step_seconds(frozen: FrozenWork, config: TrainConfig, subject: Subject, size: int, *, n_steps: int, options: dict) -> tuple[float, float]:
    """(seconds per step of a pack of `size`, peak GiB)."""
    pack = Pack(frozen.parts(config.train_model, None, config.dtype), frozen, **options)
    for seed in range(size):
        pack.add(str(seed), TrainConfig(**{**vars(config), "train_seed": seed}), subject)
    pack.advance(max_steps=WARM_STEPS)
    with _peak_gib(frozen.device) as peak:
        seconds = _timed(lambda: pack.advance(max_steps=n_steps), frozen.device)
    return seconds / n_steps, peak()


def generation_lines(model: str, device: str, arguments: argparse.Namespace) -> Iterator[str]:
    """Pictures per second by how many are denoised at once."""
    frozen, steps = FrozenWork(device), 2 * arguments.steps
    parts = frozen.parts(model, None, arguments.dtype)
    for batch in arguments.batches:
        config = EvalConfig(infer_model=model, prompts=("{trigger}, close-up",), images_per_prompt=batch, steps=steps, infer_dtype=arguments.dtype)
        run = lambda: generate(parts, [ImageSet(None, config, "J3NN13")], frozen=frozen, batch_images=batch)
        try:
            run()
            with _peak_gib(frozen.device) as peak:
                seconds = _timed(run, frozen.device)
        except torch.OutOfMemoryError:
            yield f"generate batch {batch:3}   does not fit the memory"
            return
        yield f"generate batch {batch:3}, {steps} steps   {batch / seconds:8.2f} pictures/s   peak {peak():5.1f} GiB"


def written_model(folder: Path, *, small: bool) -> str:
    """A folder in Stable Diffusion 1.5's layout and, unless `small`, its sizes; weights as its classes initialise them, in fp16."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    width = 8 if small else 1
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8 if small else 64,
        block_out_channels=tuple(c // width for c in (320, 640, 1280, 1280)),
        layers_per_block=2,
        cross_attention_dim=768 // width,
        attention_head_dim=8,
        norm_num_groups=32 // width,
    )
    vae = AutoencoderKL(
        sample_size=64 if small else 512,
        block_out_channels=tuple(c // width for c in (128, 256, 512, 512)),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=32 // width,
    )
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768 // width, intermediate_size=3072 // width, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu"
    )
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
    tokenizer = CLIPTokenizer.from_pretrained(str(shutil.copytree(TOKENIZER, folder / "words")))
    pipeline = StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.to(torch.float16).save_pretrained(folder / "sd15", safe_serialization=True)
    return str(folder / "sd15")


@contextmanager
def _peak_gib(device: torch.device) -> Iterator[Callable[[], float]]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")


def _timed(work: Callable[[], object], device: torch.device) -> float:
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def _empty() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
