"""Adapters of everything that is trained, of a tiny model, for tests of the files that other programs read."""

import torch

from trainables.frozen import FrozenWork
from trainables.lora import Adapter, SlotLoRA, new_adapter
from trainables.models import ModelParts

RANK, ALPHA = 4, 6.0


def tiny_parts(model) -> ModelParts:
    return FrozenWork().parts(str(model), None, "float32")


def whole_adapter(model, *, seed: int = 0, targets: str = "attention+ff+conv", text: bool = True) -> Adapter:
    """Attention, feed-forward, convolutions and the text encoder; alpha is not the rank, and no factor is zero."""
    parts = tiny_parts(model)
    lora = SlotLoRA(parts.unet, targets, text_encoder=parts.text_encoder if text else None)
    fresh = new_adapter(lora.shapes, rank=RANK, alpha=ALPHA, seed=seed, kernels=lora.kernels)
    generator = torch.Generator().manual_seed(seed)
    layers = {path: (a, torch.randn(b.shape, generator=generator) * 0.1) for path, (a, b) in fresh.layers.items()}
    return Adapter(RANK, ALPHA, layers, fresh.kernels)
