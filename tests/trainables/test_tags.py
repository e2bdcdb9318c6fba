"""Tags: what of a caption is shuffled, dropped and kept; and how that is drawn."""

import pytest
import torch

from trainables.config import TrainConfig
from trainables.slots import Slot, draw
from trainables.tags import caption_of, tags_of, without_idle_tags

CAPTION = "J3NN13, smile, close-up,wall,  hat"


def slot(**values):
    config = TrainConfig(**{"shuffle_tags": True, "batch": 4, "train_seed": 3} | values)
    text = torch.zeros(1, 2, 3)  # the empty caption
    return Slot("it", config, torch.zeros(8, 4, 2, 2), text, torch.full((8,), -1), 1000, tags=(tags_of(CAPTION),) * 8)


def captions_of(a_slot, n_steps):
    draws = draw([a_slot], 0, n_steps)
    return [[draws.captions[0][i] for i in rows] for rows in draws.text[:, 0].tolist()]


def test_a_caption_is_its_first_tags_and_then_the_others_in_their_order():
    assert tags_of(CAPTION) == ("J3NN13", "smile", "close-up", "wall", "hat")
    assert tags_of("J3NN13 smiles") == ("J3NN13 smiles",) and tags_of(" , ") == ()
    drawn = caption_of(tags_of(CAPTION), n_first=2, order=[2, 0, 1], dropped=[False, True, False])
    assert drawn == "J3NN13, smile, hat, close-up"
    assert caption_of(("J3NN13",), n_first=3, order=[], dropped=[]) == "J3NN13"


def test_shuffled_captions_have_all_tags_with_the_first_ones_in_place_and_differ():
    drawn = [caption for captions in captions_of(slot(keep_tags=2), 16) for caption in captions]
    assert all(sorted(tags_of(c)) == sorted(tags_of(CAPTION)) and tags_of(c)[:2] == ("J3NN13", "smile") for c in drawn)
    assert len(set(drawn)) == 6  # all orders of three tags


def test_tags_are_dropped_as_often_as_asked_and_the_first_ones_never():
    drawn = [caption for captions in captions_of(slot(shuffle_tags=False, tag_dropout=0.25), 256) for caption in captions]
    n_left = sum(len(tags_of(caption)) - 1 for caption in drawn)
    assert all(tags_of(caption)[0] == "J3NN13" for caption in drawn)
    # 4096 tags that stay with 3/4: a standard deviation of 28.
    assert n_left == pytest.approx(3072, abs=4 * 28)
    assert all([t for t in tags_of(CAPTION) if t in tags_of(c)] == list(tags_of(c)) for c in drawn)  # in their order


def test_a_dropped_caption_is_empty_and_the_class_images_are_never_dropped():
    with_class = slot(caption_dropout=1.0, prior_images="women", prior_prompt="a woman")
    with_class.n_class_images, with_class.text = 3, torch.zeros(2, 2, 3)
    assert captions_of(with_class, 2) == [[""] * 4 + ["a woman"] * 4] * 2


def test_captions_depend_on_seed_and_step_alone():
    ahead = slot()
    ahead.step = 5
    assert captions_of(slot(), 8)[5:] == captions_of(ahead, 3)
    assert captions_of(slot(flip=True), 4) == captions_of(slot(), 4) != captions_of(slot(train_seed=4), 4)


def test_class_images_leave_the_draws_of_the_others_as_they_are_and_are_shown_equally_often():
    with_class = slot(shuffle_tags=False, flip=True, prior_images="women", prior_prompt="a woman", prior_weight=0.5, noise_offset=0.1)
    with_class.n_class_images, with_class.text, with_class.tags = 3, torch.zeros(3, 2, 3), None
    without = slot(shuffle_tags=False, flip=True, noise_offset=0.1)
    without.tags = None
    both, alone = draw([with_class], 0, 6), draw([without], 0, 6)
    for name in ("image", "weight", "timesteps", "noise"):
        assert torch.equal(getattr(both, name)[:, :, :4], getattr(alone, name))
    assert torch.equal(both.weight[:, :, 4:], 0.5 * alone.weight) and (both.text[:, :, 4:] == 1).all()
    rows = both.image[:, 0, 4:].flatten() - 16  # behind 8 images and their mirror images
    assert rows.min() >= 0 and rows.max() < 6 and len(set(rows.tolist())) > 3
    assert torch.bincount(rows % 3).tolist() == [8, 8, 8]
    assert not torch.equal(both.noise[:, :, 4:], both.noise[:, :, :4])


@pytest.mark.parametrize(
    "captions, asked, left",
    [
        (["J3NN13"], {"shuffle_tags": True, "tag_dropout": 0.5}, {}),
        (["J3NN13 smiles"], {"tag_dropout": 0.5, "keep_tags": 0}, {"tag_dropout": 0.5, "keep_tags": 0}),
        (["J3NN13, hat"], {"shuffle_tags": True, "tag_dropout": 0.5}, {"tag_dropout": 0.5}),
        (["J3NN13", "J3NN13, hat, wall"], {"shuffle_tags": True}, {"shuffle_tags": True}),
        (["J3NN13, hat, wall"], {"shuffle_tags": True, "keep_tags": 2}, {}),
    ],
)
def test_what_changes_no_caption_is_the_training_without_it(captions, asked, left):
    assert without_idle_tags(TrainConfig(**asked), captions) == TrainConfig(**left)
