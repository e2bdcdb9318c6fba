"""LoRA with a slot axis: S low-rank updates of one frozen layer, each applied to its own part of the batch.

For slot s, with x[s] the rows of the batch that belong to it (Hu et al., arXiv:2106.09685):

    y[s] = W x[s] + (alpha[s] / rank[s]) * drop(x[s]) A[s] B[s]        A (S, d_in, r)   B (S, r, d_out)

`A` here is the transpose of the paper's and of peft's `lora_A.weight` (r, d_in), kohya's `lora_down`; `B` the transpose of peft's
`lora_B.weight` (d_out, r), kohya's `lora_up`. Smaller ranks are zero-padded to the largest r: zeros stay zeros under AdamW.
Layers are given B times alpha / rank, so that the scale is one operation for all of them.

Nothing here trains, reads files or knows what a trial is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.errors import AdapterError, ConfigError

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)  # of the 32-bit finaliser "lowbias32" (C. Wellons, hash-prospector)

MASK_BLOCK = 2**15
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
    """A frozen `nn.Linear` and the place where S updates are attached to it, or merged into it. Without any it is the plain layer."""

    def __init__(self, base: nn.Linear, index: int, *, reads_text: bool = False) -> None:
        super().__init__()
        self.base = base
        self.index = index  # distinguishes the dropout masks of the layers
        self.reads_text = reads_text
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self.dropout: SlotDropout | None = None
        self.mask: Tensor | None = None  # (S, n), when it was drawn together with the other layers'
        self.element_hash = torch.empty(0, dtype=torch.int32)  # (n,) for the n input elements of a slot
        self.merged: Tensor | None = None  # (S, d_in, d_out)
        self.last: tuple[Tensor, Tensor] | None = None  # input and output, where the input is the text, the same in each denoising step

    def forward(self, x: Tensor) -> Tensor:  # x (S * batch, ..., d_in) -> (S * batch, ..., d_out)
        if self.merged is not None:
            return self._merged_text(x) if self.reads_text else self._merged(x)
        if self.a is None:
            return self.base(x)
        if self.dropout is None:
            return _SlotLinear.apply(x, self.base.weight, self.base.bias, self.a, self.b, None, None, None)
        n = x.numel() // self.a.shape[0]
        if len(self.element_hash) != n or self.element_hash.device != x.device:
            self.element_hash = hash_of_elements(n, self.index, x.device)
        mask = self.mask if self.mask is not None and self.mask.shape[1] == n else None
        return _SlotLinear.apply(x, self.base.weight, self.base.bias, self.a, self.b, mask, self.dropout, self.element_hash)

    def _merged(self, x: Tensor) -> Tensor:
        by_slot = x.reshape(self.merged.shape[0], -1, x.shape[-1])
        y = torch.bmm(by_slot, self.merged) if self.base.bias is None else torch.baddbmm(self.base.bias, by_slot, self.merged)
        return y.view(*x.shape[:-1], -1)

    def _merged_text(self, x: Tensor) -> Tensor:
        if self.last is None or self.last[0] is not x:
            self.last = x, self._merged(x)
        return self.last[1]


class _SlotLinear(torch.autograd.Function):
    """W x + drop(x) A B as one node of the graph: at the batch of a training, a step's time is that of handling small operations.

    Without a mask but with dropout, the mask is computed here and again in the backward pass instead of being kept. W is frozen."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, mask, dropout, element_hash):  # noqa: ANN001  a (S, d_in, r), b (S, r, d_out), mask (S, n)
        y = F.linear(x, weight, bias)
        by_slot = x.reshape(a.shape[0], -1, x.shape[-1])
        dropped = by_slot if dropout is None else by_slot * _mask_of(mask, dropout, element_hash, by_slot)
        dropped = dropped.to(y.dtype)  # adapters stay in float32 whatever the base computes in
        hidden = torch.bmm(dropped, a.to(y.dtype))
        y.view(a.shape[0], -1, y.shape[-1]).baddbmm_(hidden, b.to(y.dtype))
        ctx.save_for_backward(dropped, hidden, weight, a, b, mask)
        ctx.dropout, ctx.element_hash, ctx.x_dtype = dropout, element_hash, x.dtype
        return y

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        dropped, hidden, weight, a, b, mask = ctx.saved_tensors
        by_slot = grad.reshape(a.shape[0], -1, grad.shape[-1])
        grad_hidden = torch.bmm(by_slot, b.to(grad.dtype).transpose(1, 2))
        grad_a = torch.bmm(dropped.transpose(1, 2), grad_hidden).to(a.dtype) if ctx.needs_input_grad[3] else None
        grad_b = torch.bmm(hidden.transpose(1, 2), by_slot).to(b.dtype) if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad.reshape(-1, grad.shape[-1]), weight.to(grad.dtype)).view(*dropped.shape)
            a_transposed = a.to(grad.dtype).transpose(1, 2)
            if ctx.dropout is None:
                grad_x.baddbmm_(grad_hidden, a_transposed)
            else:
                grad_x.addcmul_(torch.bmm(grad_hidden, a_transposed), _mask_of(mask, ctx.dropout, ctx.element_hash, grad_x))
            grad_x = grad_x.view(*grad.shape[:-1], -1).to(ctx.x_dtype)
        return grad_x, None, None, grad_a, grad_b, None, None, None


