"""How weights move during pretraining: the learning rate over a whole training, and the moving average that is kept.

A function of the step alone, so that a training resumed from a checkpoint goes on as if never interrupted."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import nn


def set_one_cycle(
    optimiser: torch.optim.Optimizer, step: int, n_steps: int, *, peak: float, warm_share: float = 0.05, last: float = 0.01
) -> None:
    """Linear from 0 to `peak` over the first `warm_share` of the steps, then a cosine down to `last` times it."""
    share = (step + 1) / n_steps
    rest = max(0.0, share - warm_share) / (1 - warm_share)
    rate = peak * min(share / warm_share, last + (1 - last) * 0.5 * (1 + math.cos(math.pi * rest)))
    for group in optimiser.param_groups:
        group["lr"] = rate


@torch.no_grad()
def follow(average: nn.Module, live: nn.Module, step: int, *, longest: float) -> None:
    """Moves `average` towards `live`; its memory grows with the steps up to the decay `longest`."""
    decay = min(longest, (1 + step) / (10 + step))
    for a, b in zip(average.parameters(), live.parameters()):
        a.lerp_(b, 1 - decay)


def rank_and_size() -> tuple[int, int]:
    """Which of how many equal processes this is; (0, 1) when there is one. Two processes of one thread each train a
    third faster here than one process of two threads: small convolutions leave threads waiting for each other."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def step_generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step of one process."""
    rank, size = rank_and_size()
    return torch.Generator().manual_seed(seed * 1_000_003 + step * size + rank)


def share_gradients(model: nn.Module) -> None:
    """Replaces every gradient by its mean over the processes."""
    _, size = rank_and_size()
    if size == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for g, mean in zip(gradients, (flat / size).split([g.numel() for g in gradients])):
        g.copy_(mean.view(g.shape))
