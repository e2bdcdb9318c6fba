"""Pictures and scores per second: eight adapters under one protocol, ours in one loop against StableDiffusionPipeline one by one.

    python -m benchmarks.evaluation [--rounds 3] [--adapters 8] [--steps 20] [--latents 8]

Both sides end with FID and LPIPS of every adapter's 20 pictures against the 151 references, on the embedded networks."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.larger_latents import USUAL, at_latents, model_at
from benchmarks.machine import machine, median_ratio, seconds_in_turn
from benchmarks.naive import Training, folders_of, pictures, scores
from benchmarks.results import add_write_flag, report
from trainables.config import EvalConfig
from trainables.evaluate import EvaluationRequest, Evaluator
from trainables.frozen import FrozenWork
from trainables.lora import SlotLoRA, new_adapter
from trainables.subject import load_subject

N_PICTURES = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--latents", type=int, default=USUAL, help="side of the latents")
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    frozen, subject = FrozenWork(), load_subject("embedded:subject")
    evaluator = Evaluator(frozen)
    with tempfile.TemporaryDirectory() as folder:
        model = model_at(arguments.latents, Path(folder))
        folders = replace(folders_of(model), resolution=8 * arguments.latents)
        shapes = SlotLoRA(frozen.parts(model, None, "float32").unet).shapes
        config = EvalConfig(infer_model=model, steps=arguments.steps)
        requests = [EvaluationRequest(str(i), new_adapter(shapes, rank=16, alpha=16, seed=i), config, subject) for i in range(arguments.adapters)]
        Training({"rank": 16}, folders).save(Path(folder))

        def theirs() -> None:
            for _ in requests:
                scores(pictures(Path(folder), folders, guidance=4.0, steps=arguments.steps, images_per_prompt=4), folders)

        seconds = seconds_in_turn({"pipeline": theirs, "ours": lambda: evaluator.evaluate(requests)}, n_rounds=arguments.rounds)
    lines = []
    for name, values in seconds.items():
        rate = arguments.adapters * N_PICTURES / statistics.median(values)
        lines.append(f"{name:10} {rate:6.2f} scored pictures/s   ours is {median_ratio(values, seconds['ours']):.2f}x as fast")
    lines.append(f"({arguments.adapters} adapters, {N_PICTURES} pictures each, {arguments.steps} denoising steps, {arguments.rounds} rounds)")
    report("python -m benchmarks.evaluation", "Evaluation" + at_latents(arguments.latents), lines, write=arguments.write, facts=facts)


if __name__ == "__main__":
    main()
