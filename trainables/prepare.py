"""Raw photographs -> a subject: pictures of one size or area, without what would harm a training, with a held-out split that leaks nothing.

The raw folder is only read. The subject is written under another name beside its place and renamed when it is whole and was loaded once.
A photograph is cropped or padded to a square, or keeps about its aspect ratio for a training with buckets; its mask goes the same way.
What a person reviews is written by prepare_report.py."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from trainables.buckets import Size
from trainables.candidates import UNREADABLE, Candidate, Preparation, copies_of_one_size, judge
from trainables.captions import DERIVATIONS, derived
from trainables.errors import SubjectError
from trainables.folder_files import (
    EXAMPLES_OF_IMAGES,
    HEIC_SUFFIXES,
    IMAGE_SUFFIXES,
    counted,
    list_folder,
    named,
    odd_files_lines,
    shown,
    suffix_of,
)
from trainables.likeness import fingerprint
from trainables.masks import MASK_SUFFIX, is_mask, read_mask, with_masks
from trainables.metadata import TEXT_VERSION, jsonl_text, list_files, raise_first, resolved, rows_of
from trainables.photographs import read_as_stored, read_photograph, register_heic, unread_problem
from trainables.prepare_report import write_reports
from trainables.quality import JUDGED_SIDE_PIXELS, detail, exposure, face_counter, sharpness
from trainables.storage import home_expanded
from trainables.subject import load_subject
from trainables.subject_images import (
    OWN_NAMES,
    SubjectImage,
    caption_beside,
    concept_folders,
    images_of_rows,
    is_left_out,
    out_of_folder_problem,
)

THUMBNAIL_PIXELS = 128


@dataclass(frozen=True)
class Prepared:
    """What came of it. `notes` are for the person who asked."""

    root: Path
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    caption_versions: tuple[str, ...]

    def n(self, verdict: str) -> int:
        return sum(candidate.verdict == verdict for candidate in self.candidates)

    def n_split(self, split: str) -> int:
        return sum(candidate.split == split for candidate in self.candidates)


def prepare_subject(
    raw_dir: str | Path, subject_dir: str | Path, how: Preparation, *, progress: Callable[[int, int], None] | None = None
) -> Prepared:
    """Write the subject; `progress` is told (photographs read, photographs in all).

    Raises: SubjectError if a place cannot be used, captions are wrong, or nothing is left to train on. Then nothing is written."""
    raw, target = _checked_places(home_expanded(raw_dir), home_expanded(subject_dir))
    found = _raw_photographs(raw)
    count, why_not = face_counter() if how.faces else (None, "")
    notes = [*found.notes, *([why_not] if why_not else [])]
    with _written_aside(target) as folder:
        candidates = []
        for done, (path, captions) in enumerate(found.captions.items(), start=1):
            written, mask = folder / f"{done - 1:04d}.png", found.masks.get(path)
            candidates.append(_read_candidate(raw, path, captions, written, how, count, mask=mask))
            if progress:
                progress(done, len(found.captions))
        _measure_copies(raw, candidates)
        kept = judge(candidates, how)
        _require_usable(raw, kept)
        notes += _caption_the_others(kept, how, target)
        _split(kept, how)
        notes += _note_on_split(kept, how) + _write_subject(folder, target.name, candidates, how)
        write_reports(folder, target.name, candidates, how, notes)
        subject = load_subject(folder)  # what is left behind can be trained on
    return Prepared(target, tuple(candidates), tuple(notes), subject.caption_versions)


def _checked_places(raw: Path, target: Path) -> tuple[Path, Path]:
    """Both, resolved. The target is absent or empty, and neither lies in the other."""
    if not raw.is_dir():
        what = "a file" if raw.is_file() else "neither"
        raise SubjectError(f"RAW_DIR must be a folder of photographs, but {str(raw)!r} is {what}. Check the path.")
    raw, target = raw.resolve(), target.resolve()
    if target == raw:
        raise SubjectError(f"SUBJECT_DIR must be another folder than RAW_DIR, which is only read, but both are {raw}. Name a new one.")
    if target.is_relative_to(raw):
        raise SubjectError(f"SUBJECT_DIR must lie outside of RAW_DIR, which is only read, but {target} lies in {raw}. Name one beside it.")
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise SubjectError(_unwritable(target, error)) from None
    if taken:
        what = "not empty" if target.is_dir() else "a file"
        raise SubjectError(f"SUBJECT_DIR must be new or empty, but {target} is {what}. Name another, or move it away.")
    return raw, target


@dataclass(frozen=True)
class _RawPhotographs:
    captions: Mapping[Path, Mapping[str, str]]  # of each photograph, in the order of names
    masks: Mapping[Path, Path]  # of those that have one
    notes: tuple[str, ...]


def _raw_photographs(raw: Path) -> _RawPhotographs:
    """What the raw folder holds, its sub-folders included, but for folders with 0 repeats.

    Raises: SubjectError if it has no photographs, HEIC that nothing can read, or wrong captions."""
    listing = list_folder(raw, raise_first)
    left_out = [path for path in (*listing.images, *listing.unread) if is_left_out(raw, path)]
    pictures = sorted({*listing.images, *listing.unread} - set(left_out))
    notes = (
        [
            f"{counted(len(left_out), 'image')} in folders with 0 repeats passed over: "
            f"{named(left_out, raw)}"
        ]
        if left_out
        else []
    )
    _require_readable_kinds(raw, pictures)
    lists = list_files(raw)
    rows = rows_of(lists) if lists else []
    listed = {
        resolved(image.path): image
        for image in images_of_rows(raw, rows, suffixes=(*IMAGE_SUFFIXES, *HEIC_SUFFIXES))
    }
    photographs = [path for path in pictures if not is_mask(raw, path)]
    images = [
        listed.get(resolved(path)) or SubjectImage("", path, "train", {}) for path in photographs
    ]
    images, mask_files = with_masks(raw, images, rows, raise_first)
    images = [image for image in images if resolved(image.path) not in mask_files]
    strays = [path for path in pictures if is_mask(raw, path) and resolved(path) not in mask_files]
    notes += [f"{_shown_in(raw, path)} is a mask without an image" for path in strays]
    if lists:
        captions = {image.path: image.captions for image in images}
        if any(image.split == "heldout" for image in images):
            notes.append("what is held out was chosen anew, whatever the list says")
        if listing.captions:
            where = named(list(lists), raw)
            notes.append(
                f"{counted(len(listing.captions), 'text file')} passed over, since {where} holds "
                "the captions"
            )
    else:
        captions = {
            image.path: {}
            if out_of_folder_problem(raw, image.path)
            else caption_beside(listing, image.path)
            for image in images
        }
        notes += [
            f"{_shown_in(raw, path)} is a caption without an image"
            for path in listing.captions_without_image(pictures)
        ]
    concepts = concept_folders(raw, [path for path, texts in captions.items() if not texts])
    if len(concepts) > 1:
        notes.append(
            f"{' and '.join(concepts[:2])} become one subject under one trigger: "
            "prepare each by itself if they show different ones"
        )
    in_lists = [path.relative_to(raw).as_posix() for path in lists]
    notes += [line.rstrip(".") for line in odd_files_lines(listing, own=(*OWN_NAMES, *in_lists))]
    if listing.n_system:
        notes.append(f"{counted(listing.n_system, 'hidden or system file')} passed over")
    return _RawPhotographs(
        captions,
        {image.path: image.mask for image in images if image.mask},
        tuple(notes),
    )


def _require_readable_kinds(raw: Path, pictures: Sequence[Path]) -> None:
    """Raises: SubjectError where there are no photographs, or HEIC ones that nothing can read."""
    heic = [path for path in pictures if suffix_of(path) in HEIC_SUFFIXES]
    if heic and not register_heic():
        raise SubjectError(
            f"HEIC photographs need the package pillow-heif, but it is not installed and {raw} has {len(heic)}, e.g. {heic[0].name}. "
            "Install it (pip install pillow-heif), or convert them to .jpg."
        )
    if not any(suffix_of(path) in (*IMAGE_SUFFIXES, *HEIC_SUFFIXES) for path in pictures):
        raise SubjectError(
            f"RAW_DIR must hold photographs ({EXAMPLES_OF_IMAGES}), but {raw} has none. Put them "
            "there."
        )


def _shown_in(raw: Path, path: Path) -> str:
    return shown(path.relative_to(raw).as_posix())


@contextmanager
def _written_aside(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place at the end, or vanishes."""
    folder = target.with_name(f".{secrets.token_hex(6)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder
        if target.exists():
            target.rmdir()
        folder.rename(target)
    except OSError as error:
        raise SubjectError(_unwritable(target, error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> str:
    return f"SUBJECT_DIR must be a place that can be written, but {target} is not: {error.strerror or error}. Name another."


def _read_candidate(
    raw: Path,
    path: Path,
    captions: Mapping[str, str],
    written: Path,
    how: Preparation,
    count: Callable[[Image.Image], int] | None,
    *,
    mask: Path | None,
) -> Candidate:
    """Decode once, measure, and write what is trained on, and its mask beside it."""
    found = Candidate(source=path.relative_to(raw).as_posix(), captions={v: text.strip() for v, text in captions.items() if text.strip()})
    problem = out_of_folder_problem(raw, path)
    if suffix_of(path) not in HEIC_SUFFIXES:
        problem = unread_problem(path) or problem
    try:
        photograph = None if problem else read_photograph(path, least_side_pixels=2 * max(how.size_pixels, JUDGED_SIDE_PIXELS))
    except SubjectError as error:
        problem = str(error)
    if problem:
        found.reasons, found.dropped = {UNREADABLE: problem}, True
        return found
    image = photograph.image
    found.width, found.height, found.fitted = photograph.width, photograph.height, how.size_for(photograph.width, photograph.height)
    picture = fitted(image, found.fitted, pad=how.fit == "pad")
    picture.info.clear()  # no colour profile: it is sRGB now; and nothing of where and when
    picture.save(written)
    found.written = written
    found.has_camera_data, found.loss = photograph.has_camera_data, photograph.loss
    if mask:
        found.written_mask = written.with_suffix(MASK_SUFFIX)
        fitted(read_mask(mask), found.fitted, pad=how.fit == "pad").save(found.written_mask)
    found.sharpness, (found.dark_level, found.bright_level) = sharpness(image), exposure(image)
    found.n_faces = count(image) if count else None
    found.print = fingerprint(image)
    found.thumbnail = ImageOps.contain(picture, (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    return found


def fitted(image: Image.Image, size: Size, *, pad: bool) -> Image.Image:
    """The largest part of the size's aspect ratio in the middle, as load_pixels would cut it; or all of it, over white.

    A mask (mode "L") is reduced by the mean over an area, and padded with black: nothing is no face."""
    resampling = Image.Resampling.BOX if image.mode == "L" else Image.Resampling.LANCZOS
    if pad:
        return ImageOps.pad(image, size, resampling, color="black" if image.mode == "L" else "white")
    return ImageOps.fit(image, size, resampling)


def _require_usable(raw: Path, kept: Sequence[Candidate]) -> None:
    if not kept:
        raise SubjectError(f"Something must be left to train on, but all photographs of {raw} are dropped. Use fewer reasons in --drop.")


def _measure_copies(raw: Path, candidates: Sequence[Candidate]) -> None:
    """What compression has left of those that are there several times: they are decoded once more,
    in full."""
    for group in copies_of_one_size([candidate for candidate in candidates if candidate.print]):
        for candidate in group:
            candidate.detail = detail(read_as_stored(raw / candidate.source))


def _caption_the_others(kept: Sequence[Candidate], how: Preparation, target: Path) -> list[str]:
    """Where some have captions, the trigger is that of the others, as kohya's scripts take the name
    of the folder. Returns what is to be noted."""
    others = [candidate for candidate in kept if "uncaptioned" in candidate.reasons]
    if not others:
        return []
    versions = sorted({version for candidate in kept for version in candidate.captions})
    for candidate in others:
        candidate.captions = {**dict.fromkeys(versions, how.trigger.strip()), **candidate.captions}
    drop = ",".join((*how.drop, "uncaptioned"))
    return [
        f"{len(others)} of {len(kept)} photographs have no caption that others have, e.g. "
        f"{shown(others[0].source)}: the trigger alone is written in its place. Write better ones "
        "into "
        f"{target / 'metadata.jsonl'}, or leave these photographs out with --drop {drop}"
    ]


def _split(kept: Sequence[Candidate], how: Preparation) -> None:
    """Hold out groups of similar photographs, whole, in random order, for as long as they fit into the share that is asked for."""
    n_left = min(round(how.heldout * len(kept)), len(kept) - 1)
    for candidate in kept:
        candidate.split = "train"
    groups = sorted({candidate.group for candidate in kept})
    for group in np.random.default_rng(how.seed).permutation(groups):
        members = [candidate for candidate in kept if candidate.group == group]
        if len(members) <= n_left:
            n_left -= len(members)
            for candidate in members:
                candidate.split = "heldout"


def _write_subject(folder: Path, name: str, candidates: Sequence[Candidate], how: Preparation) -> list[str]:
    """Everything but the reports. Returns what is to be noted."""
    for candidate in candidates:
        if candidate.written is None:
            continue
        if candidate.dropped:
            candidate.written.unlink()
            continue
        candidate.file_name = f"{candidate.split}/{candidate.written.name}"
        (folder / candidate.split).mkdir(exist_ok=True)
        candidate.written.rename(folder / candidate.file_name)
        if candidate.written_mask:  # its own, or that of a copy
            shutil.copyfile(
                candidate.written_mask, (folder / candidate.file_name).with_suffix(MASK_SUFFIX)
            )
    for mask in folder.glob(f"*{MASK_SUFFIX}"):
        mask.unlink()
    kept = [candidate for candidate in candidates if not candidate.dropped]
    notes = _derive(kept, how) if how.derive else []
    rows = [{"file_name": c.file_name, "split": c.split, "captions": c.captions} for c in kept]
    (folder / "metadata.jsonl").write_text(jsonl_text(rows), encoding="utf-8")
    settings = {key: value for key, value in asdict(how).items() if key not in ("trigger", "class_word", "name")}
    about = {"trigger": how.trigger.strip(), "name": how.name or name, "class_word": how.class_word, "prepared": settings}
    (folder / "subject.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return notes


def _derive(kept: Sequence[Candidate], how: Preparation) -> list[str]:
    """Give the photographs those versions that none of them has. Returns why it could not be done."""
    there = {version for candidate in kept for version in candidate.captions}
    versions = [version for version in DERIVATIONS if version not in there]
    if TEXT_VERSION not in there or not versions:
        return []
    try:
        made = [derived(candidate.captions, how.trigger.strip(), versions, candidate.source) for candidate in kept]
    except SubjectError as error:
        return [str(error)]
    for candidate, captions in zip(kept, made, strict=True):
        candidate.captions = {**candidate.captions, **captions}
    return []


def _note_on_split(kept: Sequence[Candidate], how: Preparation) -> list[str]:
    n_asked, n_held = round(how.heldout * len(kept)), sum(candidate.split == "heldout" for candidate in kept)
    if n_held == n_asked:
        return []
    return [
        f"{n_held} instead of {n_asked} photographs are held out, since similar ones stay together and something must be left to train on"
    ]
