"""What a working thread does is noted where time passes, by the device's own work too, and any other thread can read it."""

import math
import threading
from dataclasses import replace

import pytest

from trainables.activity import Activity, Phase, Watch, beat, note, within
from trainables.config import EvalConfig, TrainConfig
from trainables.evaluate import EvaluationRequest, Evaluator
from trainables.frozen import FrozenWork
from trainables.pack import Pack
from trainables.probe import probe_pack_size
from trainables.subject import load_subject


class Listing(Watch):
    """Keeps every activity in words."""

    said: list[str]

    def __setattr__(self, name, value) -> None:
        if name == "activity":
            self.__dict__.setdefault("said", []).append(str(value))
        super().__setattr__(name, value)


@pytest.fixture
def watch():
    listing = Listing()
    with listing.watching():
        yield listing


def test_an_activity_says_what_is_under_way():
    assert str(Activity(Phase.TRAINING, "3 together", "step", 13, 38)) == "training 3 together, step 14 of 38"
    assert str(Activity(Phase.SCORING, unit="picture", done=40, total=40)) == "scoring, picture 40 of 40"
    assert str(Activity(Phase.WAITING, "for trainings")) == "waiting for trainings"


def test_what_is_noted_within_something_is_a_part_of_it(watch):
    with within(Phase.MEASURING, "S=8"):
        note(Phase.TRAINING, "8 together", unit="step", done=0, total=3)
    assert watch.said[-2:] == ["measuring the size of a pack S=8", "measuring the size of a pack S=8, step 1 of 3"]
    note(Phase.TRAINING)
    assert watch.said[-1] == "training"


def test_another_thread_reads_what_this_one_notes_and_notes_nothing_itself(watch):
    note(Phase.SCORING, "pictures")
    n_notes = watch.n_notes
    beat()
    assert watch.n_notes == n_notes + 1
    other = threading.Thread(target=lambda: note(Phase.LOADING, "elsewhere"))
    other.start()
    other.join()
    assert str(watch.activity) == "scoring pictures" and watch.n_notes == n_notes + 1
    with Watch().watching():
        note(Phase.LOADING, "another's")
    assert str(watch.activity) == "scoring pictures"


CONFIG = TrainConfig(train_model="embedded:base", subject="embedded:subject", rank=2, batch=8)


def test_loading_encoding_measuring_training_denoising_and_scoring_are_noted_as_they_are_done(watch):
    subject = load_subject("embedded:subject")
    n_steps = math.ceil(len(subject.train) / CONFIG.batch)
    frozen = FrozenWork("cpu", None)
    probe_pack_size(frozen, CONFIG, subject, largest=1)
    assert {"loading embedded:base, unet", "loading embedded:base, vae", "loading embedded:base, text_encoder"} <= set(watch.said)
    # What is measured encodes, too: it stays a part of measuring.
    assert watch.said[-1].startswith("measuring the size of a pack S=1, step ")
    pack = Pack(frozen.parts("embedded:base", None, CONFIG.dtype), frozen)
    pack.add("a", CONFIG, subject)
    pack.add("b", CONFIG, subject)
    watch.said.clear()
    pack.advance(max_steps=1)
    pack.advance(max_steps=1)
    assert watch.said == [f"training 2 together, step {step} of {n_steps}" for step in (1, 2)]
    watch.said.clear()
    config = replace(EvalConfig(), infer_model="embedded:base", steps=3, images_per_prompt=1)
    request = EvaluationRequest("k", pack.adapter("a"), config, subject)
    n = config.n_images
    Evaluator(frozen, heldout_loss=False).evaluate([request, replace(request, key="l")])
    assert [f"denoising {2 * n} pictures, step {step} of 3" for step in (1, 2, 3)] == [s for s in watch.said if s.startswith("denoising")]
    assert [s for s in watch.said if s.startswith("scoring")] == [f"scoring, picture {1 + k * n} of {2 * n}" for k in range(2)]


def test_encoding_says_which_image_it_is_at(watch):
    subject, frozen = load_subject("embedded:subject"), FrozenWork("cpu", None)
    frozen.latents(frozen.parts("embedded:base", None, "float32"), subject, flip=False)
    said = [s for s in watch.said if s.startswith("encoding")]
    n = len(subject.train)
    assert said == [f"encoding images, image {start + 1} of {n}" for start in range(0, n, 32)]
