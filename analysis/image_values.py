"""The values of single pictures, side by side: which pictures of two trials were made from the same prompt and the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

PAIRED_BY = ("prompt", "seed")
"""Two images are a pair where the prompt and the noise are the same: common random numbers."""


@dataclass(frozen=True)
class ImageValues:
    """`values` (m, n, s): m trials, n pairs of prompt and noise, s training seeds; NaN where there is no such picture. A trial with fewer
    training seeds than s fills the first `n_seeds` (m,). `prompts` (n,) are those of the pairs. `seen` (m, n) is 1 where the prompt's words
    occur in the trial's training captions, 0 where not, NaN where there is no picture or the records do not say."""

    values: np.ndarray
    n_seeds: np.ndarray
    prompts: np.ndarray
    seen: np.ndarray

    def of(self, trials: np.ndarray) -> ImageValues:
        """Those of some of the trials."""
        return replace(self, values=self.values[trials], n_seeds=self.n_seeds[trials], seen=self.seen[trials])

    def over_seeds(self) -> np.ndarray:  # (m, n)
        """Means over each trial's training seeds; NaN where a picture lacks under one of them."""
        own = np.arange(self.values.shape[2]) < self.n_seeds[:, None, None]
        return np.where(own, self.values, 0).sum(axis=2) / np.where(self.n_seeds > 0, self.n_seeds, np.nan)[:, None]


def image_values(images: pd.DataFrame, keys: Sequence[object], value: str = "lpips") -> ImageValues:
    """The pictures of m trials: `keys` holds for each a tuple of evaluation keys, one per training seed, or what is not one (no picture)."""
    tuples = [own if isinstance(own, tuple) else () for own in keys]
    codes = {key: i for i, key in enumerate(dict.fromkeys(key for own in tuples for key in own))}
    row = images["evaluation_key"].map(codes)
    images, row = images[row.notna()], row.dropna().to_numpy(dtype=int)
    pair, prompts = _pairs(images, row)
    by_set, seen = np.full((2, len(codes) + 1, len(prompts)), np.nan)
    by_set[row, pair] = images[value].to_numpy(dtype=float, na_value=np.nan)
    seen[row, pair] = pd.to_numeric(images["seen"].astype("boolean")).astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    s = max((len(own) for own in tuples), default=0) or 1
    # The last row of `by_set` holds no picture: trials read it for the training seeds that they do not have.
    which = np.array([[*(codes[key] for key in own), *[len(codes)] * (s - len(own))] for own in tuples], dtype=int).reshape(len(tuples), s)
    n_seeds = np.array([len(own) for own in tuples], dtype=int)
    return ImageValues(by_set[which].transpose(0, 2, 1), n_seeds, prompts, seen[which[:, 0]])


def _pairs(images: pd.DataFrame, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each picture's pair, in the order of first appearance, and the prompt of every pair."""
    (prompt, _), (seed, seeds) = (pd.factorize(images[name], use_na_sentinel=False) for name in PAIRED_BY)
    both = prompt * max(1, len(seeds)) + seed
    # A prompt that a study lists twice is made twice from the same noise: the second is a pair of its own.
    again = pd.Series(both).groupby([row, both]).cumcount().to_numpy()
    pair, _ = pd.factorize(both + again * (both.max(initial=0) + 1))
    first = np.unique(pair, return_index=True)[1]
    return pair, images["prompt"].to_numpy(dtype=object)[first]
