"""Models that predict velocity, in Stable Diffusion 2's layout: training and sampling against plain diffusers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.training_utils import compute_snr
from PIL import Image
from torch.nn import functional as F

from tests.trainables.layouts import change_config, write_sd2_layout
from trainables.config import EvalConfig, TrainConfig
from trainables.errors import ModelError
from trainables.evaluate import EvaluationRequest, Evaluator
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.models import load_parts, resolve_model
from trainables.pack import Pack
from trainables.slots import Slot, draw
from trainables.subject import load_subject

TO_PURE_NOISE = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
SCHEDULERS = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler, "unipc": UniPCMultistepScheduler}


@pytest.fixture(scope="module")
def sd2_dirs(tmp_path_factory, tiny_tokenizer):
    folders = {}
    # With ten timesteps a few images meet the last one, which is pure noise where betas are rescaled.
    for name, noise in {"plain": {}, "to pure noise": TO_PURE_NOISE, "short": {**TO_PURE_NOISE, "num_train_timesteps": 10}}.items():
        folders[name] = tmp_path_factory.mktemp("sd2")
        write_sd2_layout(folders[name], tiny_tokenizer, **noise)
    return folders


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    for i in range(8):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "subject.json").write_text(json.dumps({"trigger": "J3NN13"}))
    return load_subject(str(folder))


@pytest.mark.parametrize("gamma", [None, 0.5])
@pytest.mark.parametrize("model", ["plain", "short"])
def test_the_loss_is_that_of_diffusers_text_to_image_training(sd2_dirs, subject, model, gamma):
    folder, frozen = sd2_dirs[model], FrozenWork()
    # A learning rate that changes nothing: every step then has the base model's loss.
    config = TrainConfig(
        train_model=str(folder), subject=str(subject.root), caption="v1", rank=2, batch=4, dropout=0.0, learning_rate=1e-30, min_snr_gamma=gamma
    )
    parts = frozen.parts(str(folder), None, "float32")
    pack = Pack(parts, frozen)
    pack.add("it", config, subject)
    losses = [event.mean_loss for _ in range(3) for event in pack.advance()]

    noise_scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    latents, text, of_image = frozen.latents(parts, subject, flip=False), frozen.text(parts, ["J3NN13", ""]), torch.zeros(8, dtype=torch.long)
    slot = Slot("it", config, latents, text, of_image, len(noise_scheduler))
    draws = draw([slot], 0, 6)
    expected = []
    for k in range(6):
        latents, noise, timesteps = slot.latents[draws.image[k, 0]], draws.noise[k, 0], draws.timesteps[k, 0]
        with torch.no_grad():
            predicted = unet(noise_scheduler.add_noise(latents, noise, timesteps), timesteps, slot.text[draws.text[k, 0]]).sample
        loss = F.mse_loss(predicted, noise_scheduler.get_velocity(latents, noise, timesteps), reduction="none").mean(dim=(1, 2, 3))
        if gamma is not None:  # as in train_text_to_image_lora.py
            snr = compute_snr(noise_scheduler, timesteps)
            loss = loss * torch.stack([snr, gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0] / (snr + 1)
        expected.append(loss.mean())
    if model == "short":
        assert (draws.timesteps == 9).any() and noise_scheduler.alphas_cumprod[-1] == 0
    torch.testing.assert_close(torch.tensor(losses), torch.stack(expected).view(3, 2).mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("denoiser", SCHEDULERS)
@pytest.mark.parametrize("model", ["plain", "to pure noise"])
def test_pictures_equal_the_diffusers_pipeline(sd2_dirs, model, denoiser):
    frozen, evaluation = FrozenWork(), EvalConfig(prompts=("{trigger}, smile",), images_per_prompt=2, steps=4, denoiser=denoiser, guidance=5.0)
    parts = frozen.parts(str(sd2_dirs[model]), None, "float32")
    pictures = ImageSet(None, evaluation, "J3NN13").pictures()
    pipeline = StableDiffusionPipeline.from_pretrained(sd2_dirs[model])
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS[denoiser].from_config(pipeline.scheduler.config)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    generators = [torch.Generator().manual_seed(p.seed) for p in pictures]
    theirs = pipeline([p.prompt for p in pictures], generator=generators, guidance_scale=5.0, num_inference_steps=4).images
    ours = generate(parts, [ImageSet(None, evaluation, "J3NN13")], frozen=frozen)[0]
    assert ours.std() > 1 and np.abs(ours.astype(int) - np.stack([np.asarray(image) for image in theirs])).max() <= 1


def test_predicting_velocity_or_noise_makes_other_pictures(sd2_dirs, tmp_path, tiny_tokenizer):
    write_sd2_layout(tmp_path, tiny_tokenizer)
    change_config(tmp_path / "scheduler", "scheduler_config.json", prediction_type="epsilon")
    frozen, evaluation = FrozenWork(), EvalConfig(prompts=("smile",), images_per_prompt=1, steps=2)
    parts = (frozen.parts(str(folder), None, "float32") for folder in (sd2_dirs["plain"], tmp_path))
    velocity, noise = (generate(each, [ImageSet(None, evaluation, "x")], frozen=frozen)[0] for each in parts)
    assert (velocity != noise).mean() > 0.1


def test_a_denoiser_that_cannot_begin_at_pure_noise_fails_its_set_alone(sd2_dirs, subject):
    evaluation = EvalConfig(infer_model=str(sd2_dirs["to pure noise"]), prompts=("smile", "wink"), images_per_prompt=1, steps=2)
    requests = [EvaluationRequest(name, None, replace(evaluation, denoiser=name), subject) for name in ("pndm", "deis", "ddim")]
    pndm, deis, ddim = Evaluator(FrozenWork()).evaluate(requests)
    for result, name in ((pndm, "pndm"), (deis, "deis")):
        assert f"denoiser='{name}' would ignore. Use ddim, dpm++, dpm++_karras, euler, euler_a, unipc." in result.error
    assert ddim.error is None and ddim.values["lpips"] > 0


def test_the_models_noise_schedule_is_rescaled_as_diffusers_does(sd2_dirs):
    ours = load_parts(resolve_model(str(sd2_dirs["to pure noise"]))).noise_scheduler
    theirs = DDPMScheduler.from_pretrained(sd2_dirs["to pure noise"], subfolder="scheduler")
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod) and ours.alphas_cumprod[-1] == 0


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"prediction_type": "sample"}, "`prediction_type` must be epsilon or v_prediction, but .* gives 'sample'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "has a FlowMatchEulerDiscreteScheduler"),
        ({"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}, "must predict velocity.*gives prediction_type='epsilon'"),
    ],
)
def test_what_is_trained_to_predict_something_else_is_refused(tiny_model_copy, changes, expected):
    change_config(tiny_model_copy / "scheduler", "scheduler_config.json", **changes)
    with pytest.raises(ModelError, match=expected):
        resolve_model(str(tiny_model_copy))
