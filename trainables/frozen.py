"""Work on frozen networks, done once: loading them, VAE latents and text embeddings, in memory and, given a folder, latents on disk.

Keyed by what they depend on: (vae, images, flip) and (text encoder, exact string). Reference features live in features.py."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.config import NUMERICS_VERSION, content_key
from trainables.model_sources import part_digest, resolve_model
from trainables.models import ModelParts, encode_latents, encode_prompts, load_parts
from trainables.subject import Subject, SubjectImage, load_pixels

ENCODE_BATCH = 32


class FrozenWork:
    """Loaded base models, their latents and text embeddings. One per device; several may share a folder."""

    def __init__(self, device: str | torch.device = "cpu", folder: Path | None = None) -> None:
        self.device = torch.device(device)
        self.folder = folder
        self._parts: dict[tuple[str, str | None, str], ModelParts] = {}
        self._latents: dict[str, Tensor] = {}
        self._text: dict[tuple[str, str], Tensor] = {}

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
            self._parts[name] = parts
        return self._parts[name]

    def latents(self, parts: ModelParts, subject: Subject, *, flip: bool) -> Tensor:
        """(n, c, h, w) latents of the subject's training images on the model's device; with `flip`, (2n, ...): the mirrored ones behind."""
        straight = self._latents_of(parts, subject, flip=False)
        return torch.cat([straight, self._latents_of(parts, subject, flip=True)]) if flip else straight

    def heldout_latents(self, parts: ModelParts, subject: Subject) -> Tensor:
        """(n, c, h, w) latents of the subject's held-out images on the model's device."""
        vae = part_digest(parts.source, "vae")
        key = content_key("heldout latents", NUMERICS_VERSION, vae, subject.reference_digest, parts.resolution)
        return self._kept(key, parts, subject.heldout, flip=False)

    def text(self, parts: ModelParts, texts: list[str]) -> Tensor:
        """(n, tokens, d) embeddings of these strings on the model's device, each encoded once."""
        encoder = part_digest(parts.source, "text_encoder")
        missing = sorted({text for text in texts if (encoder, text) not in self._text})
        for start in range(0, len(missing), ENCODE_BATCH):
            batch = missing[start : start + ENCODE_BATCH]
            for text, row in zip(batch, encode_prompts(parts, batch), strict=True):
                self._text[encoder, text] = row
        return torch.stack([self._text[encoder, text] for text in texts]).to(parts.device)

    def _latents_of(self, parts: ModelParts, subject: Subject, *, flip: bool) -> Tensor:
        key = content_key("latents", NUMERICS_VERSION, part_digest(parts.source, "vae"), subject.training_digest("v1"), parts.resolution, flip)
        return self._kept(key, parts, subject.train, flip=flip)

    def _kept(self, key: str, parts: ModelParts, images: tuple[SubjectImage, ...], *, flip: bool) -> Tensor:
        if key not in self._latents:
            self._latents[key] = self._stored(key, lambda: _encode(parts, images, flip=flip)).to(parts.device)
        return self._latents[key]

    def _stored(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        if self.folder is None:
            return compute()
        path = self.folder / f"{key}.safetensors"
        try:
            return load_file(path)["value"]
        except (FileNotFoundError, SafetensorError, KeyError):  # absent, or damaged: it is only a cache
            value = compute()
            _write(path, value)
            return value


def _encode(parts: ModelParts, images: tuple[SubjectImage, ...], *, flip: bool) -> Tensor:
    batches = []
    for start in range(0, len(images), ENCODE_BATCH):
        pixels = load_pixels(images[start : start + ENCODE_BATCH], parts.resolution)
        batches.append(encode_latents(parts, pixels, flip=flip).cpu())
    return torch.cat(batches)


def _write(path: Path, value: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file({"value": value.contiguous()}, temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError):  # a full disk, which safetensors tells in its own words: it is only a cache
        Path(temporary).unlink(missing_ok=True)
