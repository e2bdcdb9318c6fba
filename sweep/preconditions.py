"""What a study needs before it starts: subject, captions, models, networks, loggers, storage.

One check for plan, launch, trial and submit. It collects all that is wrong, not the first thing.
It reads files and trains nothing; it imports no torch and no Ray."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sweep.errors import ModelError, NotDownloadedError, SubjectError, SweepError, UnmetError
from sweep.loggers import require_loggers
from sweep.picture_counts import require_photographs, require_pictures
from sweep.prompt_groups import require_prompt_groups
from trainables.metric_weights import find_metric_weights, metric_name_of
from trainables.storage import home_expanded
from trainables.subject import read_subject

if TYPE_CHECKING:
    from sweep.folder import StudyFolder
    from sweep.keys import Keys
    from sweep.study import Study

MOST_OF_A_SUBJECT = 5
"""Problems of a subject's folder that are listed one by one; `sweep check` lists them all."""


@dataclass
class Unmet:
    """What a study lacks."""

    problems: list[SweepError] = field(default_factory=list)
    to_fetch: list[SweepError] = field(
        default_factory=list
    )  # published weights that a launch needs
    to_download: list[SweepError] = field(default_factory=list)  # models that a launch downloads
    notes: list[str] = field(default_factory=list)

    def require_none(self) -> None:
        """Raises: SweepError for the only thing that a launch lacks, UnmetError for several."""
        # A misspelt model would ask for weights that nobody needs.
        lacking = self.problems or self.to_fetch
        if len(lacking) == 1:
            raise lacking[0]
        if lacking:
            raise UnmetError([str(problem) for problem in lacking])

    def try_to(self, check: Callable[[], object], *, downloads: bool = False) -> None:
        """Keep the error that the check raises. `downloads`: a launch downloads what is not here yet."""
        try:
            check()
        except NotDownloadedError as error:
            _add(self.to_download if downloads else self.to_fetch, error)
        except SweepError as error:
            _add(self.problems, error)


def _add(errors: list[SweepError], error: SweepError) -> None:
    """What is said already is not said twice."""
    if str(error) not in map(str, errors):
        errors.append(error)


def unmet_by(keys: Keys, folder: StudyFolder | None = None, *, scores_here: bool = True) -> Unmet:
    """What a launch of the study on this machine is refused for. `folder`: where its records go.

    `scores_here`: False where all pictures are scored on the nodes of a cluster."""
    unmet = Unmet()
    _check_subject(unmet, keys)
    _check_models(unmet, keys, lambda name: True)
    _check_metrics(unmet, keys.study, lambda name: True)
    for network in keys.study.backbones.values() if scores_here else ():
        unmet.try_to(partial(keys.content.require_network, network))
    unmet.try_to(partial(require_loggers, keys.study.loggers))
    if folder is not None:
        _check_folder(unmet, keys, folder)
    return unmet


def unmet_before_launch(keys: Keys, folder: StudyFolder) -> Unmet:
    """The same for a plan: what is published and not downloaded yet is a note."""
    unmet = unmet_by(keys, folder)
    unmet.notes += map(str, (*unmet.to_download, *unmet.to_fetch))
    unmet.to_download, unmet.to_fetch = [], []
    needed = keys.study.needed_metrics
    for text in keys.study.metrics:
        if metric_name_of(text) not in needed:
            unmet.notes += _notes_on_metric(text)
    if not unmet.problems and folder.exists and (holder := folder.holder) is not None:
        unmet.notes.append(
            f"{folder.root.name} runs now on {holder.host}. "
            "A launch under this name is refused until it has ended."
        )
    return unmet


def unmet_elsewhere(keys: Keys) -> Unmet:
    """What can be told here of a study for other machines, which may have folders that this lacks."""
    unmet = Unmet()
    if _may_be_here(keys.study.subject):
        _check_subject(unmet, keys)
    _check_models(unmet, keys, _may_be_here)
    _check_metrics(unmet, keys.study, _may_be_here)
    unmet.to_fetch = []  # its nodes may have them
    return unmet


