"""What each idea saves: a study as it is, and with one idea left out at a time.

    python -m benchmarks.ablation [--rows paper24] [--epochs 2] [--write]

Left out are: the sharing of trainings (a seed of its own for each row), packing (one training at a time), the caches (latents and text
encoded anew for each training), batched evaluation (one image set at a time), a worker for every core (one worker with all of them
instead; on a CPU), and the long-lived process (a process for each row: computed from one that finds everything done, not run). The numbers are compared in benchmarks.study, not here."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from benchmarks.study import IMAGES_PER_PROMPT, STEPS, rows_of
from sweep import Epochs, Study
from sweep.runner import Launch, launch
from sweep.worker_actor import DeviceSpec, real_device


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", choices=("paper24", "listed64"), default="paper24")
    parser.add_argument("--epochs", type=int, default=2)
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    rows = rows_of(arguments.rows)
    whole = seconds_of(rows, arguments)
    without = {
        "shared trainings": seconds_of([{**row, "train_seed": i} for i, row in enumerate(rows)], arguments),
        "packing": seconds_of(rows, arguments, pack_size=1),
        "caches of latents and text": seconds_of(rows, arguments, make_device=forgetful_device),
        "batched evaluation": seconds_of(rows, arguments, make_device=one_by_one_device),
    }
    with mock.patch("sweep.sites.n_cpu_workers", lambda resources: 1):
        without["a worker for every core"] = seconds_of(rows, arguments)
    start_up_s = seconds_of_a_process()
    without["one process for all"] = whole + (len(rows) - 1) * start_up_s
    lines = [f"{len(rows)} configurations, {arguments.epochs} epochs each; wall time of a launch", f"{'as it is':36} {whole:8.1f} s"]
    lines += [f"{'without ' + name:36} {seconds:8.1f} s   {seconds / whole:5.2f}x" for name, seconds in without.items()]
    lines.append(f"(the last line is computed: a process that finds its only row done takes {start_up_s:.1f} s)")
    report("python -m benchmarks.ablation", f"Ablation on {len(rows)} configurations", lines, write=arguments.write, facts=facts)


def seconds_of(rows: list[dict], arguments: argparse.Namespace, **options) -> float:
    """Wall time of a launch of these rows in a fresh storage."""
    study = Study(
        name="ablation",
        rows=rows,
        epochs=Epochs(max=arguments.epochs),
        fixed={"steps": STEPS, "images_per_prompt": IMAGES_PER_PROMPT},
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        launch(study, Launch(Path(folder), **options))
        seconds = time.perf_counter() - started
    print(f"{options or 'as it is'}: {seconds:.1f} s", flush=True)
    return seconds


def forgetful_device(spec: DeviceSpec):
    """A device that keeps neither latents nor text embeddings."""
    from trainables.frozen import FrozenWork

    class Forgetful(FrozenWork):
        def latents(self, parts, subject, *, flip):
            self._latents.clear()
            return super().latents(parts, subject, flip=flip)

        def text(self, parts, texts):
            self._text.clear()
            return super().text(parts, texts)

    device = real_device(spec)
    device._frozen = Forgetful(spec.name, None)
    return device


def one_by_one_device(spec: DeviceSpec):
    """A device that scores one image set at a time."""
    device = real_device(spec)
    device.n_image_sets = 1
    return device


def seconds_of_a_process() -> float:
    """From starting to leaving a process that loads everything and finds its one configuration trained and scored."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.py"
        file.write_text("from sweep import Epochs, Study\nstudy = Study(rows=[{'rank': 4}], epochs=Epochs(max=1), fixed={'steps': 1, 'images_per_prompt': 1})\n")
        trial = [sys.executable, "-m", "sweep", "trial", str(file), "--storage", folder]
        subprocess.run(trial, check=True, stdout=subprocess.DEVNULL)
        started = time.perf_counter()
        subprocess.run(trial, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
