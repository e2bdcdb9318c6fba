"""Trials whose truth is known: equal or with a known difference, over pictures and training
seeds, of normal or skewed spread."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.stats import t

from analysis.image_values import ImageValues
from analysis.load import load_study_records
from sweep.records import Records

LAWS = ("normal", "exponential", "lognormal")
N_TRIALS, N_PICTURES, N_PROMPTS = 16, 20, 5


def draws(law: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Mean 0 and standard deviation 1."""
    if law == "normal":
        return rng.normal(size=shape)
    if law == "exponential":
        return rng.exponential(size=shape) - 1
    sigma = 0.5
    mean, variance = math.exp(sigma**2 / 2), math.exp(sigma**2) * (math.exp(sigma**2) - 1)
    return (rng.lognormal(0, sigma, shape) - mean) / math.sqrt(variance)


def lpips_of_trials(
    law: str,
    n_seeds: int,
    rng: np.random.Generator,
    *,
    n_trials: int = N_TRIALS,
    n_pictures: int = N_PICTURES,
    seed_sd: float = 1.0,
    both_sd: float = 0.5,
) -> np.ndarray:  # (m, n, s)
    """Every trial's true mean is 0: its pictures differ by 1 under every seed, its seeds by
    `seed_sd`, and each picture of a seed by `both_sd`. With one seed, pictures are all there is:
    what a seed does to a trial is then part of what the trial is."""
    pictures = draws(law, (n_trials, n_pictures, 1), rng)
    if n_seeds == 1:
        return pictures
    seeds = seed_sd * draws(law, (n_trials, 1, n_seeds), rng)
    return pictures + seeds + both_sd * draws(law, (n_trials, n_pictures, n_seeds), rng)


def error_and_width(
    n_seeds: int,
    *,
    n_trials: int = N_TRIALS,
    n_pictures: int = N_PICTURES,
    seed_sd: float = 1.0,
    both_sd: float = 0.5,
) -> tuple[float, float]:
    """The true standard error of a trial's mean, and the width of Student's interval with it:
    degrees of freedom after Satterthwaite from the true components, the seeds' those of all
    trials together."""
    of_pictures, of_seeds = (
        1 / n_pictures,
        0.0 if n_seeds == 1 else (seed_sd**2 + both_sd**2 / n_pictures) / n_seeds,
    )
    freedom = (of_pictures + of_seeds) ** 2 / (
        of_pictures**2 / (n_pictures - 1) + of_seeds**2 / (n_trials * max(1, n_seeds - 1))
    )
    error = math.sqrt(of_pictures + of_seeds)
    return error, 2 * t.ppf(0.975, freedom) * error


def images_of(values: np.ndarray) -> ImageValues:  # (m, n, s)
    m, n, s = values.shape
    return ImageValues(
        values,
        np.full(m, s),
        np.array([f"p{i % N_PROMPTS}" for i in range(n)], dtype=object),
        np.full((m, n), np.nan),
    )


def write_study(
    folder,
    values: np.ndarray,
    *,
    spread: float = 1.0,
    best: int | None = None,
    further: dict | None = None,
):  # values (m, n, s)
    """The records of trials whose pictures have these values; the objective is the mean, but for
    `best`, which the objective puts first."""
    records = Records(folder, clock=lambda: 1.0)
    for number, of_seeds in enumerate(values * spread):
        keys = [f"e{number}-{seed}" for seed in range(of_seeds.shape[1])]
        for key, of_seed in zip(keys, of_seeds.T, strict=True):
            images = [
                {"prompt": f"p{i % N_PROMPTS}", "seed": i // N_PROMPTS, "lpips": value}
                for i, value in enumerate(of_seed)
            ]
            row = {
                "evaluation_key": key,
                "training_key": f"k-{key}",
                "epoch": 3,
                "lpips": float(of_seed.mean()),
                "n_images": len(images),
            }
            records.append_evaluation(
                {**row, **{name: of[key] for name, of in (further or {}).items()}}, images
            )
        objective = -1e3 if number == best else float(of_seeds.mean())
        trial = {
            "trial": f"t{number:04d}",
            "number": number,
            "state": "COMPLETE",
            "configuration": {"rank": number},
            "training_key": f"{folder.name}-k{number}",
        }
        records.append_trial(
            {
                **trial,
                "best_epoch": 3,
                "objective": objective,
                "rung_values": [[3, objective, *keys]],
            }
        )
    records.compact()
    return load_study_records(folder)


def with_values(records, values: np.ndarray):
    """The study with other pictures, as `write_study` would have written it: much sooner."""
    from dataclasses import replace

    order = {f"e{k}-{j}": (k, j) for k in range(values.shape[0]) for j in range(values.shape[2])}
    places = [order[key] for key in records.images["evaluation_key"]]
    index = records.images["index"].to_numpy(dtype=int)
    lpips = values[[k for k, _ in places], index, [j for _, j in places]]
    return replace(
        records, images=records.images.assign(lpips=pd.Series(lpips, index=records.images.index))
    )


def least_coverage(hits: np.ndarray, nominal: float = 0.95) -> float:  # (repetitions, trials)
    """Nominal less two Monte Carlo errors, those of the repetitions: the trials of one share
    their estimate of the seeds' scatter."""
    return nominal - 2 * hits.mean(axis=1).std(ddof=1) / math.sqrt(len(hits))
