"""A slot: one training's place in a pack, and what it draws at random, step by step, from its own (train_seed, step) alone.

Nothing here depends on the other slots: that is what makes a packed training equal the same training alone. No step is done here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.config import POLYNOMIAL_END, TrainConfig
from trainables.dropout import SlotDropout
from trainables.lora import derived_seed
from trainables.tags import caption_of


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
    latents: Tensor  # (n, c, h, w), or (2n, ...) with the flipped ones behind; then those of the class images in the same way
    # (n_distinct + 1, tokens, d), or what `tokenize` gives; the last row is the empty caption, the one before it the class images' if there are any
    text: Tensor
    text_index: Tensor  # (n,) int64: image -> row of text; -1 where captions are drawn anew
    n_timesteps: int
    n_class_images: int = 0
    tags: tuple[tuple[str, ...], ...] | None = None  # of each image's caption, where captions are drawn anew
    bucket_of: Tensor | None = None  # (n,) int64: image -> bucket, where images keep their aspect ratio
    bucket_sizes: tuple[tuple[int, int], ...] = ()  # (h, w) of each bucket's latents, which lie in the upper left of their rows
    bucket_sequence: tuple[int, ...] = ()  # the bucket of each step of an epoch
    loss_weights: Tensor | None = None  # (rows of latents, h, w): what an element of the error counts; None: all the same
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
        return len(self.bucket_sequence) or math.ceil(self.n_images / self.config.batch)

    def size_of_image(self, image: int) -> tuple[int, int]:
        """(h, w) of its latents."""
        return tuple(self.latents.shape[2:]) if self.bucket_of is None else self.bucket_sizes[self.bucket_of[image]]

    def size_of_step(self, step: int) -> tuple[int, int] | None:
        """(h, w) of the latents of all its images, where steps differ in that."""
        return self.bucket_sizes[self.bucket_sequence[step % self.steps_per_epoch]] if self.bucket_sequence else None

    @property
    def standing(self) -> Standing:
        n_steps = self.step % self.steps_per_epoch
        return Standing(self.step / self.steps_per_epoch, self.loss_sum / n_steps if n_steps else math.nan, self.steps_per_epoch)


@dataclass
class Draws:
    """The random choices and schedules of K steps for S slots with batch b: that of the configuration, and twice that with class images."""

    image: Tensor  # (K, S, b) int64, row of the slot's latents
    text: Tensor  # (K, S, b) int64, row of the slot's text, or of its drawn captions
    weight: Tensor  # (K, S, b): 1 / real samples of the step, times prior_weight for class images; 0 for the padding of an epoch's last batch
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
    captions: tuple[tuple[str, ...] | None, ...]  # of each slot, where they are drawn
    sizes: tuple[tuple[int, int] | None, ...]  # (h, w) of each step's latents, where steps differ in that
    text_tables: tuple[Tensor, ...] = ()  # of each slot; on the device, filled in by the pack

    def dropout(self, k: int) -> SlotDropout | None:
        return SlotDropout(self.dropout_p, self.dropout_seed[k]) if self.any_dropout else None

    def to(self, device: torch.device) -> Draws:
        return self._map(lambda t: t.to(device, non_blocking=True))

    def pinned(self) -> Draws:
        return self._map(lambda t: t.pin_memory())

    def _map(self, change) -> Draws:
        return Draws(**{name: change(value) if isinstance(value, Tensor) else value for name, value in vars(self).items()})


def draw(slots: list[Slot], offset: int, n_steps: int) -> Draws:
    per_slot, captions = zip(*(_draw_slot(slot, range(slot.step + offset, slot.step + offset + n_steps)) for slot in slots), strict=True)
    sizes = {tuple(slot.size_of_step(slot.step + offset + k) for k in range(n_steps)) for slot in slots}
    assert len(sizes) == 1, "trainings share a pack only if their steps have equal sizes: of one subject, batch and position in the epoch"
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
        captions=captions,
        sizes=sizes.pop(),
    )


def _draw_slot(slot: Slot, steps: range) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Its draws, K steps of each, and the captions that their `text` counts, where it does not count the slot's own."""
    draws = [_draw_step(slot, step) for step in steps]
    captions = None
    if slot.tags is not None:
        drawn = [_draw_captions(slot, step, draw) for step, draw in zip(steps, draws, strict=True)]
        captions = tuple(sorted(set().union(*drawn)))
        row = {text: i for i, text in enumerate(captions)}
        draws = [draw | {"text": torch.tensor([row[text] for text in texts])} for draw, texts in zip(draws, drawn, strict=True)]
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}, captions


