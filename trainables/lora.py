"""LoRA with a slot axis: S low-rank updates of one frozen layer, each applied to its own part of the batch.

For slot s, with x[s] the rows of the batch that belong to it (Hu et al., arXiv:2106.09685):

    y[s] = W x[s] + (alpha[s] / rank[s]) * drop(x[s]) A[s] B[s]        A (S, d_in, r)   B (S, r, d_out)

`A` here is the transpose of the paper's and of peft's `lora_A.weight` (r, d_in), kohya's `lora_down`; `B` the transpose of peft's
`lora_B.weight` (d_out, r), kohya's `lora_up`. Smaller ranks are zero-padded to the largest r: zeros stay zeros under AdamW.

Nothing here trains, reads files or knows what a trial is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.errors import AdapterError, ConfigError

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)  # of the 32-bit finaliser "lowbias32" (C. Wellons, hash-prospector)

MASKS_AT_ONCE = 2**26
"""Up to so many elements, the dropout masks of all layers are drawn in one go; beyond, layer by layer and again in the backward pass."""


@dataclass(frozen=True)
class Adapter:
    """One adapter: per layer path the pair (a (d_in, rank), b (rank, d_out)), in float32 on the CPU."""

    rank: int
    alpha: float
    layers: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class SlotDropout:
    """Dropout of S slots: probability p (S,) float and a seed per slot (S,) int32, fresh for every step."""

    p: Tensor
    seeds: Tensor


class SlotLoRALinear(nn.Module):
    """A frozen `nn.Linear` and the place where S updates are attached to it. Without any it is the plain layer."""

    def __init__(self, base: nn.Linear, index: int) -> None:
        super().__init__()
        self.base = base
        self.index = index  # distinguishes the dropout masks of the layers
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self.scale: Tensor | None = None
        self.dropout: SlotDropout | None = None
        self.mask: Tensor | None = None  # (S, n), when it was drawn together with the other layers'
        self.element_hash = torch.empty(0, dtype=torch.int32)  # (n,) for the n input elements of a slot

    def forward(self, x: Tensor) -> Tensor:  # x (S * batch, ..., d_in) -> (S * batch, ..., d_out)
        y = self.base(x)
        if self.a is None:
            return y
        by_slot = x.reshape(self.a.shape[0], -1, x.shape[-1])
        if self.dropout is not None:
            by_slot = self._drop(by_slot)
        # Adapters stay in float32 whatever the base computes in.
        update = torch.bmm(torch.bmm(by_slot, self.a.to(x.dtype)), (self.b * self.scale).to(x.dtype))
        return y + update.view_as(y)

    def _drop(self, x: Tensor) -> Tensor:  # x (S, rows, d_in); the factor 1 / (1 - p) is part of `scale`
        n = x[0].numel()
        if len(self.element_hash) != n or self.element_hash.device != x.device:
            self.element_hash = hash_of_elements(n, self.index, x.device)
        if self.mask is not None and self.mask.shape[1] == n:
            return x * self.mask.view_as(x)
        return _DropElements.apply(x, self.dropout, self.element_hash)


class _DropElements(torch.autograd.Function):
    """x times its mask, which is computed again in the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx, x: Tensor, dropout: SlotDropout, element_hash: Tensor) -> Tensor:
        ctx.dropout, ctx.element_hash = dropout, element_hash
        return x * keep_mask(dropout, element_hash).view_as(x).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad * keep_mask(ctx.dropout, ctx.element_hash).view_as(grad).to(grad.dtype), None, None


class SlotLoRA:
    """The LoRA layers of one UNet. Made once per model; adapters are attached for a training step or an image batch.

    Raises:
        ConfigError: a rank larger than a layer's width is asked for (`check_rank`)."""

    def __init__(self, unet: nn.Module) -> None:
        self.layers = _inject(unet)
        self.shapes = {path: (layer.base.in_features, layer.base.out_features) for path, layer in self.layers.items()}
        self._joint_hash: Tensor | None = None

    def check_rank(self, rank: int) -> None:
        path, widest = min(((p, min(shape)) for p, shape in self.shapes.items()), key=lambda item: item[1])
        if rank > widest:
            raise ConfigError(f"`rank` must be at most the width of the narrowest layer, {widest} ({path}), but it is {rank}. Use e.g. {widest}.")

    @contextmanager
    def attached(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], scale: Tensor, dropout: SlotDropout | None = None) -> Iterator[None]:
        """Inside, the UNet runs with a[path] (S, d_in, r), b[path] (S, r, d_out) and scale (S,) on a batch ordered by slot."""
        factor = (scale if dropout is None else scale / (1 - dropout.p)).view(-1, 1, 1)
        for path, layer in self.layers.items():
            layer.a, layer.b, layer.scale, layer.dropout = a[path], b[path], factor, dropout
        if dropout is not None:
            self._draw_masks_together(dropout)
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.a = layer.b = layer.scale = layer.dropout = layer.mask = None

    def _draw_masks_together(self, dropout: SlotDropout) -> None:
        """One long mask for all layers instead of a dozen small operations in each; the values are the same."""
        sizes = [len(layer.element_hash) for layer in self.layers.values()]
        if 0 in sizes or sum(sizes) * len(dropout.p) > MASKS_AT_ONCE:  # not known before the first step
            return
        if self._joint_hash is None or len(self._joint_hash) != sum(sizes):
            self._joint_hash = torch.cat([layer.element_hash for layer in self.layers.values()])
        masks = keep_mask(dropout, self._joint_hash)
        for layer, mask in zip(self.layers.values(), masks.split(sizes, dim=1), strict=True):
            layer.mask = mask


