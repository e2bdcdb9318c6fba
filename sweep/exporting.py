"""A study's adapter as a product: the file that other programs load, with what a person may want to know of it in its metadata."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweep.errors import ModelError, StudyError, SubjectError
from sweep.record_schema import METRIC_COLUMNS
from sweep.recorded_study import ChosenAdapter, RecordedStudy
from trainables.adapter_files import require_free, write_adapter
from trainables.buckets import buckets_to_train
from trainables.checkpoints import write_checkpoint
from trainables.config import TrainConfig
from trainables.lora import Adapter
from trainables.merging import updates_of
from trainables.model_folders import read_config
from trainables.model_sources import MOVED_NAMES, SHORT_NAMES, ModelSource, resolve_model
from trainables.models import bucket_step_of, resolution_of
from trainables.subject import Subject
from trainables.tags import tags_of

_BASES = {768: ("sd_v1", "stable-diffusion-v1"), 1024: ("sd_v2", "stable-diffusion-v2-512")}
"""By how many numbers per token the UNet reads: kohya's name of a base model, and the model spec's."""
_V2_VELOCITY = "stable-diffusion-v2-768-v"


def export_adapter(study: RecordedStudy, chosen: ChosenAdapter, path: Path, *, file_format: str, replace: bool = False) -> Path:
    """Write the adapter's file, or for peft its folder.

    Raises:
        AdapterError: it is damaged; there is something at `path` already; it cannot be written there."""
    require_free(path, replace=replace)
    adapter = chosen.load()
    return write_adapter(path, adapter, file_format, metadata=adapter_metadata(study, chosen, adapter), replace=replace)


def export_checkpoint(study: RecordedStudy, chosen: ChosenAdapter, path: Path, *, model: str | None = None, replace: bool = False) -> Path:
    """Write the base model that the adapter was scored with, or another one, with the adapter fused into its weights.

    Raises:
        AdapterError: as `export_adapter`, or the adapter does not fit.  ModelError: the model cannot be read."""
    require_free(path, replace=replace)
    source = _fused_source(chosen, model)
    texts = {"modelspec.title": chosen.name, "ss_training_comment": comment_of(chosen, _subject_or_none(study))}
    texts["modelspec.merged_from"] = f"{_name_of(model or chosen.evaluation.infer_model)}, {chosen.name}"
    return write_checkpoint(path, source, updates_of(chosen.load()), metadata=texts, replace=replace)


def adapter_metadata(study: RecordedStudy, chosen: ChosenAdapter, adapter: Adapter) -> dict[str, str]:
    """kohya's `ss_` entries and the model spec's, all of them texts; what cannot be told because subject or model are gone is left out."""
    subject, source = _subject_or_none(study), _source_or_none(chosen)
    base, architecture = _base_of(chosen, adapter, source)
    side = resolution_of(read_config(source.unet.folder), read_config(source.vae.folder)) if source else None
    trained_at = datetime.fromtimestamp(chosen.trial["updated_at"], UTC)
    values: dict[str, Any] = {
        "ss_output_name": chosen.name,
        "ss_base_model_version": base,
        "ss_v2": base.startswith("sd_v2"),
        "ss_sd_model_name": Path(_name_of(chosen.train.train_model)).name,
        "ss_epoch": chosen.epoch,
        "ss_num_epochs": max(
            chosen.epoch, int(chosen.trial["epochs"] or 0), chosen.train.schedule_epochs or 0
        ),
        "ss_resolution": None if side is None else f"({side}, {side})",
        "ss_training_comment": comment_of(chosen, subject),
        **_network_values(adapter, chosen),
        **_training_values(chosen),
        **_subject_values(chosen, subject, source),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": chosen.name,
        "modelspec.date": trained_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "modelspec.resolution": None if side is None else f"{side}x{side}",
        "modelspec.prediction_type": _prediction_of(source),
        "modelspec.trigger_phrase": subject.trigger if subject else None,
        "modelspec.description": f"LoRA of study {chosen.study}, trial {chosen.trial['trial']}, epoch {chosen.epoch}",
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def comment_of(chosen: ChosenAdapter, subject: Subject | None) -> str:
    """One line on where the adapter comes from, what it scored, and on what."""
    evaluation = chosen.evaluation
    parts = [f"study {chosen.study}, trial {chosen.trial['trial']}, epoch {chosen.epoch}, training {chosen.training_key}"]
    if scores := chosen.scores:
        parts.append(f"objective {scores['objective']:.4f} = {scores['objective_formula']}" if scores["objective"] is not None else "no objective")
        values = [f"{name} {scores[name]:.4g}" for name in METRIC_COLUMNS if scores[name] is not None]
        networks = f"over {scores['perceptual_backbone']} and {scores['pooled_backbone']}"
        parts.append(f"{', '.join(values)} ({scores['n_images']} pictures against {scores['n_references']} images, {networks})")
    parts.append(f"scored with {evaluation.infer_model}, guidance {evaluation.guidance:g}, {evaluation.steps} steps, {evaluation.denoiser}")
    parts.append("prompts: " + " | ".join(prompt.filled(subject.trigger) if subject else prompt.text for prompt in evaluation.prompts))
    if evaluation.negative_prompt:
        parts.append(f"negative prompt: {evaluation.negative_prompt}")
    return "; ".join(parts)


def default_path(chosen: ChosenAdapter, file_format: str, *, model: str | None = None, fuse: bool = False) -> Path:
    """Where an export goes that is given no name: the adapter's own, in the current folder."""
    single = _fused_source(chosen, model).unet.is_single_file if fuse else file_format != "peft"
    return Path(f"{chosen.name}{'-fused' * fuse}{'.safetensors' * single}")


