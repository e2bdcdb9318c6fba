"""Random models in the layouts that people have: Stable Diffusion 1.5, Realistic Vision, Stable Diffusion 2, and the original one file.

All at reduced widths; block for block and name for name as published."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DEISMultistepScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[2]
SD1_NOISE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def change_config(folder: Path, file_name: str = "config.json", **changes: Any) -> None:
    path = folder / file_name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_sd15_layout(folder: Path, tokenizer: PreTrainedTokenizerBase, *, latent_side: int = 12) -> None:
    """As the hub's stable-diffusion-v1-5: four blocks, 12 text layers, PNDM, safety_checker/ and feature_extractor/. 96x96 pixels."""
    scheduler = PNDMScheduler(**SD1_NOISE, skip_prk_steps=True, set_alpha_to_one=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(15)
        pipeline = StableDiffusionPipeline(
            unet=UNet2DConditionModel(
                sample_size=latent_side,
                block_out_channels=(8, 16, 32, 32),
                layers_per_block=2,
                cross_attention_dim=32,
                attention_head_dim=8,
                norm_num_groups=8,
            ),
            vae=_vae(latent_side),
            text_encoder=_text_encoder(tokenizer, n_layers=12, hidden_act="quick_gelu"),
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=_tiny_safety_checker(),
            feature_extractor=CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}),
        )
    pipeline.save_pretrained(folder)


def write_realistic_vision_layout(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """As the hub's Realistic_Vision_V5.1_noVAE: the same with DEIS; its name denies the vae/ that it holds."""
    write_sd15_layout(folder, tokenizer)
    theirs = DEISMultistepScheduler.from_pretrained(folder / "scheduler")  # keeps what PNDM's has beside, as theirs does
    theirs.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "DEISMultistepScheduler"]}))


def write_sd2_layout(folder: Path, tokenizer: PreTrainedTokenizerBase, **noise: Any) -> None:
    """As stable-diffusion-2-1: velocity, OpenCLIP's text encoder (gelu), linear projections, heads per block. 64x64 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        pipeline = StableDiffusionPipeline(
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(32, 64),
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=32,
                attention_head_dim=[2, 4],
                use_linear_projection=True,
            ),
            vae=_vae(8),
            text_encoder=_text_encoder(tokenizer, n_layers=3, hidden_act="gelu"),
            tokenizer=tokenizer,
            scheduler=DDIMScheduler(**SD1_NOISE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **noise),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)


def put_into_hub_cache(cache: Path, name: str, files: dict[str, bytes | str]) -> Path:
    """The snapshot of a repository in a hub cache, as the client leaves it: links into blobs, large files named by their sha256."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0123456789abcdef" * 3)[:40]
    for path, content in files.items():
        content = content.encode() if isinstance(content, str) else content
        digest = hashlib.sha256(content) if path.endswith(".safetensors") else hashlib.sha1(content)
        blob, link = folder / "blobs" / digest.hexdigest(), snapshot / path
        for parent in (blob.parent, link.parent):
            parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(snapshot.name)
    return snapshot


def offline(program: str, cache: Path) -> str:
    """What a new process prints, or the last line it ends with, that has this hub cache and no network."""
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    return finished.stdout.strip() or finished.stderr.strip().splitlines()[-1]


def in_original_layout(folder: Path) -> dict[str, Tensor]:
    """The weights of an SD1 folder under the names of the original layout, with what else those files hold.

    The inverse of diffusers' loader, after its scripts/convert_diffusers_to_original_stable_diffusion.py, which is not in the wheel."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    renamed = {f"model.diffusion_model.{_original_unet_name(name)}": weight for name, weight in unet.items()}
    renamed |= {f"first_stage_model.{_original_vae_name(name)}": _as_convolution(name, weight) for name, weight in vae.items()}
    renamed |= {f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": weight for name, weight in text.items()}
    extras = {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "alphas_cumprod": torch.linspace(1, 0, 1000),
        "model_ema.decay": torch.tensor(0.9999),
    }
    return {name: weight.contiguous() for name, weight in {**renamed, **extras}.items()}


def write_single_file(path: Path, folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda weights: weights) -> Path:
    """`folder` as one file, in fp32."""
    save_file(change(in_original_layout(folder)), path, metadata={"format": "pt"})
    return path


def _vae(latent_side: int) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=8 * latent_side,
        block_out_channels=(4, 8, 16, 16),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )


def _text_encoder(tokenizer: PreTrainedTokenizerBase, *, n_layers: int, hidden_act: str) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=n_layers,
            num_attention_heads=4,
            hidden_act=hidden_act,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _tiny_safety_checker() -> StableDiffusionSafetyChecker:
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=16)
    config = CLIPConfig(text_config=dict(sizes, vocab_size=100), vision_config=dict(sizes, image_size=30, patch_size=10), projection_dim=16)
    return StableDiffusionSafetyChecker(config)


def _original_unet_name(name: str) -> str:
    for ours, theirs in _unet_blocks().items():
        if name.startswith(ours):
            inner = name.removeprefix(ours)
            if ".resnets." in ours:
                for a, b in _RESNET.items():
                    inner = inner.replace(a, b)
            return theirs + inner
    beginning, _, end = name.rpartition(".")
    return f"{_UNET_ENDS[beginning]}.{end}"


_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def _unet_blocks() -> dict[str, str]:
    names = {f"mid_block.resnets.{j}.": f"middle_block.{2 * j}." for j in range(2)} | {"mid_block.attentions.0.": "middle_block.1."}
    for i in range(4):
        for j in range(2):
            names[f"down_blocks.{i}.resnets.{j}."] = f"input_blocks.{3 * i + j + 1}.0."
            names[f"down_blocks.{i}.attentions.{j}."] = f"input_blocks.{3 * i + j + 1}.1."
        for j in range(3):
            names[f"up_blocks.{i}.resnets.{j}."] = f"output_blocks.{3 * i + j}.0."
            names[f"up_blocks.{i}.attentions.{j}."] = f"output_blocks.{3 * i + j}.1."
        names[f"down_blocks.{i}.downsamplers.0.conv."] = f"input_blocks.{3 * (i + 1)}.0.op."
        names[f"up_blocks.{i}.upsamplers.0."] = f"output_blocks.{3 * i + 2}.{1 if i == 0 else 2}."
    return names


def _original_vae_name(name: str) -> str:
    for i in range(4):
        name = name.replace(f"encoder.down_blocks.{i}.resnets.", f"encoder.down.{i}.block.")
        name = name.replace(f"encoder.down_blocks.{i}.downsamplers.0.", f"encoder.down.{i}.downsample.")
        name = name.replace(f"decoder.up_blocks.{i}.resnets.", f"decoder.up.{3 - i}.block.")
        name = name.replace(f"decoder.up_blocks.{i}.upsamplers.0.", f"decoder.up.{3 - i}.upsample.")
    for j in range(2):
        name = name.replace(f"mid_block.resnets.{j}.", f"mid.block_{j + 1}.")
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    if "mid_block.attentions.0." in name:
        name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm.", "norm.").replace("to_out.0.", "proj_out.")
        name = name.replace("to_q.", "q.").replace("to_k.", "k.").replace("to_v.", "v.")
    return name


def _as_convolution(name: str, weight: Tensor) -> Tensor:
    """The original VAE attends through 1x1 convolutions."""
    return weight[..., None, None] if "attentions" in name and weight.ndim == 2 else weight
