"""Evaluations together against alone, values against the definitions, failures that stay their own."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables.test_lora import random_adapter
from trainables.config import EvalConfig
from trainables.evaluate import EvaluationRequest, Evaluator
from trainables.frozen import FrozenWork
from trainables.lora import Adapter, SlotLoRA
from trainables.metrics import frechet_distance
from trainables.subject import load_pixels, load_subject


@pytest.fixture(scope="module")
def make_subject(tmp_path_factory):
    def make(n_train, n_heldout):
        folder = tmp_path_factory.mktemp("subject")
        rng = np.random.default_rng(n_train)
        rows = []
        for i in range(n_train + n_heldout):
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((64, 64)).save(folder / f"{i}.png")
            rows.append({"file_name": f"{i}.png", "split": "train" if i < n_train else "heldout", "captions": {}})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "subject.json").write_text(json.dumps({"trigger": "J3NN13", "name": "blocks", "class_word": "person"}))
        return load_subject(str(folder))

    return make


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(FrozenWork())


@pytest.fixture(scope="module")
def config(tiny_model_dir):
    return EvalConfig(infer_model=str(tiny_model_dir), prompts=("{trigger}, smile", "{trigger}, wink"), images_per_prompt=3, steps=3)


@pytest.fixture(scope="module")
def adapter(evaluator, config):
    return random_adapter(SlotLoRA(evaluator.frozen.parts(config.infer_model, None, "float32").unet).shapes, alpha=20.0)


def test_evaluations_together_equal_evaluations_alone(evaluator, config, adapter, make_subject):
    subject = make_subject(6, 4)
    requests = [EvaluationRequest("control", None, config, subject), EvaluationRequest("it", adapter, config, subject)]
    together = evaluator.evaluate(requests)
    alone = [evaluator.evaluate([request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        for name, value in other.values.items():
            assert one.values[name] == pytest.approx(value, rel=1e-3), name
    assert together[0].values["lpips"] != pytest.approx(together[1].values["lpips"], rel=1e-5)


def test_values_are_what_their_names_say(evaluator, config, adapter, make_subject):
    subject = make_subject(6, 4)
    result = evaluator.evaluate([EvaluationRequest("it", adapter, config, subject)])[0]
    assert result.counts == {"n_images": 6, "n_references": 6, "n_heldout": 4}
    assert result.backbones == {"perceptual": "embedded:perceptual", "pooled": "embedded:pooled"}
    assert result.values["lpips"] == pytest.approx(np.mean([row["lpips"] for row in result.image_rows]))
    assert result.values["lpips_nearest"] == pytest.approx(np.mean([row["lpips_nearest"] for row in result.image_rows]))
    assert all(row["lpips_nearest"] <= row["lpips"] for row in result.image_rows)
    for name, images in (("fid", subject.train), ("fid_heldout", subject.heldout)):
        reference = evaluator.pooled(load_pixels(images, 64))
        assert result.values[name] == pytest.approx(frechet_distance(reference, evaluator.pooled(result.images)), rel=1e-6)
    assert [row["prompt"] for row in result.image_rows] == ["J3NN13, smile"] * 3 + ["J3NN13, wink"] * 3


def test_stored_pictures_score_the_same(evaluator, config, adapter, make_subject, tmp_path):
    request = EvaluationRequest("it", adapter, config, make_subject(6, 4))
    result = evaluator.evaluate([request])[0]
    for i, image in enumerate(result.images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    read = np.stack([np.asarray(Image.open(tmp_path / f"{i}.png")) for i in range(len(result.images))])
    of_pictures = {name: value for name, value in result.values.items() if name != "heldout_loss"}
    assert evaluator.score(read, request, resolution=64).values == pytest.approx(of_pictures, rel=1e-9)


def test_the_subjects_own_images_score_zero_to_themselves(evaluator, config, make_subject):
    subject = make_subject(6, 4)
    scores = evaluator.score(load_pixels(subject.train, 64), EvaluationRequest("it", None, config, subject), resolution=64)
    assert scores.values["lpips_nearest"] == pytest.approx(0, abs=1e-6) and scores.values["fid"] == pytest.approx(0, abs=1e-3)
    assert [row["nearest_reference"] for row in scores.image_rows] == [image.file_name for image in subject.train]
    assert [row["nearest_index"] for row in scores.image_rows] == list(range(6))
    assert scores.facts["n_copies"] == 6 and all(row["is_copy"] for row in scores.image_rows)


def test_an_all_black_set_fails_alone(evaluator, config, adapter, make_subject):
    subject = make_subject(6, 4)
    # What diverged weights give: NaN latents, which a cast to bytes turns into black.
    broken = Adapter(adapter.rank, adapter.alpha, {p: (a, torch.full_like(b, math.nan)) for p, (a, b) in adapter.layers.items()})
    bad, good = evaluator.evaluate([EvaluationRequest("bad", broken, config, subject), EvaluationRequest("good", adapter, config, subject)])
    assert "black" in bad.error and bad.images is None and not bad.values
    assert good.error is None and math.isfinite(good.values["lpips"])


def test_without_held_out_images_there_are_no_held_out_values(evaluator, config, make_subject):
    result = evaluator.evaluate([EvaluationRequest("it", None, config, make_subject(5, 0))])[0]
    assert result.error is None and result.counts["n_heldout"] == 0
    assert not [name for name in result.values if "heldout" in name]
