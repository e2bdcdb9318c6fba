"""A base model's folder in diffusers' layout: what of it is read, and the checks that it is whole and of a family that is trained.

The one seam that accepts or refuses a family, with single_files.py for the original layout. Reads JSON and headers; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import ModelError

PARTS = ("unet", "text_encoder", "tokenizer", "scheduler", "vae")
WEIGHTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"}
PREDICTION_TYPES = ("epsilon", "v_prediction")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")

_CLASSES = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel", "vae": "AutoencoderKL"}
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
_UNET_EXTRAS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
_OTHER_FOLDERS = ("text_encoder_2", "text_encoder_3", "transformer", "image_encoder")


@dataclass(frozen=True)
class PartFiles:
    """The files that one part of a model is read from."""

    folder: Path  # holds its JSON and text files
    weights: Path | None = None  # None for the tokenizer and the scheduler, which have none
    names: tuple[str, ...] | None = None  # those of the folder that are read; None: all

    @property
    def texts(self) -> list[Path]:
        """Its JSON and text files, in the order of their names."""
        return sorted(f for f in self.folder.iterdir() if f.suffix in (".json", ".txt") and (self.names is None or f.name in self.names))

    @property
    def is_single_file(self) -> bool:
        """Whether its weights lie in a file of the original layout, together with those of other parts."""
        return self.weights is not None and self.weights.parent != self.folder


def model_parts(name: str, folder: Path) -> dict[str, PartFiles]:
    """The parts of the base model in `folder`, but for its VAE.

    Raises: ModelError if it is incomplete, damaged or of another family."""
    refuse_other_families(name, folder)
    missing = [part for part in ("unet", "text_encoder", "tokenizer", "scheduler") if not (folder / part).is_dir()]
    if missing:
        raise ModelError(
            f"A model folder must hold unet/, text_encoder/, tokenizer/ and scheduler/, but {folder} has no "
            f"{', no '.join(f'{part}/' for part in missing)}. Use a folder that a pipeline's save_pretrained wrote."
        )
    for part in ("unet", "text_encoder"):
        require_class(folder / part, part)
    require_scheduler(name, folder / "scheduler")
    require_tokenizer(folder / "tokenizer")
    return {part: PartFiles(folder / part, weights_file(folder / part, part) if part in WEIGHTS else None) for part in PARTS[:-1]}


def vae_part(name: str, folder: Path, *, own: bool) -> PartFiles:
    """The VAE in `folder`, which is or holds a vae/. `own`: the folder is a base model's, so only a vae/ within it counts.

    Raises: ModelError if there is none, or if it is damaged."""
    inner = folder / "vae"
    if not inner.is_dir() and (own or not (folder / "config.json").exists()):
        raise no_vae(name, "has no vae/ of its own" if own else "is no VAE and holds no vae/")
    vae_folder = inner if inner.is_dir() else folder
    require_class(vae_folder, "vae")
    return PartFiles(vae_folder, weights_file(vae_folder, "vae"))


def no_vae(name: str, what: str) -> ModelError:
    return ModelError(f"A model needs a VAE, but {name} {what}. Name one with `--set vae=NAME`, e.g. stabilityai/sd-vae-ft-mse.")


def refuse_other_families(name: str, folder: Path) -> None:
    """Raises: ModelError for a folder, however incomplete, that is not of Stable Diffusion 1.x's or 2.x's layout."""
    found = ""
    pipeline = read_config(folder, "model_index.json").get("_class_name") if (folder / "model_index.json").exists() else None
    unet = read_config(folder / "unet") if (folder / "unet" / "config.json").exists() else {}
    if pipeline not in (None, *_PIPELINES):
        found = f"is a {pipeline}"
    elif others := [other for other in _OTHER_FOLDERS if (folder / other).is_dir()]:
        found = f"has {others[0]}/"
    elif extras := [extra for extra in _UNET_EXTRAS if unet.get(extra) is not None]:
        found = f"has a UNet with {extras[0]}={unet[extras[0]]!r}"
    elif unet.get("attention_type", "default") != "default":
        found = f"has a UNet with attention_type={unet['attention_type']!r}"
    elif unet.get("in_channels") != unet.get("out_channels"):
        found = f"has a UNet with {unet.get('in_channels')} channels in and {unet.get('out_channels')} out (inpainting or alike)"
    if found:
        raise other_family(name, found)


def other_family(name: str, found: str) -> ModelError:
    return ModelError(f"Only models of Stable Diffusion 1.x's or 2.x's layout are trained here, but {name} {found}. Use e.g. sd15.")


def require_class(folder: Path, part: str) -> None:
    """Raises: ModelError where a part's configuration names another class than this part has."""
    config = read_config(folder)
    actual = config.get("_class_name") or (config.get("architectures") or [None])[0]
    if actual not in (None, _CLASSES[part]):
        raise ModelError(f"A model's {part} must be a {_CLASSES[part]}, but {folder} holds a {actual}. Use e.g. sd15.")


