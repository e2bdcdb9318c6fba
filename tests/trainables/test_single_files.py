"""Checkpoints of one file in the original layout: equal to the folder they were made from, offline, and refused where they are others'."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainables.layouts import change_config, in_original_layout, offline, put_into_hub_cache, write_sd2_layout, write_single_file
from trainables.errors import ModelError
from trainables.models import decode_latents, encode_latents, encode_prompts, load_parts, model_digest, part_digest, resolve_model
from trainables.single_files import SD1_CONFIG


@pytest.fixture
def single_file(sd15_dir: Path, tmp_path: Path) -> Path:
    """`sd15_dir` as one file, with the configuration that its narrow layers need beside it."""
    file = write_single_file(tmp_path / "dreamy_v1.5.safetensors", sd15_dir)
    copy_configuration(sd15_dir, tmp_path / "dreamy_v1.5")
    return file


def copy_configuration(model: Path, folder: Path) -> None:
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(model / part, folder / part, ignore=shutil.ignore_patterns("*.safetensors"))


# What it computes


def test_a_checkpoint_of_one_file_computes_what_its_folder_computes(single_file: Path, sd15_dir: Path) -> None:
    folder, file = load_parts(resolve_model(str(sd15_dir))), load_parts(resolve_model(str(single_file)))
    assert file.unet.config.attention_head_dim == 8 and file.resolution == 96
    latents, pixels = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(96 * 96 * 3) % 256
    pictures = pixels.to(torch.uint8).view(1, 96, 96, 3).numpy()
    text = encode_prompts(folder, ["J3NN13, smile", ""])
    for ours, theirs in ((file.unet, folder.unet), (file.vae, folder.vae), (file.text_encoder, folder.text_encoder)):
        weights = theirs.state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in ours.state_dict().items())
    assert_same_numbers(encode_prompts(file, ["J3NN13, smile", ""]), text)
    assert_same_numbers(encode_latents(file, pictures), encode_latents(folder, pictures))
    assert np.abs(decode_latents(file, latents).astype(int) - decode_latents(folder, latents)).max() <= 1
    with torch.no_grad():
        assert_same_numbers(file.unet(latents, 500, text).sample, folder.unet(latents, 500, text).sample)
    for model in (file.unet, file.vae, file.text_encoder):
        assert not model.training and not any(weight.requires_grad or weight.is_meta for weight in model.parameters())


def assert_same_numbers(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for the order of summation, which a processor chooses."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def without_text_model(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder's names of an older transformers: NovelAI's file and its children."""
    return {
        name.replace(".transformer.text_model.", ".transformer."): w for name, w in weights.items()
    }


def test_a_checkpoint_without_the_text_models_level_computes_the_same(
    single_file: Path, sd15_dir: Path
) -> None:
    wanted = encode_prompts(load_parts(resolve_model(str(single_file))), ["J3NN13, smile"])
    write_single_file(single_file, sd15_dir, without_text_model)
    assert "cond_stage_model.transformer.encoder.layers.0.mlp.fc1.weight" in load_file(single_file)
    found = load_parts(resolve_model(str(single_file)))
    assert_same_numbers(encode_prompts(found, ["J3NN13, smile"]), wanted)


