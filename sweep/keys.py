"""From a configuration to the keys of its training and evaluations: what it is, and the content that it reads.

Reads subjects and hashes model files, once per launch and name; imports no torch and no Ray."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from sweep.messages import PHOTOGRAPHS, EvaluationOrder, Rung, Subscription
from sweep.preconditions import models_of, unmet_by
from sweep.study import Study
from trainables.class_images import load_class_images
from trainables.config import NUMERICS_VERSION, EvalConfig, TrainConfig, content_key, evaluation_key, training_key
from trainables.errors import ModelError
from trainables.metric_weights import find_metric_weights, metric_name_of
from trainables.model_sources import model_digest, require_vae, resolve_model
from trainables.model_folders import read_config
from trainables.models import PROMPT_TOKENS, least_tokens, resolution_of
from trainables.network_files import require_network
from trainables.pipeline_corrections import digest_for_pictures, digest_for_training
from trainables.subject import Subject, load_subject
from trainables.tags import without_idle_tags

if TYPE_CHECKING:
    from sweep.folder import StudyFolder


class Content(Protocol):
    """Where keys get the content behind names from."""

    def subject(self, name: str) -> Subject: ...

    def model_digest(self, model: str, vae: str | None) -> str: ...

    def digest_for_training(self, model: str, vae: str | None) -> str: ...

    def digest_for_pictures(self, model: str, vae: str | None) -> str: ...

    def resolution(self, model: str, vae: str | None) -> int: ...

    def require_model(self, model: str, vae: str | None) -> None:
        """Raises: ModelError; NotDownloadedError where a launch would download it first."""

    def require_vae(self, vae: str) -> None:
        """The same for a VAE alone."""

    def class_images_digest(self, folder: str) -> str: ...

    def require_network(self, name: str) -> None:
        """Raises: ModelError where a scoring network's weights are not there."""


class FilesContent:
    """Subjects and models as they lie on disk, read once."""

    def __init__(self) -> None:
        self.subject = cache(load_subject)
        self._class_images = cache(load_class_images)
        self._digest = cache(lambda digest, model, vae: digest(resolve_model(model, vae)))
        self._resolution = cache(_resolution)

    def model_digest(self, model: str, vae: str | None) -> str:
        return self._digest(model_digest, model, vae)

    def digest_for_training(self, model: str, vae: str | None) -> str:
        return self._digest(digest_for_training, model, vae)

    def digest_for_pictures(self, model: str, vae: str | None) -> str:
        return self._digest(digest_for_pictures, model, vae)

    def resolution(self, model: str, vae: str | None) -> int:
        return self._resolution(model, vae)

    def require_model(self, model: str, vae: str | None) -> None:
        model_digest(resolve_model(model, vae, download=False))

    def require_vae(self, vae: str) -> None:
        require_vae(vae)

    def class_images_digest(self, folder: str) -> str:
        return self._class_images(folder).digest

    def require_network(self, name: str) -> None:
        require_network(name)


