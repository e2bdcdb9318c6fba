"""How soon a sampled study with early stopping is as good as the best of 64 configurations that others trained one by one.

    python -m benchmarks.search [--epochs 2] [--longest 6] [--samples 64] [--write]

Needs the naive side of `python -m benchmarks.study --rows listed64` at the same number of epochs: its best objective is the goal. The
sampled study searches the epochs, too, up to `--longest`: early stopping needs a length to stop in."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from ray import tune

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from benchmarks.study import IMAGES_PER_PROMPT, STEPS, kept_file, rows_of
from sweep import Epochs, Objective, Study
from sweep.records import EVALUATIONS, Records, as_rows
from sweep.runner import Launch, launch

BACKBONES = {"perceptual": "embedded:perceptual", "pooled": "embedded:pooled"}
SPACE = ("caption", "rank", "learning_rate", "guidance")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--longest", type=int, default=6)
    parser.add_argument("--samples", type=int, default=64)
    add_write_flag(parser)
    arguments = parser.parse_args()
    naive = kept_file("listed64", arguments.epochs, "naive", 0)
    if not naive.exists():
        parser.error(f"the naive side is not there yet: run python -m benchmarks.study --rows listed64 --epochs {arguments.epochs} first")
    facts = machine()
    theirs = json.loads(naive.read_text())
    goal = min(Objective().value(values, BACKBONES) for values in theirs["values"])
    seconds, reached_s, best, n_epochs = search(arguments.samples, arguments.epochs, arguments.longest, goal)
    lines = [
        f"goal: the best objective of {len(theirs['values'])} configurations trained one by one, {goal:.4f}, after {theirs['seconds']:.0f} s",
        f"sampled study with ASHA, {arguments.samples} trials of up to {arguments.longest} epochs: best {best:.4f} after {seconds:.0f} s, {n_epochs} epochs trained",
        f"goal reached after {reached_s:.0f} s, {theirs['seconds'] / reached_s:.1f}x sooner" if reached_s else "goal not reached",
    ]
    report("python -m benchmarks.search", "Time to the naive side's best objective", lines, write=arguments.write, facts=facts)


def search(n_samples: int, epochs: int, longest: int, goal: float) -> tuple[float, float | None, float, int]:
    """(wall seconds, seconds until an adapter reached the goal, best objective, epochs trained)."""
    values = {name: sorted({row[name] for row in rows_of("listed64")}) for name in SPACE}
    study = Study(
        name="search",
        space={name: tune.choice(choices) for name, choices in values.items()},
        epochs=Epochs.geometric(max=longest, first=epochs),
        fixed={"alpha": 16.0, "steps": STEPS, "images_per_prompt": IMAGES_PER_PROMPT},
        samples=n_samples,
    )
    with tempfile.TemporaryDirectory() as folder:
        started, started_at = time.perf_counter(), time.time()
        driver, snapshot = launch(study, Launch(Path(folder)))
        seconds = time.perf_counter() - started
        rows = as_rows(Records(Path(folder) / "search").evaluations(), EVALUATIONS)
    good = [row["created_at"] - started_at for row in rows if row["training_key"] != "none" and (row["objective"] or goal + 1) <= goal]
    return seconds, min(good, default=None), driver.best.objective, snapshot["epochs_trained"]


if __name__ == "__main__":
    main()
