"""Size buckets: photographs of differing aspect ratio train at sizes of nearly one area, each batch of one size.

The sizes, and which one a photograph gets, are those of kohya's scripts (sd-scripts, library/model_util.make_bucket_resolutions and
BucketManager.select_bucket), whose limits are 256, 1024 and steps of 64 pixels at a resolution of 512. The sequence of sizes within an
epoch is the subject's own and the same in every epoch, so that trainings of one subject meet the same size at every step and can share a
pack; which images come in which order is the slot's to draw. No pixels and no torch."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Buckets:
    """The buckets of some images: the sizes that any of them has, and the index of each image's."""

    sizes: tuple[Size, ...]
    of_image: tuple[int, ...]

    @property
    def counts(self) -> dict[Size, int]:
        """Images by size, the most first."""
        return dict(Counter(self.sizes[bucket] for bucket in self.of_image).most_common())

    def sequence(self, batch: int) -> tuple[int, ...]:
        """The bucket of each batch of an epoch: as many batches of each as hold its images, in an order that depends on these numbers alone."""
        n_images = Counter(self.of_image)
        batches = [bucket for bucket in range(len(self.sizes)) for _ in range(math.ceil(n_images[bucket] / batch))]
        random.Random(f"{sorted(n_images.items())} {batch}").shuffle(batches)
        return tuple(batches)


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """The sizes for images of about `resolution` x `resolution` pixels: sides are multiples of `step` from half of it to twice of it, and
    no size has a larger area."""
    square = resolution // step * step
    sizes = {(square, square)}
    smallest, largest, area = max(step, resolution // 2 // step * step), 2 * resolution, resolution**2
    for width in range(smallest, largest + 1, step):
        height = min(largest, area // width // step * step)
        if height >= smallest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def nearest_size(size: Size, sizes: Sequence[Size]) -> Size:
    """That of the nearest aspect ratio, width over height; of equally near ones the first."""
    return min(sizes, key=lambda s: abs(s[0] / s[1] - size[0] / size[1]))


def buckets_of(images: Sequence[Size], *, resolution: int, step: int) -> Buckets:
    """The buckets of images of these sizes."""
    choices = bucket_sizes(resolution, step)
    chosen = [nearest_size(size, choices) for size in images]
    sizes = sorted(set(chosen))
    return Buckets(tuple(sizes), tuple(sizes.index(size) for size in chosen))


def buckets_to_train(images: Sequence[Size], *, resolution: int, step: int) -> Buckets | None:
    """The buckets of images that keep their aspect ratio; None where all of them come in the model's own square after all."""
    buckets = buckets_of(images, resolution=resolution, step=step)
    return None if buckets.sizes == ((resolution, resolution),) else buckets


def share_cut_away(size: Size, target: Size) -> float:
    """How much of an image of this size lies outside of the largest part in its middle that has the target's aspect ratio."""
    ratio = (size[0] / size[1]) / (target[0] / target[1])
    return 1 - min(ratio, 1 / ratio)