class Keys:
    """Subscriptions and evaluation orders for the configurations of one study."""

    def __init__(self, study: Study, content: Content | None = None) -> None:
        self.study = study
        self.content = content or FilesContent()

    def check(self, folder: StudyFolder | None = None, *, scores_here: bool = True) -> None:
        """Read what the study names, so that a launch fails before anything has started.

        Raises: SweepError for what cannot be used; UnmetError for several things."""
        unmet_by(self, folder, scores_here=scores_here).require_none()
        # Gigabytes are downloaded only when nothing else is amiss.
        for model, vae in models_of(self.study):
            self.content.model_digest(model, vae)

    def cut_captions(self) -> list[str]:
        """A line for every caption version of the study of which CLIP surely does not read some to their end."""
        versions = {train.caption for train in self.study.telling_trainings("caption")}
        subject = self.content.subject(self.study.subject)
        return [line for version in sorted(versions) for line in _cut_of_version(subject, version)]

    def passed_over(self) -> list[str]:
        """A line for every kind of file that is not read beside the images."""
        prior = [
            train.prior_images
            for train in self.study.telling_trainings("prior_images")
            if train.prior_preservation
        ]
        folders = {self.study.subject: self.content.subject(self.study.subject).passed_over}
        folders |= {folder: load_class_images(folder).passed_over for folder in prior}
        return [f"{folder}: {line}" for folder, lines in folders.items() for line in lines]

    def idle_tags(self) -> list[str]:
        """A line for every caption version of the study in which there are no tags to shuffle or drop."""
        drawing = [train for train in self.study.telling_trainings("shuffle_tags", "tag_dropout", "keep_tags") if train.draws_tags]
        if not drawing:
            return []
        subject = self.content.subject(self.study.subject)
        versions = sorted({train.caption for train in self.study.telling_trainings("caption")})
        idle = [v for v in versions if not any(_as_trained(replace(train, caption=v), subject).draws_tags for train in drawing)]
        return [
            f"Tags are comma-separated, but {version} captions have none to shuffle or drop behind those that keep_tags keeps: "
            "shuffle_tags and tag_dropout change nothing there, and such trials share one training."
            for version in idle
        ]

    def content_digests(self) -> dict[str, str]:
        """What the study's names stand for now, by name: the subject's images and each of its caption versions, and the models."""
        name = self.study.subject
        subject = self.content.subject(name)
        digests = {
            name_of_model(model, vae): self.content.model_digest(model, vae)
            for model, vae in models_of(self.study)
        }
        digests |= metric_digests(self.study.metrics)
        if "clip_t" in map(metric_name_of, self.study.metrics):
            digests[f"class word of {name}"] = subject.class_word
        trainings = self.study.telling_trainings("mask_weight", "prior_images")
        digests |= subject_digests(name, subject, masks=any(train.uses_masks for train in trainings))
        folders = {train.prior_images for train in trainings if train.prior_preservation}
        return {**digests, **{name_of_class_images(folder): self.content.class_images_digest(folder) for folder in sorted(folders)}}

    def subscription(self, trial: str, configuration: Mapping[str, Any]) -> Subscription:
        """What a trial with this configuration asks of the pool.

        Raises: SweepError where the configuration cannot be used."""
        train, epochs, evaluation = self.study.split(configuration)
        first, *others = (self._of_one_training(trial, config, epochs, evaluation) for config in self.study.replicates(train))
        return replace(first, replicates=tuple(others))

    def controls(self, subscription: Subscription) -> list[EvaluationOrder]:
        """The same evaluation, and its further values, without an adapter."""
        evaluation, subject, caption = subscription.rungs[0].config, subscription.config.subject, subscription.config.caption
        every = (evaluation, *self.study.fan_out_configs(evaluation))
        return [EvaluationOrder(self._evaluation_key(config, subject, None, 0), None, 0, config, subject, caption) for config in every]

    def photographs(self, subscription: Subscription) -> list[EvaluationOrder]:
        """What the subject's held-out photographs score in the place of the trial's pictures; nothing where there are none."""
        name, evaluation = subscription.config.subject, subscription.rungs[0].config
        return photographs_orders(self.content.subject(name), name, evaluation, self.content.resolution)

    def fan_out(self, subscription: Subscription, epoch: int) -> list[EvaluationOrder]:
        """The further evaluations of a trial that ended at this epoch."""
        keys, subject, caption = [one.training_key for one in subscription.under_each_seed], subscription.config.subject, subscription.config.caption
        further = self.study.fan_out_configs(subscription.rungs[0].config)
        return [EvaluationOrder(self._evaluation_key(c, subject, key, epoch), key, epoch, c, subject, caption) for key in keys for c in further]

    def _of_one_training(self, trial: str, config: TrainConfig, epochs: tuple[int, ...], evaluation: EvalConfig) -> Subscription:
        subject = self.content.subject(config.subject)
        config = _as_trained(config, subject)
        key = training_key(
            config,
            model_digest=self.content.digest_for_training(config.train_model, config.train_vae),
            subject_digest=subject.training_digest(config.caption, masks=config.uses_masks),
            prior_digest=self.content.class_images_digest(config.prior_images) if config.prior_preservation else None,
            epochs=epochs[-1],
        )
        rungs = tuple(Rung(e, self._evaluation_key(evaluation, config.subject, key, e), evaluation) for e in epochs)
        return Subscription(trial, key, config, rungs)

    def _evaluation_key(self, config: EvalConfig, subject: str, training: str | None, epoch: int) -> str:
        read = self.content.subject(subject)
        return evaluation_key(
            config,
            training=training,
            epoch=epoch,
            model_digest=self.content.digest_for_pictures(config.infer_model, config.infer_vae),
            reference_digest=read.reference_digest,
            trigger=read.trigger,
        )


def photographs_orders(
    read: Subject,
    name: str,
    evaluation: EvalConfig,
    resolution: Callable[[str, str | None], int],
) -> list[EvaluationOrder]:
    """The evaluation of the held-out photographs beside this one, if there are any. `name` is the
    subject's, `resolution` as Content.resolution.

    Its key has what it depends on: the images, the size and the number of a trial's pictures."""
    if not read.heldout:
        return []
    side = resolution(evaluation.infer_model, evaluation.infer_vae)
    key = content_key(
        PHOTOGRAPHS, NUMERICS_VERSION, read.reference_digest, side, evaluation.n_images
    )
    return [EvaluationOrder(key, PHOTOGRAPHS, 0, evaluation, name)]


def _resolution(model: str, vae: str | None) -> int:
    source = resolve_model(model, vae)
    return resolution_of(read_config(source.unet.folder), read_config(source.vae.folder))


def name_of_model(model: str, vae: str | None) -> str:
    return f"model {model}" + (f" with vae {vae}" if vae else "")


def name_of_class_images(folder: str) -> str:
    return f"class images {folder}"


def subject_digests(name: str, subject: Subject, *, masks: bool) -> dict[str, str]:
    """What a subject holds, by what it is: images, each version of captions and, where they are used, masks."""
    versions = {f"captions {version} of {name}": subject.training_digest(version) for version in subject.caption_versions}
    of_masks = {f"masks of {name}": subject.training_digest("v1", masks=True)} if masks else {}
    return {f"images of {name}": subject.reference_digest, **of_masks, **versions}


def metric_digests(metrics: Sequence[str]) -> dict[str, str]:
    """Those of the further metrics' networks that are there."""
    found = {}
    for text in metrics:
        with suppress(ModelError):
            weights = find_metric_weights(text)
            found[f"weights of {weights.name}"] = weights.digest
    return found


def _as_trained(config: TrainConfig, subject: Subject) -> TrainConfig:
    """Without what has no effect on this subject, so that equal trainings have one key."""
    config = without_idle_tags(config, subject.train_captions(config.caption)) if config.draws_tags else config
    return replace(config, buckets=config.buckets and any(width != height for width, height in subject.train_sizes))


def _cut_of_version(subject: Subject, version: str) -> Iterator[str]:
    counts = [least_tokens(text) for text in subject.train_captions(version)]
    if n_cut := sum(n > PROMPT_TOKENS for n in counts):
        yield (
            f"CLIP reads {PROMPT_TOKENS} tokens, but {n_cut} of {len(counts)} {version} captions have more, up to {max(counts)} at least: "
            "their end is never read. "
            f"`python -m sweep check {shlex.quote(str(subject.root))}` tells which."
        )
