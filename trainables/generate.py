"""Adapters x prompts x seeds x guidance values -> pictures, in one denoising loop.

Pictures come as uint8, exactly as they are stored and scored. For one adapter the loop is that of
diffusers' StableDiffusionPipeline with the same initial noise. Nothing here scores or stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import signature

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from trainables.activity import Phase, note
from trainables.config import EvalConfig
from trainables.errors import ModelError
from trainables.frozen import FrozenWork
from trainables.lora import Adapter, SlotLoRA, derived_seed, stack_adapters
from trainables.models import ModelParts, decode_latents, encode_prompts
from trainables.out_of_memory import free_memory, is_out_of_memory
from trainables.pipeline_corrections import corrected_scheduler

SCHEDULERS = {
    "ddim": (DDIMScheduler, {}),
    # Some configurations choose the variant that adds noise of its own.
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpm++_karras": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "deis": (DEISMultistepScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "pndm": (PNDMScheduler, {}),
}
"""diffusers' class of each denoiser, and what is set whatever the model's own configuration says."""
BATCH_IMAGES = {"cpu": 160, "cuda": 80}
"""Images denoised at once before memory has had its say; the UNet sees twice as many, with and without the prompt."""


@dataclass(frozen=True)
class Picture:
    """What one generated picture was asked for: its prompt (filled in), and its seed."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class ImageSet:
    """One adapter (None: the control without adapter) under one EvalConfig for a subject's trigger word.

    `seeds` are those of each prompt's pictures; None: derived from the configuration's, so that no two pictures share their noise."""

    adapter: Adapter | None
    config: EvalConfig
    trigger: str
    seeds: tuple[int, ...] | None = None

    def pictures(self) -> list[Picture]:
        """In the order of the generated images: prompt by prompt, seeds within."""
        return [
            Picture(prompt.filled(self.trigger), self.seeds[i] if self.seeds else derived_seed(self.config.eval_seed, p, i))
            for p, prompt in enumerate(self.config.prompts)
            for i in range(self.config.images_per_prompt)
        ]


