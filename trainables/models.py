"""A base model's frozen parts on a device, and what they turn captions, images and latents into.

Not here: LoRA, training, the denoising loop; and where a model lies (model_sources.py). Importing this imports no torch."""

from __future__ import annotations

import json
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainables.activity import Phase, beat, note
from trainables.errors import ModelError
from trainables.model_folders import PartFiles, read_config
from trainables.model_sources import ModelSource, model_digest, part_digest, resolve_model
from trainables.pipeline_corrections import corrected_sample_size
from trainables.single_files import KEYS, usual_name

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "PROMPT_TOKENS",
    "ModelParts",
    "ModelSource",
    "bucket_step_of",
    "cut_off",
    "decode_latents",
    "encode_latents",
    "encode_prompts",
    "encode_tokens",
    "least_tokens",
    "load_parts",
    "load_tokenizer",
    "model_digest",
    "part_digest",
    "resolution_of",
    "resolve_model",
    "tokenize",
]

PROMPT_TOKENS = 77
_PIXELS_AT_ONCE = 2**20  # through the VAE: 4 images of 512x512, 256 of 64x64
_TEXTS_AT_ONCE = 64
_CLIP_PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ModelParts:
    """A base model on a device: frozen, in eval mode. The UNet has `dtype`; text encoder and VAE are float32."""

    source: ModelSource
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]
    noise_scheduler: Any  # a DDPMScheduler with the model's own noise schedule
    device: torch.device
    dtype: torch.dtype

    @property
    def scaling_factor(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:  # (c, h, w)
        size = corrected_sample_size(self.unet.config)
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.unet.config.in_channels), int(height), int(width)

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels a latent spans, along each side."""
        return _pixels_per_latent(self.vae.config)

    @property
    def bucket_step(self) -> int:
        """Sides of images must be multiples of so many pixels: the UNet halves latents once less than it has blocks."""
        return bucket_step_of(self.unet.config, self.vae.config)

    @property
    def resolution(self) -> int:
        """Pixels on a side of the square images that the model was made for."""
        return resolution_of(self.unet.config, self.vae.config)

    def denoising_target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the UNet is to predict of latents with this noise at these timesteps, by the model's prediction type: the noise, or v."""
        if self.noise_scheduler.config.prediction_type == "v_prediction":
            return self.noise_scheduler.get_velocity(latents, noise, timesteps)
        return noise


def resolution_of(unet_config: Mapping[str, Any], vae_config: Mapping[str, Any]) -> int:
    """Pixels on a side of the square images that a model of these configurations was made for."""
    size = corrected_sample_size(unet_config)
    return int(size if isinstance(size, int) else size[0]) * _pixels_per_latent(vae_config)


def bucket_step_of(unet_config: Mapping[str, Any], vae_config: Mapping[str, Any]) -> int:
    """As `ModelParts.bucket_step`: 64 for Stable Diffusion."""
    return _pixels_per_latent(vae_config) * 2 ** (len(unet_config["block_out_channels"]) - 1)


