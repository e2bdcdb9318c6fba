"""Further metrics by name: what each compares, which network it needs, and where the weights of that lie. similarities.py computes.

    dinov2=FOLDER    a metric is asked for by its name alone, or with a folder or hub id of its own behind a `=`

Nothing is downloaded: weights are in the named folder, or in the local hub cache. Reads JSON and bytes; no torch, so that a study
whose objective lacks its weights is refused before anything starts."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainables.digests import file_digest
from trainables.errors import ModelError, NotDownloadedError
from trainables.hub import HUB_ID, snapshot
from trainables.model_folders import read_config
from trainables.storage import home_expanded


@dataclass(frozen=True)
class FurtherMetric:
    """A metric that is computed where it is asked for. All of them are cosine similarities over a network's embeddings: higher is better."""

    name: str
    meaning: str
    network: str  # hub id of its usual network; "": there is none, a folder must be named
    model_types: tuple[str, ...] = ()  # of transformers' config.json
    files: tuple[str, ...] = ()  # other files that the folder must hold
    package: str = ""  # what must be importable, and is no dependency of ours
    install: str = ""  # how that package is called where it is installed from


FACE_DETECTOR, FACE_RECOGNISER = "face_detection_yunet_2023mar.onnx", "face_recognition_sface_2021dec.onnx"

FURTHER_METRICS = {
    metric.name: metric
    for metric in (
        FurtherMetric("dinov2", "image to training images, DINOv2", "facebook/dinov2-base", ("dinov2", "dinov2_with_registers")),
        FurtherMetric("clip_i", "image to training images, CLIP", "openai/clip-vit-base-patch32", ("clip",)),
        FurtherMetric("clip_t", "image to its prompt, CLIP", "openai/clip-vit-base-patch32", ("clip",)),
        FurtherMetric("face", "face to the training images' faces", "", (), (FACE_DETECTOR, FACE_RECOGNISER), "cv2", "opencv-python-headless"),
    )
}

_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_READ_SUFFIXES = (".json", ".txt", ".safetensors", ".bin", ".onnx")


@dataclass(frozen=True)
class MetricWeights:
    """Where the network of a further metric lies: its files are there, and were not yet read. `label` names it in records."""

    name: str
    folder: Path
    label: str
    digest: str


def network_and_word(metric: str, network: str, class_word: str) -> str:
    """What, beside pictures and reference images, a metric's value depends on: its network and, of clip_t, the word that stands for the
    trigger in the prompts."""
    return f"{network}, class word {class_word!r}" if metric == "clip_t" and class_word else network


def metric_name_of(text: str) -> str:
    """The name in "dinov2" or "dinov2=FOLDER".

    Raises: ModelError if there is no such metric."""
    name = text.partition("=")[0] if isinstance(text, str) else text
    if name not in FURTHER_METRICS:
        near = difflib.get_close_matches(str(name), FURTHER_METRICS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ModelError(f"A further metric must be one of {', '.join(FURTHER_METRICS)}, or NAME=FOLDER, but it is {text!r}.{hint}")
    return name


def find_metric_weights(text: str) -> MetricWeights:
    """The checked folder of a further metric's network.

    Raises: ModelError if the metric is unknown, or its weights or a package are not there, or are of another network."""
    metric = FURTHER_METRICS[metric_name_of(text)]
    place = text.partition("=")[2] or metric.network
    if not place:
        raise ModelError(f"{metric.name} needs a folder that holds {' and '.join(metric.files)}, but none is named. Use {metric.name}=FOLDER.")
    folder, own_name = _find(metric, place)
    _require_files(metric, folder)
    if metric.package and importlib.util.find_spec(metric.package) is None:
        raise ModelError(f"{metric.name} needs the package {metric.package}, which is not installed. Use: pip install {metric.install}")
    digest = _digest_of(folder)
    return MetricWeights(metric.name, folder, f"{own_name} sha256:{digest[:8]}", digest)


def _find(metric: FurtherMetric, place: str) -> tuple[Path, str]:
    """The folder, and what it is called."""
    folder = home_expanded(place)
    if folder.is_dir():
        return folder, folder.resolve().name
    if not HUB_ID.fullmatch(place):
        raise ModelError(f"{metric.name} needs the folder of its network, but there is no {place}. Correct the path.")
    try:
        return snapshot(place, local_files_only=True), place
    except ModelError:
        raise NotDownloadedError(
            f"{metric.name} needs the weights of {place}, which are neither a folder here nor in the local hub cache; nothing is downloaded "
            f"silently. Run `hf download {place}` once, or name a folder: {metric.name}=FOLDER."
        ) from None


def _require_files(metric: FurtherMetric, folder: Path) -> None:
    wanted: list[tuple[str, ...]] = [(file,) for file in metric.files]
    if metric.model_types:
        wanted += [("config.json",), _WEIGHT_FILES, _PROCESSOR_FILES] + ([_TOKENIZER_FILES] if metric.name == "clip_t" else [])
    for choices in wanted:
        if not any((folder / file).is_file() for file in choices):
            raise ModelError(f"{metric.name} needs {' or '.join(choices)} in its folder, but {folder} has none. Copy or download it again.")
    if metric.model_types and (found := read_config(folder).get("model_type")) not in metric.model_types:
        raise ModelError(
            f"{metric.name} needs a network of type {' or '.join(metric.model_types)}, but {folder} holds {found!r}. Use e.g. {metric.network}."
        )


def _digest_of(folder: Path) -> str:
    files: Iterable[Path] = sorted(f for f in folder.iterdir() if f.suffix in _READ_SUFFIXES)
    return hashlib.sha256("".join(f.name + file_digest(f) for f in files).encode()).hexdigest()
