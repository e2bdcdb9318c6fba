"""What bounds a packed step and an evaluation on one core: the share of the core's peak they reach, and the operations that take the rest.

    python -m benchmarks.roofline [--sizes 1 3 8] [--write]

Operations are counted by torch's FlopCounterMode (matrix products, convolutions and attention; a multiplication and an addition are
two), the peak is that of a large matrix product in the same process. A CPU's worker has one core, so one thread is what counts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from trainables.config import EvalConfig, TrainConfig
from trainables.evaluate import EvaluationRequest, Evaluator
from trainables.frozen import FrozenWork
from trainables.pack import Pack
from trainables.subject import load_subject

N_STEPS, N_SETS, N_TOP = 10, 4, 8


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 3, 8])
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    torch.set_num_threads(1)
    peak = peak_flops()
    lines = [f"one core, float32; a matrix product of 1024 x 1024: {peak / 1e9:.0f} GFLOP/s"]
    frozen, subject = FrozenWork(), load_subject("embedded:subject")
    for size in arguments.sizes:
        pack = new_pack(frozen, size)
        lines += bound(f"a step of {size} together, rank 32", lambda pack=pack: pack.advance(max_steps=N_STEPS), N_STEPS, size, "adapter-step", peak)
    adapters = [pack.adapter(key) for key in pack.keys[:N_SETS]]
    requests = [EvaluationRequest(str(i), adapter, EvalConfig(), subject) for i, adapter in enumerate(adapters)]
    evaluator = Evaluator(frozen)
    evaluator.evaluate(requests[:1])  # reference features, once
    n_pictures = sum(request.config.n_images for request in requests)
    lines += bound(f"{len(requests)} image sets, scored", lambda: evaluator.evaluate(requests), 1, n_pictures, "picture", peak)
    report("python -m benchmarks.roofline", "What bounds training and evaluation on a CPU", lines, write=arguments.write, facts=facts)


def peak_flops() -> float:
    """Floating-point operations per second of a product of two 1024 x 1024 matrices, the best of ten."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(seconds_of(lambda: a @ a) for _ in range(10))


def new_pack(frozen: FrozenWork, size: int) -> Pack:
    config = TrainConfig(rank=32, alpha=16.0)
    pack = Pack(frozen.parts(config.train_model, None, config.dtype), frozen)
    for s in range(size):
        pack.add(str(s), TrainConfig(rank=32, alpha=16.0, train_seed=s), load_subject(config.subject))
    pack.advance(max_steps=3)
    return pack


def bound(name: str, work: Callable[[], object], n_times: int, n_each: int, unit: str, peak: float) -> list[str]:
    """Lines on `work`, which does something `n_times`, for `n_each` units each."""
    with FlopCounterMode(display=False) as counter:
        work()
    flops = counter.get_total_flops() / n_times
    seconds = min(seconds_of(work) for _ in range(3)) / n_times
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    top = ", ".join(f"{event.key.removeprefix('aten::')} {event.self_cpu_time_total / total:.0%}" for event in events[:N_TOP])
    return [
        f"{name}: {seconds * 1000 / n_each:.1f} ms and {flops / n_each / 1e9:.2f} GFLOP per {unit}, {flops / seconds / peak:.0%} of the peak;"
        f" at the peak {flops / peak * 1000 / n_each:.1f} ms",
        f"    {top}",
    ]


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
