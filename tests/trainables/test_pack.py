"""Packed training against itself alone, against torch.optim.AdamW and prodigyopt, and against diffusers' schedules."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler
from PIL import Image
from prodigyopt import Prodigy

from tests.trainables.closeness import assert_same_layers
from trainables.adapters import AdapterStore
from trainables.config import LR_SCHEDULES, TRAIN_PARAMETERS, TrainConfig, pack_signature
from trainables.errors import ConfigError, SubjectError
from trainables.frozen import FrozenWork
from trainables.pack import Diverged, EpochEnd, Pack, _PackedTensors
from trainables.slots import draw, schedule_factor
from trainables.subject import load_subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "split": "train", "captions": {"v2": f"J3NN13, smile {i}, close-up, wall"}})
    (folder / "masks").mkdir()
    for i in range(3):  # a face on the left; two images have no mask
        Image.fromarray(np.where(np.arange(64) < 24, 255, 0).astype(np.uint8)[None].repeat(64, 0)).save(folder / "masks" / f"{i}.png")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "subject.json").write_text(json.dumps({"trigger": "J3NN13", "name": "five", "class_word": "person"}))
    return load_subject(str(folder))


@pytest.fixture(scope="module")
def base(subject, tiny_model_dir):
    return TrainConfig(train_model=str(tiny_model_dir), subject=str(subject.root), rank=4, alpha=4, learning_rate=1e-3, batch=2, dropout=0.2)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Values that ask for prior preservation with three class images."""
    folder = tmp_path_factory.mktemp("women")
    for i in range(3):
        Image.fromarray(np.random.default_rng(100 + i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return {"prior_images": str(folder), "prior_prompt": "a smile"}


@pytest.fixture
def new_pack(frozen, base):
    return lambda: Pack(frozen.parts(base.train_model, None, "float32"), frozen)


def trained(new_pack, subject, config, epochs, neighbours=()):
    """(final state, mean losses) of a training after `epochs`, beside others."""
    pack = new_pack()
    pack.add("it", config, subject, total_epochs=epochs)
    for i, other in enumerate(neighbours):
        pack.add(f"n{i}", other, subject)
    losses = [event.mean_loss for _ in range(epochs) for event in pack.advance() if event.key == "it"]
    return pack.state("it"), losses


def assert_same_training(one, other, *, exactly=False):
    """`exactly`: the same computation done twice, on tensors of the same shapes."""
    (state, losses), (state_other, losses_other) = one, other
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(losses_other), rtol=1e-4, atol=1e-6)
    layers, others = state.adapter.layers, state_other.adapter.layers
    if exactly:
        assert all(torch.equal(x, y) for path, pair in layers.items() for x, y in zip(pair, others[path], strict=True))
    else:
        assert_same_layers(layers, others)


def test_packed_training_equals_solo_training_with_mixed_ranks_rates_and_dropout(new_pack, subject, base):
    neighbours = [
        dataclasses.replace(base, rank=8, alpha=2.0, learning_rate=3e-3, train_seed=5),
        dataclasses.replace(base, rank=1, dropout=0.0, caption="v1", caption_dropout=0.5, flip=True, min_snr_gamma=5.0, noise_offset=0.1),
    ]
    assert_same_training(trained(new_pack, subject, base, 3), trained(new_pack, subject, base, 3, neighbours))
    for config in neighbours:
        others = [base, *(n for n in neighbours if n is not config)]
        assert_same_training(trained(new_pack, subject, config, 2), trained(new_pack, subject, config, 2, others))


LAYERS = [{"targets": "attention+ff"}, {"targets": "attention+ff+conv"}, {"train_text_encoder": True}]


@pytest.mark.parametrize("layers", LAYERS, ids=str)
def test_packed_training_equals_solo_training_whichever_layers_it_trains(new_pack, subject, base, layers):
    config = dataclasses.replace(base, **layers)
    neighbours = [
        dataclasses.replace(config, rank=8, alpha=2.0, train_seed=5, text_encoder_learning_rate=3e-3),
        dataclasses.replace(config, rank=1, dropout=0.0, caption="v1", caption_dropout=0.5),
    ]
    solo = trained(new_pack, subject, config, 2)
    assert_same_training(solo, trained(new_pack, subject, config, 2, neighbours))
    assert_same_training(trained(new_pack, subject, neighbours[0], 2), trained(new_pack, subject, neighbours[0], 2, [config, neighbours[1]]))
    assert all(b.any() for _, b in solo[0].adapter.layers.values())


def test_a_pack_that_is_empty_again_takes_other_layers(new_pack, subject, base):
    pack, wide = new_pack(), dataclasses.replace(base, targets="attention+ff+conv", train_text_encoder=True)
    pack.add("first", base, subject)
    pack.remove("first")
    pack.add("it", wide, subject)
    losses = [event.mean_loss for event in pack.advance()]
    assert_same_training((pack.state("it"), losses), trained(new_pack, subject, wide, 1), exactly=True)
    assert any(path.startswith("text_encoder.") for path in pack.adapter("it").layers) and pack.adapter("it").kernels


@pytest.mark.parametrize("drawn", [False, True], ids=["as written", "drawn, and of class images"])
def test_the_captions_of_a_text_encoder_in_training_are_encoded_as_frozen_ones_are(new_pack, subject, base, prior, drawn):
    # Its update is zero in the first step, so that the loss is the same to the last sums.
    config = dataclasses.replace(base, **TAGS, **prior) if drawn else base
    packs = [new_pack() for _ in range(2)]
    for pack, trains_text in zip(packs, (False, True), strict=True):
        pack.add("it", dataclasses.replace(config, train_text_encoder=trains_text), subject)
        pack.advance(max_steps=1)
    frozen_loss, trained_loss = (pack.state("it").loss_sum for pack in packs)
    assert frozen_loss == pytest.approx(trained_loss, rel=1e-5)


def test_a_neighbour_replaced_in_mid_flight_changes_nothing(new_pack, subject, base):
    pack = new_pack()
    pack.add("it", base, subject)
    pack.add("first", dataclasses.replace(base, rank=16, train_seed=1), subject)
    losses = [e.mean_loss for e in pack.advance() if e.key == "it"]
    pack.remove("first")
    pack.add("second", dataclasses.replace(base, train_seed=2), subject)
    losses += [e.mean_loss for e in pack.advance() if e.key == "it"]
    assert_same_training((pack.state("it"), losses), trained(new_pack, subject, base, 2))


def test_the_same_training_alone_is_bit_equal(new_pack, subject, base):
    assert_same_training(trained(new_pack, subject, base, 1), trained(new_pack, subject, base, 1), exactly=True)


def test_gradient_checkpointing_changes_no_number(frozen, base, subject, new_pack):
    plain = trained(new_pack, subject, base, 1)
    parts = FrozenWork().parts(base.train_model, None, "float32")  # of its own: the switch stays on
    checkpointed = trained(lambda: Pack(parts, frozen, gradient_checkpointing=True), subject, base, 1)
    assert parts.unet.is_gradient_checkpointing
    assert_same_training(plain, checkpointed)


def test_another_seed_is_another_training(new_pack, subject, base):
    one, _ = trained(new_pack, subject, base, 1)
    other, _ = trained(new_pack, subject, dataclasses.replace(base, train_seed=1), 1)
    path = next(iter(one.adapter.layers))
    assert not torch.allclose(one.adapter.layers[path][0], other.adapter.layers[path][0])


CHANGES = {
    "caption": {"caption": "v1"},
    "rank": {"rank": 2},
    "alpha": {"alpha": 1.0},
    "dropout": {"dropout": 0.5},
    "learning_rate": {"learning_rate": 2e-3},
    "lr_schedule": {"lr_schedule": "cosine"},
    "lr_warmup_steps": {"lr_warmup_steps": 4},
    "lr_cycles": {"lr_cycles": 3},
    "lr_power": {"lr_power": 3.0},
    "schedule_epochs": {"schedule_epochs": 5},
    "weight_decay": {"weight_decay": 10.0},
    "max_grad_norm": {"max_grad_norm": 1e-4},
    "batch": {"batch": 1},
    "caption_dropout": {"caption_dropout": 1.0},
    "flip": {"flip": True},
    "min_snr_gamma": {"min_snr_gamma": 1.0},
    "noise_offset": {"noise_offset": 0.3},
    "optimizer": {"optimizer": "prodigy"},
    "shuffle_tags": {"shuffle_tags": True},
    "keep_tags": {"keep_tags": 0},
    "tag_dropout": {"tag_dropout": 0.5},
    "mask_weight": {"mask_weight": 4.0},
    "prior_prompt": {"prior_prompt": "a person"},
    "prior_weight": {"prior_weight": 10.0},
    "train_seed": {"train_seed": 1},
    "targets": {"targets": "attention+ff+conv"},
    "train_text_encoder": {"train_text_encoder": True},
    "text_encoder_learning_rate": {"train_text_encoder": True, "text_encoder_learning_rate": 1e-1},
}
GIVEN = {  # what a change needs to have an effect
    "lr_warmup_steps": {"lr_schedule": "constant_with_warmup"},
    "lr_cycles": {"lr_schedule": "cosine_with_restarts"},
    "lr_power": {"lr_schedule": "polynomial"},
    "schedule_epochs": {"lr_schedule": "linear"},
    "keep_tags": {"shuffle_tags": True},
    "text_encoder_learning_rate": {"train_text_encoder": True},
}
NAMES_OF_CONTENT = ("train_model", "train_vae", "subject", "prior_images")
HAVE_ONE_VALUE_ON_A_CPU = ("dtype",)
NEED_OTHER_IMAGES = ("buckets",)  # of differing shapes: test_buckets.py


@pytest.fixture(scope="module")
def update_of(frozen, base, subject):
    """What a training adds to the weights of one layer after two epochs: (alpha / rank) A B."""
    known = {}

    def of(**change):
        name = tuple(sorted(change.items()))
        if name not in known:
            pack = lambda: Pack(frozen.parts(base.train_model, None, "float32"), frozen)  # noqa: E731
            state, _ = trained(pack, subject, dataclasses.replace(base, **change), 2)
            a, b = state.adapter.layers[sorted(state.adapter.layers)[0]]
            known[name] = state.adapter.scale * a @ b
        return known[name]

    return of


@pytest.mark.parametrize("name", CHANGES)
def test_every_training_parameter_changes_the_training(update_of, prior, name):
    given = prior if name.startswith("prior_") else GIVEN.get(name, {})
    assert not torch.allclose(update_of(**given), update_of(**given | CHANGES[name]), rtol=1e-3, atol=1e-9)


def test_no_training_parameter_is_forgotten_there():
    assert set(CHANGES) | set(NAMES_OF_CONTENT) | set(HAVE_ONE_VALUE_ON_A_CPU) | set(NEED_OTHER_IMAGES) == set(TRAIN_PARAMETERS)


def test_a_training_that_ends_within_its_schedule_is_the_first_epochs_of_the_whole_one(
    new_pack, subject, base
):
    whole = new_pack()
    whole.add("it", dataclasses.replace(base, lr_schedule="cosine"), subject, total_epochs=3)
    losses = [event.mean_loss for _ in range(2) for event in whole.advance()]
    part = trained(
        new_pack, subject, dataclasses.replace(base, lr_schedule="cosine", schedule_epochs=3), 2
    )
    assert_same_training((whole.state("it"), losses), part)


TAGS = {"shuffle_tags": True, "tag_dropout": 0.3, "caption_dropout": 0.3}


@pytest.mark.parametrize("change", [TAGS, {"mask_weight": 4.0, "flip": True}, TAGS | {"mask_weight": 0.5, "flip": True}])
def test_packed_equals_solo_with_drawn_captions_and_masks_beside_trainings_without(new_pack, subject, base, change):
    config = dataclasses.replace(base, **change)
    neighbours = [dataclasses.replace(base, rank=8, train_seed=5), dataclasses.replace(config, rank=1, train_seed=2, keep_tags=0)]
    assert_same_training(trained(new_pack, subject, config, 2), trained(new_pack, subject, config, 2, neighbours))
    assert_same_training(trained(new_pack, subject, neighbours[0], 2), trained(new_pack, subject, neighbours[0], 2, [config]))


@pytest.mark.parametrize("layers", [{}, {"targets": "attention+ff+conv", "train_text_encoder": True}], ids=["attention", "all"])
def test_packed_equals_solo_with_class_images_drawn_captions_and_masks(new_pack, subject, base, prior, layers):
    base = dataclasses.replace(base, **prior, **layers)
    config = dataclasses.replace(base, **TAGS, mask_weight=4.0, flip=True, prior_weight=0.5, min_snr_gamma=5.0)
    neighbours = [dataclasses.replace(base, rank=8, train_seed=5), dataclasses.replace(config, rank=1, prior_prompt="a person")]
    assert_same_training(trained(new_pack, subject, config, 2), trained(new_pack, subject, config, 2, neighbours))
    assert_same_training(trained(new_pack, subject, neighbours[0], 2), trained(new_pack, subject, neighbours[0], 2, [config]))


def test_packed_equals_solo_with_prodigy_and_neighbours_that_come_and_go(new_pack, subject, base):
    config = dataclasses.replace(base, optimizer="prodigy", learning_rate=10.0)  # d grows within a few steps then
    pack = new_pack()
    pack.add("first", dataclasses.replace(config, rank=8, train_seed=5, learning_rate=0.5, weight_decay=0.1), subject)
    pack.add("it", config, subject)
    losses = [e.mean_loss for e in pack.advance() if e.key == "it"]
    pack.remove("first")
    pack.add("second", dataclasses.replace(config, rank=1, lr_schedule="constant_with_warmup", lr_warmup_steps=2), subject)
    losses += [e.mean_loss for e in pack.advance() if e.key == "it"]
    alone, losses_alone = trained(new_pack, subject, config, 2)
    state = pack.state("it")
    assert_same_training((state, losses), (alone, losses_alone))
    assert state.prodigy.n_steps == 6 and state.prodigy.d == pytest.approx(alone.prodigy.d, rel=1e-4) and state.prodigy.d > 1e-6
    assert pack.state("second").prodigy.n_steps == 2  # the first of its three steps had a learning rate of 0


@pytest.mark.parametrize("layers", [{}, {"targets": "attention+ff+conv", "train_text_encoder": True}], ids=["attention", "all"])
def test_a_prodigy_training_goes_on_from_what_was_stored_of_it(new_pack, subject, base, tmp_path, layers):
    config = dataclasses.replace(base, optimizer="prodigy", learning_rate=10.0, **layers)
    pack, store = new_pack(), AdapterStore(tmp_path)
    pack.add("it", config, subject)
    pack.advance()
    store.save("it", pack.state("it"))
    later = new_pack()
    later.add("it", config, subject, state=store.load_state("it", 1))
    losses = [event.mean_loss for event in later.advance()]
    uninterrupted, all_losses = trained(new_pack, subject, config, 2)
    assert_same_training((later.state("it"), losses), (uninterrupted, all_losses[1:]), exactly=True)
    assert later.state("it").prodigy.d == uninterrupted.prodigy.d


def test_the_loss_with_class_images_is_the_subjects_plus_prior_weight_times_theirs(new_pack, subject, base, prior):
    def first_loss(**change):  # a new adapter changes nothing yet, so the loss of the first step is the base model's
        pack = new_pack()
        pack.add("it", dataclasses.replace(base, dropout=0.0, **change), subject)
        pack.advance(max_steps=1)
        return pack.standings()["it"].mean_loss

    of_subject, once, thrice = first_loss(), first_loss(**prior), first_loss(**prior, prior_weight=3.0)
    assert once - of_subject > 0.1 and thrice - of_subject == pytest.approx(3 * (once - of_subject), rel=1e-5)


def test_the_loss_under_a_mask_is_the_mean_of_weighted_squared_errors(new_pack, subject, base):
    pack = new_pack()
    pack.add("it", dataclasses.replace(base, dropout=0.0, mask_weight=4.0, batch=5, caption="v1"), subject)
    draws = draw(pack._slots, 0, 1)
    (event,) = pack.advance()
    latents = pack.frozen.latents(pack.parts, subject, flip=False)[draws.image[0, 0]]
    noise, timesteps = draws.noise[0, 0], draws.timesteps[0, 0]
    with torch.no_grad():
        text = pack.frozen.text(pack.parts, ["J3NN13"] * 5)
        predicted = pack.parts.unet(pack.parts.noise_scheduler.add_noise(latents, noise, timesteps), timesteps, text).sample
    w = torch.ones(5, 1, 8, 8)
    w[:3] = torch.where(torch.arange(8) < 3, 4.0, 1.0)  # 24 of 64 pixels are 3 of 8 latents
    w = w[draws.image[0, 0]] / w[draws.image[0, 0]].mean(dim=(1, 2, 3), keepdim=True)
    expected = (w * (noise - predicted) ** 2).mean().item()
    assert event.mean_loss == pytest.approx(expected, rel=1e-5)


def test_a_mask_over_the_whole_image_changes_nothing(new_pack, subject, base, tmp_path):
    shutil.copytree(subject.root, tmp_path / "white")
    for i in range(5):
        Image.new("L", (64, 64), 255).save(tmp_path / "white" / "masks" / f"{i}.png")
    white = load_subject(tmp_path / "white")
    weighted = trained(new_pack, white, dataclasses.replace(base, mask_weight=5.0), 1)
    assert_same_training(weighted, trained(new_pack, subject, base, 1))


def test_masks_and_class_images_that_are_not_there_are_refused(new_pack, subject, base, prior, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(subject.root, bare, ignore=shutil.ignore_patterns("masks"))
    pack = new_pack()
    with pytest.raises(SubjectError, match="`mask_weight` other than 1 needs masks.*leave mask_weight at 1"):
        pack.add("it", dataclasses.replace(base, mask_weight=2.0), load_subject(bare))
    with pytest.raises(SubjectError, match="`prior_images` must be a folder of class images, but .*nowhere"):
        pack.add("it", dataclasses.replace(base, **prior | {"prior_images": str(tmp_path / "nowhere")}), subject)
    assert pack.keys == []


@pytest.mark.parametrize("layers", [{}, {"targets": "attention+ff+conv", "train_text_encoder": True}], ids=["attention", "all"])
def test_a_training_continued_from_its_state_equals_one_that_never_stopped(new_pack, subject, base, tmp_path, layers):
    config = dataclasses.replace(base, lr_schedule="cosine", **layers)
    pack = new_pack()
    pack.add("it", config, subject, total_epochs=3)
    pack.advance()
    store = AdapterStore(tmp_path)
    store.save("it", pack.state("it"))
    later = new_pack()
    later.add("it", config, subject, state=store.load_state("it", 1), total_epochs=3)
    events = later.advance() + later.advance()
    assert [e.epoch for e in events] == [2, 3]
    uninterrupted, losses = trained(new_pack, subject, config, 3)
    assert_same_training((later.state("it"), [e.mean_loss for e in events]), (uninterrupted, losses[1:]), exactly=True)


def test_a_diverging_neighbour_leaves_and_changes_nothing_for_the_others(new_pack, subject, base):
    pack = new_pack()
    pack.add("it", base, subject)
    pack.add("wild", dataclasses.replace(base, learning_rate=1e30), subject)
    events = pack.advance() + pack.advance()
    assert [(e.key, e.epoch) for e in events if isinstance(e, Diverged)] == [("wild", 1)]
    assert "learning_rate=1e+30" in next(e.reason for e in events if isinstance(e, Diverged))
    assert pack.keys == ["it"]
    losses = [e.mean_loss for e in events if isinstance(e, EpochEnd) and e.key == "it"]
    assert_same_training((pack.state("it"), losses), trained(new_pack, subject, base, 2))


def test_an_epoch_shows_every_image_once_and_reports_at_its_end(new_pack, subject, base):
    pack = new_pack()
    pack.add("it", base, subject)
    assert pack.advance(max_steps=2) == []  # 5 images in batches of 2 are 3 steps
    events = pack.advance()
    assert [(e.key, e.epoch) for e in events] == [("it", 1)] and math.isfinite(events[0].mean_loss)
    assert pack.state("it").step == 3


def test_a_longer_training_contains_the_shorter(new_pack, subject, base):
    pack = new_pack()
    pack.add("it", base, subject, total_epochs=3)
    pack.advance()
    early = pack.adapter("it")
    state, _ = trained(new_pack, subject, base, 1)
    assert all(torch.equal(early.layers[p][0], state.adapter.layers[p][0]) for p in early.layers)


@pytest.mark.parametrize("layers", [{}, {"train_text_encoder": True, "text_encoder_learning_rate": 3e-3}], ids=["attention", "text encoder"])
def test_a_compiled_pack_has_few_sizes_and_empty_places_change_nothing(frozen, subject, base, monkeypatch, layers):
    base, sizes = dataclasses.replace(base, **layers), []

    def compiled(unet):
        def forward(sample, *arguments, **rest):
            sizes.append(len(sample))
            return unet(sample, *arguments, **rest)

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    pack = Pack(frozen.parts(base.train_model, None, "float32"), frozen, compile=True)
    losses = []
    for n in (1, 2, 3):
        pack.add(f"{n}", dataclasses.replace(base, train_seed=n), subject)
        losses += [event.mean_loss for event in pack.advance() if event.key == "1"]
    assert pack.keys == ["1", "2", "3"] and list(pack.standings()) == pack.keys
    assert sorted({size // base.batch for size in sizes}) == [1, 2, 4]
    plain = lambda: Pack(frozen.parts(base.train_model, None, "float32"), frozen)  # noqa: E731
    assert_same_training((pack.state("1"), losses), trained(plain, subject, dataclasses.replace(base, train_seed=1), 3))


def test_training_lowers_the_loss(new_pack, subject, base):
    _, losses = trained(new_pack, subject, dataclasses.replace(base, learning_rate=1e-2, dropout=0.0, rank=16, alpha=16), 12)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize("text_rates", [(), (0.1, 3.0)], ids=["one rate", "the text encoder's own"])
def test_the_step_equals_torch_adamw_with_clipping(new_pack, subject, base, text_rates):
    generator = torch.Generator().manual_seed(0)
    pack, config = new_pack(), dataclasses.replace(base, train_text_encoder=bool(text_rates))
    pack.add("a", config, subject)
    pack.add("b", dataclasses.replace(config, rank=2), subject)
    tensors = _PackedTensors(pack.lora.shapes, [pack.state("a"), pack.state("b")], torch.device("cpu"), text_rates=text_rates)
    rates, decays, clips = torch.tensor([1e-3, 1e-2]), torch.tensor([0.1, 0.0]), torch.tensor([1.0, 1e6])
    # The text encoder's weights are those behind the UNet's, in the first part, of all A, as in the second.
    layers = [(path.startswith("text_"), shape[part] * tensors.width) for part in (0, 1) for path, shape in tensors.shapes.items()]
    is_text = torch.cat([torch.full((n_weights,), of_text) for of_text, n_weights in layers])
    assert is_text.any() == bool(text_rates)
    references = [[torch.nn.Parameter(tensors.weights[s, chosen].clone()) for chosen in (~is_text, is_text)] for s in range(2)]
    optimisers = []
    for s, (unet, text) in enumerate(references):
        groups = [{"params": [unet], "lr": rates[s].item()}, {"params": [text], "lr": rates[s].item() * (text_rates or (1, 1))[s]}]
        optimisers.append(torch.optim.AdamW(groups, weight_decay=decays[s].item()))
    for step in range(1, 6):
        grads = torch.randn(tensors.grads.shape, generator=generator)
        tensors.grads.copy_(grads)
        tensors.optimiser_step(rates, torch.tensor([step, step]), decays, clips)
        grads[:, tensors.n_a :] *= tensors.scale  # the layers' are with respect to B times alpha / rank
        for s, (reference, optimiser) in enumerate(zip(references, optimisers, strict=True)):
            for parameter, chosen in zip(reference, (~is_text, is_text), strict=True):
                parameter.grad = grads[s, chosen].clone()
            torch.nn.utils.clip_grad_norm_(reference, clips[s].item())
            optimiser.step()
            for parameter, chosen in zip(reference, (~is_text, is_text), strict=True):
                torch.testing.assert_close(tensors.weights[s, chosen], parameter.data, rtol=1e-5, atol=1e-7)
    assert not tensors.grads.any()


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_step_equals_prodigyopt_with_clipping_and_warm_up(new_pack, subject, base, warmup):
    generator = torch.Generator().manual_seed(0)
    prodigy = dataclasses.replace(base, optimizer="prodigy")
    pack = new_pack()
    pack.add("a", prodigy, subject)
    pack.add("b", dataclasses.replace(prodigy, rank=2), subject)
    tensors = _PackedTensors(pack.lora.shapes, [pack.state("a"), pack.state("b")], torch.device("cpu"))
    largest, decays, clips = [1.0, 0.5], [0.1, 0.0], [1.0, 1e6]
    references = [torch.nn.Parameter(tensors.weights[s].clone()) for s in range(2)]
    optimisers = [
        Prodigy([r], lr=largest[s], weight_decay=decays[s], use_bias_correction=True, safeguard_warmup=True) for s, r in enumerate(references)
    ]
    for step in range(8):
        rates = [rate * (step / warmup if step < warmup else 1.0) for rate in largest]
        grads = torch.randn(tensors.grads.shape, generator=generator)
        tensors.grads.copy_(grads)
        tensors.optimiser_step(torch.tensor(rates), torch.tensor([step + 1] * 2), torch.tensor(decays), torch.tensor(clips))
        grads[:, tensors.n_a :] *= tensors.scale
        for s, (reference, optimiser) in enumerate(zip(references, optimisers, strict=True)):
            reference.grad = grads[s].clone()
            torch.nn.utils.clip_grad_norm_([reference], clips[s])
            optimiser.param_groups[0]["lr"] = rates[s]
            optimiser.step()
            torch.testing.assert_close(tensors.weights[s], reference.data, rtol=1e-5, atol=1e-7)
    assert not tensors.grads.any() and tensors.prodigy.n_steps.tolist() == [o.param_groups[0]["k"] for o in optimisers]


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_a_schedule_equals_diffusers_of_that_name(name):
    config = TrainConfig(lr_schedule=name, lr_warmup_steps=4, lr_cycles=3, lr_power=2.0)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=config.learning_rate)
    reference = get_scheduler(name, optimiser, num_warmup_steps=4, num_training_steps=20, num_cycles=3, power=2.0)
    for step in range(20):
        assert config.learning_rate * schedule_factor(config, step, 20) == pytest.approx(reference.get_last_lr()[0])
        optimiser.step()
        reference.step()


def test_what_cannot_share_a_pack_has_another_signature(base):
    assert pack_signature(base) == pack_signature(dataclasses.replace(base, rank=9, learning_rate=1.0, caption="v1", train_seed=4, dropout=0.0))
    assert pack_signature(base) == pack_signature(dataclasses.replace(base, shuffle_tags=True, tag_dropout=0.1, mask_weight=2.0))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, batch=3))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, targets="attention+ff"))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, train_text_encoder=True))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, optimizer="prodigy"))
    with_prior = dataclasses.replace(base, prior_images="women", prior_prompt="a woman")
    assert pack_signature(base) != pack_signature(with_prior) == pack_signature(dataclasses.replace(with_prior, prior_images="ladies"))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, train_model="embedded:base"))


def test_what_cannot_be_trained_is_refused_before_it_has_a_slot(new_pack, subject, base):
    pack = new_pack()
    with pytest.raises(ConfigError, match="`rank`.*64"):
        pack.add("it", dataclasses.replace(base, rank=64), subject)
    with pytest.raises(SubjectError, match="v9"):
        pack.add("it", dataclasses.replace(base, caption="v9"), subject)
    assert pack.keys == [] and pack.advance() == []
