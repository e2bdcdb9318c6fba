"""The slot-axis LoRA layer against peft's on the same weights, and its dropout masks."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from transformers import CLIPTextModel

from trainables.config import TARGETS
from trainables.dropout import _MULTIPLIERS, SlotDropout, dropout_mask, hash_of_elements
from trainables.errors import AdapterError, ConfigError
from trainables.lora import Adapter, SlotLoRA, new_adapter, stack_adapters

RANK, ALPHA = 4, 6.0
NAMES_IN_PEFT = {"attention": ["to_q", "to_k", "to_v", "to_out.0"]}
NAMES_IN_PEFT["attention+ff"] = [*NAMES_IN_PEFT["attention"], "ff.net.0.proj", "ff.net.2"]
NAMES_IN_PEFT["attention+ff+conv"] = [
    *NAMES_IN_PEFT["attention+ff"],
    *("conv1", "conv2", "conv_shortcut", "proj_in", "proj_out", "downsamplers.0.conv", "upsamplers.0.conv"),
]
TEXT_NAMES_IN_PEFT = ["q_proj", "k_proj", "v_proj", "out_proj"]


@pytest.fixture(scope="module")
def unet(tiny_model_dir):
    return UNet2DConditionModel.from_pretrained(tiny_model_dir / "unet").eval().requires_grad_(False)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 700]), torch.randn(2, 7, 32, generator=generator)


def random_adapter(shapes, *, rank=RANK, alpha=ALPHA, seed=0, kernels=None) -> Adapter:
    """An adapter whose B is not zero, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    fresh = new_adapter(shapes, rank=rank, alpha=alpha, seed=seed, kernels=kernels)
    layers = {path: (a, torch.randn(b.shape, generator=generator) * 0.1) for path, (a, b) in fresh.layers.items()}
    return Adapter(rank, alpha, layers, fresh.kernels)


class MaskedAs(torch.nn.Module):
    """In place of peft's own dropout, which draws from the global generator: a layer's mask as ours computes it."""

    def __init__(self, dropout: SlotDropout, index: int) -> None:
        super().__init__()
        self.dropout, self.index = dropout, index

    def forward(self, x):
        return x * dropout_mask(self.dropout, hash_of_elements(x.numel(), self.index, x.device)).view_as(x)


def with_peft(network, adapter: Adapter, names, *, prefix="", dropout=None, lora=None):
    """peft's own LoRA on a copy of the network, holding the same weights, with the masks of our layers if there is dropout."""
    config = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=names)
    model = inject_adapter_in_model(config, copy.deepcopy(network))
    for path, (a, b) in adapter.layers.items():
        layer = model.get_submodule(path.removeprefix(prefix))
        for part, ours in ((layer.lora_A["default"], a.T), (layer.lora_B["default"], b.T)):
            part.weight.data = ours.reshape(part.weight.shape).clone()
        if dropout is not None:
            layer.lora_dropout["default"] = MaskedAs(dropout, lora.layers[path].index)
    return model


