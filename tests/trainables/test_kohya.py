"""Names, shapes and hashes of kohya's files: those that its own rules give for the whole of Stable Diffusion 1.5."""

import hashlib

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from trainables.kohya import kohya_hashes, kohya_name, kohya_tensors, model_hash_of
from trainables.lora import Adapter, SlotLoRA
from trainables.merging import updatable_layers
from trainables.single_files import SD1_CONFIG

RANK, ALPHA = 8, 4.0

# kohya's sd-scripts, networks/lora.py: which classes' linear layers and convolutions get a LoRA.
UNET_CLASSES = ["Transformer2DModel"]
UNET_CLASSES_OF_LOCON = ["ResnetBlock2D", "Downsample2D", "Upsample2D"]
TEXT_CLASSES = ["CLIPAttention", "CLIPMLP", "CLIPSdpaAttention"]


@pytest.fixture(scope="module")
def sd15():
    """UNet and text encoder in full size, without memory for their weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(SD1_CONFIG / "unet")))
        return unet, CLIPTextModel(CLIPTextConfig.from_pretrained(str(SD1_CONFIG / "text_encoder")))


def names_by_kohyas_rule(root: nn.Module, prefix: str, classes: list[str]) -> dict[str, tuple[int, ...]]:
    """The weight shapes by LoRA name, as kohya's create_modules walks the network."""
    found = {}
    for name, module in root.named_modules():
        if type(module).__name__ in classes:
            for child_name, child in module.named_modules():
                if isinstance(child, (nn.Linear, nn.Conv2d)):
                    found[f"{prefix}.{name}.{child_name}".replace(".", "_")] = tuple(child.weight.shape)
    return found


def adapter_of(unet, text_encoder) -> Adapter:
    lora = SlotLoRA(unet, "attention+ff+conv", text_encoder=text_encoder)
    with torch.device("meta"):
        layers = {path: (torch.zeros(d_in, RANK), torch.zeros(RANK, d_out)) for path, (d_in, d_out) in lora.shapes.items()}
    return Adapter(RANK, ALPHA, layers, {path: kernel for path, kernel in lora.kernels.items() if path in layers})


def test_names_and_shapes_for_stable_diffusion_15_are_those_of_kohyas_rules(sd15):
    unet, text_encoder = sd15
    linear = names_by_kohyas_rule(unet, "lora_unet", UNET_CLASSES)
    locon = names_by_kohyas_rule(unet, "lora_unet", UNET_CLASSES_OF_LOCON)
    text = names_by_kohyas_rule(text_encoder, "lora_te_text_model", TEXT_CLASSES)
    assert (len(linear), len({**linear, **locon}), len(text)) == (192, 278, 72)  # what kohya's scripts print for Stable Diffusion 1.5
    theirs = {**linear, **locon, **text}
    tensors = kohya_tensors(adapter_of(*sd15))
    names = {key.partition(".")[0] for key in tensors}
    untrained = {name for name in theirs if name.endswith(("time_emb_proj", "mlp_fc1", "mlp_fc2"))}
    assert names == set(theirs) - untrained and len(names) == 278 - 22 + 48
    for name in names:
        out, *inner = theirs[name]
        down, up, alpha = (tensors[f"{name}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        assert tuple(down.shape) == (RANK, *inner) and tuple(up.shape) == (out, RANK, *[1] * (len(inner) - 1))
        assert alpha.shape == () and alpha.item() == ALPHA


def test_every_layer_that_may_be_updated_has_a_name_of_its_own(sd15):
    layers = updatable_layers(*sd15)
    assert len({kohya_name(path) for path in layers}) == len(layers)
    assert kohya_name("text_encoder.encoder.layers.3.self_attn.q_proj") == "lora_te_text_model_encoder_layers_3_self_attn_q_proj"
    assert kohya_name("mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0") in {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    }


def test_hashes_are_of_the_tensors_and_of_kohyas_own_metadata(tmp_path):
    tensors = {"lora_unet_x.lora_down.weight": torch.arange(600_000, dtype=torch.float32).view(8, -1)}
    hashes = kohya_hashes(tensors, {"ss_epoch": "3", "modelspec.title": "a"})
    # sd-webui-additional-networks: all behind the header, and 64 kB from the second megabyte on.
    written = save(tensors, {"ss_epoch": "3"})
    assert hashes["sshs_model_hash"] == hashlib.sha256(tensors["lora_unet_x.lora_down.weight"].numpy().tobytes()).hexdigest()
    assert hashes["sshs_legacy_hash"] == hashlib.sha256(written[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    assert kohya_hashes(tensors, {"ss_epoch": "3"}) == hashes
    (tmp_path / "x.safetensors").write_bytes(written)
    assert model_hash_of(tmp_path / "x.safetensors") == hashes["sshs_model_hash"]
    other = kohya_hashes({name: tensor + 1 for name, tensor in tensors.items()}, {"ss_epoch": "3"})
    assert all(other[name] != value for name, value in hashes.items())
