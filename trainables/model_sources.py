"""From the name of a base model to a checked folder, and to the digest of its content.

One family only: Stable Diffusion 1.x and whatever has its layout; others are refused here and nowhere else.
Reads JSON, headers and bytes; no torch. models.py loads what is found here."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.digests import file_digest
from trainables.errors import ModelError

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EMBEDDED_NAMES = ("embedded:base", "embedded:realistic")
SHORT_NAMES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "realistic-vision": "SG161222/Realistic_Vision_V5.1_noVAE",
}
MOVED_NAMES = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
# Realistic Vision's folder does hold a vae/; nothing fails with it, the pictures are just worse.
PARTNER_VAES = {"embedded:realistic": "embedded:base", "SG161222/Realistic_Vision_V5.1_noVAE": "stabilityai/sd-vae-ft-mse"}

_WEIGHTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"}
_CLASSES = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel", "vae": "AutoencoderKL"}
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
_UNET_EXTRAS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
_OTHER_FOLDERS = ("text_encoder_2", "text_encoder_3", "transformer", "image_encoder")


@dataclass(frozen=True)
class ModelSource:
    """Where a usable base model lies: its files were checked, its weights were not yet read."""

    name: str
    folder: Path  # holds unet/, text_encoder/, tokenizer/, scheduler/
    vae_folder: Path  # holds the VAE's config.json and weights
    vae_name: str


def resolve_model(name: str, vae: str | None = None) -> ModelSource:
    """The checked folders of a base model and of its VAE.

    `name`: "embedded:base", "embedded:realistic", "sd15", "realistic-vision", a folder in diffusers' layout, or a hub id.
    `vae`: None for the model's usual one, otherwise any of these names, a folder that is or holds a vae/, or a VAE's hub id.
    A hub id is looked for in the local cache first: a cached model needs no network.

    Raises: ModelError if it cannot be found, is incomplete or damaged, or is of another family."""
    name = _current_name(name)
    folder = _find(name, whole=True)
    vae_name = _current_name(vae) if vae else PARTNER_VAES.get(name, name)
    if vae_name == name:
        vae_folder = _vae_within(name, folder, own=True)
    else:
        vae_folder = _vae_within(vae_name, _find(vae_name, whole=False), own=False)
    _require_matching_sizes(name, folder, vae_name, vae_folder)
    return ModelSource(name=name, folder=folder, vae_folder=vae_folder, vae_name=vae_name)


def model_digest(source: ModelSource) -> str:
    """24 hexadecimal digits that name the content of everything a model is loaded from, wherever it lies."""
    return _joined(part_digest(source, part) for part in ("unet", "text_encoder", "tokenizer", "scheduler", "vae"))


def part_digest(source: ModelSource, part: str) -> str:
    """The same for one part: "unet", "text_encoder", "tokenizer", "scheduler" or "vae". Memoised by path, size and time."""
    folder = part_folder(source, part)
    files = sorted(f for f in folder.iterdir() if f.suffix in (".json", ".txt"))
    named = [f.name + file_digest(f) for f in files]
    return _joined(named + [file_digest(weights_file(folder, part))] if part in _WEIGHTS else named)


def part_folder(source: ModelSource, part: str) -> Path:
    return source.vae_folder if part == "vae" else source.folder / part


def weights_file(folder: Path, part: str) -> Path:
    """The safetensors file of a part: full precision if it is there, else fp16.

    Raises: ModelError if there is none, if there is only a pickle, or if the file is cut short."""
    stem = _WEIGHTS[part]
    for file in (folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"):
        if file.exists():
            _require_readable(str(file), *_stamp(file))
            return file
    if list(folder.glob("*.bin")) or list(folder.glob("*.ckpt")):
        raise ModelError(
            f"Only safetensors weights are read, because loading a pickle runs the code inside; {folder} holds only pickles. "
            "Rewrite it with save_pretrained(FOLDER, safe_serialization=True)."
        )
    raise ModelError(f"A model's {part} needs {stem}.safetensors, but {folder} has none. Copy or download it again.")


def read_config(folder: Path, file_name: str = "config.json") -> dict[str, Any]:
    """A part's configuration. Raises: ModelError if it is missing or is no JSON object."""
    try:
        values = json.loads((folder / file_name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"A model's {folder.name} needs {file_name}, but {folder} has none. Copy or download it again.") from None
    except ValueError as error:
        raise ModelError(f"{folder / file_name} must be JSON, but it is not ({error}). Copy or download it again.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{folder / file_name} must be a JSON object, but it is {values!r:.40}. Copy or download it again.")
    return values


def _current_name(name: str) -> str:
    if name in MOVED_NAMES:
        warnings.warn(f"{name} is gone from the hub; the same model, {MOVED_NAMES[name]}, is used instead.", stacklevel=3)
    return SHORT_NAMES.get(name) or MOVED_NAMES.get(name, name)


def _find(name: str, *, whole: bool) -> Path:
    """The folder behind a name. `whole`: a base model's, checked; otherwise only its VAE is wanted."""
    path = Path(name).expanduser()
    if name in EMBEDDED_NAMES:
        path = EMBEDDED_FOLDER / name.removeprefix("embedded:")
        if not path.is_dir():
            raise ModelError(f"{name} ships with this project, but {path} is missing. Run `python -m trainables.embedded.build`.")
    elif not path.exists() and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return _find_on_hub(name, whole=whole)
    elif path.is_file():
        raise ModelError(
            f"A model must be a folder in diffusers' layout, but {name} is one file. "
            "Make a folder of it with StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)."
        )
    elif not path.is_dir():
        raise ModelError(_unknown(name))
    if whole:
        _refuse_other_families(name, path)
        _require_complete(name, path)
    return path


def _unknown(name: str) -> str:
    known = (*EMBEDDED_NAMES, *SHORT_NAMES)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    way_out = f"Did you mean {near[0]}?" if near else f"Known names are {', '.join(known)}."
    return f"A model must be a known name, a folder or a hub id (owner/name), but {name!r} is none of them. {way_out}"


def _find_on_hub(name: str, *, whole: bool) -> Path:
    """A snapshot that has all that is needed: the cached one, else the small files, then full precision, then fp16."""
    from huggingface_hub import snapshot_download

    problem = ""
    for local_files_only, weights in ((True, ""), (False, None), (False, ""), (False, ".fp16")):
        try:
            patterns = _hub_patterns(whole, weights)
            folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local_files_only))
        except (OSError, ValueError) as error:  # all of the client's errors are one of these
            problem = _no_copy(name, error)
            continue
        if whole:
            _refuse_other_families(name, folder)  # before its gigabytes are downloaded
        try:
            _require_complete(name, folder) if whole else _vae_within(name, folder, own=False)
            return folder
        except ModelError as error:  # a partial snapshot is no error to the client: the next attempt may complete it
            problem = str(error)
    raise ModelError(problem)


