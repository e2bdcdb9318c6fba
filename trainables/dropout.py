"""Dropout masks of S slots, by a counter-based hash: what a slot drops depends on its seed and the element alone, not on its neighbours.

No generator and no state: a mask can be computed again in the backward pass instead of being kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)  # of the 32-bit finaliser "lowbias32" (C. Wellons, hash-prospector)

MASK_BLOCK = 2**15


@dataclass(frozen=True)
class SlotDropout:
    """Dropout of S slots: probability p (S,) float and a seed per slot (S,) int32, fresh for every step."""

    p: Tensor
    seeds: Tensor


def dropout_mask(dropout: SlotDropout, element_hash: Tensor) -> Tensor:  # (n,) -> (S, n) of 0 and 1 / (1 - p), float32
    """What each slot's elements are multiplied with: by the slot's seed and the element alone, whatever its neighbours are.

    A counter-based hash: the element's hash and the slot's seed through a 32-bit finaliser in wrapping integer arithmetic."""
    dropped_below = (dropout.p.double() * 2**32 - 2**31).clamp(max=2**31 - 1).to(torch.int32)
    kept = 1 / (1 - dropout.p)
    if element_hash.device.type == "cpu":
        return _mask_in_blocks(dropout.seeds.numpy(), element_hash.numpy(), dropped_below.numpy(), kept.numpy())
    z = dropout.seeds.view(-1, 1) ^ element_hash.view(1, -1)
    z *= _MULTIPLIERS[0]
    z ^= z >> 15
    z *= _MULTIPLIERS[1]
    return torch.where(z >= dropped_below.view(-1, 1), kept.view(-1, 1), 0.0)


def _mask_in_blocks(seeds: np.ndarray, element_hash: np.ndarray, dropped_below: np.ndarray, kept: np.ndarray) -> Tensor:
    """The same numbers on a CPU, a block that stays in its cache at a time: several times as fast."""
    mask = np.empty((len(seeds), len(element_hash)), np.float32)
    multipliers = [np.int32(m) for m in _MULTIPLIERS]
    for start in range(0, len(element_hash), MASK_BLOCK):
        elements = element_hash[start : start + MASK_BLOCK]
        z, shifted = np.empty_like(elements), np.empty_like(elements)
        for s, seed in enumerate(seeds):
            np.bitwise_xor(elements, seed, out=z)
            np.multiply(z, multipliers[0], out=z)
            np.right_shift(z, 15, out=shifted)
            np.bitwise_xor(z, shifted, out=z)
            np.multiply(z, multipliers[1], out=z)
            np.multiply(z >= dropped_below[s], kept[s], out=mask[s, start : start + MASK_BLOCK])
    return torch.from_numpy(mask)


def hash_of_elements(n: int, index: int, device: torch.device) -> Tensor:
    z = torch.arange(n, dtype=torch.int32, device=device) + index * 0x61C88647 % 2**31
    for multiplier in _MULTIPLIERS:
        z = (z ^ (z >> 16)) * multiplier
    return z ^ (z >> 15)
