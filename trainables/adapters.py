"""The store of adapters: one per storage root, by training key and epoch. Safetensors only; nothing is ever unpickled.

    <root>/<key>/epoch-00012/adapter.safetensors     the weights, in peft's layout and names
    <root>/<key>/epoch-00012/state.safetensors       the optimizer's moments, only for trainings that may go on

Each has a checksum of its own, which is compared when it is read; those of before there were checksums have none.

In a folder each is renamed into place when it is complete; in a store the weights are put last, and what has none is not there. A
reader never sees half of one. Not here: who may train a key."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainables import checksums
from trainables.errors import AdapterError
from trainables.lora import TEXT_ENCODER, Adapter
from trainables.optimisers import ProdigyState
from trainables.pack import TrainingState
from trainables.storage import Place, StorePath, patiently, place, reason_of, require_plain_name, sync_folder

WEIGHTS, STATE = "adapter.safetensors", "state.safetensors"
_A, _B = ".lora_A.weight", ".lora_B.weight"
_TEXT_IN_FILES = TEXT_ENCODER + "text_model."
_MOMENTS, _OF_PRODIGY = ("first", "second"), ("start", "gradient_sum")


class AdapterStore:
    """Adapters and training states by (training key, epoch). Writing the same twice is writing it once."""

    def __init__(self, root: Place | str) -> None:
        self.root = place(root)

    def save(self, key: str, state: TrainingState, *, resumable: bool = True) -> Place:
        """Store a training at its epoch; `resumable` keeps the optimizer's moments too. Returns the folder.

        Raises:
            AdapterError: the storage cannot be written, or has no room; nothing is left behind."""
        folder = self._folder(key, state.epoch)
        if (folder / WEIGHTS).exists() and (not resumable or (folder / STATE).exists()):
            return folder
        try:
            patiently(lambda: _store(folder, state, resumable=resumable), str(folder.parent))
        except (OSError, SafetensorError) as error:
            raise AdapterError(
                f"An adapter must be stored before it is used, but {folder.parent} does not take it: {_why(error)}. "
                f"Make room or change its permissions, and launch the study again: it goes on."
            ) from error
        return folder

    def epochs(self, key: str) -> list[int]:
        """The epochs at which an adapter of this training is stored, ascending."""
        return self._epochs_with(key, WEIGHTS)

    def longest_state_epoch(self, key: str, max_epoch: int) -> int | None:
        """The last epoch up to `max_epoch` from which this training can be continued; None: only from its start."""
        complete = set(self._epochs_with(key, WEIGHTS))
        return max((e for e in self._epochs_with(key, STATE) if e <= max_epoch and e in complete), default=None)

    def load_adapter(self, key: str, epoch: int) -> Adapter:
        """Raises AdapterError when it is not there or damaged."""
        return read_adapter(self._folder(key, epoch) / WEIGHTS)

    def load_state(self, key: str, epoch: int) -> TrainingState:
        """Raises AdapterError when it is not there or damaged."""
        folder = self._folder(key, epoch)
        adapter = read_adapter(folder / WEIGHTS)
        tensors, metadata = _read(folder / STATE)
        try:
            return _state_of(adapter, tensors, metadata)
        except (KeyError, ValueError, TypeError) as error:
            raise _damaged(folder / STATE, f"it lacks {error}") from error

    def drop_states(self, key: str) -> None:
        """Forget the moments of a training that will not go on; its adapters stay."""
        for epoch in self._epochs_with(key, STATE):
            (self._folder(key, epoch) / STATE).unlink(missing_ok=True)

    def _folder(self, key: str, epoch: int) -> Place:
        return self.root / require_plain_name(key, "A training's key") / f"epoch-{epoch:05d}"

    def _epochs_with(self, key: str, file_name: str) -> list[int]:
        folders = (self.root / require_plain_name(key, "A training's key")).glob("epoch-*")
        return sorted(int(f.name.removeprefix("epoch-")) for f in folders if re.fullmatch(r"epoch-\d{5,}", f.name) and (f / file_name).exists())


def read_adapter(path: Place) -> Adapter:
    """An adapter from a file of this store.

    Raises:
        AdapterError: the file is missing, damaged or not of this layout."""
    tensors, metadata = _read(path)
    try:
        rank, alpha = int(metadata["rank"]), float(metadata["alpha"])
        names = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
        pairs = {_path_of(name): (tensors[name + _A], tensors[name + _B]) for name in names}
        _require_rank(rank, pairs)
    except (KeyError, ValueError) as error:
        raise _damaged(path, f"it lacks {error} of rank, alpha and pairs of lora_A and lora_B") from error
    layers = {p: (a.flatten(1).T.contiguous(), b.flatten(1).T.contiguous()) for p, (a, b) in pairs.items()}
    return Adapter(rank, alpha, layers, kernels={p: tuple(a.shape[2:]) for p, (a, _) in pairs.items() if a.ndim == 4})


def _require_rank(rank: int, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Raises: ValueError where a pair of factors is not of this rank."""
    for path, (a, b) in pairs.items():
        if a.ndim not in (2, 4) or b.ndim != a.ndim or len(a) != rank or b.shape[1] != rank:
            raise ValueError(f"{path} of rank {rank}")


