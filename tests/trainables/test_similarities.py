"""Similarities against plain computations with transformers' own models and image processors, on the same small random networks."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Dinov2Model

from tests.trainables.networks import write_clip, write_dinov2
from tests.trainables.test_features import pictures
from trainables import metric_weights
from trainables.errors import ModelError
from trainables.faces import FaceImages
from trainables.features import ReferenceImages, References
from trainables.metric_weights import FACE_DETECTOR, FACE_RECOGNISER, find_metric_weights
from trainables.similarities import ReferenceSimilarity, load_similarities

PROMPTS = ["person, smile", "person, wink", "person, smile"]


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return write_dinov2(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def as_pil(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]


def values_of(text: str, generated: np.ndarray, sides: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    (metric,), skipped = load_similarities([text], "cpu")
    assert not skipped
    return metric.values(generated, PROMPTS, {ending: ReferenceImages(images) for ending, images in sides.items()}, References())


@torch.no_grad()
def test_dinov2_is_the_mean_cosine_to_the_references(dinov2):
    generated, train, heldout = pictures(3, seed=1), pictures(5, seed=2), pictures(2, seed=3)
    model, processor = Dinov2Model.from_pretrained(dinov2).eval(), AutoImageProcessor.from_pretrained(dinov2)

    def embeddings(images):
        return model(**processor(images=as_pil(images), return_tensors="pt")).last_hidden_state[:, 0]  # the class token, normed

    found = values_of(f"dinov2={dinov2}", generated, {"": train, "_heldout": heldout})
    assert set(found) == {"dinov2", "dinov2_heldout"}
    for name, side in (("dinov2", train), ("dinov2_heldout", heldout)):
        pairs = F.cosine_similarity(embeddings(generated)[:, None], embeddings(side)[None], dim=-1)
        assert found[name] == pytest.approx(pairs.mean(1).numpy(), abs=1e-5)
    assert np.ptp(found["dinov2"]) > 1e-3


@torch.no_grad()
def test_clip_compares_images_with_references_and_with_their_prompts(clip):
    generated, train = pictures(3, seed=1), pictures(5, seed=2)
    model, processor, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoImageProcessor.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    outputs = model(**tokenizer(PROMPTS, padding=True, return_tensors="pt"), **processor(images=as_pil(generated), return_tensors="pt"))
    of_train = model.get_image_features(**processor(images=as_pil(train), return_tensors="pt")).pooler_output
    to_train = F.cosine_similarity(outputs.image_embeds[:, None], of_train[None], dim=-1).mean(1)
    to_prompts = F.cosine_similarity(outputs.image_embeds, outputs.text_embeds, dim=-1)
    assert values_of(f"clip_i={clip}", generated, {"": train})["clip_i"] == pytest.approx(to_train.numpy(), abs=1e-5)
    assert values_of(f"clip_t={clip}", generated, {"": train})["clip_t"] == pytest.approx(to_prompts.numpy(), abs=1e-5)


def test_what_is_loaded_leaves_the_global_generator_alone_and_one_network_serves_both_clip_metrics(clip):
    before = torch.random.get_rng_state()
    (i, t), _ = load_similarities([f"clip_i={clip}", f"clip_t={clip}"], "cpu")
    assert i.embed is t.embed and i.network == t.network and i.network.startswith(f"{clip.name} sha256:")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_picture_without_a_face_counts_as_zero_and_faces_are_compared_by_direction():
    axes = {0: np.array([2.0, 0.0]), 1: np.array([0.0, 3.0])}
    embed = FaceImages("by hand", lambda image: axes.get(int(image[0, 0, 0])))
    images = {value: np.full((1, 32, 32, 3), value, np.uint8) for value in (0, 1, 9)}
    metric, train = ReferenceSimilarity("face", "by hand", embed), np.concatenate([images[0], images[0], images[1], images[9]])
    found = metric.values(np.concatenate([images[0], images[9]]), ["", ""], {"": ReferenceImages(train)}, References())["face"]
    assert found.tolist() == pytest.approx([2 / 3, 0])
    assert metric.values(images[9], [""], {"": ReferenceImages(train)}, References())["face"].tolist() == [0]
    assert metric.values(images[0], [""], {"": ReferenceImages(images[9])}, References()) == {}


def test_opencvs_networks_get_what_they_expect(tmp_path, monkeypatch):
    """The package is no dependency: a stand-in with its signatures, which sees one small and one large face."""
    calls = []
    small, large = np.array([0, 0, 4, 4] + [0] * 11, np.float32), np.array([8, 8, 9, 9] + [0] * 11, np.float32)
    detector = types.SimpleNamespace(setInputSize=lambda size: calls.append(size), detect=lambda image: (1, np.stack([small, large])))
    recogniser = types.SimpleNamespace(
        alignCrop=lambda image, face: (calls.append((image[0, 0].tolist(), face[0])), image)[1], feature=lambda face: np.ones((1, 128), np.float32)
    )
    fake = types.SimpleNamespace(
        FaceDetectorYN=types.SimpleNamespace(create=lambda path, config, size: detector),
        FaceRecognizerSF=types.SimpleNamespace(create=lambda path, config: recogniser),
        error=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    monkeypatch.setattr(metric_weights.importlib.util, "find_spec", lambda name: object())
    for file in (FACE_DETECTOR, FACE_RECOGNISER):
        (tmp_path / file).write_bytes(b"onnx")
    (metric,), _ = load_similarities([f"face={tmp_path}"], "cpu")
    image = np.zeros((1, 40, 60, 3), np.uint8)
    image[..., 0] = 200  # red
    assert metric.embed(image).norm().item() == pytest.approx(1)
    assert calls == [(60, 40), ([0, 0, 200], 8)]


def test_missing_weights_are_a_reason_and_never_downloaded(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: (asked.append(k), real(*a, **k, cache_dir=tmp_path))[1])
    found, skipped = load_similarities(["dinov2", "clip_t", "face"], "cpu")
    assert not found and all("\n" not in reason for reason in skipped.values())
    assert "facebook/dinov2-base" in skipped["dinov2"] and "dinov2=FOLDER" in skipped["dinov2"] and FACE_DETECTOR in skipped["face"]
    assert asked and all(call["local_files_only"] is True for call in asked)


def test_a_snapshot_in_the_hub_cache_is_found(dinov2, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **k: str(dinov2) if name == "facebook/dinov2-base" else None)
    weights = find_metric_weights("dinov2")
    assert weights.folder == dinov2 and weights.label == f"facebook/dinov2-base sha256:{weights.digest[:8]}"


def test_a_folder_that_lacks_something_or_holds_another_network_is_one_line(dinov2, clip, tmp_path):
    with pytest.raises(ModelError, match="config.json.*none"):
        find_metric_weights(f"dinov2={tmp_path}")
    with pytest.raises(ModelError, match="type dinov2.*holds 'clip'"):
        find_metric_weights(f"dinov2={clip}")
    with pytest.raises(ModelError, match="no /nowhere"):
        find_metric_weights("clip_i=/nowhere")
    with pytest.raises(ModelError, match="'dino'.*Did you mean dinov2"):
        load_similarities(["dino"], "cpu")


def test_damaged_weights_and_weights_that_are_not_all_there_are_refused(dinov2, tmp_path):
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((dinov2 / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    assert f"{tmp_path} must hold the weights of a Dinov2Model" in load_similarities([f"dinov2={tmp_path}"], "cpu")[1]["dinov2"]
    config = json.loads((dinov2 / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    (tmp_path / "model.safetensors").write_bytes((dinov2 / "model.safetensors").read_bytes())
    assert "lacks" in load_similarities([f"dinov2={tmp_path}"], "cpu")[1]["dinov2"]


def test_a_pickle_that_holds_code_is_not_executed(dinov2, tmp_path):
    import pickle

    executed = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (type(executed).touch, (executed,))

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((dinov2 / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(), protocol=2))
    assert "dinov2" in load_similarities([f"dinov2={tmp_path}"], "cpu")[1]
    assert not executed.exists()
