"""Batched generation against diffusers' StableDiffusionPipeline with the adapter loaded by diffusers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from tests.trainables.test_lora import random_adapter
from trainables import generate as generation
from trainables.adapters import AdapterStore
from trainables.config import DENOISERS, TARGETS, EvalConfig
from trainables.errors import AdapterError
from trainables.generate import ImageSet, generate, initial_noise, make_scheduler
from trainables.lora import SlotLoRA
from trainables.pack import TrainingState

CONFIG = dict(prompts=("{trigger}, smile", "{trigger}, wink"), images_per_prompt=2, steps=4)


@pytest.fixture(scope="module")
def adapters(parts):
    shapes = SlotLoRA(parts.unet).shapes
    # Larger than a trained one, so that its effect on uint8 pictures is plain.
    return [random_adapter(shapes, rank=r, alpha=8.0 * r, seed=r) for r in (2, 4)]


def config(parts, **changes):
    return EvalConfig(infer_model=parts.source.name, **{**CONFIG, **changes})


def by_pipeline(tiny_model_dir, parts, adapter, evaluation, tmp_path):
    """The same pictures through diffusers alone: its pipeline, its LoRA loader, its guidance."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_dir, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    if adapter is not None:
        folder = AdapterStore(tmp_path).save("key", TrainingState(adapter, adapter.layers, adapter.layers, 1, 1), resumable=False)
        pipeline.load_lora_weights(folder, weight_name="adapter.safetensors")
    pipeline.scheduler = make_scheduler(parts, evaluation.denoiser)
    pictures = ImageSet(adapter, evaluation, "J3NN13").pictures()
    output = pipeline(
        prompt=[p.prompt for p in pictures],
        negative_prompt=[evaluation.negative_prompt] * len(pictures),
        generator=[torch.Generator().manual_seed(p.seed) for p in pictures],
        guidance_scale=evaluation.guidance,
        num_inference_steps=evaluation.steps,
    )
    return np.stack([np.asarray(image) for image in output.images])


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_pictures_equal_the_diffusers_pipeline_with_the_stored_adapter(tiny_model_dir, frozen, parts, adapters, tmp_path, denoiser):
    evaluation = config(parts, denoiser=denoiser, guidance=5.0, negative_prompt="bad")
    ours = generate(parts, [ImageSet(adapters[0], evaluation, "J3NN13")], frozen=frozen)[0]
    theirs = by_pipeline(tiny_model_dir, parts, adapters[0], evaluation, tmp_path)
    assert ours.dtype == np.uint8 and ours.shape == (4, 64, 64, 3)
    # A value on the edge between two bytes may round either way.
    assert np.abs(ours.astype(int) - theirs).max() <= 1 and (ours != theirs).mean() < 0.01


@pytest.fixture(scope="module")
def wide_adapters(parts):
    """One of each of the wider targets, and one that trained the text encoder beside attention."""
    loras = [SlotLoRA(parts.unet, targets) for targets in TARGETS[1:]] + [SlotLoRA(parts.unet, text_encoder=parts.text_encoder)]
    return [random_adapter(lora.shapes, rank=2 + i, alpha=4.0, seed=i, kernels=lora.kernels) for i, lora in enumerate(loras)]


@pytest.mark.parametrize("which", range(3), ids=["ff", "conv", "text encoder"])
def test_pictures_equal_the_diffusers_pipeline_whichever_layers_were_trained(tiny_model_dir, frozen, parts, adapters, wide_adapters, tmp_path, which):
    evaluation, adapter = config(parts, guidance=5.0, negative_prompt="bad"), wide_adapters[which]
    plain = replace(adapter, layers={path: pair for path, pair in adapter.layers.items() if ".attn" in path})
    ours, of_attention = generate(parts, [ImageSet(a, evaluation, "J3NN13") for a in (adapter, plain)], frozen=frozen)
    theirs = by_pipeline(tiny_model_dir, parts, adapter, evaluation, tmp_path)
    assert np.abs(ours.astype(int) - theirs).max() <= 1 and (ours != theirs).mean() < 0.01
    assert (ours != of_attention).mean() > 0.01  # the further layers do something


def test_adapters_of_different_layers_batched_together_equal_them_alone(frozen, parts, adapters, wide_adapters):
    sets = [ImageSet(adapter, config(parts, guidance=3.0 + i), "J3NN13") for i, adapter in enumerate((None, adapters[0], *wide_adapters))]
    for image_set, images in zip(sets, generate(parts, sets, frozen=frozen), strict=True):
        alone = generate(parts, [image_set], frozen=frozen)[0]
        assert np.abs(images.astype(int) - alone).max() <= 1 and (images != alone).mean() < 0.01


THEIR_SCHEDULERS = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    # diffusers refuses to make a DPM-Solver of a configuration that says deis.
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpm++_karras": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "deis": (DEISMultistepScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "pndm": (PNDMScheduler, {}),
}


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_a_denoiser_is_diffusers_scheduler_made_from_deis_as_realistic_vision_ships_it(realistic_vision_dir, frozen, denoiser):
    parts = frozen.parts(str(realistic_vision_dir), None, "float32")
    evaluation = config(parts, denoiser=denoiser, prompts=("{trigger}, smile",), steps=5)
    pictures = ImageSet(None, evaluation, "J3NN13").pictures()
    pipeline = StableDiffusionPipeline.from_pretrained(realistic_vision_dir, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    scheduler, settings = THEIR_SCHEDULERS[denoiser]
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **settings)
    generators = [torch.Generator().manual_seed(p.seed) for p in pictures]
    theirs = pipeline([p.prompt for p in pictures], generator=generators, guidance_scale=evaluation.guidance, num_inference_steps=5).images
    ours = generate(parts, [ImageSet(None, evaluation, "J3NN13")], frozen=frozen)[0]
    assert ours.shape == (2, 96, 96, 3) and ours.std() > 1
    assert np.abs(ours.astype(int) - np.stack([np.asarray(image) for image in theirs])).max() <= 1


