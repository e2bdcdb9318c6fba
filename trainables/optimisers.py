"""AdamW and Prodigy for S slots at once: a step of each on flat (S, P) weights, every slot with numbers of its own.

A step allocates nothing large after it has changed its first number: `scratch`, two tensors like the weights, holds what is in
between. So a step that runs out of memory has changed nothing, and can be done again.

Whose weights they are, and that gradients were clipped, is pack.py's matter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch.optim.AdamW's defaults, and Prodigy's
D0 = 1e-6  # Prodigy's first estimate of the distance

Layers = Mapping[str, tuple[Tensor, Tensor]]  # per layer path the pair (a (d_in, rank), b (rank, d_out))


@dataclass(frozen=True)
class ProdigyState:
    """What Prodigy needs of one training, beside the two moments, to go on."""

    start: Layers  # p0, where the weights began
    gradient_sum: Layers  # s
    d: float = D0
    numerator: float = 0.0
    n_steps: int = 0  # those with a learning rate above 0


@dataclass
class ProdigySlots:
    """ProdigyState of S slots. The sums over weights, and what is made of them, are float64: d grows by small shares."""

    start: Tensor  # (S, P)
    gradient_sum: Tensor  # (S, P)
    d: Tensor  # (S,) float64, as the others
    numerator: Tensor
    n_steps: Tensor


def clip_to_norm(grads: Tensor, max_norm: Tensor) -> None:  # (S, P), (S,)
    """Each slot's gradient to its own norm, in place, as torch's clip_grad_norm_ does."""
    norm = torch.linalg.vector_norm(grads, dim=1)
    grads *= (max_norm / (norm + 1e-6)).clamp(max=1).unsqueeze(1)


def adamw_step(
    weights: Tensor,
    grads: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    learning_rate: Tensor,
    step: Tensor,
    weight_decay: Tensor,
    scratch: tuple[Tensor, Tensor] | None = None,
) -> None:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) as torch.optim.AdamW does it.

    The first four are (S, P); learning_rate (S, 1), or (S, P) where layers have rates of their own; the others (S,)."""
    denominator, change = scratch or _new_scratch(weights)
    correction1, correction2 = 1 - BETA1 ** step.double(), 1 - BETA2 ** step.double()
    decay, rate = 1 - learning_rate * weight_decay.unsqueeze(1), -learning_rate / correction1.float().unsqueeze(1)
    weights *= decay
    first.lerp_(grads, 1 - BETA1)
    second.mul_(BETA2).addcmul_(grads, grads, value=1 - BETA2)
    torch.sqrt(second, out=denominator).div_(correction2.sqrt().float().unsqueeze(1)).add_(EPSILON)
    weights.addcdiv_(torch.mul(first, rate, out=change), denominator)


def prodigy_step(
    weights: Tensor,
    grads: Tensor,
    first: Tensor,
    second: Tensor,
    slots: ProdigySlots,
    *,
    learning_rate: Tensor,
    weight_decay: Tensor,
    scratch: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Prodigy (Mishchenko & Defazio, arXiv:2306.06101) as prodigyopt.Prodigy does it, with decoupled weight decay, bias correction and the
    safeguard for warm-up, as diffusers' training scripts use it. The first four are (S, P), the others (S,): it has one rate for all layers.

    A slot whose learning rate is 0, as at the first step of a warm-up, stands still."""
    one, other = scratch or _new_scratch(weights)
    on, beta3 = learning_rate > 0, math.sqrt(BETA2)
    steps = slots.n_steps + 1
    d, d_relative = slots.d, slots.d / D0
    rate = d * learning_rate.double() * (1 - BETA2**steps).sqrt() / (1 - BETA1**steps)
    progress = torch.sub(slots.start, weights, out=one).mul_(grads).sum(1, dtype=torch.float64)
    numerator = beta3 * slots.numerator + d_relative * rate * progress
    _decay_and_add(first, BETA1, grads, (1 - BETA1) * d, on, scratch=one)
    _decay_and_add(second, BETA2, torch.mul(grads, grads, out=other), (1 - BETA2) * d * d, on, scratch=one)
    _decay_and_add(slots.gradient_sum, beta3, grads, d_relative * d, on, scratch=one)
    denominator = torch.abs(slots.gradient_sum, out=one).sum(1, dtype=torch.float64)
    on &= denominator > 0  # it is 0 while there has never been a gradient
    slots.d = torch.where(on, torch.maximum(d, numerator / denominator), d)
    slots.numerator = torch.where(on, numerator, slots.numerator)
    slots.n_steps = torch.where(on, steps, slots.n_steps)
    root = torch.sqrt(second, out=other).add_((slots.d * EPSILON).to(second.dtype).unsqueeze(1))
    rate = torch.where(on, rate, 0.0).to(weights.dtype).unsqueeze(1)
    weights -= torch.mul(weights, rate * weight_decay.unsqueeze(1), out=one)
    weights.addcdiv_(torch.mul(first, -rate, out=one), root)


def _new_scratch(weights: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weights), torch.empty_like(weights)


def _decay_and_add(average: Tensor, beta: float, added: Tensor, weights: Tensor, on: Tensor, *, scratch: Tensor) -> None:
    """average <- beta average + weights added, in the slots that are `on`. average, added (S, P); weights, on (S,)."""
    average *= torch.where(on, beta, torch.ones_like(weights)).to(average.dtype).unsqueeze(1)
    average += torch.mul(added, torch.where(on, weights, 0.0).to(added.dtype).unsqueeze(1), out=scratch)
