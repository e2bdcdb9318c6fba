"""LoRA with a slot axis: S low-rank updates of one frozen layer, each applied to its own part of the batch.

For slot s, with x[s] the rows of the batch that belong to it (Hu et al., arXiv:2106.09685):

    y[s] = W x[s] + (alpha[s] / rank[s]) * drop(x[s]) A[s] B[s]        A (S, d_in, r)   B (S, r, d_out)

`A` here is the transpose of the paper's and of peft's `lora_A.weight` (r, d_in), kohya's `lora_down`; `B` the transpose of peft's
`lora_B.weight` (d_out, r), kohya's `lora_up`. In a convolution A takes W's place, so d_in is c_in times the kernel's height and width, and
B is a convolution of 1x1: what kohya calls LoCon. Smaller ranks are zero-padded to the largest r: zeros stay zeros under AdamW.
Layers are given B times alpha / rank, so that the scale is one operation for all of them.

Nothing here trains, reads files or knows what a trial is. What a layer computes is in lora_layers.py."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from trainables.config import TARGETS
from trainables.dropout import SlotDropout, dropout_mask
from trainables.errors import AdapterError, ConfigError
from trainables.lora_layers import SlotLoRALayer

TEXT_ENCODER = "text_encoder."
"""How the paths of the text encoder's layers begin; all others are the UNet's."""

MASKS_AT_ONCE = 2**26
"""Up to so many elements, the dropout masks of all layers are drawn in one go; beyond, layer by layer and again in the backward pass."""


@dataclass(frozen=True)
class Adapter:
    """One adapter: per layer path the pair (a (d_in, rank), b (rank, d_out)), in float32 on the CPU.

    `kernels` holds height and width of the kernel of those layers that are convolutions."""

    rank: int
    alpha: float
    layers: Mapping[str, tuple[Tensor, Tensor]]
    kernels: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def trains_text(self) -> bool:
        """Whether it holds layers of the text encoder, too."""
        return any(path.startswith(TEXT_ENCODER) for path in self.layers)

    @property
    def text_part(self) -> Adapter:
        """The same of the text encoder's layers alone."""
        return replace(self, layers={path: pair for path, pair in self.layers.items() if path.startswith(TEXT_ENCODER)})