def test_a_denoiser_that_adds_noise_gives_a_picture_that_its_batch_does_not_change(frozen, parts, adapters):
    sets = [ImageSet(adapters[0], config(parts, denoiser="euler_a"), "x"), ImageSet(None, config(parts, denoiser="euler_a", eval_seed=7), "x")]
    together = generate(parts, sets, frozen=frozen)
    alone = [generate(parts, [image_set], frozen=frozen, batch_images=1)[0] for image_set in sets]
    for images, others in zip(together, alone, strict=True):
        assert np.abs(images.astype(int) - others).max() <= 1 and (images != others).mean() < 0.01
    plain = generate(parts, [ImageSet(adapters[0], config(parts, denoiser="euler"), "x")], frozen=frozen)[0]
    assert (plain != together[0]).mean() > 0.1


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_guidance_up_to_one_is_none_as_in_diffusers(tiny_model_dir, frozen, parts, adapters, tmp_path, guidance):
    evaluation = config(parts, guidance=guidance)
    together = generate(parts, [ImageSet(adapters[0], evaluation, "J3NN13"), ImageSet(None, config(parts, guidance=4.0), "J3NN13")], frozen=frozen)
    theirs = by_pipeline(tiny_model_dir, parts, adapters[0], evaluation, tmp_path)
    assert np.abs(together[0].astype(int) - theirs).max() <= 1


def test_sets_batched_together_equal_sets_alone(frozen, parts, adapters):
    sets = [
        ImageSet(adapters[0], config(parts, guidance=3.0), "J3NN13"),
        ImageSet(None, config(parts, guidance=7.5, negative_prompt="bad"), "J3NN13"),
        ImageSet(adapters[1], config(parts, guidance=1.0, eval_seed=4), "J3NN13"),
        ImageSet(adapters[1], config(parts, steps=3), "J3NN13"),  # another loop
    ]
    together = generate(parts, sets, frozen=frozen)
    for image_set, images in zip(sets, together, strict=True):
        alone = generate(parts, [image_set], frozen=frozen, batch_images=1)[0]
        assert np.abs(images.astype(int) - alone).max() <= 1 and (images != alone).mean() < 0.01


def test_adapters_guidance_and_seeds_change_the_pictures_and_prompts_share_none(frozen, parts, adapters):
    variants = [
        ImageSet(None, config(parts), "J3NN13"),
        ImageSet(adapters[0], config(parts), "J3NN13"),
        ImageSet(None, config(parts, guidance=9.0), "J3NN13"),
        ImageSet(None, config(parts, eval_seed=1), "J3NN13"),
    ]
    pictures = generate(parts, variants, frozen=frozen)
    for i in range(len(pictures)):
        for j in range(i):
            assert (pictures[i] != pictures[j]).mean() > 0.01, (i, j)
    seeds = [p.seed for p in variants[0].pictures()]
    assert len(set(seeds)) == len(seeds)


def test_progress_ends_at_the_total(frozen, parts):
    told = []
    sets = [ImageSet(None, config(parts), "x"), ImageSet(None, config(parts, steps=3), "x")]
    generate(parts, sets, frozen=frozen, on_step=lambda done, total: told.append(done / total))
    assert told == sorted(told) and told[-1] == 1.0 or told[-1] > 0.8


def test_an_adapter_of_another_model_is_refused(frozen, parts):
    odd = random_adapter({"some.layer.to_q": (3, 3)})
    with pytest.raises(AdapterError, match="some.layer.to_q|no such layer"):
        generate(parts, [ImageSet(odd, config(parts), "x")], frozen=frozen)


def test_noise_is_standard_normal_and_its_own_for_every_seed(parts):
    noise = initial_noise(parts, [1, 2])
    assert torch.equal(noise[0], initial_noise(parts, [1])[0]) and not torch.equal(noise[0], noise[1])


def test_a_config_that_is_silent_about_clipping_does_not_clip_latents(parts):
    assert "clip_sample" not in parts.scheduler_config  # as PNDM writes it
    assert make_scheduler(parts, "ddim").config.clip_sample is False


def test_what_memory_does_not_hold_is_denoised_in_parts_and_in_order(frozen, parts, adapters, monkeypatch):
    sets = [ImageSet(a, config(parts, prompts=("a", "b", "c"), steps=steps), "x") for a, steps in ((adapters[0], 2), (None, 2), (None, 1))]
    whole, denoise, sizes = generate(parts, sets, frozen=frozen), generation._denoise, []

    def hungry(parts, lora, cuts, *rest):
        sizes.append(sum(len(cut.pictures) for cut in cuts))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("a card with room for four pictures")
        return denoise(parts, lora, cuts, *rest)

    monkeypatch.setattr(generation, "_denoise", hungry)
    for images, cut in zip(whole, generate(parts, sets, frozen=frozen), strict=True):
        assert cut.shape == images.shape and np.abs(images.astype(int) - cut).max() <= 1 and (images != cut).mean() < 0.01
    assert sizes == [12, 6, 3, 3, 6, 3, 3, 6, 3, 3]
    monkeypatch.setattr(generation, "_denoise", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room at all")))
    with pytest.raises(torch.OutOfMemoryError):
        generate(parts, sets[:1], frozen=frozen)
