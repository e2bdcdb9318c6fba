"""A subject: a folder of images with captions in one or more versions, its trigger word, its train / held-out split.

Everything about the folder is checked here, before a device is asked for anything. How a subject is made of raw photographs is
prepare.py's matter, and what a model makes of the pixels another's. No torch.

    FOLDER/subject.json      {"trigger": "J3NN13", "name": "jenny", "class_word": "woman"}    the last two are optional
    FOLDER/metadata.jsonl    {"file_name": "train/0000.png", "split": "train", "captions": {"v2": "...", "v3": "..."}}
                             one line per image; split is "train" (the default) or "heldout"; metadata.py tells of further forms
Without a list the folder is read as kohya's scripts read it: images at its top and in `<repeats>_<name>`
sub-folders (0 repeats leave one out; else they are not used: an epoch shows every image once), each
with its caption, version v2, in a `.txt` or `.caption` file beside it, or none of them with one. v1,
the trigger alone, needs no captions and always exists.
An image may have a mask: masks.py tells where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from trainables.digests import digest_of_texts
from trainables.errors import SubjectError
from trainables.folder_files import spelt_path
from trainables.metadata import Refuse, parse_object, raise_first, read_text
from trainables.photographs import read_rgb, size_of, why_unusable
from trainables.storage import home_expanded
from trainables.subject_images import DESCRIPTION_NAME, TRIGGER_VERSION, SubjectImage, images_in

__all__ = ["EMBEDDED_SUBJECT", "TRIGGER_VERSION", "Subject", "SubjectImage", "load_pixels", "load_subject", "read_subject"]

EMBEDDED_SUBJECT = "embedded:subject"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded" / "subject"


@dataclass(frozen=True)
class Subject:
    """A validated subject. Images are ordered by file name, whatever the order of the rows."""

    root: Path
    name: str
    trigger: str
    class_word: str
    images: tuple[SubjectImage, ...]
    passed_over: tuple[str, ...] = ()  # a line for each kind of file that is not read
    n_system_files: int = 0  # hidden and system files, which are passed over as well

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

    def training_digest(self, version: str, *, masks: bool = False) -> str:
        """Names what a training reads: the training images' bytes in order, that caption version alone, the trigger; and the masks if it does."""
        of_masks = [image.mask_digest for image in self.train] if masks else []
        return digest_of_texts([self.trigger, *self.train_captions(version), *(image.digest for image in self.train), *of_masks])

    @cached_property
    def train_sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height in pixels of each image of `train`, upright."""
        return tuple(size_of(image.path) for image in self.train)

    def require_masks(self) -> None:
        """Raises: SubjectError if no training image has a mask."""
        if not any(image.mask for image in self.train):
            raise SubjectError(
                f"`mask_weight` other than 1 needs masks, but no training image of {self.name} has one. Put a white-on-black NAME.png for each "
                f"into {self.root / 'masks'}, or leave mask_weight at 1."
            )

    @cached_property
    def reference_digest(self) -> str:
        """Names what metrics compare with: the bytes of all images, and their split."""
        return digest_of_texts(image.split + image.digest for image in self.images)


def load_subject(name_or_dir: str | Path) -> Subject:
    """The validated subject of that folder, or the built-in one for "embedded:subject".

    Raises: SubjectError for the first thing that is wrong: a missing or empty folder, an image that does not decode or is
    too small or too large, an image without caption, a caption without image, a path that leaves the folder."""
    return read_subject(name_or_dir, raise_first)


def read_subject(name_or_dir: str | Path, refuse: Refuse) -> Subject:
    """The subject of what is usable in that folder; `refuse` is told of everything that is not, in one line each.

    Raises: SubjectError if there is no such folder."""
    root = _find_folder(str(name_or_dir))
    found = images_in(root, refuse)
    images = found.images
    if not any(image.split == "train" for image in images):
        passed_over = f" ({found.passed_over[0]})" if found.passed_over else ""
        refuse(
            f"A subject must have images to train on, but {root} has none{passed_over}. Put images "
            "there, or rows with split train."
        )
    trigger, name, class_word = _read_description(root, refuse)
    _require_all_captions(root, images, refuse)
    usable = [image for image in images if _is_usable(image.path, refuse)]
    return Subject(
        root=root,
        name=name,
        trigger=trigger,
        class_word=class_word,
        images=tuple(sorted(usable, key=lambda i: i.file_name)),
        passed_over=found.passed_over,
        n_system_files=found.n_system_files,
    )


def load_pixels(images: Sequence[SubjectImage], width: int, height: int | None = None) -> np.ndarray:
    """The images as the model sees them: uint8 (n, height, width, 3), square unless a height is given.

    Turned upright by their EXIF orientation, transparency over white, cropped to the largest part of that aspect ratio in the middle,
    resized by Lanczos. An image of that size already comes back as it is.

    Raises: ContentChanged if one changed since its digest was made."""
    height = height or width
    pixels = np.zeros((len(images), height, width, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        pixels[i] = np.asarray(
            ImageOps.fit(read_rgb(image.path), (width, height), Image.Resampling.LANCZOS)
        )
        image.require_unchanged()
    return pixels


def _find_folder(name: str) -> Path:
    root = EMBEDDED_FOLDER if name == EMBEDDED_SUBJECT else home_expanded(name)
    if root.is_dir():
        return root
    if name == EMBEDDED_SUBJECT:
        raise SubjectError(f"{name} ships with this project, but {root} is missing. Run `python -m trainables.embedded.build`.")
    what = "a file" if root.is_file() else "neither"
    raise SubjectError(f"`subject` must be a folder of images or {EMBEDDED_SUBJECT}, but {name!r} is {what}. Check the path.")


def _read_description(root: Path, refuse: Refuse) -> tuple[str, str, str]:
    """Trigger, name and class word out of subject.json; empty or usual ones where they were refused."""
    path, name = spelt_path(root, DESCRIPTION_NAME), root.resolve().name
    if not path.exists():
        refuse(f'A subject must have a trigger word, but {root} has no subject.json. Write {{"trigger": "..."}} into {path}.')
        return "", name, ""
    try:
        values = parse_object(read_text(path), str(path))
    except SubjectError as error:
        refuse(str(error))
        return "", name, ""
    trigger, name, class_word = values.get("trigger"), values.get("name", name), values.get("class_word", "")
    if not isinstance(trigger, str) or not trigger.strip():
        refuse(f'The trigger must be a word, but {path} gives {trigger!r}. Write e.g. {{"trigger": "J3NN13"}}.')
        trigger = ""
    if not isinstance(name, str) or not isinstance(class_word, str):
        refuse(f"`name` and `class_word` must be text, but {path} gives {name!r} and {class_word!r}. Put them in quotes.")
        name, class_word = root.resolve().name, ""
    return trigger.strip(), name, class_word


def _require_all_captions(root: Path, images: Sequence[SubjectImage], refuse: Refuse) -> None:
    # Held-out images are only compared with, so they need no captions.
    train = [image for image in images if image.split == "train"]
    versions = sorted({version for image in train for version in image.captions})
    for version in versions:
        lacking = [image.file_name for image in train if not image.captions.get(version, "").strip()]
        if lacking:
            refuse(
                f"Every image must have a caption in each version that others have, but in {root} {len(lacking)} of {len(train)} have "
                f"no {version}, e.g. {lacking[0]}. Write its caption, or remove {version} from all."
            )


def _is_usable(path: Path, refuse: Refuse) -> bool:
    if problem := why_unusable(path):
        refuse(problem)
        return False
    return True
