"""Image files: which are usable, and their pixels upright in RGB. No opinion on how good a
photograph is; no torch.

Whoever reads a photograph or a mask opens it here (`opened_image`), so that what is accepted once
can be read everywhere."""

from __future__ import annotations

import functools
import io
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from trainables.digests import file_digest
from trainables.errors import SubjectError
from trainables.folder_files import (
    EXAMPLES_OF_IMAGES,
    HEIC_SUFFIXES,
    UNREAD_SUFFIXES,
    require_readable,
    suffix_of,
)

MIN_SIDE_PIXELS = 16
MAX_SIDE_PIXELS = 16384

_ORIENTATION = 0x0112
_MAY_HOLD_FLOATS = (".tif", ".tiff", ".pfm")
_CAMERA_MAKE, _CAMERA_MODEL = 0x010F, 0x0110
_LYING = (5, 6, 7, 8)  # orientations that swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Photograph:
    image: Image.Image  # upright, RGB; scaled down where that is cheap, but no further than it was asked for
    width: int  # upright, as it was taken
    height: int
    has_camera_data: bool  # whether its EXIF names a camera; messengers remove it
    loss: float  # how coarsely its file says that it was compressed: 0 for not at all


def unread_problem(path: Path) -> str | None:
    """The one line on a photograph in a format that is not read."""
    if suffix_of(path) not in UNREAD_SUFFIXES:
        return None
    way_out = "Convert it, e.g. to .jpg"
    way_out += (
        ", or run `python -m sweep prepare`, which does."
        if suffix_of(path) in HEIC_SUFFIXES
        else "."
    )
    return f"Images must be {EXAMPLES_OF_IMAGES}, but {path} is {path.suffix}. {way_out}"


def why_unusable(path: Path) -> str | None:
    """The one line on why an image cannot be used: it does not decode, or is too small or too large. Decoded once while unchanged."""
    try:
        status = path.stat()
    except OSError as error:
        return _decoding_problem(path, error)
    return _why_unusable(str(path), status.st_size, status.st_mtime_ns)


def read_photograph(path: Path, *, least_side_pixels: int) -> Photograph:
    """The first frame, turned upright by its EXIF orientation, in sRGB, transparency over white.

    JPEGs are decoded at an eighth, a quarter or half of their size if that leaves both sides at `least_side_pixels`.

    Raises: SubjectError for what `why_unusable` tells."""
    with opened_image(path) as opened:
        width, height = upright_size(opened)
        camera = bool({_CAMERA_MAKE, _CAMERA_MODEL} & set(_exif_of(opened)))
        loss = _loss_of(opened)
        opened.draft("RGB", (least_side_pixels, least_side_pixels))
        return Photograph(_in_srgb(_upright(opened)), width, height, camera, loss)


def read_rgb(
    path: Path, *, least_side_pixels: int | None = None, over: str = "white"
) -> Image.Image:
    """The first frame, turned upright by its EXIF orientation, in RGB as it is stored, with what is
    transparent over a colour.

    With `least_side_pixels`, a JPEG is decoded as `read_photograph` does.

    Raises: SubjectError for what `why_unusable` tells."""
    with opened_image(path) as opened:
        if least_side_pixels is not None:
            opened.draft("RGB", (least_side_pixels, least_side_pixels))
        return flattened(_upright(opened), over)


def read_as_stored(path: Path) -> Image.Image:
    """The first frame in RGB, neither turned nor scaled: on the grid on which it was compressed.

    Raises: SubjectError for what `why_unusable` tells."""
    with opened_image(path) as opened:
        return flattened(opened)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """The image, not yet decoded. Whatever its decoder raises within the `with` becomes one line.

    Raises: SubjectError for what `why_unusable` tells."""
    try:
        with warnings.catch_warnings():
            # Of 90 to 180 megapixels, damaged EXIF and TIFF tags; beyond, Pillow raises.
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                if problem := _side_problem(path, opened):
                    raise SubjectError(problem)
                yield opened
    except SubjectError:
        raise
    except Exception as error:  # Pillow's formats raise OSError, SyntaxError, ValueError, struct.error, DecompressionBombError ...
        raise SubjectError(_decoding_problem(path, error)) from None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) upright, by its EXIF orientation, of an image that is not decoded yet."""
    # Pillow gives a TIFF's size upright, and turns it while it decodes.
    turns_itself = image.format == "TIFF"
    return image.size[::-1] if _orientation_of(image) in _LYING and not turns_itself else image.size


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of an image once it is upright; reads no pixels."""
    with opened_image(path) as image:
        return upright_size(image)


