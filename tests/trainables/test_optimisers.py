"""Prodigy over slots against the package, in float64: what is left is rounding. AdamW over slots is compared in test_pack.py."""

import pytest
import torch
from prodigyopt import Prodigy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables.optimisers import D0, ProdigySlots, adamw_step, prodigy_step

N_SLOTS, N_WEIGHTS = 3, 40


def zeros():
    return torch.zeros(N_SLOTS, N_WEIGHTS, dtype=torch.float64)


def prodigy_slots(weights):
    d, numerator, n_steps = (torch.full((N_SLOTS,), value, dtype=torch.float64) for value in (D0, 0.0, 0.0))
    return ProdigySlots(weights.clone(), zeros(), d, numerator, n_steps)


def packages_optimiser(parameter, learning_rate, weight_decay):
    """As diffusers' train_dreambooth_lora_sdxl.py makes it by default."""
    return Prodigy([parameter], lr=learning_rate, weight_decay=weight_decay, use_bias_correction=True, safeguard_warmup=True)


@pytest.mark.parametrize("n_warmup_steps", [0, 4])
def test_prodigy_equals_the_package_and_every_slot_finds_a_step_size_of_its_own(n_warmup_steps):
    generator = torch.Generator().manual_seed(0)

    def normal():
        return torch.randn(N_SLOTS, N_WEIGHTS, generator=generator, dtype=torch.float64)

    weights, first, second = 0.1 * normal(), zeros(), zeros()
    weights[:, N_WEIGHTS // 2 :] = 0  # as B begins
    slots = prodigy_slots(weights)
    largest, decays = torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64), torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64)
    references = [torch.nn.Parameter(row.clone()) for row in weights]
    optimisers = [packages_optimiser(*item) for item in zip(references, largest.tolist(), decays.tolist(), strict=True)]
    direction = normal()  # gradients that agree: d grows
    for step in range(60):
        rates = largest * (step / n_warmup_steps if step < n_warmup_steps else 1.0)
        grads = direction + 0.3 * normal()
        grads[2] = 0 if step < 2 else grads[2]  # nothing to learn from yet
        prodigy_step(weights, grads, first, second, slots, learning_rate=rates, weight_decay=decays)
        for s, (reference, optimiser) in enumerate(zip(references, optimisers, strict=True)):
            reference.grad = grads[s].clone()
            optimiser.param_groups[0]["lr"] = rates[s].item()
            optimiser.step()
            torch.testing.assert_close(weights[s], reference.data, rtol=1e-9, atol=1e-14)
            assert slots.d[s].item() == pytest.approx(optimiser.param_groups[0]["d"], rel=1e-9)
    assert slots.n_steps.tolist() == [o.param_groups[0]["k"] for o in optimisers]
    assert slots.d[0] > 100 * D0 and len(set(slots.d.tolist())) == N_SLOTS


def test_a_slot_with_a_learning_rate_of_0_stands_still_beside_one_that_moves():
    weights, first, second = torch.ones(N_SLOTS, N_WEIGHTS, dtype=torch.float64), zeros(), zeros()
    slots = prodigy_slots(weights)
    rates = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    prodigy_step(weights, weights.clone(), first, second, slots, learning_rate=rates, weight_decay=torch.full_like(rates, 0.1))
    for changed in (weights - 1, first, second, slots.gradient_sum, slots.n_steps.unsqueeze(1)):
        assert not changed[0].any() and changed[1:].any()


class LargeAllocations(TorchDispatchMode):
    """Counts results of at least `n` elements that lie in memory of their own, not in an argument's."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.found = n, []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        options = options or {}
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((arguments, options)) if isinstance(t, torch.Tensor)}
        result = operator(*arguments, **options)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= self.n and tensor.untyped_storage().data_ptr() not in given:
                self.found.append(str(operator))
        return result


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
def test_a_step_with_scratch_allocates_nothing_as_large_as_the_weights(optimizer):
    shape = (3, 1000)
    weights, grads, first, second = (torch.rand(shape) for _ in range(4))
    scratch = torch.empty(shape), torch.empty(shape)
    rate, decay = torch.full((3,), 1e-3), torch.zeros(3)
    zeros = torch.zeros(3, dtype=torch.float64)
    slots = ProdigySlots(torch.rand(shape), torch.zeros(shape), zeros + 1e-6, zeros.clone(), zeros.clone())
    with LargeAllocations(weights.numel()) as counted:
        if optimizer == "adamw":
            options = {"learning_rate": rate.view(-1, 1), "step": torch.ones(3, dtype=torch.int64)}
            adamw_step(weights, grads, first, second, weight_decay=decay, scratch=scratch, **options)
        else:
            prodigy_step(weights, grads, first, second, slots, learning_rate=rate, weight_decay=decay, scratch=scratch)
    assert counted.found == []
