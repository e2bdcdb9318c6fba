"""LoRA files that were not trained here: kohya's, diffusers' and peft's, read as updates of a base model's layers.

Ranks and alphas may differ from layer to layer. What such a file holds beyond plain low-rank updates is refused by name, never left out:
an adapter that is scored without a part of it is another adapter. Safetensors only; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers.utils.state_dict_utils import StateDictType, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainables.adapter_files import PEFT_CONFIG, PEFT_WEIGHTS
from trainables.config import content_key
from trainables.digests import file_digest
from trainables.errors import AdapterError, ModelError
from trainables.kohya import ALPHA, DOWN, UP, kohya_name
from trainables.lora import TEXT_ENCODER
from trainables.merging import Update, apply_updates, updatable_layers
from trainables.model_folders import PICKLES, tensor_shapes
from trainables.models import ModelParts
from trainables.storage import home_expanded

_OTHER_METHODS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "boft_": "BOFT",
    "lora_mid": "LoCon in Tucker's form",
    "vera_": "VeRA",
    ".diff": "a full difference of weights",
}
_OF_SDXL = ("lora_te2_", "text_encoder_2.", "lora_unet_input_blocks_", "lora_unet_middle_block_", "lora_unet_output_blocks_", "lora_unet_label_emb_")
_OF_OTHERS = ("lora_te3_", "transformer.", "lora_transformer_", "lora_unet_double_blocks_", "lora_unet_joint_blocks_", "diffusion_model.", "text_encoder_3.")
_PEFT_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PARTS = ("unet", "text_encoder")


@dataclass(frozen=True)
class ForeignAdapter:
    """A file, or a folder in peft's layout: the files that it is read from."""

    name: str  # as a table calls it
    files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """Names its content, wherever it lies."""
        return content_key("adapter files", [file_digest(file) for file in self.files])

    def updates_for(self, parts: ModelParts) -> dict[str, Update]:
        """Its updates of this base model's layers, by path.

        Raises:
            AdapterError: it holds something that is no low-rank update of one of these layers, or is made for another family; a value
            is NaN or infinite; it changes nothing."""
        layers = updatable_layers(parts.unet, parts.text_encoder)
        found: dict[str, Update] = {}
        for file in self.files:
            if file.name != PEFT_CONFIG:
                found |= _updates_in(file, layers)
        if not any(update.delta.any() for update in found.values()):
            raise AdapterError(
                f"An adapter must change the model, but every update in {self.name} is zero, so its pictures would be the base model's. "
                "Its alpha or its up weights are 0: use a file that was saved after training."
            )
        return found

    def merge_into(self, parts: ModelParts) -> None:
        """Make this adapter a part of a loaded base model. Raises as `updates_for`."""
        apply_updates(parts, self.updates_for(parts))


def find_foreign(path: Path) -> ForeignAdapter:
    """The adapter in that file, or in that folder in peft's layout; only looked at, for what can be told without a base model.

    Raises:
        AdapterError: there is none, it is a pickle or damaged, or it is of a kind that is not read."""
    files = _files_at(home_expanded(path))
    for file in files:
        if file.name != PEFT_CONFIG:
            _refuse_others(file, _shapes(file))
    return ForeignAdapter(path.stem if path.is_file() else path.resolve().name, files)


def _files_at(path: Path) -> tuple[Path, ...]:
    if path.suffix.lower() in PICKLES:
        raise _pickle(path)
    if path.is_file():
        config = path.parent / PEFT_CONFIG
        return (path, config) if path.name == PEFT_WEIGHTS and config.is_file() else (path,)
    if not path.is_dir():
        raise AdapterError(f"An adapter is a .safetensors file, or a folder in peft's layout, but there is no {path}. Check the spelling.")
    folders = [folder for folder in (path, *(path / part for part in _PARTS)) if (folder / PEFT_CONFIG).is_file()]
    if not folders:
        raise AdapterError(f"A folder is read as an adapter where it holds peft's {PEFT_CONFIG}, but {path} does not. Name the file in it instead.")
    for folder in folders:
        if not (folder / PEFT_WEIGHTS).is_file():
            pickled = next(folder.glob("adapter_model.*"), None)
            raise _pickle(pickled) if pickled else AdapterError(f"{folder} must hold {PEFT_WEIGHTS}, but it does not. Copy it again.")
    return tuple(file for folder in folders for file in (folder / PEFT_WEIGHTS, folder / PEFT_CONFIG))


