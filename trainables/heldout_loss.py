"""The held-out denoising loss of adapters: how well each predicts the noise in pictures that it was not trained on.

    mean over K pairs of |eps - eps_hat(sqrt(abar_t) x_i + sqrt(1 - abar_t) eps, t, trigger)|^2 / (c h w)

x_i are latents of held-out images, t the midpoints of K equal parts of the noise schedule, eps fixed noise: the same pairs for every
adapter, so that what they have in common cancels. The text is the trigger word alone, the one caption that every subject and every
caption version has; an adapter that trained the text encoder reads it with that. For v-prediction the target is v. Computed with the model that the evaluation generates with, which need not be
the one that the adapter was trained on: it is then as measured there, and the control without adapter has a value on the same footing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.activity import beat
from trainables.frozen import FrozenWork
from trainables.generate import BATCH_IMAGES, text_of_slots
from trainables.lora import Adapter, SlotLoRA, derived_seed, stack_adapters
from trainables.models import ModelParts
from trainables.out_of_memory import free_memory, is_out_of_memory
from trainables.subject import Subject

N_PAIRS = 32
"""Pairs of an image and a timestep. 20 pictures in 20 guided steps are 800 passes of the UNet; these are 32."""


@dataclass(frozen=True)
class LossPairs:
    """K noisy latents, what is to be predicted of them, and their timesteps."""

    noisy: Tensor  # (K, c, h, w)
    target: Tensor  # (K, c, h, w)
    timesteps: Tensor  # (K,) int64

    def __getitem__(self, rows: slice) -> LossPairs:
        return LossPairs(self.noisy[rows], self.target[rows], self.timesteps[rows])

    def __len__(self) -> int:
        return len(self.timesteps)


def heldout_losses(
    parts: ModelParts, frozen: FrozenWork, adapters: Sequence[Adapter | None], subject: Subject, *, n_pairs: int = N_PAIRS, seed: int = 0
) -> list[float]:
    """The loss of each adapter (None: the model without one), in their order. The subject must have held-out images.

    Raises:
        AdapterError: an adapter does not fit the model."""
    pairs = loss_pairs(parts, frozen.heldout_latents(parts, subject), n_pairs=n_pairs, seed=seed)
    lora = SlotLoRA(parts.unet, text_encoder=parts.text_encoder)
    text = text_of_slots(parts, frozen, lora, adapters, [[subject.trigger]] * len(adapters))
    return _within_memory(parts, lora, list(adapters), pairs, text, BATCH_IMAGES.get(torch.device(parts.device).type, 16) * 2)


def loss_pairs(parts: ModelParts, latents: Tensor, *, n_pairs: int, seed: int) -> LossPairs:
    """Timesteps over the whole schedule, and as many images as possible, in an order that has nothing to do with the timesteps."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "held-out loss"))
    n_timesteps = parts.noise_scheduler.config.num_train_timesteps
    timesteps = ((torch.arange(n_pairs) + 0.5) * n_timesteps / n_pairs).long()
    n_rounds = -(-n_pairs // len(latents))
    rows = torch.cat([torch.randperm(len(latents), generator=generator) for _ in range(n_rounds)])[:n_pairs]
    noise = torch.randn((n_pairs, *latents.shape[1:]), generator=generator).to(latents.device)
    x, timesteps = latents[rows.to(latents.device)], timesteps.to(latents.device)
    return LossPairs(parts.noise_scheduler.add_noise(x, noise, timesteps), parts.denoising_target(x, noise, timesteps), timesteps)


def _within_memory(
    parts: ModelParts, lora: SlotLoRA, adapters: list[Adapter | None], pairs: LossPairs, text: Tensor, limit: int
) -> list[float]:
    """The losses, at most `limit` samples at once; where memory does not hold them, half as many, down to one."""
    n_together = max(1, limit // N_PAIRS)
    losses = []
    try:
        for start in range(0, len(adapters), n_together):
            some = adapters[start : start + n_together]
            losses += _losses(parts, lora, some, pairs, text[start : start + n_together], n_at_once=max(1, limit // len(some)))
        return losses
    except Exception as error:
        if limit == 1 or not is_out_of_memory(error):
            raise
    free_memory()
    return _within_memory(parts, lora, adapters, pairs, text, limit // 2)


@torch.no_grad()
def _losses(
    parts: ModelParts, lora: SlotLoRA, adapters: list[Adapter | None], pairs: LossPairs, text: Tensor, *, n_at_once: int
) -> list[float]:
    """The losses of adapters that are computed with at once; text (S, tokens, d) is what each of them reads."""
    n_slots = len(adapters)
    total = torch.zeros(n_slots, dtype=torch.float64)
    with lora.attached(*stack_adapters(adapters, lora.shapes_for(adapters), device=parts.device)):
        for start in range(0, len(pairs), n_at_once):
            beat()
            some = pairs[start : start + n_at_once]
            noisy = some.noisy.repeat(n_slots, 1, 1, 1).to(parts.dtype)
            words = text.repeat_interleave(len(some), dim=0).to(parts.dtype)
            predicted = parts.unet(noisy, some.timesteps.repeat(n_slots), words, return_dict=False)[0].float()
            error = (predicted.view(n_slots, len(some), *some.target.shape[1:]) - some.target).square().mean(dim=(2, 3, 4))
            total += error.double().sum(1).cpu()
    return (total / len(pairs)).tolist()
