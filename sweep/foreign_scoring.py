"""Scoring an adapter file that a study did not train, under the study's protocol: is what I already have better?

The image set joins the study's records as an evaluation with `adapter_file` and without a trial, so that tables show it beside the
trials and a relaunch does not know of it. Without a study it is scored under the defaults, and recorded nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sweep.device import scored_images
from sweep.device_facts import device_kind
from sweep.errors import EvaluationFailed, ModelError, StudyError
from sweep.keys import FilesContent, metric_digests, name_of_model
from sweep.messages import EvaluationOrder
from sweep.objective import Objective
from sweep.recorded_study import RecordedStudy
from sweep.records import Records
from sweep.study import Study
from sweep.worker import ScoredImages, evaluation_row, objective_of
from trainables.config import EvalConfig, evaluation_key
from trainables.evaluate import EvaluationRequest, Evaluator
from trainables.foreign import ForeignAdapter
from trainables.frozen import FrozenWork
from trainables.subject import TRIGGER_VERSION, Subject, load_subject

OF_A_FILE = "file:"
"""How the training key of such an evaluation begins; what follows names the file's content."""


@dataclass(frozen=True)
class Protocol:
    """What makes two scores comparable: subject, evaluation, networks, metrics and objective."""

    subject_name: str
    subject: Subject
    config: EvalConfig
    places: tuple[str, str | None]  # of its model and VAE, as this process finds them
    backbones: Mapping[str, str]
    metrics: tuple[str, ...]
    objective: Objective
    caption: str  # the version that says which prompts are seen: that of the trial whose protocol it is


@dataclass(frozen=True)
class ScoredFile:
    """A file's evaluation as a record takes it: its row, with metrics, networks and objective, and its pictures."""

    row: Mapping[str, Any]
    pictures: ScoredImages


def protocol_of(study: RecordedStudy, trial_id: str | None) -> Protocol:
    """That of the study, with the evaluation values of that trial's best rung, or of the best trial's.

    Raises:
        StudyError: no such trial, or subject or model have changed."""
    row = study.trial(trial_id)
    scored = next((study.evaluations[key] for epoch, _, key, *_ in row["rung_values"] or [] if epoch == row["best_epoch"] and key in study.evaluations), None)
    train, evaluation = study.configs_of(row)
    config = EvalConfig(**scored["configuration"]) if scored else evaluation
    _require_same_weights(study)
    places, name = _require_same_model(study, config), study.description["subject"]
    return Protocol(name, study.subject, config, places, study.backbones, study.metrics, study.objective, train.caption)


def default_protocol(subject: str, model: str, overrides: Mapping[str, str]) -> Protocol:
    """That of a study of this subject and model without anything else said, but for `--set name=value` texts.

    Raises:
        StudyError: a name or value that breaks a rule.  SubjectError: the subject cannot be read."""
    study = Study(subject=subject, model=model).with_overrides(overrides)
    train, _, config = study.split({})
    read = load_subject(study.subject)
    caption = train.caption if train.caption in read.caption_versions else TRIGGER_VERSION
    places = config.infer_model, config.infer_vae
    return Protocol(study.subject, read, config, places, study.backbones, tuple(study.metrics), study.objective, caption)


def with_trigger(protocol: Protocol, trigger: str | None) -> Protocol:
    """The protocol for an adapter that was trained on another trigger word: its prompts have that one."""
    return protocol if trigger is None else replace(protocol, subject=replace(protocol.subject, trigger=trigger))


def require_same_subject(study: RecordedStudy, subject: str | None) -> None:
    """Raises: StudyError where the subject named beside a study has other images."""
    if subject is not None and load_subject(subject).reference_digest != study.subject.reference_digest:
        raise StudyError(
            f"A row beside a study's is scored against its images, those of {study.description['subject']}, but {subject} has others. "
            "Leave out --subject, or --study."
        )


def require_same_model(protocol: Protocol, model: str | None) -> None:
    """Raises: StudyError where the model named beside a study is another one than its protocol's."""
    if model is not None and FilesContent().model_digest(model, protocol.places[1]) != _digest_at(protocol.places):
        raise StudyError(
            f"A row beside a study's is scored with its model, {protocol.config.infer_model} for this trial, but --model is {model}. Leave it out, or "
            "name with --trial one that uses it."
        )


def score_file(
    foreign: ForeignAdapter, protocol: Protocol, *, device: str = "auto", on_step: Callable[[int, int], None] | None = None
) -> ScoredFile:
    """The file's pictures under this protocol, and what they score.

    Raises:
        AdapterError: it does not fit the model.  EvaluationFailed: its pictures cannot be scored.  ModelError: model or network."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind = device_kind(device)
    frozen = FrozenWork(kind, on_load=foreign.merge_into)
    model, vae = protocol.places
    read = replace(protocol.config, infer_model=model, infer_vae=vae)
    frozen.parts(model, vae, read.infer_dtype)  # what does not fit is said at once
    evaluator = Evaluator(frozen, **protocol.backbones, further=protocol.metrics)
    key = file_key(foreign, protocol)
    request = EvaluationRequest(key, None, read, protocol.subject, caption=protocol.caption)
    (result,) = evaluator.evaluate([request], on_step=on_step)
    if result.error is not None:
        raise EvaluationFailed(result.error)
    scored = scored_images(result, kind)
    order = EvaluationOrder(key, OF_A_FILE + foreign.digest, 0, protocol.config, protocol.subject_name, protocol.caption)
    row = {**evaluation_row(order, scored), "adapter_file": foreign.name, **objective_of(protocol.objective, scored)}
    return ScoredFile(row, scored)


def record_file(study: RecordedStudy, scored: ScoredFile) -> None:
    """Add it to the study's records, as a worker adds its own.

    Raises:
        RecordsError: the study's folder cannot be written."""
    Records(study.folder.root).append_evaluation(scored.row, scored.pictures.image_rows, scored.pictures.images)


def file_key(foreign: ForeignAdapter, protocol: Protocol) -> str:
    """The key of the file's evaluation under this protocol."""
    return evaluation_key(
        protocol.config,
        training=OF_A_FILE + foreign.digest,
        epoch=0,
        model_digest=FilesContent().digest_for_pictures(*protocol.places),
        reference_digest=protocol.subject.reference_digest,
        trigger=protocol.subject.trigger,
    )


def _digest_at(places: tuple[str, str | None]) -> str:
    return FilesContent().model_digest(*places)


def _require_same_model(study: RecordedStudy, config: EvalConfig) -> tuple[str, str | None]:
    """Where its model and VAE are. Raises: StudyError where they are not what the study had."""
    name = name_of_model(config.infer_model, config.infer_vae)
    known = study.description["content"].get(name)
    try:
        places = study.located(config.infer_model, config.infer_vae)
        now = _digest_at(places)
    except ModelError as error:
        raise StudyError(f"A row beside a study's is scored with its model, but that cannot be read: {error}") from error
    if known not in (None, now):
        raise StudyError(
            f"A row beside a study's is scored with the model that the study had, but {config.infer_model} has changed since. Restore it, or "
            "launch the study under another --name."
        )
    return places


def _require_same_weights(study: RecordedStudy) -> None:
    """What is not there is skipped, with the reason in the record, as in a launch."""
    content = study.description["content"]
    for name, digest in metric_digests(study.metrics).items():
        if content.get(name) not in (None, digest):
            raise StudyError(
                f"A row beside a study's is scored by the networks that the study had, but the "
                f"{name} have changed since. Restore them, or launch the study under another --name."
            )
