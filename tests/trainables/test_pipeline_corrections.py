"""Models with the outdated configurations that StableDiffusionPipeline corrects: our pictures are
the pipeline's."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.trainables.layouts import change_config
from trainables.config import DENOISERS, EvalConfig
from trainables.errors import ModelError
from trainables.frozen import FrozenWork
from trainables.generate import SCHEDULERS, ImageSet, generate
from trainables.model_sources import model_digest, resolve_model
from trainables.models import load_parts
from trainables.pipeline_corrections import digest_for_pictures, digest_for_training

OUTDATED = {
    "clip_sample": {"clip_sample": True},
    "steps_offset": {"steps_offset": 0},
    "both": {"clip_sample": True, "steps_offset": 0},
    "silent": {"clip_sample": None, "steps_offset": None},
}


def outdate(folder, changes):
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )


def by_pipeline(pipeline, evaluation):
    pipeline.set_progress_bar_config(disable=True)
    pictures = ImageSet(None, evaluation, "J3NN13").pictures()
    output = pipeline(
        prompt=[p.prompt for p in pictures],
        generator=[torch.Generator().manual_seed(p.seed) for p in pictures],
        guidance_scale=evaluation.guidance,
        num_inference_steps=evaluation.steps,
    )
    return np.stack([np.asarray(image) for image in output.images])


def by_us(folder, evaluation):
    frozen = FrozenWork()
    parts = frozen.parts(str(folder), None, "float32")
    return generate(parts, [ImageSet(None, evaluation, "J3NN13")], frozen=frozen)[0]


def an_evaluation(folder, **changes):
    usual = dict(prompts=("{trigger}, smile",), images_per_prompt=2, steps=4, guidance=7.5)
    return EvalConfig(infer_model=str(folder), **{**usual, **changes})


def differ_by(ours, theirs):
    return np.abs(ours.astype(int) - theirs).max()


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize("denoiser", DENOISERS)
@pytest.mark.parametrize("changes", OUTDATED.values(), ids=OUTDATED)
def test_pictures_of_an_outdated_scheduler_are_the_pipelines(tiny_model_copy, changes, denoiser):
    outdate(tiny_model_copy, changes)
    evaluation = an_evaluation(tiny_model_copy, denoiser=denoiser)
    scheduler, settings = SCHEDULERS[denoiser]
    scheduler = scheduler.from_pretrained(tiny_model_copy, subfolder="scheduler", **settings)
    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny_model_copy, scheduler=scheduler, safety_checker=None
    )
    assert differ_by(by_us(tiny_model_copy, evaluation), by_pipeline(pipeline, evaluation)) <= 1


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize("changes", OUTDATED.values(), ids=OUTDATED)
def test_pictures_are_those_of_the_pipeline_that_the_folder_names(tiny_model_copy, changes):
    outdate(tiny_model_copy, {"_class_name": "DDIMScheduler", **changes})
    index = tiny_model_copy / "model_index.json"
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", "DDIMScheduler"]})
    )
    evaluation = an_evaluation(tiny_model_copy, denoiser="ddim")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_copy, safety_checker=None)
    ours = by_us(tiny_model_copy, evaluation)
    assert differ_by(ours, by_pipeline(pipeline, evaluation)) <= 1
    # What is corrected shows: diffusers alone, told to use the file's own word, makes other
    # pictures.
    if changes.get("clip_sample"):
        pipeline.scheduler = type(pipeline.scheduler).from_config(
            {**pipeline.scheduler.config, **changes}
        )
        assert differ_by(ours, by_pipeline(pipeline, evaluation)) > 5


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize(
    "saved_by, side", [("0.6.0", 64), ("0.9.0.dev0", 8), ("0.9.0", 8), (None, 8)]
)
def test_the_size_of_pictures_is_the_pipelines(tiny_model_copy, saved_by, side):
    change_config(tiny_model_copy / "unet", _diffusers_version=saved_by)
    if saved_by is None:
        path = tiny_model_copy / "unet" / "config.json"
        config = json.loads(path.read_text())
        del config["_diffusers_version"]
        path.write_text(json.dumps(config))
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_copy, safety_checker=None)
    parts = load_parts(resolve_model(str(tiny_model_copy)))
    assert parts.latent_shape == (4, side, side) == (4, *2 * (pipeline.unet.config.sample_size,))
    assert parts.resolution == 8 * side


def test_a_unet_that_does_not_say_its_size_is_refused_in_one_line(tiny_model_copy):
    change_config(tiny_model_copy / "unet", sample_size=None)
    with pytest.raises(ModelError, match="sample_size.*Add it: 64"):
        resolve_model(str(tiny_model_copy))


def test_only_what_was_computed_otherwise_before_has_another_key(tiny_model_copy):
    source = resolve_model(str(tiny_model_copy))
    assert digest_for_training(source) == digest_for_pictures(source) == model_digest(source)
    outdate(tiny_model_copy, {"clip_sample": True})
    assert digest_for_training(source) == model_digest(source) != digest_for_pictures(source)
    outdate(tiny_model_copy, {"clip_sample": False})
    change_config(tiny_model_copy / "unet", _diffusers_version="0.6.0")
    assert digest_for_training(source) == digest_for_pictures(source) != model_digest(source)
