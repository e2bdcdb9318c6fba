"""A base model with an adapter fused into its weights, as a whole checkpoint: one file where the base is one, a diffusers folder where it is one.

The base's files are copied, and of their tensors only those are changed that the adapter updates, in the precision that they have: what else
a file holds stays byte for byte as it was, and nothing of the model need fit into memory."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import diffusers
from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_ldm_unet_checkpoint
from safetensors import safe_open
from torch import Tensor, uint8

from trainables.adapter_files import header_bytes, move_folder, require_free, unwritable
from trainables.errors import AdapterError
from trainables.lora import TEXT_ENCODER
from trainables.merging import Update
from trainables.model_folders import PARTS, WEIGHTS, PartFiles, read_config
from trainables.model_sources import ModelSource
from trainables.models import load_parts
from trainables.single_files import KEYS, usual_name

_NETWORKS = ("unet", "text_encoder")


def write_checkpoint(
    path: Path, source: ModelSource, updates: Mapping[str, Update], *, metadata: Mapping[str, str] | None = None, replace: bool = False
) -> Path:
    """Write the base model with these updates of its layers to `path`: a new .safetensors file, or a new folder. Returns the path.

    `metadata` are the file's texts instead of the base's, which told of another content; a folder has none. A single file keeps the VAE
    that is in it, a folder gets the source's.

    Raises:
        AdapterError: `path` is taken or not of the base's form; the updates do not fit the model; it cannot be written."""
    single = source.unet.is_single_file
    _require_form(path, source, single=single)
    require_free(path, replace=replace)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        if single:
            _write_changed(source.unet.weights, temporary / path.name, _by_original_key(source, updates), metadata)
            (temporary / path.name).replace(path)
        else:
            _write_folder(temporary, source, updates)
            move_folder(temporary, path, replace=replace)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _require_form(path: Path, source: ModelSource, *, single: bool) -> None:
    if single != (path.suffix.lower() == ".safetensors"):
        form, way_out = ("one file", "-o NAME.safetensors") if single else ("a folder in diffusers' layout", "-o with a folder's name")
        raise AdapterError(f"A fused checkpoint has the form of its base, and {source.name} is {form}, but -o is {path}. Use {way_out}.")
    if path.is_dir() if single else path.is_file():
        raise AdapterError(f"A fused checkpoint would be {'a file' if single else 'a folder'}, but {path} is the other. Use another -o.")


def _write_folder(folder: Path, source: ModelSource, updates: Mapping[str, Update]) -> None:
    for part in PARTS:
        files: PartFiles = getattr(source, part)
        (folder / part).mkdir()
        if files.is_single_file:  # a VAE of its own file
            load_parts(source).vae.save_pretrained(folder / part)
            continue
        for text in files.texts:
            shutil.copyfile(text, folder / part / text.name)
        if files.weights is not None:
            target = folder / part / f"{WEIGHTS[part]}.safetensors"
            _write_changed(files.weights, target, _by_key(part, files.weights, updates) if part in _NETWORKS else {})
    (folder / "model_index.json").write_text(json.dumps(_model_index(source), indent=2) + "\n", encoding="utf-8")


def _model_index(source: ModelSource) -> dict[str, object]:
    scheduler = read_config(source.scheduler.folder, "scheduler_config.json").get("_class_name", "PNDMScheduler")
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _by_key(part: str, weights: Path, updates: Mapping[str, Update]) -> dict[str, Update]:
    """The part's updates by the name of the weight in its file."""
    with safe_open(weights, framework="pt") as opened:
        keys = {_path_of(part, name): name for name in opened.keys()}
    own = {path: update for path, update in updates.items() if path.startswith(TEXT_ENCODER) == (part == "text_encoder")}
    return _found(keys, own, weights)


def _path_of(part: str, name: str) -> str:
    path = name.removesuffix(".weight")
    return TEXT_ENCODER + path.removeprefix("text_model.") if part == "text_encoder" else path


def _by_original_key(source: ModelSource, updates: Mapping[str, Update]) -> dict[str, Update]:
    """The updates by the name of the weight in a file of the original layout.

    diffusers' converters only rename the weights of these two networks: given names for weights, they say which became which."""
    weights = source.unet.weights
    with safe_open(weights, framework="pt") as opened:
        names = {name: name for name in opened.keys()}
    of_unet = convert_ldm_unet_checkpoint({n: n for n in names if n.startswith(KEYS["unet"])}, read_config(source.unet.folder))
    of_text = convert_ldm_clip_checkpoint(
        {usual_name(n): n for n in names if n.startswith(KEYS["text_encoder"])}
    )
    keys = {_path_of("unet", name): key for name, key in of_unet.items()} | {_path_of("text_encoder", name): key for name, key in of_text.items()}
    if not of_text and any(path.startswith(TEXT_ENCODER) for path in updates):
        raise AdapterError(
            f"{weights} has Stable Diffusion 2's text encoder, whose queries, keys and values are one weight there, so an adapter of it is fused "
            "into a diffusers folder only. Use such a folder of the base with --model."
        )
    return _found(keys, updates, weights)


def _found(keys: Mapping[str, str], updates: Mapping[str, Update], weights: Path) -> dict[str, Update]:
    if lacking := next((path for path in updates if path not in keys), None):
        raise AdapterError(f"An adapter must fit the model it is fused into, but {weights} has no {lacking}. Use a model of the same architecture.")
    return {keys[path]: update for path, update in updates.items()}


def _write_changed(old: Path, new: Path, updates: Mapping[str, Update], metadata: Mapping[str, str] | None = None) -> None:
    """Copy a safetensors file with the updates added to the weights of these names, and with these metadata if any are given."""
    with open(old, "rb") as source, open(new, "wb") as target:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        if metadata is not None:
            header["__metadata__"] = dict(sorted({"format": "pt", **metadata}.items()))
        target.write(header_bytes(header))
        start = target.tell()
        shutil.copyfileobj(source, target, 2**24)
        with safe_open(old, framework="pt") as opened:
            for name, update in updates.items():
                weight = opened.get_tensor(name)
                _require_fit(old, name, weight, update)
                target.seek(start + header[name]["data_offsets"][0])
                target.write(update.added_to(weight).contiguous().view(uint8).numpy().tobytes())


def _require_fit(file: Path, name: str, weight: Tensor, update: Update) -> None:
    d_in, d_out = update.down.shape[1], update.up.shape[0]
    if (weight.shape[0], weight[0].numel()) != (d_out, d_in):
        raise AdapterError(
            f"An adapter must fit the model it is fused into, but it is {(d_out, d_in)} for {name}, and {file} has {tuple(weight.shape)} there. "
            "Use the model it was trained on."
        )
