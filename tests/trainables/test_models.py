"""Base models: loaded, and equal to what diffusers' own pipeline computes."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.layouts import change_config
from trainables.errors import ModelError
from trainables.models import decode_latents, encode_latents, encode_prompts, least_tokens, load_parts, load_tokenizer, resolve_model

TINY_RESOLUTION = 64  # of tiny_model_dir
TINY_TEXT_WIDTH = 32


@pytest.fixture(scope="module")
def parts(tiny_model_dir: Path):
    return load_parts(resolve_model(str(tiny_model_dir)))


@pytest.fixture(scope="module")
def pipeline(tiny_model_dir: Path):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(tiny_model_dir, safety_checker=None)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, TINY_RESOLUTION, TINY_RESOLUTION, 3), dtype=np.uint8)


@pytest.fixture
def latents() -> Any:
    return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))


# What it computes


def test_prompts_are_encoded_as_the_pipeline_encodes_them(parts, pipeline) -> None:
    texts = ["J3NN13, smile, close-up", "", "a photo of J3NN13 outside"]
    expected = pipeline.encode_prompt(texts, "cpu", 1, False)[0]
    encoded = encode_prompts(parts, texts)
    assert encoded.shape == (3, 77, TINY_TEXT_WIDTH) and encoded.dtype == torch.float32 and not encoded.requires_grad
    torch.testing.assert_close(encoded, expected.detach(), atol=1e-6, rtol=0)


def test_the_least_number_of_tokens_is_never_more_than_the_tokenizers() -> None:
    tokenizer = load_tokenizer(resolve_model("embedded:base").tokenizer)
    rng = np.random.default_rng(0)
    letters = list("abzABZ019_-'’., !?éß²½日😀\u0301\u200d\tſ")
    texts = ["it's J3NN13, don't WE'LL", "smile, close-up", "", *("".join(rng.choice(letters, rng.integers(1, 12))) for _ in range(2000))]
    assert all(least_tokens(text) <= len(tokenizer(text).input_ids) for text in texts)
    assert least_tokens("J3NN13, it's") == 2 + 5 + 1 + 2  # J 3 NN 1 3 , it 's


def test_a_prompt_longer_than_clip_reads_is_cut_as_the_pipeline_cuts_it_and_says_so(parts, pipeline) -> None:
    text = "b " * 75 + "c d"
    with pytest.warns(UserWarning, match="has 79: 'c d' is cut off"):
        encoded = encode_prompts(parts, [text])
    torch.testing.assert_close(encoded, pipeline.encode_prompt(text, "cpu", 1, False)[0].detach(), atol=1e-6, rtol=0)


def test_a_prompt_that_just_fits_gives_no_warning(parts) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_prompts(parts, ["b " * 75])


def test_more_prompts_than_one_chunk_and_none_at_all_have_their_shapes(parts) -> None:
    texts = [f"smile {number}" for number in range(70)]
    torch.testing.assert_close(encode_prompts(parts, texts)[69], encode_prompts(parts, texts[69:])[0], atol=1e-6, rtol=0)
    assert encode_prompts(parts, []).shape == (0, 77, TINY_TEXT_WIDTH)


def test_latents_are_the_scaled_posterior_mean(parts, pipeline, pictures) -> None:
    pixels = pipeline.image_processor.preprocess(pictures.astype(np.float32) / 255)  # (n, 3, h, w) in [-1, 1]
    with torch.no_grad():
        expected = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    torch.testing.assert_close(encode_latents(parts, pictures), expected, atol=1e-5, rtol=1e-5)


def test_a_flipped_latent_is_the_latent_of_the_mirrored_image(parts, pictures) -> None:
    mirrored = np.ascontiguousarray(pictures[:, :, ::-1])
    assert torch.equal(encode_latents(parts, pictures, flip=True), encode_latents(parts, mirrored))
    assert not torch.equal(encode_latents(parts, pictures, flip=True), encode_latents(parts, pictures))


def test_decoded_pictures_are_the_pipelines_own_to_a_grey_level(parts, pipeline, latents) -> None:
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    expected = np.stack([np.asarray(picture) for picture in pipeline.image_processor.postprocess(decoded, output_type="pil")])
    actual = decode_latents(parts, latents)
    assert actual.shape == (5, TINY_RESOLUTION, TINY_RESOLUTION, 3) and actual.dtype == np.uint8
    # The pipeline decodes all at once, we in chunks: float sums may differ in the last bits, and a grey level by rounding.
    apart = np.abs(actual.astype(int) - expected)
    assert apart.max() <= 1 and (apart > 0).mean() < 1e-3


def test_many_images_pass_the_vae_in_chunks_with_the_same_result(parts, pictures, latents, monkeypatch) -> None:
    encoded, decoded = encode_latents(parts, pictures), decode_latents(parts, latents)
    monkeypatch.setattr("trainables.models._PIXELS_AT_ONCE", TINY_RESOLUTION**2)  # one at a time
    torch.testing.assert_close(encode_latents(parts, pictures), encoded, atol=1e-5, rtol=1e-5)
    assert np.abs(decode_latents(parts, latents).astype(int) - decoded).max() <= 1
    assert encode_latents(parts, pictures[:0]).shape == (0, 4, 8, 8)


# What is loaded


def test_parts_are_frozen_in_eval_mode_and_know_their_sizes(parts) -> None:
    for model in (parts.unet, parts.vae, parts.text_encoder):
        assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    assert (parts.resolution, parts.latent_shape, parts.scaling_factor) == (TINY_RESOLUTION, (4, 8, 8), 0.18215)


def test_training_noise_follows_the_models_noise_schedule_whatever_its_scheduler(tiny_model_copy: Path) -> None:
    from diffusers import DEISMultistepScheduler, PNDMScheduler

    theirs = PNDMScheduler.from_pretrained(tiny_model_copy / "scheduler")
    DEISMultistepScheduler.from_config(theirs.config).save_pretrained(tiny_model_copy / "scheduler")
    parts = load_parts(resolve_model(str(tiny_model_copy)))
    assert type(parts.noise_scheduler).__name__ == "DDPMScheduler"
    assert torch.equal(parts.noise_scheduler.alphas_cumprod, theirs.alphas_cumprod)
    assert parts.scheduler_config["_class_name"] == "DEISMultistepScheduler"


def test_fp16_files_are_loaded_in_float32_and_the_unet_in_the_asked_dtype(tiny_model_dir: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    half = StableDiffusionPipeline.from_pretrained(tiny_model_dir, safety_checker=None, dtype=torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    source = resolve_model(str(tmp_path))
    full = load_parts(source)
    assert (full.unet.dtype, full.vae.dtype, full.text_encoder.dtype) == (torch.float32,) * 3
    bf16 = load_parts(source, dtype=torch.bfloat16)
    assert (bf16.unet.dtype, bf16.vae.dtype, bf16.text_encoder.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_text_encoder_weights_load_in_the_old_layout_and_in_the_flattened_one(tiny_model_copy: Path, parts) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_model_copy / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    bare = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    for prefix in ("text_model.", ""):
        # SD1.5's own file also holds this buffer, which newer models do without.
        extra = {f"{prefix}embeddings.position_ids": torch.arange(77)[None]}
        save_file({prefix + name: weight for name, weight in bare.items()} | extra, path, metadata={"format": "pt"})
        loaded = load_parts(resolve_model(str(tiny_model_copy)))
        torch.testing.assert_close(encode_prompts(loaded, ["smile"]), encode_prompts(parts, ["smile"]), atol=1e-5, rtol=1e-5)


def test_a_tokenizer_loads_from_vocabulary_and_merges_as_sd15_ships_it(tiny_model_copy: Path, parts) -> None:
    folder = tiny_model_copy / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    for tokenizer in (parts.tokenizer, load_parts(resolve_model(str(tiny_model_copy))).tokenizer):
        # 512 letters, then the merges sm, il, smil, smile</w>, then begin and end
        assert tokenizer("Smile", padding="max_length", max_length=5).input_ids == [516, 515, 517, 517, 517]


def test_weights_that_are_missing_from_a_file_are_an_error_and_not_random_numbers(tiny_model_copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    for part, file_name in (("text_encoder", "model.safetensors"), ("unet", "diffusion_pytorch_model.safetensors")):
        path = tiny_model_copy / part / file_name
        weights = load_file(path)
        kept = dict(list(weights.items())[3:])
        save_file(kept, path, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=f"{part} must hold every weight of its config.json, but lacks 3"):
            load_parts(resolve_model(str(tiny_model_copy)))
        save_file(weights, path, metadata={"format": "pt"})


def test_weights_of_another_size_than_the_config_says_are_an_error(tiny_model_copy: Path) -> None:
    change_config(tiny_model_copy / "unet", block_out_channels=[32, 96])
    with pytest.raises(ModelError, match="unet must hold weights that fit its config.json"):
        load_parts(resolve_model(str(tiny_model_copy)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_not_finite_are_one_line_that_names_one(tiny_model_copy: Path, part: str, value: float) -> None:
    from safetensors.torch import load_file, save_file

    (file,) = (tiny_model_copy / part).glob("*.safetensors")
    weights = load_file(file)
    name = sorted(name for name, weight in weights.items() if weight.is_floating_point() and weight.dim() > 1)[0]
    weights[name].view(-1)[0] = value
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="must hold finite weights.*NaN or infinite") as caught:
        load_parts(resolve_model(str(tiny_model_copy)))
    assert "\n" not in str(caught.value)
