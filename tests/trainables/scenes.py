"""Pictures that differ as photographs of different scenes do, for the tests of what looks at photographs."""

import numpy as np
from PIL import Image


def scene(seed: int, *, size: tuple[int, int] = (256, 256)) -> Image.Image:
    """Random blobs, the finer the fainter as in photographs, with grain on top: sharp, well exposed, and unlike any other seed."""
    rng = np.random.default_rng(seed)
    picture = np.full((size[1], size[0], 3), 128.0) + rng.normal(0, 12, (size[1], size[0], 1))
    for n_blobs, contrast in ((3, 60), (6, 20), (12, 8)):
        blobs = rng.normal(0, contrast, (n_blobs, n_blobs, 3)).astype(np.float32)
        channels = [Image.fromarray(blobs[..., c]).resize(size, Image.Resampling.BICUBIC) for c in range(3)]
        picture += np.stack([np.asarray(channel) for channel in channels], axis=-1)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
