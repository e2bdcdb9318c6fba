"""Whether a study has enough pictures and photographs for what it computes of them. What is known beforehand fails no trial.

The numbers are those of trainables/metrics.py and scores.py, which import torch; a test compares them."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.errors import StudyError
from sweep.study import Study
from trainables.config import EvalConfig
from trainables.subject import Subject

LEAST_PICTURES = 2
"""Of every image set: FID, KID and diversity are computed of each, and have no value for one picture."""
LEAST_OF_METRIC = {"fid_inf": 10}
"""Pictures that a metric needs before it can be in an objective."""
LEAST_HELDOUT = {"lpips_heldout": 2, "fid_heldout": 2, "kid_heldout": 2}
"""Held-out images that a metric needs; other metrics of held-out images need one."""


def require_pictures(study: Study) -> None:
    """Raises: StudyError where some image set of the study would have too few pictures."""
    wanted = {metric: least for metric, least in LEAST_OF_METRIC.items() if metric in _optimised(study)}
    least = max([LEAST_PICTURES, *wanted.values()])
    why = next((f"`{metric}`" for metric, n in wanted.items() if n == least), "FID, KID and diversity")
    for config in _evaluations(study):
        if config.n_images < least:
            raise StudyError(
                f"An image set must have at least {least} pictures for {why}, but {len(config.prompts)} prompts with {config.images_per_prompt} "
                f"pictures each make {config.n_images}. Use more prompts, or e.g. --set images_per_prompt={-(-least // len(config.prompts))}."
            )


def require_photographs(study: Study, subject: Subject) -> None:
    """Raises: StudyError where the subject has too few images to compare pictures with."""
    if len(subject.train) < LEAST_PICTURES:
        raise StudyError(
            f"A subject must have at least {LEAST_PICTURES} training images for FID and KID, but {study.subject} has {len(subject.train)}. Add images."
        )
    for metric in _optimised(study):
        least = LEAST_HELDOUT.get(metric, int("heldout" in metric))
        if len(subject.heldout) < least:
            raise StudyError(
                f"The study optimises `{metric}`, which needs at least {least} held-out images, but {study.subject} has {len(subject.heldout)}. "
                "Use another metric, or hold images out."
            )


def _optimised(study: Study) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*study.objective.weights, *study.pareto)))


def _evaluations(study: Study) -> Iterator[EvalConfig]:
    """Those of the study that differ in their numbers of pictures, as far as they can be told beforehand."""
    for parameter in ("prompts", "images_per_prompt"):
        for configuration in study.telling_configurations(parameter):
            evaluation = study.split(configuration)[2]
            yield from (evaluation, *study.fan_out_configs(evaluation))
