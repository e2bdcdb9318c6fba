"""How good a photograph is to train on, in numbers: sharpness, exposure, faces. The limits are the caller's.

Measured on eight photographs: sharpness is 1230 to 6100 for six of them, 130 for a retina and a moon without hard edges, and 2 to 37 for the
eight after a Gaussian blur of 2 pixels at that size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import laplace

JUDGED_SIDE_PIXELS = 512
N_TILES = 4


def sharpness(image: Image.Image) -> float:
    """The largest variance of the Laplacian among 4 x 4 tiles, in squared grey levels, with the shorter side scaled down to 512 pixels.

    The largest, not that of the whole: behind a sharp face everything else may be out of focus."""
    edges = laplace(_grey(image))
    tiles = [tile for rows in np.array_split(edges, N_TILES) for tile in np.array_split(rows, N_TILES, axis=1)]
    return float(max(tile.var() for tile in tiles))


def exposure(image: Image.Image) -> tuple[float, float]:
    """The grey levels, 0 to 255, below which a tenth and nine tenths of the picture lie.

    If even its bright parts are dark it is underexposed; if even its dark parts are bright, overexposed. A mean would blame
    every studio portrait on a white background."""
    low, high = np.percentile(_grey(image), (10, 90))
    return float(low), float(high)


def face_counter() -> tuple[Callable[[Image.Image], int] | None, str]:
    """What counts the frontal faces in a picture, or None and why there is nothing that could.

    OpenCV's Haar cascade: it needs no download, and errs now and then, so that its word is for a person to review."""
    try:
        import cv2
    except ImportError:
        return None, "faces are not counted: that needs OpenCV 4 (pip install 'opencv-python-headless<5')"
    if not hasattr(cv2, "CascadeClassifier"):
        return (
            None,
            f"faces are not counted: OpenCV {cv2.__version__} has no cascades, version 4 has (pip install 'opencv-python-headless<5')",
        )
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"))

    def count(image: Image.Image) -> int:
        grey = _grey(image).astype(np.uint8)
        side = max(24, min(grey.shape) // 10)
        return len(cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=6, minSize=(side, side)))

    return count, ""


def _grey(image: Image.Image) -> np.ndarray:
    grey, scale = image.convert("L"), JUDGED_SIDE_PIXELS / min(image.size)
    if scale < 1:
        grey = grey.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return np.asarray(grey, dtype=np.float64)