def generate(
    parts: ModelParts,
    image_sets: list[ImageSet],
    *,
    frozen: FrozenWork,
    batch_images: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """The pictures of each image set, uint8 (n, h, w, 3), in the order given.

    Sets may differ in adapter, prompts, seeds and guidance; those of equal steps and denoiser share their denoising loop, and a set
    of more than `batch_images` pictures is cut. `on_step(done, total)` is told of the loop's progress. When a GPU runs out of memory,
    fewer pictures are denoised at once, down to one.

    Raises:
        AdapterError: an adapter does not fit the model.  ModelError: a denoiser does not."""
    lora = SlotLoRA(parts.unet, text_encoder=parts.text_encoder)
    limit = batch_images or BATCH_IMAGES.get(torch.device(parts.device).type, 16)
    batches = list(_batches(_cuts(image_sets, limit), limit))
    found: list[dict[int, np.ndarray]] = [{} for _ in image_sets]
    for number, batch in enumerate(batches):
        progress = None if on_step is None else _shifted(on_step, number, len(batches))
        for cut, images in zip(batch, _denoised_within_memory(parts, lora, batch, frozen, progress), strict=True):
            found[cut.number][cut.start] = images
    return [np.concatenate([cuts[start] for start in sorted(cuts)]) for cuts in found]


def initial_noise(parts: ModelParts, seeds: list[int]) -> Tensor:
    """(n, c, h, w) standard normal latents on the CPU; a seed means the same picture on every device."""
    return _first_noise(parts, _generators(seeds))


def check_denoiser(parts: ModelParts, denoiser: str) -> None:
    """Raises: ModelError if the model was trained down to pure noise, and this denoiser cannot begin there."""
    if not parts.scheduler_config.get("rescale_betas_zero_snr"):
        return
    able = [name for name, (scheduler, _) in SCHEDULERS.items() if "rescale_betas_zero_snr" in signature(scheduler.__init__).parameters]
    if denoiser not in able:
        raise ModelError(
            f"{parts.source.name} was trained with rescale_betas_zero_snr, which denoiser={denoiser!r} would ignore. Use {', '.join(able)}."
        )


def make_scheduler(parts: ModelParts, denoiser: str):
    """A fresh diffusers scheduler for this denoiser, configured from the model's own as StableDiffusionPipeline corrects it.

    Raises:
        ModelError: as `check_denoiser`."""
    check_denoiser(parts, denoiser)
    scheduler, settings = SCHEDULERS[denoiser]
    return scheduler.from_config(corrected_scheduler(parts.scheduler_config), **settings)


@torch.no_grad()
def text_of_slots(
    parts: ModelParts, frozen: FrozenWork, lora: SlotLoRA, adapters: Sequence[Adapter | None], texts: Sequence[Sequence[str]]
) -> Tensor:
    """(n, tokens, d): what the UNet attends to for each slot's texts, one slot after the other.

    An adapter that trained the text encoder has a text encoder of its own; the others' texts are encoded once per string."""
    return torch.cat([_text_of_slot(parts, frozen, lora, adapter, list(own)) for adapter, own in zip(adapters, texts, strict=True)])


@dataclass(frozen=True)
class _Cut:
    """Some pictures of an image set, the `number`th, from its `start`th on."""

    number: int
    start: int
    image_set: ImageSet
    pictures: list[Picture]


def _cuts(image_sets: list[ImageSet], limit: int) -> Iterator[_Cut]:
    for number, image_set in enumerate(image_sets):
        pictures = image_set.pictures()
        for start in range(0, len(pictures), limit):
            yield _Cut(number, start, image_set, pictures[start : start + limit])


def _batches(cuts: Iterable[_Cut], limit: int) -> Iterator[list[_Cut]]:
    """Cuts that share a loop: equal steps, denoiser and number of pictures, at most `limit` pictures together."""
    groups: dict[tuple, list[_Cut]] = {}
    for cut in cuts:
        config = cut.image_set.config
        groups.setdefault((config.steps, config.denoiser, len(cut.pictures)), []).append(cut)
    for (_, _, n_pictures), members in groups.items():
        size = max(1, limit // n_pictures)
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _shifted(on_step: Callable[[int, int], None], number: int, count: int) -> Callable[[int, int], None]:
    return lambda done, total: on_step(number * total + done, count * total)


def _denoised_within_memory(
    parts: ModelParts, lora: SlotLoRA, cuts: list[_Cut], frozen: FrozenWork, on_step: Callable[[int, int], None] | None
) -> list[np.ndarray]:
    """The pictures of each cut. Where memory does not hold them together, half of the cuts at a time, then half of a cut."""
    try:
        return _denoise(parts, lora, cuts, frozen, on_step)
    except Exception as error:
        if sum(len(cut.pictures) for cut in cuts) == 1 or not is_out_of_memory(error):
            raise
    free_memory()
    if len(cuts) > 1:
        middle = len(cuts) // 2
        return [image for half in (cuts[:middle], cuts[middle:]) for image in _denoised_within_memory(parts, lora, half, frozen, on_step)]
    (cut,) = cuts
    middle = len(cut.pictures) // 2
    halves = [replace(cut, pictures=pictures) for pictures in (cut.pictures[:middle], cut.pictures[middle:])]
    return [np.concatenate([_denoised_within_memory(parts, lora, [half], frozen, on_step)[0] for half in halves])]


@torch.no_grad()
def _denoise(
    parts: ModelParts, lora: SlotLoRA, cuts: list[_Cut], frozen: FrozenWork, on_step: Callable[[int, int], None] | None
) -> list[np.ndarray]:
    sets, wanted = [cut.image_set for cut in cuts], [cut.pictures for cut in cuts]
    config = sets[0].config
    n_images = len(wanted[0])
    guidance = torch.tensor([s.config.guidance for s in sets], device=parts.device).repeat_interleave(n_images).view(-1, 1, 1, 1)
    adapters = [image_set.adapter for image_set in sets]
    a, b = stack_adapters(adapters, lora.shapes_for(adapters), device=parts.device)
    prompts = _prompts(sets, wanted, guided=bool((guidance > 1).any()))
    text = text_of_slots(parts, frozen, lora, adapters, prompts)
    scheduler = make_scheduler(parts, config.denoiser)
    scheduler.set_timesteps(config.steps, device=parts.device)
    # A denoiser that adds noise draws a picture's from that picture's generator, so that its neighbours do not matter.
    generators = _generators([picture.seed for pictures in wanted for picture in pictures])
    latents = _first_noise(parts, generators).to(parts.device) * scheduler.init_noise_sigma
    draws = {"generator": generators} if config.denoiser == "euler_a" else {}
    text = text.to(parts.dtype)  # one tensor for all steps: its keys and values are computed once
    with lora.for_pictures(a, b):
        for step, t in enumerate(scheduler.timesteps):
            note(Phase.DENOISING, f"{len(latents)} pictures", unit="step", done=step, total=len(scheduler.timesteps))
            predicted = _predict(parts, scheduler.scale_model_input(latents, t), t, text, guidance, n_sets=len(sets))
            latents = scheduler.step(predicted, t, latents, return_dict=False, **draws)[0]
            if on_step is not None:
                on_step(step + 1, len(scheduler.timesteps))
    images = decode_latents(parts, latents)
    return [images[s * n_images : (s + 1) * n_images] for s in range(len(sets))]


def _generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _first_noise(parts: ModelParts, generators: list[torch.Generator]) -> Tensor:
    return torch.stack([torch.randn(parts.latent_shape, generator=generator) for generator in generators])


def _predict(parts: ModelParts, latents: Tensor, t: Tensor, text: Tensor, guidance: Tensor, *, n_sets: int) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, arXiv:2207.12598) with a value per sample; as in diffusers, none where it is at most 1.

    latents (S*n, c, h, w), text (S*n, ...) or (S, 2, n, ...) flattened: within a slot, the n without prompt come first."""
    guided = len(text) == 2 * len(latents)
    if guided:
        per_set = latents.view(n_sets, -1, *latents.shape[1:])
        latents = torch.cat([per_set, per_set], dim=1).flatten(0, 1)
    predicted = parts.unet(latents.to(parts.dtype), t, text, return_dict=False)[0].float()
    if not guided:
        return predicted
    without, with_prompt = (half.flatten(0, 1) for half in predicted.view(n_sets, 2, -1, *predicted.shape[1:]).unbind(1))
    return torch.where(guidance > 1, without + guidance * (with_prompt - without), with_prompt)


def _text_of_slot(parts: ModelParts, frozen: FrozenWork, lora: SlotLoRA, adapter: Adapter | None, texts: list[str]) -> Tensor:
    if adapter is None or not adapter.trains_text:
        return frozen.text(parts, texts)
    distinct = sorted(set(texts))
    shapes = {path: lora.layers[path].shape for path in adapter.text_part.layers}
    with lora.attached(*stack_adapters([adapter.text_part], shapes, device=parts.device)):
        encoded = dict(zip(distinct, encode_prompts(parts, distinct), strict=True))
    return torch.stack([encoded[text] for text in texts])


def _prompts(sets: list[ImageSet], wanted: list[list[Picture]], *, guided: bool) -> list[list[str]]:
    """The texts of each set: guided, a negative prompt for every picture before the prompts."""
    without = [[image_set.config.negative_prompt] * len(pictures) * guided for image_set, pictures in zip(sets, wanted, strict=True)]
    return [negative + [picture.prompt for picture in pictures] for negative, pictures in zip(without, wanted, strict=True)]
