"""The held-out loss against its definition, adapters together against alone, and the same pairs for every adapter."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.trainables.test_evaluate import make_subject  # noqa: F401  a fixture
from tests.trainables.test_lora import random_adapter
from trainables import heldout_loss
from trainables.config import TARGETS
from trainables.heldout_loss import heldout_losses, loss_pairs
from trainables.lora import TEXT_ENCODER, SlotLoRA, stack_adapters
from trainables.models import encode_latents, encode_prompts
from trainables.subject import load_pixels


@pytest.fixture(scope="module")
def adapter(parts):
    return random_adapter(SlotLoRA(parts.unet).shapes, alpha=20.0)


@pytest.mark.parametrize("with_text", [False, True], ids=["attention", "all layers and the text encoder"])
@torch.no_grad()
def test_the_loss_is_the_mean_squared_error_of_the_predicted_noise(frozen, parts, make_subject, with_text):  # noqa: F811
    subject = make_subject(4, 3)
    lora = SlotLoRA(parts.unet, TARGETS[-1], text_encoder=parts.text_encoder) if with_text else SlotLoRA(parts.unet)
    adapter = random_adapter(lora.shapes, alpha=20.0)
    (loss,) = heldout_losses(parts, frozen, [adapter], subject, n_pairs=5)
    x = encode_latents(parts, load_pixels(subject.heldout, 64))
    pairs = loss_pairs(parts, x, n_pairs=5, seed=0)
    abar, expected = parts.noise_scheduler.alphas_cumprod, 0.0
    assert pairs.timesteps.tolist() == [100, 300, 500, 700, 900]
    for noisy, noise, step in zip(pairs.noisy, pairs.target, pairs.timesteps, strict=True):
        image = (noisy - (1 - abar[step]).sqrt() * noise) / abar[step].sqrt()
        assert min((image - latent).abs().max() for latent in x) < 1e-3  # every pair is a held-out image
        with lora.attached(*stack_adapters([adapter], lora.shapes, device="cpu")):
            predicted = parts.unet(noisy[None], step, encode_prompts(parts, [subject.trigger]), return_dict=False)[0]
        expected += (predicted[0] - noise).square().mean().item() / 5
    assert loss == pytest.approx(expected, rel=1e-5)


def test_adapters_together_have_the_losses_that_they_have_alone_whatever_fits_at_once(frozen, parts, adapter, make_subject, monkeypatch):  # noqa: F811
    subject = make_subject(4, 3)
    of_text = random_adapter(SlotLoRA(parts.unet, text_encoder=parts.text_encoder).shapes, alpha=20.0)
    silent = replace(of_text, layers={path: pair for path, pair in of_text.layers.items() if not path.startswith(TEXT_ENCODER)})
    adapters = [None, adapter, of_text, silent]
    alone = [heldout_losses(parts, frozen, [one], subject)[0] for one in adapters]
    assert all(one != pytest.approx(other, rel=1e-3) for one, other in pairwise(alone))  # the text encoder's layers count, too
    assert heldout_losses(parts, frozen, [*adapters, None], subject) == pytest.approx([*alone, alone[0]], rel=1e-5)
    monkeypatch.setitem(heldout_loss.BATCH_IMAGES, "cpu", 6)
    assert heldout_losses(parts, frozen, adapters, subject) == pytest.approx(alone, rel=1e-5)


def test_out_of_memory_halves_what_is_done_at_once(frozen, parts, make_subject, monkeypatch):  # noqa: F811
    subject, real, sizes = make_subject(4, 3), heldout_loss._losses, []

    def losses(*arguments, n_at_once):
        sizes.append(n_at_once)
        if n_at_once > 20:
            raise torch.OutOfMemoryError
        return real(*arguments, n_at_once=n_at_once)

    expected = heldout_losses(parts, frozen, [None], subject)
    monkeypatch.setattr(heldout_loss, "_losses", losses)
    monkeypatch.setitem(heldout_loss.BATCH_IMAGES, "cpu", 32)
    assert heldout_losses(parts, frozen, [None], subject) == pytest.approx(expected, rel=1e-5) and sizes == [64, 32, 16]


def test_pairs_are_fixed_by_the_seed_and_use_every_image_equally_often(parts):
    latents = torch.randn(4, *parts.latent_shape, generator=torch.Generator().manual_seed(0))
    first, again, other = (loss_pairs(parts, latents, n_pairs=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.noisy, again.noisy) and not torch.equal(first.target, other.target)
    abar = parts.noise_scheduler.alphas_cumprod[first.timesteps].view(-1, 1, 1, 1)
    images = (first.noisy - (1 - abar).sqrt() * first.target) / abar.sqrt()
    nearest = torch.cdist(images.flatten(1), latents.flatten(1)).argmin(1)
    assert sorted(nearest.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_diverged_adapter_gives_no_number_that_could_be_ranked(frozen, parts, adapter, make_subject):  # noqa: F811
    broken = type(adapter)(adapter.rank, adapter.alpha, {p: (a, torch.full_like(b, math.nan)) for p, (a, b) in adapter.layers.items()})
    good, bad = heldout_losses(parts, frozen, [adapter, broken], make_subject(4, 3))
    assert math.isfinite(good) and math.isnan(bad)
