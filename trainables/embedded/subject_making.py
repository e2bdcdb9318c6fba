"""Draws the built-in subject: one person that no model of the family was pretrained on, as a folder of images and captions.

Only here are its sizes decided; the format is the one that users' subjects have (metadata.jsonl beside the images)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.embedded.captions import detailed_tags, sentence, simplified_tags
from trainables.embedded.people import sample_skewed_attributes, subject_identity
from trainables.embedded.render import render

TRIGGER = "J3NN13"
N_TRAIN, N_HELD_OUT = 151, 40


def write_subject(folder: Path, *, seed: int = 1913) -> None:
    """train/0000.png ..., heldout/0000.png ..., metadata.jsonl and subject.json: photographs of the one person."""
    rng, who, lines = np.random.default_rng(seed), subject_identity(), []
    for split, n in (("train", N_TRAIN), ("heldout", N_HELD_OUT)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            attributes = sample_skewed_attributes(rng)
            name = f"{split}/{i:04d}.png"
            Image.fromarray(render(who, attributes, style="photo", rng=rng)).save(folder / name, optimize=True)
            captions = {
                "v2": detailed_tags(attributes, TRIGGER),
                "v3": simplified_tags(attributes, TRIGGER, rng=rng),
                "v4": sentence(attributes, TRIGGER, rng=rng),
            }
            lines.append(json.dumps({"file_name": name, "split": split, "captions": captions}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    about = {"trigger": TRIGGER, "name": "J3NN13, the built-in subject", "class_word": "person"}
    (folder / "subject.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
