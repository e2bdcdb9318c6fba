"""The image rows of a study by their image set. A frame for each of ten thousand sets takes a minute; here one is cut when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


class ImageSets:
    """`images` as in StudyRecords: one row per generated image, in the order in which each set is given back."""

    def __init__(self, images: pd.DataFrame) -> None:
        codes, names = pd.factorize(images["evaluation_key"])
        self._rows = images if (np.diff(codes) >= 0).all() else images.iloc[np.argsort(codes, kind="stable")]
        ends = np.cumsum(np.bincount(codes, minlength=len(names)))
        self._places = {name: (end - n, end) for name, end, n in zip(names, ends.tolist(), np.diff(ends, prepend=0).tolist())}

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def n_images(self, key: object) -> int:
        start, end = self._places.get(key, (0, 0))
        return end - start

    def rows_of(self, keys: Sequence[object]) -> pd.DataFrame:
        """The rows of several sets, e.g. of a trial's under each of its training seeds."""
        parts = [self.rows(key) for key in keys]
        return pd.concat(parts) if parts else self._rows.iloc[:0]

    def rows(self, key: object) -> pd.DataFrame:
        """The rows of one set; none where there is no such set."""
        start, end = self._places.get(key, (0, 0))
        return self._rows.iloc[start:end]
