"""Words for a picture, from its true attributes: the caption versions of a subject, and the varied captions of pretraining.

Nothing here looks at pixels. Identity is never named: it is what a trigger word must learn."""

from __future__ import annotations

import numpy as np

from trainables.embedded.people import Attributes

QUALITY = ("HD quality", "RAW photo", "good lighting", "4k", "high quality", "sharp")
DRAWING_WORDS = ("drawing", "flat drawing", "cartoon", "illustration")
PHOTO_WORDS = ("photo", "photograph", "RAW photo")
SUBJECT_WORDS = ("person", "person", "person", "portrait", "face", "someone")

_SENTENCE_EXPRESSION = {
    "neutral": ("looking neutral", "with a neutral expression", "with a neutral face"),
    "smile": ("smiling", "with a smile"),
    "teeth-smiling": ("smiling with teeth", "with a big teeth-smiling face", "teeth-smiling"),
    "wink": ("winking", "giving a wink"),
    "tongue-out": ("sticking the tongue out", "with tongue-out"),
    "surprised": ("looking surprised", "with a surprised face"),
}
_SENTENCE_HAIR = {
    "long hair": "long hair",
    "short hair": "short hair",
    "braided hair": "braided hair",
    "bun": "hair in a bun",
    "ponytail": "a ponytail",
}
_SENTENCE_TOP = {
    "red top": "a red top",
    "blue top": "a blue top",
    "white shirt": "a white shirt",
    "striped top": "a striped top",
    "black jacket": "a black jacket",
    "green hoodie": "a green hoodie",
}
_SENTENCE_PLACE = {
    "wall": ("in front of a wall", "against a plain wall"),
    "room": ("in a room", "at home in a room"),
    "gym": ("in a gym", "at the gym"),
    "outdoor": ("outdoor", "outside", "outside in the park"),
}
_SENTENCE_LIGHT = {
    "bright": ("in bright light", "on a bright day", "with good lighting"),
    "dark": ("in the dark", "in dark light", "at night"),
}


def detailed_tags(attributes: Attributes, subject: str) -> str:
    """v2: every attribute as a tag, `subject` first; no tag where there is no make-up."""
    return ", ".join((subject, *tags(attributes).values()))


def simplified_tags(attributes: Attributes, subject: str, *, rng: np.random.Generator) -> str:
    """v3: `subject` and a few of the tags, either of the face or of the place, in the order of v2."""
    kept = [("expression", "framing", "make_up", "hair"), ("framing", "background"), ("expression", "framing", "background")][
        rng.choice(3, p=[0.5, 0.2, 0.3])
    ]
    return ", ".join((subject, *(tag for name, tag in tags(attributes).items() if name in kept)))


def sentence(attributes: Attributes, subject: str, *, rng: np.random.Generator) -> str:
    """v4: a natural sentence; the light, the place and the clothes are named in most."""
    framing = "a close-up of " if attributes.framing == "close-up" else "an upper body picture of "
    words = [framing * (rng.random() < 0.7) + subject, _one(rng, _SENTENCE_EXPRESSION[attributes.expression])]
    words.append(
        _one(rng, ("looking at the camera", "looking straight"))
        if attributes.gaze == "straight-look"
        else _one(rng, ("looking to the side", "with a side-look"))
    )
    words.append("with " + _SENTENCE_HAIR[attributes.hair] + " and make-up" * (attributes.make_up == "make-up"))
    if rng.random() < 0.85:
        words.append("wearing " + _SENTENCE_TOP[attributes.top])
    if rng.random() < 0.85:
        words.append(_one(rng, _SENTENCE_PLACE[attributes.background]))
    if rng.random() < 0.7:
        words.append(_one(rng, _SENTENCE_LIGHT[attributes.light]))
    return " ".join(words)


def tags(attributes: Attributes) -> dict[str, str]:
    """The tag of each attribute that is named, in the order of a detailed caption."""
    found = {
        "expression": attributes.expression,
        "framing": attributes.framing,
        "gaze": attributes.gaze,
        "make_up": attributes.make_up,
        "hair": attributes.hair,
        "top": attributes.top,
        "background": f"{attributes.background} background",
        "light": f"{attributes.light} light",
    }
    if attributes.make_up != "make-up":
        del found["make_up"]
    return found


def pretraining_caption(attributes: Attributes, *, photo: bool, rng: np.random.Generator) -> str:
    """A caption of random form, length and order. It begins with a neutral word, or now and then with a nonsense
    name, so that an unknown trigger does not confuse a model without adapter. About half name the style."""
    subject = _nonsense(rng) if rng.random() < 0.12 else _one(rng, SUBJECT_WORDS)
    style = _one(rng, PHOTO_WORDS if photo else DRAWING_WORDS) if rng.random() < 0.5 else ""
    if rng.random() < 0.3:
        article = subject if rng.random() < 0.5 else f"a {subject}"
        text = sentence(attributes, f"a {style} of {article}" if style else article, rng=rng)
        return text + (", " + _quality(rng) if photo and rng.random() < 0.2 else "")
    found = [_varied(name, tag, rng) for name, tag in tags(attributes).items()]
    keep = 1.0 if rng.random() < 0.4 else rng.uniform(0.3, 1.0)
    found = [tag for tag in found if rng.random() < keep]
    if rng.random() < 0.4:
        rng.shuffle(found)
    if style:
        found.insert(int(rng.integers(len(found) + 1)), style)
    if photo and rng.random() < 0.25:
        found.insert(0 if rng.random() < 0.5 else len(found), _quality(rng))
    first = [subject] if rng.random() < 0.9 else []
    return ", ".join(first + found) if rng.random() < 0.85 else ", ".join(found + first)


def _varied(name: str, tag: str, rng: np.random.Generator) -> str:
    if name == "background" and rng.random() < 0.3:
        place = tag.removesuffix(" background")
        return _one(rng, (place, f"selfie in a {place} background", f"selfie in {place}", f"{place} scene"))
    if name == "framing" and rng.random() < 0.2:
        return f"{tag} selfie"
    if name == "light" and rng.random() < 0.3:
        return _one(rng, ("bright lighting", "bright") if tag == "bright light" else ("dark lighting", "dark", "night"))
    if name == "expression" and rng.random() < 0.15:
        return f"{tag} expression" if tag in ("neutral", "surprised") else _one(rng, (f"{tag} face", tag))
    return tag


def _quality(rng: np.random.Generator) -> str:
    return ", ".join(str(w) for w in rng.permutation(QUALITY)[: rng.integers(1, 4)])


def _nonsense(rng: np.random.Generator) -> str:
    """A made-up name from letters and digits that the trigger J3NN13 does not have."""
    return "".join(_one(rng, ("bqvwxzk" if i % 3 != 1 else "456789")) for i in range(rng.integers(4, 7)))


def _one(rng: np.random.Generator, choices):
    return choices[int(rng.integers(len(choices)))]
