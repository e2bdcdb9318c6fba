"""From the name of a base model to the files it is read from, checked, and to the digest of their content.

One family only: Stable Diffusion 1.x and whatever has its layout; model_folders.py and single_files.py refuse others, and nothing else
does. Reads JSON, headers and bytes; no torch. models.py loads what is found here."""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainables.digests import file_digest
from trainables.errors import ModelError
from trainables.hub import HUB_ID, from_hub
from trainables.model_folders import PARTS, PartFiles, model_parts, refuse_other_families, require_matching_sizes, vae_part
from trainables.single_files import looks_like_a_file, single_file_parts, single_file_vae
from trainables.storage import home_expanded

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EMBEDDED_NAMES = ("embedded:base", "embedded:realistic")
SHORT_NAMES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "realistic-vision": "SG161222/Realistic_Vision_V5.1_noVAE",
}
MOVED_NAMES = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
# Realistic Vision's folder does hold a vae/; nothing fails with it, the pictures are just worse.
PARTNER_VAES = {"embedded:realistic": "embedded:base", "SG161222/Realistic_Vision_V5.1_noVAE": "stabilityai/sd-vae-ft-mse"}


@dataclass(frozen=True)
class ModelSource:
    """The files of a usable base model: they were checked, their weights were not yet read."""

    name: str
    vae_name: str
    unet: PartFiles
    text_encoder: PartFiles
    tokenizer: PartFiles
    scheduler: PartFiles
    vae: PartFiles


def resolve_model(name: str, vae: str | None = None, *, download: bool = True) -> ModelSource:
    """The checked files of a base model and of its VAE.

    `name`: "embedded:base", "embedded:realistic", "sd15", "realistic-vision", a folder in diffusers' layout, a .safetensors file in
    the original layout, or a hub id.
    `vae`: None for the model's usual one, otherwise any of these names, a folder that is or holds a vae/, a VAE's file or hub id.
    A hub id is looked for in the local cache first: a cached model needs no network.
    Without `download` it is looked for only there.

    Raises: ModelError if it cannot be found, is incomplete or damaged, or is of another family;
    NotDownloadedError for a hub id that the cache lacks, without `download`."""
    name = _current_name(name)
    vae_name = _current_name(vae) if vae else PARTNER_VAES.get(name, name)
    if vae_name == name:
        _warn_of_a_lesser_vae(name)
        parts = _parts(name, with_vae=True, download=download)
    else:
        parts = {**_parts(name, with_vae=False, download=download), "vae": _vae(vae_name, download=download)}
    require_matching_sizes(name, parts, vae_name)
    return ModelSource(name=name, vae_name=vae_name, **parts)


def require_vae(name: str) -> None:
    """The VAE of that name alone, downloading nothing: for when its base model is not there.

    Raises: ModelError, as `resolve_model` without `download`."""
    _vae(_current_name(name), download=False)


def model_digest(source: ModelSource) -> str:
    """24 hexadecimal digits that name the content of everything a model is loaded from, wherever it lies.

    Raises: ModelError if a file's content is not what the hub cache's name for it promises."""
    return _joined(part_digest(source, part) for part in PARTS)


def part_digest(source: ModelSource, part: str) -> str:
    """The same for one part: "unet", "text_encoder", "tokenizer", "scheduler" or "vae". Memoised by path, size and time."""
    files: PartFiles = getattr(source, part)
    named = [f.name + file_digest(f) for f in files.texts]
    return _joined(named if files.weights is None else [*named, _intact_digest(files.weights)])


def _current_name(name: str) -> str:
    if name in MOVED_NAMES:
        warnings.warn(f"{name} is gone from the hub; the same model, {MOVED_NAMES[name]}, is used instead.", stacklevel=3)
    return SHORT_NAMES.get(name) or MOVED_NAMES.get(name, name)


def _parts(name: str, *, with_vae: bool, download: bool) -> dict[str, PartFiles]:
    """The parts of a base model, its own VAE among them or not."""
    in_folder = partial(_folder_parts, name, with_vae=with_vae)
    if (path := _local_path(name)) is None:
        return from_hub(name, PARTS if with_vae else PARTS[:-1], in_folder, refuse=partial(refuse_other_families, name), download=download)
    if path.is_dir():
        return in_folder(path)
    parts = single_file_parts(name, path, download=download)
    return {**parts, "vae": single_file_vae(name, path)} if with_vae else parts


def _folder_parts(name: str, folder: Path, *, with_vae: bool) -> dict[str, PartFiles]:
    parts = model_parts(name, folder)
    return {**parts, "vae": vae_part(name, folder, own=True)} if with_vae else parts


def _vae(name: str, *, download: bool) -> PartFiles:
    if (path := _local_path(name)) is None:
        return from_hub(name, ("vae",), partial(vae_part, name, own=False), download=download)
    return vae_part(name, path, own=False) if path.is_dir() else single_file_vae(name, path)


def _local_path(name: str) -> Path | None:
    """The folder or file behind a name; None for a hub id."""
    path = home_expanded(name)
    if name in EMBEDDED_NAMES:
        path = EMBEDDED_FOLDER / name.removeprefix("embedded:")
        if not path.is_dir():
            raise ModelError(f"{name} ships with this project, but {path} is missing. Run `python -m trainables.embedded.build`.")
        return path
    if path.exists() or looks_like_a_file(name):
        return path
    if HUB_ID.fullmatch(name):
        return None
    raise ModelError(_unknown(name))


def _unknown(name: str) -> str:
    known = (*EMBEDDED_NAMES, *SHORT_NAMES)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    way_out = f"Did you mean {near[0]}?" if near else f"Known names are {', '.join(known)}."
    return f"A model must be a known name, a folder, a .safetensors file or a hub id (owner/name), but {name!r} is none of them. {way_out}"


def _warn_of_a_lesser_vae(name: str) -> None:
    if "novae" in Path(name).name.lower():
        warnings.warn(
            f"{name} says that it is made for another VAE than its own, which is used now. Better name one, "
            "e.g. `--set vae=stabilityai/sd-vae-ft-mse`.",
            stacklevel=3,
        )


def _intact_digest(file: Path) -> str:
    digest = file_digest(file)
    real = file.resolve()
    # The hub's cache names large files by the sha256 of their content.
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name) and digest != real.name:
        raise ModelError(
            f"{file} must have the sha256 {real.name[:8]}... that the hub gave, but it has {digest[:8]}... "
            f"Delete {real} and download it again."
        )
    return digest


def _joined(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]
