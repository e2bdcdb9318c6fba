"""A study with pictures whose grid can be followed by hand: five trials over caption, guidance and rank at two rungs, controls, a subject.

Every picture is one grey, so that it names its set; prompts with and without the trigger word have noise seeds of their own, as real ones."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from sweep.records import Records

TRIALS = [("v1", 2.0, 4, 0.5), ("v1", 6.0, 4, 0.4), ("v2", 2.0, 4, 0.3), ("v2", 6.0, 8, 0.2), ("v1", 2.0, 8, 0.6)]
"""Caption, guidance, rank and objective; t0003 is the best, and t0004 is more like it than t0000, which has the same caption and guidance."""

IMAGES = [("J3, smile", 11), ("J3, smile", 12), ("smile", 21), ("smile", 22)]
"""Prompts and noise seeds, by index."""


def write_pictured_study(folder: Path, *, names_nearest: bool = True) -> Path:
    """The study's folder, its subject beside it. Without `names_nearest` the image rows are as those of older schemas."""
    subject = _write_subject(folder.parent / "subject")
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"subject": str(subject)}))
    records = Records(folder, clock=lambda: 1.0)
    for guidance in (2.0, 6.0):
        _score(records, f"none-{guidance:g}", "none", 0, guidance, lpips=0.9, grey=250, names_nearest=names_nearest)
    for number, (caption, guidance, rank, objective) in enumerate(TRIALS):
        values = [(1, objective + 0.2), (3, objective)]
        for epoch, lpips in values:
            _score(records, f"e{number}-{epoch}", f"k{number}", epoch, guidance, lpips=lpips, grey=40 * number + 10 * epoch, names_nearest=names_nearest)
        ended = {"state": "COMPLETE", "epochs": 3, "best_epoch": 3, "objective": objective, "training_key": f"k{number}"}
        rungs = [[epoch, lpips, f"e{number}-{epoch}"] for epoch, lpips in values]
        configuration = {"caption": caption, "guidance": guidance, "rank": rank}
        row = {"study": folder.name, "trial": f"t{number:04d}", "number": number, "configuration": configuration}
        records.append_trial({**row, **ended, "rung_values": rungs})
    return folder


def _score(records: Records, key: str, training: str, epoch: int, guidance: float, *, lpips: float, grey: int, names_nearest: bool) -> None:
    (records.study_dir / "pictures" / key).mkdir(parents=True)
    images = []
    for index, (prompt, seed) in enumerate(IMAGES):
        path = f"pictures/{key}/{index}.png"
        Image.new("RGB", (16, 16), (grey + index,) * 3).save(records.study_dir / path)
        nearest = {"nearest_reference": "train/pale.png", "lpips_nearest": lpips / 2} if names_nearest else {}
        images.append({"prompt": prompt, "seed": seed, "lpips": lpips + 0.01 * index, "path": path, **nearest})
    row = {"evaluation_key": key, "training_key": training, "epoch": epoch, "configuration": {"guidance": guidance}}
    records.append_evaluation({**row, "lpips": lpips + 0.015, "fid": 100 * lpips, "objective": lpips, "n_images": len(images)}, images)


def _write_subject(folder: Path) -> Path:
    """Black and a pale grey to train on; the grey one, which would be nearest to most pictures, is held out."""
    for name, grey in {"train/black.png": 0, "train/pale.png": 245, "heldout/grey.png": 128}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (grey,) * 3).save(folder / name)
    (folder / "subject.json").write_text(json.dumps({"trigger": "J3"}))
    return folder
