"""The columns of the three tables: name, dtype, unit, meaning. Writers and readers import them; nobody types a name twice."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from sweep.causes import is_unfinished, recorded_cause
from sweep.errors import RecordsError
from sweep.objective import METRICS, is_similarity

SCHEMA_VERSION = 6
"""1 to 2: `sampled` of a trial. 2 to 3: intervals, prompt groups, fid_inf, heldout_loss, copies, networks of further metrics; evaluation keys
of further training seeds in `rung_values`, and `seed_objectives`. 3 to 4: `adapter_file`. 4 to 5: `train_losses`. 5 to 6: `cause` of a trial,
which is filled in from the reason when older rows are read; `caption`, `seen_prompts` and `groups`: which prompts are seen is worked out from
the captions, and was declared by the study before. Columns are only ever added: of older records the others are missing."""

_ARROW = {"text": pa.string(), "json": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}


@dataclass(frozen=True)
class Column:
    """`dtype` is text, json (stored as text), integer, number or boolean; every one of them may be missing."""

    name: str
    dtype: str
    unit: str
    meaning: str

    @property
    def is_list(self) -> bool:
        """Of json: whether it is a list, else an object."""
        return self.name in ("rung_values", "seed_objectives")


@dataclass(frozen=True)
class Table:
    """A table: its columns by name, and the columns that together name a row."""

    name: str
    key: tuple[str, ...]
    fields: tuple[Column, ...]

    @cached_property
    def columns(self) -> dict[str, Column]:
        return {column.name: column for column in self.fields}

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that no row leaves out."""
        return (*self.key, *(name for name in ("number", "state") if name in self.columns))

    @cached_property
    def schema(self) -> pa.Schema:
        return pa.schema([(column.name, _ARROW[column.dtype]) for column in self.fields])


TRIALS = Table(
    "trials",
    ("trial", "sequence"),
    (
        Column("study", "text", "", "name of the study"),
        Column("trial", "text", "", "id of the trial, stable across relaunches, e.g. t0007"),
        Column("number", "integer", "", "number of the trial in its study, from 0"),
        Column("state", "text", "", "RUNNING, PRUNED (stopped early), COMPLETE or FAIL"),
        Column("configuration", "json", "", "the values that the study's space or row gave it"),
        Column("sampled", "json", "", "what the sampler drew for it: other names than the configuration's in a define-by-run space"),
        Column("labels", "json", "", "free labels of a listed row; baseline=true marks the row that others are paired with"),
        Column("training_key", "text", "", "key of the training that it reads, under its first seed"),
        Column("epochs", "integer", "epoch", "epochs reached"),
        Column("best_epoch", "integer", "epoch", "epoch of its best rung"),
        Column("objective", "number", "", "value of its best rung, the mean over its training seeds; lower is better"),
        Column("objective_formula", "text", "", "what the objective adds up, with weights, scales and networks"),
        Column("rung_values", "json", "", "list of [epoch, objective, evaluation key], with a further key for each further training seed"),
        Column("seed_objectives", "json", "", "objective of its best rung under each training seed; missing where there is one seed"),
        Column("train_losses", "json", "", "mean training loss over the epoch that ends at a rung, by epoch, the mean over its training seeds; not of all epochs that others trained"),
        Column("reason", "text", "", "why it ended, in one line"),
        Column("cause", "text", "", "what a FAIL is due to: configuration, or interrupted, lost, memory, disk, which are tried again"),
        Column("seconds", "number", "s", "wall time from its start to this row"),
        Column("shared_epochs", "integer", "epoch", "epochs that it read from a training of another trial"),
        Column("started_at", "number", "s since 1970", "when it started"),
        Column("updated_at", "number", "s since 1970", "when this row was written"),
        Column("sequence", "integer", "", "number of this row among the trial's, from 0; the highest is the latest"),
        Column("schema_version", "integer", "", "version of these columns"),
    ),
)