def _pickle(path: Path) -> AdapterError:
    return AdapterError(
        f"Only .safetensors files are read, because loading a pickle runs the code inside, but {path} is one. Convert it in your web UI."
    )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        return tensor_shapes(file)
    except ModelError as error:  # it says what is wrong with the file, whatever it should hold
        raise AdapterError(str(error)) from None


def _refuse_others(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for key, shape in shapes.items():
        for mark, method in _OTHER_METHODS.items():
            if mark in key:
                raise AdapterError(f"Only plain LoRA and LoCon are read, but {file} is {method} ({key}). Score its pictures elsewhere.")
        if key.startswith(_OF_SDXL) or "transformer_blocks_1_" in key or ".transformer_blocks.1." in key:
            raise _other_family(file, "SDXL", key)
        if key.startswith(_OF_OTHERS):
            raise _other_family(file, "a transformer such as Flux or Stable Diffusion 3", key)
        if "attn2" in key and "to_k" in key and len(shape) > 1 and 2048 in shape:
            raise _other_family(file, "SDXL", f"{key} reads 2048 numbers per token")


def _other_family(file: Path, family: str, key: str) -> AdapterError:
    return AdapterError(f"Only LoRA files of Stable Diffusion 1.x and 2.x are read, but {file} is one of {family} ({key}). Use a file for your base model.")


def _updates_in(file: Path, layers: Mapping[str, nn.Module]) -> dict[str, Update]:
    tensors, metadata = _read(file)
    in_kohya = {kohya_name(path): path for path in layers}
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    networks: set[str] = set()
    for key in tensors:
        path, part = _place_of(key, in_kohya, layers)
        if path not in layers or not part or part in found[path]:
            raise AdapterError(
                f"A LoRA file may hold updates of the base model's own layers only, each once, but {file} has {key}. Use it with the model it was "
                "trained on."
            )
        found[path][part] = tensors[key]
        networks.add("kohya" if key.startswith("lora_") else "peft" if key.startswith(_PEFT_PREFIX) else "diffusers")
    if not found:
        raise AdapterError(f"A LoRA file must hold an update of some layer, but {file} holds none. Copy it again.")
    scale_of = _scales(file, metadata, networks)
    return {path: _update(file, path, own, layers[path], scale_of) for path, own in found.items()}


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{file} must be a whole safetensors file, but it is not ({error}). Copy it again.") from None


def _place_of(key: str, in_kohya: Mapping[str, str], layers: Mapping[str, nn.Module]) -> tuple[str, str]:
    """The layer's path and which part of its update this is; a path that no model has where the name is not understood."""
    if key.startswith("lora_"):
        name, _, part = key.partition(".")
        # Two text encoders' programs number the first one even where it is alone.
        name = name.replace("lora_te1_", "lora_te_", 1)
        return in_kohya.get(name, ""), part if part in (DOWN, UP, ALPHA) else ""
    for candidate in _in_peft_names(key):
        for ending, part in ((_A, DOWN), (_B, UP)):
            if candidate.endswith(ending) and (path := candidate.removesuffix(ending)) in layers:
                return path, part
    return "", ""


def _in_peft_names(key: str) -> Iterator[str]:
    """The layer path and ending that a key of diffusers or peft may stand for; older spellings by diffusers' own tables."""
    if key.startswith("unet.") or key.startswith(_PEFT_PREFIX):
        name = key.removeprefix("unet.").removeprefix(_PEFT_PREFIX)
        yield from convert_unet_state_dict_to_peft({name.replace(".processor.", "."): None})
    if key.startswith(TEXT_ENCODER) or key.startswith(_PEFT_PREFIX):
        name = key.removeprefix(TEXT_ENCODER).removeprefix(_PEFT_PREFIX).removeprefix("text_model.")
        yield from (TEXT_ENCODER + n for n in convert_state_dict_to_peft({name: None}, original_type=StateDictType.DIFFUSERS_OLD))


def _scales(file: Path, metadata: Mapping[str, str], networks: set[str]) -> Callable[[str, int], float]:
    """The scale of a layer of that path and rank where the layer has no alpha of its own."""
    if "peft" in networks:
        config = file.parent / PEFT_CONFIG
        if not config.is_file():
            raise AdapterError(f"A file in peft's layout has its alpha in {PEFT_CONFIG} beside it, but {file.parent} has none. Copy that, too.")
        values = _json_object(_text_of(config), config)
        return lambda path, rank: _scale(values, path, rank, file)
    if "diffusers" in networks and "lora_adapter_metadata" in metadata:
        values = _json_object(metadata["lora_adapter_metadata"], file)
        of_part = {p: {k.removeprefix(f"{p}."): v for k, v in values.items() if k.startswith(f"{p}.")} for p in _PARTS}
        return lambda path, rank: _scale(of_part["text_encoder" if path.startswith(TEXT_ENCODER) else "unet"], path, rank, file)
    return lambda path, rank: 1.0  # as kohya's scripts and diffusers read a file without alpha


def _scale(config: Mapping[str, object], path: str, rank: int, file: Path) -> float:
    """alpha / r as peft computes it."""
    for option in ("use_dora", "use_bdlora", "lora_bias"):
        if config.get(option):
            raise AdapterError(f"Only plain LoRA and LoCon are read, but {file} was trained with {option}. Score its pictures elsewhere.")
    patterns, alpha = config.get("alpha_pattern") or {}, config.get("lora_alpha", rank)
    if not isinstance(patterns, dict):
        raise AdapterError(f"`alpha_pattern` must map layers to numbers, but {file} gives {patterns!r:.40}. Correct its configuration.")
    for spelling in _spellings(path):
        # Where no pattern matches, get_pattern_key gives the spelling back.
        alpha = patterns.get(get_pattern_key(patterns, spelling), alpha)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise AdapterError(f"The alpha of a layer must be a number, but {file} gives {alpha!r:.40} for {path}. Correct its configuration.")
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _spellings(path: str) -> tuple[str, ...]:
    """What a layer may be called in a pattern, which matches from the end: as here, and with every level that a version or a saver adds."""
    if not path.startswith(TEXT_ENCODER):
        return (path,)
    name = path.removeprefix(TEXT_ENCODER)
    return name, f"{TEXT_ENCODER}text_model.{name}"


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{file} must be readable as UTF-8 text, but it is not ({error}). Copy it again.") from None


def _json_object(text: str, file: Path) -> dict[str, object]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"The metadata of {file} must be JSON, but they are not ({error}). Copy it again.") from None
    if not isinstance(values, dict):
        raise AdapterError(f"The metadata of {file} must be a JSON object, but they are {values!r:.40}. Copy it again.")
    return values


