"""A worker's device on smaller cards, by a limit on this one's memory."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from benchmarks.gpu.run import GIB, Run, peak_gib
from sweep.device import PackDevice
from sweep.messages import EvaluationOrder, TrainingOrder
from trainables.config import EvalConfig, TrainConfig


def memory(run: Run) -> None:
    """What a worker's device does on a card of 24 and of 8 GB: no training fails, all advance."""
    for card_gib in (8,) if run.small else (24, 8):
        if run.left_s > 0:
            _on_a_smaller_card(run, card_gib)


def _on_a_smaller_card(run: Run, card_gib: int) -> None:
    """A worker's device within a fraction of this card: eight trainings, 20 pictures."""

    total = torch.cuda.get_device_properties(0).total_memory / GIB if run.cuda else 64
    if run.cuda and total < card_gib:
        run.say("memory", f"{card_gib} GB: this card has less")
        return
    if run.cuda:
        torch.cuda.set_per_process_memory_fraction(card_gib / total)
    try:
        store = run.folder / f"adapters-{card_gib}"
        config = TrainConfig(train_model=run.model, rank=16, dtype="bfloat16", learning_rate=1e-4)
        device = PackDevice(device=run.device, adapters=store, n_slots=2 if run.small else 8)
        with peak_gib(run) as peak:
            device.open()
            orders = [
                TrainingOrder(f"{card_gib}-{seed}", replace(config, train_seed=seed), (1,), None)
                for seed in range(2 if run.small else 8)
            ]
            reports = [device.start(order) for order in orders]
            started = time.perf_counter()
            while time.perf_counter() - started < (1 if run.small else 12) and run.left_s > 0:
                reports += device.advance()
            failed = [r for r in reports if r.error]
            evaluation = EvalConfig(
                infer_model=run.model,
                images_per_prompt=1 if run.small else 4,
                steps=2,
                infer_dtype="bfloat16",
            )
            scored = device.evaluate(
                [EvaluationOrder("e", None, 0, evaluation, "embedded:subject")]
            )
        packs = [(len(pack.keys), pack.n_steps) for pack in device._packs]
        text = f"{card_gib} GB: {len(failed)} of {len(orders)} failed, (size, steps) {packs}"
        pictures = scored[0].error or "scored"
        why = f"; {failed[0].error}" if failed else ""
        numbers = {"failed": len(failed), "packs": packs, "peak_gib": peak()}
        run.say("memory", f"{text}, peak {peak():.2f} GiB, pictures {pictures}{why}", **numbers)
    finally:
        if run.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)
