"""Small random networks of transformers, saved as their publishers save them, for tests of further metrics."""

from __future__ import annotations

from pathlib import Path

from tests.trainables.conftest import write_tiny_tokenizer


def write_dinov2(folder: Path, *, seed: int = 0) -> Path:
    """DINOv2 on 28x28 pixels: 2 layers, 32 numbers per image."""
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, initializer_range=0.3)
        Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def write_clip(folder: Path, *, seed: int = 0) -> Path:
    """CLIP on 32x32 pixels, with an embedding of 16 numbers: not the width that its parts have by default."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = write_tiny_tokenizer(folder / "written_tokenizer")
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text, vision = {**size, **ids, "vocab_size": len(tokenizer)}, {**size, "image_size": 32, "patch_size": 8}
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16, initializer_factor=5.0)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