def _update(file: Path, path: str, own: Mapping[str, Tensor], layer: nn.Module, scale_of: Callable[[str, int], float]) -> Update:
    if lacking := [part for part in (DOWN, UP) if part not in own]:
        raise AdapterError(f"An update has two factors, but {file} has no {lacking[0]} for {path}. Copy it again.")
    if flat := [own[part] for part in (DOWN, UP) if own[part].ndim < 2 or not own[part].is_floating_point()]:
        raise AdapterError(
            f"The factors of an update must be matrices of floating-point numbers, but {file} has one of "
            f"{flat[0].dtype} and {tuple(flat[0].shape)} for {path}. Convert it, or copy it again."
        )
    down, up = own[DOWN].flatten(1), own[UP].flatten(1)
    d_out, d_in = layer.weight.shape[0], layer.weight[0].numel()
    if down.shape[1] != d_in or up.shape != (d_out, len(down)):
        raise AdapterError(
            f"An adapter must fit the model it is used with, but {file} has {tuple(own[DOWN].shape)} and {tuple(own[UP].shape)} for {path}, whose "
            f"weight is {tuple(layer.weight.shape)}. Use the model it was trained on."
        )
    if not (rank := len(down)):
        raise AdapterError(f"An update must have a rank of at least 1, but {file} has 0 for {path}. Copy the file again.")
    if ALPHA in own and own[ALPHA].numel() != 1:
        raise AdapterError(f"The alpha of a layer must be one number, but {file} has {own[ALPHA].numel()} for {path}. Copy the file again.")
    update = Update(down, up, float(own[ALPHA]) / rank if ALPHA in own else scale_of(path, rank))
    if not update.delta.isfinite().all():
        raise AdapterError(
            f"The weights of an adapter must be finite, but in {file} those for {path} are NaN or infinite: its pictures would be black. "
            "The training that made it diverged; use one of its earlier files, or train with a lower learning rate."
        )
    return update