def test_a_checkpoint_in_fp16_is_loaded_in_float32_and_the_unet_in_the_asked_dtype(sd15_dir: Path, single_file: Path) -> None:
    write_single_file(single_file, sd15_dir, lambda weights: {k: w.half() if w.is_floating_point() else w for k, w in weights.items()})
    parts = load_parts(resolve_model(str(single_file)), dtype=torch.bfloat16)
    assert (parts.unet.dtype, parts.vae.dtype, parts.text_encoder.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_a_stable_diffusion_2_file_computes_what_its_folder_computes(tiny_tokenizer, tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_sd2_layout(model, tiny_tokenizer)
    # The UNet and VAE come from the folder: what is peculiar to these files is OpenCLIP, its joint projections, and its name.
    text = {name.removeprefix("text_model."): w for name, w in load_file(model / "text_encoder" / "model.safetensors").items()}
    save_file(open_clip(text) | unet_of(tmp_path, tiny_tokenizer), tmp_path / "v2.safetensors")
    with pytest.raises(ModelError, match=r"v2.safetensors is a Stable Diffusion 2 checkpoint.*no unet/, no text_encoder/.* in .*v2\."):
        resolve_model(str(tmp_path / "v2.safetensors"), str(model))
    copy_configuration(model, tmp_path / "v2")
    shutil.rmtree(tmp_path / "v2" / "unet")
    shutil.copytree(tmp_path / "narrow" / "unet", tmp_path / "v2" / "unet")
    parts = load_parts(resolve_model(str(tmp_path / "v2.safetensors"), str(model)))
    expected = encode_prompts(load_parts(resolve_model(str(model))), ["J3NN13, smile"])
    assert_same_numbers(encode_prompts(parts, ["J3NN13, smile"]), expected)
    assert parts.noise_scheduler.config.prediction_type == "v_prediction"


def unet_of(tmp_path: Path, tokenizer) -> dict[str, Tensor]:
    from tests.trainables.layouts import write_sd15_layout

    write_sd15_layout(tmp_path / "narrow", tokenizer)
    return {name: w for name, w in in_original_layout(tmp_path / "narrow").items() if name.startswith("model.diffusion_model.")}


def open_clip(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names, and its projections of query, key and value in one."""
    prefix = "cond_stage_model.model."
    ends = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
    renamed = {prefix + theirs: text[ours] for ours, theirs in ends.items()}
    n_layers = len({name.split(".")[2] for name in text if name.startswith("encoder.layers.")})
    for n in range(n_layers):
        layer, block = f"encoder.layers.{n}.", f"{prefix}transformer.resblocks.{n}."
        for kind in ("weight", "bias"):
            renamed |= {f"{block}{theirs}.{kind}": text[f"{layer}{ours}.{kind}"] for ours, theirs in inner.items()}
            renamed[f"{block}attn.in_proj_{kind}"] = torch.cat([text[f"{layer}self_attn.{which}_proj.{kind}"] for which in "qkv"])
    return renamed


# Whose VAE, whose configuration


def test_without_a_folder_beside_it_a_file_is_read_with_stable_diffusion_15s_sizes(sd15_dir: Path, tmp_path: Path) -> None:
    file = write_single_file(tmp_path / "model.safetensors", sd15_dir)
    with pytest.raises(ModelError, match=r"has 8 channels in its first layer and .*sd1_config/unet gives 320\. Put .* into .*/model\."):
        resolve_model(str(file))


def test_the_shipped_sizes_are_those_of_stable_diffusion_15() -> None:
    """Numbers of weights as its model card's files have them; the names of the original file's weights number 686, 248 and 196."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(SD1_CONFIG / "unet")))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(str(SD1_CONFIG / "vae")))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(str(SD1_CONFIG / "text_encoder")))
    models = (unet, vae, text_encoder)
    assert [sum(weight.numel() for weight in model.parameters()) for model in models] == [859_520_964, 83_653_863, 123_060_480]
    assert [len(list(model.parameters())) for model in models] == [686, 248, 196]


def test_the_reduced_layout_has_the_published_number_of_names(sd15_dir: Path) -> None:
    names = [name for name in in_original_layout(sd15_dir) if "position_ids" not in name]
    beginnings = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
    assert [sum(name.startswith(beginning) for name in names) for beginning in beginnings] == [686, 248, 196]
    # One each that diffusers' loader knows a Stable Diffusion 1 file by.
    assert {"model.diffusion_model.output_blocks.11.0.skip_connection.weight", "first_stage_model.decoder.up.3.block.0.norm1.weight"} <= set(names)


def without_vae(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: w for name, w in weights.items() if not name.startswith("first_stage_model.")}


def test_a_file_without_vae_takes_the_named_one_or_is_refused(single_file: Path, sd15_dir: Path) -> None:
    write_single_file(single_file, sd15_dir, without_vae)
    with pytest.raises(ModelError, match=r"needs a VAE, but .*dreamy_v1\.5\.safetensors holds none.*--set vae=NAME"):
        resolve_model(str(single_file))
    source = resolve_model(str(single_file), str(sd15_dir))
    assert source.vae.folder == sd15_dir / "vae" and not source.vae.is_single_file


@pytest.mark.parametrize("names", ["original", "original with a prefix", "diffusers"])
def test_a_vae_may_be_a_file_too(names: str, single_file: Path, sd15_dir: Path, tmp_path: Path) -> None:
    prefix = "first_stage_model."
    vae = {n: w for n, w in in_original_layout(sd15_dir).items() if n.startswith(prefix)}
    if names == "original":
        vae = {name.removeprefix(prefix): w for name, w in vae.items()}
    elif names == "diffusers":
        vae = load_file(sd15_dir / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(vae, tmp_path / "ft-mse.safetensors")
    shutil.copytree(single_file.with_suffix("") / "vae", tmp_path / "ft-mse" / "vae")
    source = resolve_model(str(sd15_dir), str(tmp_path / "ft-mse.safetensors"))
    parts = load_parts(source)
    for name, weight in load_parts(resolve_model(str(sd15_dir))).vae.state_dict().items():
        assert torch.equal(parts.vae.state_dict()[name], weight), name
    assert model_digest(source) != model_digest(resolve_model(str(sd15_dir)))


def test_a_vae_file_with_other_latents_is_refused(sd15_dir: Path, tmp_path: Path) -> None:
    save_file({"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)}, tmp_path / "flux_ae.safetensors")
    with pytest.raises(ModelError, match="must read 4 latent channels here, but that in .*flux_ae.safetensors reads 16"):
        resolve_model(str(sd15_dir), str(tmp_path / "flux_ae.safetensors"))


def test_the_noise_schedule_beside_a_file_is_the_one_that_is_used(single_file: Path) -> None:
    change_config(single_file.with_suffix("") / "scheduler", "scheduler_config.json", beta_end=0.02)
    assert load_parts(resolve_model(str(single_file))).noise_scheduler.betas[-1] == pytest.approx(0.02)


# Digests


def test_a_digest_is_that_of_the_files_bytes_and_not_of_its_place(single_file: Path, sd15_dir: Path, tmp_path: Path) -> None:
    before = resolve_model(str(single_file))
    moved = shutil.copy(single_file, tmp_path / "renamed.safetensors")
    shutil.copytree(single_file.with_suffix(""), tmp_path / "renamed")
    assert model_digest(resolve_model(str(moved))) == model_digest(before)
    other_vae = resolve_model(str(single_file), str(sd15_dir))
    assert part_digest(other_vae, "unet") == part_digest(before, "unet") and model_digest(other_vae) != model_digest(before)
    whole = model_digest(before)
    write_single_file(single_file, sd15_dir, lambda weights: weights | {"model_ema.decay": torch.tensor(0.5)})
    assert model_digest(resolve_model(str(single_file))) != whole


# The tokenizer


@pytest.fixture
def words(single_file: Path) -> dict[str, str]:
    """The tokenizer as the hub has it, vocab.json and merges.txt, taken away from beside the file."""
    folder = single_file.with_suffix("") / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    shutil.rmtree(folder)
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"])
    return {"vocab.json": json.dumps(model["vocab"], ensure_ascii=False), "merges.txt": merges}


DIGEST = "from trainables.model_sources import *; s = resolve_model({!r}); print(s.tokenizer.folder, part_digest(s, 'tokenizer'))"


def test_the_tokenizer_comes_from_the_hub_cache_and_its_digest_does_not_tell_from_where(single_file: Path, words, tmp_path: Path) -> None:
    program, digests = DIGEST.format(str(single_file)), set()
    put_into_hub_cache(tmp_path / "a", "openai/clip-vit-large-patch14", {**words, "config.json": "{}"})
    put_into_hub_cache(tmp_path / "b", "SG161222/Realistic_Vision_V5.1_noVAE", {f"tokenizer/{name}": text for name, text in words.items()})
    for cache in ("a", "b"):
        folder, digest = offline(program, tmp_path / cache).split()
        assert Path(folder).is_relative_to(tmp_path / cache)
        digests.add(digest)
    assert len(digests) == 1
    said = offline(program, tmp_path / "none")
    assert "needs the tokenizer of Stable Diffusion 1.x" in said and f"Put a tokenizer/ with merges.txt and vocab.json into {tmp_path}" in said


def test_a_tokenizer_of_vocabulary_and_merges_alone_reads_as_the_whole_one(single_file: Path, words, sd15_dir: Path, monkeypatch) -> None:
    put_into_hub_cache(single_file.parent / "cache", "openai/clip-vit-large-patch14", words)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(single_file.parent / "cache"))
    theirs, ours = (load_parts(resolve_model(str(model))).tokenizer for model in (sd15_dir, single_file))
    for text in ("J3NN13, Smile", "  naïve café's 12 ", "", "smile " * 90):
        how = dict(padding="max_length", max_length=77, truncation=True)
        assert ours(text, **how).input_ids == theirs(text, **how).input_ids


def test_a_tokenizer_folder_serves_every_file_beside_it(single_file: Path, words) -> None:
    (single_file.parent / "tokenizer").mkdir()
    for name, text in words.items():
        (single_file.parent / "tokenizer" / name).write_text(text, encoding="utf-8")
    assert resolve_model(str(single_file)).tokenizer.folder == single_file.parent / "tokenizer"


# Refusals


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {name.replace(old, new): w for name, w in weights.items()}


def with_channels(n: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: weights | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, n, 3, 3)}


def with_name(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: weights | {name: torch.zeros(1)}


REFUSED = {
    "sdxl": (renamed("cond_stage_model.", "conditioner.embedders.0."), "is an SDXL checkpoint"),
    "sd3": (with_name("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"), "is a Stable Diffusion 3 checkpoint"),
    "flux": (lambda _: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, "is a Flux checkpoint"),
    "controlnet": (lambda _: {"control_model.input_blocks.0.0.weight": torch.zeros(1)}, "is a ControlNet"),
    "inpainting": (with_channels(9), r"9 channels in and 4 out \(inpainting\)"),
    "pix2pix": (with_channels(8), r"8 channels in and 4 out \(instruct-pix2pix\)"),
    "depth": (with_channels(5), r"5 channels in and 4 out \(depth-guided\)"),
    "lora": (lambda _: {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(1)}, "is a LoRA file, not a base model"),
    "vae": (lambda w: {n: x for n, x in w.items() if n.startswith("first_stage_model.")}, "is a VAE, not a base model"),
    "embedding": (lambda _: {"emb_params": torch.zeros(1)}, "holds no UNet in the original layout"),
    "no text encoder": (renamed("cond_stage_model.", "gone."), r"needs its text encoder, but .* holds no cond_stage_model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_such_model_is_refused_in_one_line_that_says_what_it_is(case: str, single_file: Path, sd15_dir: Path) -> None:
    change, expected = REFUSED[case]
    write_single_file(single_file, sd15_dir, change)
    with pytest.raises(ModelError, match=expected) as refused:
        resolve_model(str(single_file))
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["BOMB_FILE"]),))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".safetensors"])
def test_a_pickle_is_refused_whatever_its_name_and_nothing_in_it_is_run(suffix: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BOMB_FILE", str(tmp_path / "exploded"))
    for number, write in enumerate((lambda path: path.write_bytes(pickle.dumps(Bomb())), lambda path: torch.save({"a": Bomb()}, path))):
        file = tmp_path / f"model{number}{suffix}"
        write(file)
        with pytest.raises(ModelError, match="because loading a pickle runs the code inside.*as .?safetensors"):
            resolve_model(str(file))
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_file_is_refused_before_it_is_read(single_file: Path) -> None:
    single_file.write_bytes(single_file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="must be a whole safetensors file, but it is not"):
        resolve_model(str(single_file))


def test_a_misspelt_file_is_no_hub_id() -> None:
    with pytest.raises(ModelError, match="there is no file models/dreamy.safetensors"):
        resolve_model("models/dreamy.safetensors")


def test_weights_that_a_file_lacks_are_an_error_and_not_random_numbers(single_file: Path, sd15_dir: Path) -> None:
    for lost, ours in (
        ("model.diffusion_model.middle_block.0.in_layers.0.weight", "mid_block.resnets.0.norm1.weight"),
        ("first_stage_model.decoder.conv_out.bias", "decoder.conv_out.bias"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "final_layer_norm.weight"),
    ):
        write_single_file(single_file, sd15_dir, lambda weights: {name: w for name, w in weights.items() if name != lost})
        with pytest.raises(ModelError, match=f"must hold every weight of its config.json, but lacks 1, e.g. {ours}"):
            load_parts(resolve_model(str(single_file)))


def test_weights_of_other_sizes_deep_in_a_file_are_an_error(single_file: Path, sd15_dir: Path) -> None:
    lost = "model.diffusion_model.middle_block.0.in_layers.0.weight"
    write_single_file(single_file, sd15_dir, lambda weights: weights | {lost: torch.zeros(7)})
    with pytest.raises(ModelError, match="must hold weights that fit its config.json, but they do not"):
        load_parts(resolve_model(str(single_file)))