EVALUATIONS = Table(
    "evaluations",
    ("evaluation_key",),
    (
        Column("evaluation_key", "text", "", "key of the image set"),
        Column("training_key", "text", "", "key of the training; 'none' for the control without an adapter; 'file:' and a digest for adapter_file; 'photographs' for held-out ones"),
        Column("epoch", "integer", "epoch", "epoch of the adapter; 0 for the control, and for a file"),
        Column("adapter_file", "text", "", "name of what was scored beside the trials: the file of another adapter, or held-out photographs; missing for trials and controls"),
        Column("configuration", "json", "", "the EvalConfig in full"),
        Column("lpips", "number", "", "mean LPIPS over all generated x training-image pairs; lower is closer"),
        Column("lpips_nearest", "number", "", "mean LPIPS to the nearest training image; very low means copying"),
        Column("lpips_heldout", "number", "", "mean LPIPS to held-out images"),
        Column("diversity", "number", "", "mean LPIPS among the generated; higher is more diverse"),
        Column("fid", "number", "", "Frechet distance to the training images; biased upwards for few images"),
        Column("kid", "number", "", "unbiased kernel distance to the training images"),
        Column("fid_heldout", "number", "", "Frechet distance to held-out images"),
        Column("kid_heldout", "number", "", "unbiased kernel distance to held-out images"),
        Column("fid_inf", "number", "", "FID to the training images extrapolated to infinitely many pictures; rough for a few dozen"),
        Column("lpips_seen", "number", "", "lpips of the pictures of seen prompts: see seen_prompts"),
        Column("lpips_unseen", "number", "", "lpips of the other pictures: how far it generalises"),
        Column("fid_seen", "number", "", "fid of the pictures of seen prompts: compare it at equal n_seen only"),
        Column("fid_unseen", "number", "", "fid of the pictures of unseen prompts: compare it at equal n_unseen only"),
        Column("kid_seen", "number", "", "kid of the pictures of seen prompts"),
        Column("kid_unseen", "number", "", "kid of the pictures of unseen prompts"),
        Column("heldout_loss", "number", "", "mean squared error of noise predicted in 32 noised held-out images, the trigger as text, by infer_model"),
        Column("further_metrics", "json", "", "metrics without a column of their own, by name"),
        Column("further_networks", "json", "", "name and digest of the networks of further metrics, by metric"),
        Column("intervals", "json", "", "by metric [low, high, n]: 95 % over n pictures, the references fixed; drawn with seed 0; see trainables/intervals.py"),
        Column("skipped", "json", "", "metrics without a value, by name, and why"),
        Column("objective", "number", "", "the study's objective of this image set; lower is better"),
        Column("objective_formula", "text", "", "what the objective adds up, with weights, scales and networks"),
        Column("caption", "text", "", "caption version that says which prompts are seen: the training's; of a control, that of a trial that asked for it"),
        Column("seen_prompts", "json", "", "by caption version, whether each prompt is seen: all its comma-separated pieces occur in training captions"),
        Column("groups", "json", "", "by caption version, the values of its seen and its unseen prompts, e.g. lpips_unseen"),
        Column("n_images", "integer", "images", "generated images"),
        Column("n_references", "integer", "images", "training images that they were compared with"),
        Column("n_heldout", "integer", "images", "held-out images that they were compared with"),
        Column("n_seen", "integer", "images", "generated images of seen prompts"),
        Column("n_unseen", "integer", "images", "generated images of unseen prompts"),
        Column("n_copies", "integer", "images", "generated images that are copies of a training image: see is_copy"),
        Column("copy_threshold", "number", "", "LPIPS to the nearest training image below which one is a copy: half the training images' median to theirs"),
        Column("perceptual_backbone", "text", "", "network of the LPIPS metrics"),
        Column("pooled_backbone", "text", "", "network of FID and KID"),
        Column("seconds_generate", "number", "s", "generating the images"),
        Column("seconds_score", "number", "s", "computing the metrics"),
        Column("device", "text", "", "device that did it"),
        Column("versions", "json", "", "package versions"),
        Column("schema_version", "integer", "", "version of these columns"),
        Column("created_at", "number", "s since 1970", "when this row was written"),
    ),
)

IMAGES = Table(
    "images",
    ("evaluation_key", "index"),
    (
        Column("evaluation_key", "text", "", "key of the image set"),
        Column("index", "integer", "", "number of the image in its set, from 0"),
        Column("prompt", "text", "", "the prompt, its trigger filled in"),
        Column("seen", "boolean", "", "whether it is of a seen prompt, under its evaluation's caption version; before schema version 6 as the study declared"),
        Column("seed", "integer", "", "seed of its noise"),
        Column("lpips", "number", "", "mean LPIPS to all training images"),
        Column("lpips_nearest", "number", "", "LPIPS to the nearest training image"),
        Column("nearest_index", "integer", "", "number of that training image in the subject, from 0, by file name"),
        Column("nearest_reference", "text", "", "file name of that training image"),
        Column("is_copy", "boolean", "", "whether lpips_nearest is below its evaluation's copy_threshold"),
        Column("further_metrics", "json", "", "metrics without a column of their own, by name"),
        Column("path", "text", "", "the picture, relative to the study's folder"),
    ),
)

TABLES = (TRIALS, EVALUATIONS, IMAGES)

METRIC_COLUMNS = (
    *("lpips", "lpips_nearest", "lpips_heldout", "diversity", "fid", "kid", "fid_heldout", "kid_heldout"),
    *("fid_inf", "lpips_seen", "lpips_unseen", "fid_seen", "fid_unseen", "kid_seen", "kid_unseen", "heldout_loss"),
)

STATE_WORDS = {"RUNNING": "running", "PRUNED": "stopped early", "COMPLETE": "done", "FAIL": "failed"}
"""How the states of trials are called, wherever a person reads them."""

NOT_FINISHED = "not finished"
"""What a trial is called that ended by what was not its configuration: the next launch tries it again."""

NO_ADAPTER = "no adapter"
"""What the control is called: pictures of the base model alone."""

SIMILARITIES = tuple(metric for metric in METRICS if is_similarity(metric))
"""Metrics that are computed where they are asked for; their values are among `further_metrics`."""


def state_word(state: str, cause: str | None = None) -> str:
    """What a trial of that state is called; `cause` is the column of its row."""
    is_tried_again = state == "FAIL" and is_unfinished(state, recorded_cause(cause))
    return NOT_FINISHED if is_tried_again else STATE_WORDS[state]


def as_arrow(table: Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows in the table's schema; what a row leaves out is missing.

    Raises:
        RecordsError: a column that the table does not have, or a value of another type."""
    for name in {name for row in rows for name in row} - set(table.columns):
        close = difflib.get_close_matches(name, table.columns, n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise RecordsError(f"The table {table.name} has no column `{name}`.{hint}")
    return pa.table({column.name: _array(table, column, [row.get(column.name) for row in rows]) for column in table.fields})


def _array(table: Table, column: Column, values: list[Any]) -> pa.Array:
    try:
        plain = [_json_text(value) if column.dtype == "json" else _plain(value) for value in values]
        return pa.array(plain, type=_ARROW[column.dtype], from_pandas=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise RecordsError(f"`{column.name}` of {table.name} is of type {column.dtype}, but a row gives {values!r}: {error}") from error


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(_finite(value), default=_plain_or_text)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    value = _plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _plain_or_text(value: Any) -> Any:
    plain = _plain(value)
    return str(value) if plain is value else plain
