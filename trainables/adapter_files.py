"""Adapters as files for other programs: kohya's (A1111, ComfyUI), diffusers' and peft's. Written whole, and the same bytes for the same input.

    kohya       one .safetensors    kohya.py tells of its names
    diffusers   one .safetensors    load_lora_weights reads it, with alpha from its metadata
    peft        a folder            unet/ and text_encoder/, each for PeftModel.from_pretrained

How adapters are stored between trainings is adapters.py's matter, and how foreign files are read foreign.py's."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from trainables.adapters import peft_layout
from trainables.errors import AdapterError
from trainables.kohya import kohya_hashes, kohya_tensors
from trainables.lora import TEXT_ENCODER, Adapter

FORMATS = ("kohya", "diffusers", "peft")
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(path: Path, adapter: Adapter, file_format: str, *, metadata: Mapping[str, str] | None = None, replace: bool = False) -> Path:
    """Write the adapter in one of FORMATS, with these metadata (texts; peft's format has no place for them). Returns the path.

    Raises:
        AdapterError: the format is unknown; something is at `path` already and `replace` is False; it cannot be written."""
    if file_format not in FORMATS:
        raise AdapterError(f"`--format` must be one of {', '.join(FORMATS)}, but it is {file_format!r}.")
    require_free(path, replace=replace)
    if file_format == "peft":
        files = {f"{part}/{name}": content for part, files in _peft_files(adapter).items() for name, content in files.items()}
        return write_folder(path, files, replace=replace)
    tensors, metadata = kohya_tensors(adapter), dict(metadata or {})
    if file_format == "kohya":
        metadata |= kohya_hashes(tensors, metadata)
    else:
        tensors, own = peft_layout(adapter)
        metadata |= own
    return write_file(path, safetensors_bytes(tensors, metadata), replace=replace)


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """What safetensors' own `save` gives, with the metadata in alphabetical order: there it changes from process to process."""
    content = save(dict(tensors), dict(metadata))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    return header_bytes(header) + content[8 + length :]


def header_bytes(header: Mapping[str, object]) -> bytes:
    """How a safetensors file begins: the header's length, and the header."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def require_free(path: Path, *, replace: bool) -> None:
    """Raises: AdapterError where there is something at `path` that may not be replaced."""
    if path.exists() and not replace:
        raise AdapterError(f"What is there is never overwritten unasked, but {path} exists. Use --replace, or another -o.")


def write_file(path: Path, content: bytes, *, replace: bool) -> Path:
    """The file, complete when it has its name."""
    if path.is_dir():
        raise AdapterError(f"One file is to be written, but {path} is a folder. Use -o {path / 'NAME.safetensors'}.")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's is for its owner alone
        require_free(path, replace=replace)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def write_folder(path: Path, files: Mapping[str, bytes], *, replace: bool) -> Path:
    """The folder with these files, by path within it, complete when it has its name. What it replaces goes when it is there."""
    if path.is_file():
        raise AdapterError(f"A folder is to be written, but {path} is a file. Use -o with a folder's name.")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        move_folder(temporary, path, replace=replace)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def move_folder(temporary: Path, path: Path, *, replace: bool) -> None:
    """Give a complete folder its name; an older one of that name goes first, if it may be replaced."""
    temporary.chmod(0o755)  # mkdtemp's is for its owner alone
    require_free(path, replace=replace)
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)


def unwritable(path: Path, error: OSError) -> AdapterError:
    """The error that says in one line that nothing can be written there."""
    reason = error.strerror or error
    return AdapterError(f"`-o` must name a place that can be written, but {path} is not: {reason}. Use another one.")


def _peft_files(adapter: Adapter) -> dict[str, dict[str, bytes]]:
    """By network the files of its folder."""
    tensors, _ = peft_layout(adapter)
    parts = {"unet": "unet.", **({"text_encoder": f"{TEXT_ENCODER}text_model."} if adapter.trains_text else {})}
    found = {}
    for part, prefix in parts.items():
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        weights = {f"base_model.model.{name}": tensor for name, tensor in own.items()}
        layers = sorted({name.rpartition(".lora_")[0] for name in own})
        config = json.dumps(_peft_config(adapter, layers), indent=2, sort_keys=True) + "\n"
        found[part] = {PEFT_WEIGHTS: safetensors_bytes(weights, {"format": "pt"}), PEFT_CONFIG: config.encode()}
    return found


def _peft_config(adapter: Adapter, layers: list[str]) -> dict[str, object]:
    from peft import LoraConfig

    config = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=layers, inference_mode=True).to_dict()
    plain = json.loads(json.dumps(config, default=lambda value: sorted(value) if isinstance(value, set) else str(value)))
    return {**plain, "peft_type": "LORA", "target_modules": layers}
