"""Fingerprints tell the same picture, the same moment and another scene apart."""

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tests.trainables.scenes import scene
from trainables.likeness import DUPLICATE_BITS, SIMILAR_BITS, distances, duplicates, fingerprint, similar_groups


def as_jpeg(image: Image.Image, *, quality: int) -> Image.Image:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return Image.open(written).convert("RGB")


def same(one: Image.Image, other: Image.Image) -> bool:
    return bool(duplicates([fingerprint(one), fingerprint(other)])[0, 1])


def test_a_picture_saved_again_or_scaled_is_the_same():
    assert same(scene(0), as_jpeg(scene(0), quality=30))
    assert same(scene(0), scene(0).resize((100, 100)))


def test_other_scenes_are_neither_the_same_nor_similar():
    prints = [fingerprint(scene(seed)) for seed in range(12)]
    assert distances(prints)[~np.eye(12, dtype=bool)].min() > SIMILAR_BITS
    assert duplicates(prints).sum() == 12
    assert len(set(similar_groups(prints))) == 12


def test_plain_pictures_of_other_colours_are_not_the_same_although_their_hash_is():
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    assert distances([fingerprint(red), fingerprint(blue)])[0, 1] <= DUPLICATE_BITS
    assert not same(red, blue) and same(red, red)


def test_a_brightened_picture_is_similar_and_not_the_same():
    brighter = ImageEnhance.Brightness(scene(0)).enhance(1.3)
    assert not same(scene(0), brighter)
    assert len(set(similar_groups([fingerprint(scene(0)), fingerprint(brighter)]))) == 1


def test_groups_join_crops_and_mirrored_copies_through_each_other():
    slightly_cropped = scene(0).crop((4, 4, 252, 252))
    prints = [fingerprint(i) for i in (scene(0), scene(1), ImageOps.mirror(scene(0)), slightly_cropped)]
    groups = similar_groups(prints)
    assert groups[0] == groups[2] == groups[3] != groups[1]


def test_no_pictures_are_no_groups():
    assert len(similar_groups([])) == 0 and duplicates([]).shape == (0, 0)
