"""Further metrics: cosine similarities of generated images to the subject's images, or to their prompts. Higher is better.

Networks and image processors are transformers' own, from the folders that metric_weights.py finds; faces are in faces.py. A metric
whose weights are missing is left out, with the reason; which one may not be left out is for the caller to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.activity import beat
from trainables.errors import ModelError
from trainables.features import Images, ReferenceImages, References, full_precision
from trainables.metric_weights import MetricWeights, find_metric_weights, metric_name_of

IMAGES_AT_ONCE = 16
TEXTS_AT_ONCE = 64


class Similarity(Protocol):
    """Guarantees: values are in [-1, 1], one per generated image, 0 where the network sees nothing; they depend on nothing else."""

    name: str
    network: str

    def values(self, images: Images, prompts: Sequence[str], sides: Mapping[str, ReferenceImages], references: References) -> dict[str, np.ndarray]:
        """By name, (n,) each. `sides`: the subject's images by the ending of the name, "" for training, "_heldout" for held-out ones."""


def load_similarities(wanted: Sequence[str], device: torch.device | str) -> tuple[list[Similarity], dict[str, str]]:
    """The metrics "dinov2", "clip_i=FOLDER" ... that can be computed, and by name why the others cannot.

    Raises: ModelError for a name that is no metric."""
    found: list[Similarity] = []
    skipped: dict[str, str] = {}
    networks: dict[Path, Any] = {}  # clip_i and clip_t may share theirs
    for text in wanted:
        name = metric_name_of(text)
        try:
            found.append(_loaded(find_metric_weights(text), torch.device(device), networks))
        except ModelError as error:
            skipped[name] = str(error)
    return found, skipped


class ReferenceSimilarity:
    """The mean cosine between the embedding of an image and those of all references: exact, for a sum of cosines is one inner product."""

    def __init__(self, name: str, network: str, embed: Callable[[Images], Tensor]) -> None:
        """`embed` has a `digest`, and gives (n, d) unit vectors, rows of NaN where it sees nothing."""
        self.name, self.network, self.embed = name, network, embed

    def values(self, images: Images, prompts: Sequence[str], sides: Mapping[str, ReferenceImages], references: References) -> dict[str, np.ndarray]:
        generated = self.embed(images).double()
        found = {}
        for ending, side in sides.items():
            known = references.pooled(self.embed, side).double()  # type: ignore[arg-type]  a digest and a call are all it takes
            known = known[known.isfinite().all(1)]
            if len(known):
                found[self.name + ending] = _cosines(generated, known.mean(0))
        return found


class PromptSimilarity:
    """The cosine between the embedding of an image and that of its prompt (CLIP-T)."""

    def __init__(self, name: str, network: str, embed: ClipImages, embed_texts: Callable[[Sequence[str]], Tensor]) -> None:
        self.name, self.network, self.embed, self.embed_texts = name, network, embed, embed_texts

    def values(self, images: Images, prompts: Sequence[str], sides: Mapping[str, ReferenceImages], references: References) -> dict[str, np.ndarray]:
        cosines = (self.embed(images).double() * self.embed_texts(prompts).double()).sum(1)
        return {self.name: cosines.cpu().numpy()}


class DinoImages:
    """Images -> (n, d) unit vectors: DINOv2's class token after the last norm (transformers' pooler_output)."""

    def __init__(self, folder: Path, digest: str, device: torch.device) -> None:
        self.digest = f"dinov2 {digest}"
        self._device, self._model, self._processor = device, _pretrained("Dinov2Model", folder, device), _image_processor(folder)

    @torch.no_grad()
    def __call__(self, images: Images) -> Tensor:
        return _embedded(images, self._processor, self._device, lambda pixels: self._model(pixel_values=pixels).pooler_output)


