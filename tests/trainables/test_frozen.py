"""Frozen work: once in memory, once on disk, and keyed by what it depends on."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import trainables.frozen
from trainables.frozen import FrozenWork
from trainables.models import encode_prompts
from trainables.subject import load_subject


@pytest.fixture
def subject(tmp_path):
    folder = tmp_path / "subject"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "subject.json").write_text('{"trigger": "J3NN13"}')
    return load_subject(str(folder))


@pytest.fixture
def encodings(monkeypatch):
    """How many images were encoded, as a list that grows."""
    counted = []
    encode = trainables.frozen.encode_latents
    monkeypatch.setattr(trainables.frozen, "encode_latents", lambda parts, images, flip: counted.append(len(images)) or encode(parts, images, flip=flip))
    return counted


def test_latents_are_encoded_once_in_memory_and_once_on_disk(tiny_model_dir, subject, tmp_path, encodings):
    results = []
    for _ in range(2):  # two workers, one after the other
        frozen = FrozenWork(folder=tmp_path / "cache")
        parts = frozen.parts(str(tiny_model_dir), None, "float32")
        results += [frozen.latents(parts, subject, flip=False) for _ in range(2)]
    assert encodings == [3]
    assert results[0].shape == (3, 4, 8, 8) and all(torch.equal(results[0], r) for r in results)


def test_flipped_latents_stand_behind_the_others(tiny_model_dir, subject, encodings):
    frozen = FrozenWork()
    parts = frozen.parts(str(tiny_model_dir), None, "float32")
    both = frozen.latents(parts, subject, flip=True)
    assert both.shape[0] == 6 and torch.equal(both[:3], frozen.latents(parts, subject, flip=False))
    assert not torch.allclose(both[:3], both[3:])
    assert encodings == [3, 3]


def test_another_vae_is_another_key(tiny_model_dir, make_tiny_model, subject, tmp_path, encodings):
    make_tiny_model(tmp_path / "other", seed=1)
    frozen = FrozenWork()
    one = frozen.latents(frozen.parts(str(tiny_model_dir), None, "float32"), subject, flip=False)
    other = frozen.latents(frozen.parts(str(tiny_model_dir), str(tmp_path / "other"), "float32"), subject, flip=False)
    assert encodings == [3, 3] and not torch.allclose(one, other)


def half_of(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_a_flipped_bit(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize("damage", [half_of, with_a_flipped_bit])
def test_a_damaged_cache_file_is_computed_again(tiny_model_dir, subject, tmp_path, damage):
    cache = tmp_path / "cache"
    parts = FrozenWork().parts(str(tiny_model_dir), None, "float32")
    whole = FrozenWork(folder=cache).latents(parts, subject, flip=False)
    (file,) = cache.iterdir()
    intact = file.read_bytes()
    file.write_bytes(damage(intact))
    again = FrozenWork(folder=cache).latents(parts, subject, flip=False)
    torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-5)
    assert load_file(file)["value"].equal(again.cpu())


def test_a_cache_that_cannot_be_written_stops_nothing(tiny_model_dir, subject, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    parts = FrozenWork().parts(str(tiny_model_dir), None, "float32")
    assert len(FrozenWork(folder=tmp_path / "cache").latents(parts, subject, flip=False)) == len(subject.train)


def test_a_text_is_encoded_once_and_as_the_model_does(tiny_model_dir, monkeypatch):
    frozen, counted = FrozenWork(), []
    parts = frozen.parts(str(tiny_model_dir), None, "float32")
    monkeypatch.setattr(trainables.frozen, "encode_prompts", lambda parts, texts: counted.extend(texts) or encode_prompts(parts, texts))
    first = frozen.text(parts, ["a", "b", "a"])
    again = frozen.text(parts, ["b", "c"])
    assert counted == ["a", "b", "c"]
    torch.testing.assert_close(first, encode_prompts(parts, ["a", "b", "a"]))
    assert torch.equal(first[1], again[0])


def test_texts_are_kept_up_to_a_size_the_latest_used_longest(tiny_model_dir, monkeypatch):
    frozen, counted = FrozenWork(), []
    parts = frozen.parts(str(tiny_model_dir), None, "float32")
    monkeypatch.setattr(trainables.frozen, "TEXT_BYTES", 2 * 77 * 32 * 4)  # two texts
    monkeypatch.setattr(trainables.frozen, "encode_prompts", lambda parts, texts: counted.extend(texts) or encode_prompts(parts, texts))
    frozen.text(parts, ["a", "b"])
    frozen.text(parts, ["a"])
    assert frozen.text(parts, ["c", "d", "e"]).shape[0] == 3  # more than are kept
    frozen.text(parts, ["d", "e"])
    frozen.text(parts, ["a"])
    assert counted == ["a", "b", "c", "d", "e", "a"]


def test_a_model_is_loaded_once(tiny_model_dir):
    frozen = FrozenWork()
    assert frozen.parts(str(tiny_model_dir), None, "float32") is frozen.parts(str(tiny_model_dir), None, "float32")


def test_another_tokenizer_is_another_text(tiny_model_dir, tiny_model_copy):
    path = tiny_model_copy / "tokenizer" / "tokenizer.json"
    swapped = path.read_text().replace('"a":', '"_":').replace('"b":', '"a":').replace('"_":', '"b":')
    assert swapped != path.read_text()
    path.write_text(swapped)
    frozen = FrozenWork()
    first, second = (frozen.parts(str(folder), None, "float32") for folder in (tiny_model_dir, tiny_model_copy))
    plain, other = frozen.text(first, ["ab"]), frozen.text(second, ["ab"])
    torch.testing.assert_close(other, encode_prompts(second, ["ab"]))
    assert not torch.equal(plain, other)
