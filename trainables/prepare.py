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
from trainables.candidates import UNREADABLE, Candidate, Preparation, judge
from trainables.captions import DERIVATIONS, derived
from trainables.errors import SubjectError
from trainables.likeness import fingerprint
from trainables.masks import MASK_SUFFIX, is_mask, read_mask, with_masks
from trainables.metadata import TEXT_VERSION, jsonl_text, list_files, raise_first, rows_of
from trainables.photographs import HEIC_SUFFIXES, IMAGE_SUFFIXES, UNREAD_SUFFIXES, read_photograph, register_heic, unread_problem
from trainables.prepare_report import shown, write_reports
from trainables.quality import JUDGED_SIDE_PIXELS, exposure, face_counter, sharpness
from trainables.subject import load_subject
from trainables.subject_images import SubjectImage, caption_beside, captions_without_image, images_of_rows, out_of_folder_problem

THUMBNAIL_PIXELS = 128


@dataclass(frozen=True)
class Prepared:
    """What came of it. `notes` are for the person who asked."""

    root: Path
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    def n(self, verdict: str) -> int:
        return sum(candidate.verdict == verdict for candidate in self.candidates)

    def n_split(self, split: str) -> int:
        return sum(candidate.split == split for candidate in self.candidates)


def prepare_subject(
    raw_dir: str | Path, subject_dir: str | Path, how: Preparation, *, progress: Callable[[int, int], None] | None = None
) -> Prepared:
    """Write the subject; `progress` is told (photographs read, photographs in all).

    Raises: SubjectError if a place cannot be used, captions are wrong, or nothing is left to train on. Then nothing is written."""
    raw, target = _checked_places(Path(raw_dir).expanduser(), Path(subject_dir).expanduser())
    files = _files_in(raw)
    captions, masks, notes = _raw_captions(raw, files)
    count, why_not = face_counter() if how.faces else (None, "")
    notes += [why_not] if why_not else []
    with _written_aside(target) as folder:
        candidates = []
        for done, (path, found) in enumerate(captions.items(), start=1):
            candidates.append(_read_candidate(raw, path, found, folder / f"{done - 1:04d}.png", how, count, mask=masks.get(path)))
            if progress:
                progress(done, len(captions))
        kept = judge(candidates, how)
        _require_usable(raw, kept)
        _split(kept, how)
        notes += _note_on_split(kept, how) + _write_subject(folder, target.name, candidates, how)
        write_reports(folder, target.name, candidates, how, notes)
        load_subject(folder)  # what is left behind can be trained on
    return Prepared(target, tuple(candidates), tuple(notes))


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


def _files_in(raw: Path) -> list[Path]:
    """Everything that is not hidden, in the order of names. HEIC photographs are refused where nothing can read them."""
    files = sorted(path for path in raw.rglob("*") if not any(p.startswith(".") for p in path.relative_to(raw).parts) and path.is_file())
    heic = [path for path in files if path.suffix.lower() in HEIC_SUFFIXES]
    if heic and not register_heic():
        raise SubjectError(
            f"HEIC photographs need the package pillow-heif, but it is not installed and {raw} has {len(heic)}, e.g. {heic[0].name}. "
            "Install it (pip install pillow-heif), or convert them to .jpg."
        )
    if not any(path.suffix.lower() in (*IMAGE_SUFFIXES, *HEIC_SUFFIXES) for path in files):
        raise SubjectError(f"RAW_DIR must hold photographs ({', '.join(IMAGE_SUFFIXES)}), but {raw} has none. Put them there.")
    return files


def _raw_captions(raw: Path, files: Sequence[Path]) -> tuple[dict[Path, Mapping[str, str]], dict[Path, Path], list[str]]:
    """The captions of each photograph, from lists, or else from the files beside them; the masks of those that have one; and what is
    to be noted."""
    pictures = [path for path in files if path.suffix.lower() in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES)]
    rows = rows_of(lists) if (lists := list_files(raw)) else []
    listed = {image.path.resolve(): image for image in images_of_rows(raw, rows, suffixes=(*IMAGE_SUFFIXES, *HEIC_SUFFIXES))}
    all_images = [listed.get(path.resolve()) or SubjectImage("", path, "train", {}) for path in pictures if not is_mask(raw, path)]
    images, of_images = with_masks(raw, all_images, rows, raise_first)
    images = [image for image in images if image.path.resolve() not in of_images]
    notes = [f"{_shown_in(raw, path)} is a mask without an image" for path in pictures if is_mask(raw, path) and path.resolve() not in of_images]
    if lists:
        captions = {image.path: image.captions for image in images}
        notes += ["what is held out was chosen anew, whatever the list says"] if any(image.split == "heldout" for image in images) else []
    else:
        captions = {image.path: {} if out_of_folder_problem(raw, image.path) else caption_beside(image.path) for image in images}
        notes += [f"{_shown_in(raw, path)} is a caption without an image" for path in captions_without_image(files, pictures)]
    return captions, {image.path: image.mask for image in images if image.mask}, notes


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
    if path.suffix.lower() not in HEIC_SUFFIXES:
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
    if mask:
        fitted(read_mask(mask), found.fitted, pad=how.fit == "pad").save(written.with_suffix(MASK_SUFFIX))
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
    if lacking := [candidate for candidate in kept if "uncaptioned" in candidate.reasons]:
        raise SubjectError(
            f"Every photograph must have a caption in each version that others have, but in {raw} {len(lacking)} of {len(kept)} have not, "
            f"e.g. {lacking[0].source}: {lacking[0].reasons['uncaptioned']}. Write it, move the captions away, or --drop uncaptioned too."
        )


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
        mask = candidate.written.with_suffix(MASK_SUFFIX)
        if candidate.dropped:
            candidate.written.unlink()
            mask.unlink(missing_ok=True)
            continue
        candidate.file_name = f"{candidate.split}/{candidate.written.name}"
        (folder / candidate.split).mkdir(exist_ok=True)
        candidate.written.rename(folder / candidate.file_name)
        if mask.exists():
            mask.rename((folder / candidate.file_name).with_suffix(MASK_SUFFIX))
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
