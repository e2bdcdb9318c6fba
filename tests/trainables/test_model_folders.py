"""Folders in diffusers' layout: what makes one unusable, said in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.layouts import change_config
from trainables.errors import ModelError
from trainables.models import resolve_model


def remove(*relative: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in relative:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return spoil


def keep_only_pickles(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def disguise_a_pickle(folder: Path) -> None:
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.safetensors")


def cut_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_config(file_name: str, **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        change_config(folder, file_name, **changes)

    return spoil


REFUSED = {
    "no tokenizer and scheduler": (remove("tokenizer", "scheduler"), "model has no tokenizer/, no scheduler/. Use"),
    "empty tokenizer": (remove("tokenizer/tokenizer.json"), "needs vocab.json and merges.txt, but .*tokenizer lacks"),
    "no config": (remove("unet/config.json"), "unet needs config.json"),
    "malformed config": (lambda folder: (folder / "unet" / "config.json").write_text("{"), r"unet/config\.json must be JSON"),
    "no weights": (remove("text_encoder/model.safetensors"), "text_encoder needs model.safetensors"),
    "only pickles": (keep_only_pickles, "Only safetensors .* holds only pickles. Rewrite"),
    "a pickle by another name": (disguise_a_pickle, r"runs the code inside; .*unet/.*safetensors is a pickle by its content"),
    "cut weights": (cut_weights, "must be a whole safetensors file, but it is not"),
    "sdxl": (with_config("model_index.json", _class_name="StableDiffusionXLPipeline"), "model is a StableDiffusionXLPipeline"),
    "two text encoders": (lambda folder: (folder / "text_encoder_2").mkdir(), "has text_encoder_2/"),
    "added conditioning": (with_config("unet/config.json", addition_embed_type="text_time"), "addition_embed_type='text_time'"),
    "inpainting": (with_config("unet/config.json", in_channels=9), "with 9 channels in and 4 out"),
    "upscaler": (with_config("unet/config.json", num_class_embeds=1000), "num_class_embeds=1000"),
    "gligen": (with_config("unet/config.json", attention_type="gated"), "attention_type='gated'"),
    "sd3": (with_config("model_index.json", _class_name="StableDiffusion3Pipeline"), "model is a StableDiffusion3Pipeline"),
    "flux": (with_config("model_index.json", _class_name="FluxPipeline"), "model is a FluxPipeline"),
    "pix2pix": (with_config("unet/config.json", in_channels=8), "with 8 channels in and 4 out"),
    "other unet": (with_config("unet/config.json", _class_name="UNetMotionModel"), "UNet2DConditionModel, but .* a UNetMotionModel"),
    "other text encoder": (with_config("text_encoder/config.json", architectures=["T5EncoderModel"]), "CLIPTextModel, .* a T5EncoderModel"),
    "other vae": (with_config("vae/config.json", _class_name="AutoencoderTiny"), "AutoencoderKL, but .* a AutoencoderTiny"),
    "unlike widths": (with_config("unet/config.json", cross_attention_dim=768), "UNet reads 768 and its text encoder gives 32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line_that_says_why(case: str, tiny_model_copy: Path) -> None:
    spoil, expected = REFUSED[case]
    spoil(tiny_model_copy)
    with pytest.raises(ModelError, match=expected) as refused:
        resolve_model(str(tiny_model_copy))
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
