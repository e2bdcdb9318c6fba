"""Fused checkpoints: they compute what base and adapter compute together, in the base's own form, and keep what else a file holds."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.trainables.exported import whole_adapter
from tests.trainables.layouts import write_sd2_layout, write_single_file
from tests.trainables.test_single_files import (
    copy_configuration,
    open_clip,
    unet_of,
    without_text_model,
)
from trainables.checkpoints import write_checkpoint
from trainables.errors import AdapterError
from trainables.lora import SlotLoRA, stack_adapters
from trainables.merging import Update, updates_of
from trainables.models import encode_prompts, load_parts, resolve_model


@pytest.fixture
def single_file(sd15_dir, tmp_path):
    """`sd15_dir` as one file, with the configuration that its narrow layers need beside it."""
    copy_configuration(sd15_dir, tmp_path / "dreamy")
    return write_single_file(tmp_path / "dreamy.safetensors", sd15_dir)


@torch.no_grad()
def outputs_of(parts, adapter=None) -> list[torch.Tensor]:
    """What text encoder and UNet make of the same input, with the adapter attached if there is one."""
    side = parts.latent_shape[1]
    latents = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
    if adapter is None:
        text = encode_prompts(parts, ["J3NN13, smile"])
        return [text, parts.unet(latents, 500, text.expand(2, -1, -1)).sample]
    lora = SlotLoRA(parts.unet, text_encoder=parts.text_encoder)
    with lora.attached(*stack_adapters([adapter], lora.shapes_for([adapter]), device="cpu")):
        return outputs_of(parts)


def assert_equal(found, wanted, *, tolerance=1e-5):
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_folder_gets_the_adapter_and_the_pipeline_loads_it(tiny_model_dir, tmp_path):
    adapter, source = whole_adapter(tiny_model_dir), resolve_model(str(tiny_model_dir))
    folder = write_checkpoint(tmp_path / "fused", source, updates_of(adapter))
    wanted = outputs_of(load_parts(source), adapter)
    assert_equal(outputs_of(load_parts(resolve_model(str(folder)))), wanted)
    assert (wanted[1] - outputs_of(load_parts(source))[1]).abs().max() > 1e-2
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder))
    assert pipeline.safety_checker is None and type(pipeline.scheduler).__name__ == "PNDMScheduler"
    assert (folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == source.vae.weights.read_bytes()


@pytest.mark.parametrize("change", [dict, without_text_model])
def test_a_single_file_gets_the_adapter_under_its_own_names_and_the_rest_stays_to_the_byte(
    sd15_dir, single_file, tmp_path, change
):
    write_single_file(single_file, sd15_dir, change)
    adapter, source = whole_adapter(sd15_dir), resolve_model(str(single_file))
    fused = write_checkpoint(tmp_path / "fused.safetensors", source, updates_of(adapter), metadata={"modelspec.title": "mine"})
    copy_configuration(sd15_dir, tmp_path / "fused")
    assert_equal(outputs_of(load_parts(resolve_model(str(fused)))), outputs_of(load_parts(source), adapter))
    before, after = load_file(single_file), load_file(fused)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == len(adapter.layers) and all(name.startswith(("model.diffusion_model.", "cond_stage_model.")) for name in changed)
    with safe_open(fused, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "modelspec.title": "mine"}


def test_precision_stays_the_bases_and_fusing_twice_gives_equal_bytes(sd15_dir, single_file, tmp_path):
    write_single_file(single_file, sd15_dir, lambda weights: {k: w.half() if w.is_floating_point() else w for k, w in weights.items()})
    adapter, source = whole_adapter(sd15_dir), resolve_model(str(single_file))
    first, second = (write_checkpoint(tmp_path / f"{n}.safetensors", source, updates_of(adapter), metadata={"a": "b", "c": "d"}) for n in (1, 2))
    assert first.read_bytes() == second.read_bytes()
    assert {t.dtype for t in load_file(first).values() if t.is_floating_point()} == {torch.float16}
    copy_configuration(sd15_dir, tmp_path / "1")
    # Half precision has 11 bits.
    assert_equal(outputs_of(load_parts(resolve_model(str(first)))), outputs_of(load_parts(source), adapter), tolerance=2e-2)


def test_a_folder_with_another_vae_carries_that_one(tiny_model_dir, make_tiny_model, tmp_path):
    make_tiny_model(tmp_path / "other", seed=1)
    source = resolve_model(str(tiny_model_dir), str(tmp_path / "other"))
    folder = write_checkpoint(tmp_path / "fused", source, {})
    assert (folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == source.vae.weights.read_bytes()
    assert source.vae.weights.parent.parent == tmp_path / "other"


def test_another_form_than_the_bases_a_taken_name_and_an_adapter_that_does_not_fit_are_one_line(tiny_model_dir, single_file, tmp_path):
    folder, file = resolve_model(str(tiny_model_dir)), resolve_model(str(single_file))
    (tmp_path / "taken").mkdir()
    for path, source, says in (
        (tmp_path / "x.safetensors", folder, "is a folder in diffusers' layout.*x.safetensors.*-o with a folder's name"),
        (tmp_path / "x", file, "is one file.*-o NAME.safetensors"),
        (tmp_path / "taken", folder, "taken exists.*--replace"),
    ):
        with pytest.raises(AdapterError, match=says):
            write_checkpoint(path, source, {})
    nowhere = {"nowhere": Update(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)}
    unfit = {"mid_block.resnets.0.conv1": Update(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)}
    for path, source in ((tmp_path / "y", folder), (tmp_path / "y.safetensors", file)):
        with pytest.raises(AdapterError, match="has no nowhere"):
            write_checkpoint(path, source, nowhere)
        with pytest.raises(AdapterError, match=r"is \(2, 2\) for"):
            write_checkpoint(path, source, unfit)
        assert not path.exists()
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_stable_diffusion_2_file_takes_the_unets_part_and_says_where_the_text_encoders_goes(tiny_tokenizer, tmp_path):
    model, file = tmp_path / "model", tmp_path / "v2.safetensors"
    write_sd2_layout(model, tiny_tokenizer)
    text = {name.removeprefix("text_model."): w for name, w in load_file(model / "text_encoder" / "model.safetensors").items()}
    save_file(open_clip(text) | unet_of(tmp_path, tiny_tokenizer), file)
    copy_configuration(model, tmp_path / "v2")
    shutil.rmtree(tmp_path / "v2" / "unet")
    shutil.copytree(tmp_path / "narrow" / "unet", tmp_path / "v2" / "unet")
    source = resolve_model(str(file), str(model))
    of_unet = {"conv_in": Update(torch.ones(1, 36), torch.ones(8, 1), 0.5)}
    fused = load_file(write_checkpoint(tmp_path / "fused.safetensors", source, of_unet))["model.diffusion_model.input_blocks.0.0.weight"]
    torch.testing.assert_close(fused, load_file(file)["model.diffusion_model.input_blocks.0.0.weight"] + 0.5)
    of_text = {"text_encoder.encoder.layers.0.self_attn.q_proj": Update(torch.ones(1, 32), torch.ones(32, 1), 0.5)}
    with pytest.raises(AdapterError, match="v2.safetensors.*one weight there.*diffusers folder"):
        write_checkpoint(tmp_path / "x.safetensors", source, of_text)
