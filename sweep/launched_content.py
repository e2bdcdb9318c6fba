"""Whether subjects, models and class images still hold what the keys of a launch were made of.

A worker reads them long after the launch made its keys, and perhaps on another machine. What has
changed meanwhile must not be trained or scored under the old key. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from sweep.keys import FilesContent, name_of_class_images, name_of_model, subject_digests
from trainables.errors import ContentChanged
from trainables.subject import Subject


class LaunchedContent:
    """Reads by name what a study names, each once; `digests` are those of the launch, as
    Keys.content_digests. What they lack is not checked."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = digests
        self._files = FilesContent()
        self._checked: set[str] = set()

    def subject(self, name: str) -> Subject:
        """Raises: ContentChanged if an image, a caption, a mask or the trigger is another one."""
        subject = self._files.subject(name)
        if name not in self._checked:
            masks = f"masks of {name}" in self._digests
            self._require(subject_digests(name, subject, masks=masks))
            self._checked.add(name)
        return subject

    def require_model(self, model: str, vae: str | None) -> None:
        """Raises: ContentChanged if a file of the model is another one."""
        if (name := name_of_model(model, vae)) in self._digests and name not in self._checked:
            self._require({name: self._files.model_digest(model, vae)})
            self._checked.add(name)

    def require_class_images(self, folder: str) -> None:
        """Raises: ContentChanged if one of them is another one."""
        if (name := name_of_class_images(folder)) in self._digests:
            self._require({name: self._files.class_images_digest(folder)})

    def _require(self, found: Mapping[str, str]) -> None:
        for name, digest in found.items():
            if self._digests.get(name, digest) != digest:
                raise ContentChanged(
                    f"What a study reads must stay as it was at its launch, but the {name} changed "
                    "while it runs. "
                    "Put the old files back and launch the study again; or launch it with the new "
                    "ones under another --name."
                )