def _mask_of(mask: Tensor | None, dropout: SlotDropout, element_hash: Tensor, like: Tensor) -> Tensor:
    return (dropout_mask(dropout, element_hash) if mask is None else mask).view_as(like).to(like.dtype)


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
    def attached(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], dropout: SlotDropout | None = None) -> Iterator[None]:
        """Inside, the UNet runs with a[path] (S, d_in, r) and b[path] (S, r, d_out), times alpha / rank, on a batch ordered by slot."""
        for path, layer in self.layers.items():
            layer.a, layer.b, layer.dropout = a[path], b[path], dropout
        if dropout is not None:
            self._draw_masks_together(dropout)
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.a = layer.b = layer.dropout = layer.mask = None

    @contextmanager
    def for_pictures(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Iterator[None]:
        """As `attached`, for many passes with the same adapters and the same text tensor, without gradients.

        A model in float32 gets W + A B, once; a smaller float would round the update away, there the adapters stay beside the weights."""
        layers = {path: layer for path, layer in self.layers.items() if layer.base.weight.dtype == torch.float32}
        if len(layers) < len(self.layers):
            with self.attached(a, b):
                yield
            return
        try:
            for path, layer in layers.items():
                layer.merged = torch.baddbmm(layer.base.weight.T, a[path], b[path])
            yield
        finally:
            for layer in layers.values():
                layer.merged = layer.last = None

    def _draw_masks_together(self, dropout: SlotDropout) -> None:
        """One long mask for all layers instead of a dozen small operations in each; the values are the same."""
        sizes = [len(layer.element_hash) for layer in self.layers.values()]
        if 0 in sizes or sum(sizes) * len(dropout.p) > MASKS_AT_ONCE:  # not known before the first step
            return
        if self._joint_hash is None or len(self._joint_hash) != sum(sizes):
            self._joint_hash = torch.cat([layer.element_hash for layer in self.layers.values()])
        masks = dropout_mask(dropout, self._joint_hash)
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
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(a, b) of S adapters for `SlotLoRA.attached`, b times alpha / rank; None is a slot without adapter (zeros).

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
            b[path][s, : adapter.rank] = b_s * adapter.scale
    return {p: t.to(device) for p, t in a.items()}, {p: t.to(device) for p, t in b.items()}


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
        layers[name] = SlotLoRALinear(unet.get_submodule(name), index, reads_text=".attn2.to_k" in name or ".attn2.to_v" in name)
        setattr(unet.get_submodule(parent), child, layers[name])
    return layers


def _is_target(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and name.endswith(ATTENTION_PROJECTIONS) and ".attn" in name
