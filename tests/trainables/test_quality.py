"""Sharpness and exposure of pictures whose numbers are known beforehand."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.trainables.scenes import scene
from trainables.quality import detail, exposure, face_counter, sharpness


def test_sharpness_is_the_variance_of_the_laplacian_of_a_checkerboard():
    # Each inner pixel's neighbours all have the other value: the Laplacian is +-4 * 10 by turns; at the edge it is +-3 * 10, in a corner +-2 * 10.
    board = Image.fromarray((100 + 10 * (np.indices((64, 64)).sum(0) % 2)).astype(np.uint8))
    assert sharpness(board) == pytest.approx(40.0**2, rel=1e-3)


def test_a_plain_picture_has_no_sharpness_and_a_blurred_one_less():
    assert sharpness(Image.new("RGB", (64, 64), "red")) == 0
    assert sharpness(scene(0).filter(ImageFilter.GaussianBlur(2))) < sharpness(scene(0)) / 10


def test_a_sharp_face_before_a_blurred_background_is_sharp():
    picture = scene(0).filter(ImageFilter.GaussianBlur(4))
    sharpness_of_background = sharpness(picture)
    picture.paste(scene(0).crop((64, 64, 128, 128)), (64, 64))
    assert sharpness_of_background < 30 and sharpness(picture) > 1000


def test_exposure_is_the_tenth_and_ninetieth_percentile_of_grey():
    ramp = Image.fromarray(np.tile(np.arange(101, dtype=np.uint8), (64, 1)))
    assert exposure(ramp) == (10, 90)


def test_where_nothing_can_count_faces_the_reason_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert face_counter() == (None, "faces are not counted: that needs OpenCV 4 (pip install 'opencv-python-headless<5')")


def test_a_plain_picture_has_no_face():
    pytest.importorskip("cv2", reason="OpenCV is not installed", exc_type=ImportError)
    count, why_not = face_counter()
    if count is None:
        pytest.skip(why_not)
    assert count(Image.new("RGB", (256, 256), "grey")) == 0


def saved(image: Image.Image, form: str = "JPEG", **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    with Image.open(file) as opened:
        return opened.convert("RGB")


@pytest.mark.parametrize("size", [(256, 256), (640, 480), (1000, 700)])
def test_the_edges_of_a_compressed_pictures_blocks_are_not_sharpness(size):
    blurred = scene(0, size=size).filter(ImageFilter.GaussianBlur(size[1] / 60))
    assert sharpness(blurred) < 30
    assert sharpness(saved(blurred, quality=10)) < 30 and sharpness(saved(blurred, quality=3)) < 30


def test_detail_counts_the_frequencies_of_blocks():
    # A cosine of one frequency is one coefficient beside the mean; a plain picture has only its mean.
    x = np.arange(64)
    wave = 20 * np.cos((2 * x + 1) * 3 * np.pi / 16)
    picture = Image.fromarray(np.rint(128 + np.add.outer(wave * 0, wave)).astype(np.uint8))
    assert detail(picture) == 2 and detail(Image.new("L", (64, 64), 90)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_detail_falls_with_compression_and_no_format_brings_it_back(seed):
    picture = scene(seed, size=(320, 240))
    by_quality = [detail(saved(picture, quality=quality)) for quality in (95, 85, 75, 60, 40, 20)]
    assert detail(picture) > by_quality[0] and sorted(by_quality, reverse=True) == by_quality
    worn = saved(picture, quality=60)
    for again in (saved(worn, "PNG"), saved(worn, quality=95), saved(worn, "WEBP", lossless=True)):
        assert detail(again) == pytest.approx(by_quality[3], rel=0.05)
