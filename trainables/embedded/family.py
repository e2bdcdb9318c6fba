"""The folders of the family: what StableDiffusionPipeline.from_pretrained reads, written from trained parts.

Weights are stored in fp16 and meant to be loaded in fp32. Nothing here trains."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import diffusers
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

from trainables.embedded.denoiser_training import BETAS

FOLDER = Path(__file__).parent


def write_family(
    folder: Path, *, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: Path, vae: AutoencoderKL | None
) -> None:
    """A pipeline folder; `tokenizer` is the folder of one. Without `vae` it has no vae/, and its user must bring one."""
    fresh = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, part in (("unet", unet), ("text_encoder", text_encoder), ("vae", vae)):
        if part is not None:
            copy.deepcopy(part).half().save_pretrained(fresh / name)
    shutil.copytree(tokenizer, fresh / "tokenizer")
    PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1).save_pretrained(fresh / "scheduler")
    _say_latents_are_not_clipped(fresh / "scheduler" / "scheduler_config.json")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (fresh / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    _without_names(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def size_mb(folder: Path = FOLDER) -> float:
    """Megabytes of all stored weights and pictures below a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.suffix in (".safetensors", ".png", ".json", ".jsonl", ".txt")) / 1e6


def _say_latents_are_not_clipped(config: Path) -> None:
    # PNDM has no such option, so its config is silent; a DDIM made from it would clip. SD1.5's file says it as well.
    values = {**json.loads(config.read_text(encoding="utf-8")), "clip_sample": False}
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _without_names(folder: Path) -> None:
    # save_pretrained notes where a part was loaded from: a path of the machine that made it
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and ("_name_or_path" in content or "name_or_path" in content):
            kept = {k: v for k, v in content.items() if k not in ("_name_or_path", "name_or_path")}
            file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
