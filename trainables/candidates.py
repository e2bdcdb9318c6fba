"""Photographs on their way into a subject: what is asked for, what is found of each, and who is
dropped for it. Reads and writes no files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy.sparse.csgraph import connected_components

from trainables.buckets import Size, bucket_sizes, nearest_size, share_cut_away
from trainables.errors import SubjectError
from trainables.likeness import Fingerprint, duplicates, similar_groups
from trainables.photographs import MIN_SIDE_PIXELS

UNREADABLE = "unreadable"
REASONS: Mapping[str, str] = {
    "tiny": "it must be enlarged to more than twice its size",
    "enlarged": "it must be enlarged",
    "cropped": "more than two fifths of it are cut away",
    "blurred": "no part of it is sharp",
    "dark": "even its bright parts are dark",
    "bright": "even its dark parts are bright",
    "duplicate": "another is the same picture, larger or less compressed",
    "similar": "others show the same moment, or its mirror image",
    "uncaptioned": "others have captions, it has none",
    "no-face": "no face was found (--faces)",
    "many-faces": "several faces were found (--faces)",
}
"""What can be said of a photograph, beside that it cannot be read; each drops it or flags it, as `drop` says."""
DROPPED_BY_DEFAULT = ("tiny", "duplicate")

UNSEEN_LOSS_OF_DETAIL = (
    1.5  # times fewer frequencies: below it, compression adds about as many as it removes
)
DARK_BELOW, BRIGHT_ABOVE = 60.0, 190.0  # of 255
MOST_CROPPED = 0.4  # 3:2 loses a third, 16:9 seven sixteenths


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a subject is made."""

    trigger: str
    class_word: str = ""
    name: str = ""  # that of the folder, if empty
    size_pixels: int = 512
    fit: Literal["crop", "pad", "buckets"] = "crop"
    heldout: float = 0.2  # share of the photographs that are kept
    seed: int = 0
    drop: tuple[str, ...] = DROPPED_BY_DEFAULT
    least_sharpness: float = 30.0
    faces: bool = False
    derive: bool = True  # v3 and v4 of v2

    def __post_init__(self) -> None:
        if not self.trigger.strip() or "," in self.trigger:
            raise SubjectError(f"The trigger must be a word without commas, but it is {self.trigger!r}. Use e.g. --trigger J3NN13.")
        if not MIN_SIDE_PIXELS <= self.size_pixels <= 4096 or self.size_pixels % 8:
            raise SubjectError(
                f"`size` must be a multiple of 8 from {MIN_SIDE_PIXELS} to 4096 pixels, but it is {self.size_pixels}. Use e.g. 512."
            )
        if self.fit not in ("crop", "pad", "buckets"):
            raise SubjectError(f"`fit` must be crop, pad or buckets, but it is {self.fit!r}. Use crop for squares, buckets to keep aspect ratios.")
        if not 0 <= self.heldout < 1:
            raise SubjectError(f"`heldout` must be a share from 0 to below 1, but it is {self.heldout}. Use e.g. 0.2.")
        if unknown := [reason for reason in self.drop if reason not in REASONS]:
            raise SubjectError(f"`drop` must be of {', '.join(REASONS)}, but holds {unknown[0]!r}. Use e.g. --drop tiny,duplicate,blurred.")

    def size_for(self, width: int, height: int) -> Size:
        """Pixels of what is made of a photograph of that size: the square, or of the sizes of about its area the one of the nearest
        aspect ratio, in steps of 64 pixels, as kohya's scripts have them, and smaller ones below 256."""
        if self.fit != "buckets":
            return self.size_pixels, self.size_pixels
        step = min(64, max(8, self.size_pixels // 32 * 8))
        return nearest_size((width, height), bucket_sizes(self.size_pixels, step))


@dataclass(kw_only=True, eq=False)
class Candidate:
    """A raw photograph on its way: what was found of it, and what became of it."""

    source: str  # relative to the raw folder
    captions: Mapping[str, str]
    width: int = 0  # upright, as it was taken; 0 if unreadable
    height: int = 0
    fitted: Size = (0, 0)  # what is made of it
    has_camera_data: bool = False
    loss: float = 0.0  # how coarsely its file was compressed, by its own words
    detail: float = 0.0  # how many frequencies it has left; measured where there are copies of it
    sharpness: float = 0.0
    dark_level: float = 0.0  # a tenth of the pixels is darker
    bright_level: float = 0.0  # a tenth is brighter
    n_faces: int | None = None
    print: Fingerprint | None = None
    thumbnail: Image.Image | None = None
    written: Path | None = None  # while the subject is written
    written_mask: Path | None = None
    reasons: dict[str, str] = field(default_factory=dict)  # reason -> in words
    dropped: bool = False
    group: int = -1  # similar ones share it
    split: Literal["train", "heldout", ""] = ""
    file_name: str = ""  # in the subject

    @property
    def verdict(self) -> Literal["kept", "flagged", "dropped"]:
        return "dropped" if self.dropped else "flagged" if self.reasons else "kept"


def judge(candidates: Sequence[Candidate], how: Preparation) -> list[Candidate]:
    """Write down what is to be said of each, and drop what is to be dropped. Returns those that are kept, in their order."""
    for candidate in _kept(candidates):
        candidate.reasons |= dict(_own_reasons(candidate, how))
        _drop_if_asked(candidate, how)
    _tell_duplicates([candidate for candidate in candidates if candidate.print], how)
    _tell_uncaptioned(_kept(candidates), how)
    _tell_similar(_kept(candidates), how)
    return _kept(candidates)


def copies_of_one_size(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Those that show the same picture with as many pixels, where there are several."""
    groups: dict[tuple[int, int, int], list[Candidate]] = {}
    for candidate, number in zip(candidates, _numbers_of_pictures(candidates), strict=True):
        sides = sorted((candidate.width, candidate.height))
        groups.setdefault((number, *sides), []).append(candidate)
    return [group for group in groups.values() if len(group) > 1]


def _own_reasons(candidate: Candidate, how: Preparation) -> Iterator[tuple[str, str]]:
    """Reasons that need no look at the others."""
    sides = f"it is {candidate.width}x{candidate.height}"
    # Both sides must be filled, if need be by cutting away from the other; padding judges the same.
    enlarged = max(candidate.fitted[0] / candidate.width, candidate.fitted[1] / candidate.height)
    if enlarged > 1:
        yield ("tiny" if enlarged > 2 else "enlarged"), sides
    cut_away = share_cut_away((candidate.width, candidate.height), candidate.fitted)
    if how.fit != "pad" and cut_away > MOST_CROPPED:
        yield "cropped", f"{cut_away:.0%} of it is cut away"
    if candidate.sharpness < how.least_sharpness:
        yield "blurred", f"sharpness {candidate.sharpness:.1f} is below {how.least_sharpness:g}"
    if candidate.bright_level < DARK_BELOW:
        yield "dark", f"nine tenths are darker than {candidate.bright_level:.0f} of 255"
    if candidate.dark_level > BRIGHT_ABOVE:
        yield "bright", f"nine tenths are brighter than {candidate.dark_level:.0f} of 255"
    if candidate.n_faces == 0:
        yield "no-face", "no face was found"
    if (candidate.n_faces or 0) > 1:
        yield "many-faces", f"{candidate.n_faces} faces were found"


def _tell_duplicates(readable: Sequence[Candidate], how: Preparation) -> None:
    """Whoever is the same picture as a better one says so; the best of them stays.

    The one that stays takes over the captions and the mask that it lacks, also from those that are
    dropped already."""
    same = duplicates([candidate.print for candidate in readable])
    staying: list[int] = []
    for i in _originals_first(readable):
        candidate = readable[i]
        better = next((readable[j] for j in staying if same[i, j]), None)
        if better is not None:
            words = f"it is the same picture as {better.source}{_share(better, candidate)}"
            if not candidate.dropped:
                candidate.reasons["duplicate"] = words
                _drop_if_asked(candidate, how)
        elif not candidate.dropped:
            staying.append(i)


def _share(better: Candidate, other: Candidate) -> str:
    """Give each of two copies what the other has beside it. Returns what is to be said of it."""
    lost = [
        version
        for version, text in other.captions.items()
        if better.captions.get(version, text) != text
    ]
    taken = [version for version in other.captions if version not in better.captions]
    better.captions, other.captions = (
        {**other.captions, **better.captions},
        {**better.captions, **other.captions},
    )
    if better.written_mask is None and better.fitted == other.fitted:
        better.written_mask = other.written_mask
    words = [f"which takes over its {' and '.join(taken)}"] if taken else []
    words += [f"whose {' and '.join(lost)} differs and is used"] if lost else []
    return "".join(f", {text}" for text in words)


def _tell_uncaptioned(kept: Sequence[Candidate], how: Preparation) -> None:
    versions = sorted({version for candidate in kept for version in candidate.captions})
    for candidate in kept:
        if lacking := [version for version in versions if version not in candidate.captions]:
            candidate.reasons["uncaptioned"] = f"it has no {', no '.join(lacking)}"
            _drop_if_asked(candidate, how)


def _tell_similar(kept: Sequence[Candidate], how: Preparation) -> None:
    """Whoever shows the same moment as others says so, and shares their group; the best of a group is never dropped for it."""
    groups = similar_groups([candidate.print for candidate in kept])
    members: dict[int, list[Candidate]] = {}
    for i in _best_first(kept):
        kept[i].group = int(groups[i])
        members.setdefault(kept[i].group, []).append(kept[i])
    for best, *others in members.values():
        for candidate in (best, *others) if others else ():
            names = [other.source for other in (best, *others) if other is not candidate]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            candidate.reasons["similar"] = f"it is much like {', '.join(names[:3])}{more}"
        for candidate in others:
            _drop_if_asked(candidate, how)


def _kept(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if not candidate.dropped]


def _best_first(kept: Sequence[Candidate]) -> list[int]:
    return sorted(
        range(len(kept)),
        key=lambda i: (-kept[i].width * kept[i].height, -kept[i].sharpness, *_by_name(kept[i])),
    )


def _originals_first(readable: Sequence[Candidate]) -> list[int]:
    """Of copies: the larger first, then those whose compression left about as much as any, then the
    one that a camera wrote, that was compressed least, that has captions."""
    most: dict[Candidate, float] = {}
    for group in copies_of_one_size(readable):
        most |= dict.fromkeys(group, max(candidate.detail for candidate in group))

    def rank(i: int) -> tuple:
        one = readable[i]
        is_worn = one.detail * UNSEEN_LOSS_OF_DETAIL < most.get(one, 0.0)
        pixels = one.width * one.height
        return (
            one.dropped,
            -pixels,
            is_worn,
            not one.has_camera_data,
            one.loss,
            not one.captions,
            *_by_name(one),
        )

    return sorted(range(len(readable)), key=rank)


def _by_name(candidate: Candidate) -> tuple[int, str]:
    """The shorter name first: `IMG_1.jpg` before `IMG_1 (1).jpg`."""
    return len(candidate.source), candidate.source


def _numbers_of_pictures(candidates: Sequence[Candidate]) -> np.ndarray:  # (n,) equal for copies
    if not candidates:
        return np.zeros(0, dtype=np.int64)
    return connected_components(
        duplicates([candidate.print for candidate in candidates]), directed=False
    )[1]


def _drop_if_asked(candidate: Candidate, how: Preparation) -> None:
    candidate.dropped = candidate.dropped or any(reason in how.drop for reason in candidate.reasons)
