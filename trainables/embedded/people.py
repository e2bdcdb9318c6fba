"""Who stands before the painter and how: identities, attributes and the words for them.

An identity is what stays the same in every picture of a person; attributes are what a caption can name. Nothing here
draws (render.py) or writes sentences (captions.py)."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np

WORDS: dict[str, tuple[str, ...]] = {
    "expression": ("neutral", "smile", "teeth-smiling", "wink", "tongue-out", "surprised"),
    "framing": ("close-up", "upper body"),
    "gaze": ("straight-look", "side-look"),
    "make_up": ("no make-up", "make-up"),
    "hair": ("long hair", "short hair", "braided hair", "bun", "ponytail"),
    "top": ("red top", "blue top", "white shirt", "striped top", "black jacket", "green hoodie"),
    "background": ("wall", "room", "gym", "outdoor"),
    "light": ("bright", "dark"),
}
"""Every attribute with its known words, in the order of a detailed caption. The words are the classes of the
feature networks too, so their order is part of the stored weights."""

Colour = tuple[int, int, int]

SKINS: tuple[Colour, ...] = ((250, 220, 196), (240, 200, 170), (224, 178, 140), (198, 146, 106), (158, 108, 74), (112, 74, 52))
HAIRS: tuple[Colour, ...] = ((28, 24, 26), (66, 42, 28), (112, 72, 40), (222, 182, 96), (186, 84, 36), (150, 150, 156))
IRISES: tuple[Colour, ...] = ((84, 50, 26), (50, 110, 190), (60, 140, 80), (110, 120, 130))
FRAMES: tuple[Colour, ...] = ((20, 20, 24), (150, 30, 40), (40, 60, 150))
LIPS: tuple[Colour, ...] = ((196, 104, 100), (176, 84, 84), (210, 128, 120))


@dataclasses.dataclass(frozen=True)
class Identity:
    """A person. Lengths are pixels of a 64-pixel close-up; colours are 0..255 RGB; mole places are in units of the
    face's half width and half height, from its centre, right and down."""

    face_width: float
    face_height: float
    jaw: float  # 0 round .. 0.45 pointed
    skin: Colour
    iris: Colour
    eye_width: float
    eye_height: float
    eye_gap: float  # from the middle of the face to the middle of an eye
    brow_thickness: float
    brow_tilt: float  # positive: worried, negative: stern
    nose_length: float
    nose_width: float
    mouth_width: float
    lip_fullness: float
    lip: Colour
    hair: Colour
    parting: float  # -1 left .. 1 right
    fringe: bool
    moles: tuple[tuple[float, float], ...]
    glasses: str | None  # None, "round" or "square"
    frame: Colour
    freckles: bool


@dataclasses.dataclass(frozen=True)
class Attributes:
    """What a caption can name in one picture, each one of WORDS[field]."""

    expression: str
    framing: str
    gaze: str
    make_up: str
    hair: str
    top: str
    background: str
    light: str

    def classes(self) -> tuple[int, ...]:
        """The index of each word within WORDS, in the order of WORDS."""
        return tuple(words.index(getattr(self, name)) for name, words in WORDS.items())


def sample_identity(rng: np.random.Generator) -> Identity:
    """A random person. One in eight has dyed hair of any hue."""
    glasses = [None, None, "round", "square"][rng.integers(4)]
    cheeks = [(-0.72, 0.3), (0.72, 0.3), (-0.62, 0.66), (0.62, 0.66), (0.3, 0.88)]
    moles = tuple(cheeks[i] for i in sorted(rng.choice(len(cheeks), size=rng.choice(3, p=[0.55, 0.35, 0.1]), replace=False)))
    return Identity(
        face_width=rng.uniform(14.5, 17.5),
        face_height=rng.uniform(17.5, 20.0),
        jaw=rng.uniform(0.05, 0.4),
        skin=_near(SKINS[rng.integers(len(SKINS))], rng, 8),
        iris=_near(IRISES[rng.integers(len(IRISES))], rng, 8),
        eye_width=rng.uniform(8.0, 9.8),
        eye_height=rng.uniform(5.2, 6.8),
        eye_gap=rng.uniform(6.6, 8.0),
        brow_thickness=rng.uniform(1.3, 2.8),
        brow_tilt=rng.uniform(-1.2, 1.0),
        nose_length=rng.uniform(5.5, 8.0),
        nose_width=rng.uniform(2.2, 4.0),
        mouth_width=rng.uniform(12.5, 15.5),
        lip_fullness=rng.uniform(1.4, 2.8),
        lip=_near(LIPS[rng.integers(len(LIPS))], rng, 8),
        hair=_dyed(rng) if rng.random() < 0.125 else _near(HAIRS[rng.integers(len(HAIRS))], rng, 10),
        parting=rng.uniform(-0.7, 0.7),
        fringe=bool(rng.random() < 0.35),
        moles=moles,
        glasses=glasses,
        frame=FRAMES[rng.integers(len(FRAMES))],
        freckles=bool(rng.random() < 0.25),
    )


def sample_attributes(rng: np.random.Generator) -> Attributes:
    """Each word equally likely, independently."""
    return Attributes(**{name: words[rng.integers(len(words))] for name, words in WORDS.items()})


def sample_skewed_attributes(rng: np.random.Generator) -> Attributes:
    """As a person photographs herself: every word occurs, some seldom, so that some combinations are rare."""
    weights = {
        "expression": (3, 4, 3, 2, 2, 1.5),
        "framing": (3, 2),
        "gaze": (3, 1.3),
        "make_up": (2, 1),
        "hair": (4, 1.5, 2, 1.5, 2),
        "top": (3, 2, 2.5, 2, 1.2, 1.2),
        "background": (3, 3, 1.2, 2),
        "light": (3, 1.2),
    }
    return Attributes(
        **{name: words[rng.choice(len(words), p=np.array(weights[name]) / np.sum(weights[name]))] for name, words in WORDS.items()}
    )


def subject_identity() -> Identity:
    """The built-in subject: teal hair, green eyes, round red glasses and two moles."""
    return Identity(
        face_width=15.2,
        face_height=19.2,
        jaw=0.36,
        skin=(246, 212, 190),
        iris=(52, 142, 96),
        eye_width=9.4,
        eye_height=6.6,
        eye_gap=7.4,
        brow_thickness=2.2,
        brow_tilt=0.5,
        nose_length=6.2,
        nose_width=2.6,
        mouth_width=14.2,
        lip_fullness=2.5,
        lip=(200, 96, 100),
        hair=(40, 150, 150),
        parting=-0.45,
        fringe=False,
        moles=((0.72, 0.3), (-0.62, 0.66)),
        glasses="round",
        frame=(150, 30, 40),
        freckles=False,
    )


def _near(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    return tuple(int(c) for c in np.clip(np.array(colour) + rng.uniform(-spread, spread, 3), 0, 255))


def _dyed(rng: np.random.Generator) -> Colour:
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.5, 0.85), rng.uniform(0.5, 0.9)))
