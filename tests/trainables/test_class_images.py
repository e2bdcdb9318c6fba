"""Class images: what is read, what is refused, and how they are made."""

import numpy as np
import pytest
from PIL import Image

from trainables.class_images import load_class_images, make_class_images
from trainables.config import EvalConfig
from trainables.errors import ConfigError, SubjectError
from trainables.frozen import FrozenWork


@pytest.fixture
def women(tmp_path):
    folder = tmp_path / "women"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (64, 64), "red").save(folder / name)
    (folder / "a.txt").write_text("not read")
    return folder


def test_the_images_of_a_folder_are_read_by_name_and_their_digest_is_their_content(women, tmp_path):
    read = load_class_images(women)
    assert [image.file_name for image in read.images] == ["a.jpg", "b.png"]
    digest = read.digest
    moved = women.rename(tmp_path / "moved")
    assert load_class_images(moved).digest == digest
    Image.new("RGB", (64, 64), "blue").save(moved / "c.png")
    assert load_class_images(moved).digest != digest


def test_what_cannot_be_read_is_one_line(women, tmp_path):
    (tmp_path / "empty").mkdir()
    (women / "c.png").write_bytes(b"no picture")
    for folder, says in ((women, "must decode.*c.png"), (tmp_path / "empty", "must hold images.*empty"), (tmp_path / "no", "class-images MODEL .*no")):
        with pytest.raises(SubjectError, match=says):
            load_class_images(folder)


def test_class_images_are_made_with_the_base_model_once_and_whole(tiny_model_dir, tmp_path, women):
    config = EvalConfig(infer_model=str(tiny_model_dir), prompts=("a woman",), images_per_prompt=3, steps=2)
    made = make_class_images(tmp_path / "new" / "women", config)
    assert [image.file_name for image in made.images] == ["0000.png", "0001.png", "0002.png"]
    again = make_class_images(tmp_path / "again", config)
    assert again.digest == made.digest and len({np.asarray(Image.open(image.path)).tobytes() for image in made.images}) == 3
    with pytest.raises(ConfigError, match="new or empty folder, but .*women holds something"):
        make_class_images(women, config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "new", "women"]


def test_latents_of_class_images_are_those_of_their_pictures(tiny_model_dir, women):
    frozen = FrozenWork()
    parts = frozen.parts(str(tiny_model_dir), None, "float32")
    both = frozen.class_latents(parts, load_class_images(women), flip=True)
    assert both.shape == (4, 4, 8, 8)
    Image.new("RGB", (64, 64), "blue").save(women / "b.png")
    changed = frozen.class_latents(parts, load_class_images(women), flip=False)
    assert not np.allclose(changed[1], both[1]) and np.array_equal(changed[0], both[0])
