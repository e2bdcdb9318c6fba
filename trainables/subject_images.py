"""The images of a subject's folder with their captions: as a list names them, or as kohya's scripts read a folder.

Every rule is stated once and told to `refuse`, so that load_subject raises the first broken one and a check can list them all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from trainables.errors import ContentChanged, SubjectError
from trainables.folder_files import (
    EXAMPLES_OF_IMAGES,
    IMAGE_SUFFIXES,
    Listing,
    comparable,
    counted,
    is_file,
    list_folder,
    named,
    odd_files_lines,
    require_readable,
    shown,
    spelt_path,
    suffix_of,
)
from trainables.masks import MASK_FOLDER, is_mask, with_masks
from trainables.metadata import (
    LIST_NAMES,
    TEXT_VERSION,
    Refuse,
    Row,
    captions_in,
    list_files,
    raise_first,
    read_text,
    resolved,
    rows_of,
)
from trainables.photographs import pixels_digest, unread_problem

TRIGGER_VERSION = "v1"
MAX_CAPTION_BYTES = 2**20

DESCRIPTION_NAME = "subject.json"
OWN_NAMES = (DESCRIPTION_NAME, *LIST_NAMES, "report.html", "report.csv")
"""What this project itself writes at the top of a subject's folder."""

_SPLITS = ("train", "heldout")
_KOHYA_FOLDER = re.compile(r"(\d+)_(.+)")


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
        return pixels_digest(self.path)

    @cached_property
    def mask_digest(self) -> str:
        """The same of its mask; "" without one."""
        return pixels_digest(self.mask) if self.mask else ""

    def require_unchanged(self) -> None:
        """Raises: ContentChanged if image or mask are others than its digests say. Ask it after reading them."""
        for path, digest in ((self.path, self.digest), (self.mask, self.mask_digest)):
            if path is not None and pixels_digest(path) != digest:
                raise ContentChanged(f"An image must not change while it is used, but {path} did. Put the old one back, or start anew.")


@dataclass(frozen=True)
class FolderImages:
    """What a subject's folder was found to hold."""

    images: tuple[SubjectImage, ...]  # without those that were refused
    passed_over: tuple[str, ...]  # a line for each kind of what is not read
    n_system_files: int


def images_in(root: Path, refuse: Refuse = raise_first) -> FolderImages:
    """The subject's images: those of its lists, or else those that kohya's scripts find."""
    listing = list_folder(root, refuse)
    lists = list_files(root, refuse)
    images, lines = (
        _listed_images(root, listing, lists, refuse)
        if lists
        else _images_of_kohya_folder(root, listing, refuse)
    )
    images = [image for image in images if not _refuse_name(image.path, refuse)]
    in_lists = [path.relative_to(root).as_posix() for path in lists]
    odd = odd_files_lines(listing, own=(*OWN_NAMES, *in_lists))
    return FolderImages(tuple(images), (*lines, *odd), listing.n_system)


