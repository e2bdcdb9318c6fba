"""How good a photograph is to train on, in numbers: sharpness, exposure, faces. The limits are the caller's.

Measured on eight photographs: sharpness is 1230 to 6100 for six of them, 130 for a retina and a moon without hard edges, and 2 to 37 for the
eight after a Gaussian blur of 2 pixels at that size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import laplace

JUDGED_SIDE_PIXELS = 512
N_TILES = 4
BLOCK_PIXELS = 8  # what JPEG, and most formats after it, compress by itself
LEAST_BLOCK_PIXELS = 4  # scaled down further, the edges of blocks are averaged away
DETAIL_SIDE_PIXELS = 1024
LEAST_AMPLITUDE = 1.5  # grey levels: what rounding alone leaves of a frequency is below


def sharpness(image: Image.Image) -> float:
    """The largest variance of the Laplacian among 4 x 4 tiles, in squared grey levels, with the
    shorter side scaled down to 512 pixels.

    The largest, not that of the whole: behind a sharp face everything else may be out of focus.
    It is taken within the blocks of 8 x 8 pixels alone: the edges between those of a strongly
    compressed picture are not sharpness."""
    grey = _grey(image)
    edges = laplace(grey)
    rows, columns = (
        _within_blocks(n, BLOCK_PIXELS * grey.shape[1] / image.width) for n in grey.shape
    )
    tiles = [
        edges[np.ix_(some_rows[rows[some_rows]], some_columns[columns[some_columns]])]
        for some_rows in np.array_split(np.arange(grey.shape[0]), N_TILES)
        for some_columns in np.array_split(np.arange(grey.shape[1]), N_TILES)
    ]
    return float(max((tile.var() for tile in tiles if tile.size), default=0.0))


def detail(image: Image.Image) -> float:
    """The mean number of frequencies, of 64, that are left in a block of 8 x 8 pixels in the
    middle of a picture as its file has it, neither turned nor scaled.

    Compression removes the faint ones, and saving the picture again, in whichever format, brings
    none back: of two copies the one with more of them is nearer to the original."""
    left, top = (
        max(0, side - DETAIL_SIDE_PIXELS) // 2 // BLOCK_PIXELS * BLOCK_PIXELS for side in image.size
    )
    n_rows, n_columns = (min(side, DETAIL_SIDE_PIXELS) // BLOCK_PIXELS for side in image.size[::-1])
    box = (left, top, left + n_columns * BLOCK_PIXELS, top + n_rows * BLOCK_PIXELS)
    grey = np.asarray(image.convert("L").crop(box), dtype=np.float32)
    blocks = grey.reshape(n_rows, BLOCK_PIXELS, n_columns, BLOCK_PIXELS).swapaxes(1, 2)
    amplitudes = np.abs(dctn(blocks, axes=(2, 3), norm="ortho"))
    return float((amplitudes >= LEAST_AMPLITUDE).sum(axis=(2, 3)).mean())


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


def _within_blocks(n: int, block: float) -> np.ndarray:
    """(n,) whether the neighbours of a pixel lie in its own block, of that many pixels."""
    if block < LEAST_BLOCK_PIXELS:
        return np.ones(n, dtype=bool)
    return np.floor((np.arange(n) - 0.5) / block) == np.floor((np.arange(n) + 1.5) / block)


def _grey(image: Image.Image) -> np.ndarray:
    grey, scale = image.convert("L"), JUDGED_SIDE_PIXELS / min(image.size)
    if scale < 1:
        grey = grey.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return np.asarray(grey, dtype=np.float64)
