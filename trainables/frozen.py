"""Work on frozen networks, done once: loading them, VAE latents and text embeddings, in memory and, given a folder, latents on disk.

Keyed by what they depend on: (vae, images, flip) and (text encoder, tokenizer, exact string). Reference features live in features.py."""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables import checksums
from trainables.activity import Phase, note
from trainables.buckets import Buckets, Size
from trainables.class_images import ClassImages
from trainables.config import NUMERICS_VERSION, content_key
from trainables.model_sources import part_digest, resolve_model
from trainables.models import ModelParts, encode_latents, encode_prompts, load_parts
from trainables.subject import Subject, SubjectImage, load_pixels

ENCODE_BATCH = 32
TEXT_BYTES = 2**28
"""How many bytes of text embeddings are kept for the next time; over a thousand strings of Stable Diffusion 1.5."""


class FrozenWork:
    """Loaded base models, their latents and text embeddings. One per device; several may share a folder."""

    def __init__(
        self,
        device: str | torch.device = "cpu",
        folder: Path | None = None,
        *,
        on_load: Callable[[ModelParts], None] = lambda parts: None,
    ) -> None:
        """`on_load` is called once with every base model that is loaded, before anything is computed with it."""
        self.device = torch.device(device)
        self.folder = folder
        self._on_load = on_load
        self._parts: dict[tuple[str, str | None, str], ModelParts] = {}
        self._latents: dict[str, Tensor] = {}
        self._text: OrderedDict[tuple[str, str], Tensor] = OrderedDict()  # the latest used last

    def parts(self, model: str, vae: str | None, dtype: str) -> ModelParts:
        """A base model on the device, loaded once. `dtype` is that of TrainConfig and EvalConfig, e.g. "float32".

        Raises:
            ModelError: it cannot be found or read."""
        name = (model, vae, dtype)
        if name not in self._parts:
            parts = load_parts(resolve_model(model, vae), device=self.device, dtype=getattr(torch, dtype))
            parts.vae.to(memory_format=torch.channels_last)
            if self.device.type == "cuda":
                # On a CPU a profile showed the group norms of the backward pass losing by it; timings, on a busy machine, were not conclusive.
                parts.unet.to(memory_format=torch.channels_last)
            self._on_load(parts)
            self._parts[name] = parts
        return self._parts[name]

    def latents(self, parts: ModelParts, subject: Subject, *, flip: bool) -> Tensor:
        """(n, c, h, w) latents of the subject's training images on the model's device; with `flip`, (2n, ...): the mirrored ones behind."""
        return self._latents_of(parts, subject.train, subject.training_digest("v1"), flip=flip)

    def bucketed_latents(self, parts: ModelParts, subject: Subject, buckets: Buckets, *, flip: bool) -> Tensor:
        """As `latents`, each image in its bucket's size, with zeros to its right and below up to the largest: (n, c, h_max, w_max)."""
        key = content_key("bucketed latents", NUMERICS_VERSION, part_digest(parts.source, "vae"), subject.training_digest("v1"), buckets.sizes)
        ways = [False, True] if flip else [False]
        return torch.cat([self._kept(f"{key}{way:d}", parts, lambda way=way: _encode_bucketed(parts, subject.train, buckets, flip=way)) for way in ways])

    def class_latents(self, parts: ModelParts, class_images: ClassImages, *, flip: bool) -> Tensor:
        """As `latents`, of class images."""
        return self._latents_of(parts, class_images.images, class_images.digest, flip=flip)

    def heldout_latents(self, parts: ModelParts, subject: Subject) -> Tensor:
        """(n, c, h, w) latents of the subject's held-out images on the model's device."""
        vae = part_digest(parts.source, "vae")
        key = content_key("heldout latents", NUMERICS_VERSION, vae, subject.reference_digest, parts.resolution)
        return self._kept(key, parts, lambda: _encode(parts, subject.heldout, flip=False))

    def text(self, parts: ModelParts, texts: list[str]) -> Tensor:
        """(n, tokens, d) embeddings of these strings on the model's device, each encoded once for as long as it is kept."""
        encoder = part_digest(parts.source, "text_encoder") + part_digest(parts.source, "tokenizer")
        missing = sorted({text for text in texts if (encoder, text) not in self._text})
        for start in range(0, len(missing), ENCODE_BATCH):
            batch = missing[start : start + ENCODE_BATCH]
            for text, row in zip(batch, encode_prompts(parts, batch), strict=True):
                self._text[encoder, text] = row.clone()  # a view would keep its whole batch
        rows = [self._text[encoder, text] for text in texts]
        self._forget_oldest_texts([(encoder, text) for text in texts])
        return torch.stack(rows).to(parts.device)

    def _forget_oldest_texts(self, just_used: Sequence[tuple[str, str]]) -> None:
        for key in just_used:
            self._text.move_to_end(key)
        size_bytes = sum(row.nbytes for row in self._text.values())
        while size_bytes > TEXT_BYTES:
            size_bytes -= self._text.popitem(last=False)[1].nbytes

    def _latents_of(self, parts: ModelParts, images: Sequence[SubjectImage], content: str, *, flip: bool) -> Tensor:
        straight = self._latents_one_way(parts, images, content, flip=False)
        return torch.cat([straight, self._latents_one_way(parts, images, content, flip=True)]) if flip else straight

    def _latents_one_way(self, parts: ModelParts, images: Sequence[SubjectImage], content: str, *, flip: bool) -> Tensor:
        key = content_key("latents", NUMERICS_VERSION, part_digest(parts.source, "vae"), content, parts.resolution, flip)
        return self._kept(key, parts, lambda: _encode(parts, images, flip=flip))

    def _kept(self, key: str, parts: ModelParts, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self._latents:
            self._latents[key] = self._stored(key, compute).to(parts.device)
        return self._latents[key]

    def _stored(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        if self.folder is None:
            return compute()
        path = self.folder / f"{key}.safetensors"
        try:
            if not checksums.is_damaged(path):
                return load_file(path)["value"]
        except (OSError, SafetensorError, KeyError):  # absent, or damaged: it is only a cache
            pass
        value = compute()
        _write(path, value)
        return value


def _encode(parts: ModelParts, images: Sequence[SubjectImage], *, flip: bool, size: Size | None = None) -> Tensor:
    batches = []
    for start in range(0, len(images), ENCODE_BATCH):
        note(Phase.ENCODING, "images", unit="image", done=start, total=len(images))
        pixels = load_pixels(images[start : start + ENCODE_BATCH], *(size or (parts.resolution,)))
        batches.append(encode_latents(parts, pixels, flip=flip).cpu())
    return torch.cat(batches)


def _encode_bucketed(parts: ModelParts, images: Sequence[SubjectImage], buckets: Buckets, *, flip: bool) -> Tensor:
    width, height = (max(sides) // parts.pixels_per_latent for sides in zip(*buckets.sizes, strict=True))
    latents = torch.zeros(len(images), parts.latent_shape[0], height, width)
    for bucket, size in enumerate(buckets.sizes):
        members = [i for i, own in enumerate(buckets.of_image) if own == bucket]
        encoded = _encode(parts, [images[i] for i in members], flip=flip, size=size)
        latents[members, :, : encoded.shape[2], : encoded.shape[3]] = encoded
    return latents


def _write(path: Path, value: Tensor) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"value": value.contiguous()}, temporary, metadata={checksums.NAME: checksums.BLANK})
        with open(temporary, "r+b") as file:
            checksums.seal(file)
        os.replace(temporary, path)
    except (OSError, SafetensorError):  # a full or read-only disk, which safetensors tells in its own words: it is only a cache
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
