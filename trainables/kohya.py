"""kohya's LoRA files, as A1111 and ComfyUI read them: names and shapes of their tensors, and the hashes in their metadata.

    lora_unet_<path with _>.lora_down.weight   (r, d_in), of a convolution (r, c_in, height, width)
    lora_unet_<path with _>.lora_up.weight     (d_out, r), of a convolution (d_out, r, 1, 1)
    lora_unet_<path with _>.alpha              a number: the update is up @ down * alpha / r
    lora_te_text_model_<path with _>....       the same of the text encoder

What a person may want to know of a training is put into metadata by others; nothing here knows of studies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from trainables.lora import TEXT_ENCODER, Adapter

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


def kohya_name(path: str) -> str:
    """A layer's name in these files."""
    # transformers since 5.6 have no level text_model; other programs know no text encoder without it, and drop it silently.
    in_text = path.removeprefix(TEXT_ENCODER)
    prefix, rest = ("lora_te_text_model_", in_text) if path.startswith(TEXT_ENCODER) else ("lora_unet_", path)
    return prefix + rest.replace(".", "_")


def kohya_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter as such a file holds it; alpha is the one that it was trained with, not its rank."""
    tensors = {}
    for path, (a, b) in adapter.layers.items():
        name, kernel = kohya_name(path), adapter.kernels.get(path)
        down, up = a.T, b.T
        tensors[f"{name}.{DOWN}"] = (down if kernel is None else down.unflatten(1, (-1, *kernel))).contiguous()
        tensors[f"{name}.{UP}"] = (up if kernel is None else up[:, :, None, None]).contiguous()
        tensors[f"{name}.{ALPHA}"] = torch.tensor(float(adapter.alpha))
    return tensors


def kohya_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The two entries by which web UIs know a file again, computed as kohya's scripts do: of the tensors, and of the `ss_` entries alone."""
    content = save(dict(tensors), {name: value for name, value in metadata.items() if name.startswith("ss_")})
    header_bytes = int.from_bytes(content[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(content[8 + header_bytes :]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
    }


def model_hash_of(file: Path) -> str:
    """What web UIs call a safetensors file's hash: that of its tensors, whatever its metadata say."""
    with open(file, "rb") as opened:
        opened.seek(8 + int.from_bytes(opened.read(8), "little"))
        return hashlib.file_digest(opened, "sha256").hexdigest()
