"""The renderer and its people: repeatable, two styles, weights where a portrait is read."""

import dataclasses

import numpy as np
import pytest

from trainables.embedded.people import WORDS, Attributes, sample_attributes, sample_identity
from trainables.embedded.render import render, render_with_importance

PLAIN = Attributes(
    expression="smile",
    framing="close-up",
    gaze="straight-look",
    make_up="no make-up",
    hair="long hair",
    top="red top",
    background="wall",
    light="bright",
)


def _picture(seed: int, attributes: Attributes = PLAIN, style: str = "drawing", **changes) -> np.ndarray:
    who = dataclasses.replace(sample_identity(np.random.default_rng(seed)), **changes)
    return render(who, attributes, style=style, rng=np.random.default_rng(seed))


def test_a_portrait_is_repeatable_per_seed():
    assert np.array_equal(_picture(3), _picture(3))
    assert not np.array_equal(_picture(3), _picture(4))


def test_a_portrait_is_64_pixels_of_uint8():
    assert _picture(0).shape == (64, 64, 3) and _picture(0).dtype == np.uint8


def test_the_two_styles_differ_everywhere_but_in_what_they_show():
    drawing, photo = _picture(1), _picture(1, style="photo")
    assert np.abs(drawing.astype(int) - photo).mean() > 4


@pytest.mark.parametrize(
    ("name", "word"), [(name, word) for name, words in WORDS.items() for word in words if word != getattr(PLAIN, name)]
)
def test_every_word_changes_the_picture(name: str, word: str):
    changed = np.abs(_picture(2, glasses=None).astype(int) - _picture(2, dataclasses.replace(PLAIN, **{name: word}), glasses=None)).max(-1)
    assert (changed > 40).sum() >= 10  # pixels


@pytest.mark.parametrize("change", [{"glasses": "round"}, {"moles": ((0.72, 0.3),)}, {"freckles": True}])
def test_marks_of_a_person_are_visible(change: dict):
    plain = {"glasses": None, "moles": (), "freckles": False}
    changed = np.abs(_picture(5, **plain).astype(int) - _picture(5, **(plain | change))).max(-1)
    assert (changed > 25).sum() >= 4


def test_importance_is_highest_on_the_face_and_one_in_a_corner():
    _, weight = render_with_importance(sample_identity(np.random.default_rng(0)), PLAIN, style="photo", rng=np.random.default_rng(0))
    assert weight.shape == (64, 64) and weight.dtype == np.float32
    assert weight[1, 1] == pytest.approx(1.0)
    assert weight[20:50, 16:48].mean() > 1.5 and weight.max() <= 5.01


def test_sampled_attributes_use_every_word():
    rng = np.random.default_rng(0)
    seen = [sample_attributes(rng) for _ in range(300)]
    assert all({getattr(a, name) for a in seen} == set(words) for name, words in WORDS.items())


def test_a_style_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="style.*'oil'"):
        _picture(0, style="oil")
