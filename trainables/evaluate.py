"""Evaluation: adapters under EvalConfigs -> pictures -> features -> values per picture and per set.

Many evaluations at once share denoising loops and feature passes. Nothing here stores anything, or knows of trials."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trainables.activity import Phase, note
from trainables.config import EvalConfig
from trainables.errors import AdapterError, EvaluationFailed, ModelError
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, Picture, check_denoiser, generate
from trainables.heldout_loss import heldout_losses
from trainables.lora import Adapter, SlotLoRA
from trainables.metrics import require_no_black
from trainables.models import ModelParts
from trainables.scores import Scorer, Scores
from trainables.subject import Subject


@dataclass(frozen=True)
class EvaluationRequest:
    """One evaluation: `adapter` None is the control without adapter."""

    key: str
    adapter: Adapter | None
    config: EvalConfig
    subject: Subject
    adapter_name: str = ""  # training and epoch: evaluations of one adapter share what depends on it alone
    caption: str | None = None  # the version that says which prompts are seen: the training's, or that of the trial which asks for a control


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
    facts: Mapping[str, object] = field(default_factory=dict)  # further columns of the evaluation's row: Scores' facts, intervals, skipped


class Evaluator:
    """Scores adapters on one device. Networks and reference features are loaded and computed once."""

    def __init__(
        self,
        frozen: FrozenWork,
        *,
        perceptual: str = "embedded:perceptual",
        pooled: str = "embedded:pooled",
        further: Sequence[str] = (),
        heldout_loss: bool = True,
    ) -> None:
        """`perceptual`, `pooled` and `further` name networks and metrics, as for Scorer. `heldout_loss` False leaves that out.

        Raises:
            ModelError: a network is unknown or its weights are missing."""
        self.frozen = frozen
        self._scorer = Scorer(frozen.device, perceptual=perceptual, pooled=pooled, further=further)
        self.perceptual, self.pooled = self._scorer.perceptual, self._scorer.pooled
        self.missing = self._scorer.missing
        self._with_loss = heldout_loss
        self._losses: dict[tuple, float] = {}

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
            started = time.perf_counter()
            losses = self._heldout_losses(parts, model, group) if self._with_loss else {}
            seconds_loss = (time.perf_counter() - started) / len(group)
            n_scored, n_pictures = 0, sum(map(len, pictures))
            for request, images in zip(group, pictures, strict=True):
                note(Phase.SCORING, unit="picture", done=n_scored, total=n_pictures)
                n_scored += len(images)
                result = self._scored(request, images, parts, seconds, losses.get(request.key, "it is switched off"))
                results[request.key] = replace(result, seconds_score=result.seconds_score + seconds_loss)
        return [results[request.key] for request in requests]

    def _fitting(
        self, model: tuple[str, str | None, str], group: list[EvaluationRequest]
    ) -> tuple[ModelParts | None, list[EvaluationRequest], dict[str, EvaluationResult]]:
        """The model, the requests whose adapters and denoisers fit it, and what to say of the others."""
        try:
            parts = self.frozen.parts(*model)
        except ModelError as error:
            return None, [], {request.key: EvaluationResult(request.key, error=str(error)) for request in group}
        lora, fitting, unfit = SlotLoRA(parts.unet, text_encoder=parts.text_encoder), [], {}
        for request in group:
            try:
                if request.adapter is not None:
                    lora.check_fits(request.adapter)
                check_denoiser(parts, request.config.denoiser)
                fitting.append(request)
            except (AdapterError, ModelError) as error:
                unfit[request.key] = EvaluationResult(request.key, error=str(error))
        return parts, fitting, unfit

    def _scored(
        self, request: EvaluationRequest, images: np.ndarray, parts: ModelParts, seconds_generate: float, loss: float | str
    ) -> EvaluationResult:
        started = time.perf_counter()
        try:
            require_no_black(images)
            scores = self.score(images, request, resolution=parts.resolution)
        except EvaluationFailed as error:
            return EvaluationResult(request.key, error=str(error), seconds_generate=seconds_generate)
        if isinstance(loss, str):
            scores.skipped["heldout_loss"] = loss
        else:
            scores.values["heldout_loss"] = loss
        return self._result(request.key, scores, images, seconds_generate, started)

    def _result(self, key: str, scores: Scores, images: np.ndarray | None, seconds_generate: float, started: float) -> EvaluationResult:
        return EvaluationResult(
            key,
            scores.values,
            {"perceptual": self.perceptual.name, "pooled": self.pooled.name, **scores.networks},
            scores.counts,
            scores.image_rows,
            images,
            seconds_generate,
            seconds_score=time.perf_counter() - started,
            facts={**scores.facts, "intervals": scores.intervals, "skipped": scores.skipped},
        )

    def score_photographs(self, key: str, subject: Subject, config: EvalConfig) -> EvaluationResult:
        """What the subject's held-out photographs score in the place of this configuration's pictures, at the size of its model's."""
        started = time.perf_counter()
        try:
            resolution = self.frozen.parts(config.infer_model, config.infer_vae, config.infer_dtype).resolution
            scores = self._scorer.score_photographs(subject, resolution=resolution, n_pictures=config.n_images)
        except (EvaluationFailed, ModelError) as error:
            return EvaluationResult(key, error=str(error))
        return self._result(key, scores, None, 0.0, started)

    def score(self, images: np.ndarray, request: EvaluationRequest, *, resolution: int) -> Scores:
        """What uint8 (n, h, w, 3) score against the subject's images: everything but the held-out loss, which needs no pictures.

        Raises:
            EvaluationFailed: too few pictures, or values that are not finite."""
        return self._scorer.score(images, *_asked_of(request), resolution=resolution, caption=request.caption)

    def score_further(self, images: np.ndarray, request: EvaluationRequest, *, resolution: int) -> Scores:
        """The further metrics of the pictures, and nothing else."""
        return self._scorer.score_further(images, *_asked_of(request), resolution=resolution, caption=request.caption)

    def score_groups(
        self, of_pictures: Mapping[str, np.ndarray], config: EvalConfig, subject: Subject, *, caption: str | None, images: np.ndarray | None = None
    ) -> Scores:
        """As `Scorer.score_groups`."""
        return self._scorer.score_groups(of_pictures, config, subject, caption=caption, images=images)

    def _heldout_losses(self, parts: ModelParts, model: tuple, requests: list[EvaluationRequest]) -> dict[str, float | str]:
        """By request key the held-out loss, or why there is none. Requests of one adapter share it, also with earlier ones."""
        found: dict[str, float | str] = {}
        for subject, group in _by_subject(requests).items():
            if not group[0].subject.heldout:
                found |= {request.key: "the subject has no held-out images" for request in group}
                continue
            names = {request.key: (model, subject, _adapter_name(request)) for request in group}
            new = {names[r.key]: r.adapter for r in group if names[r.key] not in self._losses}
            losses = heldout_losses(parts, self.frozen, list(new.values()), group[0].subject) if new else []
            known = self._losses | dict(zip(new, losses, strict=True))
            # An adapter without a name is only this request's: the next one of the same key may bring another.
            self._losses |= {names[r.key]: known[names[r.key]] for r in group if r.adapter is None or r.adapter_name}
            found |= {key: known[name] for key, name in names.items()}
        return {key: loss if isinstance(loss, str) or math.isfinite(loss) else "it is not finite" for key, loss in found.items()}


def _asked_of(request: EvaluationRequest) -> tuple[list[Picture], EvalConfig, Subject]:
    return _image_set(request).pictures(), request.config, request.subject


def _adapter_name(request: EvaluationRequest) -> tuple[str, ...]:
    """What tells adapters apart: their training and epoch, or else the evaluation that they are asked for."""
    if request.adapter is None:
        return ("none",)
    return ("adapter", request.adapter_name) if request.adapter_name else ("request", request.key)


def _by_subject(requests: list[EvaluationRequest]) -> dict[str, list[EvaluationRequest]]:
    groups: dict[str, list[EvaluationRequest]] = {}
    for request in requests:
        groups.setdefault(request.subject.reference_digest + request.subject.trigger, []).append(request)
    return groups


def _image_set(request: EvaluationRequest) -> ImageSet:
    return ImageSet(request.adapter, request.config, request.subject.trigger)


def _by_model(requests: Sequence[EvaluationRequest]) -> dict[tuple[str, str | None, str], list[EvaluationRequest]]:
    groups: dict[tuple[str, str | None, str], list[EvaluationRequest]] = {}
    for request in requests:
        config = request.config
        groups.setdefault((config.infer_model, config.infer_vae, config.infer_dtype), []).append(request)
    return groups
