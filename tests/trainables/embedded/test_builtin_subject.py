"""The subject that ships: 151 and 40 photographs of one person that pretraining never saw."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from trainables.embedded.corpus import identity_of
from trainables.embedded.family import FOLDER
from trainables.embedded.people import subject_identity
from trainables.embedded.stages import N_PEOPLE, SEED
from trainables.embedded.subject_making import TRIGGER, write_subject

SUBJECT = FOLDER / "subject"


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    return [json.loads(line) for line in (SUBJECT / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def test_there_are_151_to_train_on_and_40_held_out(lines: list[dict]):
    assert Counter(line["split"] for line in lines) == {"train": 151, "heldout": 40}
    assert all(line["file_name"].startswith(line["split"] + "/") for line in lines)
    assert sorted(line["file_name"] for line in lines) == sorted(str(f.relative_to(SUBJECT)) for f in SUBJECT.rglob("*.png"))


def test_every_image_is_a_distinct_64_pixel_png(lines: list[dict]):
    pixels = [np.asarray(Image.open(SUBJECT / line["file_name"])) for line in lines]
    assert {p.shape for p in pixels} == {(64, 64, 3)}
    assert len({p.tobytes() for p in pixels}) == len(lines)


def test_every_caption_version_names_the_trigger(lines: list[dict]):
    assert all(set(line["captions"]) == {"v2", "v3", "v4"} for line in lines)
    assert all(line["captions"][v].startswith(TRIGGER) for line in lines for v in ("v2", "v3"))
    assert all(TRIGGER in line["captions"]["v4"] for line in lines)
    assert json.loads((SUBJECT / "subject.json").read_text(encoding="utf-8"))["trigger"] == TRIGGER


def test_detailed_captions_are_longer_than_simplified_ones(lines: list[dict]):
    counts = [(line["captions"]["v2"].count(","), line["captions"]["v3"].count(",")) for line in lines]
    assert np.mean(counts, axis=0)[0] > 1.5 * np.mean(counts, axis=0)[1]


def test_the_subject_is_nobody_of_the_pretraining():
    who = subject_identity()
    for i in range(N_PEOPLE):
        other = identity_of(SEED, i)
        alike = np.abs(np.array(other.hair) - who.hair).max() < 25 and other.glasses == who.glasses and other.frame == who.frame
        assert not (alike and other.moles == who.moles)


def test_the_stored_subject_is_what_the_renderer_draws(tmp_path, lines: list[dict]):
    write_subject(tmp_path)
    assert (tmp_path / "metadata.jsonl").read_text() == (SUBJECT / "metadata.jsonl").read_text()
    again = np.stack([np.asarray(Image.open(tmp_path / line["file_name"])) for line in lines]).astype(int)
    stored = np.stack([np.asarray(Image.open(SUBJECT / line["file_name"])) for line in lines])
    assert np.abs(again - stored).mean() < 0.5  # another Pillow may round an edge otherwise