class ClipImages:
    """Images -> (n, d) unit vectors in the space that CLIP shares with texts."""

    def __init__(self, folder: Path, digest: str, device: torch.device) -> None:
        self.digest = f"clip {digest}"
        # Whole, not CLIPVisionModelWithProjection: that one takes the width of the shared space from another place of config.json.
        self._device, self.model, self._processor = device, _pretrained("CLIPModel", folder, device), _image_processor(folder)

    @torch.no_grad()
    def __call__(self, images: Images) -> Tensor:
        return _embedded(images, self._processor, self._device, lambda pixels: self.model.get_image_features(pixel_values=pixels).pooler_output)


class ClipTexts:
    """Texts -> (n, d) unit vectors, each text once; longer ones than CLIP reads are cut."""

    def __init__(self, folder: Path, model: Any, device: torch.device) -> None:
        from transformers import AutoTokenizer

        self._device, self._model = device, model
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise _unusable(folder, "a tokenizer", error) from None
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            some = missing[start : start + TEXTS_AT_ONCE]
            n_tokens = self._model.config.text_config.max_position_embeddings
            tokens = self._tokenizer(some, padding=True, truncation=True, max_length=n_tokens, return_tensors="pt").to(self._device)
            features = self._model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
            self._known.update(zip(some, F.normalize(features.float(), dim=1), strict=True))
        return torch.stack([self._known[text] for text in texts])


def _loaded(weights: MetricWeights, device: torch.device, networks: dict[Path, Any]) -> Similarity:
    if weights.name == "face":
        from trainables.faces import FaceImages, opencv_faces

        return ReferenceSimilarity("face", weights.label, FaceImages(weights.digest, opencv_faces(weights.folder)))
    make = DinoImages if weights.name == "dinov2" else ClipImages
    if weights.folder not in networks:
        networks[weights.folder] = make(weights.folder, weights.digest, device)
    embed = networks[weights.folder]
    if weights.name == "clip_t":
        return PromptSimilarity("clip_t", weights.label, embed, ClipTexts(weights.folder, embed.model, device))
    return ReferenceSimilarity(weights.name, weights.label, embed)


def _cosines(vectors: Tensor, mean: Tensor) -> np.ndarray:  # (n, d), (d,) -> (n,)
    """0 for a picture in which the network sees nothing: one without a face is as unlike as a stranger's, and must not be left out."""
    seen = vectors.isfinite().all(1).cpu()
    cosines = np.zeros(len(vectors))
    if seen.any():  # where nothing at all is seen, not even d is known
        cosines[seen] = (vectors[seen] @ mean).cpu().numpy()
    return cosines


def _embedded(images: Images, processor: Any, device: torch.device, network: Callable[[Tensor], Tensor]) -> Tensor:
    pixels, vectors = np.asarray(images), []
    with full_precision():
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            beat()
            some = list(pixels[start : start + IMAGES_AT_ONCE])
            inputs = processor(images=some, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
            vectors.append(F.normalize(network(inputs.to(device)).float(), dim=1))
    return torch.cat(vectors)


# Building a network draws random weights, which the file's then replace: fork_rng keeps that out of the caller's stream.
@torch.random.fork_rng(devices=[])
def _pretrained(class_name: str, folder: Path, device: torch.device) -> Any:
    import transformers

    model_class = transformers.AutoModel if class_name == "Dinov2Model" else getattr(transformers, class_name)
    try:
        # Pickled weights are read by transformers with weights_only=True: no code in them runs.
        model, info = model_class.from_pretrained(str(folder), local_files_only=True, output_loading_info=True, dtype=torch.float32)
    except Exception as error:  # transformers, safetensors and torch each have their own for a damaged file
        raise _unusable(folder, f"the weights of a {class_name}", error) from None
    if info["missing_keys"]:  # transformers fills them with random numbers and goes on
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{folder} must hold every weight of its config.json, but lacks {len(missing)}, e.g. {missing[0]}. Download it again.")
    return model.requires_grad_(False).eval().to(device)


def _image_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(folder, "an image processor's configuration", error) from None


def _unusable(folder: Path, wanted: str, error: Exception) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:150]
    return ModelError(f"{folder} must hold {wanted}, but reading it says: {reason}. Copy or download it again.")
