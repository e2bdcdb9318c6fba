"""The images of a subject's folder with their captions: as a list names them, or as kohya's scripts read a folder.

Every rule is stated once and told to `refuse`, so that load_subject raises the first broken one and a check can list them all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from trainables.digests import file_digest
from trainables.errors import ContentChanged, SubjectError
from trainables.masks import MASK_FOLDER, is_mask, with_masks
from trainables.metadata import TEXT_VERSION, Refuse, Row, captions_in, list_files, raise_first, read_text, rows_of
from trainables.photographs import IMAGE_SUFFIXES, image_files

TRIGGER_VERSION = "v1"
MAX_CAPTION_BYTES = 2**20

_CAPTION_SUFFIXES = (".txt", ".caption")
_SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class SubjectImage:
    file_name: str  # relative to the subject's folder, with /
    path: Path
    split: Literal["train", "heldout"]
    captions: Mapping[str, str]  # by caption version, without v1
    mask: Path | None = None

    @cached_property
    def digest(self) -> str:
        """Names its content, as it was when this was asked first: keys are made of it."""
        return file_digest(self.path)

    @cached_property
    def mask_digest(self) -> str:
        """The same of its mask; "" without one."""
        return file_digest(self.mask) if self.mask else ""

    def require_unchanged(self) -> None:
        """Raises: ContentChanged if image or mask are others than its digests say. Ask it after reading them."""
        for path, digest in ((self.path, self.digest), (self.mask, self.mask_digest)):
            if path is not None and file_digest(path) != digest:
                raise ContentChanged(f"An image must not change while it is used, but {path} did. Put the old one back, or start anew.")


def images_in(root: Path, refuse: Refuse = raise_first) -> list[SubjectImage]:
    """The subject's images, without those that were refused: those of its lists, or else those that kohya's scripts find."""
    lists = list_files(root, refuse)
    if not lists:
        return _images_of_kohya_folder(root, refuse)
    rows = rows_of(lists, refuse)
    images, masks = with_masks(root, images_of_rows(root, rows, refuse), rows, refuse)
    known = {row.pictured for row in rows} | masks
    for path in image_files(root.rglob("*"), refuse):
        if path.resolve() in known:
            continue
        if is_mask(root, path):
            _refuse_mask_without_image(path, refuse)
        else:
            where = " or ".join(sorted(path.name for path in lists))
            refuse(f"Every image must have a row in {where}, but {path} has none. Add a row, or move the image away.")
    return images


def images_of_rows(
    root: Path, rows: Sequence[Row], refuse: Refuse = raise_first, *, suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> list[SubjectImage]:
    """An image for every row; a row that breaks a rule is refused and left out."""
    images, first_rows = [], {}
    for row in rows:
        if (image := _image_of_row(root, row, suffixes, refuse)) is None:
            continue
        first = first_rows.setdefault(image.path.resolve(), row)
        if first is row:
            images.append(image)
        else:
            refuse(f"An image has one row, but {image.file_name} has {_both_lines(first, row)}. Delete one.")
    return images


def caption_beside(path: Path, refuse: Refuse = raise_first) -> dict[str, str]:
    """What stands in the `.txt` or `.caption` file beside an image, as version v2; nothing if there is none."""
    files = [path.with_suffix(suffix) for suffix in _CAPTION_SUFFIXES if path.with_suffix(suffix).is_file()]
    if len(files) == 2:
        refuse(f"An image must have one caption, but {path} has {' and '.join(file.name for file in files)}. Delete one.")
    if not files:
        return {}
    if (size_bytes := files[0].stat().st_size) > MAX_CAPTION_BYTES:
        refuse(f"A caption must be at most {MAX_CAPTION_BYTES} bytes of text, but {files[0]} has {size_bytes}. Shorten it.")
        return {}
    try:
        return {TEXT_VERSION: read_text(files[0]).strip()}
    except SubjectError as error:
        refuse(str(error))
        return {}


def captions_without_image(files: Sequence[Path], images: Sequence[Path]) -> list[Path]:
    """The caption files that no image lies beside."""
    pictured = {path.with_suffix("") for path in images}
    texts = (path for path in files if path.suffix.lower() in _CAPTION_SUFFIXES and not path.name.startswith("."))
    return [path for path in texts if path.with_suffix("") not in pictured]


def out_of_folder_problem(root: Path, path: Path) -> str | None:
    real = path.resolve()
    if real.is_relative_to(root.resolve()):
        return None
    return f"An image must lie in the subject's folder, but {path} is a link to {real}. Copy it into {root}."


def _image_of_row(root: Path, row: Row, suffixes: Sequence[str], refuse: Refuse) -> SubjectImage | None:
    usable = True
    for problem in _problems_of_row(root, row, suffixes):
        refuse(problem)
        usable = False
    if not usable:
        return None
    path = row.folder / PurePosixPath(row.values["file_name"])
    return SubjectImage(
        file_name=path.relative_to(root).as_posix(),
        path=path,
        split=row.values.get("split", row.split),
        captions=captions_in(row.values, row.where),
    )


def _problems_of_row(root: Path, row: Row, suffixes: Sequence[str]) -> Iterator[str]:
    split = row.values.get("split", row.split)
    if split not in _SPLITS:
        yield f"`split` must be train or heldout, but {row.where} gives {split!r}. Correct it, or leave it out for {row.split}."
    try:
        if TRIGGER_VERSION in captions_in(row.values, row.where):
            yield f"v1 is the trigger alone and has no captions, but {row.where} gives one. Name that version v2 or otherwise."
    except SubjectError as error:
        yield str(error)
    file_name = row.values.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        yield f'A row must name its image, but {row.where} gives file_name {file_name!r}. Write "file_name": "train/0000.png".'
        return
    if PurePosixPath(file_name).is_absolute() or ".." in PurePosixPath(file_name).parts:
        yield f"An image must lie in the subject's folder, but {row.where} names {file_name!r}. Copy it into {root}."
        return
    path = row.folder / file_name
    if "\0" in file_name or not _is_file(path):
        yield f"A caption must have its image, but {row.where} names {file_name!r}, which is missing. Add it, or delete the row."
    elif path.suffix.lower() not in suffixes:
        yield f"Images must be {', '.join(suffixes)}, but {row.where} names {file_name!r}. Convert it, or delete the row."
    elif problem := out_of_folder_problem(root, path):
        yield problem


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _both_lines(first: Row, second: Row) -> str:
    if first.list_path == second.list_path:
        return f"lines {first.line} and {second.line} of {first.list_path}"
    return f"{first.where} and {second.where}"


def _images_of_kohya_folder(root: Path, refuse: Refuse) -> list[SubjectImage]:
    folders = [root, *sorted(f for f in root.iterdir() if f.is_dir() and re.fullmatch(r"\d+_.+", f.name))]
    files = [path for folder in folders for path in folder.iterdir()]
    images = []
    for path in image_files((file for file in files if not is_mask(root, file)), refuse):
        if problem := out_of_folder_problem(root, path):
            refuse(problem)
        else:
            images.append(SubjectImage(path.relative_to(root).as_posix(), path, "train", caption_beside(path, refuse)))
    for path in captions_without_image(files, [image.path for image in images]):
        refuse(f"Every caption must have its image, but {path} has none beside it. Add the image, or move the text away.")
    images, masks = with_masks(root, images, (), refuse)
    in_folders = (path for folder in folders for path in (folder / MASK_FOLDER).glob("*"))
    for path in image_files((*(file for file in files if is_mask(root, file)), *in_folders), refuse):
        if path.resolve() not in masks:
            _refuse_mask_without_image(path, refuse)
    return images


def _refuse_mask_without_image(path: Path, refuse: Refuse) -> None:
    refuse(f"Every mask must have its image, but {path} has none of its name. Call it NAME.png in {MASK_FOLDER}/, or move it away.")
