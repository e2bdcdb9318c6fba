"""What a set of generated pictures scores against a subject's images: values, their n and intervals, a row per picture.

Networks and reference features are loaded and computed once. Pictures are given; where they come from is evaluate.py's matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.activity import Phase, note
from trainables.config import EvalConfig
from trainables.features import ReferenceImages, References, perceptual_backbone, pooled_backbone
from trainables.generate import Picture
from trainables.intervals import jackknife_interval, mean_interval
from trainables.metric_weights import network_and_word
from trainables.metrics import (
    LEAST_FOR_INFINITY,
    FrechetDistances,
    KernelDistances,
    LpipsValues,
    copy_threshold,
    frechet_distance,
    frechet_distance_at_infinity,
    kernel_distance,
    lpips_between,
    lpips_diversity,
    lpips_matrix,
    lpips_values,
)
from trainables.seen_prompts import seen_prompts
from trainables.similarities import Similarity, load_similarities
from trainables.subject import Subject, load_pixels

LEAST_HELDOUT = 2
"""Fewer held-out images than this give no distance between distributions."""
LEAST_IN_GROUP = 2
"""Of fewer pictures of seen, or of unseen, prompts there is no FID and no KID."""
STATISTICS_SEED = 0
"""Draws the resamples of intervals and the subsets of FID_inf."""


@dataclass
class Scores:
    """`values` of the set by metric, the n of each side, a row per picture; and of the values by metric what belongs to them."""

    values: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    image_rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # of the set: how many copies, which prompts are seen, values of the groups
    intervals: dict[str, list[float | int | None]] = field(default_factory=dict)  # [low, high, n images]; no bounds for few images
    networks: dict[str, str] = field(default_factory=dict)  # of further metrics
    skipped: dict[str, str] = field(default_factory=dict)  # metric -> why there is no value
    of_pictures: dict[str, np.ndarray] = field(default_factory=dict)  # metric -> (n,) values, of those that have seen and unseen means

    def add_mean(self, name: str, values: np.ndarray) -> None:
        """The mean of (n,) values, one per picture; those that are NaN do not count, and are told by n."""
        finite = values[np.isfinite(values)]
        if not len(finite):
            self.skipped[name] = f"none of {len(values)} pictures has a value"
            return
        self.values[name] = float(finite.mean())
        self.intervals[name] = _interval(mean_interval(finite, seed=STATISTICS_SEED), len(finite))


class Scorer:
    """Scores pictures on one device."""

    def __init__(self, device: torch.device, *, perceptual: str, pooled: str, further: Sequence[str] = ()) -> None:
        """`perceptual` and `pooled` name the networks of LPIPS and of FID and KID; `further` are metrics such as "dinov2=FOLDER", left
        out with a reason where their weights are missing.

        Raises:
            ModelError: a network or metric is unknown, or the weights of one of the first two are missing."""
        note(Phase.LOADING, perceptual)
        self.perceptual = perceptual_backbone(perceptual, device)
        note(Phase.LOADING, pooled)
        self.pooled = pooled_backbone(pooled, device)
        self.further, self.missing = load_similarities(further, device)
        self._references = References()
        self._image_sets: dict[tuple[str, int, str], ReferenceImages] = {}
        self._copy_thresholds: dict[tuple[str, int], float] = {}

    def score(
        self, images: np.ndarray, pictures: Sequence[Picture], config: EvalConfig, subject: Subject, *, resolution: int, caption: str | None = None
    ) -> Scores:
        """Everything that is asked for, of uint8 (n, h, w, 3) and what each was asked for.

        `caption`: the version whose training captions say which prompts are seen; without it no value is of a group.

        Raises:
            EvaluationFailed: too few pictures, or values that are not finite."""
        train, heldout = self._reference(subject, resolution, "train"), self._reference(subject, resolution, "heldout")
        n_heldout = len(subject.heldout)
        scores = Scores(counts={"n_images": len(images), "n_references": len(train), "n_heldout": n_heldout})
        to_train = self._add_lpips(scores, images, pictures, train)
        fake = self.pooled(images)
        self._add_distances(scores, fake, train, "")
        if n_heldout >= LEAST_HELDOUT:
            scores.add_mean("lpips_heldout", lpips_between(self.perceptual, images, heldout, self._references).mean(1).numpy())
            self._add_distances(scores, fake, heldout, "_heldout")
        scores.of_pictures["lpips"] = to_train.expected
        scores.image_rows = _image_rows(pictures, to_train, subject)
        self._add_copies(scores, to_train, train, subject, resolution)
        self._add_further(scores, images, config, subject, resolution)
        self._add_groups(scores, config, subject, caption, fake=fake, train=train)
        return scores

    def score_further(
        self, images: np.ndarray, pictures: Sequence[Picture], config: EvalConfig, subject: Subject, *, resolution: int, caption: str | None = None
    ) -> Scores:
        """The further metrics alone; the image rows hold nothing else."""
        scores = Scores(image_rows=[{} for _ in pictures])
        self._add_further(scores, images, config, subject, resolution)
        self._add_groups(scores, config, subject, caption)
        return scores

    def score_photographs(self, subject: Subject, *, resolution: int, n_pictures: int) -> Scores:
        """What the held-out photographs score in the place of pictures: LPIPS and similarities over all of them; FID and KID over
        `n_pictures`, as many as are generated, in a fixed draw, because both depend on that number.

        Raises:
            EvaluationFailed: values that are not finite."""
        train, heldout = self._reference(subject, resolution, "train"), self._reference(subject, resolution, "heldout")
        images, n = heldout.images, len(heldout)
        scores = Scores(counts={"n_images": n, "n_references": len(train), "n_heldout": n})
        to_train = lpips_values(lpips_between(self.perceptual, images, train, self._references))
        scores.add_mean("lpips", to_train.expected)
        scores.add_mean("lpips_nearest", to_train.nearest)
        scores.image_rows = [
            {**row, "prompt": image.file_name, "seed": 0}
            for row, image in zip(_rows_of_nearest(to_train, subject), subject.heldout, strict=True)
        ]
        if n < max(n_pictures, LEAST_IN_GROUP):
            reason = f"it needs as many held-out photographs as a trial has pictures, {n_pictures}, and there are {n}"
            scores.skipped |= {"fid": reason, "kid": reason}
        else:
            drawn = np.random.default_rng(STATISTICS_SEED).permutation(n)[:n_pictures]
            self._add_distances(scores, self.pooled(images[np.sort(drawn)]), train, "")
        for metric in self.further:
            if metric.name == "clip_t":
                scores.skipped["clip_t"] = "photographs have no prompts"
                continue
            found = metric.values(images, [""] * n, {"": train}, self._references)
            self._add_similarity(scores, metric, found, subject)
        return scores

    def score_groups(
        self, of_pictures: Mapping[str, np.ndarray], config: EvalConfig, subject: Subject, *, caption: str | None, images: np.ndarray | None = None
    ) -> Scores:
        """The values of seen and of unseen prompts alone, of pictures whose own values (n,) are known by metric; FID and KID with `images`."""
        scores = Scores(image_rows=[{} for _ in next(iter(of_pictures.values()))], of_pictures=dict(of_pictures))
        features = {} if images is None else {"fake": self.pooled(images), "train": self._reference(subject, images.shape[1], "train")}
        self._add_groups(scores, config, subject, caption, **features)
        return scores

    # ---- private, in the order of use

    def _add_lpips(self, scores: Scores, images: np.ndarray, pictures: Sequence[Picture], train: ReferenceImages) -> LpipsValues:
        features = self.perceptual(images)
        to_train = lpips_values(lpips_between(self.perceptual, images, train, self._references))
        scores.add_mean("lpips", to_train.expected)
        scores.add_mean("lpips_nearest", to_train.nearest)
        scores.values["diversity"] = lpips_diversity(lpips_matrix(features, features), [p.prompt for p in pictures]).overall
        return to_train

    def _add_distances(self, scores: Scores, fake: Tensor, side: ReferenceImages, ending: str) -> None:
        """FID and KID with their intervals; FID_inf against the training images."""
        real, n = self._references.pooled(self.pooled, side), len(fake)
        frechet = FrechetDistances(real, fake)
        for name, value, distances in (
            ("fid", frechet_distance(real, fake), frechet),
            ("kid", kernel_distance(real, fake), KernelDistances(real, fake)),
        ):
            scores.values[name + ending] = value
            scores.intervals[name + ending] = _interval(jackknife_interval(distances, n, is_skewed=name == "fid", seed=STATISTICS_SEED), n)
        if ending:
            return
        if n >= LEAST_FOR_INFINITY:
            scores.values["fid_inf"] = frechet_distance_at_infinity(frechet, fake, rng=np.random.default_rng(STATISTICS_SEED))
        else:
            scores.skipped["fid_inf"] = f"it needs {LEAST_FOR_INFINITY} pictures, and there are {n}"

    def _add_groups(
        self, scores: Scores, config: EvalConfig, subject: Subject, caption: str | None, *, fake: Tensor | None = None, train: ReferenceImages | None = None
    ) -> None:
        """The values of seen and of unseen prompts: under `caption` as metrics of the set, and under every version as `groups`, for a control
        is compared with trials of them all. FID and KID where features are given."""
        seen_by_version = seen_prompts([prompt.text for prompt in config.prompts], subject)
        real = None if train is None else self._references.pooled(self.pooled, train)
        distances = partial(_distances, real, fake) if real is not None else lambda rows: {}
        groups: dict[str, dict[str, float]] = {}
        for version, seen in seen_by_version.items():
            twin = next((other for other in groups if seen_by_version[other] == seen), None)
            groups[version] = _values_of_groups(scores.of_pictures, _rows_of_groups(seen, config), distances) if twin is None else groups[twin]
        scores.facts |= {"seen_prompts": seen_by_version, "groups": groups, "caption": caption}
        if caption is None:
            return
        for group, rows in _rows_of_groups(seen_by_version[caption], config).items():
            scores.facts[f"n_{group}"] = len(rows)
            for name, values in scores.of_pictures.items():
                if len(rows):
                    scores.add_mean(_of_group(name, group), values[rows])
        scores.values |= groups[caption]
        for row, seen in zip(scores.image_rows, np.repeat(seen_by_version[caption], config.images_per_prompt), strict=True):
            row["seen"] = bool(seen)

    def _add_copies(self, scores: Scores, to_train: LpipsValues, train: ReferenceImages, subject: Subject, resolution: int) -> None:
        key = (subject.reference_digest, resolution)
        if key not in self._copy_thresholds:
            self._copy_thresholds[key] = copy_threshold(lpips_between(self.perceptual, train.images, train, self._references))
        threshold = self._copy_thresholds[key]
        if not threshold > 0:
            scores.skipped["n_copies"] = "training images are too few, or too much alike, to say what a copy is"
            return
        is_copy = to_train.nearest < threshold
        scores.facts |= {"n_copies": int(is_copy.sum()), "copy_threshold": threshold}
        for row, copied in zip(scores.image_rows, is_copy, strict=True):
            row["is_copy"] = bool(copied)

    def _add_further(self, scores: Scores, images: np.ndarray, config: EvalConfig, subject: Subject, resolution: int) -> None:
        scores.skipped |= self.missing
        sides = {"": self._reference(subject, resolution, "train")}
        if subject.heldout:
            sides["_heldout"] = self._reference(subject, resolution, "heldout")
        # No network but the trained one knows the trigger word: its class word stands for it, as far as the subject has one.
        prompts = [prompt.filled(subject.class_word) for prompt in config.prompts for _ in range(config.images_per_prompt)]
        for metric in self.further:
            found = metric.values(images, prompts, sides, self._references)
            if metric.name not in found:
                scores.skipped[metric.name] = "none of the training images has a value to compare with"
            self._add_similarity(scores, metric, found, subject)

    def _add_similarity(self, scores: Scores, metric: Similarity, found: Mapping[str, np.ndarray], subject: Subject) -> None:
        for name, values in found.items():
            scores.add_mean(name, values)
        scores.of_pictures |= {name: values for name, values in found.items() if name == metric.name}
        scores.networks[metric.name] = network_and_word(metric.name, metric.network, subject.class_word)
        for i, row in enumerate(scores.image_rows):
            own = {name: float(values[i]) for name, values in found.items() if math.isfinite(values[i])}
            row["further_metrics"] = {**row.get("further_metrics", {}), **own}

    def _reference(self, subject: Subject, resolution: int, split: str) -> ReferenceImages:
        key = (subject.reference_digest, resolution, split)
        if key not in self._image_sets:
            images = subject.train if split == "train" else subject.heldout
            self._image_sets[key] = ReferenceImages(load_pixels(images, resolution))
        return self._image_sets[key]


def _rows_of_groups(seen_prompts: Sequence[bool], config: EvalConfig) -> dict[str, np.ndarray]:
    """The rows of the pictures of seen prompts, and of the others."""
    seen = np.repeat(np.array(seen_prompts, dtype=bool), config.images_per_prompt)
    return {"seen": np.flatnonzero(seen), "unseen": np.flatnonzero(~seen)}


def _values_of_groups(
    of_pictures: Mapping[str, np.ndarray], rows_of_groups: Mapping[str, np.ndarray], distances: Callable[[np.ndarray], Mapping[str, float]]
) -> dict[str, float]:
    """By name, e.g. lpips_seen; a group without pictures has none."""
    values = {}
    for group, rows in rows_of_groups.items():
        if len(rows):
            values |= {_of_group(name, group): float(own[rows].mean()) for name, own in of_pictures.items()}
        if len(rows) >= LEAST_IN_GROUP:
            values |= {_of_group(name, group): value for name, value in distances(rows).items()}
    return values


def _of_group(name: str, group: str) -> str:
    """lpips_seen, or dinov2_seen@network."""
    metric, at, network = name.partition("@")
    return f"{metric}_{group}{at}{network}"


def _distances(real: Tensor, fake: Tensor, rows: np.ndarray) -> dict[str, float]:
    some = fake[torch.from_numpy(rows).to(fake.device)]
    return {"fid": frechet_distance(real, some), "kid": kernel_distance(real, some)}


def _image_rows(pictures: Sequence[Picture], to_train: LpipsValues, subject: Subject) -> list[dict[str, Any]]:
    rows = _rows_of_nearest(to_train, subject)
    return [{"prompt": picture.prompt, "seed": picture.seed, **row} for picture, row in zip(pictures, rows, strict=True)]


def _rows_of_nearest(to_train: LpipsValues, subject: Subject) -> list[dict[str, Any]]:
    names = [image.file_name for image in subject.train]
    return [
        {
            "lpips": float(to_train.expected[i]),
            "lpips_nearest": float(to_train.nearest[i]),
            "nearest_index": int(to_train.nearest_index[i]),
            "nearest_reference": names[int(to_train.nearest_index[i])],
        }
        for i in range(len(to_train.expected))
    ]


def _interval(bounds: tuple[float, float] | None, n: int) -> list[float | int | None]:
    return [*(bounds or (None, None)), n]
