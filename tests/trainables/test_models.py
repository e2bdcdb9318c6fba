"""Base models: found, refused or loaded, and equal to what diffusers' own pipeline computes."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from trainables import model_sources
from trainables.errors import ModelError
from trainables.models import (
    decode_latents,
    encode_latents,
    encode_prompts,
    least_tokens,
    load_parts,
    model_digest,
    part_digest,
    resolve_model,
)

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


def change_config(folder: Path, file_name: str = "config.json", **changes: Any) -> None:
    path = folder / file_name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What it computes


def test_prompts_are_encoded_as_the_pipeline_encodes_them(parts, pipeline) -> None:
    texts = ["J3NN13, smile, close-up", "", "a photo of J3NN13 outside"]
    expected = pipeline.encode_prompt(texts, "cpu", 1, False)[0]
    encoded = encode_prompts(parts, texts)
    assert encoded.shape == (3, 77, TINY_TEXT_WIDTH) and encoded.dtype == torch.float32 and not encoded.requires_grad
    torch.testing.assert_close(encoded, expected.detach(), atol=1e-6, rtol=0)


def test_the_least_number_of_tokens_is_never_more_than_the_tokenizers() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(str(resolve_model("embedded:base").folder / "tokenizer"))
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
    torch.testing.assert_close(encode_latents(parts, pictures), expected, atol=1e-6, rtol=0)


def test_a_flipped_latent_is_the_latent_of_the_mirrored_image(parts, pictures) -> None:
    mirrored = np.ascontiguousarray(pictures[:, :, ::-1])
    assert torch.equal(encode_latents(parts, pictures, flip=True), encode_latents(parts, mirrored))
    assert not torch.equal(encode_latents(parts, pictures, flip=True), encode_latents(parts, pictures))


def test_decoded_pictures_are_the_pipelines_own_bytes(parts, pipeline, latents) -> None:
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    expected = np.stack([np.asarray(picture) for picture in pipeline.image_processor.postprocess(decoded, output_type="pil")])
    actual = decode_latents(parts, latents)
    assert actual.shape == (5, TINY_RESOLUTION, TINY_RESOLUTION, 3) and actual.dtype == np.uint8
    assert np.array_equal(actual, expected)


def test_many_images_pass_the_vae_in_chunks_with_the_same_result(parts, pictures, latents, monkeypatch) -> None:
    encoded, decoded = encode_latents(parts, pictures), decode_latents(parts, latents)
    monkeypatch.setattr("trainables.models._PIXELS_AT_ONCE", TINY_RESOLUTION**2)  # one at a time
    torch.testing.assert_close(encode_latents(parts, pictures), encoded, atol=1e-6, rtol=0)
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
        assert torch.equal(encode_prompts(loaded, ["smile"]), encode_prompts(parts, ["smile"]))


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


# Digests


def test_a_digest_names_content_and_not_place(tiny_model_dir: Path, tiny_model_copy: Path) -> None:
    original, copy = resolve_model(str(tiny_model_dir)), resolve_model(str(tiny_model_copy))
    assert model_digest(original) == model_digest(copy)


@pytest.mark.parametrize(
    "part, file_name",
    [("unet", "config.json"), ("vae", "config.json"), ("scheduler", "scheduler_config.json"), ("tokenizer", "tokenizer.json")],
)
def test_a_digest_changes_with_every_part(part: str, file_name: str, tiny_model_copy: Path) -> None:
    source = resolve_model(str(tiny_model_copy))
    before = {name: part_digest(source, name) for name in ("unet", "vae", "scheduler", "tokenizer", "text_encoder")}
    whole = model_digest(source)
    change_config(tiny_model_copy / part, file_name, note="changed")
    changed = {name for name in before if part_digest(source, name) != before[name]}
    assert changed == {part} and model_digest(source) != whole


def test_a_digest_changes_with_the_weights(tiny_model_dir: Path, make_tiny_model, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "same", seed=0)
    make_tiny_model(tmp_path / "other", seed=1)
    original, same, other = (model_digest(resolve_model(str(folder))) for folder in (tiny_model_dir, tmp_path / "same", tmp_path / "other"))
    assert original == same and original != other


# VAEs


def test_a_model_without_vae_takes_the_named_one(tiny_model_dir: Path, tiny_model_copy: Path) -> None:
    shutil.rmtree(tiny_model_copy / "vae")
    for vae in (tiny_model_dir, tiny_model_dir / "vae"):
        source = resolve_model(str(tiny_model_copy), str(vae))
        assert (source.vae_folder, source.vae_name) == (tiny_model_dir / "vae", str(vae))
    assert model_digest(source) == model_digest(resolve_model(str(tiny_model_dir)))


def test_a_model_without_vae_is_refused_with_the_way_out(tiny_model_copy: Path) -> None:
    shutil.rmtree(tiny_model_copy / "vae")
    with pytest.raises(ModelError, match="needs a VAE, but .*model has no vae/ of its own.*--set vae=NAME"):
        resolve_model(str(tiny_model_copy))


def test_a_folder_that_is_no_vae_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no VAE and holds no vae/"):
        resolve_model(str(tiny_model_dir), str(tmp_path))


def test_a_vae_with_other_latents_is_refused_with_both_numbers(tiny_model_copy: Path, tiny_model_dir: Path) -> None:
    change_config(tiny_model_copy / "vae", latent_channels=16)
    with pytest.raises(ModelError, match="makes 16 and .* reads 4"):
        resolve_model(str(tiny_model_dir), str(tiny_model_copy))


def test_the_realistic_model_gets_the_base_models_vae(tiny_model_dir: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(model_sources, "EMBEDDED_FOLDER", tmp_path)
    shutil.copytree(tiny_model_dir, tmp_path / "base")
    shutil.copytree(tiny_model_dir, tmp_path / "realistic", ignore=shutil.ignore_patterns("vae"))
    source = resolve_model("embedded:realistic")
    assert (source.vae_name, source.vae_folder) == ("embedded:base", tmp_path / "base" / "vae")
    assert resolve_model("embedded:base").vae_name == "embedded:base"


# Refusals


@pytest.mark.parametrize(
    "name, expected",
    [
        ("embeded:base", "Did you mean embedded:base?"),
        ("sd-15", "Did you mean sd15?"),
        ("no such model", "Known names are embedded:base, embedded:realistic, sd15, realistic-vision"),
        ("embedded:nothing/x", "is none of them"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, expected: str) -> None:
    with pytest.raises(ModelError, match=f"'{name}'.*{expected}"):
        resolve_model(name)


def remove(*relative: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in relative:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return spoil


def keep_only_pickles(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_config(file_name: str, **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        change_config(folder, file_name, **changes)

    return spoil


REFUSED = {
    "no tokenizer and scheduler": (remove("tokenizer", "scheduler"), "model has no tokenizer/, no scheduler/. Use"),
    "empty tokenizer": (remove("tokenizer/tokenizer.json"), "needs vocab.json and merges.txt, but .*tokenizer lacks"),
    "no config": (remove("unet/config.json"), "unet needs config.json"),
    "malformed config": (lambda folder: (folder / "unet" / "config.json").write_text("{"), r"unet/config\.json must be JSON"),
    "no weights": (remove("text_encoder/model.safetensors"), "text_encoder needs model.safetensors"),
    "only pickles": (keep_only_pickles, "Only safetensors .* holds only pickles. Rewrite"),
    "cut weights": (cut_weights, "must be a whole safetensors file, but it is not"),
    "sdxl": (with_config("model_index.json", _class_name="StableDiffusionXLPipeline"), "model is a StableDiffusionXLPipeline"),
    "two text encoders": (lambda folder: (folder / "text_encoder_2").mkdir(), "has text_encoder_2/"),
    "added conditioning": (with_config("unet/config.json", addition_embed_type="text_time"), "addition_embed_type='text_time'"),
    "inpainting": (with_config("unet/config.json", in_channels=9), "with 9 channels in and 4 out"),
    "other unet": (with_config("unet/config.json", _class_name="UNetMotionModel"), "UNet2DConditionModel, but .* a UNetMotionModel"),
    "other text encoder": (with_config("text_encoder/config.json", architectures=["T5EncoderModel"]), "CLIPTextModel, .* a T5EncoderModel"),
    "other vae": (with_config("vae/config.json", _class_name="AutoencoderTiny"), "AutoencoderKL, but .* a AutoencoderTiny"),
    "unlike widths": (with_config("unet/config.json", cross_attention_dim=768), "UNet reads 768 and its text encoder gives 32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line_that_says_why(case: str, tiny_model_copy: Path) -> None:
    spoil, expected = REFUSED[case]
    spoil(tiny_model_copy)
    with pytest.raises(ModelError, match=expected) as refused:
        resolve_model(str(tiny_model_copy))
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")


def test_a_single_file_is_refused_with_how_to_make_a_folder_of_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is one file.*from_single_file"):
        resolve_model(str(tmp_path / "model.safetensors"))


# The hub, as a stand-in that copies what a download's patterns would let through


@pytest.fixture
def hub(monkeypatch, tmp_path: Path) -> SimpleNamespace:
    """`hub.online[name] = folder` can be downloaded into the cache `hub.cached`; `hub.calls` lists (name, local only, patterns)."""
    import fnmatch

    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    state = SimpleNamespace(online={}, cached=tmp_path / "cache", calls=[])

    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        state.calls.append((name, local_files_only, allow_patterns))
        target = state.cached / name
        if not local_files_only and name in state.online:
            for file in (f for f in state.online[name].rglob("*") if f.is_file()):
                relative = file.relative_to(state.online[name])
                if any(fnmatch.fnmatch(str(relative), pattern) for pattern in allow_patterns):
                    (target / relative).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target / relative)
        if not target.exists():
            raise LocalEntryNotFoundError("Name or service not known.\nPlease check your internet connection.")
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return state


def test_a_hub_model_is_downloaded_once_without_pickles_and_single_files(hub, tiny_model_copy: Path) -> None:
    (tiny_model_copy / "v1-5-pruned.safetensors").write_bytes(b"4 GB")
    (tiny_model_copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    hub.online["someone/model"] = tiny_model_copy
    source = resolve_model("someone/model")
    downloaded = {str(f.relative_to(source.folder)) for f in source.folder.rglob("*") if f.is_file()}
    assert "unet/diffusion_pytorch_model.safetensors" in downloaded
    assert not downloaded & {"v1-5-pruned.safetensors", "unet/diffusion_pytorch_model.bin"}
    hub.calls.clear()
    assert resolve_model("someone/model") == source
    assert [local_only for _, local_only, _ in hub.calls] == [True]


def test_the_old_name_of_sd15_is_mapped_to_the_new_one_with_a_note(hub, tiny_model_copy: Path) -> None:
    hub.online["stable-diffusion-v1-5/stable-diffusion-v1-5"] = tiny_model_copy
    with pytest.warns(UserWarning, match="runwayml/stable-diffusion-v1-5 is gone"):
        old = resolve_model("runwayml/stable-diffusion-v1-5")
    assert old == resolve_model("sd15") and old.name == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_realistic_vision_gets_its_usual_vae_though_its_folder_holds_one(hub, tiny_model_copy: Path) -> None:
    hub.online["SG161222/Realistic_Vision_V5.1_noVAE"] = tiny_model_copy
    hub.online["stabilityai/sd-vae-ft-mse"] = tiny_model_copy / "vae"
    source = resolve_model("realistic-vision")
    assert (source.vae_name, source.vae_folder) == ("stabilityai/sd-vae-ft-mse", hub.cached / "stabilityai/sd-vae-ft-mse")


def test_a_hub_model_with_fp16_files_only_is_downloaded_in_fp16(hub, tiny_model_copy: Path) -> None:
    for file in list(tiny_model_copy.rglob("*.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    hub.online["someone/half"] = tiny_model_copy
    assert (resolve_model("someone/half").folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()


def test_a_hub_model_of_another_family_is_refused_before_its_weights_are_downloaded(hub, tiny_model_copy: Path) -> None:
    change_config(tiny_model_copy, "model_index.json", _class_name="StableDiffusionXLPipeline")
    hub.online["someone/xl"] = tiny_model_copy
    with pytest.raises(ModelError, match="someone/xl is a StableDiffusionXLPipeline"):
        resolve_model("someone/xl")
    assert not list(hub.cached.rglob("*.safetensors"))


def test_a_hub_model_that_cannot_be_had_offline_is_an_error_with_the_way_out(hub) -> None:
    with pytest.raises(ModelError, match=r"someone/model is no folder here.*\(Name or service not known\).*give a folder\."):
        resolve_model("someone/model")