def images_of_rows(
    root: Path, rows: Sequence[Row], refuse: Refuse = raise_first, *, suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> list[SubjectImage]:
    """An image for every row; a row that breaks a rule is refused and left out."""
    images, first_rows = [], {}
    for row in rows:
        if (image := _image_of_row(root, row, suffixes, refuse)) is None:
            continue
        first = first_rows.setdefault(resolved(image.path), row)
        if first is row:
            images.append(image)
        else:
            refuse(f"An image has one row, but {image.file_name} has {_both_lines(first, row)}. Delete one.")
    return images


def caption_beside(listing: Listing, image: Path, refuse: Refuse = raise_first) -> dict[str, str]:
    """What stands in the `.txt` or `.caption` file beside an image, as version v2; nothing if there is none."""
    files = listing.captions_of(image)
    if len(files) > 1:
        refuse(
            f"An image must have one caption, but {image} has "
            f"{' and '.join(file.name for file in files)}. Delete one."
        )
    if not files:
        return {}
    try:
        if (size_bytes := files[0].stat().st_size) > MAX_CAPTION_BYTES:
            refuse(
                f"A caption must be at most {MAX_CAPTION_BYTES} bytes of text, but {files[0]} has "
                f"{size_bytes}. Shorten it."
            )
            return {}
        return {TEXT_VERSION: read_text(files[0]).strip()}
    except SubjectError as error:
        refuse(str(error))
    except OSError as error:
        refuse(str(require_readable(files[0], error)))
    return {}


def concept_folders(root: Path, paths: Iterable[Path]) -> list[str]:
    """The `<repeats>_<name>` folders of these files, one for each name."""
    found: dict[str, str] = {}
    for path in paths:
        if folder := _KOHYA_FOLDER.fullmatch(path.relative_to(root).parts[0]):
            found.setdefault(comparable(folder[2]), folder[0])
    return list(found.values())


def is_left_out(root: Path, path: Path) -> bool:
    """Whether a file lies in a folder that kohya's scripts leave out: `0_name`."""
    top = path.relative_to(root).parts[0]
    return top != path.name and bool(_KOHYA_FOLDER.fullmatch(top)) and not _repeats_of(root / top)


def out_of_folder_problem(root: Path, path: Path) -> str | None:
    real = resolved(path)
    if real.is_relative_to(root.resolve()):
        return None
    return f"An image must lie in the subject's folder, but {path} is a link to {real}. Copy it into {root}."


def _refuse_name(path: Path, refuse: Refuse) -> bool:
    """Whether records could not hold its name, which is then refused."""
    if (readable := shown(path.name)) == path.name:
        return False
    refuse(
        f"An image's name must be UTF-8 text, but {shown(str(path.parent))} has {readable}. Rename "
        "it, or let `python -m sweep prepare` copy it."
    )
    return True


def _image_of_row(root: Path, row: Row, suffixes: Sequence[str], refuse: Refuse) -> SubjectImage | None:
    usable = True
    for problem in _problems_of_row(root, row, suffixes):
        refuse(problem)
        usable = False
    if not usable:
        return None
    path = spelt_path(row.folder, row.values["file_name"])
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
    path = spelt_path(row.folder, file_name)
    if not is_file(path):
        yield f"A caption must have its image, but {row.where} names {file_name!r}, which is missing. Add it, or delete the row."
    elif suffix_of(path) not in suffixes:
        there = f"{row.where} names {file_name!r}"
        yield f"Images must be {EXAMPLES_OF_IMAGES}, but {there}. Convert it, or delete the row."
    elif problem := out_of_folder_problem(root, path):
        yield problem


def _both_lines(first: Row, second: Row) -> str:
    if first.list_path == second.list_path:
        return f"lines {first.line} and {second.line} of {first.list_path}"
    return f"{first.where} and {second.where}"


def _listed_images(
    root: Path, listing: Listing, lists: Mapping[Path, str], refuse: Refuse
) -> tuple[list[SubjectImage], list[str]]:
    """The images of the lists, and a line for the captions that lie beside them unread."""
    rows = rows_of(lists, refuse)
    images, masks = with_masks(root, images_of_rows(root, rows, refuse), rows, refuse)
    where = " or ".join(sorted(path.name for path in lists))
    for path in listing.unread:
        refuse(unread_problem(path) or "")
    known = {row.pictured for row in rows} | masks
    for path in listing.images:
        if resolved(path) in known:
            continue
        if is_mask(root, path):
            _refuse_mask_without_image(path, refuse)
        else:
            refuse(
                f"Every image must have a row in {where}, but {path} has none. Add a row, or move "
                "the image away."
            )
    unread = [path for image in images for path in listing.captions_of(image.path)]
    others = len(listing.captions) - len(unread)
    lines = [
        f"{counted(len(unread), 'caption file')} beside images passed over, since {where} holds "
        f"the captions: {named(unread, root)}."
    ]
    more = [
        f"{counted(others, 'text file')} passed over that no image has: "
        f"{named(listing.captions_without_image(i.path for i in images), root)}."
    ]
    return images, lines * bool(unread) + more * bool(others)


def _images_of_kohya_folder(
    root: Path, listing: Listing, refuse: Refuse
) -> tuple[list[SubjectImage], list[str]]:
    """The images at the top and in `<repeats>_<name>` folders, and what is said of all others."""
    folders = _kohya_folders(listing, refuse)
    within = [path for path in listing.files if path.parent in folders]
    usable = [path for path in within if path in set(listing.images) and not is_mask(root, path)]
    for path in within:
        if problem := unread_problem(path):
            refuse(problem)
    images = []
    for path in usable:
        if problem := out_of_folder_problem(root, path):
            refuse(problem)
        else:
            images.append(
                SubjectImage(
                    path.relative_to(root).as_posix(),
                    path,
                    "train",
                    caption_beside(listing, path, refuse),
                )
            )
    for path in listing.captions_without_image(image.path for image in images):
        if path.parent in folders:
            refuse(
                f"Every caption must have its image, but {path} has none beside it. Add the image, "
                "or move the text away."
            )
    _require_one_concept(root, images, refuse)
    images, masks = with_masks(root, images, (), refuse)
    mask_folders = {*folders, *(spelt_path(folder, MASK_FOLDER) for folder in folders)}
    for path in listing.images:
        if path.parent in mask_folders and is_mask(root, path) and resolved(path) not in masks:
            _refuse_mask_without_image(path, refuse)
    return images, _lines_on_other_folders(root, listing, {*folders, *mask_folders})


def _kohya_folders(listing: Listing, refuse: Refuse) -> set[Path]:
    """The top and the `<repeats>_<name>` folders in it; one that is a link is refused."""
    folders = {listing.root}
    for path in listing.linked_folders:
        if path.parent == listing.root and _repeats_of(path):
            refuse(
                out_of_folder_problem(listing.root, path)
                or f"A folder of images must be no link, but {path} is one. Copy it."
            )
    for path in listing.files:
        top = listing.root / path.relative_to(listing.root).parts[0]
        if top != path and _repeats_of(top):
            folders.add(top)
    return folders


def _repeats_of(folder: Path) -> int:
    """How often kohya's scripts show its images in an epoch; 0 where they leave it out."""
    match = _KOHYA_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else 0


def _require_one_concept(root: Path, images: Sequence[SubjectImage], refuse: Refuse) -> None:
    # To kohya's scripts a folder's name is the caption of its images where they have none: here
    # it would be one trigger for all.
    concepts = concept_folders(root, [image.path for image in images if not image.captions])
    if len(concepts) > 1:
        refuse(
            f"A subject without captions must be one concept, but {root} has {concepts[0]} and "
            f"{concepts[1]}, which would be trained under one trigger. Move one away, give both "
            "one name (10_jenny, 5_jenny), or write captions for the images of both."
        )


def _lines_on_other_folders(root: Path, listing: Listing, read: set[Path]) -> list[str]:
    """A line on the photographs in folders that are not read, and one on the folders that say so
    themselves."""
    unread: dict[bool, list[Path]] = {True: [], False: []}
    for path in (*listing.images, *listing.unread):
        if path.parent not in read:
            unread[is_left_out(root, path)].append(path)
    lines = []
    if unread[False]:
        lines.append(
            f"{counted(len(unread[False]), 'image')} in sub-folders passed over: "
            f"{named(unread[False], root)}. Only the top and folders called <repeats>_<name>, e.g. "
            "1_photos, are read: rename theirs, or let `python -m sweep prepare` read all."
        )
    if unread[True]:
        lines.append(
            f"{counted(len(unread[True]), 'image')} in folders with 0 repeats passed over: "
            f"{named(unread[True], root)}."
        )
    return lines


def _refuse_mask_without_image(path: Path, refuse: Refuse) -> None:
    refuse(f"Every mask must have its image, but {path} has none of its name. Call it NAME.png in {MASK_FOLDER}/, or move it away.")
