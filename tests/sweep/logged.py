"""What loggers have written, read back with the packages that read it: scalars as {(trial, metric): {epoch: [values]}}, and ends by trial."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Scalars = dict[tuple[str, str], dict[int, list[float]]]


def events_in(folder: Path) -> Iterator[Any]:
    """The events of a folder's event files. TensorBoard's own reader is not installed with tensorboardX; the records are length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.glob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            yield Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16


def tensorboard_scalars(folder: Path) -> Scalars:
    found: Scalars = defaultdict(lambda: defaultdict(list))
    for trial in sorted(folder.iterdir()):
        for event in events_in(trial):
            for value in event.summary.value:
                if value.tag.startswith("ray/tune/"):
                    found[trial.name, value.tag.removeprefix("ray/tune/")][event.step].append(value.simple_value)
    return found


def tensorboard_hparams(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Hyperparameters by trial, one for each time that they were written."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    found = {}
    for trial in sorted(folder.iterdir()):
        values = [value for event in events_in(trial) for value in event.summary.value if value.tag == "_hparams_/session_start_info"]
        data = [HParamsPluginData.FromString(value.metadata.plugin_data.content) for value in values]
        found[trial.name] = [{name: _plain(v) for name, v in one.session_start_info.hparams.items()} for one in data]
    return found


def _plain(value: Any) -> Any:
    return getattr(value, value.WhichOneof("kind"))


def mlflow_scalars(client: Any, study: str) -> tuple[Scalars, dict[str, list[Any]]]:
    """And every run by its trial."""
    runs = defaultdict(list)
    found: Scalars = defaultdict(lambda: defaultdict(list))
    for run in client.search_runs([client.get_experiment_by_name(study).experiment_id], max_results=1000):
        trial = run.info.run_name
        runs[trial].append(run)
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                found[trial, name][metric.step].append(metric.value)
    return found, runs


def wandb_scalars(folder: Path) -> tuple[Scalars, dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Of offline runs; and summaries and configurations by trial."""
    found: Scalars = defaultdict(lambda: defaultdict(list))
    summaries: dict[str, dict[str, Any]] = defaultdict(dict)
    configs: dict[str, dict[str, Any]] = defaultdict(dict)
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        trial = file.stem.rpartition("-")[2]
        for record in wandb_records(file):
            configs[trial] |= _items(record.run.config.update)
            summaries[trial] |= _items(record.summary.update)
            for name, value in _items(record.history.item).items():
                if not name.startswith("_"):
                    found[trial, name][record.history.step.num].append(value)
    return found, summaries, configs


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file, which is LevelDB's log of protocol buffers: blocks of 32 KiB, records of which may be cut in parts. The
    package has no reader of its own any more: `wandb sync`'s is compiled."""
    from wandb.proto import wandb_internal_pb2

    content, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no room for a header
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
