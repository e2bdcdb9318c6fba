"""Low-rank updates of a base model's layers: W + scale * up @ down, as one weight or as two products.

Any layer of the UNet and the text encoder may have one, of any rank: unlike an Adapter, which has one rank, and the layers that are
trained here. Nothing here reads files; updates are for pictures and checkpoints, never for training."""

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

    @property
    def delta(self) -> Tensor:
        """scale * up @ down in float32: (d_out, d_in)."""
        return self.scale * (self.up.float() @ self.down.float())

    def added_to(self, weight: Tensor) -> Tensor:
        """W with its update, in the type and on the device of W; the sum is made in float32."""
        return (weight.float() + self.delta.to(weight.device).view(weight.shape)).to(weight.dtype)


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
def apply_updates(parts: ModelParts, updates: Mapping[str, Update]) -> None:
    """Give a loaded base model these updates, for good. Each path must be one of `updatable_layers`, in its shape.

    As with the adapters that are trained here, a float32 layer gets W + update as its weight; a smaller float would round
    the update away, so there it stays beside the weight."""
    layers = updatable_layers(parts.unet, parts.text_encoder)
    names = {id(module): (network, name) for network in (parts.unet, parts.text_encoder) for name, module in network.named_modules()}
    for path, update in updates.items():
        layer = layers[path]
        if layer.weight.dtype == torch.float32:
            layer.weight.copy_(update.added_to(layer.weight))
        else:
            network, name = names[id(layer)]
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, UpdatedLayer(layer, update))


class UpdatedLayer(nn.Module):
    """A frozen layer with one update beside its weight, computed as for the adapters that are trained here."""

    def __init__(self, base: nn.Linear | nn.Conv2d, update: Update) -> None:
        super().__init__()
        self.layer = SlotLoRALayer(base, index=0)  # the index only tells dropout masks apart
        self.layer.a = update.down.float().T[None].to(base.weight.device)
        self.layer.b = (update.up.float().T * update.scale)[None].to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)
