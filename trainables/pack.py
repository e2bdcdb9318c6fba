"""A pack: S trainings on one frozen base model, advanced together, one joint pass per step.

Every slot draws what is random from its own (train_seed, step) alone (slots.py), so a training's result does not depend on its
neighbours: packed equals solo within the tolerance of float summation.

Not here: which trainings meet in a pack, when one is stopped, and where its adapters are stored."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.activity import Phase, note
from trainables.config import TrainConfig, pack_signature
from trainables.frozen import FrozenWork
from trainables.lora import TEXT_ENCODER, Adapter, SlotLoRA, new_adapter
from trainables.models import ModelParts, encode_tokens
from trainables.optimisers import D0, Layers, ProdigySlots, ProdigyState, adamw_step, clip_to_norm, prodigy_step
from trainables.slot_content import new_slot, read_texts
from trainables.slots import Draws, Slot, Standing, draw
from trainables.subject import Subject

CHUNK_STEPS = 16
"""Steps whose random numbers are drawn, pinned and copied to the device at once, ahead of their use."""


@dataclass(frozen=True)
class EpochEnd:
    """A training has finished an epoch, with the mean loss over its steps."""

    key: str
    epoch: int
    mean_loss: float


@dataclass(frozen=True)
class Diverged:
    """A training's loss or weights are no longer finite. It has left the pack."""

    key: str
    epoch: int
    reason: str


@dataclass(frozen=True)
class TrainingState:
    """All that a training needs to go on: its adapter, the optimizer's moments per layer (as a, b pairs), the epochs and steps behind it."""

    adapter: Adapter
    first_moment: Layers
    second_moment: Layers
    epoch: int
    step: int
    loss_sum: float = 0.0  # over the steps of an epoch under way
    prodigy: ProdigyState | None = None  # what that optimizer has beside the moments


def lora_for(parts: ModelParts, config: TrainConfig) -> SlotLoRA:
    """The layers of the model that this training trains."""
    return SlotLoRA(parts.unet, config.targets, text_encoder=parts.text_encoder if config.train_text_encoder else None)


