"""Keys: which configurations of a study are one training, on real files."""

import json

import numpy as np
import pytest
from PIL import Image
from ray import tune

from sweep.errors import SubjectError
from sweep.keys import Keys
from sweep.study import Study


@pytest.fixture
def folder(tmp_path):
    """A subject of two images in v2, tags, and v4, a sentence, in the folder `subject`; and two class images in `women`."""
    for name in ("subject", "women"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "captions": {"v2": f"J3NN13, smile {i}, wall", "v4": "J3NN13 smiles"}} for i in range(2)]
    (tmp_path / "subject" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "subject" / "subject.json").write_text('{"trigger": "J3NN13"}')
    return tmp_path


def key_of(folder, **configuration):
    study = Study(subject=str(folder / "subject"), rows=[configuration])
    return Keys(study).subscription("t0000", study.listed[0].configuration).training_key


def write_mask(folder, value):
    (folder / "subject" / "masks").mkdir(exist_ok=True)
    Image.new("L", (64, 64), value).save(folder / "subject" / "masks" / "0.png")


def test_shuffling_captions_without_tags_is_the_training_without_and_a_launch_says_so(folder):
    assert key_of(folder, caption="v4", shuffle_tags=True) == key_of(folder, caption="v4")
    assert key_of(folder, caption="v2", shuffle_tags=True) != key_of(folder, caption="v2")
    space = {"caption": tune.choice(["v1", "v2", "v4"]), "shuffle_tags": tune.choice([False, True])}
    lines = Keys(Study(subject=str(folder / "subject"), space=space)).idle_tags()
    assert [line.split(", but ")[1][:11] for line in lines] == ["v1 captions", "v4 captions"]
    assert Keys(Study(subject=str(folder / "subject"), space={"caption": tune.choice(["v1", "v2"])})).idle_tags() == []


def test_buckets_are_another_training_only_where_an_image_is_not_square(folder):
    assert key_of(folder, buckets=True) == key_of(folder)
    Image.new("RGB", (80, 48), "blue").save(folder / "subject" / "1.png")
    assert key_of(folder, buckets=True) != key_of(folder)


def test_a_mask_is_in_the_keys_of_trainings_that_weigh_it(folder):
    plain = key_of(folder, caption="v2")
    write_mask(folder, 255)
    weighted = key_of(folder, caption="v2", mask_weight=2.0)
    write_mask(folder, 0)
    assert key_of(folder, caption="v2") == plain and key_of(folder, caption="v2", mask_weight=2.0) != weighted


def test_the_content_of_class_images_is_in_the_key(folder):
    prior = {"prior_images": str(folder / "women"), "prior_prompt": "a woman"}
    before = key_of(folder, **prior)
    Image.new("RGB", (64, 64), "blue").save(folder / "women" / "2.png")
    assert before != key_of(folder, **prior) != key_of(folder)


def test_masks_and_class_images_that_are_not_there_are_told_before_anything_starts(folder):
    with pytest.raises(SubjectError, match="needs masks"):
        Keys(Study(subject=str(folder / "subject"), space={"mask_weight": tune.choice([1.0, 2.0])}, fixed={"caption": "v2"})).check()
    missing = {"prior_images": tune.choice([None, str(folder / "ladies")])}
    with pytest.raises(SubjectError, match="must be a folder of class images, but .*ladies"):
        Keys(Study(subject=str(folder / "subject"), space=missing, fixed={"prior_prompt": "a woman"})).check()


def test_masks_and_class_images_are_content_that_a_relaunch_compares(folder):
    write_mask(folder, 255)
    fixed = {"caption": "v2", "prior_images": str(folder / "women"), "prior_prompt": "a woman", "mask_weight": 2.0}
    plain, full = (Keys(Study(subject=str(folder / "subject"), fixed=values)).content_digests() for values in ({"caption": "v2"}, fixed))
    assert set(full) - set(plain) == {f"masks of {folder / 'subject'}", f"class images {folder / 'women'}"}
