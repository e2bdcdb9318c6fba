"""Evaluation: adapters under EvalConfigs -> pictures -> features -> values per picture and per set.

Many evaluations at once share denoising loops and feature passes. Nothing here stores anything, or knows of trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainables.config import EvalConfig
from trainables.errors import AdapterError, EvaluationFailed, ModelError
from trainables.features import ReferenceImages, References, perceptual_backbone, pooled_backbone
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.lora import Adapter, SlotLoRA
from trainables.metrics import (
    frechet_distance,
    kernel_distance,
    lpips_between,
    lpips_diversity,
    lpips_matrix,
    lpips_values,
    require_no_black,
)
from trainables.models import ModelParts
from trainables.subject import Subject, load_pixels

LEAST_HELDOUT = 2
"""Fewer held-out images than this give no distance between distributions."""


@dataclass(frozen=True)
class EvaluationRequest:
    """One evaluation: `adapter` None is the control without adapter."""

    key: str
    adapter: Adapter | None
    config: EvalConfig
    subject: Subject


@dataclass(frozen=True)
class EvaluationResult:
    """Values per set and per picture, or the reason why there are none. images: uint8 (n, h, w, 3)."""

    key: str
    values: Mapping[str, float] = field(default_factory=dict)
    backbones: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    image_rows: Sequence[Mapping[str, object]] = ()
    images: np.ndarray | None = None
    seconds_generate: float = 0.0
    seconds_score: float = 0.0
    error: str | None = None


class Evaluator:
    """Scores adapters on one device. Networks and reference features are loaded and computed once."""

    def __init__(self, frozen: FrozenWork, *, perceptual: str = "embedded:perceptual", pooled: str = "embedded:pooled") -> None:
        """`perceptual` and `pooled` name the feature networks of LPIPS and of FID and KID.

        Raises:
            ModelError: a network is unknown or its weights are missing."""
        self.frozen = frozen
        self.perceptual = perceptual_backbone(perceptual, frozen.device)
        self.pooled = pooled_backbone(pooled, frozen.device)
        self._references = References()
        self._image_sets: dict[tuple[str, int, str], ReferenceImages] = {}

    def evaluate(
        self, requests: Sequence[EvaluationRequest], *, on_step: Callable[[int, int], None] | None = None
    ) -> list[EvaluationResult]:
        """One result per request, in their order. A set that cannot be scored says so in its result; the others are not touched."""
        results: dict[str, EvaluationResult] = {}
        for model, group in _by_model(requests).items():
            parts, group, unfit = self._fitting(model, group)
            results |= unfit
            if not group:
                continue
            started = time.perf_counter()
            pictures = generate(parts, [_image_set(r) for r in group], frozen=self.frozen, on_step=on_step)
            seconds = (time.perf_counter() - started) / len(group)
            for request, images in zip(group, pictures, strict=True):
                results[request.key] = self._scored(request, images, parts, seconds)
        return [results[request.key] for request in requests]

    def _fitting(
        self, model: tuple[str, str | None, str], group: list[EvaluationRequest]
    ) -> tuple[ModelParts | None, list[EvaluationRequest], dict[str, EvaluationResult]]:
        """The model, the requests whose adapters fit it, and what to say of the others."""
        try:
            parts = self.frozen.parts(*model)
        except ModelError as error:
            return None, [], {request.key: EvaluationResult(request.key, error=str(error)) for request in group}
        lora, fitting, unfit = SlotLoRA(parts.unet, text_encoder=parts.text_encoder), [], {}
        for request in group:
            try:
                if request.adapter is not None:
                    lora.check_fits(request.adapter)
                fitting.append(request)
            except AdapterError as error:
                unfit[request.key] = EvaluationResult(request.key, error=str(error))
        return parts, fitting, unfit

    def _scored(self, request: EvaluationRequest, images: np.ndarray, parts: ModelParts, seconds_generate: float) -> EvaluationResult:
        started = time.perf_counter()
        try:
            require_no_black(images)
            values, counts, rows = self.score(images, request, resolution=parts.resolution)
        except EvaluationFailed as error:
            return EvaluationResult(request.key, error=str(error), seconds_generate=seconds_generate)
        backbones = {"perceptual": self.perceptual.name, "pooled": self.pooled.name}
        seconds_score = time.perf_counter() - started
        return EvaluationResult(request.key, values, backbones, counts, rows, images, seconds_generate, seconds_score)

    def score(
        self, images: np.ndarray, request: EvaluationRequest, *, resolution: int
    ) -> tuple[dict[str, float], dict[str, int], list[dict[str, object]]]:
        """(values of the set, the n of each side, a row per picture) of uint8 (n, h, w, 3) against the subject's images.

        Raises:
            EvaluationFailed: too few pictures, or values that are not finite."""
        pictures = _image_set(request).pictures()
        train = self._reference(request.subject, resolution, "train")
        features, pooled = self.perceptual(images), self.pooled(images)
        to_train = lpips_values(lpips_between(self.perceptual, images, train, self._references))
        values = {
            "lpips": float(to_train.expected.mean()),
            "lpips_nearest": float(to_train.nearest.mean()),
            "diversity": lpips_diversity(lpips_matrix(features, features), [p.prompt for p in pictures]).overall,
            "fid": frechet_distance(self._references.pooled(self.pooled, train), pooled),
            "kid": kernel_distance(self._references.pooled(self.pooled, train), pooled),
        }
        n_heldout = len(request.subject.heldout)
        if n_heldout >= LEAST_HELDOUT:
            heldout = self._reference(request.subject, resolution, "heldout")
            to_heldout = lpips_between(self.perceptual, images, heldout, self._references)
            values["lpips_heldout"] = float(to_heldout.mean())
            values["fid_heldout"] = frechet_distance(self._references.pooled(self.pooled, heldout), pooled)
            values["kid_heldout"] = kernel_distance(self._references.pooled(self.pooled, heldout), pooled)
        counts = {"n_images": len(images), "n_references": len(train), "n_heldout": n_heldout}
        names = [image.file_name for image in request.subject.train]
        rows = [
            {
                "prompt": picture.prompt,
                "seen": picture.seen,
                "seed": picture.seed,
                "lpips": float(to_train.expected[i]),
                "lpips_nearest": float(to_train.nearest[i]),
                "nearest_reference": names[int(to_train.nearest_index[i])],
            }
            for i, picture in enumerate(pictures)
        ]
        return values, counts, rows

    def _reference(self, subject: Subject, resolution: int, split: str) -> ReferenceImages:
        key = (subject.reference_digest, resolution, split)
        if key not in self._image_sets:
            images = subject.train if split == "train" else subject.heldout
            self._image_sets[key] = ReferenceImages(load_pixels(images, resolution))
        return self._image_sets[key]


def _image_set(request: EvaluationRequest) -> ImageSet:
    return ImageSet(request.adapter, request.config, request.subject.trigger)


def _by_model(requests: Sequence[EvaluationRequest]) -> dict[tuple[str, str | None, str], list[EvaluationRequest]]:
    groups: dict[tuple[str, str | None, str], list[EvaluationRequest]] = {}
    for request in requests:
        config = request.config
        groups.setdefault((config.infer_model, config.infer_vae, config.infer_dtype), []).append(request)
    return groups
