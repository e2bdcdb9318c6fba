"""Class images: pictures of what the subject is one of, for prior preservation (Ruiz et al., arXiv:2208.12242): read, or made with a base model.

An adapter that also learns to leave these as they are does not forget what a woman, or a dog, looks like in general. Imports no torch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from trainables.config import EvalConfig
from trainables.digests import digest_of_texts
from trainables.errors import ConfigError, SubjectError
from trainables.folder_files import counted, list_folder, named, odd_files_lines
from trainables.metadata import raise_first
from trainables.photographs import unread_problem, why_unusable
from trainables.storage import home_expanded
from trainables.subject_images import SubjectImage


@dataclass(frozen=True)
class ClassImages:
    """A folder of usable pictures, in the order of their names."""

    root: Path
    images: tuple[SubjectImage, ...]
    passed_over: tuple[str, ...] = ()  # a line for each kind of file that is not read

    @cached_property
    def digest(self) -> str:
        """Names their content: the images' bytes in order."""
        return digest_of_texts(image.digest for image in self.images)


def load_class_images(folder: str | Path) -> ClassImages:
    """The images at the top of that folder. Captions are not read: `prior_prompt` is the caption of them all.

    Raises: SubjectError for a folder that is missing or has none, and for the first image that cannot be used."""
    root = home_expanded(folder)
    if not root.is_dir():
        raise SubjectError(
            f"`prior_images` must be a folder of class images, but {str(folder)!r} is {'a file' if root.exists() else 'not there'}. "
            f"`python -m sweep class-images MODEL {folder} --prompt ...` makes one."
        )
    listing = list_folder(root, raise_first)
    if problem := next((unread_problem(path) for path in listing.unread), None):
        raise SubjectError(problem)
    paths = [path for path in listing.images if path.parent == root]
    if not paths:
        raise SubjectError(f"`prior_images` must hold images, but {root} has none at its top. Put some there, or name another folder.")
    if problem := next(filter(None, map(why_unusable, paths)), None):
        raise SubjectError(problem)
    deeper = [path for path in listing.images if path.parent != root]
    lines = [
        f"{counted(len(deeper), 'class image')} in sub-folders passed over: {named(deeper, root)}. "
        f"Move them to the top of {root}."
    ]
    images = tuple(SubjectImage(path.name, path, "train", {}) for path in paths)
    return ClassImages(root, images, (*lines * bool(deeper), *odd_files_lines(listing)))


def make_class_images(
    folder: Path, config: EvalConfig, *, device: str = "cpu", on_step: Callable[[int, int], None] | None = None
) -> ClassImages:
    """Generate `config`'s pictures with the base model alone into a new folder. It appears when it is complete.

    Raises: ConfigError if the folder holds something; ModelError if the model cannot be used; EvaluationFailed if a picture is black."""
    folder = home_expanded(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"Class images are written into a new or empty folder, but {folder} holds something. Name another one.")
    from trainables.frozen import FrozenWork
    from trainables.generate import ImageSet, generate
    from trainables.metrics import require_no_black

    frozen = FrozenWork(device)
    parts = frozen.parts(config.infer_model, config.infer_vae, config.infer_dtype)
    (pictures,) = generate(parts, [ImageSet(None, config, trigger="")], frozen=frozen, on_step=on_step)
    require_no_black(pictures)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    try:
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(temporary / f"{number:04d}.png")
        temporary.chmod(0o755)  # mkdtemp's is for its owner alone
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_class_images(folder)
