"""Makes the embedded family from nothing: `python -m trainables.embedded.build`.

Takes about two hours on two cores. Each finished stage is kept in the work folder and not done again; delete the folder
to begin anew. The stages themselves are in stages.py."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trainables.embedded.family import FOLDER, size_mb
from trainables.embedded.stages import STAGES, START

BY_HAND = "\n## How these files differ from one run of the script\n"
"""Where the part of BUILD.md begins that is left as it is."""


def main(argv: Sequence[str] | None = None) -> None:
    """Does the stages that are asked for, or all that are not done, and writes BUILD.md beside the family."""
    parser = argparse.ArgumentParser(prog="python -m trainables.embedded.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the family is written; default: beside this file")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "embedded-build", help="checkpoints and caches")
    parser.add_argument("--stage", action="append", choices=STAGES, help="only this one, even if done before; may be repeated")
    parser.add_argument("--minutes-scale", type=float, default=1.0, help="0.01 for a trial of the script, 3 for a better family")
    parser.add_argument("--processes", type=int, default=2, help="how many train together; another number gives another family")
    parser.add_argument("--start", type=Path, metavar="FOLDER", help="begin with the weights of this family instead of at random")
    chosen = parser.parse_args(argv)
    chosen.work.mkdir(parents=True, exist_ok=True)
    if chosen.start and not (chosen.work / START).exists():
        shutil.copytree(chosen.start / "base", chosen.work / START / "base")  # a copy: --out may be the same folder
    for name, stage in STAGES.items():
        done = chosen.work / f"{name}.done.json"
        if name not in (chosen.stage or STAGES) or (done.exists() and not chosen.stage):
            continue
        started = time.monotonic()
        facts = stage(chosen.work, chosen.out, scale=chosen.minutes_scale, processes=chosen.processes)
        minutes = round((time.monotonic() - started) / 60, 1)
        done.write_text(json.dumps({"minutes": minutes, **facts}), encoding="utf-8")
        print(f"{name} done in {minutes} minutes: {facts}", flush=True)
    notes = chosen.out / "BUILD.md"
    _, mark, by_hand = notes.read_text(encoding="utf-8").partition(BY_HAND) if notes.exists() else ("", "", "")
    notes.write_text(build_notes(chosen.work, chosen.out) + mark + by_hand, encoding="utf-8")


def build_notes(work: Path, out: Path) -> str:
    """How the family was made, from the marks of its stages."""
    lines = ["# How this family was made", "", "By `python -m trainables.embedded.build`, which writes all of this but a last section by hand.", ""]
    lines += [
        f"- machine: {machine()}",
        f"- versions: {versions()}",
        f"- size: {size_mb(out):.1f} MB in all",
        "",
        "| stage | minutes | facts |",
        "|---|---|---|",
    ]
    for name in STAGES:
        mark = work / f"{name}.done.json"
        if mark.exists():
            facts = json.loads(mark.read_text(encoding="utf-8"))
            lines.append(f"| {name} | {facts.pop('minutes')} | {'; '.join(f'{k}: {v}' for k, v in facts.items())} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The processor in words."""
    cpuinfo = Path("/proc/cpuinfo")  # of Linux
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, no GPU used"


def versions() -> str:
    """Python and the packages that decide the numbers."""
    packages = ("torch", "diffusers", "transformers", "tokenizers", "pillow", "numpy")
    return ", ".join([f"Python {platform.python_version()}", *(f"{p} {importlib.metadata.version(p)}" for p in packages)])


if __name__ == "__main__":
    main()
