"""A slot: one training's place in a pack, and what it draws at random, step by step, from its own (train_seed, step) alone.

Nothing here depends on the other slots: that is what makes a packed training equal the same training alone. No step is done here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.config import TrainConfig
from trainables.lora import SlotDropout, derived_seed


@dataclass(frozen=True)
class Standing:
    """Where a training stands: epochs (with a fraction), mean loss of the epoch under way (NaN at its start), steps of an epoch."""

    epochs: float
    mean_loss: float
    steps_per_epoch: int


@dataclass
class Slot:
    key: str
    config: TrainConfig
    latents: Tensor  # (n, c, h, w), or (2n, ...) with the flipped ones behind
    text: Tensor  # (n_distinct + 1, tokens, d), or what `tokenize` gives; the last row is the empty caption
    text_index: Tensor  # (n,) int64: image -> row of text
    n_timesteps: int
    total_steps: int | None = None
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    order: Tensor | None = None  # the images' order in `order_epoch`
    order_epoch: int = -1

    @property
    def n_images(self) -> int:
        return len(self.text_index)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.n_images / self.config.batch)

    @property
    def standing(self) -> Standing:
        n_steps = self.step % self.steps_per_epoch
        return Standing(self.step / self.steps_per_epoch, self.loss_sum / n_steps if n_steps else math.nan, self.steps_per_epoch)


@dataclass
class Draws:
    """The random choices and schedules of K steps for S slots with batch b."""

    image: Tensor  # (K, S, b) int64, row of the slot's latents
    text: Tensor  # (K, S, b) int64, row of the slot's text
    weight: Tensor  # (K, S, b): 1 / real samples of the step, 0 for the padding of an epoch's last batch
    timesteps: Tensor  # (K, S, b) int64
    noise: Tensor  # (K, S, b, c, h, w)
    dropout_seed: Tensor  # (K, S) int32
    learning_rate: Tensor  # (K, S)
    step: Tensor  # (K, S) int64, counted from 1
    dropout_p: Tensor  # (S,)
    weight_decay: Tensor  # (S,)
    max_grad_norm: Tensor  # (S,)
    snr_gamma: Tensor  # (S,), infinite for none
    any_dropout: bool  # these two are decided on the CPU, so that a step need not ask the device
    any_snr_gamma: bool

    def dropout(self, k: int) -> SlotDropout | None:
        return SlotDropout(self.dropout_p, self.dropout_seed[k]) if self.any_dropout else None

    def to(self, device: torch.device) -> Draws:
        return self._map(lambda t: t.to(device, non_blocking=True))

    def pinned(self) -> Draws:
        return self._map(lambda t: t.pin_memory())

    def _map(self, change) -> Draws:
        return Draws(**{name: change(value) if isinstance(value, Tensor) else value for name, value in vars(self).items()})


def draw(slots: list[Slot], offset: int, n_steps: int) -> Draws:
    per_slot = [_draw_slot(slot, range(slot.step + offset, slot.step + offset + n_steps)) for slot in slots]
    stacked = {name: torch.stack([draw[name] for draw in per_slot], dim=1) for name in per_slot[0]}
    configs = [slot.config for slot in slots]
    gammas = [math.inf if c.min_snr_gamma is None else c.min_snr_gamma for c in configs]
    return Draws(
        **stacked,
        dropout_p=torch.tensor([c.dropout for c in configs]),
        weight_decay=torch.tensor([c.weight_decay for c in configs]),
        max_grad_norm=torch.tensor([c.max_grad_norm for c in configs]),
        snr_gamma=torch.tensor(gammas),
        any_dropout=any(c.dropout > 0 for c in configs),
        any_snr_gamma=any(math.isfinite(g) for g in gammas),
    )


def _draw_slot(slot: Slot, steps: range) -> dict[str, Tensor]:
    draws = [_draw_step(slot, step) for step in steps]
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


def _draw_step(slot: Slot, step: int) -> dict[str, Tensor]:
    config = slot.config
    generator = torch.Generator().manual_seed(derived_seed(config.train_seed, "step", step))
    noise = torch.randn((config.batch, *slot.latents.shape[1:]), generator=generator)
    timesteps = torch.randint(0, slot.n_timesteps, (config.batch,), generator=generator)
    offset = torch.randn((config.batch, slot.latents.shape[1], 1, 1), generator=generator)
    flips, drops = torch.rand((2, config.batch), generator=generator)
    dropout_seed = torch.randint(-(2**31), 2**31, (), generator=generator)
    image, weight = _images_of_step(slot, step)
    text = torch.where(drops < config.caption_dropout, len(slot.text) - 1, slot.text_index[image])
    if config.flip:
        image = image + slot.n_images * (flips < 0.5)
    return {
        "image": image,
        "text": text,
        "weight": weight,
        "timesteps": timesteps,
        "noise": noise + config.noise_offset * offset,
        "dropout_seed": dropout_seed.to(torch.int32),
        "learning_rate": torch.tensor(config.learning_rate * schedule_factor(config, step, slot.total_steps)),
        "step": torch.tensor(step + 1),
    }


def _images_of_step(slot: Slot, step: int) -> tuple[Tensor, Tensor]:
    epoch, position = divmod(step, slot.steps_per_epoch)
    if slot.order_epoch != epoch:
        generator = torch.Generator().manual_seed(derived_seed(slot.config.train_seed, "order", epoch))
        slot.order, slot.order_epoch = torch.randperm(slot.n_images, generator=generator), epoch
    batch = slot.config.batch
    image = slot.order[position * batch : (position + 1) * batch]
    n_real = len(image)
    weight = torch.zeros(batch)
    weight[:n_real] = 1 / n_real
    return torch.cat([image, image[:1].expand(batch - n_real)]), weight


def schedule_factor(config: TrainConfig, step: int, total_steps: int | None) -> float:
    """What the learning rate is multiplied with at a step (from 0), as diffusers' get_scheduler defines the schedule of that name."""
    warmup = 0 if config.lr_schedule == "constant" else config.lr_warmup_steps
    if step < warmup:
        return step / max(1, warmup)
    if config.lr_schedule == "linear":
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup))
    if config.lr_schedule == "cosine":
        progress = (step - warmup) / max(1, total_steps - warmup)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
    return 1.0
