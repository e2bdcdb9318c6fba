"""Masks: where they are found, what is refused, and what they make an error count."""

import json

import numpy as np
import pytest
from PIL import Image

from trainables.errors import SubjectError
from trainables.masks import loss_weights
from trainables.subject import load_subject


def write_mask(path, white, *, mode="L"):
    """`white` (h, w) of 0 and 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.asarray(white) * 255).astype(np.uint8)).convert(mode).save(path)
    return path


@pytest.fixture
def kohya(tmp_path):
    """Three images of 16x32, one in a folder of repeats."""
    for name in ("a.png", "b.png", "10_jenny/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "subject.json").write_text('{"trigger": "J3NN13"}')
    return tmp_path


def list_images(root, **more):
    rows = [{"file_name": name} | more.get(name[-5], {}) for name in ("a.png", "b.png", "10_jenny/c.png")]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def masks_of(root):
    return {image.file_name: image.mask and image.mask.relative_to(root).as_posix() for image in load_subject(root).images}


@pytest.mark.parametrize("listed", [False, True])
def test_a_mask_lies_beside_its_image_or_in_a_folder_there(kohya, listed):
    if listed:
        list_images(kohya)
    write_mask(kohya / "masks" / "a.png", np.ones((32, 16)))
    write_mask(kohya / "10_jenny" / "c.mask.png", np.ones((32, 16)))
    assert masks_of(kohya) == {"a.png": "masks/a.png", "b.png": None, "10_jenny/c.png": "10_jenny/c.mask.png"}


def test_a_list_may_name_a_mask(kohya):
    write_mask(kohya / "faces" / "one.png", np.ones((32, 16)))
    list_images(kohya, a={"mask": "faces/one.png"})
    assert masks_of(kohya)["a.png"] == "faces/one.png"


def test_masks_change_the_digest_of_trainings_that_use_them_alone(kohya):
    before = load_subject(kohya)
    write_mask(kohya / "masks" / "a.png", np.ones((32, 16)))
    after = load_subject(kohya)
    assert after.training_digest("v1") == before.training_digest("v1") and after.reference_digest == before.reference_digest
    with_white = after.training_digest("v1", masks=True)
    write_mask(kohya / "masks" / "a.png", np.zeros((32, 16)))
    assert len({with_white, after.training_digest("v1"), load_subject(kohya).training_digest("v1", masks=True)}) == 3


def test_a_subject_in_a_folder_called_masks_has_images(kohya, tmp_path):
    kohya.rename(tmp_path.with_name("masks"))
    assert len(load_subject(tmp_path.with_name("masks")).images) == 3


def test_what_is_wrong_with_a_mask_is_one_line(kohya):
    def refused(says):
        with pytest.raises(SubjectError, match=says) as error:
            load_subject(kohya)
        assert "\n" not in str(error.value)

    mask = write_mask(kohya / "masks" / "a.png", np.ones((16, 16)))
    refused("its image's size in pixels, but .*a.png is 16x16 and a.png 16x32")
    mask.write_bytes(b"no picture")
    refused("must decode, but .*masks/a.png")
    write_mask(mask, np.ones((32, 16)))
    beside = write_mask(kohya / "a.mask.png", np.ones((32, 16)))
    refused("one mask, but .*a.mask.png and .*masks/a.png")
    beside.unlink()
    orphan = write_mask(kohya / "masks" / "z.png", np.ones((32, 16)))
    refused("must have its image, but .*z.png has none")
    list_images(kohya)
    refused("must have its image, but .*z.png has none")
    orphan.unlink()
    list_images(kohya, b={"mask": "masks/b.png"})
    refused("must be there, but .*line 2 names 'masks/b.png'")
    list_images(kohya, b={"mask": 3})
    refused("must be the path of an image, but .*line 2 gives 3")
    write_mask(kohya.with_name("outside.png"), np.ones((32, 16)))
    list_images(kohya, b={"mask": "../outside.png"})
    refused("must lie in the subject's folder, but that of b.png is .*outside.png")


def test_a_training_that_weighs_masks_needs_one(kohya):
    with pytest.raises(SubjectError, match="needs masks, but no training image of .* has one"):
        load_subject(kohya).require_masks()
    write_mask(kohya / "masks" / "a.png", np.ones((32, 16)))
    load_subject(kohya).require_masks()


def test_weights_are_those_of_the_shares_under_the_mask_in_the_middle_square_with_mean_1(kohya):
    white = np.zeros((32, 16))
    white[8:16, :8] = 1  # of the middle square, rows 8 to 24, the upper left quarter
    white[16:20, 8:] = 1  # and half of the lower right one
    white[:8] = 1  # cut off
    write_mask(kohya / "masks" / "a.png", white)
    weighted, plain = loss_weights([i for i in load_subject(kohya).images if "c" not in i.file_name], mask_weight=3.0, width=2, height=2)
    v = np.array([[3, 1], [1, 2]])
    np.testing.assert_allclose(weighted, v / v.mean(), rtol=1e-6)
    np.testing.assert_array_equal(plain, np.ones((2, 2)))


def test_what_is_transparent_is_not_under_the_mask(kohya):
    pixels = np.full((32, 16, 4), 255, np.uint8)
    pixels[:, 8:, 3] = 0
    path = write_mask(kohya / "masks" / "a.png", np.ones((32, 16)))
    Image.fromarray(pixels).save(path)
    (weights,) = loss_weights(load_subject(kohya).images[1:2], mask_weight=3.0, width=2, height=2)
    np.testing.assert_allclose(weights, [[1.5, 0.5], [1.5, 0.5]], rtol=1e-6)
