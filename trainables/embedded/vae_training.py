"""Trains the family's AutoencoderKL: 64x64 portraits to 8x8 latents and back, sharp where a portrait is read.

The loss is a weighted one (render.py's importance map): absolute error, error of the gradients, and the distance of
the perceptual network's maps. No adversary. Writes nothing but through `checkpoint`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.embedded.corpus import Corpus
from trainables.embedded.networks import PerceptualNet
from trainables.embedded.pacing import follow, set_one_cycle, share_gradients, step_generator

LATENT_CHANNELS = 12
KL_WEIGHT = 1e-7  # of nats per picture, beside errors per value: 2e-5 made the latents noisy and the pictures blurred
RECOLOURED_SHARE = 0.3


def new_vae(seed: int) -> AutoencoderKL:
    """An untrained AutoencoderKL of the family's shape."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            sample_size=64,
            latent_channels=LATENT_CHANNELS,
            block_out_channels=(16, 32, 64, 128),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    with torch.no_grad():
        vae.quant_conv.bias[LATENT_CHANNELS:] -= 5.0  # log variances: begin with latents that hold something
    return vae.to(memory_format=torch.channels_last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """How long a training of the VAE is, where it was interrupted, and whom it tells. `state` is what `checkpoint` was
    last given; `first_step` the step it was given with."""

    n_steps: int
    seed: int
    learning_rate: float
    batch: int = 8
    first_step: int = 0
    state: dict | None = None
    checkpoint: Callable[[int, dict], None]
    checkpoint_every_steps: int = 250
    progress: Callable[[int, int, str], None]


def train_vae(vae: AutoencoderKL, corpus: Corpus, perceptual: PerceptualNet, course: Course) -> AutoencoderKL:
    """The moving average of the trained weights, encoder and decoder."""

    def losses(generator: torch.Generator) -> list[Tensor]:
        x, weight = pictures(corpus, torch.randint(len(corpus), (course.batch,), generator=generator).numpy(), generator)
        law = vae.encode(x).latent_dist
        z = law.mean + law.std * torch.randn(law.mean.shape, generator=generator)
        return [*picture_losses(perceptual, x, vae.decode(z).sample, weight), law.kl().mean()]

    return _trained(vae, losses, course)


def train_decoder(
    vae: AutoencoderKL, corpus: Corpus, latents: Tensor, perceptual: PerceptualNet, course: Course, *, noise: float = 0.1
) -> AutoencoderKL:
    """The same, for the decoder alone: the latents (n, c, 8, 8) of the corpus, scaled, stay what they are, so a UNet
    trained on them goes on fitting. `noise` is added, since a UNet's latents are not exact either."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)

    def losses(generator: torch.Generator) -> list[Tensor]:
        rows = torch.randint(len(corpus), (course.batch,), generator=generator)
        z = latents[rows] + noise * torch.randn(latents[rows].shape, generator=generator)
        y = vae.decode((z / vae.config.scaling_factor).contiguous(memory_format=torch.channels_last)).sample
        x, weight = pictures(corpus, rows.numpy(), None)
        return [*picture_losses(perceptual, x, y, weight), torch.zeros(())]

    return _trained(vae, losses, course)


def picture_losses(perceptual: PerceptualNet, x: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
    """Error, error of the gradients, distance of the maps: of y from x (n, 3, 64, 64), weighted by weight (n, 1, 64, 64)."""
    weight = weight / weight.mean()
    error = x - y
    absolute = (weight * error.abs()).mean()
    steps = [(weight[..., a:, b:] * (error[..., a:, b:] - error[..., : 64 - a, : 64 - b]).abs()).mean() for a, b in ((1, 0), (0, 1))]
    with torch.no_grad():
        wanted = perceptual(x)
    distances = []
    for a, b in zip(wanted, perceptual(y)):
        w = F.adaptive_avg_pool2d(weight, a.shape[-2:])
        distances.append((w * (F.normalize(a, dim=1, eps=1e-4) - F.normalize(b, dim=1, eps=1e-4)).square().sum(1, keepdim=True)).mean())
    return [absolute, sum(steps) / 2, sum(distances) / len(distances)]


def _trained(vae: AutoencoderKL, losses_of: Callable[[torch.Generator], list[Tensor]], course: Course) -> AutoencoderKL:
    learnt = [p for p in vae.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=course.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    average, seen = copy.deepcopy(vae), torch.zeros(4)
    if course.state:
        for thing, key in ((vae, "weights"), (average, "average"), (optimiser, "optimiser")):
            thing.load_state_dict(course.state[key])
    for step in range(course.first_step, course.n_steps):
        losses = losses_of(step_generator(course.seed, step))
        loss = losses[0] + losses[1] + 0.25 * losses[2] + KL_WEIGHT * losses[3]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        share_gradients(vae)
        nn.utils.clip_grad_norm_(learnt, 1.0)
        set_one_cycle(optimiser, step, course.n_steps, peak=course.learning_rate)
        optimiser.step()
        follow(average, vae, step, longest=0.998)
        seen += torch.stack(losses).detach() / 50
        if (step + 1) % 50 == 0:
            course.progress(step + 1, course.n_steps, "absolute {:.4f} gradients {:.4f} perceptual {:.4f} kl {:.0f}".format(*seen.tolist()))
            seen.zero_()
        if (step + 1) % course.checkpoint_every_steps == 0 or step + 1 == course.n_steps:
            course.checkpoint(step + 1, {"weights": vae.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()})
    return average


def pictures(corpus: Corpus, rows: np.ndarray, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 64, 64) in [-1, 1] and weights (n, 1, 64, 64). With a generator both are mirrored at random, and the colour
    channels of some pictures change places: hair and skin of every hue must pass, not only the common ones."""
    x = torch.from_numpy(corpus.pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    weight = torch.from_numpy(corpus.importance[rows])[:, None].float() / 32
    if generator is not None:
        mirrored = torch.rand(len(rows), generator=generator) < 0.5
        x[mirrored], weight[mirrored] = x[mirrored].flip(-1), weight[mirrored].flip(-1)
        for row in torch.nonzero(torch.rand(len(rows), generator=generator) < RECOLOURED_SHARE).flatten():
            x[row] = x[row][torch.randperm(3, generator=generator)]
    return x.contiguous(memory_format=torch.channels_last), weight


@torch.no_grad()
def encoded(vae: AutoencoderKL, pixels: np.ndarray, *, batch: int = 100) -> Tensor:
    """Means of the latents, unscaled, (n, c, 8, 8); pixels uint8 (n, 64, 64, 3)."""
    means = []
    for start in range(0, len(pixels), batch):
        x = torch.from_numpy(np.array(pixels[start : start + batch])).permute(0, 3, 1, 2).float() / 127.5 - 1
        means.append(vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean)
    return torch.cat(means).contiguous()


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, pixels: np.ndarray) -> None:
    """Folds an affine map of each latent channel into the 1x1 convolutions on both sides of the latents, so that
    channels have mean 0 and variance 1 over `pixels`; what the VAE decodes stays the same. Sets scaling_factor."""
    mean = encoded(vae, pixels)
    m, s = mean.mean((0, 2, 3)), mean.std((0, 2, 3))
    c, before, after = len(m), vae.quant_conv, vae.post_quant_conv
    before.weight[:c] /= s[:, None, None, None]
    before.bias[:c] = (before.bias[:c] - m) / s
    before.bias[c:] -= 2 * s.log()  # the second half are log variances
    after.bias += after.weight[:, :, 0, 0] @ m
    after.weight *= s[None, :, None, None]
    vae.register_to_config(scaling_factor=round(1 / encoded(vae, pixels).std().item(), 4))


def reconstruction_psnr(vae: AutoencoderKL, pixels: np.ndarray) -> float:
    """Peak signal to noise ratio in dB over all pictures together, decoded from the means; pixels uint8 (n, 64, 64, 3)."""
    with torch.no_grad():
        y = vae.decode(encoded(vae, pixels)).sample.clamp(-1, 1)
    x = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return float(10 * torch.log10(4 / (x - y).square().mean()))