def new_adapter(shapes: Mapping[str, tuple[int, int]], *, rank: int, alpha: float, seed: int) -> Adapter:
    """A fresh adapter as peft makes it: A Kaiming-uniform with a = sqrt(5), so |A| <= 1/sqrt(d_in); B zero, so that nothing changes yet."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "init"))
    layers = {}
    for path, (d_in, d_out) in shapes.items():
        a = torch.empty(d_in, rank).uniform_(-1, 1, generator=generator) / math.sqrt(d_in)
        layers[path] = (a, torch.zeros(rank, d_out))
    return Adapter(rank=rank, alpha=alpha, layers=layers)


def stack_adapters(
    adapters: list[Adapter | None], shapes: Mapping[str, tuple[int, int]], *, device: torch.device | str
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """(a, b, scale) of S adapters for `SlotLoRA.attached`; None is a slot without adapter (zeros).

    Raises:
        AdapterError: an adapter lacks a layer of this model, or has it in another shape."""
    width = max((adapter.rank for adapter in adapters if adapter is not None), default=1)
    a = {path: torch.zeros(len(adapters), d_in, width) for path, (d_in, _) in shapes.items()}
    b = {path: torch.zeros(len(adapters), width, d_out) for path, (_, d_out) in shapes.items()}
    for s, adapter in enumerate(adapters):
        if adapter is None:
            continue
        check_fits(adapter, shapes)
        for path, (a_s, b_s) in adapter.layers.items():
            a[path][s, :, : adapter.rank] = a_s
            b[path][s, : adapter.rank] = b_s
    scale = torch.tensor([0.0 if adapter is None else adapter.scale for adapter in adapters])
    return {p: t.to(device) for p, t in a.items()}, {p: t.to(device) for p, t in b.items()}, scale.to(device)


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raises AdapterError unless the adapter's layers are those of the model, in the same shapes."""
    odd = set(adapter.layers) ^ set(shapes)
    if odd:
        path = sorted(odd)[0]
        side = "the model has no such layer" if path in adapter.layers else "the adapter has no such layer"
        raise AdapterError(f"An adapter must fit the model it is used with, but for {path} {side}. Use a model of the same architecture.")
    for path, (a, b) in adapter.layers.items():
        if (a.shape[0], b.shape[1]) != shapes[path]:
            got = (a.shape[0], b.shape[1])
            raise AdapterError(f"An adapter must fit the model it is used with, but {path} is {got} there and {shapes[path]} here. Use the model it was trained on.")


def keep_mask(dropout: SlotDropout, element_hash: Tensor) -> Tensor:  # (n,) -> (S, n) of 0 and 1, float32
    """Which elements of each slot are kept: by the slot's seed and the element alone, whatever its neighbours are.

    A counter-based hash: the element's hash and the slot's seed through a 32-bit finaliser in wrapping integer arithmetic."""
    z = dropout.seeds.view(-1, 1) ^ element_hash.view(1, -1)
    z *= _MULTIPLIERS[0]
    z ^= z >> 15
    z *= _MULTIPLIERS[1]
    dropped_below = (dropout.p.double() * 2**32 - 2**31).clamp(max=2**31 - 1).to(torch.int32)
    return (z >= dropped_below.view(-1, 1)).float()


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed out of a seed and what it is for, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def hash_of_elements(n: int, index: int, device: torch.device) -> Tensor:
    z = torch.arange(n, dtype=torch.int32, device=device) + index * 0x61C88647 % 2**31
    for multiplier in _MULTIPLIERS:
        z = (z ^ (z >> 16)) * multiplier
    return z ^ (z >> 15)


def _inject(unet: nn.Module) -> dict[str, SlotLoRALinear]:
    names = [name for name, module in unet.named_modules() if _is_target(name, module)]
    already = {name: module for name, module in unet.named_modules() if isinstance(module, SlotLoRALinear)}
    if already:
        return already
    layers = {}
    for index, name in enumerate(names):
        parent, _, child = name.rpartition(".")
        layers[name] = SlotLoRALinear(unet.get_submodule(name), index)
        setattr(unet.get_submodule(parent), child, layers[name])
    return layers


def _is_target(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and name.endswith(ATTENTION_PROJECTIONS) and ".attn" in name