def _draw_step(slot: Slot, step: int) -> dict[str, Tensor]:
    config = slot.config
    generator = torch.Generator().manual_seed(derived_seed(config.train_seed, "step", step))
    noise, timesteps = _noise_and_timesteps(slot, generator)
    flips, drops = torch.rand((2, config.batch), generator=generator)
    dropout_seed = torch.randint(-(2**31), 2**31, (), generator=generator)
    image, weight = _images_of_step(slot, step)
    samples = {
        "image": image + slot.n_images * (flips < 0.5) if config.flip else image,
        "text": torch.where(drops < config.caption_dropout, len(slot.text) - 1, slot.text_index[image]),
        "weight": weight,
        "timesteps": timesteps,
        "noise": noise,
    }
    if slot.n_class_images:
        of_class = _draw_class_images(slot, step, weight)
        samples = {name: torch.cat([samples[name], of_class[name]]) for name in samples}
    return samples | {
        "dropout_seed": dropout_seed.to(torch.int32),
        "learning_rate": torch.tensor(config.learning_rate * schedule_factor(config, step, slot.total_steps)),
        "step": torch.tensor(step + 1),
    }


def _noise_and_timesteps(slot: Slot, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    batch = slot.config.batch
    noise = torch.randn((batch, *slot.latents.shape[1:]), generator=generator)
    timesteps = torch.randint(0, slot.n_timesteps, (batch,), generator=generator)
    offset = torch.randn((batch, slot.latents.shape[1], 1, 1), generator=generator)
    return noise + slot.config.noise_offset * offset, timesteps


def _draw_class_images(slot: Slot, step: int, weight: Tensor) -> dict[str, Tensor]:
    """As many class images as the step has images of the subject: prior preservation's half of the batch.

    Their caption is never dropped. They come in an order of their own, drawn anew whenever all of them have been shown."""
    config, n = slot.config, slot.n_class_images
    generator = torch.Generator().manual_seed(derived_seed(config.train_seed, "class", step))
    noise, timesteps = _noise_and_timesteps(slot, generator)
    flips = torch.rand(config.batch, generator=generator)
    shown = range(step * config.batch, (step + 1) * config.batch)
    orders = {turn: _order(slot, "class order", turn, n) for turn in {number // n for number in shown}}
    first_row = slot.n_images * (2 if config.flip else 1)
    image = first_row + torch.stack([orders[number // n][number % n] for number in shown])
    return {
        "image": image + n * (flips < 0.5) if config.flip else image,
        "text": torch.full((config.batch,), len(slot.text) - 2),
        "weight": config.prior_weight * weight,
        "timesteps": timesteps,
        "noise": noise,
    }


def _draw_captions(slot: Slot, step: int, draw: dict[str, Tensor]) -> list[str]:
    """The step's captions, of which `draw` says whose they are and which are dropped: tags shuffled and dropped, the first ones kept."""
    config = slot.config
    generator = torch.Generator().manual_seed(derived_seed(config.train_seed, "tags", step))
    images = draw["image"][: config.batch] % slot.n_images  # flipped or not
    captions = []
    for image, row in zip(images.tolist(), draw["text"].tolist(), strict=False):
        tags = slot.tags[image]
        n_others = max(0, len(tags) - config.keep_tags)
        shuffled, chances = torch.randperm(n_others, generator=generator), torch.rand(n_others, generator=generator)
        order = shuffled.tolist() if config.shuffle_tags else range(n_others)
        caption = caption_of(tags, n_first=config.keep_tags, order=order, dropped=(chances < config.tag_dropout).tolist())
        captions.append("" if row == len(slot.text) - 1 else caption)
    return captions + [config.prior_prompt] * (config.batch if slot.n_class_images else 0)


def _images_of_step(slot: Slot, step: int) -> tuple[Tensor, Tensor]:
    epoch, position = divmod(step, slot.steps_per_epoch)
    if slot.order_epoch != epoch:
        slot.order, slot.order_epoch = _order(slot, "order", epoch, slot.n_images), epoch
    batch, order = slot.config.batch, slot.order
    if slot.bucket_of is not None:  # of the images of the step's bucket those that come next
        bucket = slot.bucket_sequence[position]
        order, position = order[slot.bucket_of[order] == bucket], slot.bucket_sequence[:position].count(bucket)
    image = order[position * batch : (position + 1) * batch]
    n_real = len(image)
    weight = torch.zeros(batch)
    weight[:n_real] = 1 / n_real
    return torch.cat([image, image[:1].expand(batch - n_real)]), weight


def _order(slot: Slot, of: str, turn: int, n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(derived_seed(slot.config.train_seed, of, turn)))


def schedule_factor(config: TrainConfig, step: int, total_steps: int | None) -> float:
    """What the learning rate is multiplied with at a step (from 0), as diffusers' get_scheduler defines the schedule of that name."""
    warmup = 0 if config.lr_schedule == "constant" else config.lr_warmup_steps
    if step < warmup:
        return step / max(1, warmup)
    if config.lr_schedule == "linear":
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup))
    if not config.schedule_has_length:
        return 1.0
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.lr_schedule == "polynomial":
        end = POLYNOMIAL_END / config.learning_rate
        return end + (1 - end) * max(0.0, 1 - progress) ** config.lr_power
    if config.lr_schedule == "cosine_with_restarts":
        progress = (config.lr_cycles * progress) % 1.0 if progress < 1 else 1.0
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