def _state_of(adapter: Adapter, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TrainingState:
    first, second = (_layers_of(tensors, name, adapter) for name in _MOMENTS)
    prodigy = None
    if "prodigy" in metadata:
        start, gradient_sum = (_layers_of(tensors, name, adapter) for name in _OF_PRODIGY)
        prodigy = ProdigyState(start, gradient_sum, **json.loads(metadata["prodigy"]))
    return TrainingState(adapter, first, second, epoch=int(metadata["epoch"]), step=int(metadata["step"]), prodigy=prodigy)


def _store(folder: Place, state: TrainingState, *, resumable: bool) -> None:
    above = None if isinstance(folder, StorePath) else folder.parent
    if above:
        above.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=above, prefix=".writing-"))
    try:
        _write(temporary / WEIGHTS, *peft_layout(state.adapter))
        if resumable:
            _write_moments(temporary / STATE, state)
        if isinstance(folder, StorePath):
            for name in (STATE, WEIGHTS) if resumable else (WEIGHTS,):
                (folder / name).write_bytes((temporary / name).read_bytes())
        else:
            _move_into_place(temporary, folder)
            sync_folder(above)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def peft_layout(adapter: Adapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of an adapter under peft's names and in its shapes, and the metadata that diffusers reads with them."""
    tensors = {}
    for layer, (a, b) in adapter.layers.items():
        kernel = adapter.kernels.get(layer)
        name, a, b = _name_of(layer), a.T.contiguous(), b.T.contiguous()
        # peft has a convolution's as weights of convolutions: (r, c_in, height, width) and (d_out, r, 1, 1).
        tensors[name + _A] = a if kernel is None else a.unflatten(1, (-1, *kernel))
        tensors[name + _B] = b if kernel is None else b[:, :, None, None]
    # diffusers reads alpha and rank from this entry; without it an adapter is reloaded with scale 1.
    of_unet = sorted(path for path in adapter.layers if not _is_text(path))
    peft = {"unet.r": adapter.rank, "unet.lora_alpha": adapter.alpha, "unet.target_modules": of_unet}
    if adapter.trains_text:
        short = sorted({p.rpartition(".")[2] for p in adapter.layers if _is_text(p)})  # the same in every version of transformers
        peft |= {"text_encoder.r": adapter.rank, "text_encoder.lora_alpha": adapter.alpha, "text_encoder.target_modules": short}
    return tensors, {"format": "pt", "rank": str(adapter.rank), "alpha": repr(adapter.alpha), "lora_adapter_metadata": json.dumps(peft)}


def _name_of(layer: str) -> str:
    # transformers before 5.6 had the level text_model, and other programs know no text encoder without it; diffusers reads both.
    return layer.replace(TEXT_ENCODER, _TEXT_IN_FILES, 1) if _is_text(layer) else f"unet.{layer}"


def _path_of(name: str) -> str:
    return name.replace(_TEXT_IN_FILES, TEXT_ENCODER, 1) if _is_text(name) else name.removeprefix("unet.")


def _is_text(layer: str) -> bool:
    return layer.startswith(TEXT_ENCODER)


def _write_moments(path: Path, state: TrainingState) -> None:
    parts, metadata = dict(zip(_MOMENTS, (state.first_moment, state.second_moment), strict=True)), {}
    if state.prodigy:
        parts |= {name: getattr(state.prodigy, name) for name in _OF_PRODIGY}
        metadata["prodigy"] = json.dumps({name: getattr(state.prodigy, name) for name in ("d", "numerator", "n_steps")})
    tensors = {}
    for part, layers in parts.items():
        for name, (a, b) in layers.items():
            tensors[f"{part}.{name}.a"], tensors[f"{part}.{name}.b"] = a.contiguous(), b.contiguous()
    _write(path, tensors, metadata | {"epoch": str(state.epoch), "step": str(state.step)})


def _layers_of(tensors: Mapping[str, Tensor], part: str, adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    return {path: (tensors[f"{part}.{path}.a"], tensors[f"{part}.{path}.b"]) for path in adapter.layers}


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        save_file(dict(tensors), path, metadata={**metadata, checksums.NAME: checksums.BLANK})
    except SafetensorError as error:  # it has words of its own for a full disk
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    with open(path, "r+b") as file:
        checksums.seal(file)
        file.flush()
        os.fsync(file.fileno())


def _why(error: OSError | SafetensorError) -> str:
    return reason_of(error) if isinstance(error, OSError) else str(error)


@contextmanager
def _local(path: Place) -> Iterator[Path]:
    """The file on this machine: itself, or a copy for as long as it is read."""
    if not isinstance(path, StorePath):
        yield path
        return
    content = path.read_bytes()
    with tempfile.NamedTemporaryFile(prefix="adapter-", suffix=path.suffix) as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def _read(path: Place) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with _local(path) as local:
            if checksums.is_damaged(local):
                raise _damaged(path, "its content is not that of its checksum")
            with safe_open(local, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise AdapterError(f"An adapter must be stored before it is used, but there is no {path}. Launch the study again to train it.") from error
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise AdapterError(f"An adapter must be readable, but {path} is not: {reason_of(error)}. Restore it, or launch the study again.") from error


def _damaged(path: Place, why: str) -> AdapterError:
    return AdapterError(
        f"An adapter must be an intact safetensors file (a pickle, which could run code, is never read), but {path} is "
        f"damaged ({why}). `sweep repair` with the study's name trains it again."
    )


def _move_into_place(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)
    except OSError:  # the folder is there already, without the moments or from a twin that was faster
        for file in temporary.iterdir():
            if not (folder / file.name).exists():
                os.replace(file, folder / file.name)
