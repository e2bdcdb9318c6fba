"""Size buckets: kohya's sizes by hand, and trainings of images of differing shapes, packed, alone and step by step."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from sweep.exporting import steps_per_epoch
from tests.trainables.test_pack import assert_same_training, trained
from trainables.buckets import Buckets, bucket_sizes, buckets_of, nearest_size, share_cut_away
from trainables.config import TrainConfig, pack_signature
from trainables.errors import ConfigError
from trainables.frozen import FrozenWork
from trainables.models import encode_latents
from trainables.pack import Pack
from trainables.slot_content import new_slot
from trainables.slots import draw
from trainables.subject import load_pixels, load_subject

# sd-scripts' make_bucket_resolutions((512, 512)): 256 to 1024 in steps of 64, areas of at most 512 x 512; with their mirror images.
WIDER_AT_512 = [(512, 512), (576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256)]


def test_the_sizes_are_those_of_kohya():
    assert bucket_sizes(512, 64) == sorted({*WIDER_AT_512, *((h, w) for w, h in WIDER_AT_512)})


def test_the_embedded_family_has_small_ones():
    assert bucket_sizes(64, 16) == [(32, 96), (32, 112), (32, 128), (48, 80), (64, 64), (80, 48), (96, 32), (112, 32), (128, 32)]


@pytest.mark.parametrize(
    "size, expected",
    [
        ((1000, 1000), (512, 512)),
        ((4000, 3000), (576, 448)),  # 1.333; 576/448 is 1.286, 640/384 is 1.667
        ((3000, 4000), (448, 576)),  # 0.75; 448/576 is 0.778
        ((1920, 1080), (640, 384)),  # 1.778; 704/320 is 2.2
        ((9000, 900), (1024, 256)),  # a panorama gets the widest there is
        ((300, 5000), (256, 1024)),
    ],
)
def test_an_image_gets_the_size_of_the_nearest_aspect_ratio(size, expected):
    assert nearest_size(size, bucket_sizes(512, 64)) == expected


def test_what_is_cut_away_is_what_the_other_aspect_ratio_leaves_out():
    assert share_cut_away((200, 100), (64, 64)) == pytest.approx(0.5)
    assert share_cut_away((100, 200), (64, 64)) == pytest.approx(0.5)
    assert share_cut_away((128, 128), (64, 64)) == 0


def test_an_epoch_has_as_many_batches_of_each_size_as_hold_its_images():
    buckets = buckets_of([(64, 64)] * 5 + [(80, 48)] * 2 + [(48, 80)], resolution=64, step=16)
    assert buckets.counts == {(64, 64): 5, (80, 48): 2, (48, 80): 1}
    sequence = buckets.sequence(2)
    assert sorted(sequence) == [0, 1, 1, 1, 2]
    assert sequence == Buckets(buckets.sizes, buckets.of_image[::-1]).sequence(2), "it depends on the numbers alone"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """Seven images of three shapes, one of them with a mask."""
    folder = tmp_path_factory.mktemp("shapes")
    rng, rows = np.random.default_rng(0), []
    for i, (width, height) in enumerate([(64, 64), (64, 64), (64, 64), (90, 54), (80, 48), (48, 80), (48, 80)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "captions": {"v2": f"J3NN13, smile {i}, close-up"}})
    (folder / "masks").mkdir()
    Image.fromarray(np.where(np.arange(48) < 24, 255, 0).astype(np.uint8)[None].repeat(80, 0)).save(folder / "masks" / "5.png")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "subject.json").write_text(json.dumps({"trigger": "J3NN13"}))
    return load_subject(str(folder))


@pytest.fixture(scope="module")
def base(subject, tiny_model_dir):
    model = str(tiny_model_dir)
    return TrainConfig(train_model=model, subject=str(subject.root), rank=4, alpha=4, learning_rate=1e-3, dropout=0.2, buckets=True)


@pytest.fixture
def new_pack(parts, frozen):
    return lambda: Pack(parts, frozen)


@pytest.mark.parametrize("change", [{}, {"flip": True, "mask_weight": 4.0, "shuffle_tags": True, "noise_offset": 0.1}], ids=["plain", "all"])
def test_packed_equals_solo_with_images_of_differing_shapes(new_pack, subject, base, change):
    config = dataclasses.replace(base, **change)
    neighbours = [dataclasses.replace(base, rank=8, train_seed=5), dataclasses.replace(config, rank=1, train_seed=2)]
    assert_same_training(trained(new_pack, subject, config, 2), trained(new_pack, subject, config, 2, neighbours))
    assert_same_training(trained(new_pack, subject, neighbours[0], 2), trained(new_pack, subject, neighbours[0], 2, [config]))


def test_every_image_is_shown_once_an_epoch_in_batches_of_one_shape(new_pack, subject, base):
    pack = new_pack()
    pack.add("it", base, subject)
    (slot,) = pack._slots
    assert slot.steps_per_epoch == 2 + 1 + 1
    for epoch in (0, 1):
        draws = draw([slot], epoch * 4, 4)
        shown = [sorted(set(images[0].tolist())) for images in draws.image]
        assert sorted(i for batch in shown for i in batch) == list(range(7))
        shapes = [{slot.size_of_image(i) for i in batch} for batch in shown]
        assert shapes == [{size} for size in draws.sizes] and draws.sizes == draw([slot], 0, 4).sizes


def test_a_step_is_that_of_the_unpadded_latents(parts, subject, base):
    """The loss of the first step, of whatever shape, from pixels cut to their bucket, without a pack."""
    frozen = FrozenWork()
    pack = Pack(parts, frozen)
    pack.add("it", dataclasses.replace(base, dropout=0.0), subject)
    (slot,) = pack._slots
    for steps_before, draws in enumerate(draw([slot], k, 1) for k in range(4)):
        height, width = draws.sizes[0]
        rows = draws.image[0, 0].tolist()
        latents = encode_latents(parts, load_pixels([subject.train[i] for i in rows], 8 * width, 8 * height))
        assert latents.shape[2:] == (height, width)
        torch.testing.assert_close(slot.latents[draws.image[0, 0]][:, :, :height, :width], latents, rtol=1e-4, atol=1e-5)
        if steps_before:
            continue  # the weights have moved by then
        noise, timesteps = draws.noise[0, 0, :, :, :height, :width], draws.timesteps[0, 0]
        text = frozen.text(parts, [subject.train[i].captions["v2"] for i in rows])
        with torch.no_grad():
            predicted = parts.unet(parts.noise_scheduler.add_noise(latents, noise, timesteps), timesteps, text).sample
        expected = (F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3)) * draws.weight[0, 0]).sum()
        pack.advance(max_steps=1)
        assert pack.standings()["it"].mean_loss == pytest.approx(float(expected), rel=1e-4)


def test_images_that_are_all_square_train_as_without_buckets(new_pack, subject, base, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes((subject.root / f"{i}.png").read_bytes())
    (tmp_path / "subject.json").write_text('{"trigger": "J3NN13"}')
    square = load_subject(tmp_path)
    with_buckets = dataclasses.replace(base, caption="v1")
    without = dataclasses.replace(with_buckets, buckets=False)
    (state, losses), (other, other_losses) = (trained(new_pack, square, config, 2) for config in (with_buckets, without))
    assert losses == other_losses
    assert all(torch.equal(a, other.adapter.layers[path][0]) for path, (a, _) in state.adapter.layers.items())


def test_trainings_with_buckets_share_a_pack_with_those_of_their_subject_alone(base):
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, subject="elsewhere"))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, buckets=False))
    assert pack_signature(base) == pack_signature(dataclasses.replace(base, rank=64, train_seed=9))


def test_class_images_are_square_and_so_refused_beside_buckets():
    with pytest.raises(ConfigError, match="buckets.*prior_images"):
        TrainConfig(buckets=True, prior_images="women", prior_prompt="a woman")


def test_an_export_counts_the_steps_that_were_made(parts, tmp_path):
    for i, size in enumerate([(64, 64), (64, 64), (64, 64), (128, 64), (64, 128)]):
        Image.fromarray(np.full((*size, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "subject.json").write_text('{"trigger": "J3NN13"}')
    subject = load_subject(str(tmp_path))
    for changes, wanted in (({"buckets": True}, 4), ({"buckets": False}, 3)):  # 2 + 1 + 1 batches of one shape, or 5 images by twos
        config = TrainConfig(train_model=parts.source.name, subject=str(tmp_path), caption="v1", batch=2, **changes)
        slot = new_slot("x", config, subject, parts=parts, frozen=FrozenWork(), total_epochs=None)
        assert steps_per_epoch(config, subject, parts.source) == slot.steps_per_epoch == wanted
    assert steps_per_epoch(dataclasses.replace(config, buckets=True), subject, None) is None
