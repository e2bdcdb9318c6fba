"""Objective: one number out of an evaluation's metrics, a weighted sum of each metric over a stated scale. Lower is better.

A similarity (dinov2, clip_i, clip_t, face) is better when higher, and enters as 1 - value: 0 is the same, 1 has nothing in common.

Scales belong to the network that the metric was computed with: an FID over Inception and one over the embedded
network have nothing in common. Nothing here computes a metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import ObjectiveError, StudyError
from sweep.space import nearest
from trainables.metric_weights import FURTHER_METRICS

PERCEPTUAL, POOLED = "perceptual", "pooled"
"""The two kinds of feature network, as `backbones` names them: {"perceptual": "lpips:alex", "pooled": "inception"}."""

MODEL = "model"
"""What `heldout_loss` is computed by: no feature network, but the base model itself."""
METRICS_BY_GROUP = (("lpips", PERCEPTUAL), ("fid", POOLED), ("kid", POOLED))
SIMILARITY_ENDINGS = ("", "_heldout", "_seen", "_unseen")

METRICS = {
    "lpips": ("lpips", PERCEPTUAL),
    "lpips_nearest": ("lpips", PERCEPTUAL),
    "lpips_heldout": ("lpips", PERCEPTUAL),
    "diversity": ("lpips", PERCEPTUAL),
    "fid": ("fid", POOLED),
    "fid_heldout": ("fid", POOLED),
    "kid": ("kid", POOLED),
    "kid_heldout": ("kid", POOLED),
    "fid_inf": ("fid", POOLED),
    **{f"{metric}_{group}": (metric, kind) for metric, kind in METRICS_BY_GROUP for group in ("seen", "unseen")},
    "heldout_loss": ("heldout_loss", MODEL),
    **{f"{name}{ending}": (name, name) for name in FURTHER_METRICS for ending in SIMILARITY_ENDINGS if (name, ending) != ("clip_t", "_heldout")},
}
"""Metric -> (whose scale it uses, which kind of network computed it)."""

DEFAULT_WEIGHTS = {"lpips": 0.5, "fid": 0.5}

DEFAULT_SCALES: dict[tuple[str, str], float] = {
    ("lpips", "lpips:alex"): 1.0,
    ("lpips", "lpips:vgg"): 1.0,
    ("lpips", "lpips:squeeze"): 1.0,
    ("fid", "inception"): 200.0,
    ("kid", "inception"): 0.1,
    # About what the embedded base model without an adapter scores on the embedded subject: an objective of 1 is no adapter at all.
    ("lpips", "embedded:perceptual"): 1.2,
    ("fid", "embedded:pooled"): 150.0,
    ("kid", "embedded:pooled"): 3.8,
}
"""(metric, backbone) -> the value that counts as 1. A study overrides it with Objective(scales={"fid": 150.0})."""


SCALE_OF_OTHERS = 1.0
"""Of `heldout_loss` and of similarities, over whatever network: a loss of 1 predicts nothing, a similarity of 0 is no likeness."""


@dataclass(frozen=True, init=False)
class Objective:
    """Objective(lpips=0.5, fid=0.5, scales={"fid": 150.0}) is 0.5 * lpips / <its scale> + 0.5 * fid / 150.

    A scale is given by metric, or by (metric, backbone) where it holds for that network alone; else DEFAULT_SCALES.
    Weights are positive; only `diversity`, of which more is better, takes a negative one."""

    weights: Mapping[str, float]
    scales: Mapping[str | tuple[str, str], float]

    def __init__(self, *, scales: Mapping[str | tuple[str, str], float] | None = None, **weights: float) -> None:
        object.__setattr__(self, "weights", dict(weights or DEFAULT_WEIGHTS))
        object.__setattr__(self, "scales", dict(scales or {}))
        for metric, weight in self.weights.items():
            _require_weight(metric, weight)
        for name, scale in self.scales.items():
            _require_scale(name, scale)

    def value(self, values: Mapping[str, float], backbones: Mapping[str, str]) -> float:
        """The objective of one evaluation; lower is better.

        Raises:
            ObjectiveError: a metric is missing, NaN or infinite.
            StudyError: a metric has no scale for the network that computed it."""
        return math.fsum(w * _lower_is_better(metric, values) / self.scale(metric, backbones) for metric, w in self.weights.items())

    @property
    def further_metrics(self) -> tuple[str, ...]:
        """The further metrics that a study of this objective must compute, by name."""
        return tuple(dict.fromkeys(METRICS[metric][0] for metric in self.weights if is_similarity(metric)))

    def scale(self, metric: str, backbones: Mapping[str, str]) -> float:
        """The value of `metric` that counts as 1 under these networks."""
        family, kind = METRICS[metric]
        backbone = backbones.get(kind) or "?"
        for name in ((metric, backbone), metric, (family, backbone), family):
            if name in self.scales:
                return self.scales[name]
        if (family, backbone) in DEFAULT_SCALES:
            return DEFAULT_SCALES[family, backbone]
        if is_similarity(metric) or kind == MODEL:
            return SCALE_OF_OTHERS
        raise StudyError(
            f"The objective needs a scale for every metric, but there is none for `{metric}` over {backbone!r}. "
            f"State one in the study, e.g. Objective({metric}={self.weights.get(metric, 0.5)}, scales={{{metric!r}: 1.0}})."
        )

    def describe(self, backbones: Mapping[str, str] | None = None) -> str:
        """The formula in words, for records; with the scales filled in where the networks are known."""
        return " + ".join(self._term(metric, weight, backbones) for metric, weight in self.weights.items())

    def as_json(self) -> dict[str, Any]:
        """Weights and own scales, for comparing studies."""
        return {
            "weights": dict(self.weights),
            "scales": {name if isinstance(name, str) else "@".join(name): scale for name, scale in self.scales.items()},
        }

    def _term(self, metric: str, weight: float, backbones: Mapping[str, str] | None) -> str:
        term = f"(1 - {metric})" if is_similarity(metric) else metric
        if backbones is None:
            return f"{weight:g} * {term} / {self.scales.get(metric, 'scale')}"
        network = backbones.get(METRICS[metric][1])
        return f"{weight:g} * {term} / {self.scale(metric, backbones):g}" + (f" ({network})" if METRICS[metric][1] != MODEL else "")


def is_similarity(metric: str) -> bool:
    """Whether more of it is better, up to 1."""
    return METRICS[metric][0] in FURTHER_METRICS


def more_is_better(metric: str) -> bool:
    """Whether a higher value is better: of `diversity` and the similarities. Of everything else, the objective too, lower is better.

    The one place that says so. Takes any column of the tables, also a metric that names its network: dinov2@NETWORK."""
    name = metric.partition("@")[0]
    return name == "diversity" or (name in METRICS and is_similarity(name))


def best_of(values: Iterable[float], metric: str) -> float:
    """The best of some values of one metric, none of which is NaN; NaN where there are none."""
    return max(values, default=math.nan) if more_is_better(metric) else min(values, default=math.nan)


def finite_value(metric: str, values: Mapping[str, float], *, wanted_by: str = "The objective") -> float:
    """The metric out of an evaluation's.

    Raises:
        ObjectiveError: it is missing, NaN or infinite."""
    value = values.get(metric)
    if value is None:
        raise ObjectiveError(f"{wanted_by} needs `{metric}`, but the evaluation gives only {', '.join(sorted(values)) or 'nothing'}.")
    if not math.isfinite(value):
        raise ObjectiveError(f"{wanted_by} needs a finite `{metric}`, but it is {value}.")
    return float(value)


def _lower_is_better(metric: str, values: Mapping[str, float]) -> float:
    value = finite_value(metric, values)
    return 1 - value if is_similarity(metric) else value


def _require_weight(metric: str, weight: Any) -> None:
    if metric not in METRICS:
        raise StudyError(f"The objective knows no metric `{metric}`.{nearest(metric, METRICS)} It knows {', '.join(METRICS)}.")
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and math.isfinite(weight)
    if metric == "diversity":
        if not number or weight >= 0:
            raise StudyError(f"More `diversity` is better, so its weight must be negative, but it is {weight!r}. Use e.g. -0.1.")
    elif not number or weight <= 0:
        raise StudyError(f"The weight of `{metric}` must be a positive number, but it is {weight!r}. Use e.g. 0.5, or leave it out.")


def _require_scale(name: Any, scale: Any) -> None:
    metric = name if isinstance(name, str) else name[0] if isinstance(name, tuple) and len(name) == 2 else None
    if metric not in METRICS:
        raise StudyError(f"A scale belongs to a metric or a (metric, backbone), but {name!r} is neither. Metrics: {', '.join(METRICS)}.")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale) or scale <= 0:
        raise StudyError(f"The scale of {name!r} must be a positive number, but it is {scale!r}. Use e.g. 1.0.")