class SlotLoRA:
    """The LoRA layers of a UNet, and of its text encoder if that is given. Adapters are attached for a training step or an image batch.

    `layers` are all that any targets name, `shapes` (d_in, d_out) those of the `targets` given, and the text encoder's.

    Raises:
        ConfigError: a rank larger than a layer's width is asked for (`check_rank`)."""

    def __init__(self, unet: nn.Module, targets: str = TARGETS[0], *, text_encoder: nn.Module | None = None) -> None:
        self._groups = {name: _inject(unet, rule, first_index=i * _INDICES) for i, (name, rule) in enumerate(_UNET_GROUPS.items())}
        self._text = {} if text_encoder is None else _inject(text_encoder, _text_attention, first_index=len(_UNET_GROUPS) * _INDICES)
        self.layers: dict[str, SlotLoRALayer] = {path: layer for group in (*self._groups.values(), self._text) for path, layer in group.items()}
        self.shapes = self._shapes_of(targets, with_text=text_encoder is not None)
        self.kernels = {path: layer.kernel for path, layer in self.layers.items() if layer.kernel is not None}
        self._joint_hash: Tensor | None = None

    def shapes_for(self, adapters: Sequence[Adapter | None]) -> dict[str, tuple[int, int]]:
        """The shapes of the narrowest targets that hold all of these adapters, for `stack_adapters`.

        Raises:
            AdapterError: one does not fit the model."""
        present = [adapter for adapter in adapters if adapter is not None]
        targets = max((self.check_fits(adapter) for adapter in present), key=TARGETS.index, default=TARGETS[0])
        return self._shapes_of(targets, with_text=any(adapter.trains_text for adapter in present))

    def check_fits(self, adapter: Adapter) -> str:
        """The targets of the adapter. Raises AdapterError unless its layers are those of the model, in the same shapes."""
        choices = {targets: self._shapes_of(targets, with_text=adapter.trains_text) for targets in TARGETS}
        targets = min(choices, key=lambda t: len(set(adapter.layers) ^ set(choices[t])))
        _check_shapes(adapter, choices[targets])
        if lacking := sorted(set(choices[targets]) - set(adapter.layers)):
            raise _unfit(f"for {lacking[0]} the adapter has no such layer", "a model of the same architecture")
        return targets

    def check_rank(self, rank: int) -> None:
        path, widest = min(((p, min(shape)) for p, shape in self.shapes.items()), key=lambda item: item[1])
        if rank > widest:
            raise ConfigError(f"`rank` must be at most the width of the narrowest layer, {widest} ({path}), but it is {rank}. Use e.g. {widest}.")

    @contextmanager
    def attached(
        self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], dropout: SlotDropout | None = None, *, sizes_differ: bool = False
    ) -> Iterator[None]:
        """Inside, the networks run with a[path] (S, d_in, r) and b[path] (S, r, d_out), times alpha / rank, on a batch ordered by slot.

        Layers that `a` and `b` do not name stay the plain ones. `sizes_differ` from one time to the next: then no mask is drawn ahead."""
        layers = {path: self.layers[path] for path in a}
        try:
            for path, layer in layers.items():
                layer.a, layer.b, layer.dropout = a[path], b[path], dropout
            if dropout is not None and not sizes_differ:
                self._draw_masks_together(list(layers.values()), dropout)
            yield
        finally:
            for layer in layers.values():
                layer.a = layer.b = layer.dropout = layer.mask = None

    @contextmanager
    def for_pictures(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Iterator[None]:
        """As `attached` for the UNet alone, for many passes with the same adapters and the same text tensor, without gradients.

        A model in float32 gets W + A B, once; a smaller float would round the update away, there the adapters stay beside the weights."""
        layers = {path: self.layers[path] for path in a if not path.startswith(TEXT_ENCODER)}
        if any(layer.base.weight.dtype != torch.float32 for layer in layers.values()):
            with self.attached(a, b):
                yield
            return
        try:
            for path, layer in layers.items():
                layer.merge(a[path], b[path])
            yield
        finally:
            for layer in layers.values():
                layer.merged = layer.last = None

    def _shapes_of(self, targets: str, *, with_text: bool) -> dict[str, tuple[int, int]]:
        groups = [self._groups[name] for name in targets.split("+")] + [self._text] * with_text
        return {path: layer.shape for group in groups for path, layer in group.items()}

    def _draw_masks_together(self, layers: list[SlotLoRALayer], dropout: SlotDropout) -> None:
        """One long mask for all layers instead of a dozen small operations in each; the values are the same."""
        sizes = [len(layer.element_hash) for layer in layers]
        if 0 in sizes or sum(sizes) * len(dropout.p) > MASKS_AT_ONCE:  # not known before the first step
            return
        if self._joint_hash is None or len(self._joint_hash) != sum(sizes):
            self._joint_hash = torch.cat([layer.element_hash for layer in layers])
        masks = dropout_mask(dropout, self._joint_hash)
        for layer, mask in zip(layers, masks.split(sizes, dim=1), strict=True):
            layer.mask = mask


def new_adapter(
    shapes: Mapping[str, tuple[int, int]], *, rank: int, alpha: float, seed: int, kernels: Mapping[str, tuple[int, int]] | None = None
) -> Adapter:
    """A fresh adapter as peft makes it: A Kaiming-uniform with a = sqrt(5), so |A| <= 1/sqrt(d_in); B zero, so that nothing changes yet.

    `kernels` are those of the model's convolutions, as `SlotLoRA.kernels`."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "init"))
    layers = {}
    for path, (d_in, d_out) in shapes.items():
        a = torch.empty(d_in, rank).uniform_(-1, 1, generator=generator) / math.sqrt(d_in)
        layers[path] = (a, torch.zeros(rank, d_out))
    return Adapter(rank=rank, alpha=alpha, layers=layers, kernels={path: kernel for path, kernel in (kernels or {}).items() if path in layers})


def stack_adapters(
    adapters: Sequence[Adapter | None], shapes: Mapping[str, tuple[int, int]], *, device: torch.device | str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(a, b) of S adapters for `SlotLoRA.attached`, b times alpha / rank; zeros for a slot without adapter (None), or without that layer.

    Raises:
        AdapterError: an adapter has a layer that `shapes` lack, or that has another shape there."""
    width = max((adapter.rank for adapter in adapters if adapter is not None), default=1)
    a = {path: torch.zeros(len(adapters), d_in, width) for path, (d_in, _) in shapes.items()}
    b = {path: torch.zeros(len(adapters), width, d_out) for path, (_, d_out) in shapes.items()}
    for s, adapter in enumerate(adapters):
        if adapter is None:
            continue
        _check_shapes(adapter, shapes)
        for path, (a_s, b_s) in adapter.layers.items():
            a[path][s, :, : adapter.rank] = a_s
            b[path][s, : adapter.rank] = b_s * adapter.scale
    return {p: t.to(device) for p, t in a.items()}, {p: t.to(device) for p, t in b.items()}


def _check_shapes(adapter: Adapter, shapes: Mapping[str, tuple[int, int]]) -> None:
    for path, (a, b) in adapter.layers.items():
        if path not in shapes:
            raise _unfit(f"for {path} the model has no such layer", "a model of the same architecture")
        if (a.shape[0], b.shape[1]) != shapes[path]:
            raise _unfit(f"{path} is {(a.shape[0], b.shape[1])} there and {shapes[path]} here", "the model it was trained on")


def _unfit(how: str, way_out: str) -> AdapterError:
    return AdapterError(f"An adapter must fit the model it is used with, but {how}. Use {way_out}.")


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed out of a seed and what it is for, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def _inject(network: nn.Module, path_of: Callable[[str, nn.Module], str | None], *, first_index: int) -> dict[str, SlotLoRALayer]:
    """The network's layers that have a path by this rule, each in a SlotLoRALayer: a new one, or the one that it is in already."""
    layers = {}
    for name, module in list(network.named_modules()):
        injected = isinstance(module, SlotLoRALayer)
        path = path_of(name, module.base if injected else module)
        if path is None:
            continue
        if not injected:
            parent, _, child = name.rpartition(".")
            module = SlotLoRALayer(module, first_index + len(layers), reads_text=".attn2.to_k" in name or ".attn2.to_v" in name)
            setattr(network.get_submodule(parent), child, module)
        layers[path] = module
    return layers


def _attention(name: str, module: nn.Module) -> str | None:
    return name if isinstance(module, nn.Linear) and ".attn" in name and name.endswith(("to_q", "to_k", "to_v", "to_out.0")) else None


def _feed_forward(name: str, module: nn.Module) -> str | None:
    return name if isinstance(module, nn.Linear) and name.endswith((".ff.net.0.proj", ".ff.net.2")) else None


def _convolution(name: str, module: nn.Module) -> str | None:
    """Those of resnets and of down- and upsamplers, and the transformers' way in and out, which some models have as linear layers."""
    if name.endswith((".proj_in", ".proj_out")):
        return name if isinstance(module, (nn.Conv2d, nn.Linear)) else None
    return name if isinstance(module, nn.Conv2d) and name.endswith((".conv1", ".conv2", ".conv_shortcut", "samplers.0.conv")) else None


def _text_attention(name: str, module: nn.Module) -> str | None:
    # transformers before 5.6 had a level more, text_model.
    chosen = isinstance(module, nn.Linear) and name.endswith(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"))
    return TEXT_ENCODER + name.removeprefix("text_model.") if chosen else None


_UNET_GROUPS = {"attention": _attention, "ff": _feed_forward, "conv": _convolution}
"""What the words of `targets` name, each as a rule: the path of a layer that it chooses."""
_INDICES = 10_000  # more than a group has layers, so that every layer has dropout masks of its own