def assert_equals_peft(output, reference, leaves, reference_model, adapter, *, prefix=""):
    output.square().sum().backward()
    reference.square().sum().backward()
    torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5)
    names = [name for name, _ in reference_model.named_modules() if name.endswith(".lora_A.default")]
    assert set(adapter.layers) == {prefix + name.removesuffix(".lora_A.default") for name in names}
    for path in adapter.layers:
        layer, (a, b) = reference_model.get_submodule(path.removeprefix(prefix)), (leaves[0][path], leaves[1][path])
        torch.testing.assert_close(a.grad[0], layer.lora_A["default"].weight.grad.flatten(1).T, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(b.grad[0] * adapter.scale, layer.lora_B["default"].weight.grad.flatten(1).T, rtol=1e-3, atol=1e-4)
        assert a.grad.any() and b.grad.any()


def leaves_of(adapter, shapes):
    return [{path: t.requires_grad_() for path, t in ab.items()} for ab in stack_adapters([adapter], shapes, device="cpu")]


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("targets", TARGETS)
def test_one_slot_equals_peft_in_output_and_gradients(unet, inputs, targets, p):
    ours = copy.deepcopy(unet)
    lora = SlotLoRA(ours, targets)
    dropout = SlotDropout(torch.tensor([p]), torch.tensor([77], dtype=torch.int32)) if p else None
    adapter = random_adapter(lora.shapes)
    a, b = leaves_of(adapter, lora.shapes)
    with lora.attached(a, b, dropout):
        output = ours(*inputs, return_dict=False)[0]
    reference_model = with_peft(unet, adapter, NAMES_IN_PEFT[targets], dropout=dropout, lora=lora)
    assert_equals_peft(output, reference_model(*inputs, return_dict=False)[0], (a, b), reference_model, adapter)


def test_linear_projections_into_a_transformer_count_as_its_convolutions(inputs):
    config = dict(block_out_channels=(32,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), layers_per_block=1)
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(sample_size=8, cross_attention_dim=32, attention_head_dim=4, use_linear_projection=True, **config)
    unet = unet.eval().requires_grad_(False)
    ours = copy.deepcopy(unet)
    lora = SlotLoRA(ours, "attention+ff+conv")
    assert "mid_block.attentions.0.proj_in" in lora.shapes and "mid_block.attentions.0.proj_in" not in lora.kernels
    adapter = random_adapter(lora.shapes)
    a, b = leaves_of(adapter, lora.shapes)
    with lora.attached(a, b):
        output = ours(*inputs, return_dict=False)[0]
    reference_model = with_peft(unet, adapter, [n for n in NAMES_IN_PEFT["attention+ff+conv"] if "samplers" not in n])
    assert_equals_peft(output, reference_model(*inputs, return_dict=False)[0], (a, b), reference_model, adapter)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_text_encoders_layers_equal_peft_in_output_and_gradients(unet, tiny_model_dir, p):
    text_encoder = CLIPTextModel.from_pretrained(tiny_model_dir / "text_encoder").eval().requires_grad_(False)
    ours, tokens = copy.deepcopy(text_encoder), torch.tensor([[5, 6, 7, 8], [9, 3, 2, 1]])
    lora = SlotLoRA(copy.deepcopy(unet), text_encoder=ours)
    dropout = SlotDropout(torch.tensor([p]), torch.tensor([77], dtype=torch.int32)) if p else None
    shapes = {path: shape for path, shape in lora.shapes.items() if path.startswith("text_encoder.")}
    adapter = random_adapter(shapes)
    a, b = leaves_of(adapter, shapes)
    with lora.attached(a, b, dropout):
        output = ours(tokens)[0]
    reference_model = with_peft(text_encoder, adapter, TEXT_NAMES_IN_PEFT, prefix="text_encoder.", dropout=dropout, lora=lora)
    assert_equals_peft(output, reference_model(tokens)[0], (a, b), reference_model, adapter, prefix="text_encoder.")


@pytest.mark.parametrize("targets", TARGETS)
def test_each_slot_acts_on_its_own_part_of_the_batch_whatever_the_ranks(unet, inputs, targets):
    ours = copy.deepcopy(unet)
    lora = SlotLoRA(ours, targets)
    adapters = [random_adapter(lora.shapes, rank=2, seed=1), None, random_adapter(lora.shapes, rank=8, alpha=3.0, seed=2)]
    a, b = stack_adapters(adapters, lora.shapes, device="cpu")
    sample, timesteps, text = inputs
    with torch.no_grad(), lora.attached(a, b):
        together = ours(sample.repeat(3, 1, 1, 1), timesteps.repeat(3), text.repeat(3, 1, 1), return_dict=False)[0].view(3, 2, 4, 8, 8)
    for s, adapter in enumerate(adapters):
        model = unet if adapter is None else with_peft(unet, adapter, NAMES_IN_PEFT[targets])
        torch.testing.assert_close(together[s], model(*inputs, return_dict=False)[0].detach(), rtol=1e-5, atol=1e-5)


def test_wider_targets_leave_the_others_fresh_weights_and_masks_as_they_are(unet):
    loras = {targets: SlotLoRA(copy.deepcopy(unet), targets) for targets in TARGETS}
    adapters = {targets: new_adapter(lora.shapes, rank=4, alpha=4, seed=5) for targets, lora in loras.items()}
    assert len(loras["attention"].shapes) < len(loras["attention+ff"].shapes) < len(loras["attention+ff+conv"].shapes)
    for narrow, wide in zip(TARGETS, TARGETS[1:], strict=False):
        assert all(torch.equal(a, adapters[wide].layers[path][0]) for path, (a, _) in adapters[narrow].layers.items())
    indices = [layer.index for layer in loras["attention"].layers.values()]
    assert len(set(indices)) == len(indices)
    assert [loras["attention"].layers[path].index for path in loras["attention"].shapes] == list(range(len(loras["attention"].shapes)))


def test_adapters_of_different_targets_share_a_batch(unet, inputs):
    ours = copy.deepcopy(unet)
    adapters = [None, *(random_adapter(SlotLoRA(copy.deepcopy(unet), targets).shapes, seed=i) for i, targets in enumerate(TARGETS))]
    sample, timesteps, text = inputs
    lora = SlotLoRA(ours)
    assert [lora.check_fits(adapter) for adapter in adapters[1:]] == list(TARGETS)
    assert set(lora.shapes_for([None])) == set(lora.shapes_for(adapters[:2])) == set(lora.shapes)
    stacked = stack_adapters(adapters, lora.shapes_for(adapters), device="cpu")
    n = len(adapters)
    for attached in (lora.attached, lora.for_pictures):
        with torch.no_grad(), attached(*stacked):
            together = ours(sample.repeat(n, 1, 1, 1), timesteps.repeat(n), text.repeat(n, 1, 1), return_dict=False)[0].view(n, 2, 4, 8, 8)
        for s, adapter in enumerate(adapters):
            model = unet if adapter is None else with_peft(unet, adapter, NAMES_IN_PEFT[TARGETS[s - 1]])
            torch.testing.assert_close(together[s], model(*inputs, return_dict=False)[0].detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours(*inputs, return_dict=False)[0], unet(*inputs, return_dict=False)[0])


def test_without_adapters_the_model_is_the_plain_one_again(unet, inputs):
    ours = copy.deepcopy(unet)
    lora = SlotLoRA(ours)
    a, b = stack_adapters([random_adapter(lora.shapes)], lora.shapes, device="cpu")
    with lora.attached(a, b):
        pass
    assert torch.equal(ours(*inputs, return_dict=False)[0], unet(*inputs, return_dict=False)[0])


def test_merged_for_pictures_is_the_same_model(unet, inputs):
    ours = copy.deepcopy(unet)
    lora = SlotLoRA(ours)
    sample, timesteps, text = inputs
    a, b = stack_adapters([random_adapter(lora.shapes, seed=1), None], lora.shapes, device="cpu")
    batch = sample.repeat(2, 1, 1, 1), timesteps.repeat(2), text.repeat(2, 1, 1)
    with torch.no_grad():
        with lora.attached(a, b):
            beside = ours(*batch, return_dict=False)[0]
        with lora.for_pictures(a, b):
            merged = [ours(*batch, return_dict=False)[0] for _ in range(2)]
            other_text = ours(*batch[:2], batch[2] * 2, return_dict=False)[0]
        with lora.attached(a, b):
            beside_with_other_text = ours(*batch[:2], batch[2] * 2, return_dict=False)[0]
    for passed in merged:
        torch.testing.assert_close(passed, beside, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other_text, beside_with_other_text, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours(*inputs, return_dict=False)[0], unet(*inputs, return_dict=False)[0])


def test_masks_on_a_cpu_are_those_of_the_other_devices():
    elements, dropout = hash_of_elements(70_000, 3, torch.device("cpu")), SlotDropout(torch.tensor([0.1, 0.4]), torch.tensor([5, -9], dtype=torch.int32))
    z = dropout.seeds.view(-1, 1) ^ elements
    for i, multiplier in enumerate(_MULTIPLIERS):
        z = z * multiplier
        z = z ^ (z >> 15) if i == 0 else z
    below = (dropout.p.double() * 2**32 - 2**31).to(torch.int32).view(-1, 1)
    assert torch.equal(dropout_mask(dropout, elements), (z >= below) * (1 / (1 - dropout.p)).view(-1, 1))


def test_the_memory_layout_of_a_gpu_changes_no_number(unet, inputs):
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        ours = copy.deepcopy(unet).to(memory_format=layout)
        lora = SlotLoRA(ours, "attention+ff+conv")
        a, b = leaves_of(random_adapter(lora.shapes), lora.shapes)
        sample = inputs[0].to(memory_format=layout)
        with lora.attached(a, b, SlotDropout(torch.tensor([0.3]), torch.tensor([77], dtype=torch.int32))):
            output = ours(sample, *inputs[1:], return_dict=False)[0]
        output.square().sum().backward()
        with torch.no_grad(), lora.for_pictures(a, b):
            merged = ours(sample, *inputs[1:], return_dict=False)[0]
        found.append([output, merged, *(t.grad for t in (*a.values(), *b.values()))])
    for plain, channels_last in zip(*found, strict=True):
        torch.testing.assert_close(plain, channels_last, rtol=1e-3, atol=1e-4)


def test_a_second_injection_finds_the_first(unet):
    ours = copy.deepcopy(unet)
    assert SlotLoRA(ours).layers == SlotLoRA(ours).layers


def test_a_fresh_adapter_changes_nothing_and_has_pefts_bounds(unet):
    lora = SlotLoRA(copy.deepcopy(unet))
    adapter = new_adapter(lora.shapes, rank=4, alpha=4, seed=5)
    for path, (a, b) in adapter.layers.items():
        bound = lora.shapes[path][0] ** -0.5  # kaiming_uniform_(a=sqrt(5)) over fan_in = d_in
        assert 0.8 * bound < a.abs().max() <= bound and not b.any()
    again = new_adapter(lora.shapes, rank=4, alpha=4, seed=5)
    assert all(torch.equal(adapter.layers[p][0], again.layers[p][0]) for p in adapter.layers)


def test_a_mask_keeps_the_stated_share_and_ignores_the_neighbours():
    elements = hash_of_elements(200_000, 3, torch.device("cpu"))
    seeds = torch.tensor([1, -5, 2**31 - 1], dtype=torch.int32)
    p = torch.tensor([0.1, 0.5, 0.0])
    masks = dropout_mask(SlotDropout(p, seeds), elements)
    # Binomial: four standard deviations of the share of 200,000 draws.
    for mask, p_s in zip(masks, p.tolist(), strict=True):
        assert abs((mask > 0).float().mean().item() - (1 - p_s)) <= 4 * (p_s * (1 - p_s) / 200_000) ** 0.5
        assert mask.max().item() == pytest.approx(1 / (1 - p_s))
    assert torch.equal(dropout_mask(SlotDropout(p[1:2], seeds[1:2]), elements)[0], masks[1])


def test_masks_of_neighbouring_elements_and_of_other_seeds_are_uncorrelated():
    elements = hash_of_elements(200_000, 3, torch.device("cpu"))
    masks = dropout_mask(SlotDropout(torch.full((16,), 0.5), torch.arange(16, dtype=torch.int32)), elements)
    correlations = torch.corrcoef(masks)
    off_diagonal = correlations[~torch.eye(16, dtype=torch.bool)]
    assert off_diagonal.abs().max() < 5 / 200_000**0.5
    for lag in (1, 2, 64):
        pair = torch.corrcoef(torch.stack([masks[0, :-lag], masks[0, lag:]]))[0, 1]
        assert abs(pair) < 5 / 200_000**0.5


@pytest.mark.parametrize("targets", ["attention", "attention+ff+conv"])
def test_joint_and_single_masks_give_the_same_pass(unet, inputs, monkeypatch, targets):
    sample, timesteps, text = inputs
    outputs = []
    for at_once in (2**26, 0):
        monkeypatch.setattr("trainables.lora.MASKS_AT_ONCE", at_once)
        ours = copy.deepcopy(unet)
        lora = SlotLoRA(ours, targets)
        a, b = stack_adapters([random_adapter(lora.shapes)] * 2, lora.shapes, device="cpu")
        dropout = SlotDropout(torch.tensor([0.3, 0.3]), torch.tensor([7, 8], dtype=torch.int32))
        for _ in range(2):  # sizes are known from the second pass on
            leaf = a["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"].detach().requires_grad_()
            with lora.attached({**a, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": leaf}, b, dropout):
                output = ours(sample, timesteps, text, return_dict=False)[0]
            output.sum().backward()
        outputs.append((output.detach(), leaf.grad))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("targets", TARGETS)
def test_a_rank_wider_than_a_layer_is_refused(unet, targets):
    lora = SlotLoRA(copy.deepcopy(unet), targets)
    lora.check_rank(32)
    with pytest.raises(ConfigError, match="`rank`.*32.*but it is 33"):
        lora.check_rank(33)


def test_an_adapter_that_lacks_a_layer_of_its_targets_is_refused(unet):
    lora = SlotLoRA(copy.deepcopy(unet), "attention+ff+conv")
    layers = dict(random_adapter(lora.shapes).layers)
    del layers["mid_block.resnets.0.conv1"]
    with pytest.raises(AdapterError, match=r"mid_block\.resnets\.0\.conv1 the adapter has no such layer"):
        lora.shapes_for([Adapter(RANK, ALPHA, layers)])


def test_an_adapter_of_another_model_is_refused(unet):
    lora = SlotLoRA(copy.deepcopy(unet))
    adapter = random_adapter(lora.shapes)
    path = next(iter(adapter.layers))
    a, b = adapter.layers[path]
    wider = Adapter(RANK, ALPHA, {**adapter.layers, path: (torch.zeros(a.shape[0] + 1, RANK), b)})
    with pytest.raises(AdapterError, match=path.replace(".", r"\.")):
        stack_adapters([wider], lora.shapes, device="cpu")