def require_scheduler(name: str, folder: Path) -> None:
    """Raises: ModelError where the model was not trained to undo diffusion by predicting noise or velocity."""
    config = read_config(folder, "scheduler_config.json")
    if "FlowMatch" in str(config.get("_class_name")):
        raise other_family(name, f"has a {config['_class_name']}")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise ModelError(
            f"`prediction_type` must be {' or '.join(PREDICTION_TYPES)}, but {folder / 'scheduler_config.json'} gives {prediction!r}. "
            "Correct it if it is wrong, or use another model, e.g. sd15."
        )
    if config.get("rescale_betas_zero_snr") and prediction == "epsilon":
        raise ModelError(
            "A model with rescale_betas_zero_snr must predict velocity, because pure noise tells nothing of the picture, but "
            f"{folder / 'scheduler_config.json'} gives prediction_type='epsilon'. Correct it to v_prediction if it was trained for that."
        )


def require_tokenizer(folder: Path) -> None:
    """Raises: ModelError for a folder without CLIP's vocabulary and merges."""
    if not (folder / "tokenizer.json").exists() and not ((folder / "vocab.json").exists() and (folder / "merges.txt").exists()):
        raise ModelError(f"A tokenizer needs vocab.json and merges.txt, but {folder} lacks them. Copy or download it again.")


def require_matching_sizes(name: str, parts: Mapping[str, PartFiles], vae_name: str) -> None:
    """Raises: ModelError where UNet, text encoder and VAE cannot work together."""
    unet, text, vae = (read_config(parts[part].folder) for part in ("unet", "text_encoder", "vae"))
    if unet.get("sample_size") is None:
        raise ModelError(
            f"A UNet's config.json must give `sample_size`, the latents on a side of its images, but that of {name} gives none. "
            "Add it: 64 for Stable Diffusion 1.x, 96 for a 2.x of 768 pixels."
        )
    if unet.get("in_channels", 4) != vae.get("latent_channels", 4):
        raise ModelError(
            f"A VAE must make as many latent channels as the UNet reads, but {vae_name} makes {vae.get('latent_channels', 4)} "
            f"and {name} reads {unet.get('in_channels', 4)}. Name another with `--set vae=NAME`."
        )
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        raise ModelError(
            f"A UNet must attend to as many numbers as its text encoder gives, but {name}'s UNet reads "
            f"{unet.get('cross_attention_dim')} and its text encoder gives {text.get('hidden_size')}. Use parts of one model."
        )


def weights_file(folder: Path, part: str) -> Path:
    """The safetensors file of a part: full precision if it is there, else fp16.

    Raises: ModelError if there is none, if there is only a pickle, or if the file is cut short."""
    stem = WEIGHTS[part]
    for file in (folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"):
        if file.exists():
            tensor_shapes(file)
            return file
    if any(file.suffix in PICKLES for file in folder.iterdir()):
        raise ModelError(
            f"Only safetensors weights are read, because loading a pickle runs the code inside; {folder} holds only pickles. "
            "Rewrite it with save_pretrained(FOLDER, safe_serialization=True)."
        )
    raise ModelError(f"A model's {part} needs {stem}.safetensors, but {folder} has none. Copy or download it again.")


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, by name. Reads its header, and compares that with its length.

    Raises: ModelError if it is no safetensors file, or not a whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    except (SafetensorError, OSError) as error:
        if _begins_like_a_pickle(file):
            raise ModelError(
                f"Only safetensors weights are read, because loading a pickle runs the code inside; {file} is a pickle by its content. "
                "Get the model as safetensors."
            ) from None
        raise ModelError(f"{file} must be a whole safetensors file, but it is not ({error}). Copy or download it again.") from None


def read_config(folder: Path, file_name: str = "config.json") -> dict[str, Any]:
    """A part's configuration. Raises: ModelError if it is missing or is no JSON object."""
    try:
        values = json.loads((folder / file_name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"A model's {folder.name} needs {file_name}, but {folder} has none. Copy or download it again.") from None
    except OSError as error:
        raise ModelError(f"{folder / file_name} must be readable, but it is not ({error}). Copy or download it again.") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder / file_name} must be JSON, but it is not ({error}). Copy or download it again.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{folder / file_name} must be a JSON object, but it is {values!r:.40}. Copy or download it again.")
    return values


def _begins_like_a_pickle(file: Path) -> bool:
    with open(file, "rb") as opened:
        first = opened.read(4)
    return first == b"PK\x03\x04" or first[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch's zip, or a bare pickle
