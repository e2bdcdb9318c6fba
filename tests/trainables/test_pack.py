"""Packed training against itself alone, against torch.optim.AdamW and against diffusers' schedules."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler
from PIL import Image

from trainables.adapters import AdapterStore
from trainables.config import TRAIN_PARAMETERS, TrainConfig, pack_signature
from trainables.errors import ConfigError, SubjectError
from trainables.frozen import FrozenWork
from trainables.pack import Diverged, EpochEnd, Pack, _PackedTensors
from trainables.slots import schedule_factor
from trainables.subject import load_subject

# Solo against packed: the same sums in another order. The floor, the same training solo with another number of threads,
# is about 1e-6 of the largest weight after two epochs; Adam's division lets it grow with the steps.
TOLERANCE = dict(rtol=1e-3, atol=2e-5)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "split": "train", "captions": {"v2": f"J3NN13, smile {i}"}})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "subject.json").write_text(json.dumps({"trigger": "J3NN13", "name": "five", "class_word": "person"}))
    return load_subject(str(folder))


@pytest.fixture(scope="module")
def frozen():
    return FrozenWork()


@pytest.fixture(scope="module")
def base(subject, tiny_model_dir):
    return TrainConfig(train_model=str(tiny_model_dir), subject=str(subject.root), rank=4, alpha=4, learning_rate=1e-3, batch=2, dropout=0.2)


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


def assert_same_training(one, other, **tolerance):
    (state, losses), (state_other, losses_other) = one, other
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(losses_other), rtol=1e-4, atol=1e-6)
    for path, (a, b) in state.adapter.layers.items():
        torch.testing.assert_close((a, b), state_other.adapter.layers[path], **(tolerance or TOLERANCE))


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
    assert_same_training((pack.state("it"), losses), trained(new_pack, subject, wide, 1), rtol=0, atol=0)
    assert any(path.startswith("text_encoder.") for path in pack.adapter("it").layers) and pack.adapter("it").kernels


def test_the_captions_of_a_text_encoder_in_training_are_encoded_as_frozen_ones_are(new_pack, subject, base):
    # Its update is zero in the first step, so that the loss is the same to the last sums.
    packs = [new_pack() for _ in range(2)]
    for pack, trains_text in zip(packs, (False, True), strict=True):
        pack.add("it", dataclasses.replace(base, train_text_encoder=trains_text), subject)
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
    assert_same_training(trained(new_pack, subject, base, 1), trained(new_pack, subject, base, 1), rtol=0, atol=0)


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
    "lr_warmup_steps": {"lr_schedule": "constant_with_warmup", "lr_warmup_steps": 4},
    "weight_decay": {"weight_decay": 10.0},
    "max_grad_norm": {"max_grad_norm": 1e-4},
    "batch": {"batch": 1},
    "caption_dropout": {"caption_dropout": 1.0},
    "flip": {"flip": True},
    "min_snr_gamma": {"min_snr_gamma": 1.0},
    "noise_offset": {"noise_offset": 0.3},
    "train_seed": {"train_seed": 1},
    "targets": {"targets": "attention+ff+conv"},
    "train_text_encoder": {"train_text_encoder": True},
    "text_encoder_learning_rate": {"train_text_encoder": True, "text_encoder_learning_rate": 1e-1},
}
BESIDE = {"text_encoder_learning_rate": {"train_text_encoder": True}}  # what both of the compared trainings have
NAMES_OF_CONTENT = ("train_model", "train_vae", "subject")
HAVE_ONE_VALUE_ON_A_CPU = ("dtype",)


@pytest.fixture(scope="module")
def update_of(frozen, base, subject):
    """What a training adds to the weights of one layer after two epochs: (alpha / rank) A B."""

    def of(**change):
        state, _ = trained(lambda: Pack(frozen.parts(base.train_model, None, "float32"), frozen), subject, dataclasses.replace(base, **change), 2)
        a, b = state.adapter.layers[sorted(state.adapter.layers)[0]]
        return state.adapter.scale * a @ b

    return of


@pytest.mark.parametrize("name", CHANGES)
def test_every_training_parameter_changes_the_training(update_of, name):
    assert not torch.allclose(update_of(**BESIDE.get(name, {})), update_of(**CHANGES[name]), rtol=1e-3, atol=1e-9)


def test_no_training_parameter_is_forgotten_there():
    assert set(CHANGES) | set(NAMES_OF_CONTENT) | set(HAVE_ONE_VALUE_ON_A_CPU) == set(TRAIN_PARAMETERS)


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
    assert_same_training((later.state("it"), [e.mean_loss for e in events]), (uninterrupted, losses[1:]), rtol=0, atol=0)


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
        tensors.adamw_step(rates, torch.tensor([step, step]), decays, clips)
        grads[:, tensors.n_a :] *= tensors.scale  # the layers' are with respect to B times alpha / rank
        for s, (reference, optimiser) in enumerate(zip(references, optimisers, strict=True)):
            for parameter, chosen in zip(reference, (~is_text, is_text), strict=True):
                parameter.grad = grads[s, chosen].clone()
            torch.nn.utils.clip_grad_norm_(reference, clips[s].item())
            optimiser.step()
            for parameter, chosen in zip(reference, (~is_text, is_text), strict=True):
                torch.testing.assert_close(tensors.weights[s, chosen], parameter.data, rtol=1e-5, atol=1e-7)
    assert not tensors.grads.any()


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_a_schedule_equals_diffusers_of_that_name(name):
    config = TrainConfig(lr_schedule=name, lr_warmup_steps=4)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    reference = get_scheduler(name, optimiser, num_warmup_steps=4, num_training_steps=20)
    for step in range(20):
        assert schedule_factor(config, step, 20) == pytest.approx(reference.get_last_lr()[0])
        optimiser.step()
        reference.step()


def test_what_cannot_share_a_pack_has_another_signature(base):
    assert pack_signature(base) == pack_signature(dataclasses.replace(base, rank=9, learning_rate=1.0, caption="v1", train_seed=4, dropout=0.0))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, batch=3))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, targets="attention+ff"))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, train_text_encoder=True))
    assert pack_signature(base) != pack_signature(dataclasses.replace(base, train_model="embedded:base"))


def test_what_cannot_be_trained_is_refused_before_it_has_a_slot(new_pack, subject, base):
    pack = new_pack()
    with pytest.raises(ConfigError, match="`rank`.*64"):
        pack.add("it", dataclasses.replace(base, rank=64), subject)
    with pytest.raises(SubjectError, match="v9"):
        pack.add("it", dataclasses.replace(base, caption="v9"), subject)
    assert pack.keys == [] and pack.advance() == []
