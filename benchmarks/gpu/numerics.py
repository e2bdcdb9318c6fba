"""How far a training on the device is from the CPU's, from its packed self, and from itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.gpu.run import CONVOLUTIONS, PRODUCTS, Run, fp32_precision, free, new_pack
from trainables.config import EvalConfig, TrainConfig
from trainables.frozen import FrozenWork
from trainables.lora import Adapter
from trainables.pack import Pack
from trainables.subject import load_subject


def numerics(run: Run) -> None:
    """How far a training on the device is from the CPU's, from its packed self, and from itself."""
    _embedded_deviations(run)
    _precision_of_results(run)
    _first_gradients(run)


def _embedded_deviations(run: Run) -> None:
    """The embedded family, 20 steps: relative L2 distances of what was learned."""
    ranks, steps = (2, 8, 16, 64), 2 if run.small else 20
    reference = _learned("cpu", (16,), steps, dtype="float32")[16]
    for name, dtype, precision in (
        ("float32", "float32", "ieee"),
        ("TF32", "float32", "tf32"),
        ("bfloat16", "bfloat16", "ieee"),
    ):
        if not run.cuda and name == "TF32":
            continue
        with fp32_precision(precision, PRODUCTS, CONVOLUTIONS):
            solo, again = (_learned(run.device, (16,), steps, dtype=dtype)[16] for _ in range(2))
            first = _learned(run.device, (16, *(r for r in ranks if r != 16)), steps, dtype=dtype)[
                16
            ]
            last = _learned(run.device, (*(r for r in ranks if r != 16), 16), steps, dtype=dtype)[
                16
            ]
        found = {
            "cpu": _distance(solo, reference),
            "again": _distance(again, solo),
            "packed_first": _distance(first, solo),
            "packed_last": _distance(last, solo),
        }
        text = ", ".join(f"{key.replace('_', ' ')} {value:.1e}" for key, value in found.items())
        run.say(
            "numerics",
            f"embedded {name:8} {steps} steps, relative to alone on the device: {text}",
            dtype=name,
            **found,
        )


def _learned(
    device: str,
    ranks: Sequence[int],
    steps: int,
    *,
    dtype: str,
    pack: Mapping[str, bool] | None = None,
) -> dict[int, Adapter]:
    """Adapters by rank after some steps in one pack of the embedded family, minus their start."""
    frozen, subject = FrozenWork(device), load_subject("embedded:subject")
    parts = frozen.parts("embedded:base", None, dtype)
    training = Pack(parts, frozen, **(pack or {}))
    for rank in ranks:
        training.add(
            str(rank),
            TrainConfig(rank=rank, alpha=float(rank), dropout=0.1, dtype=dtype, train_seed=rank),
            subject,
        )
    start = {rank: training.adapter(str(rank)) for rank in ranks}
    training.advance(max_steps=steps)
    return {rank: _difference(training.adapter(str(rank)), start[rank]) for rank in ranks}


def _precision_of_results(run: Run) -> None:
    """What precision does to final values: the embedded family, trained and scored in each."""
    from trainables.evaluate import EvaluationRequest, Evaluator

    subject, epochs = load_subject("embedded:subject"), 1 if run.small else 4
    cases = [("float32", {}), ("bfloat16", {"autocast": True}), ("bfloat16", {"autocast": False})]
    cases = cases[:1] if run.small else cases
    for dtype, options in cases:
        frozen = FrozenWork(run.device)
        pack = Pack(frozen.parts("embedded:base", None, dtype), frozen, **options)
        seeds = range(1 if run.small else 4)
        for seed in seeds:
            pack.add(str(seed), TrainConfig(dtype=dtype, train_seed=seed), subject)
        for _ in range(epochs):
            pack.advance(max_steps=5 if run.small else None)
        config = EvalConfig(
            images_per_prompt=1 if run.small else 8,
            steps=2 if run.small else 20,
            infer_dtype="float32",
        )
        requests = [
            EvaluationRequest(str(seed), pack.adapter(str(seed)), config, subject) for seed in seeds
        ]
        values = [result.values for result in Evaluator(frozen).evaluate(requests)]
        means = {
            name: statistics.fmean(v[name] for v in values)
            for name in ("lpips", "fid", "heldout_loss")
        }
        text = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        run.say(
            "numerics",
            f"embedded {dtype} {options}, {epochs} epochs, mean of {len(values)} seeds: {text}",
            dtype=dtype,
            **means,
        )


def _first_gradients(run: Run) -> None:
    """SD1.5: the first step's gradient of one training alone, alone again, and in a pack of 4."""
    cases = (("float32", True), ("bfloat16", True), ("bfloat16", False))
    for dtype, autocast in cases[:1] if run.small else cases:
        found = {}
        for name, size in (("solo", 1), ("again", 1), ("packed", 4)):
            pack = new_pack(run, size, dropout=0.1, dtype=dtype, pack={"autocast": autocast})
            pack.advance(max_steps=1)
            found[name] = pack.state("0").first_moment
            del pack
            free(run)
        norm = _norm(found["solo"])
        again, packed = (_norm(found[name], found["solo"]) / norm for name in ("again", "packed"))
        name = f"SD1.5 {dtype} autocast {autocast}"
        text = f"{name}: gradient of step 1 from alone: again {again:.1e}, packed of 4 {packed:.1e}"
        run.say("numerics", text, dtype=dtype, again=again, packed=packed)


def _difference(after: Adapter, before: Adapter) -> Adapter:
    pairs = ((path, (a, b), before.layers[path]) for path, (a, b) in after.layers.items())
    return replace(after, layers={path: (a - a0, b - b0) for path, (a, b), (a0, b0) in pairs})


def _distance(one: Adapter, other: Adapter) -> float:
    return _norm(one.layers, other.layers) / _norm(other.layers)


def _norm(layers: Mapping, minus: Mapping | None = None) -> float:
    total = 0.0
    for path, pair in layers.items():
        for i, tensor in enumerate(pair):
            value = (
                tensor.double() - minus[path][i].double() if minus is not None else tensor.double()
            )
            total += float(value.square().sum())
    return math.sqrt(total)