def pixels_digest(path: Path) -> str:
    """Names the pixels that `read_rgb` gives: the file's bytes, and how they are read where that
    has changed.

    Raises: SubjectError if the file cannot be opened."""
    try:
        digest = file_digest(path)
    except OSError as error:
        raise require_readable(path, error) from None
    if suffix_of(path) not in _MAY_HOLD_FLOATS:
        return digest
    with opened_image(path) as image:
        return f"{digest} floats" if image.mode == "F" else digest  # 0 to 1 was read as black


def flattened(image: Image.Image, over: str = "white") -> Image.Image:
    """RGB, with what is transparent over that colour.

    Raises: ValueError for numbers that are no grey levels: not finite, negative, or beyond what is
    known to be white."""
    if image.mode == "F" or image.mode.startswith(
        "I"
    ):  # convert() would clip at 255, that is, make it white, and 0..1 black
        image = Image.fromarray(_eight_bit_levels(image))
    if image.mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
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
        size_of(Path(path))
        read_rgb(Path(path), least_side_pixels=64)  # reads all of a JPEG, computes an eighth of it
    except SubjectError as error:
        return str(error)
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


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a TIFF is turned by that, and has no orientation afterwards
    turn = _TURNS.get(_orientation_of(image))
    return image if turn is None else image.transpose(turn)


def _orientation_of(image: Image.Image) -> int | None:
    return _exif_of(image).get(_ORIENTATION)


def _exif_of(image: Image.Image) -> Mapping[int, Any]:
    """Empty where it is damaged: viewers show such an image as it lies, and so do we."""
    try:
        return dict(image.getexif())
    except (
        Exception
    ):  # Pillow raises SyntaxError, struct.error, KeyError, ... for what it cannot parse
        return {}


def _loss_of(image: Image.Image) -> float:
    """The mean quantisation step of a JPEG's brightness. No other format tells: what cameras write,
    or what loses nothing, counts as 0; what the web writes, as more than any JPEG."""
    if tables := getattr(image, "quantization", None):
        return float(np.mean(tables[min(tables)]))
    return (
        math.inf
        if image.format in ("WEBP", "AVIF", "JPEG2000", "GIF") or image.mode == "P"
        else 0.0
    )


def _eight_bit_levels(image: Image.Image) -> np.ndarray:  # uint8 (height, width)
    """Grey levels of a picture of one channel of 16 or 32 bits. Floats are 0 to 1, or whole levels
    up to 255."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are no finite numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if low >= 0 and high <= 1:
            return np.rint(values * 255).astype(np.uint8)
        if low < 0 or high > 255 or (values != np.rint(values)).any():
            raise ValueError(
                f"floats must be 0 to 1, but its pixels are {low:g} to {high:g}: save it with 8 or "
                "16 bits"
            )
        return values.astype(np.uint8)
    if low < 0 or high > 65535:
        raise ValueError(
            f"levels must be 0 to 65535, but its pixels are {low:g} to {high:g}: save it with 8 or "
            "16 bits"
        )
    return (values >> 8 if image.mode != "I" or high > 255 else values).astype(np.uint8)


def _in_srgb(image: Image.Image) -> Image.Image:
    """RGB as screens show it: phones save Display P3, which read as sRGB looks pale; scans and printers' files are CMYK."""
    profile = image.info.get("icc_profile")
    source = image if image.mode in ("CMYK", "LAB") else flattened(image)
    if not profile:
        return flattened(source)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # damaged, or for another number of colours: then as if there were none
        return flattened(source)
