"""Image files: which are read, which are usable, and their pixels upright in RGB. No opinion on how good a photograph is; no torch."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from trainables.errors import SubjectError
from trainables.metadata import Refuse, raise_first

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
UNREAD_SUFFIXES = (*HEIC_SUFFIXES, ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".jxl", ".svg")
MIN_SIDE_PIXELS = 16
MAX_SIDE_PIXELS = 16384

_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)  # orientations that swap width and height


@dataclass(frozen=True, eq=False)
class Photograph:
    image: Image.Image  # upright, RGB; scaled down where that is cheap, but no further than it was asked for
    width: int  # upright, as it was taken
    height: int


def image_files(paths: Iterable[Path], refuse: Refuse = raise_first) -> Iterator[Path]:
    """Those that are images; hidden files (macOS writes `._0.png`) are not.

    Refuses photographs in a format that is not read, which would otherwise be left out unnoticed."""
    for path in paths:
        if path.name.startswith(".") or not path.is_file():
            continue
        if problem := unread_problem(path):
            refuse(problem)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def unread_problem(path: Path) -> str | None:
    """The one line on a photograph in a format that is not read."""
    if path.suffix.lower() not in UNREAD_SUFFIXES:
        return None
    return f"Images must be {', '.join(IMAGE_SUFFIXES)}, but {path} is {path.suffix}. Convert it, e.g. to .jpg."


def why_unusable(path: Path) -> str | None:
    """The one line on why an image cannot be used: it does not decode, or is too small or too large. Decoded once while unchanged."""
    status = path.stat()
    return _why_unusable(str(path), status.st_size, status.st_mtime_ns)


def read_photograph(path: Path, *, least_side_pixels: int) -> Photograph:
    """The first frame, turned upright by its EXIF orientation, in sRGB, transparency over white.

    JPEGs are decoded at an eighth, a quarter or half of their size if that leaves both sides at `least_side_pixels`.

    Raises: SubjectError for what `why_unusable` tells."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # 90 to 180 megapixels; beyond, Pillow raises
            with Image.open(path) as opened:
                if problem := _side_problem(path, opened):
                    raise SubjectError(problem)
                width, height = upright_size(opened)
                opened.draft("RGB", (least_side_pixels, least_side_pixels))
                return Photograph(_in_srgb(ImageOps.exif_transpose(opened)), width, height)
    except SubjectError:
        raise
    except Exception as error:  # Pillow's formats raise OSError, SyntaxError, ValueError, struct.error, DecompressionBombError ...
        raise SubjectError(_decoding_problem(path, error)) from None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once it is turned by its EXIF orientation."""
    return image.size[::-1] if image.getexif().get(_ORIENTATION) in _LYING else image.size


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of an image once it is upright; reads no pixels."""
    with Image.open(path) as image:
        return upright_size(image)


def flattened(image: Image.Image, over: str = "white") -> Image.Image:
    """RGB, with what is transparent over that colour."""
    if image.mode.startswith("I"):  # convert() would clip at 255, that is, make it white
        values = np.asarray(image)
        image = Image.fromarray((values >> 8 if image.mode != "I" or values.max() > 255 else values).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, over), colours).convert("RGB")


def register_heic() -> bool:
    """Whether HEIC can be read: it needs the package pillow-heif."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


@functools.lru_cache(maxsize=65536)
def _why_unusable(path: str, size_bytes: int, modified_ns: int) -> str | None:
    try:
        with Image.open(path) as image:
            if problem := _side_problem(Path(path), image):
                return problem
            image.draft("RGB", (64, 64))  # reads all of a JPEG, computes an eighth of it
            image.load()
    except Exception as error:  # as in read_photograph
        return _decoding_problem(Path(path), error)
    return None


def _side_problem(path: Path, image: Image.Image) -> str | None:
    sides = f"{image.width}x{image.height}"
    if min(image.size) < MIN_SIDE_PIXELS:
        return f"An image must have at least {MIN_SIDE_PIXELS} pixels a side, but {path} is {sides}. Replace it, or take it out."
    if max(image.size) > MAX_SIDE_PIXELS:
        return f"An image must have at most {MAX_SIDE_PIXELS} pixels a side, but {path} is {sides}. Scale it down, or take it out."
    return None


def _decoding_problem(path: Path, error: Exception) -> str:
    reason = "out of memory" if isinstance(error, MemoryError) else " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"An image must decode, but {path} does not ({reason}). Replace it, or take it out."


def _in_srgb(image: Image.Image) -> Image.Image:
    """RGB as screens show it: phones save Display P3, which read as sRGB looks pale; scans and printers' files are CMYK."""
    profile = image.info.get("icc_profile")
    source = image if image.mode == "CMYK" else flattened(image)
    if not profile:
        return flattened(source)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # damaged, or for another number of colours: then as if there were none
        return flattened(source)
