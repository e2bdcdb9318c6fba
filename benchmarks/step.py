"""One solo training step of ours against one of the peft + diffusers loop, on the embedded base model, same batch size and rank.

    python -m benchmarks.step [--rounds 5] [--steps 19]

On one core, as Ray Tune runs a trial of one CPU and as each of our workers runs on a CPU, and on all of them. The second row of each
gives the other side cached latents and text embeddings too. Packing plays no part here: see benchmarks.packing."""

from __future__ import annotations

import argparse
import itertools
import statistics

import torch

from benchmarks.machine import machine, median_ratio, seconds_in_turn
from benchmarks.naive import Folders, Training
from benchmarks.packing import steps_of as packed_steps
from benchmarks.results import add_write_flag, report
from trainables.config import TrainConfig
from trainables.frozen import FrozenWork
from trainables.pack import Pack
from trainables.subject import load_subject

CONFIGURATION = {"rank": 16, "alpha": 16, "dropout": 0.1, "learning_rate": 1e-3, "batch": 2, "caption": "v2"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=19, help="a quarter of an epoch, so that every round has as many")
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    frozen, config = FrozenWork(), TrainConfig(**CONFIGURATION)
    pack = Pack(frozen.parts(config.train_model, None, config.dtype), frozen)
    pack.add("solo", config, load_subject(config.subject))
    plain, cached = (Training(CONFIGURATION, Folders(), cached=c) for c in (False, True))

    def steps_of(training: Training) -> None:
        for batch in itertools.islice(itertools.cycle(training.loader), arguments.steps):
            training.step(batch)

    def ours() -> None:
        packed_steps(pack, arguments.steps)

    sides = {"peft + diffusers": lambda: steps_of(plain), "the same, cached": lambda: steps_of(cached), "ours": ours}
    lines = []
    for n_threads in sorted({1, facts["n_cores"]}):
        torch.set_num_threads(n_threads)
        seconds = seconds_in_turn(sides, n_rounds=arguments.rounds)
        lines += [
            f"{n_threads} thread{'s' * (n_threads > 1)}: {name:18} {statistics.median(values) / arguments.steps * 1000:8.1f} ms/step   "
            f"ours is {median_ratio(values, seconds['ours']):.2f}x as fast"
            for name, values in seconds.items()
        ]
    lines.append(f"({arguments.rounds} rounds of {arguments.steps} steps, rank 16, batch 2)")
    report("python -m benchmarks.step", "One solo training step", lines, write=arguments.write, facts=facts)


if __name__ == "__main__":
    main()
