"""A small study whose numbers can be followed by hand: four trials at two rungs, a failed one, a running one, a control."""

from __future__ import annotations

import pytest
from PIL import Image

from sweep.records import Records

from .pictured import write_pictured_study

N_PROMPTS, N_SEEDS = 5, 4
ATTACK = "</script><img src=x onerror=\"window.hurt=1\"><!--<script>"
NETWORKS = {"perceptual_backbone": "embedded:perceptual", "pooled_backbone": "embedded:pooled"}


@pytest.fixture
def study_dir(tmp_path):
    """LPIPS of trial n at its best rung is 0.6 - 0.1 n for every image, plus 0.01 x the image's seed: differences are exact."""
    records = Records(tmp_path / "captions", clock=lambda: 1.0)
    _score(records, "control", "none", 0, lpips=0.9, fid=90.0, objective=0.95)
    for number, (caption, rank) in enumerate([("v1", 4), ("v1", 16), ("v2", 4), ("v2", 16)]):
        trial = _trial(number, {"caption": caption, "rank": rank, "guidance": 3.0}, {"baseline": True} if number == 0 else {})
        records.append_trial({**trial, "state": "RUNNING"})
        values = [(3, 0.8 - 0.1 * number), (6, 0.6 - 0.1 * number)]
        for epoch, lpips in values:
            _score(records, f"e{number}-{epoch}", f"k{number}", epoch, lpips=lpips, fid=100 * lpips, objective=lpips)
        rungs = [[epoch, lpips, f"e{number}-{epoch}"] for epoch, lpips in values]
        ended = {"epochs": 6, "best_epoch": 6, "objective": values[1][1], "rung_values": rungs}
        records.append_trial({**trial, "state": "COMPLETE", **ended})
    records.append_trial({**_trial(4, {"caption": "v1", "rank": 4, "guidance": 3.0}, {}), "state": "FAIL", "reason": "loss is NaN"})
    records.append_trial({**_trial(5, {"caption": "v1", "rank": 4, "guidance": 3.0}, {}), "state": "RUNNING"})
    return records.study_dir


def _trial(number: int, configuration: dict, labels: dict) -> dict:
    return {"study": "captions", "trial": f"t{number:04d}", "number": number, "configuration": configuration, "labels": labels}


def _score(records: Records, key: str, training: str, epoch: int, *, lpips: float, fid: float, objective: float) -> None:
    images = [
        {"prompt": f"p{p}", "seen": True, "seed": s, "lpips": lpips + 0.01 * s} for p in range(N_PROMPTS) for s in range(N_SEEDS)
    ]
    configuration = {"guidance": 3.0, "infer_model": "embedded:base"}
    row = {"evaluation_key": key, "training_key": training, "epoch": epoch, "configuration": configuration}
    counts = {"n_images": len(images), "n_references": 151, "n_heldout": 40}
    records.append_evaluation({**row, **counts, **NETWORKS, "lpips": lpips + 0.015, "fid": fid, "objective": objective, "dino": 0.5}, images)


@pytest.fixture
def pictured(tmp_path):
    return write_pictured_study(tmp_path / "pictured")


@pytest.fixture
def attacked(tmp_path):
    """A study whose name, prompt, captions (an axis of its grid) and reason try to become markup."""
    folder = tmp_path / "x<img src=y onerror=hurt=1>@@PROGRAM@@"
    records = Records(folder, clock=lambda: 1.0)
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    for number in range(3):
        key = f"e{number}"
        image = {"prompt": ATTACK, "seed": 1, "lpips": 0.1 * number, "path": "p.png"}
        records.append_evaluation({"evaluation_key": key, "training_key": f"k{number}", "epoch": 3, "lpips": 0.1 * number, "n_images": 1}, [image])
        configuration = {"caption": ATTACK if number == 0 else f"{ATTACK}{number}", "rank": [16, 4, 8][number]}
        ended = {"state": "COMPLETE", "epochs": 3, "best_epoch": 3, "objective": 0.1 * number, "rung_values": [[3, 0.1 * number, key]]}
        records.append_trial({"study": "s", "trial": f"t{number:04d}", "number": number, "configuration": configuration, **ended})
    records.append_trial({"study": "s", "trial": "t0003", "number": 3, "configuration": {}, "state": "FAIL", "reason": ATTACK})
    return folder
