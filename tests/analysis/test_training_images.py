"""Training images: found by name inside of the subject alone, and by pixels where no name is recorded."""

import json

import pytest
from PIL import Image

from analysis import training_images
from analysis.training_images import TrainingImages
from trainables import folder_files


@pytest.fixture
def subject(tmp_path):
    """dark.png and light.png to train on; mid.png is held out by the list, test/mid.png by its folder, dark.mask.png is no photograph."""
    folder = tmp_path / "subject"
    for name, grey in {"dark.png": 20, "light.png": 220, "mid.png": 120, "test/mid.png": 120, "dark.mask.png": 120}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (grey,) * 3).save(folder / name)
    rows = [{"file_name": "mid.png", "split": "heldout"}, {"file_name": "dark.png"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "secret.png").write_bytes((folder / "mid.png").read_bytes())
    return folder


@pytest.mark.parametrize("grey, name", [(0, "dark.png"), (119, "dark.png"), (121, "light.png"), (255, "light.png")])
def test_the_nearest_by_pixels_is_a_training_image(subject, tmp_path, grey, name):
    Image.new("RGB", (16, 16), (grey,) * 3).save(tmp_path / "own.png")
    assert TrainingImages(subject).nearest_by_pixels(tmp_path / "own.png") == name


@pytest.mark.parametrize("name", ["../secret.png", "test/../../secret.png", "gone.png", "", ".", "a\0b", None, float("nan")])
def test_no_name_leads_out_of_the_subject(subject, name):
    assert TrainingImages(subject).file_of(name) is None


def test_a_subject_that_is_elsewhere_has_no_images(subject):
    assert TrainingImages(None).file_of("dark.png") is None and TrainingImages(None).nearest_by_pixels(subject / "dark.png") is None
    assert TrainingImages(subject).file_of("dark.png") == subject / "dark.png"
    assert TrainingImages(subject).nearest_by_pixels(subject / "gone.png") is None


def test_the_same_kinds_of_files_are_images_as_where_a_subject_is_read():
    assert training_images.IMAGE_SUFFIXES == folder_files.IMAGE_SUFFIXES


def test_what_cannot_be_read_and_hidden_copies_are_nearest_to_nothing(subject, tmp_path):
    own = Image.new("RGB", (64, 64), (16, 16, 16))
    own.save(tmp_path / "own.png")
    own.save(subject / "wrong.webp", exif=b"Exif\0\0nonsense")  # Pillow raises a SyntaxError
    (subject / ".ipynb_checkpoints").mkdir()
    own.save(subject / ".ipynb_checkpoints" / "dark-checkpoint.png")
    found = TrainingImages(subject).nearest_by_pixels(tmp_path / "own.png")
    assert found is not None and "wrong" not in found and "checkpoint" not in found
