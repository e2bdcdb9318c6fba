"""Trains the UNet and the text encoder of the family together, on cached latents and tokenised captions.

DDPM noise prediction as Stable Diffusion 1.5 does it (scaled-linear betas, empty captions now and then for guidance).
Writes nothing but through `checkpoint`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from trainables.embedded.captions import pretraining_caption
from trainables.embedded.corpus import Corpus
from trainables.embedded.pacing import follow, set_one_cycle, share_gradients, step_generator
from trainables.embedded.tokens import MAX_TOKENS

TEXT_WIDTH = 96
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What the denoiser sees. latents (m, c, 8, 8): the means of the VAE, scaled; tokens int (m, k, 77): k captions each;
    importance (m, 1, 8, 8): how much an error in each place counts, about 1 on average."""

    latents: Tensor
    tokens: Tensor
    importance: Tensor

    def only(self, rows: Tensor) -> Pairs:
        """The pairs that the boolean `rows` (m,) choose."""
        return Pairs(self.latents[rows], self.tokens[rows], self.importance[rows])


def importance_of_cells(corpus: Corpus, *, power: float = 1.5) -> Tensor:
    """(n, 1, 8, 8): the corpus' importance of each latent cell, to a power, divided by its mean over the picture. An expression is
    two or three cells of 64: unweighted, its words would hardly be worth learning."""
    n = len(corpus)
    cells = torch.from_numpy(np.asarray(corpus.importance, np.float32).reshape(n, 8, 8, 8, 8).mean((2, 4)) / 32) ** power
    return (cells / cells.mean((1, 2), keepdim=True))[:, None]


def new_unet(latent_channels: int, seed: int) -> UNet2DConditionModel:
    """An untrained UNet of the family's shape: attention at 8x8, 4x4 and in the middle, Stable Diffusion's layer names."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=latent_channels,
            out_channels=latent_channels,
            layers_per_block=1,
            block_out_channels=(64, 128),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            attention_head_dim=4,
            cross_attention_dim=TEXT_WIDTH,
            norm_num_groups=16,
        )


def new_text_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """An untrained two-layer CLIPTextModel for that tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                projection_dim=TEXT_WIDTH,
                hidden_act="quick_gelu",
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )


def caption_tokens(tokenizer: CLIPTokenizer, corpus: Corpus, *, n_each: int, seed: int) -> Tensor:
    """int16 (n, n_each, 77): captions of every picture, padded."""
    rng = np.random.default_rng(seed)
    texts = [
        pretraining_caption(corpus.attributes(i), photo=bool(corpus.photo[i]), rng=rng) for i in range(len(corpus)) for _ in range(n_each)
    ]
    return tokenized(tokenizer, texts).to(torch.int16).view(len(corpus), n_each, MAX_TOKENS)


def tokenized(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """int64 (n, 77)."""
    return tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids


def train_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    pairs: Pairs,
    *,
    n_steps: int,
    seed: int,
    batch: int = 32,
    learning_rate: float = 1.2e-3,
    empty_share: float = 0.1,
    first_step: int = 0,
    state: dict | None = None,
    checkpoint: Callable[[int, dict], None],
    checkpoint_every_steps: int = 250,
    progress: Callable[[int, int, str], None],
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The moving averages of the trained weights. `state` is what `checkpoint` was last given, to go on from it."""
    live = nn.ModuleDict({"unet": unet.to(memory_format=torch.channels_last).train(), "text_encoder": text_encoder.train()})
    average = copy.deepcopy(live).eval()
    optimiser = torch.optim.AdamW(live.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    if state:
        for thing, key in ((live, "weights"), (average, "average"), (optimiser, "optimiser")):
            thing.load_state_dict(state[key])
    noising, empty, seen = DDPMScheduler(**BETAS), tokenized(tokenizer, [""])[0], 0.0
    for step in range(first_step, n_steps):
        generator = step_generator(seed, step)
        latents, tokens, importance = _batch(pairs, empty, empty_share, batch, generator)
        noise = torch.randn(latents.shape, generator=generator)
        times = torch.randint(1000, (batch,), generator=generator)
        noisy = noising.add_noise(latents, noise, times).contiguous(memory_format=torch.channels_last)
        guess = live["unet"](noisy, times, live["text_encoder"](tokens).last_hidden_state).sample
        errors = (importance * (guess - noise).square()).mean((1, 2, 3))
        loss = (errors * _weights(noising, times)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        share_gradients(live)
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        set_one_cycle(optimiser, step, n_steps, peak=learning_rate)
        optimiser.step()
        follow(average, live, step, longest=0.999)
        seen += errors.mean().item() / 50
        if (step + 1) % 50 == 0:
            progress(step + 1, n_steps, f"noise error {seen:.4f}")
            seen = 0.0
        if (step + 1) % checkpoint_every_steps == 0 or step + 1 == n_steps:
            checkpoint(step + 1, {"weights": live.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()})
    return average["unet"], average["text_encoder"]


def _batch(pairs: Pairs, empty: Tensor, empty_share: float, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.randint(len(pairs.latents), (batch,), generator=generator)
    which = torch.randint(pairs.tokens.shape[1], (batch,), generator=generator)
    tokens = pairs.tokens[rows, which].long()
    tokens[torch.rand(batch, generator=generator) < empty_share] = empty
    return pairs.latents[rows], tokens, pairs.importance[rows]


def _weights(noising: DDPMScheduler, times: Tensor, *, gamma: float = 5.0, largest: float = 40.0) -> Tensor:
    """min(snr, gamma) / snr (Hang et al., arXiv:2303.09556) times 1 / alphas_cumprod, which makes an error of the noise
    one of the velocity (Salimans and Ho, arXiv:2202.00512), cut at `largest`. Otherwise the noisy times, at which a
    caption decides but the noise is easy to guess, would hardly be learnt in so few steps. An expression is decided where
    alphas_cumprod is 0.01 to 0.1: cut at 10, its words were never learnt."""
    kept = noising.alphas_cumprod[times]
    snr = kept / (1 - kept)
    return snr.clamp(max=gamma) / snr * (1 / kept).clamp(max=largest)
