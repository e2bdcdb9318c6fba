"""A subject: a folder of images with captions in one or more versions, its trigger word, its train / held-out split.

Everything about the folder is checked here, before a device is asked for anything. Raw photographs are another
module's matter, and so is what a model makes of the pixels. No torch.

    FOLDER/subject.json      {"trigger": "J3NN13", "name": "jenny", "class_word": "woman"}    the last two are optional
    FOLDER/metadata.jsonl    {"file_name": "train/0000.png", "split": "train", "captions": {"v2": "...", "v3": "..."}}
                             one line per image; split is "train" (the default) or "heldout"
Without metadata.jsonl the folder is read as kohya's scripts read it: images at its top and in `<repeats>_<name>`
sub-folders (the repeats are not used: an epoch shows every image once), each with its caption, version v2, in a `.txt` or
`.caption` file beside it, or none of them with one. v1, the trigger alone, needs no captions and always exists."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from trainables.digests import file_digest
from trainables.errors import SubjectError

EMBEDDED_SUBJECT = "embedded:subject"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded" / "subject"
TRIGGER_VERSION = "v1"
KOHYA_VERSION = "v2"
MIN_SIDE_PIXELS = 16
MAX_SIDE_PIXELS = 16384

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
_UNREAD_SUFFIXES = (".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".jxl", ".svg")
_CAPTION_SUFFIXES = (".txt", ".caption")
_SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class SubjectImage:
    file_name: str  # relative to the subject's folder, with /
    path: Path
    split: Literal["train", "heldout"]
    captions: Mapping[str, str]  # by caption version, without v1


@dataclass(frozen=True)
class Subject:
    """A validated subject. Images are ordered by file name, whatever the order of the rows."""

    root: Path
    name: str
    trigger: str
    class_word: str
    images: tuple[SubjectImage, ...]

    @cached_property
    def train(self) -> tuple[SubjectImage, ...]:
        return tuple(image for image in self.images if image.split == "train")

    @cached_property
    def heldout(self) -> tuple[SubjectImage, ...]:
        return tuple(image for image in self.images if image.split == "heldout")

    @cached_property
    def caption_versions(self) -> tuple[str, ...]:
        """The versions that every training image has; "v1" first."""
        return (TRIGGER_VERSION, *sorted({version for image in self.train for version in image.captions}))

    def train_captions(self, version: str) -> tuple[str, ...]:
        """A caption for each image of `train`, in its order.

        Raises: SubjectError if the subject has no such version."""
        if version == TRIGGER_VERSION:
            return (self.trigger,) * len(self.train)
        if version not in self.caption_versions:
            raise SubjectError(
                f"`caption` must be a version that the subject has, but {self.name} has {', '.join(self.caption_versions)} "
                f"and not {version!r}. Use one of these, or add {version!r} to {self.root / 'metadata.jsonl'}."
            )
        return tuple(image.captions[version] for image in self.train)

    def training_digest(self, version: str) -> str:
        """Names what a training reads: the training images' bytes in order, that caption version alone, the trigger."""
        return _joined([self.trigger, *self.train_captions(version), *(file_digest(image.path) for image in self.train)])

    @cached_property
    def reference_digest(self) -> str:
        """Names what metrics compare with: the bytes of all images, and their split."""
        return _joined(image.split + file_digest(image.path) for image in self.images)


def load_subject(name_or_dir: str | Path) -> Subject:
    """The validated subject of that folder, or the built-in one for "embedded:subject".

    Raises: SubjectError for the first thing that is wrong: a missing or empty folder, an image that does not decode or is
    too small or too large, an image without caption, a caption without image, a path that leaves the folder."""
    root = _find_folder(str(name_or_dir))
    images = _images_of_rows(root) if (root / "metadata.jsonl").exists() else _images_of_kohya_folder(root)
    if not any(image.split == "train" for image in images):
        raise SubjectError(f"A subject must have images to train on, but {root} has none. Put images there, or rows with split train.")
    trigger, name, class_word = _read_description(root)
    _require_all_captions(root, images)
    for image in images:
        _require_usable(image.path)
    return Subject(root=root, name=name, trigger=trigger, class_word=class_word, images=tuple(sorted(images, key=lambda i: i.file_name)))


