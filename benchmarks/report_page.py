"""Time, memory and size of a large study's table and report: synthetic records, a million image rows in few large sets and in many small ones.

    python -m benchmarks.report_page [--write]

The records, and pictures of 512 pixels at the last rung, are made outside of the timed part. Each command is a process of its own, with
interpreter and imports, and the peak is that process's resident memory."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.analysis_scale import N_PROMPTS, write_records
from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report

SHAPES = ((10_000, (90,), 10), (1_000, (90,), 100), (2_000, (10, 90), 25), (64, (10, 30, 90), 2))
"""Trials, rungs, noises under each of the 10 prompts."""

N_PICTURED = 20
PIXELS = 512
N_DISTINCT = 24  # picture files; every further one is a link to one of them


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_page", description=__doc__.splitlines()[0])
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    lines = [line for shape in SHAPES for line in _lines_of(*shape)]
    report("python -m benchmarks.report_page", "The report of a large study", lines, write=arguments.write, facts=facts)


def _lines_of(n_trials: int, rungs: tuple[int, ...], n_noises: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "large"
        write_records(study, n_trials=n_trials, rungs=rungs, n_noises=n_noises, n_pictured=N_PICTURED)
        _write_pictures(study, [f"e{n:06d}-{rungs[-1]:03d}" for n in range(n_trials)])
        lines = [f"{n_trials:,} trials, {len(rungs)} rungs, {N_PROMPTS * n_noises} images each: {n_trials * len(rungs) * N_PROMPTS * n_noises:,} image rows"]
        for words in (["tables", str(study), "--csv"], ["report", str(study)]):
            lines.append(f"    analysis {words[0]:7} {_measured(words)}")
        return [*lines[:-1], f"{lines[-1]}   a page of {(study / 'report.html').stat().st_size / 1e6:.1f} MB"]


def _measured(words: list[str]) -> str:
    """Wall and processor seconds of the command and its peak of memory."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "analysis", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)  # of this process alone, where getrusage would tell of the largest so far
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"python -m analysis {' '.join(words)} failed with status {status}.")
    return f"{seconds:6.1f} s   processor {used.ru_utime + used.ru_stime:6.1f} s   peak {used.ru_maxrss / 1024**2:5.2f} GiB"  # KiB on Linux


def _write_pictures(study: Path, keys: list[str]) -> None:
    rng = np.random.default_rng(0)
    distinct = study / "pictures" / "distinct"
    distinct.mkdir(parents=True)
    for number in range(N_DISTINCT):  # coarse noise made larger: compresses about as a photograph does
        coarse = Image.fromarray(rng.integers(0, 256, (PIXELS // 8, PIXELS // 8, 3), dtype=np.uint8))
        coarse.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(distinct / f"{number}.png", compress_level=1)
    for place, key in enumerate(keys):
        (study / "pictures" / key).mkdir()
        for index in range(N_PICTURED):
            os.link(distinct / f"{(place * N_PICTURED + index) % N_DISTINCT}.png", study / "pictures" / key / f"{index:03d}.png")


if __name__ == "__main__":
    main()
