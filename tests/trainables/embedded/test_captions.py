"""Captions name what is true, and only that; the trigger stays unknown to pretraining."""

import dataclasses

import numpy as np
import pytest

from trainables.embedded.captions import detailed_tags, pretraining_caption, sentence, simplified_tags
from trainables.embedded.people import WORDS, Attributes, sample_attributes

WINK = Attributes(
    expression="wink",
    framing="close-up",
    gaze="straight-look",
    make_up="make-up",
    hair="braided hair",
    top="blue top",
    background="gym",
    light="dark",
)


def test_detailed_tags_name_every_attribute_in_order():
    assert (
        detailed_tags(WINK, "J3NN13")
        == "J3NN13, wink, close-up, straight-look, make-up, braided hair, blue top, gym background, dark light"
    )


def test_detailed_tags_do_not_mention_make_up_where_there_is_none():
    assert "make-up" not in detailed_tags(dataclasses.replace(WINK, make_up="no make-up"), "J3NN13")


def test_simplified_tags_are_fewer_and_all_true():
    detailed = detailed_tags(WINK, "J3NN13").split(", ")
    for seed in range(20):
        simple = simplified_tags(WINK, "J3NN13", rng=np.random.default_rng(seed)).split(", ")
        assert simple[0] == "J3NN13" and set(simple) < set(detailed)


@pytest.mark.parametrize("seed", range(5))
def test_a_sentence_names_the_trigger_the_expression_and_the_hair(seed: int):
    text = sentence(WINK, "J3NN13", rng=np.random.default_rng(seed))
    assert "J3NN13" in text and "wink" in text and "braided hair" in text


def test_pretraining_captions_never_name_what_is_not_there():
    rng = np.random.default_rng(0)
    unique = {word: name for name in ("top", "hair") for word in WORDS[name] if " " in word}
    for i in range(400):
        attributes = sample_attributes(rng)
        text = pretraining_caption(attributes, photo=bool(i % 2), rng=rng)
        assert all(getattr(attributes, name) == word for word, name in unique.items() if word in text)
        assert ("drawing" in text or "cartoon" in text) <= (i % 2 == 0)
