"""Evaluations together against alone, values against the definitions, failures that stay their own."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables.networks import write_clip
from tests.trainables.test_lora import random_adapter
from trainables import evaluate
from trainables.config import EvalConfig
from trainables.evaluate import EvaluationRequest, Evaluator
from trainables.frozen import FrozenWork
from trainables.lora import Adapter, SlotLoRA
from trainables.metrics import frechet_distance, kernel_distance
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
            rows.append({"file_name": f"{i}.png", "split": "train" if i < n_train else "heldout", "captions": {"v2": "J3NN13, Smile"}})
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


def test_without_held_out_images_the_loss_is_skipped_with_a_reason(evaluator, config, adapter, make_subject):
    with_them, without = (evaluator.evaluate([EvaluationRequest("it", adapter, config, make_subject(5, n))])[0] for n in (3, 0))
    assert with_them.values["heldout_loss"] > 0 and "heldout_loss" not in with_them.facts["skipped"]
    assert "heldout_loss" not in without.values and without.facts["skipped"]["heldout_loss"] == "the subject has no held-out images"


def test_evaluations_of_one_adapter_share_its_held_out_loss(config, adapter, make_subject, monkeypatch):
    asked, subject, fresh = [], make_subject(5, 3), Evaluator(FrozenWork())
    real = evaluate.heldout_losses
    monkeypatch.setattr(evaluate, "heldout_losses", lambda parts, frozen, adapters, of: (asked.append(len(adapters)), real(parts, frozen, adapters, of))[1])
    by_guidance = [EvaluationRequest(f"g{g}", adapter, replace(config, guidance=g), subject, "k@3") for g in (1.5, 4.0)]
    first = fresh.evaluate([*by_guidance, EvaluationRequest("control", None, config, subject)])
    later = fresh.evaluate([EvaluationRequest("g9", adapter, replace(config, guidance=9.0), subject, "k@3")])
    assert asked == [2]
    losses = [result.values["heldout_loss"] for result in (*first, *later)]
    assert losses[0] == losses[1] == losses[3] != losses[2]
    # Without a name a request's adapter is its own, also where the key comes again.
    other = Adapter(adapter.rank, -adapter.alpha, adapter.layers)
    one, two = (fresh.evaluate([EvaluationRequest("same", it, config, subject)])[0].values["heldout_loss"] for it in (adapter, other))
    assert one == pytest.approx(losses[0], rel=1e-6) and two != pytest.approx(one, rel=1e-4)


def test_every_value_has_its_n_and_interval_and_groups_are_those_of_their_pictures_alone(evaluator, config, make_subject):
    subject = make_subject(6, 4)
    # What is declared labels nothing.
    mixed = replace(config, prompts=({"text": "{trigger}, smile", "seen": False}, {"text": "a photo of {trigger}"}))
    result = evaluator.evaluate([EvaluationRequest("it", None, mixed, subject, caption="v2")])[0]
    assert (result.facts["n_seen"], result.facts["n_unseen"]) == (3, 3)
    assert [row["seen"] for row in result.image_rows] == [True] * 3 + [False] * 3
    assert result.facts["seen_prompts"] == {"v1": [False, False], "v2": [True, False]}
    assert result.facts["groups"]["v2"] == pytest.approx({name: result.values[name] for name in result.facts["groups"]["v2"]})
    # A control is compared with trials of any version: under v1, which has seen none of these words, all its pictures are unseen.
    of_v1 = result.facts["groups"]["v1"]
    assert set(of_v1) == {"lpips_unseen", "fid_unseen", "kid_unseen"}
    assert of_v1 == pytest.approx({f"{name}_unseen": result.values[name] for name in ("lpips", "fid", "kid")})
    pooled, train = evaluator.pooled(result.images), evaluator.pooled(load_pixels(subject.train, 64))
    lpips = np.array([row["lpips"] for row in result.image_rows])
    for group, rows in (("seen", slice(0, 3)), ("unseen", slice(3, 6))):
        assert result.values[f"lpips_{group}"] == pytest.approx(lpips[rows].mean())
        assert result.values[f"fid_{group}"] == pytest.approx(frechet_distance(train, pooled[rows]))
        assert result.values[f"kid_{group}"] == pytest.approx(kernel_distance(train, pooled[rows]))
    for name in ("lpips", "lpips_nearest", "lpips_heldout", "fid", "kid", "fid_heldout", "kid_heldout"):
        low, high, n = result.facts["intervals"][name]
        assert low <= result.values[name] <= high and n == 6
    assert result.facts["intervals"]["lpips_seen"] == [None, None, 3]  # too few for bounds
    assert "6" in result.facts["skipped"]["fid_inf"] and result.facts["n_copies"] == 0


def test_a_set_of_seen_prompts_has_no_unseen_values(evaluator, config, make_subject):
    config = replace(config, prompts=("{trigger}, smile", "{trigger}"))
    result = evaluator.evaluate([EvaluationRequest("it", None, config, make_subject(5, 0), caption="v2")])[0]
    assert result.facts["n_unseen"] == 0 and not [name for name in result.values if name.endswith("_unseen")]
    assert result.values["lpips_seen"] == result.values["lpips"] and result.values["fid_seen"] == result.values["fid"]


def test_further_metrics_join_values_image_rows_and_networks_and_missing_ones_are_skipped(config, make_subject, tmp_path):
    subject, folder = make_subject(5, 3), write_clip(tmp_path / "clip")
    further = Evaluator(FrozenWork(), further=[f"clip_i={folder}", f"clip_t={folder}", "dinov2=/nowhere"])
    result = further.evaluate([EvaluationRequest("it", None, config, subject, caption="v2")])[0]
    of_rows = [row["further_metrics"] for row in result.image_rows]
    for name in ("clip_i", "clip_i_heldout", "clip_t"):
        assert result.values[name] == pytest.approx(np.mean([row[name] for row in of_rows])) and result.facts["intervals"][name][2] == 6
    assert result.values["clip_t_seen"] == pytest.approx(np.mean([row["clip_t"] for row in of_rows[:3]]))
    assert result.values["clip_t_unseen"] == pytest.approx(np.mean([row["clip_t"] for row in of_rows[3:]]))
    assert result.backbones["clip_t"].startswith("clip sha256:") and "/nowhere" in result.facts["skipped"]["dinov2"]
    plain = Evaluator(FrozenWork()).evaluate([EvaluationRequest("it", None, config, subject, caption="v2")])[0]
    assert result.values == {**result.values, **plain.values}  # further metrics change no other value


def test_the_class_word_belongs_to_the_value_of_clip_t_alone(config, make_subject, tmp_path):
    subject, folder = make_subject(5, 3), write_clip(tmp_path / "clip")
    further = Evaluator(FrozenWork(), further=[f"clip_i={folder}", f"clip_t={folder}"])
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    request = EvaluationRequest("it", None, config, subject)
    person, dog, none = (
        further.score_further(images, replace(request, subject=replace(subject, class_word=word)), resolution=64) for word in ("person", "dog", "")
    )
    assert len({scores.values["clip_t"] for scores in (person, dog, none)}) == 3
    assert person.values["clip_i"] == dog.values["clip_i"] and person.networks["clip_i"] == dog.networks["clip_i"]
    assert person.networks["clip_t"] == f"{none.networks['clip_t']}, class word 'person'" != dog.networks["clip_t"]


def test_held_out_photographs_score_as_if_they_were_generated(evaluator, config, make_subject):
    subject = make_subject(6, 9)
    result = evaluator.score_photographs("it", subject, config)
    heldout, train = load_pixels(subject.heldout, 64), load_pixels(subject.train, 64)
    # By themselves, as pictures of nine seeds of one prompt, where FID is over all of them.
    nine = replace(config, prompts=("{trigger}",), images_per_prompt=9)
    as_pictures = evaluator.score(heldout, EvaluationRequest("x", None, nine, subject), resolution=64)
    for name in ("lpips", "lpips_nearest"):
        assert result.values[name] == pytest.approx(as_pictures.values[name], rel=1e-9)
        assert result.facts["intervals"][name] == pytest.approx(as_pictures.intervals[name])
    assert result.counts == {"n_images": 9, "n_references": 6, "n_heldout": 9} and result.images is None
    assert [row["prompt"] for row in result.image_rows] == [image.file_name for image in subject.heldout]
    # FID and KID over as many as a trial has pictures: the same draw each time, and one of the subsets of that size.
    features, reference = evaluator.pooled(heldout), evaluator.pooled(train)
    subsets = [frechet_distance(reference, features[list(rows)]) for rows in itertools.combinations(range(9), 6)]
    assert min(abs(value - result.values["fid"]) for value in subsets) < 1e-6
    assert result.facts["intervals"]["fid"][2] == result.facts["intervals"]["kid"][2] == 6
    assert evaluator.score_photographs("it", subject, config).values == result.values
    assert not [name for name in result.values if "heldout" in name or "seen" in name]


def test_fewer_held_out_photographs_than_pictures_have_no_fid_and_say_why(evaluator, config, make_subject):
    result = evaluator.score_photographs("it", make_subject(6, 5), config)
    assert "fid" not in result.values and "kid" not in result.values and result.values["lpips"] > 0
    assert result.facts["skipped"]["fid"] == "it needs as many held-out photographs as a trial has pictures, 6, and there are 5"


def test_similarities_of_photographs_are_to_the_training_images(config, make_subject, tmp_path):
    subject, folder = make_subject(5, 3), write_clip(tmp_path / "clip")
    further = Evaluator(FrozenWork(), further=[f"clip_i={folder}", f"clip_t={folder}"])
    result = further.score_photographs("it", subject, config)
    three = replace(config, prompts=("{trigger}",), images_per_prompt=3)
    wanted = further.score_further(load_pixels(subject.heldout, 64), EvaluationRequest("x", None, three, subject), resolution=64)
    assert result.values["clip_i"] == pytest.approx(wanted.values["clip_i"]) and "clip_t" not in result.values
    assert "no prompts" in result.facts["skipped"]["clip_t"]
