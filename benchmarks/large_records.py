"""Reading a study that has become large: 10,000 trials and 1,000,000 image rows, `sweep status` and pandas frames.

    python -m benchmarks.large_records [--trials 10000] [--images 1000000] [--write]

The records are written as a launch writes them and compacts them; what a trial or an image says is made up. Some parts are left single,
as they are while a study runs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from sweep import Epochs, Study
from sweep.folder import StudyFolder
from sweep.record_schema import SCHEMA_VERSION, Table
from sweep.records import EVALUATIONS, IMAGES, TRIALS, Records

IMAGES_PER_SET, RUNGS, SINGLE_PARTS = 20, (1, 3, 9), 200


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_records", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=1_000_000)
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as storage:
        # In a process of its own: a child's peak of memory begins with its parent's.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as writer:
            folder = writer.submit(write_large_study, Path(storage), arguments.trials, arguments.images).result()
        status_s, status_mib = of_a_command(["-m", "sweep", "status", folder.root.name, "--storage", storage])
        tables_s, tables_mib = of_a_command(["-m", "analysis", "tables", folder.root.name, "--storage", storage])
        load_s = of(lambda: __import__("analysis.load").load.load_study_records(folder.root))
    lines = [
        f"{arguments.trials:,} trials, {arguments.images:,} image rows in sets of {IMAGES_PER_SET}; {SINGLE_PARTS} parts of each table not compacted yet",
        f"sweep status, as a command           {status_s:6.1f} s   {status_mib:6.0f} MiB",
        f"analysis tables, as a command        {tables_s:6.1f} s   {tables_mib:6.0f} MiB",
        f"all records as pandas frames         {load_s:6.1f} s",
    ]
    report("python -m benchmarks.large_records", "Reading large records", lines, write=arguments.write, facts=facts)


def write_large_study(storage: Path, n_trials: int, n_images: int) -> StudyFolder:
    """A finished study of that size, as its folder."""
    rng = np.random.default_rng(0)
    folder = StudyFolder(storage, "large")
    folder.write_study(Study(name="large", space={}, samples=n_trials, epochs=Epochs(max=max(RUNGS), rungs=RUNGS)), {})
    records = Records(folder.root)
    n_sets = n_images // IMAGES_PER_SET
    keys = np.array([f"{i:024x}" for i in range(n_sets)])
    for table, columns in (
        (IMAGES, _image_columns(keys, rng)),
        (EVALUATIONS, _evaluation_columns(keys, n_trials, rng)),
        (TRIALS, _trial_columns(keys, n_trials, rng)),
    ):
        rows = pa.table({c.name: columns.get(c.name, pa.nulls(len(next(iter(columns.values()))))) for c in table.fields}).cast(table.schema)
        _write_parts(records, table, rows, per_part=IMAGES_PER_SET if table is IMAGES else 1)
    return folder


def _write_parts(records: Records, table: Table, rows: pa.Table, *, per_part: int) -> None:
    n_single = SINGLE_PARTS * per_part
    records._write_table(table, "compact-000001", rows.slice(0, len(rows) - n_single))
    for i in range(SINGLE_PARTS):
        part = rows.slice(len(rows) - n_single + i * per_part, per_part)
        records._write_table(table, "-".join(str(part[name][0]) for name in table.key[:1]) + f"-{i:06d}" * (table is TRIALS), part)


def _image_columns(keys: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    n = len(keys) * IMAGES_PER_SET
    prompts = np.array([f"J3NN13, smile, close-up, prompt {i}" for i in range(5)])
    index = np.tile(np.arange(IMAGES_PER_SET), len(keys))
    return {
        "evaluation_key": np.repeat(keys, IMAGES_PER_SET),
        "index": index,
        "prompt": prompts[index // 4],
        "seen": index // 4 < 3,
        "seed": rng.integers(0, 2**62, n),
        "lpips": rng.normal(1.1, 0.05, n),
        "lpips_nearest": rng.normal(0.8, 0.05, n),
        "nearest_index": rng.integers(0, 151, n),
        "is_copy": np.zeros(n, bool),
        "path": np.char.add(np.char.add(np.char.add("pictures/", np.repeat(keys, IMAGES_PER_SET)), "/"), np.char.zfill(index.astype(str), 3)),
    }


def _evaluation_columns(keys: np.ndarray, n_trials: int, rng: np.random.Generator) -> dict[str, object]:
    n, per_trial = len(keys), len(keys) // n_trials
    trial = np.minimum(np.arange(n) // per_trial, n_trials - 1)
    return {
        "evaluation_key": keys,
        "training_key": np.array([f"{t:020x}train" for t in trial]),
        "epoch": np.array(RUNGS)[np.arange(n) % len(RUNGS)],
        "configuration": [json.dumps({"infer_model": "embedded:base", "guidance": g}) for g in rng.choice([1.5, 4.0, 7.5], n)],
        **{name: rng.normal(1.0, 0.1, n) for name in ("lpips", "lpips_nearest", "lpips_heldout", "diversity", "kid", "objective")},
        "fid": rng.normal(60, 10, n),
        "intervals": ['{"lpips": [1.0, 1.2, 20], "fid": [50.0, 70.0, 20]}'] * n,
        "n_images": np.full(n, IMAGES_PER_SET),
        "perceptual_backbone": ["embedded:perceptual"] * n,
        "pooled_backbone": ["embedded:pooled"] * n,
        "seconds_generate": rng.exponential(2.0, n),
        "seconds_score": rng.exponential(0.2, n),
        "device": ["cpu"] * n,
        "schema_version": np.full(n, SCHEMA_VERSION),
        "created_at": 1.7e9 + np.arange(n),
    }


def _trial_columns(keys: np.ndarray, n_trials: int, rng: np.random.Generator) -> dict[str, object]:
    """Three rows for each trial: its start, a rung, its end."""
    n, per_trial = 3 * n_trials, len(keys) // n_trials
    trial, sequence = np.repeat(np.arange(n_trials), 3), np.tile(np.arange(3), n_trials)
    rungs = [json.dumps([[e, float(rng.normal(1, 0.1)), str(keys[t * per_trial + k])] for k, e in enumerate(RUNGS[: s + 1])]) for t, s in zip(trial, sequence, strict=True)]
    return {
        "study": ["large"] * n,
        "trial": np.char.add("t", np.char.zfill(trial.astype(str), 5)),
        "number": trial,
        "state": np.where(sequence < 2, "RUNNING", np.where(trial % 3, "PRUNED", "COMPLETE")),
        "configuration": [
            json.dumps({"caption": f"v{t % 4 + 1}", "rank": int(2 ** (t % 5 + 2)), "learning_rate": float(10 ** -(3 + t % 7 / 7)), "guidance": 4.0})
            for t in trial
        ],
        "training_key": np.array([f"{t:020x}train" for t in trial]),
        "epochs": np.array(RUNGS)[sequence],
        "best_epoch": np.array(RUNGS)[sequence],
        "objective": rng.normal(0.8, 0.1, n),
        "rung_values": rungs,
        "seconds": rng.exponential(60.0, n),
        "shared_epochs": np.zeros(n, int),
        "started_at": 1.7e9 + trial,
        "updated_at": 1.7e9 + trial + sequence,
        "sequence": sequence,
        "schema_version": np.full(n, SCHEMA_VERSION),
    }


def of(work: Callable[[], object]) -> float:
    """Seconds that it takes, the second time: imports are not what is asked here."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def of_a_command(arguments: list[str]) -> tuple[float, float]:
    """(seconds, MiB at its peak) of a Python process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
