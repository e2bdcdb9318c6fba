"""Seen prompts by hand, and those of the built-in subject by an independent search."""

import pytest

from trainables.config import DEFAULT_PROMPTS
from trainables.seen_prompts import is_seen, seen_prompts
from trainables.subject import load_subject

CAPTIONS = ["J3NN13, Smile, close-up", "a photo of J3NN13 at home, upper body", "J3NN13, blue-eyed"]


@pytest.mark.parametrize(
    "prompt, seen",
    [
        ("{trigger}, smile", True),
        ("J3NN13, SMILE, upper body", True),  # pieces of two captions
        ("{trigger}", True),
        ("a photo of {trigger} at home", True),
        ("a photo of j3nn13 at home", True),
        ("a photo of {trigger}", True),
        ("{trigger}, smil", False),  # no whole word
        ("{trigger}, eyed", True),
        ("{trigger}, body upper", False),
        ("{trigger}, smile, frown", False),  # one piece is enough
        ("smile close-up", False),  # not over a comma
        ("home upper body", False),
        ("{trigger} , ,  smile ", True),
        ("upper\tbody", True),
        ("(smile)", False),
        ("J3NN132", False),
    ],
)
def test_a_prompt_is_seen_where_each_piece_occurs_in_a_caption(prompt, seen):
    assert is_seen(prompt, CAPTIONS, trigger="J3NN13") is seen


def test_a_trigger_of_several_words_and_of_signs_is_left_out():
    assert is_seen("sks (woman), smile", ["SKS (woman), smile"], trigger="sks (woman)")
    assert not is_seen("woman, smile", ["sks woman, smile"], trigger="sks woman")


def test_the_versions_of_the_built_in_subject_differ_in_what_they_have_seen():
    subject = load_subject("embedded:subject")
    found = seen_prompts([prompt.text for prompt in DEFAULT_PROMPTS], subject)
    assert set(found) == set(subject.caption_versions) and not any(found["v1"])
    for version in subject.caption_versions[1:]:
        pieces = [
            {p.strip().lower() for p in c.split(",")} for c in subject.train_captions(version)
        ]
        for prompt, seen in zip(DEFAULT_PROMPTS, found[version], strict=True):
            wanted = [
                p.strip().lower()
                for p in prompt.text.replace("{trigger}", "").split(",")
                if p.strip()
            ]
            # A piece that is a whole piece of a caption is seen; one that shares no word with any
            # caption is not.
            if all(any(piece in own for own in pieces) for piece in wanted):
                assert seen, (version, prompt.text)
            words = {word for own in pieces for piece in own for word in piece.split()}
            if any(not set(piece.split()) & words for piece in wanted):
                assert not seen, (version, prompt.text)
    assert found["v2"] == [True, True, True, False, False]
