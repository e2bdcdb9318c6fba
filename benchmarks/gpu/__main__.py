"""What a card does with this project, in ten minutes.

    python -m benchmarks.gpu [--budget-s 540] [--steps ceilings ...] [--log FILE] [--write]

Each line is printed as it is measured, and appended to the log as JSON. A step that fails is a
line, too; the exit code is 0. The model has SD1.5's architecture at 512 pixels and random weights:
speed does not depend on them. `--small` tries all of it on a CPU. Nothing here decides whether a
number is good: deploy/gpu-check.md says what to compare it with."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch

from benchmarks.gpu.run import PRODUCTS, Run, fp32_precision, free, gib, median_s, peak_gib, timed
from benchmarks.machine import described, machine
from benchmarks.random_sd15 import write_model
from benchmarks.results import add_write_flag, report
from trainables.frozen import FrozenWork
from trainables.subject import load_subject

STEPS = (
    "ceilings",
    "model",
    "numerics",
    "training",
    "generation",
    "metrics",
    "memory",
    "compilation",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--budget-s", type=float, default=540, help="no measurement begins after so many seconds"
    )
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--log", type=Path, help="append each line as JSON to this file")
    parser.add_argument(
        "--small",
        action="store_true",
        help="narrow layers and 64 pixels on the CPU, to try the script",
    )
    add_write_flag(parser)
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.small:
        print(
            "benchmarks.gpu needs a GPU that torch can use, and there is none here: "
            "nothing was measured. Use --small to try it."
        )
        return
    _quiet()
    if arguments.small:
        torch.set_num_threads(1)  # layers this narrow gain nothing from a second
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        device = "cpu" if arguments.small else "cuda"
        run = Run(
            device,
            arguments.small,
            time.monotonic() + arguments.budget_s,
            arguments.log,
            Path(folder),
        )
        run.say("machine", described(facts).replace("\n", "; "), **facts)
        for name in with_model(arguments.steps):
            measure(run, name)
    title = "A GPU: Stable Diffusion 1.5's architecture, random weights"
    report(
        "python -m benchmarks.gpu",
        title,
        [""] if not arguments.write else run.lines,
        write=arguments.write,
        facts=facts,
    )


def with_model(steps: Sequence[str]) -> list[str]:
    """The steps in their order, and the model's where a later one needs it."""
    needs = {"ceilings"} < {*steps, "ceilings"}
    return [name for name in STEPS if name in steps or (name == "model" and needs)]


def _quiet() -> None:
    """No progress bars between the lines."""
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


def measure(run: Run, name: str) -> None:
    """One step, whatever it raises; then its seconds."""
    if run.left_s <= 0:
        run.say(name, "left out: the time is used up")
        return
    started = time.monotonic()
    try:
        step_of(name)(run)
    except Exception as error:  # one step that fails must not cost the others
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = (str(error).splitlines() or [""])[0][:300]
        run.say(
            name,
            f"failed: {type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})",
        )
    run._frozen = None
    free(run)
    run.say(name, f"took {time.monotonic() - started:.1f} s", seconds=time.monotonic() - started)


def step_of(name: str) -> Callable[[Run], None]:
    """The function that measures a step; its imports are paid when its turn comes."""
    if name in ("ceilings", "model"):
        return {"ceilings": ceilings, "model": model}[name]
    module = {"compilation": "training"}.get(name, name)
    return getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)


def ceilings(run: Run) -> None:
    """What the card can do at most: products and copies."""
    n = 512 if run.small else 8192
    for name, dtype, precision in (
        ("bfloat16", torch.bfloat16, "ieee"),
        ("float32", torch.float32, "ieee"),
        ("TF32", torch.float32, "tf32"),
    ):
        with fp32_precision(precision if run.cuda else "ieee", PRODUCTS):
            a, b = (torch.randn(n, n, device=run.device).to(dtype) for _ in range(2))
            seconds = median_s(run, lambda a=a, b=b: a @ b, n_rounds=5)
        tflops = 2 * n**3 / seconds / 1e12
        if name == "bfloat16":
            run.ceiling_tflops = tflops
        run.say(
            "ceilings", f"{name} product of {n}: {tflops:.1f} TFLOP/s", tflops=tflops, dtype=name
        )
    x = torch.empty(2**24 if run.small else 2**31, dtype=torch.uint8, device=run.device)
    y = torch.empty_like(x)
    seconds = median_s(run, lambda: y.copy_(x), n_rounds=5)
    run.say(
        "ceilings",
        f"copy: {2 * x.numel() / seconds / 1e12:.2f} TB/s, read and written",
        tb_s=2 * x.numel() / seconds / 1e12,
    )


def model(run: Run) -> None:
    """The model's folder, its loading, and the subject's latents."""
    started = time.perf_counter()
    run.model = write_model(run.folder, device=run.device, small=run.small)
    run.say("model", f"made and written in {time.perf_counter() - started:.1f} s")
    frozen = FrozenWork(run.device)
    seconds = timed(run, lambda: frozen.parts(run.model, None, "bfloat16"))
    parts, subject = frozen.parts(run.model, None, "bfloat16"), load_subject("embedded:subject")
    run.say(
        "model", f"loaded in {seconds:.1f} s, {gib(run):.2f} GiB on the device", seconds=seconds
    )
    with peak_gib(run) as peak:
        seconds = timed(run, lambda: frozen.latents(parts, subject, flip=False))
    rate = len(subject.train) / seconds
    run.say(
        "model",
        f"encoded {len(subject.train)} pictures: {rate:.1f} pictures/s, peak {peak():.2f} GiB",
        pictures_s=rate,
    )


if __name__ == "__main__":
    main()