def load_pixels(images: Sequence[SubjectImage], resolution: int) -> np.ndarray:
    """The images as the model sees them: uint8 (n, resolution, resolution, 3).

    Turned upright by their EXIF orientation, transparency over white, cropped to the largest square in the middle, resized by
    Lanczos. An image of that size already comes back as it is."""
    pixels = np.zeros((len(images), resolution, resolution, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        with Image.open(image.path) as opened:
            upright = _flattened(ImageOps.exif_transpose(opened))
        pixels[i] = np.asarray(ImageOps.fit(upright, (resolution, resolution), Image.Resampling.LANCZOS))
    return pixels


def _find_folder(name: str) -> Path:
    root = EMBEDDED_FOLDER if name == EMBEDDED_SUBJECT else Path(name).expanduser()
    if root.is_dir():
        return root
    if name == EMBEDDED_SUBJECT:
        raise SubjectError(f"{name} ships with this project, but {root} is missing. Run `python -m trainables.embedded.build`.")
    what = "a file" if root.is_file() else "neither"
    raise SubjectError(f"`subject` must be a folder of images or {EMBEDDED_SUBJECT}, but {name!r} is {what}. Check the path.")


def _read_description(root: Path) -> tuple[str, str, str]:
    """Trigger, name and class word out of subject.json."""
    path = root / "subject.json"
    if not path.exists():
        raise SubjectError(f'A subject must have a trigger word, but {root} has no subject.json. Write {{"trigger": "..."}} into {path}.')
    values = _parse_object(_read_text(path), str(path))
    trigger, name, class_word = values.get("trigger"), values.get("name", root.resolve().name), values.get("class_word", "")
    if not isinstance(trigger, str) or not trigger.strip():
        raise SubjectError(f'The trigger must be a word, but {path} gives {trigger!r}. Write e.g. {{"trigger": "J3NN13"}}.')
    if not isinstance(name, str) or not isinstance(class_word, str):
        raise SubjectError(f"`name` and `class_word` must be text, but {path} gives {name!r} and {class_word!r}. Put them in quotes.")
    return trigger.strip(), name, class_word


def _images_of_rows(root: Path) -> list[SubjectImage]:
    """An image for every line of metadata.jsonl, and no image file without a line."""
    metadata = root / "metadata.jsonl"
    lines: dict[Path, int] = {}
    images = []
    for number, line in enumerate(_read_text(metadata).split("\n"), start=1):
        if not line.strip():
            continue
        image = _image_of_row(root, _parse_object(line, f"{metadata} line {number}"), f"{metadata} line {number}")
        if (first := lines.setdefault(_real_path_within(root, image.path), number)) != number:
            raise SubjectError(f"An image has one row, but {image.file_name} has lines {first} and {number} of {metadata}. Delete one.")
        images.append(image)
    paths = {image.path for image in images}
    for path in _image_files(root.rglob("*")):
        if path not in paths and path.resolve() not in lines:
            raise SubjectError(f"Every image must have a row in metadata.jsonl, but {path} has none. Add a row, or move the image away.")
    return images


def _image_of_row(root: Path, row: dict[str, Any], where: str) -> SubjectImage:
    file_name, split, captions = row.get("file_name"), row.get("split", "train"), row.get("captions", {})
    if not isinstance(file_name, str) or not file_name:
        raise SubjectError(f'A row must name its image, but {where} gives file_name {file_name!r}. Write "file_name": "train/0000.png".')
    if split not in _SPLITS:
        raise SubjectError(f"`split` must be train or heldout, but {where} gives {split!r}. Correct it, or leave it out for train.")
    if not isinstance(captions, dict) or not all(isinstance(text, str) for text in captions.values()):
        raise SubjectError(f'`captions` must map versions to texts, but {where} gives {captions!r:.60}. Write e.g. {{"v2": "a, b"}}.')
    if TRIGGER_VERSION in captions:
        raise SubjectError(f"v1 is the trigger alone and has no captions, but {where} gives one. Name that version v2 or otherwise.")
    if PurePosixPath(file_name).is_absolute() or ".." in PurePosixPath(file_name).parts:
        raise SubjectError(f"An image must lie in the subject's folder, but {where} names {file_name!r}. Copy it into {root}.")
    path = root / file_name
    if "\0" in file_name or not path.is_file():
        raise SubjectError(f"A caption must have its image, but {where} names {file_name!r}, which is missing. Add it, or delete the row.")
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        raise SubjectError(f"Images must be {', '.join(_IMAGE_SUFFIXES)}, but {where} names {file_name!r}. Convert it, or delete the row.")
    return SubjectImage(file_name=PurePosixPath(file_name).as_posix(), path=path, split=split, captions=captions)


def _images_of_kohya_folder(root: Path) -> list[SubjectImage]:
    folders = [root, *sorted(f for f in root.iterdir() if f.is_dir() and re.fullmatch(r"\d+_.+", f.name))]
    files = [path for folder in folders for path in folder.iterdir()]
    images = [_image_with_caption_file(root, path) for path in _image_files(files)]
    pictured = {image.path.with_suffix("") for image in images}
    for path in files:
        if path.suffix.lower() in _CAPTION_SUFFIXES and not path.name.startswith(".") and path.with_suffix("") not in pictured:
            raise SubjectError(f"Every caption must have its image, but {path} has none beside it. Add the image, or move the text away.")
    return images


def _image_with_caption_file(root: Path, path: Path) -> SubjectImage:
    _real_path_within(root, path)
    caption_files = [path.with_suffix(suffix) for suffix in _CAPTION_SUFFIXES if path.with_suffix(suffix).is_file()]
    if len(caption_files) == 2:
        raise SubjectError(f"An image must have one caption, but {path} has {' and '.join(f.name for f in caption_files)}. Delete one.")
    captions = {KOHYA_VERSION: _read_text(caption_files[0]).strip()} if caption_files else {}
    return SubjectImage(file_name=path.relative_to(root).as_posix(), path=path, split="train", captions=captions)


def _image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Those that are images; hidden files (macOS writes `._0.png`) are not.

    Raises: SubjectError for photographs in a format that is not read, which would otherwise be left out unnoticed."""
    for path in paths:
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.lower() in _UNREAD_SUFFIXES:
            raise SubjectError(f"Images must be {', '.join(_IMAGE_SUFFIXES)}, but {path} is {path.suffix}. Convert it, e.g. to .jpg.")
        if path.suffix.lower() in _IMAGE_SUFFIXES:
            yield path


def _real_path_within(root: Path, path: Path) -> Path:
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise SubjectError(f"An image must lie in the subject's folder, but {path} is a link to {real}. Copy it into {root}.")
    return real


def _require_all_captions(root: Path, images: Sequence[SubjectImage]) -> None:
    # Held-out images are only compared with, so they need no captions.
    train = [image for image in images if image.split == "train"]
    versions = sorted({version for image in train for version in image.captions})
    for version in versions:
        lacking = [image.file_name for image in train if not image.captions.get(version, "").strip()]
        if lacking:
            raise SubjectError(
                f"Every image must have a caption in each version that others have, but in {root} {len(lacking)} of {len(train)} have "
                f"no {version}, e.g. {lacking[0]}. Write its caption, or remove {version} from all."
            )


def _require_usable(path: Path) -> None:
    status = path.stat()
    if problem := _decoding_problem(str(path), status.st_size, status.st_mtime_ns):
        raise SubjectError(problem)


@functools.lru_cache(maxsize=65536)
def _decoding_problem(path: str, size_bytes: int, modified_ns: int) -> str | None:
    try:
        with Image.open(path) as image:
            sides = f"{image.width}x{image.height}"
            if min(image.size) < MIN_SIDE_PIXELS:
                return f"An image must have at least {MIN_SIDE_PIXELS} pixels a side, but {path} is {sides}. Replace it, or take it out."
            if max(image.size) > MAX_SIDE_PIXELS:
                return f"An image must have at most {MAX_SIDE_PIXELS} pixels a side, but {path} is {sides}. Scale it down, or take it out."
            image.draft("RGB", (64, 64))  # reads all of a JPEG, computes an eighth of it
            image.load()
    except Exception as error:  # Pillow's formats raise OSError, SyntaxError, ValueError, struct.error, DecompressionBombError ...
        return f"An image must decode, but {path} does not ({str(error).rstrip('.') or type(error).__name__}). Replace it, or take it out."
    return None


def _flattened(image: Image.Image) -> Image.Image:
    """RGB, with what is transparent over white."""
    if image.mode.startswith("I;16"):  # convert() would clip at 255, that is, make it white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise SubjectError(f"Captions must be UTF-8, but {path} is not (byte {error.start}). Save it as UTF-8.") from None


def _parse_object(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise SubjectError(f"It must be one JSON object, but {where} is not JSON ({error}). Correct it.") from None
    if not isinstance(values, dict):
        raise SubjectError(f"It must be one JSON object, but {where} gives {values!r:.40}. Write {{...}}.")
    if re.search("[\ud800-\udfff]", json.dumps(values, ensure_ascii=False)):
        raise SubjectError(f"Texts must be Unicode, but {where} holds half a character (\\ud800 to \\udfff). Write it out.")
    return values


def _joined(texts: Iterable[str]) -> str:
    # JSON, not a separator: captions may hold any character.
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:24]
