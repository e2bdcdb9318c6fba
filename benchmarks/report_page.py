"""Time, memory and size of a large study's table and report: synthetic records, a million image rows in few large sets and in many small ones.

    python -m benchmarks.report_page [--write]

The records, and a picture file of 512 pixels for every image of the last rung, are made outside of the timed part. Each command is a process of
its own, with interpreter and imports, and the peak is of its resident memory, which Linux tells."""

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

SHAPES = ((10_000, (90,), 10), (1_000, (90,), 100), (64, (10, 30, 90), 2))
"""Trials, rungs, noises under each of the 10 prompts."""

PIXELS = 512
PROCESS_STATUS = Path("/proc/self/status")
_RUN = f"""import runpy, sys
try:
    runpy.run_module("analysis", run_name="__main__")
finally:
    print(next(line for line in open("{PROCESS_STATUS}") if line.startswith("VmHWM")), file=sys.stderr)
"""
# Not getrusage: its peak begins with that of the process that started this one.

N_DISTINCT = 24  # picture files; every further one is a link to one of them, of which a file system allows some 65,000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_page", description=__doc__.splitlines()[0])
    add_write_flag(parser)
    arguments = parser.parse_args()
    if not PROCESS_STATUS.exists():
        parser.error(f"the peak of memory is read from {PROCESS_STATUS}, which only Linux has")
    facts = machine()
    lines = [line for shape in SHAPES for line in _lines_of(*shape)]
    report("python -m benchmarks.report_page", "The report of a large study", lines, write=arguments.write, facts=facts)


def _lines_of(n_trials: int, rungs: tuple[int, ...], n_noises: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "large"
        write_records(study, n_trials=n_trials, rungs=rungs, n_noises=n_noises, pictured=True)
        _write_pictures(study, [f"e{n:06d}-{rungs[-1]:03d}" for n in range(n_trials)], N_PROMPTS * n_noises)
        lines = [f"{n_trials:,} trials, {len(rungs)} {'rung' if len(rungs) == 1 else 'rungs'}, {N_PROMPTS * n_noises} images each: {n_trials * len(rungs) * N_PROMPTS * n_noises:,} image rows"]
        for words in (["tables", str(study), "--csv"], ["report", str(study)]):
            lines.append(f"    analysis {words[0]:7} {_measured(words)}")
        return [*lines[:-1], f"{lines[-1]}   a page of {(study / 'report.html').stat().st_size / 1e6:.1f} MB"]


def _measured(words: list[str]) -> str:
    """Wall and processor seconds of the command and its peak of memory."""
    before, started = os.times(), time.perf_counter()
    finished = subprocess.run([sys.executable, "-c", _RUN, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds, after = time.perf_counter() - started, os.times()
    processor_s = after.children_user + after.children_system - before.children_user - before.children_system
    peak_kib = int(finished.stderr.split()[-2])
    return f"{seconds:6.1f} s   processor {processor_s:6.1f} s   peak {peak_kib / 1024**2:5.2f} GiB"


def _write_pictures(study: Path, keys: list[str], n_each: int) -> None:
    rng = np.random.default_rng(0)
    distinct = study / "pictures" / "distinct"
    distinct.mkdir(parents=True)
    for number in range(N_DISTINCT):  # coarse noise made larger: compresses about as a photograph does
        coarse = Image.fromarray(rng.integers(0, 256, (PIXELS // 8, PIXELS // 8, 3), dtype=np.uint8))
        coarse.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(distinct / f"{number}.png", compress_level=1)
    for place, key in enumerate(keys):
        (study / "pictures" / key).mkdir()
        for index in range(n_each):
            os.link(distinct / f"{(place * n_each + index) % N_DISTINCT}.png", study / "pictures" / key / f"{index:03d}.png")


if __name__ == "__main__":
    main()
