"""Adapter-steps per second for packs of S = 1, 2, 4, ... trainings on one device, rank 16, batch 2 each.

    python -m benchmarks.packing [--latents 8] [--sizes 1 2 4 8 16] [--rounds 3] [--steps 19]

Sizes are timed in turn in every round. What S = 1 does against other people's loops is in benchmarks.step."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.larger_latents import USUAL, at_latents, model_at
from benchmarks.machine import machine, median_ratio, seconds_in_turn
from benchmarks.results import add_write_flag, report
from trainables.config import TrainConfig
from trainables.frozen import FrozenWork
from trainables.pack import Pack
from trainables.subject import load_subject


def main() -> None:
    arguments = _arguments()
    facts = machine()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    frozen, subject = FrozenWork(device), load_subject("embedded:subject")
    packs = {}
    with tempfile.TemporaryDirectory() as folder:
        model = model_at(arguments.latents, Path(folder))
        for size in arguments.sizes:
            packs[size] = Pack(frozen.parts(model, None, "float32"), frozen)
            for s in range(size):
                packs[size].add(f"{s}", TrainConfig(train_model=model, train_seed=s, dropout=arguments.dropout), subject)
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    sides = {str(size): lambda pack=pack: steps_of(pack, arguments.steps) for size, pack in packs.items()}
    seconds = seconds_in_turn(sides, n_rounds=arguments.rounds, synchronize=synchronize)
    alone = [s / arguments.sizes[0] for s in seconds[str(arguments.sizes[0])]]
    lines = [f"embedded:base at {arguments.latents}x{arguments.latents} latents on {device}, rank 16, batch 2, dropout {arguments.dropout}, {arguments.rounds} rounds of {arguments.steps} steps"]
    for size in arguments.sizes:
        per_adapter = [s / size for s in seconds[str(size)]]
        ms = statistics.median(per_adapter) / arguments.steps * 1000
        lines.append(f"S = {size:3}   {ms:7.1f} ms per adapter-step   {1000 / ms:7.1f} adapter-steps/s   {median_ratio(alone, per_adapter):.2f}x")
    report("python -m benchmarks.packing", "Packed training" + at_latents(arguments.latents), lines, write=arguments.write, facts=facts)


def steps_of(pack: Pack, n_steps: int) -> None:
    """So many steps, over the end of an epoch too, where a call of `advance` ends."""
    wanted = pack.n_steps + n_steps
    while pack.n_steps < wanted:
        pack.advance(max_steps=wanted - pack.n_steps)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=USUAL, help="side of the latents")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=19, help="a quarter of an epoch of the embedded subject")
    parser.add_argument("--dropout", type=float, default=0.1)
    add_write_flag(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