def _may_be_here(name: str) -> bool:
    """False for a whole path that this machine lacks: another one may have it."""
    path = home_expanded(name)
    return path.exists() or not path.is_absolute()


def _check_subject(unmet: Unmet, keys: Keys) -> None:
    study = keys.study
    try:
        subject = keys.content.subject(study.subject)
    except SubjectError as error:
        unmet.problems += _problems_of_subject(study.subject, error)
        return
    unmet.try_to(partial(study.require_captions, subject.caption_versions))
    unmet.try_to(partial(require_prompt_groups, study, subject))
    unmet.try_to(partial(require_pictures, study))
    unmet.try_to(partial(require_photographs, study, subject))
    if any(train.uses_masks for train in study.telling_trainings("mask_weight")):
        unmet.try_to(subject.require_masks)


def _problems_of_subject(name: str, first: SubjectError) -> list[SubjectError]:
    found = list(dict.fromkeys(_lines_of_subject(name))) or [str(first)]
    shown = [SubjectError(line) for line in found[:MOST_OF_A_SUBJECT]]
    if len(found) > MOST_OF_A_SUBJECT:
        n_more = len(found) - MOST_OF_A_SUBJECT
        command = f"python -m sweep check {shlex.quote(name)}"
        shown.append(
            SubjectError(f"{n_more} more things are wrong with {name}. `{command}` lists all.")
        )
    return shown


def _lines_of_subject(name: str) -> list[str]:
    lines: list[str] = []
    try:
        read_subject(name, lines.append)
    except SubjectError as error:
        lines.append(str(error))
    return lines


def _check_models(unmet: Unmet, keys: Keys, is_checked: Callable[[str], bool]) -> None:
    models = models_of(keys.study)
    for vae in dict.fromkeys(vae for _, vae in models if vae is not None and is_checked(vae)):
        unmet.try_to(partial(keys.content.require_vae, vae), downloads=True)
    for model, vae in models:
        if is_checked(model) and (vae is None or is_checked(vae)):
            unmet.try_to(partial(keys.content.require_model, model, vae), downloads=True)
    trainings = keys.study.telling_trainings("prior_images")
    folders = sorted({train.prior_images for train in trainings if train.prior_preservation})
    for images in filter(is_checked, folders):
        unmet.try_to(partial(keys.content.class_images_digest, images))


def models_of(study: Study) -> list[tuple[str, str | None]]:
    """The base models that the study names, each with its VAE; further values of `fan_out`, too."""
    return list(dict.fromkeys(_models_of(study)))


def _models_of(study: Study) -> Iterator[tuple[str, str | None]]:
    for parameter in ("train_model", "train_vae", "infer_model", "infer_vae"):
        for configuration in study.telling_configurations(parameter):
            train, _, evaluation = study.split(configuration)
            yield train.train_model, train.train_vae
            for config in (evaluation, *study.fan_out_configs(evaluation)):
                yield config.infer_model, config.infer_vae


def _check_metrics(unmet: Unmet, study: Study, is_checked: Callable[[str], bool]) -> None:
    """Those without which no trial has a value; the others are left out with a reason."""
    for text in study.metrics:
        if metric_name_of(text) in study.needed_metrics and is_checked(text.partition("=")[2]):
            unmet.try_to(partial(find_metric_weights, text))


def _check_folder(unmet: Unmet, keys: Keys, folder: StudyFolder) -> None:
    from sweep.launches import read_launches

    unmet.try_to(folder.require_writable)
    if unmet.problems or not folder.exists:
        return
    if not unmet.to_download:  # its content is not known
        unmet.try_to(lambda: folder.require_comparable(keys.study, keys.content_digests()))
    unmet.try_to(partial(read_launches, folder.launches))


def _notes_on_metric(text: str) -> list[str]:
    try:
        find_metric_weights(text)
    except ModelError as error:
        return [f"{error} Without it that metric is left out."]
    return []
