"""How far a packed training is from the same training alone, beside how far it is from itself on another number of threads.

    python -m benchmarks.equivalence [--epochs 3] [--device cpu] [--dtype float32] [--write]

Loss curve, final weights and final metrics, with dropout, mixed ranks and a neighbour that is replaced on the way."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from trainables.config import EvalConfig, TrainConfig
from trainables.evaluate import EvaluationRequest, Evaluator
from trainables.frozen import FrozenWork
from trainables.lora import Adapter
from trainables.pack import Pack
from trainables.subject import load_subject


@dataclass(frozen=True)
class Trained:
    """What came out of one training: mean losses by epoch, the adapter, and its metrics."""

    losses: np.ndarray
    adapter: Adapter
    lpips: float
    fid: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equivalence", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    it = TrainConfig(rank=16, alpha=8.0, dropout=0.1, caption="v3", dtype=arguments.dtype)
    mixed = [replace(it, rank=4, learning_rate=2e-3, train_seed=1), replace(it, rank=32, caption="v1", dropout=0.3), replace(it, rank=8, alpha=32.0)]
    others = [replace(it, rank=64, train_seed=3), replace(it, rank=2, dropout=0.0, caption="v4", flip=True)]
    bench = Bench(arguments.device, arguments.epochs)
    alone = bench.trained(it)
    compared = {
        "alone again": bench.trained(it),
        "alone, one thread instead of all": bench.on_one_thread(it),
        "packed with 3 others, ranks 4 to 32": bench.trained(it, after=mixed),
        "packed in the last place": bench.trained(it, before=mixed),
        "packed with 2 others, one replaced after an epoch": bench.trained(it, after=others, replaced_by=mixed[0]),
    }
    lines = [
        f"rank 16, dropout 0.1, {arguments.epochs} epochs of 76 steps, embedded:base, {arguments.dtype} on {arguments.device}; largest deviation from the same training alone",
        f"{'':50} {'loss':>9} {'weights':>9} {'LPIPS':>9} {'FID':>9}",
    ]
    lines += [f"{name:50} {' '.join(f'{value:9.1e}' for value in deviation(alone, other))}" for name, other in compared.items()]
    lines.append("loss: relative, of an epoch's mean; weights: of the largest weight of their layer; LPIPS: absolute; FID: relative")
    report("python -m benchmarks.equivalence", "Packed training equals training alone", lines, write=arguments.write, facts=facts)


class Bench:
    """Trains and scores on one device."""

    def __init__(self, device: str, epochs: int) -> None:
        self.epochs = epochs
        self.frozen, self.subject = FrozenWork(device), load_subject("embedded:subject")
        self.evaluator = Evaluator(self.frozen)

    def on_one_thread(self, it: TrainConfig) -> Trained:
        before = torch.get_num_threads()
        torch.set_num_threads(1 if before > 1 else min(2, os.cpu_count() or 1))
        try:
            return self.trained(it)
        finally:
            torch.set_num_threads(before)

    def trained(
        self, it: TrainConfig, *, before: list[TrainConfig] = [], after: list[TrainConfig] = [], replaced_by: TrainConfig | None = None  # noqa: B006
    ) -> Trained:
        pack = Pack(self.frozen.parts(it.train_model, it.train_vae, it.dtype), self.frozen)
        for key, config in (*((f"before{i}", c) for i, c in enumerate(before)), ("it", it), *((f"after{i}", c) for i, c in enumerate(after))):
            pack.add(key, config, self.subject)
        losses = []
        for epoch in range(self.epochs):
            losses += [event.mean_loss for event in pack.advance() if event.key == "it"]
            if epoch == 0 and replaced_by is not None:
                pack.remove("after0")
                pack.add("new", replaced_by, self.subject)
        adapter = pack.adapter("it")
        (result,) = self.evaluator.evaluate([EvaluationRequest("it", adapter, EvalConfig(), self.subject)])
        return Trained(np.array(losses), adapter, result.values["lpips"], result.values["fid"])


def deviation(one: Trained, other: Trained) -> tuple[float, float, float, float]:
    """(losses, weights, LPIPS, FID): relative, of the layer's largest, absolute, relative."""
    weights = max(
        float((a - b).abs().max() / a.abs().max())
        for path, pair in one.adapter.layers.items()
        for a, b in zip(pair, other.adapter.layers[path], strict=True)
    )
    losses = float(np.abs(other.losses / one.losses - 1).max())
    return losses, weights, abs(other.lpips - one.lpips), abs(other.fid / one.fid - 1)


if __name__ == "__main__":
    main()
