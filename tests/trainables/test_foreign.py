"""LoRA files of others: what they do to a model is what diffusers does with them, and what is no LoRA of this model is refused by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPTextModel

from tests.trainables.exported import tiny_parts, whole_adapter
from trainables.adapter_files import FORMATS, PEFT_CONFIG, PEFT_WEIGHTS, write_adapter
from trainables.config import EvalConfig
from trainables.errors import AdapterError
from trainables.foreign import find_foreign
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.kohya import kohya_name, kohya_tensors
from trainables.lora import SlotLoRA, stack_adapters
from trainables.merging import updatable_layers, updates_of


@pytest.fixture
def parts(tiny_model_dir):
    return tiny_parts(tiny_model_dir)


@pytest.fixture
def inputs(parts):
    generator = torch.Generator().manual_seed(3)
    tokens = parts.tokenizer(["J3NN13, smile"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    return tokens, torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 700])


@torch.no_grad()
def outputs_of(unet, text_encoder, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """What a text encoder and a UNet make of the same input; both must be right."""
    tokens, latents, times = inputs
    text = text_encoder(tokens)[0]
    return text, unet(latents, times, text.expand(2, -1, -1), return_dict=False)[0]


def merged(path, model, inputs):
    parts = tiny_parts(model)
    find_foreign(path).merge_into(parts)
    return outputs_of(parts.unet, parts.text_encoder, inputs)


def in_diffusers(folder, name, model, inputs):
    pipeline = StableDiffusionPipeline.from_pretrained(str(model), safety_checker=None)
    pipeline.load_lora_weights(folder, weight_name=name)
    return outputs_of(pipeline.unet, pipeline.text_encoder, inputs)


def kohyas_file(parts, *, alphas: bool = True) -> dict[str, torch.Tensor]:
    """A file as kohya's LoCon makes it: every layer of its classes, text encoder's feed-forward and time projections too, ranks that differ."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for number, (path, layer) in enumerate(sorted(updatable_layers(parts.unet, parts.text_encoder).items())):
        if path in ("conv_in", "conv_out") or path.startswith("time_embedding"):
            continue
        rank, name = 1 + number % 5, kohya_name(path)
        out, *inner = layer.weight.shape
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *inner, generator=generator) * 0.1
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, rank, *[1] * (len(inner) - 1), generator=generator) * 0.1
        if alphas:
            tensors[f"{name}.alpha"] = torch.tensor(0.5 + number % 3)
    return tensors


