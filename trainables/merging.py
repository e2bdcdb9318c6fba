"""Low-rank updates of a base model's layers, and their sum with its weights: W + scale * up @ down.

Any layer of the UNet and the text encoder may have one, of any rank: unlike an Adapter, which has one rank, and the layers that are
trained here. Nothing here reads files; merging is for pictures and checkpoints, never for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.lora import TEXT_ENCODER, Adapter
from trainables.lora_layers import SlotLoRALayer
from trainables.models import ModelParts


@dataclass(frozen=True)
class Update:
    """One layer's update. For a convolution d_in is c_in * kernel height * kernel width, in the order of its weight."""

    down: Tensor  # (r, d_in)
    up: Tensor  # (d_out, r)
    scale: float

    def added_to(self, weight: Tensor) -> Tensor:
        """W with its update, in the type and on the device of W; the sum is made in float32."""
        delta = self.scale * (self.up.float() @ self.down.float())
        return (weight.float() + delta.to(weight.device).view(weight.shape)).to(weight.dtype)


def updates_of(adapter: Adapter) -> dict[str, Update]:
    """The adapter's updates by layer path."""
    return {path: Update(a.T, b.T, adapter.scale) for path, (a, b) in adapter.layers.items()}


def updatable_layers(unet: nn.Module, text_encoder: nn.Module) -> dict[str, nn.Module]:
    """The linear layers and convolutions by path, as `Adapter.layers` has them: the text encoder's begin with TEXT_ENCODER."""
    # transformers before 5.6 had a level more, text_model.
    of_text = {TEXT_ENCODER + name.removeprefix("text_model."): module for name, module in text_encoder.named_modules()}
    every = {**dict(unet.named_modules()), **of_text}
    # A layer that holds slots of adapters lies one level deeper; its path is still the same.
    plain = {path: module.base if isinstance(module, SlotLoRALayer) else module for path, module in every.items() if not path.endswith(".base")}
    return {path: module for path, module in plain.items() if isinstance(module, (nn.Linear, nn.Conv2d))}


@torch.no_grad()
def merge_updates(parts: ModelParts, updates: Mapping[str, Update]) -> None:
    """Add the updates to the weights of a loaded base model, for good. Each path must be one of `updatable_layers`, in its shape."""
    layers = updatable_layers(parts.unet, parts.text_encoder)
    for path, update in updates.items():
        layers[path].weight.copy_(update.added_to(layers[path].weight))
