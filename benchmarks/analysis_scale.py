"""How long the tables of a large study take: synthetic records, a million image rows by default, read and made into every table.

    nice python -m benchmarks.analysis_scale [--images 1000000] [--write]

Records are written by the program's own schema, as compacted parts; that is not timed. Each table is timed on records that are loaded."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.comparison import compare_studies
from analysis.cost import cost, failures
from analysis.curves import learning_curves, survival
from analysis.importance import importances_of, interaction_of, main_effects
from analysis.load import StudyRecords, load_study_records
from analysis.pareto import pareto_front, quality_against_epochs
from analysis.prompts import intervals_over_prompts, seen_and_unseen
from analysis.selection import best_set, optimism_of_the_best, paired_comparisons
from analysis.tables import best_of_each, pivot, ranked_trials
from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from sweep.records import EVALUATIONS, IMAGES, SCHEMA_VERSION, TRIALS, Table

N_PROMPTS, N_NOISES = 10, 10
RUNGS = (10, 30, 90)

TABLES: dict[str, Callable[[StudyRecords], object]] = {
    "ranked": ranked_trials,
    "pivot": lambda records: pivot(records, "caption", "guidance"),
    "best": lambda records: best_of_each(records, "caption"),
    "curves": learning_curves,
    "survival": survival,
    "failures": failures,
    "cost": cost,
    "seen": seen_and_unseen,
    "prompts": intervals_over_prompts,
    "set": lambda records: (best_set(records), optimism_of_the_best(records)),
    "paired": lambda records: paired_comparisons(records),
    "importance": importances_of,
    "effects": main_effects,
    "interaction": lambda records: interaction_of(records, "caption", "guidance"),
    "pareto": pareto_front,
    "epochs": quality_against_epochs,
    "compare": lambda records: compare_studies([records, records]),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analysis_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        n_trials = max(2, arguments.images // (N_PROMPTS * N_NOISES * len(RUNGS)))
        write_records(Path(folder) / "large", n_trials=n_trials)
        loading, records = _seconds(lambda: load_study_records(Path(folder) / "large"))
        lines = [
            f"{len(records.images)} image rows, {len(records.evaluations)} image sets of {N_PROMPTS * N_NOISES}, {n_trials} trials at {len(RUNGS)} rungs",
            f"load         {loading}",
            *(f"{name:12} {_seconds(lambda make=make: make(records))[0]}" for name, make in TABLES.items()),
        ]
    report("python -m benchmarks.analysis_scale", "Tables of a large study", lines, write=arguments.write, facts=facts)


def write_records(
    folder: Path, *, n_trials: int, rungs: tuple[int, ...] = RUNGS, n_noises: int = N_NOISES, pictured: bool = False, seed: int = 0
) -> None:
    """A study of `n_trials` trials, each scored at every rung on 10 prompts under `n_noises` noises; LPIPS falls with epochs and depends on the
    parameters. With `pictured`, the images of the last rung have the path `pictures/KEY/INDEX.png`, which is not written here."""
    rng = np.random.default_rng(seed)
    number = np.arange(n_trials)
    captions, guidances = rng.integers(0, 4, n_trials), rng.choice([1.5, 4.0, 7.5], n_trials)
    rates = 10 ** rng.uniform(-5, -2, n_trials)
    quality = 0.5 + 0.05 * captions + 0.02 * np.abs(np.log10(rates) + 3.5) + 0.01 * rng.normal(size=n_trials)
    sets = pd.DataFrame({"number": np.repeat(number, len(rungs)), "epoch": np.tile(rungs, n_trials)})
    lpips, n_each = quality[sets["number"]] + 1 / sets["epoch"], N_PROMPTS * n_noises
    keys = [f"e{n:06d}-{epoch:03d}" for n, epoch in sets.itertuples(index=False)]
    configurations = [json.dumps({"guidance": guidances[n], "steps": 20, "prompts": [f"p{i}" for i in range(N_PROMPTS)]}) for n in sets["number"]]
    networks = {"perceptual_backbone": "lpips:alex", "pooled_backbone": "inception", "n_images": n_each, "n_references": 151}
    values = {"lpips": lpips, "fid": 200 * lpips, "kid": lpips, "objective": lpips, "seconds_generate": 1.0, "seconds_score": 0.1}
    named = {"evaluation_key": keys, "training_key": [f"k{n}" for n in sets["number"]], "epoch": sets["epoch"], "configuration": configurations}
    stamps = {"schema_version": SCHEMA_VERSION, "created_at": 1.0}
    _write(folder, EVALUATIONS, pd.DataFrame({**named, **values, **networks, **stamps}))
    rows = [
        {
            "trial": f"t{n:06d}",
            "number": n,
            "state": "COMPLETE",
            "configuration": json.dumps({"caption": f"v{captions[n] + 1}", "guidance": guidances[n], "learning_rate": rates[n]}),
            "labels": json.dumps({"baseline": True} if n == 0 else {}),
            "epochs": rungs[-1],
            "best_epoch": rungs[-1],
            "objective": lpips[n * len(rungs) + len(rungs) - 1],
            "rung_values": json.dumps([[epoch, lpips[n * len(rungs) + i], keys[n * len(rungs) + i]] for i, epoch in enumerate(rungs)]),
        }
        for n in number
    ]
    _write(folder, TRIALS, pd.DataFrame(rows).assign(sequence=0, schema_version=SCHEMA_VERSION))
    n_sets, pairs = len(keys), np.arange(n_each)
    images = {
        "evaluation_key": np.repeat(keys, n_each),
        "index": np.tile(pairs, n_sets),
        "prompt": np.tile([f"a photo of the subject, prompt {i // n_noises}" for i in pairs], n_sets),
        "seen": np.tile(pairs // n_noises < N_PROMPTS // 2, n_sets),
        "seed": np.tile(pairs % n_noises, n_sets),
        "lpips": np.repeat(lpips.to_numpy(), n_each) + 0.05 * rng.normal(size=n_each * n_sets),
    }
    has_path = pictured & np.repeat(sets["epoch"].eq(rungs[-1]).to_numpy(), n_each)
    paths = [f"pictures/{key}/{i:03d}.png" if has else None for key, i, has in zip(images["evaluation_key"], images["index"], has_path)]
    _write(folder, IMAGES, pd.DataFrame(images).assign(path=paths))


def _write(folder: Path, table: Table, frame: pd.DataFrame) -> None:
    part = folder / "records" / table.name / "compact-000001.parquet"
    part.parent.mkdir(parents=True)
    arrow = pa.Table.from_pandas(frame.reindex(columns=list(table.columns)), preserve_index=False)
    pq.write_table(arrow.cast(table.schema), part, compression="zstd")


def _seconds(work: Callable[[], object]) -> tuple[str, object]:
    """Wall seconds, and those of the processor, which a busy machine does not stretch."""
    started, started_cpu = time.perf_counter(), time.process_time()
    found = work()
    return f"{time.perf_counter() - started:6.2f} s   processor {time.process_time() - started_cpu:6.2f} s", found


if __name__ == "__main__":
    main()