def with_kohyas_modules(tensors, parts) -> None:
    """Add to each layer's output what kohya's LoRAModule does: up(down(x)) * alpha / rank, both factors as layers of the layer's own kind."""
    for path, layer in updatable_layers(parts.unet, parts.text_encoder).items():
        name = kohya_name(path)
        if f"{name}.alpha" in tensors:
            down, up, alpha = (tensors[f"{name}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
            layer.register_forward_hook(_kohyas_hook(down, up, float(alpha) / len(down)))


def _kohyas_hook(down, up, scale):
    def hook(layer, inputs, output):
        if isinstance(layer, torch.nn.Conv2d):
            return output + F.conv2d(F.conv2d(inputs[0], down, stride=layer.stride, padding=layer.padding), up) * scale
        return output + F.linear(F.linear(inputs[0], down), up) * scale

    return hook


def test_a_file_of_kohyas_with_all_its_layers_and_differing_ranks_and_alphas_does_what_kohyas_modules_do(tiny_model_dir, tmp_path, parts, inputs):
    tensors = kohyas_file(parts)
    assert any("mlp_fc1" in key for key in tensors) and any("time_emb_proj" in key for key in tensors)
    save_file(tensors, tmp_path / "theirs.safetensors")
    plain = outputs_of(parts.unet, parts.text_encoder, inputs)
    with_kohyas_modules(tensors, parts)
    reference = outputs_of(parts.unet, parts.text_encoder, inputs)
    # Not diffusers: it keeps one alpha for all attention layers of such a file.
    for ours, theirs, base in zip(merged(tmp_path / "theirs.safetensors", tiny_model_dir, inputs), reference, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert (ours - base).abs().max() > 1e-2


def test_a_file_of_kohyas_without_alphas_is_what_diffusers_makes_of_it(tiny_model_dir, tmp_path, parts, inputs):
    save_file(kohyas_file(parts, alphas=False), tmp_path / "theirs.safetensors")
    found = merged(tmp_path / "theirs.safetensors", tiny_model_dir, inputs)
    for ours, theirs in zip(found, in_diffusers(tmp_path, "theirs.safetensors", tiny_model_dir, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("file_format", FORMATS)
def test_our_own_exports_come_back_as_the_adapter_they_were(tiny_model_dir, tmp_path, parts, inputs, file_format):
    adapter = whole_adapter(tiny_model_dir)
    path = write_adapter(tmp_path / ("x" if file_format == "peft" else "x.safetensors"), adapter, file_format)
    found, wanted = find_foreign(path).updates_for(parts), updates_of(adapter)
    assert found.keys() == wanted.keys()
    for layer, update in wanted.items():
        assert torch.equal(found[layer].down, update.down) and torch.equal(found[layer].up, update.up) and found[layer].scale == update.scale == 1.5
    lora = SlotLoRA(parts.unet, text_encoder=parts.text_encoder)
    a, b = stack_adapters([adapter], lora.shapes_for([adapter]), device="cpu")
    with lora.attached(a, b):
        attached = outputs_of(parts.unet, parts.text_encoder, inputs)
    for ours, theirs in zip(merged(path, tiny_model_dir, inputs), attached, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_names_of_earlier_versions_of_diffusers_are_read(tiny_model_dir, tmp_path, parts):
    adapter = whole_adapter(tiny_model_dir, targets="attention")
    tensors = {}
    for path, update in updates_of(adapter).items():
        if path.startswith("text_encoder."):
            name = path.replace("text_encoder.", "text_encoder.text_model.").replace("out_proj", "to_out_lora")
            name = name.replace("q_proj", "to_q_lora").replace("k_proj", "to_k_lora").replace("v_proj", "to_v_lora")
        else:
            before, _, last = path.replace("to_out.0", "to_out").rpartition(".")
            name = f"unet.{before}.processor.{last}_lora"
        tensors |= {f"{name}.down.weight": update.down.contiguous(), f"{name}.up.weight": update.up.contiguous()}
    save_file(tensors, tmp_path / "old.safetensors")
    found = find_foreign(tmp_path / "old.safetensors").updates_for(parts)
    assert found.keys() == adapter.layers.keys() and {update.scale for update in found.values()} == {1.0}


def test_peft_scales_by_pattern_and_by_the_root_of_the_rank_where_its_configuration_says_so(tiny_model_dir, tmp_path, parts):
    folder = write_adapter(tmp_path / "x", whole_adapter(tiny_model_dir, targets="attention", text=False), "peft") / "unet"
    values = json.loads((folder / PEFT_CONFIG).read_text())
    (folder / PEFT_CONFIG).write_text(json.dumps(values | {"use_rslora": True, "alpha_pattern": {"attn2.to_q": 3.0}}))
    found = find_foreign(folder).updates_for(parts)
    assert {update.scale for path, update in found.items() if path.endswith("attn2.to_q")} == {3.0 / 2}
    assert {update.scale for path, update in found.items() if not path.endswith("attn2.to_q")} == {6.0 / 2}  # rank 4
    found_by_file = find_foreign(folder / PEFT_WEIGHTS).updates_for(parts)
    assert {path: update.scale for path, update in found_by_file.items()} == {path: update.scale for path, update in found.items()}


@pytest.mark.parametrize(
    "key, says",
    [
        ("lora_unet_mid_block_x.dora_scale", "DoRA.*dora_scale"),
        ("lora_unet_mid_block_x.hada_w1_a", "LoHa.*hada_w1_a"),
        ("lora_unet_mid_block_x.lokr_w1", "LoKr.*lokr_w1"),
        ("lora_unet_mid_block_x.lora_mid.weight", "Tucker.*lora_mid"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "SDXL.*lora_te2_"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "SDXL.*input_blocks"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora_A.weight", "SDXL"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "Flux"),
    ],
)
def test_other_methods_and_other_families_are_refused_before_a_model_is_loaded(tmp_path, key, says):
    save_file({key: torch.zeros(4, 4)}, tmp_path / "theirs.safetensors")
    with pytest.raises(AdapterError, match=says) as caught:
        find_foreign(tmp_path / "theirs.safetensors")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"lora_unet_nowhere.lora_down.weight": torch.zeros(2, 2)}, "lora_unet_nowhere.lora_down.weight"),
        ({"unet.nowhere.lora_A.weight": torch.zeros(2, 2)}, "unet.nowhere.lora_A.weight"),
        ({"first_stage_model.decoder.conv_in.weight": torch.zeros(2, 2)}, "first_stage_model"),
        ({"lora_unet_mid_block_resnets_0_conv1.bias": torch.zeros(2)}, "conv1.bias"),
        ({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight": None}, "no lora_up.weight for mid_block"),
        ({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight": torch.zeros(99, 4)}, r"\(99, 4\).*mid_block"),
    ],
)
def test_what_is_no_update_of_the_models_layers_is_one_line_that_names_it(tiny_model_dir, tmp_path, parts, change, says):
    tensors = kohya_tensors(whole_adapter(tiny_model_dir, targets="attention", text=False)) | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=says) as caught:
        find_foreign(tmp_path / "x.safetensors").updates_for(parts)
    assert "\n" not in str(caught.value)


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def spoilt(tensors, which: str, how):
    """The tensors, those of the first layer or of all changed by `how`."""
    ending, everywhere = which.removeprefix("every "), which.startswith("every ")
    names = {name for name in tensors if name.endswith(ending) and (everywhere or name.startswith(LAYER))}
    assert names
    return {name: how(tensor).contiguous() if name in names else tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "which, how, says",
    [
        ("lora_down.weight", lambda t: torch.full_like(t, torch.nan), "NaN or infinite.*lower learning rate"),
        ("lora_up.weight", lambda t: t.index_fill(0, torch.tensor([0]), torch.inf), "NaN or infinite"),
        ("alpha", lambda t: t * torch.nan, "NaN or infinite"),
        ("alpha", lambda t: t * torch.inf, "NaN or infinite"),
        ("alpha", lambda t: torch.ones(2), "alpha of a layer must be one number.* 2 for mid_block"),
        ("lora_down.weight", lambda t: t.flatten(), "must be matrices.*for mid_block"),
        ("lora_up.weight", lambda t: t.to(torch.int8), "floating-point.*torch.int8.*for mid_block"),
        ("every alpha", lambda t: t * 0, "every update in x is zero"),
        ("every lora_up.weight", lambda t: t * 0, "every update in x is zero"),
        ("every lora_down.weight", lambda t: t * 0, "every update in x is zero"),
    ],
)
def test_a_file_that_would_give_black_pictures_or_the_base_models_is_one_line(tiny_model_dir, tmp_path, parts, which, how, says):
    tensors = kohya_tensors(whole_adapter(tiny_model_dir, targets="attention", text=False))
    save_file(spoilt(tensors, which, how), tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=says) as caught:
        find_foreign(tmp_path / "x.safetensors").updates_for(parts)
    assert "\n" not in str(caught.value)


def test_a_file_of_rank_zero_is_one_line(tiny_model_dir, tmp_path, parts):
    tensors = kohya_tensors(whole_adapter(tiny_model_dir, targets="attention", text=False))
    tensors[f"{LAYER}.lora_down.weight"] = tensors[f"{LAYER}.lora_down.weight"][:0]
    tensors[f"{LAYER}.lora_up.weight"] = tensors[f"{LAYER}.lora_up.weight"][:, :0].contiguous()
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="rank of at least 1.*has 0 for mid_block"):
        find_foreign(tmp_path / "x.safetensors").updates_for(parts)


def test_layers_that_were_not_trained_leave_a_file_usable(tiny_model_dir, tmp_path, parts):
    tensors = kohya_tensors(whole_adapter(tiny_model_dir, targets="attention"))
    half = {name: t * 0 if name.startswith("lora_te") and "lora_up" in name else t for name, t in tensors.items()}
    save_file(half, tmp_path / "x.safetensors")
    assert len(find_foreign(tmp_path / "x.safetensors").updates_for(parts)) == len(tensors) // 3


@pytest.mark.parametrize("alpha", ["strong", None, [1], True, float("nan")])
@pytest.mark.parametrize("name", ["lora_alpha", "alpha_pattern"])
def test_an_alpha_of_pefts_that_is_no_number_is_one_line(tiny_model_dir, tmp_path, parts, name, alpha):
    folder = write_adapter(tmp_path / "x", whole_adapter(tiny_model_dir, targets="attention", text=False), "peft") / "unet"
    values = json.loads((folder / PEFT_CONFIG).read_text())
    (folder / PEFT_CONFIG).write_text(json.dumps(values | {name: {"attn2.to_q": alpha} if name == "alpha_pattern" else alpha}))
    with pytest.raises(AdapterError, match="alpha of a layer must be a number|NaN or infinite"):
        find_foreign(folder).updates_for(parts)


@pytest.mark.parametrize("pattern", ["text_model.encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.q_proj", r"layers\.0\.self_attn\.q_proj"])
def test_patterns_of_the_text_encoder_are_read_with_and_without_the_level_text_model(tiny_model_dir, tmp_path, parts, pattern):
    folder = write_adapter(tmp_path / "x", whole_adapter(tiny_model_dir, targets="attention"), "peft") / "text_encoder"
    values = json.loads((folder / PEFT_CONFIG).read_text())
    (folder / PEFT_CONFIG).write_text(json.dumps(values | {"alpha_pattern": {pattern: 2.0}}))
    scales = {path: update.scale for path, update in find_foreign(folder).updates_for(parts).items()}
    wanted = "text_encoder.encoder.layers.0.self_attn.q_proj"
    assert scales.pop(wanted) == 2.0 / 4 and set(scales.values()) == {6.0 / 4}


def test_patterns_in_the_metadata_of_a_file_of_diffusers_are_read_the_same(tiny_model_dir, tmp_path, parts):
    path = write_adapter(tmp_path / "x.safetensors", whole_adapter(tiny_model_dir, targets="attention"), "diffusers")
    tensors, metadata = load_file(path), safe_open(path, framework="pt").metadata()
    values = json.loads(metadata["lora_adapter_metadata"])
    values |= {"text_encoder.alpha_pattern": {"text_model.encoder.layers.1.self_attn.v_proj": 3.0}}
    save_file(tensors, path, metadata={**metadata, "lora_adapter_metadata": json.dumps(values)})
    scales = {path: update.scale for path, update in find_foreign(path).updates_for(parts).items()}
    assert scales.pop("text_encoder.encoder.layers.1.self_attn.v_proj") == 3.0 / 4 and set(scales.values()) == {6.0 / 4}


def test_in_bfloat16_a_file_gives_the_pictures_of_the_adapter_that_it_was_exported_from(tiny_model_dir, tmp_path):
    adapter = whole_adapter(tiny_model_dir, text=False)
    # So small that a bfloat16 weight plus the update is the weight: beside it, the update still counts.
    adapter = replace(adapter, layers={path: (a, b * 0.02) for path, (a, b) in adapter.layers.items()})
    path = write_adapter(tmp_path / "x.safetensors", adapter, "kohya")
    config = EvalConfig(infer_model=str(tiny_model_dir), prompts=("{trigger}, smile",), steps=3, images_per_prompt=2, infer_dtype="bfloat16")

    def pictures(of, on_load=lambda parts: None):
        frozen = FrozenWork(on_load=on_load)
        parts = frozen.parts(str(tiny_model_dir), None, "bfloat16")
        return generate(parts, [ImageSet(of, config, "J3NN13")], frozen=frozen)[0]

    as_file = pictures(None, find_foreign(path).merge_into)
    assert np.array_equal(as_file, pictures(adapter))
    assert (as_file != pictures(None)).any()


def test_pickles_missing_files_and_peft_without_its_configuration_are_one_line(tiny_model_dir, tmp_path, parts):
    torch.save({"x": torch.zeros(1)}, tmp_path / "a.pt")
    torch.save({"x": torch.zeros(1)}, tmp_path / "renamed.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    save_file({}, tmp_path / "empty.safetensors")
    for name, says in (("a.pt", "pickle"), ("renamed.safetensors", "is a pickle by its content"), ("cut.safetensors", "whole"), ("no", "there is no")):
        with pytest.raises(AdapterError, match=says):
            find_foreign(tmp_path / name)
    with pytest.raises(AdapterError, match="update of some layer"):
        find_foreign(tmp_path / "empty.safetensors").updates_for(parts)
    folder = write_adapter(tmp_path / "x", whole_adapter(tiny_model_dir, targets="attention", text=False), "peft")
    (folder / "unet" / PEFT_CONFIG).unlink()
    with pytest.raises(AdapterError, match=f"where it holds peft's {PEFT_CONFIG}"):
        find_foreign(folder)
    with pytest.raises(AdapterError, match=f"alpha in {PEFT_CONFIG}"):
        find_foreign(folder / "unet" / PEFT_WEIGHTS).updates_for(parts)


def test_the_digest_is_that_of_the_content_and_of_what_says_how_strong_it_is(tiny_model_dir, tmp_path):
    adapter = whole_adapter(tiny_model_dir, targets="attention", text=False)
    first, second = (write_adapter(tmp_path / name, adapter, "peft") for name in ("x", "y"))
    assert find_foreign(first).digest == find_foreign(second).digest
    config = second / "unet" / PEFT_CONFIG
    config.write_text(config.read_text().replace("6.0", "7.0"))
    assert find_foreign(first).digest != find_foreign(second).digest


def test_a_text_encoder_alone_leaves_the_unet_as_it_is(tiny_model_dir, tmp_path, parts, inputs):
    tensors = {name: tensor for name, tensor in kohyas_file(parts).items() if name.startswith("lora_te_")}
    save_file(tensors, tmp_path / "te.safetensors")
    changed = tiny_parts(tiny_model_dir)
    find_foreign(tmp_path / "te.safetensors").merge_into(changed)
    assert all(torch.equal(a, b) for a, b in zip(parts.unet.parameters(), changed.unet.parameters(), strict=True))
    plain = CLIPTextModel.from_pretrained(tiny_model_dir / "text_encoder")
    assert not torch.equal(changed.text_encoder(inputs[0])[0], plain(inputs[0])[0])
