"""Exported adapters in the programs that read them: diffusers and peft compute with them what we do."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, PeftModel, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import CLIPTextModel

from tests.trainables.exported import ALPHA, RANK, tiny_parts, whole_adapter
from trainables.adapter_files import FORMATS, safetensors_bytes, write_adapter
from trainables.config import EvalConfig
from trainables.errors import AdapterError
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.lora import SlotLoRA, stack_adapters

PROMPT = "J3NN13, smile"


@pytest.fixture(scope="module")
def adapter(tiny_model_dir):
    return whole_adapter(tiny_model_dir)


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([10, 700])


@pytest.fixture(scope="module")
def ours(tiny_model_dir, adapter):
    """(text (1, 77, d), function of latents, time and text) of our own layers with the adapter attached."""
    parts = tiny_parts(tiny_model_dir)
    lora = SlotLoRA(parts.unet, text_encoder=parts.text_encoder)
    a, b = stack_adapters([adapter], lora.shapes_for([adapter]), device="cpu")
    tokens = parts.tokenizer([PROMPT], padding="max_length", max_length=77, return_tensors="pt").input_ids

    @torch.no_grad()
    def text():
        with lora.attached(a, b):
            return parts.text_encoder(tokens)[0]

    @torch.no_grad()
    def unet(x, t, text):
        with lora.attached(a, b):
            return parts.unet(x, t, text.expand(len(x), -1, -1), return_dict=False)[0]

    return tokens, text(), unet


def pipeline_of(model) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(str(model), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("file_format", ["kohya", "diffusers"])
def test_diffusers_loads_the_file_and_computes_what_we_compute(tiny_model_dir, tmp_path, adapter, ours, latents, file_format):
    file = write_adapter(tmp_path / "jenny.safetensors", adapter, file_format)
    write_adapter(tmp_path / "another.safetensors", whole_adapter(tiny_model_dir, seed=1), file_format)
    pipeline = pipeline_of(tiny_model_dir)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    tokens, text, unet = ours
    with torch.no_grad():
        torch.testing.assert_close(pipeline.text_encoder(tokens)[0], text, rtol=1e-5, atol=1e-5)
        theirs = pipeline.unet(*latents, text.expand(2, -1, -1), return_dict=False)[0]
        torch.testing.assert_close(theirs, unet(*latents, text), rtol=1e-5, atol=1e-5)
        pipeline.disable_lora()
        assert (pipeline.unet(*latents, text.expand(2, -1, -1), return_dict=False)[0] - theirs).abs().max() > 1e-2


@pytest.mark.parametrize("file_format", ["kohya", "diffusers"])
def test_a_pipeline_with_the_file_makes_our_picture(tiny_model_dir, tmp_path, adapter, file_format):
    file = write_adapter(tmp_path / "jenny.safetensors", adapter, file_format)
    config = EvalConfig(infer_model=str(tiny_model_dir), prompts=(PROMPT,), images_per_prompt=1, steps=3, guidance=4.0)
    frozen = FrozenWork()
    parts = frozen.parts(str(tiny_model_dir), None, "float32")
    ((picture,),) = generate(parts, [ImageSet(adapter, config, trigger="", seeds=(7,))], frozen=frozen)
    pipeline = pipeline_of(tiny_model_dir)
    pipeline.scheduler = DDIMScheduler.from_config({"clip_sample": False, **pipeline.scheduler.config})
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    theirs = pipeline(
        PROMPT, num_inference_steps=3, guidance_scale=4.0, generator=torch.Generator().manual_seed(7), output_type="np", height=64, width=64
    ).images[0]
    # Ours is rounded to 256 values; 1e-5 beyond half of one is what may differ.
    assert np.abs(picture / 255 - theirs).max() <= 0.5 / 255 + 1e-5


def test_peft_loads_the_folder_and_computes_what_we_compute(tiny_model_dir, tmp_path, adapter, ours, latents):
    folder = write_adapter(tmp_path / "jenny", adapter, "peft")
    tokens, text, unet = ours
    their_text = PeftModel.from_pretrained(CLIPTextModel.from_pretrained(tiny_model_dir / "text_encoder"), folder / "text_encoder")
    their_unet = PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(tiny_model_dir / "unet"), folder / "unet")
    with torch.no_grad():
        torch.testing.assert_close(their_text(tokens)[0], text, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(their_unet(*latents, text.expand(2, -1, -1)).sample, unet(*latents, text), rtol=1e-5, atol=1e-5)


def test_pefts_state_dict_of_the_folder_fits_an_injected_model(tiny_model_dir, tmp_path, adapter, ours, latents):
    folder = write_adapter(tmp_path / "jenny", adapter, "peft") / "unet"
    values = json.loads((folder / "adapter_config.json").read_text())
    assert (values["r"], values["lora_alpha"]) == (RANK, ALPHA)
    config = LoraConfig(r=values["r"], lora_alpha=values["lora_alpha"], target_modules=values["target_modules"])
    model = inject_adapter_in_model(config, UNet2DConditionModel.from_pretrained(tiny_model_dir / "unet")).eval()
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    assert not set_peft_model_state_dict(model, state).unexpected_keys
    _, text, unet = ours
    with torch.no_grad():
        torch.testing.assert_close(model(*latents, text.expand(2, -1, -1)).sample, unet(*latents, text), rtol=1e-5, atol=1e-5)


def test_an_adapter_of_the_unet_alone_has_no_text_encoder_in_any_format(tiny_model_dir, tmp_path):
    adapter = whole_adapter(tiny_model_dir, targets="attention", text=False)
    for file_format in ("kohya", "diffusers"):
        names = load_file(write_adapter(tmp_path / f"{file_format}.safetensors", adapter, file_format))
        assert names and not any(name.startswith(("lora_te", "text_encoder")) for name in names)
    folder = write_adapter(tmp_path / "peft", adapter, "peft")
    assert [path.name for path in folder.iterdir()] == ["unet"]


def test_equal_input_gives_equal_bytes(tmp_path):
    metadata = {f"ss_{i}": "x" for i in range(30)}
    contents = {safetensors_bytes({"a": torch.ones(3)}, metadata) for _ in range(5)}
    assert len(contents) == 1 < len({save({"a": torch.ones(3)}, metadata) for _ in range(5)})  # why there is a function for it
    (tmp_path / "x.safetensors").write_bytes(contents.pop())
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == metadata and torch.equal(file.get_tensor("a"), torch.ones(3))


@pytest.mark.parametrize("file_format", FORMATS)
def test_what_is_there_is_replaced_only_on_demand_and_nothing_is_left_behind(tiny_model_dir, tmp_path, file_format):
    path = tmp_path / ("jenny" if file_format == "peft" else "jenny.safetensors")
    adapters = [whole_adapter(tiny_model_dir, seed=seed, targets="attention", text=False) for seed in (0, 1)]
    content = lambda: sorted(f.read_bytes() for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file())  # noqa: E731
    write_adapter(path, adapters[0], file_format)
    first = content()
    with pytest.raises(AdapterError, match="jenny.*exists.*--replace"):
        write_adapter(path, adapters[1], file_format)
    assert content() == first
    write_adapter(path, adapters[1], file_format, replace=True)
    assert content() != first
    write_adapter(path, adapters[0], file_format, replace=True)
    assert content() == first and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_unknown_format_and_a_place_that_cannot_be_written_are_one_line(tiny_model_dir, tmp_path):
    adapter = whole_adapter(tiny_model_dir, targets="attention", text=False)
    with pytest.raises(AdapterError, match="--format.*kohya, diffusers, peft.*'ckpt'"):
        write_adapter(tmp_path / "x.safetensors", adapter, "ckpt")
    (tmp_path / "file").write_text("")
    for file_format in FORMATS:
        with pytest.raises(AdapterError, match="can be written.*file"):
            write_adapter(tmp_path / "file" / "x.safetensors", adapter, file_format)
