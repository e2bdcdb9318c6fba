"""The files of a folder of photographs, told apart by their names: images, captions, the system's
own files, and the rest.

Reader, check and preparation all ask here, so that they read and pass over the same files. Names
are compared without regard to case and to the way in which accents are encoded, as Windows and
macOS compare them. Opens no file."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from trainables.errors import SubjectError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tga", ".qoi", ".psd", ".pcx", ".sgi"),
    *(".ico", ".dds", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
)
"""Those that Pillow reads without a further program or package."""
HEIC_SUFFIXES = (".heic", ".heif", ".hif", ".heics")
UNREAD_SUFFIXES = (
    *HEIC_SUFFIXES,
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef"),
    *(".srw", ".x3f", ".raw", ".jxl", ".svg", ".eps", ".exr", ".hdr", ".xcf"),
)
CAPTION_SUFFIXES = (".txt", ".caption")
EXAMPLES_OF_IMAGES = ".png, .jpg, .webp, .tif or another kind that Pillow reads"

_SYSTEM_NAMES = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found"),
    *("@eadir", "@recycle", "@__thumb", "#recycle", "#snapshot", "$recycle.bin"),
    "system volume information",
}
MOST_NAMED = 3


@dataclass(frozen=True)
class Listing:
    """All that lies below a folder, in the order of names."""

    root: Path
    files: tuple[Path, ...]  # regular ones, and links to such; without those of the system
    linked_folders: tuple[Path, ...]  # links to folders, which are not followed
    no_files: tuple[Path, ...]  # links to nothing, pipes
    n_system: int  # files that are hidden or that a system, a cloud or a notebook keeps for itself

    @cached_property
    def images(self) -> tuple[Path, ...]:
        return tuple(path for path in self.files if suffix_of(path) in IMAGE_SUFFIXES)

    @cached_property
    def unread(self) -> tuple[Path, ...]:
        """Photographs in a format that is not read as it is."""
        return tuple(path for path in self.files if suffix_of(path) in UNREAD_SUFFIXES)

    @cached_property
    def captions(self) -> tuple[Path, ...]:
        return tuple(path for path in self.files if suffix_of(path) in CAPTION_SUFFIXES)

    @cached_property
    def others(self) -> tuple[Path, ...]:
        """Files that are no photographs and no captions by their names."""
        return tuple(
            path
            for path in self.files
            if suffix_of(path) not in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES, *CAPTION_SUFFIXES)
        )

    def captions_of(self, image: Path) -> list[Path]:
        """The caption files beside an image: `a.TXT` for `A.jpg` unless there is an `a.jpg`."""
        found = self._captions_by_name.get((image.parent, comparable(image.stem)), [])
        found = sorted(found, key=lambda path: CAPTION_SUFFIXES.index(suffix_of(path)))
        exact = [path for path in found if path.stem == image.stem]
        return exact or [path for path in found if (path.parent, path.stem) not in self._pictured]

    def captions_without_image(self, images: Iterable[Path]) -> list[Path]:
        """The caption files that lie beside none of these images."""
        used = {path for image in images for path in self.captions_of(image)}
        return [path for path in self.captions if path not in used]

    @cached_property
    def _captions_by_name(self) -> dict[tuple[Path, str], list[Path]]:
        found: dict[tuple[Path, str], list[Path]] = {}
        for path in self.captions:
            found.setdefault((path.parent, comparable(path.stem)), []).append(path)
        return found

    @cached_property
    def _pictured(self) -> set[tuple[Path, str]]:
        return {(path.parent, path.stem) for path in (*self.images, *self.unread)}


def list_folder(root: Path, refuse: Callable[[str], None]) -> Listing:
    """Everything below a folder; a folder that cannot be opened is refused and left out."""
    files, linked, no_files, n_system = [], [], [], 0
    waiting = [root]
    while waiting:
        try:
            with os.scandir(folder := waiting.pop()) as found:
                entries = list(found)
        except OSError as error:
            refuse(
                f"A folder must be readable, but {folder} is not: {error.strerror}. Change its "
                "permissions, or move it away."
            )
            continue
        for entry in entries:
            path = Path(entry)
            if is_of_system(entry.name):
                n_system += _n_files(path)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif path.is_dir():
                linked.append(path)
            else:
                (files if is_file(path) else no_files).append(path)
    return Listing(
        root, tuple(sorted(files)), tuple(sorted(linked)), tuple(sorted(no_files)), n_system
    )


def is_of_system(name: str) -> bool:
    """Whether a file or folder of that name is hidden or a system's own: `._0.png`, `@eaDir`."""
    return name.startswith((".", "~$")) or comparable(name) in _SYSTEM_NAMES


def is_file(path: Path) -> bool:
    """Whether it is a file, or a link to one; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, a zero byte
        return False


def suffix_of(path: Path) -> str:
    return path.suffix.lower()


def comparable(name: str) -> str:
    """What two names have in common that Windows or macOS take for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def spelt_path(folder: Path, name: str) -> Path:
    """The file or folder of that relative name, spelt as on disk; as named where there is none."""
    exact = folder / name
    if "\0" in name or os.path.lexists(exact):
        return exact
    found = folder
    for part in PurePosixPath(name.replace("\\", "/")).parts:
        spelt = (
            part
            if part in ("..", "/") or os.path.lexists(found / part)
            else _names_in(found).get(comparable(part))
        )
        if spelt is None:
            return exact
        found = found / spelt
    return found


def named(paths: Sequence[Path], root: Path) -> str:
    """'a.png, b.png, c.png and 4 more'"""
    names = ", ".join(shown(path.relative_to(root).as_posix()) for path in paths[:MOST_NAMED])
    return names + (f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else "")


def shown(name: str) -> str:
    """A file's name as text that can be written: bytes that are no UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def counted(n: int, noun: str) -> str:
    """'1 image', '2 images'"""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def odd_files_lines(listing: Listing, *, own: Iterable[str] = ()) -> list[str]:
    """A line for each kind of what is neither photograph nor caption; `own` names, at the top, are
    known."""
    known = {comparable(name) for name in own}
    others = [
        path
        for path in listing.others
        if path.parent != listing.root or comparable(path.name) not in known
    ]
    lines = []
    if others:
        lines.append(
            f"{counted(len(others), 'file')} passed over, no image by its suffix: "
            f"{named(others, listing.root)}. "
            "Give what is a photograph its suffix, e.g. .jpg."
        )
    if listing.no_files:
        lines.append(
            f"{counted(len(listing.no_files), 'link')} to nothing, or pipes, passed over: "
            f"{named(listing.no_files, listing.root)}. Copy the files."
        )
    if listing.linked_folders:
        count = counted(len(listing.linked_folders), "link")
        lines.append(
            f"{count} to a folder not followed: {named(listing.linked_folders, listing.root)}. "
            "Copy the folders' photographs."
        )
    return lines


def require_readable(path: Path, error: OSError) -> SubjectError:
    """The error of a file that cannot be opened."""
    return SubjectError(
        f"A file must be readable, but {path} is not: {error.strerror or error}. Change its "
        "permissions, or copy it again."
    )


def _n_files(path: Path) -> int:
    return (
        sum(len(names) for _, _, names in os.walk(path))
        if path.is_dir() and not path.is_symlink()
        else 1
    )


def _names_in(folder: Path) -> dict[str, str]:
    try:
        return _names_while_unchanged(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=64)
def _names_while_unchanged(folder: Path, modified_ns: int) -> dict[str, str]:
    return {comparable(name): name for name in sorted(os.listdir(folder))}
