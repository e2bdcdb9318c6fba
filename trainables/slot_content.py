"""What a slot reads while it trains: latents, text and loss weights of its subject and class images. Made once, when it gets its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainables.buckets import buckets_to_train
from trainables.class_images import load_class_images
from trainables.config import TrainConfig
from trainables.frozen import FrozenWork
from trainables.masks import loss_weights
from trainables.models import ModelParts, tokenize
from trainables.slots import Slot
from trainables.subject import Subject
from trainables.tags import tags_of


def new_slot(
    key: str, config: TrainConfig, subject: Subject, *, parts: ModelParts, frozen: FrozenWork, total_epochs: int | None
) -> Slot:
    """A training's slot at its start.

    Raises: SubjectError if the subject lacks its caption version or masks, or the class images are not there."""
    captions = subject.train_captions(config.caption)
    class_images = load_class_images(config.prior_images) if config.prior_preservation else None
    buckets = None
    if config.buckets:
        buckets = buckets_to_train(subject.train_sizes, resolution=parts.resolution, step=parts.bucket_step)
    if buckets is None:
        latents = [frozen.latents(parts, subject, flip=config.flip)]
    else:
        latents = [frozen.bucketed_latents(parts, subject, buckets, flip=config.flip)]
    if class_images:
        latents.append(frozen.class_latents(parts, class_images, flip=config.flip))
    distinct = [] if config.draws_tags else sorted(set(captions))
    row = {text: i for i, text in enumerate(distinct)}
    slot = Slot(
        key=key,
        config=config,
        latents=torch.cat(latents) if class_images else latents[0],
        text=read_texts(config, [*distinct, *([config.prior_prompt] if class_images else []), ""], parts=parts, frozen=frozen),
        text_index=torch.tensor([row.get(text, -1) for text in captions]),
        n_timesteps=parts.noise_scheduler.config.num_train_timesteps,
        n_class_images=len(class_images.images) if class_images else 0,
        tags=tuple(tags_of(text) for text in captions) if config.draws_tags else None,
    )
    if buckets is not None:
        f = parts.pixels_per_latent
        slot.bucket_of = torch.tensor(buckets.of_image)
        slot.bucket_sizes = tuple((height // f, width // f) for width, height in buckets.sizes)
        slot.bucket_sequence = buckets.sequence(config.batch)
    if config.uses_masks:
        slot.loss_weights = _loss_weights(slot, subject).to(parts.device)
    if config.schedule_has_length:
        slot.total_steps = (config.schedule_epochs or total_epochs) * slot.steps_per_epoch
    return slot


def read_texts(config: TrainConfig, texts: Sequence[str], *, parts: ModelParts, frozen: FrozenWork) -> torch.Tensor:
    """What a slot keeps of these texts: embeddings, or the tokens of which a text encoder in training makes them in each step."""
    return tokenize(parts, texts) if config.train_text_encoder else frozen.text(parts, list(texts))


def _loss_weights(slot: Slot, subject: Subject) -> torch.Tensor:  # (rows of latents, h, w)
    """Mirrored where the latents are; 1 for class images."""
    subject.require_masks()
    height, width = slot.latents.shape[2:]
    weights = np.ones((len(slot.latents), height, width), np.float32)
    for way in range(2 if slot.config.flip else 1):
        for i, image in enumerate(subject.train):
            h, w = slot.size_of_image(i)
            own = loss_weights([image], mask_weight=slot.config.mask_weight, width=w, height=h)[0]
            weights[way * slot.n_images + i, :h, :w] = own[:, ::-1] if way else own
    return torch.from_numpy(weights)
