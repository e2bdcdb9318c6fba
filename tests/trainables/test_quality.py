"""Sharpness and exposure of pictures whose numbers are known beforehand."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.trainables.scenes import scene
from trainables.quality import exposure, face_counter, sharpness


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