class Pack:
    """S trainings on one base model. Add and remove them at epoch boundaries; `advance` runs to the next boundary of any of them."""

    def __init__(
        self,
        parts: ModelParts,
        frozen: FrozenWork,
        *,
        largest: int | None = None,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        autocast: bool = True,
    ) -> None:
        """`largest` is how many trainings whoever fills it should put in; nothing here depends on it.

        `gradient_checkpointing` computes the UNet's blocks again in the backward pass instead of keeping their activations: more
        trainings fit, each slower. `compile` runs the UNet through torch.compile, once for 1, 2, 4, 8 ... slots: empty ones fill up to these.
        `autocast`, under bfloat16: normalisations and losses of the UNet run in float32, between products in bfloat16."""
        self.parts = parts
        self.largest = largest or 2**30
        self.n_steps = 0  # done so far, by all its trainings together
        self.frozen = frozen
        self.device = torch.device(parts.device)
        self.lora = SlotLoRA(parts.unet)
        self._slots: list[Slot] = []
        self._few_sizes = compile
        self._compiled: set[tuple] = set()
        self._autocast = autocast
        self._pack([], [])
        self._prefetcher = ThreadPoolExecutor(1) if self.device.type == "cuda" else None
        self._forward = torch.compile(parts.unet) if compile else parts.unet
        if gradient_checkpointing:
            parts.unet.enable_gradient_checkpointing()

    @property
    def keys(self) -> list[str]:
        return [slot.key for slot in self._slots]

    def add(self, key: str, config: TrainConfig, subject: Subject, *, state: TrainingState | None = None, total_epochs: int | None = None) -> None:
        """Give a training a slot, from its start or from a stored state.

        Raises:
            ConfigError: its rank does not fit the model.
            SubjectError: the subject lacks its caption version or masks, or the class images are not there.
            AdapterError: the stored state is of another model."""
        lora = lora_for(self.parts, config)
        lora.check_rank(config.rank)
        slot = new_slot(key, config, subject, parts=self.parts, frozen=self.frozen, total_epochs=total_epochs)
        if state is None:
            adapter = new_adapter(lora.shapes, rank=config.rank, alpha=config.alpha, seed=config.train_seed, kernels=lora.kernels)
            zeros = {path: (torch.zeros_like(a), torch.zeros_like(b)) for path, (a, b) in adapter.layers.items()}
            prodigy = ProdigyState(start=adapter.layers, gradient_sum=zeros) if config.optimizer == "prodigy" else None
            state = TrainingState(adapter, zeros, zeros, epoch=0, step=0, prodigy=prodigy)
        slot.epoch, slot.step, slot.loss_sum = state.epoch, state.step, state.loss_sum
        states = [*(self.state(k) for k in self.keys), state]
        if not self._slots:
            self.lora = lora  # what its trainings have in common
        self._pack([*self._slots, slot], states)

    def remove(self, key: str) -> None:
        """Free a slot; the others go on as if nothing had happened."""
        kept = [slot for slot in self._slots if slot.key != key]
        self._pack(kept, [self.state(slot.key) for slot in kept])

    def clear(self) -> dict[str, TrainingState]:
        """Take all trainings out, and return their states. Nothing of them is left on the device."""
        states = {key: self.state(key) for key in self.keys}
        self._pack([], [])
        return states

    def adapter(self, key: str) -> Adapter:
        """A copy of a training's adapter as it stands."""
        return self.state(key).adapter

    def state(self, key: str) -> TrainingState:
        """A copy of everything a training needs to be continued later or elsewhere."""
        s = self.keys.index(key)
        slot = self._slots[s]
        rank, tensors = slot.config.rank, self._tensors
        weights, first, second = (tensors.slot_layers(flat, s, rank) for flat in (tensors.weights, tensors.first, tensors.second))
        kernels = {path: kernel for path, kernel in self.lora.kernels.items() if path in weights}
        adapter = Adapter(rank, slot.config.alpha, weights, kernels)
        return TrainingState(adapter, first, second, slot.epoch, slot.step, slot.loss_sum, tensors.prodigy_state(s, rank))

    @property
    def signature(self) -> tuple | None:
        """The `pack_signature` of what is in it; None while it is empty."""
        return pack_signature(self._slots[0].config) if self._slots else None

    @property
    def at_boundary(self) -> bool:
        """Whether every training stands at the end of an epoch."""
        return all(slot.step % slot.steps_per_epoch == 0 for slot in self._slots)

    def standings(self) -> dict[str, Standing]:
        """How far each training is."""
        return {slot.key: slot.standing for slot in self._slots}

    def advance(self, max_steps: int | None = None) -> list[EpochEnd | Diverged]:
        """Train to the next epoch boundary of any slot, or `max_steps` steps if that is nearer (then nothing is reported).

        A diverged training is reported and has left its slot."""
        if not self._slots:
            return []
        n_steps = min(slot.steps_per_epoch - slot.step % slot.steps_per_epoch for slot in self._slots)
        self._train(min(n_steps, max_steps or n_steps))
        events = [self._end_epoch(s) for s, slot in enumerate(self._slots) if slot.step % slot.steps_per_epoch == 0]
        for event in events:
            if isinstance(event, Diverged):
                self.remove(event.key)
        return events

    def _pack(self, slots: list[Slot], states: list[TrainingState]) -> None:
        """Hold these slots with these states. Where memory does not suffice for that, all stays as it was."""
        n = len(states)
        n_places = 2 ** (n - 1).bit_length() if self._few_sizes and n else n
        text_rates = [slot.config.relative_text_rate for slot in slots]
        self._tensors = _PackedTensors(self.lora.shapes, states, self.device, n_places=n_places, text_rates=text_rates)
        self._slots = slots

    @property
    def _places(self) -> list[Slot]:
        """The slots, and the first one again in every empty place: the adapter there is zero, has no gradient, and stays zero."""
        return self._slots + self._slots[:1] * (len(self._tensors.weights) - len(self._slots))

    def _train(self, n_steps: int) -> None:
        losses = torch.zeros(len(self._places), device=self.device)
        n_done = 0
        try:
            for draws in self._drawn(n_steps):
                for k in range(len(draws.noise)):
                    self._note_step(draws, k, n_done)
                    losses += self._step(draws, k)
                    n_done += 1
        finally:
            # A step that ran out of memory has changed no weights; those before it count.
            self._tensors.grads.zero_()
            self.n_steps += n_done
            for slot, loss in zip(self._slots, losses.tolist(), strict=False):
                slot.step += n_done
                slot.loss_sum += loss

    def _note_step(self, draws: Draws, k: int, n_done: int) -> None:
        """Note the step of the training that has the most of its epoch before it; the first step of a size compiles."""
        slot = min(self._slots, key=lambda slot: slot.step % slot.steps_per_epoch / slot.steps_per_epoch)
        together = f"{len(self._slots)} together" if len(self._slots) > 1 else ""
        size = (len(self._places), draws.sizes[k])
        phase = Phase.COMPILING if self._few_sizes and size not in self._compiled else Phase.TRAINING
        note(phase, together, unit="step", done=slot.step % slot.steps_per_epoch + n_done, total=slot.steps_per_epoch)
        self._compiled.add(size)

    def _drawn(self, n_steps: int) -> Iterator[Draws]:
        """The random choices of the next steps, in chunks on the device; on a GPU the next chunk is drawn while this one is used."""
        chunks = [(offset, min(CHUNK_STEPS, n_steps - offset)) for offset in range(0, n_steps, CHUNK_STEPS)]
        slots = [replace(slot) for slot in self._places]  # as they stand now: the prefetching thread must not see them move
        if self._prefetcher is None:
            yield from (self._with_text(draw(slots, *chunk)) for chunk in chunks)
            return
        ahead = self._prefetcher.submit(lambda: draw(slots, *chunks[0]).pinned())
        for i in range(len(chunks)):
            current = ahead.result()
            if i + 1 < len(chunks):
                ahead = self._prefetcher.submit(lambda i=i: draw(slots, *chunks[i + 1]).pinned())
            yield self._with_text(current.to(self.device))

    def _with_text(self, draws: Draws) -> Draws:
        """The draws with the texts that their `text` counts; drawn captions are read here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a launch tells of long captions once, not of every order of their tags
            tables = [
                slot.text if captions is None else read_texts(slot.config, captions, parts=self.parts, frozen=self.frozen)
                for slot, captions in zip(self._places, draws.captions, strict=True)
            ]
        return replace(draws, text_tables=tuple(tables))

    def _step(self, draws: Draws, k: int) -> Tensor:  # -> (S,) loss of each slot
        config = self._slots[0].config
        n_slots, batch = draws.timesteps.shape[1:]
        latents = torch.cat([slot.latents[draws.image[k, s]] for s, slot in enumerate(self._places)])
        text = torch.cat([table[draws.text[k, s]] for s, table in enumerate(draws.text_tables)])
        noise, timesteps = draws.noise[k].flatten(0, 1), draws.timesteps[k].flatten()
        if (size := draws.sizes[k]) is not None:
            latents, noise = (full[:, :, : size[0], : size[1]] for full in (latents, noise))
        noisy = self.parts.noise_scheduler.add_noise(latents, noise, timesteps)
        tensors = self._tensors
        with self.lora.attached(tensors.a, tensors.b, draws.dropout(k), sizes_differ=size is not None):
            if config.train_text_encoder:
                text = encode_tokens(self.parts, text)
            mixed = self._autocast and config.dtype == "bfloat16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
                predicted = self._forward(noisy.to(self.parts.dtype), timesteps, text.to(self.parts.dtype), return_dict=False)[0]
            target = self.parts.denoising_target(latents, noise, timesteps)
            error = F.mse_loss(predicted.float(), target, reduction="none")
            if any(slot.loss_weights is not None for slot in self._slots):
                error = error * self._loss_weights(draws.image[k], like=error).unsqueeze(1)
            per_sample = error.mean(dim=(1, 2, 3)).view(n_slots, batch)
            if draws.any_snr_gamma:
                per_sample = per_sample * self._snr_weights(draws.timesteps[k], draws.snr_gamma)
            losses = (per_sample * draws.weight[k]).sum(1)
            # Slots share no weight: the sum's gradient is each slot's own. Attached still, for checkpoints that are computed again.
            losses.sum().backward()
        tensors.optimiser_step(draws.learning_rate[k], draws.step[k], draws.weight_decay, draws.max_grad_norm)
        return losses.detach()

    def _loss_weights(self, image: Tensor, like: Tensor) -> Tensor:  # (S, b) -> (S * b, h, w)
        height, width = like.shape[2:]
        ones = like.new_ones(image.shape[1], height, width)
        weights = (ones if slot.loss_weights is None else slot.loss_weights[image[s]][:, :height, :width] for s, slot in enumerate(self._places))
        return torch.cat(list(weights))

    def _snr_weights(self, timesteps: Tensor, gamma: Tensor) -> Tensor:  # (S, b), (S,) -> (S, b)
        """Min-SNR-gamma loss weights (Hang et al., arXiv:2303.09556); a slot without it has gamma infinite and weight 1."""
        alphas = self.parts.noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = alphas / (1 - alphas)
        v_prediction = self.parts.noise_scheduler.config.prediction_type == "v_prediction"
        weight = torch.minimum(snr, gamma.view(-1, 1)) / (snr + 1 if v_prediction else snr)
        return torch.where(torch.isinf(gamma).view(-1, 1), torch.ones_like(weight), weight)

    def _end_epoch(self, s: int) -> EpochEnd | Diverged:
        slot = self._slots[s]
        slot.epoch += 1
        mean_loss = slot.loss_sum / slot.steps_per_epoch
        slot.loss_sum = 0.0
        if not math.isfinite(mean_loss) or not self._tensors.is_finite(s):
            lr = slot.config.learning_rate
            reason = f"training diverged in epoch {slot.epoch}: the loss or the weights are not finite at learning_rate={lr:g}; use a smaller one"
            return Diverged(slot.key, slot.epoch, reason)
        return EpochEnd(slot.key, slot.epoch, mean_loss)


class _PackedTensors:
    """Weights, gradients and moments of S slots in flat (S, P) tensors, all A before all B, of which each layer's are views: AdamW is a
    dozen operations. The layers work with `scaled_b`, B times alpha / rank; their gradients are with respect to it until `optimiser_step`."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        states: list[TrainingState],
        device: torch.device,
        *,
        n_places: int | None = None,
        text_rates: Sequence[float] = (),
    ) -> None:
        """`n_places`: with so many slots, those after the states' zero.

        `text_rates`: for each slot, the text encoder's learning rate relative to the UNet's; none: the same."""
        self.shapes = shapes
        self.width = max((state.adapter.rank for state in states), default=1)
        self.n_a, self.n_b = (sum(sizes) * self.width for sizes in zip(*shapes.values(), strict=True))
        self.device, self.n_places = device, n_places or len(states)
        self.weights = self._flat([state.adapter.layers for state in states])
        self.grads = torch.zeros_like(self.weights)
        self.first = self._flat([state.first_moment for state in states])
        self.second = self._flat([state.second_moment for state in states])
        self._scratch = torch.empty_like(self.weights), torch.empty_like(self.weights)
        self.prodigy = self._prodigy_slots([state.prodigy for state in states if state.prodigy])
        scales = [state.adapter.scale for state in states] + [0.0] * (self.n_places - len(states))
        self.scale = torch.tensor(scales, device=device).view(-1, 1)
        self.scaled_b = self.weights[:, self.n_a :] * self.scale
        self.relative_rate = self._relative_rate(text_rates)
        self.a, self.b = self._leaves()

    def slot_layers(self, flat: Tensor, s: int, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
        """CPU copies of what one slot has in `flat`, layer by layer, without the padding."""
        return {path: (a[s, :, :rank].cpu().clone(), b[s, :rank].cpu().clone()) for path, (a, b) in self._views(flat).items()}

    def prodigy_state(self, s: int, rank: int) -> ProdigyState | None:
        if (slots := self.prodigy) is None:
            return None
        layers = [self.slot_layers(flat, s, rank) for flat in (slots.start, slots.gradient_sum)]
        return ProdigyState(*layers, d=slots.d[s].item(), numerator=slots.numerator[s].item(), n_steps=int(slots.n_steps[s]))

    def is_finite(self, s: int) -> bool:
        return bool(torch.isfinite(self.weights[s]).all())

    @torch.no_grad()
    def optimiser_step(self, learning_rate: Tensor, step: Tensor, weight_decay: Tensor, max_grad_norm: Tensor) -> None:  # each (S,)
        """Clip each slot's gradient to its own norm, then a step of their optimizer; zero the gradients."""
        self.grads[:, self.n_a :] *= self.scale
        clip_to_norm(self.grads, max_grad_norm)
        flats = self.weights, self.grads, self.first, self.second
        if self.prodigy is None:
            rate = learning_rate.unsqueeze(1) if self.relative_rate is None else learning_rate.unsqueeze(1) * self.relative_rate
            adamw_step(*flats, learning_rate=rate, step=step, weight_decay=weight_decay, scratch=self._scratch)
        else:
            prodigy_step(
                *flats, self.prodigy, learning_rate=learning_rate, weight_decay=weight_decay, scratch=self._scratch
            )
        torch.mul(self.weights[:, self.n_a :], self.scale, out=self.scaled_b)
        self.grads.zero_()

    def _flat(self, of_slots: list[Layers]) -> Tensor:  # -> (S, P)
        flat = torch.zeros(self.n_places, self.n_a + self.n_b, device=self.device)
        for s, layers in enumerate(of_slots):
            for path, (a_view, b_view) in self._views(flat).items():
                a, b = layers[path]
                a_view[s, :, : a.shape[1]] = a.to(self.device)
                b_view[s, : b.shape[0]] = b.to(self.device)
        return flat

    def _prodigy_slots(self, states: list[ProdigyState]) -> ProdigySlots | None:
        if not states:
            return None
        numbers = [[state.d, state.numerator, state.n_steps] for state in states] + [[D0, 0.0, 0]] * (self.n_places - len(states))
        numbers = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        start, gradient_sum = self._flat([state.start for state in states]), self._flat([state.gradient_sum for state in states])
        return ProdigySlots(start, gradient_sum, *numbers.T)

    def _views(self, flat: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        return self._views_of(flat[:, : self.n_a], flat[:, self.n_a :])

    def _views_of(self, flat_a: Tensor, flat_b: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        views, in_a, in_b, r = {}, 0, 0, self.width
        for path, (d_in, d_out) in self.shapes.items():
            a = flat_a[:, in_a : in_a + d_in * r].view(-1, d_in, r)
            b = flat_b[:, in_b : in_b + d_out * r].view(-1, r, d_out)
            views[path] = (a, b)
            in_a, in_b = in_a + d_in * r, in_b + d_out * r
        return views

    def _relative_rate(self, text_rates: Sequence[float]) -> Tensor | None:  # -> (S, P)
        """What each weight's learning rate is multiplied with; None where that is 1 everywhere."""
        if all(rate == 1 for rate in text_rates):
            return None
        of_places = [*text_rates, *[1.0] * (self.n_places - len(text_rates))]
        relative, rates = torch.ones_like(self.weights), torch.tensor(of_places, device=self.weights.device).view(-1, 1, 1)
        for path, views in self._views(relative).items():
            if path.startswith(TEXT_ENCODER):
                for view in views:
                    view.copy_(rates.expand_as(view))
        return relative

    def _leaves(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights, grads = self._views_of(self.weights[:, : self.n_a], self.scaled_b), self._views(self.grads)
        leaves = {path: tuple(_leaf(w, g) for w, g in zip(weights[path], grads[path], strict=True)) for path in self.shapes}
        return {p: ab[0] for p, ab in leaves.items()}, {p: ab[1] for p, ab in leaves.items()}


def _leaf(weight: Tensor, grad: Tensor) -> Tensor:
    # A leaf over the flat storage with its gradient preset: autograd accumulates into the flat gradient in place.
    leaf = weight.detach().requires_grad_()
    leaf.grad = grad
    return leaf
