"""Bands of LPIPS and FID as words: what the paper that this project repeats calls excellent, good, moderate, weak, poor.

They belong to LPIPS over AlexNet and to FID over Inception alone: over any other network a value has no band."""

from __future__ import annotations

import math

import pandas as pd

LPIPS_BANDS = ((0.15, "excellent"), (0.25, "good"), (math.inf, "weak"))
FID_BANDS = ((10.0, "excellent"), (30.0, "good"), (50.0, "moderate"), (math.inf, "poor"))
"""(upper bound, word), ascending, as the paper writes them: below 0.15, 0.15 to 0.25, above 0.25; below 10, 10 to 30, 30 to 50, above 50."""

LPIPS_NETWORK, FID_NETWORK = "lpips:alex", "inception"

ENOUGH_IMAGES_FOR_FID = 2048
"""Inception's features have 2048 numbers: the covariance of fewer images is not of full rank, and FID is mostly bias."""


def with_bands(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `lpips_band` and `fid_band`, missing where the network is another one or there is no value."""
    return frame.assign(
        lpips_band=[lpips_band(value, network) for value, network in zip(frame["lpips"], frame["perceptual_backbone"])],
        fid_band=[fid_band(value, network) for value, network in zip(frame["fid"], frame["pooled_backbone"])],
    )


def lpips_band(value: float, network: str) -> str | None:
    return _band(value, LPIPS_BANDS) if network == LPIPS_NETWORK else None


def fid_band(value: float, network: str) -> str | None:
    return _band(value, FID_BANDS) if network == FID_NETWORK else None


def fid_warning(frame: pd.DataFrame) -> str | None:
    """What to say beside FID over Inception where a row's images are too few for it; None where they are enough, or it is another network."""
    few = frame.loc[(frame["pooled_backbone"] == FID_NETWORK) & (frame["n_images"] < ENOUGH_IMAGES_FOR_FID), "n_images"]
    if few.empty:
        return None
    return (
        f"FID of {int(few.min())} images is mostly bias, and its band is that of the bias: features of one law, whose FID is 0, give 88 at "
        f"64 images, 54 at 256 and 27 at 1000. Compare it at equal numbers only, or read kid; from {ENOUGH_IMAGES_FOR_FID} images on it is fit for a band."
    )


def _band(value: float, bands: tuple[tuple[float, str], ...]) -> str | None:
    if pd.isna(value):
        return None
    first, *middle, last = bands
    if value < first[0]:
        return first[1]
    return next((word for bound, word in middle if value <= bound), last[1])