def left_out_of(study: RecordedStudy, chosen: ChosenAdapter) -> list[str]:
    """What a file does not tell because subject or model are not where the study had them, a line for each."""
    lines = []
    try:
        _ = study.subject
    except (SubjectError, StudyError) as error:
        lines.append(f"The file has no trigger word, tags and steps, and its prompts are not filled in. {error}")
    try:
        resolve_model(*chosen.base)
    except (ModelError, StudyError) as error:
        lines.append(f"The file has no resolution and prediction type. {error}")
    return lines


def _fused_source(chosen: ChosenAdapter, model: str | None) -> ModelSource:
    return resolve_model(model) if model else resolve_model(*chosen.scored_on)


def _name_of(name: str) -> str:
    """A base model as the study calls it, and not where this machine has it; of short names what they stand for."""
    return SHORT_NAMES.get(name) or MOVED_NAMES.get(name, name)


def _network_values(adapter: Adapter, chosen: ChosenAdapter) -> dict[str, Any]:
    conv = {"conv_dim": str(adapter.rank), "conv_alpha": str(adapter.alpha)} if any(k != (1, 1) for k in adapter.kernels.values()) else {}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": adapter.rank,
        "ss_network_alpha": adapter.alpha,
        "ss_network_args": json.dumps(conv),
        "ss_network_dropout": chosen.train.dropout,
    }


def _training_values(chosen: ChosenAdapter) -> dict[str, Any]:
    train = chosen.train
    text_rate = train.learning_rate * train.relative_text_rate if train.train_text_encoder else None
    return {
        "ss_learning_rate": train.learning_rate,
        "ss_unet_lr": train.learning_rate,
        "ss_text_encoder_lr": str(text_rate),
        "ss_optimizer": train.optimizer,
        "ss_lr_scheduler": train.lr_schedule,
        "ss_lr_warmup_steps": train.lr_warmup_steps,
        "ss_max_grad_norm": train.max_grad_norm,
        "ss_noise_offset": str(train.noise_offset or None),
        "ss_min_snr_gamma": str(train.min_snr_gamma),
        "ss_caption_dropout_rate": train.caption_dropout,
        "ss_total_batch_size": train.batch,
        "ss_mixed_precision": "no" if train.dtype == "float32" else "bf16",
        "ss_seed": train.train_seed,
        "ss_clip_skip": "None",
    }


def _subject_values(chosen: ChosenAdapter, subject: Subject | None, source: ModelSource | None) -> dict[str, Any]:
    if subject is None:
        return {}
    captions = subject.train_captions(chosen.train.caption)
    steps = steps_per_epoch(chosen.train, subject, source)
    tags = Counter(tag for caption in captions for tag in tags_of(caption))
    return {
        "ss_num_train_images": len(subject.train),
        "ss_num_batches_per_epoch": steps,
        "ss_steps": None if steps is None else chosen.epoch * steps,
        "ss_tag_frequency": json.dumps({subject.name: dict(sorted(tags.items()))}, ensure_ascii=False),
    }


def steps_per_epoch(train: TrainConfig, subject: Subject, source: ModelSource | None) -> int | None:
    """How many batches an epoch has. None where images keep their aspect ratio, and the model that says which sizes they get is gone."""
    if train.buckets and source is None:
        return None
    if train.buckets:
        configs = read_config(source.unet.folder), read_config(source.vae.folder)
        buckets = buckets_to_train(subject.train_sizes, resolution=resolution_of(*configs), step=bucket_step_of(*configs))
        if buckets is not None:
            return len(buckets.sequence(train.batch))
    return math.ceil(len(subject.train) / train.batch)


def _base_of(chosen: ChosenAdapter, adapter: Adapter, source: ModelSource | None) -> tuple[str, str]:
    """kohya's name of the base and the model spec's. A base of other sizes, such as the embedded one, has its own name only: no web UI loads it."""
    width = next((a.shape[0] for path, (a, _) in adapter.layers.items() if path.endswith("attn2.to_k")), None)
    name, architecture = _BASES.get(width, (chosen.train.train_model, chosen.train.train_model))
    if name == "sd_v2" and _prediction_of(source) == "v":
        return name, _V2_VELOCITY
    return name, architecture


def _prediction_of(source: ModelSource | None) -> str | None:
    if source is None:
        return None
    prediction = read_config(source.scheduler.folder, "scheduler_config.json").get("prediction_type", "epsilon")
    return "v" if prediction == "v_prediction" else prediction


def _subject_or_none(study: RecordedStudy) -> Subject | None:
    """An adapter may outlive the folder that it was trained on."""
    try:
        return study.subject
    except (SubjectError, StudyError):
        return None


def _source_or_none(chosen: ChosenAdapter) -> ModelSource | None:
    try:
        return resolve_model(*chosen.base)
    except (ModelError, StudyError):
        return None
