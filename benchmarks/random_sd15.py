"""A model folder with Stable Diffusion 1.5's architecture and random weights, for speed and memory: these do not depend on the weights.

Not a model that makes pictures of anything, and not a part of the product."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

TOKENIZER = Path(__file__).resolve().parents[1] / "trainables" / "embedded" / "base" / "tokenizer"


def write_model(folder: Path, *, device: str = "cpu", small: bool = False) -> str:
    """The folder, in diffusers' layout, weights in float16 as their classes initialise them on `device`.

    `small`: layers of an eighth of the width, 64 pixels."""
    from diffusers import (
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    narrow = 8 if small else 1
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=8 if small else 64,
            block_out_channels=tuple(c // narrow for c in (320, 640, 1280, 1280)),
            layers_per_block=2,
            cross_attention_dim=768 // narrow,
            attention_head_dim=8,
            norm_num_groups=32 // narrow,
        )
        vae = AutoencoderKL(
            sample_size=64 if small else 512,
            block_out_channels=tuple(c // narrow for c in (128, 256, 512, 512)),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=32 // narrow,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768 // narrow,
                intermediate_size=3072 // narrow,
                num_hidden_layers=12,
                num_attention_heads=12,
                hidden_act="quick_gelu",
            )
        )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    tokenizer = CLIPTokenizer.from_pretrained(str(shutil.copytree(TOKENIZER, folder / "words")))
    pipeline = StableDiffusionPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder / "sd15", safe_serialization=True)
    return str(folder / "sd15")
