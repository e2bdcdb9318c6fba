"""Masks: which part of a training image, a face for instance, counts more in the loss. White is that part.

    metadata.jsonl     {"file_name": "0000.png", "mask": "masks/0000.png"}     from where file_name starts
    masks/0000.png or 0000.mask.png beside the image needs no entry
A mask has its image's size. Only trainings with a `mask_weight` other than 1 read it. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from trainables.folder_files import comparable, is_file, spelt_path
from trainables.metadata import Refuse, Row, resolved
from trainables.photographs import read_rgb, size_of, why_unusable

if TYPE_CHECKING:
    from trainables.subject_images import SubjectImage

MASK_FOLDER, MASK_SUFFIX = "masks", ".mask.png"


def is_mask(root: Path, path: Path) -> bool:
    """Whether its name within the subject's folder says that it is no image to train on."""
    return (
        path.name.lower().endswith(MASK_SUFFIX)
        or comparable(path.relative_to(root).parent.name) == MASK_FOLDER
    )


def with_masks(root: Path, images: Sequence[SubjectImage], rows: Sequence[Row], refuse: Refuse) -> tuple[list[SubjectImage], set[Path]]:
    """The images with their masks, and every file that is the mask of one, usable or not; what is wrong is refused and left out."""
    named = _masks_named(rows, refuse)
    found, files = [], set()
    for image in images:
        masks = {
            resolved(path): path
            for path in (*named.get(resolved(image.path), ()), *_masks_beside(image.path))
        }
        files |= set(masks)
        problem = _problem_of(root, image, list(masks.values())) if masks else None
        if problem:
            refuse(problem)
        found.append(image if problem or not masks else replace(image, mask=next(iter(masks.values()))))
    return found, files


def loss_weights(images: Sequence[SubjectImage], *, mask_weight: float, width: int, height: int) -> np.ndarray:
    """What each element of an image's error counts: float32 (n, height, width) on the grid of latents, with mean 1.

    w = v / mean(v), v = 1 + (mask_weight - 1) m, m in [0, 1] the share of a latent's area under the mask; w = 1 without a mask.
    So mask_weight moves attention within an image and leaves the scale of the gradient, which is the learning rate's, alone."""
    v = 1 + (mask_weight - 1) * np.stack([_mask_on_grid(image.mask, width, height) for image in images])
    for image in images:
        image.require_unchanged()
    return (v / v.mean(axis=(1, 2), keepdims=True)).astype(np.float32)


def read_mask(path: Path) -> Image.Image:
    """Upright, in greys, transparency over black: nothing is no face."""
    return read_rgb(path, over="black").convert("L")


def _mask_on_grid(path: Path | None, width: int, height: int) -> np.ndarray:
    if path is None:
        return np.zeros((height, width))
    # The part in the middle, as load_pixels cuts it; BOX is the mean over an area.
    return np.asarray(ImageOps.fit(read_mask(path).convert("F"), (width, height), Image.Resampling.BOX), dtype=np.float64) / 255


def _masks_named(rows: Sequence[Row], refuse: Refuse) -> Mapping[Path, list[Path]]:
    named: dict[Path, list[Path]] = {}
    for row in rows:
        mask = row.values.get("mask")
        if mask in (None, ""):
            continue
        if not isinstance(mask, str) or "\0" in mask:
            refuse(f'`mask` must be the path of an image, but {row.where} gives {mask!r}. Write e.g. "mask": "masks/0000.png".')
        elif not is_file(path := spelt_path(row.folder, mask)):
            refuse(f"A mask that is named must be there, but {row.where} names {mask!r}, which is missing. Add it, or delete the entry.")
        else:
            named.setdefault(row.pictured, []).append(path)
    return named


def _masks_beside(image: Path) -> list[Path]:
    names = (f"{image.stem}{MASK_SUFFIX}", f"{MASK_FOLDER}/{image.stem}.png")
    return [path for name in names if is_file(path := spelt_path(image.parent, name))]


def _problem_of(root: Path, image: SubjectImage, masks: Sequence[Path]) -> str | None:
    if len(masks) > 1:
        return f"An image has one mask, but {image.path} has {' and '.join(str(mask) for mask in masks)}. Delete one."
    if not resolved(masks[0]).is_relative_to(root.resolve()):
        place = f"that of {image.file_name} is {resolved(masks[0])}"
        return f"A mask must lie in the subject's folder, but {place}. Copy it into {root}."
    if problem := why_unusable(masks[0]):
        return problem
    if why_unusable(image.path):  # told of elsewhere
        return None
    size, expected = size_of(masks[0]), size_of(image.path)
    if size != expected:
        sizes = f"{masks[0]} is {size[0]}x{size[1]} and {image.file_name} {expected[0]}x{expected[1]}"
        return f"A mask must have its image's size in pixels, but {sizes}. Draw it anew, or scale it."
    return None

