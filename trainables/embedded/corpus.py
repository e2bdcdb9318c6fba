"""The pictures that the family is pretrained on: drawn once, kept as arrays in the work folder.

Identity i of the corpus is a pure function of (seed, i); the subject's identity is written down by hand in people.py
and is never among them. Nothing here trains."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainables.embedded.people import WORDS, Attributes, Identity, sample_attributes, sample_identity
from trainables.embedded.render import SIZE, render_with_importance

DRAWING_SHARE = 0.55


@dataclasses.dataclass(frozen=True)
class Corpus:
    """n pictures. pixels uint8 (n, 64, 64, 3); importance uint8 (n, 64, 64) in 1/32; words int (n, 8), the classes of
    people.WORDS; person int (n,); photo bool (n,)."""

    pixels: np.ndarray
    importance: np.ndarray
    words: np.ndarray
    person: np.ndarray
    photo: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def attributes(self, i: int) -> Attributes:
        """The true attributes of picture i."""
        return Attributes(**{name: words[k] for (name, words), k in zip(WORDS.items(), self.words[i])})


def identity_of(seed: int, i: int) -> Identity:
    """Person i of the corpus with that seed."""
    return sample_identity(np.random.default_rng((seed, i)))


def draw_corpus(*, seed: int, n_people: int, n_each: int, processes: int = 2, progress: Callable[[int, int], None] | None = None) -> Corpus:
    """n_people * n_each fresh pictures, in the order of the people."""
    parts = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for part in pool.imap(functools.partial(_draw_person, seed, n_each), range(n_people), chunksize=8):
            parts.append(part)
            if progress:
                progress(len(parts), n_people)
    pixels, importance, words, photo = (np.concatenate(column) for column in zip(*parts))
    return Corpus(pixels, importance, words, np.repeat(np.arange(n_people), n_each), photo)


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """One .npy per field; the last one written is the mark that all are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for field in dataclasses.fields(Corpus):
        np.save(folder / f"{field.name}.npy", getattr(corpus, field.name))


def load_corpus(folder: Path) -> Corpus:
    """What save_corpus wrote, memory-mapped."""
    return Corpus(*(np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in dataclasses.fields(Corpus)))


def _draw_person(seed: int, n_each: int, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng((seed, i, 1))
    who = identity_of(seed, i)
    pixels, importance = np.empty((n_each, SIZE, SIZE, 3), np.uint8), np.empty((n_each, SIZE, SIZE), np.uint8)
    words, photo = np.empty((n_each, len(WORDS)), np.int64), rng.random(n_each) >= DRAWING_SHARE
    for k in range(n_each):
        attributes = sample_attributes(rng)
        pixels[k], weight = render_with_importance(who, attributes, style="photo" if photo[k] else "drawing", rng=rng)
        importance[k], words[k] = np.round(32 * weight), attributes.classes()
    return pixels, importance, words, photo