def _hub_patterns(whole: bool, weights: str | None) -> list[str]:
    # Never "*.safetensors": these folders also hold single-file copies of 4 to 8 GB and a safety checker.
    parts = tuple(_WEIGHTS) if whole else ("vae",)
    patterns = ["model_index.json", *(f"{part}/config.json" for part in parts)]
    if whole:
        patterns += ["tokenizer/*.json", "tokenizer/*.txt", "scheduler/*.json"]
    else:
        patterns += ["config.json"]
    if weights is not None:
        patterns += [f"{part}/{_WEIGHTS[part]}{weights}.safetensors" for part in parts]
        patterns += [] if whole else [f"{_WEIGHTS['vae']}{weights}.safetensors"]
    return patterns


def _no_copy(name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return (
        f"{name} is no folder here and not in the local hub cache, and the hub gave no copy ({reason}). "
        "Check the spelling, download it once while online, or give a folder."
    )


def _refuse_other_families(name: str, folder: Path) -> None:
    found = ""
    pipeline = read_config(folder, "model_index.json").get("_class_name") if (folder / "model_index.json").exists() else None
    unet = read_config(folder / "unet") if (folder / "unet" / "config.json").exists() else {}
    if pipeline not in (None, *_PIPELINES):
        found = f"is a {pipeline}"
    elif others := [other for other in _OTHER_FOLDERS if (folder / other).is_dir()]:
        found = f"has {others[0]}/"
    elif extras := [extra for extra in _UNET_EXTRAS if unet.get(extra) is not None]:
        found = f"has a UNet with {extras[0]}={unet[extras[0]]!r}"
    elif unet.get("in_channels") != unet.get("out_channels"):
        found = f"has a UNet with {unet.get('in_channels')} channels in and {unet.get('out_channels')} out (inpainting or alike)"
    if found:
        raise ModelError(f"Only models of Stable Diffusion 1.x's layout are trained here, but {name} {found}. Use e.g. sd15.")


def _require_complete(name: str, folder: Path) -> None:
    missing = [part for part in ("unet", "text_encoder", "tokenizer", "scheduler") if not (folder / part).is_dir()]
    if missing:
        raise ModelError(
            f"A model folder must hold unet/, text_encoder/, tokenizer/ and scheduler/, but {folder} has no "
            f"{', no '.join(f'{part}/' for part in missing)}. Use a folder that a pipeline's save_pretrained wrote."
        )
    for part in ("unet", "text_encoder"):
        _require_class(folder / part, part)
        weights_file(folder / part, part)
    read_config(folder / "scheduler", "scheduler_config.json")
    tokenizer = folder / "tokenizer"
    if not (tokenizer / "tokenizer.json").exists() and not ((tokenizer / "vocab.json").exists() and (tokenizer / "merges.txt").exists()):
        raise ModelError(f"A tokenizer needs vocab.json and merges.txt, but {tokenizer} lacks them. Copy or download it again.")


def _require_class(folder: Path, part: str) -> None:
    config = read_config(folder)
    actual = config.get("_class_name") or (config.get("architectures") or [None])[0]
    if actual not in (None, _CLASSES[part]):
        raise ModelError(f"A model's {part} must be a {_CLASSES[part]}, but {folder} holds a {actual}. Use e.g. sd15.")


def _vae_within(name: str, folder: Path, *, own: bool) -> Path:
    inner = folder / "vae"
    if not inner.is_dir() and (own or not (folder / "config.json").exists()):
        what = "has no vae/ of its own" if own else "is no VAE and holds no vae/"
        raise ModelError(f"A model needs a VAE, but {name} {what}. Name one with `--set vae=NAME`, e.g. stabilityai/sd-vae-ft-mse.")
    vae_folder = inner if inner.is_dir() else folder
    _require_class(vae_folder, "vae")
    weights_file(vae_folder, "vae")
    return vae_folder


def _require_matching_sizes(name: str, folder: Path, vae_name: str, vae_folder: Path) -> None:
    unet, text, vae = read_config(folder / "unet"), read_config(folder / "text_encoder"), read_config(vae_folder)
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


def _require_readable(path: str, size_bytes: int, modified_ns: int) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):  # reads the header and compares it with the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} must be a whole safetensors file, but it is not ({error}). Copy or download it again.") from None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _joined(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]