def load_parts(source: ModelSource, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> ModelParts:
    """The frozen parts on `device`; the UNet in `dtype` (None: float32), whatever precision the files have.

    Text encoder and VAE run once per caption and image, and what they give is cached by content: float32 on every device.

    Raises: ModelError if a file does not fit its configuration or lacks weights."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    def load(model_class: Any, files: PartFiles, part: str, part_dtype: torch.dtype) -> Any:
        note(Phase.LOADING, f"{source.name}, {part}")
        return _load_frozen(model_class, files, part, part_dtype).to(device)

    dtype = dtype or torch.float32
    scheduler_config = read_config(source.scheduler.folder, "scheduler_config.json")
    return ModelParts(
        source=source,
        unet=load(UNet2DConditionModel, source.unet, "unet", dtype),
        vae=load(AutoencoderKL, source.vae, "vae", torch.float32),
        text_encoder=load(CLIPTextModel, source.text_encoder, "text_encoder", torch.float32),
        tokenizer=load_tokenizer(source.tokenizer),
        scheduler_config=scheduler_config,
        # Never the model's own scheduler for training noise: before set_timesteps, DEIS and DPM++ add it time-reversed.
        noise_scheduler=DDPMScheduler.from_config(scheduler_config),
        device=torch.device(device),
        dtype=dtype,
    )


def encode_prompts(parts: ModelParts, texts: Sequence[str]) -> torch.Tensor:
    """What the UNet attends to: (n, 77, d) float32 on the parts' device, as StableDiffusionPipeline.encode_prompt computes it.

    Warns if a text is longer than CLIP reads, and says what is cut."""
    import torch

    chunks = [torch.zeros(0, PROMPT_TOKENS, parts.text_encoder.config.hidden_size, device=parts.device)]
    with torch.no_grad():
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            beat()
            chunks.append(encode_tokens(parts, tokenize(parts, texts[start : start + _TEXTS_AT_ONCE])))
    return torch.cat(chunks)


def tokenize(parts: ModelParts, texts: Sequence[str]) -> torch.Tensor:
    """What the text encoder reads of these texts: (n, 2, 77) int64 on the parts' device, tokens and attention mask.

    Warns if a text is longer than CLIP reads, and says what is cut."""
    import torch

    _warn_of_cut_texts(parts.tokenizer, texts)
    tokens = parts.tokenizer(list(texts), padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt")
    return torch.stack([tokens.input_ids, tokens.attention_mask], dim=1).to(parts.device)


def encode_tokens(parts: ModelParts, tokens: torch.Tensor) -> torch.Tensor:
    """What the UNet attends to: (n, 77, d) float32, from `tokenize`'s (n, 2, 77)."""
    # CLIP in Stable Diffusion attends to its padding too, unless its config says otherwise.
    mask = tokens[:, 1] if getattr(parts.text_encoder.config, "use_attention_mask", False) else None
    return parts.text_encoder(tokens[:, 0], attention_mask=mask)[0].float()


def cut_off(tokenizer: Any, text: str) -> tuple[int, str] | None:
    """How many tokens a text has and what of it CLIP does not read; None if it reads all."""
    ids = tokenizer(text, verbose=False).input_ids
    return (len(ids), tokenizer.decode(ids[PROMPT_TOKENS - 1 : -1])) if len(ids) > PROMPT_TOKENS else None


def least_tokens(text: str) -> int:
    """How many tokens a text has at least. CLIP splits at words, digits and punctuation before it does anything else: no tokenizer needed."""
    return 2 + len(_CLIP_PIECE.findall(unicodedata.normalize("NFC", text)))


def encode_latents(parts: ModelParts, images: np.ndarray, flip: bool = False) -> torch.Tensor:
    """The VAE's posterior mean times the scaling factor: (n, c, h/f, w/f) float32, from uint8 images (n, h, w, 3).

    `flip` mirrors the images left to right first."""
    import torch

    images = torch.as_tensor(images)
    n, height, width, _ = images.shape
    f = parts.pixels_per_latent
    chunks = [torch.zeros(0, parts.latent_shape[0], height // f, width // f, device=parts.device)]
    with torch.no_grad():
        for some in _chunks(images, pixels_each=height * width):
            pixels = some.to(parts.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            pixels = pixels.flip(-1) if flip else pixels
            chunks.append(parts.vae.encode(pixels).latent_dist.mode() * parts.scaling_factor)
    return torch.cat(chunks)


def decode_latents(parts: ModelParts, latents: torch.Tensor) -> np.ndarray:
    """Pictures as they are stored and scored: uint8 (n, h, w, 3), rounded as diffusers rounds. latents (n, c, h/f, w/f)."""
    import torch

    n, _, height, width = latents.shape
    f = parts.pixels_per_latent
    chunks = [torch.zeros(0, height * f, width * f, 3, dtype=torch.uint8)]
    with torch.no_grad():
        for some in _chunks(latents, pixels_each=height * width * f * f):
            decoded = parts.vae.decode(some.to(parts.device, torch.float32) / parts.scaling_factor).sample
            rounded = ((decoded * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            chunks.append(rounded.permute(0, 2, 3, 1).cpu())
    return torch.cat(chunks).numpy()


def _pixels_per_latent(vae_config: Mapping[str, Any]) -> int:
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def _load_frozen(model_class: Any, files: PartFiles, part: str, dtype: torch.dtype) -> Any:
    load = _load_from_single_file if files.is_single_file else _load_from_folder
    where = files.weights if files.is_single_file else files.folder
    try:
        model, missing = load(model_class, files, part, dtype)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{where} must hold weights that fit its config.json, but they do not ({reason}). Copy it again.") from None
    # Both libraries leave missing weights random, or empty, and go on.
    if missing:
        raise ModelError(f"{where} must hold every weight of its config.json, but lacks {len(missing)}, e.g. {missing[0]}. Copy it again.")
    if spoilt := next((name for name, weight in model.named_parameters() if not _is_finite(weight)), None):
        raise ModelError(f"{where} must hold finite weights, but {spoilt} has NaN or infinite ones. Copy or download it again.")
    return model.requires_grad_(False).eval()


def _is_finite(weight: torch.Tensor) -> bool:
    # The extremes are NaN where any value is, and need no memory.
    return weight.numel() == 0 or all(math.isfinite(extreme) for extreme in weight.detach().aminmax())


def _load_from_folder(model_class: Any, files: PartFiles, part: str, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The model, and the names of the weights that its file lacks."""
    variant = "fp16" if files.weights.name.endswith(".fp16.safetensors") else None
    model, info = model_class.from_pretrained(
        str(files.folder), variant=variant, use_safetensors=True, output_loading_info=True, dtype=dtype
    )
    return model, sorted(info["missing_keys"])


def _load_from_single_file(model_class: Any, files: PartFiles, part: str, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The same from the original layout, by diffusers' converters.

    Not by its from_single_file, which fetches what it does not find, and cannot say which weights a file lacks."""
    from accelerate import init_empty_weights
    from diffusers.loaders import single_file_utils as diffusers_converters
    from safetensors import safe_open

    with safe_open(files.weights, framework="pt") as opened:
        # A file may hold a VAE alone, without the beginning of its names.
        names = [name for name in opened.keys() if name.startswith(KEYS[part])] or list(opened.keys())
        weights = {usual_name(name): opened.get_tensor(name) for name in names}
    if part == "text_encoder":
        model = diffusers_converters.create_diffusers_clip_model_from_ldm(
            model_class, weights, config=str(files.folder), torch_dtype=dtype, local_files_only=True
        )
    else:
        convert = {"unet": diffusers_converters.convert_ldm_unet_checkpoint, "vae": diffusers_converters.convert_ldm_vae_checkpoint}[part]
        config = model_class.load_config(str(files.folder))
        with init_empty_weights():
            model = model_class.from_config(config)
        if weights.keys() != model.state_dict().keys():  # a VAE's file may have diffusers' names already
            weights = convert(weights, config)
        model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, strict=False, assign=True)
    return model, sorted(name for name, weight in model.named_parameters() if weight.is_meta)


def load_tokenizer(files: PartFiles) -> Any:
    """The CLIPTokenizer of a part's files. Imports no torch.

    Raises: ModelError if one of them is damaged."""
    try:
        return _tokenizer_from(files)
    except Exception as error:  # the tokenizers package raises bare ones
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        raise ModelError(
            f"A tokenizer must have CLIP's vocabulary and merges, but those in {files.folder} cannot be read ({why}). "
            "Copy or download them again."
        ) from error


def _tokenizer_from(files: PartFiles) -> Any:
    from transformers import CLIPTokenizer

    if files.names is None:
        return CLIPTokenizer.from_pretrained(str(files.folder))
    merges, vocabulary = files.texts
    lines = merges.read_text(encoding="utf-8").split("\n")[1:]  # the first one is the version
    pairs = [tuple(line.split(" ")) for line in lines if line]
    return CLIPTokenizer(vocab=json.loads(vocabulary.read_text(encoding="utf-8")), merges=pairs, model_max_length=PROMPT_TOKENS)


def _warn_of_cut_texts(tokenizer: Any, texts: Sequence[str]) -> None:
    for text in texts:
        if found := cut_off(tokenizer, text):
            n_tokens, lost = found
            warnings.warn(f"CLIP reads {PROMPT_TOKENS} tokens, but {text!r:.60} has {n_tokens}: '{lost}' is cut off.", stacklevel=3)


def _chunks(items: torch.Tensor, *, pixels_each: int) -> Iterator[torch.Tensor]:
    n_at_once = max(1, _PIXELS_AT_ONCE // pixels_each)
    for start in range(0, len(items), n_at_once):
        beat()
        yield items[start : start + n_at_once]
