"""The steps of making the family, in order: each reads what the ones before left in the work folder and leaves its own.

A stage that was interrupted goes on from its checkpoint. The command line, the order and BUILD.md are build.py's."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from trainables.cores import n_cores
from trainables.embedded import denoiser_training as denoising
from trainables.embedded import vae_training as coding
from trainables.embedded.corpus import draw_corpus, load_corpus, save_corpus
from trainables.embedded.family import write_family
from trainables.embedded.feature_training import train_features
from trainables.embedded.networks import PerceptualNet, PooledNet, load_perceptual, save_network
from trainables.embedded.subject_making import write_subject
from trainables.embedded.tokens import write_tokenizer

SEED = 7
N_PEOPLE, N_EACH = 1200, 20
N_HELD_OUT = 1200  # pictures, the last 60 people: the feature networks are measured on them
N_CAPTIONS_EACH = 4
STEPS = {"perceptual": 850, "pooled": 1000, "vae": 6000, "base": 4300, "realistic": 600, "decoder": 800}
LATENTS, TOKENS = "latents.pt", "tokens.pt"
START = "start"
"""A folder of the work folder with an earlier family's base/, where its VAE, UNet and text encoder begin instead of at random."""


def draw(work: Path, out: Path, *, scale: float, processes: int) -> dict:
    """The corpus."""
    save_corpus(draw_corpus(seed=SEED, n_people=N_PEOPLE, n_each=N_EACH, processes=processes, progress=Progress("corpus")), work / "corpus")
    return {"people": N_PEOPLE, "pictures": N_PEOPLE * N_EACH}


def features(work: Path, out: Path, *, scale: float, processes: int) -> dict:
    """Both feature networks, straight into the family's folder."""
    found = {}
    torch.set_num_threads(processes)
    for name, kind in (("perceptual", PerceptualNet), ("pooled", PooledNet)):
        network, accuracy = train_features(
            kind, load_corpus(work / "corpus"), n_steps=_scaled(name, scale), n_held_out=N_HELD_OUT, seed=11, progress=Progress(name)
        )
        save_network(network, out / "features" / name, facts={"held_out_accuracy": accuracy})
        found[name] = accuracy
    return found


def vae(work: Path, out: Path, *, scale: float, processes: int) -> dict:
    """The VAE, with its latents brought to zero mean and unit variance per channel."""
    _together(_train_vae, processes, work, out, _scaled("vae", scale))
    corpus, trained = load_corpus(work / "corpus"), coding.new_vae(0)
    trained.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["average"])
    coding.standardise_latents(trained, corpus.pixels[:: len(corpus) // 2000])
    trained.save_pretrained(work / "vae")
    return {
        "parameters": _count(trained),
        "steps": _scaled("vae", scale),
        "psnr_db": round(coding.reconstruction_psnr(trained, corpus.pixels[-400:]), 2),
    }


def base(work: Path, out: Path, *, scale: float, processes: int) -> dict:
    """Latents and captions of the corpus; then UNet and text encoder on both styles."""
    tokenizer = write_tokenizer(work / "tokenizer")
    if not (work / TOKENS).exists():
        _cache_tokens(work, tokenizer)
    if not (work / LATENTS).exists():
        _cache_latents(work, processes)
    _together(_train_denoiser, processes, work, "base", _scaled("base", scale))
    return _denoiser_facts(work, "base", _scaled("base", scale))


def realistic(work: Path, out: Path, *, scale: float, processes: int) -> dict:
    """The base, tuned on photographs alone."""
    _together(_train_denoiser, processes, work, "realistic", _scaled("realistic", scale))
    return _denoiser_facts(work, "realistic", _scaled("realistic", scale))


def decoder(work: Path, out: Path, *, scale: float, processes: int) -> dict:
    """The VAE's decoder once more, alone, on the latents that the UNets know."""
    _together(_train_decoder, processes, work, out, _scaled("decoder", scale))
    return {
        "steps": _scaled("decoder", scale),
        "psnr_db": round(coding.reconstruction_psnr(_vae(work), load_corpus(work / "corpus").pixels[-400:]), 2),
    }


def export(work: Path, out: Path, *, scale: float, processes: int) -> dict:
    """The subject and both pipelines, from the latest checkpoints."""
    write_subject(out / "subject")
    trained_vae = _vae(work)
    for name in ("base", "realistic"):
        if (work / f"{name}.pt").exists():
            unet, text_encoder = _denoiser(work, name)
            write_family(
                out / name, unet=unet, text_encoder=text_encoder, tokenizer=work / "tokenizer", vae=trained_vae if name == "base" else None
            )
    return {}


STAGES: dict[str, Callable[..., dict]] = {
    "corpus": draw,
    "features": features,
    "vae": vae,
    "base": base,
    "realistic": realistic,
    "decoder": decoder,
    "export": export,
}


class Progress:
    """Prints a line now and then: how far, what was measured, how long still."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic):
        self.name, self.clock, self.started, self.said = name, clock, None, -1e9

    def __call__(self, done: int, total: int, text: str = "") -> None:
        now = self.clock()
        self.started = self.started or (now, done)
        since, first = self.started
        if now - self.said < 10 and done < total:
            return
        self.said = now
        left = f"{(now - since) / (done - first) * (total - done) / 60:.1f} min left" if done > first else "timing"
        print(f"{self.name} {done}/{total}  {text}  {left}", flush=True)


def _train_vae(rank: int, size: int, work: Path, out: Path, n_steps: int) -> None:
    _joined(rank, size, work)
    perceptual = load_perceptual(out / "features").to(memory_format=torch.channels_last)
    network = _earlier(AutoencoderKL, work, "vae") or coding.new_vae(1)
    course = _course(work, "vae", rank, n_steps, seed=5, learning_rate=1.6e-3)
    coding.train_vae(network.to(memory_format=torch.channels_last), load_corpus(work / "corpus"), perceptual, course)


def _train_decoder(rank: int, size: int, work: Path, out: Path, n_steps: int) -> None:
    _joined(rank, size, work)
    perceptual = load_perceptual(out / "features").to(memory_format=torch.channels_last)
    network = AutoencoderKL.from_pretrained(work / "vae").to(memory_format=torch.channels_last)
    latents = torch.load(work / LATENTS, weights_only=True)
    coding.train_decoder(
        network, load_corpus(work / "corpus"), latents, perceptual, _course(work, "decoder", rank, n_steps, seed=23, learning_rate=8e-4)
    )


def _earlier(kind: type, work: Path, part: str) -> torch.nn.Module | None:
    folder = work / START / "base" / part
    return kind.from_pretrained(folder, torch_dtype=torch.float32) if folder.is_dir() else None


def _course(work: Path, name: str, rank: int, n_steps: int, **settings) -> coding.Course:
    state = _checkpoint(work / f"{name}.pt")
    return coding.Course(
        n_steps=n_steps,
        first_step=state["step"] if state else 0,
        state=state,
        checkpoint=functools.partial(_keep, work / f"{name}.pt", rank),
        progress=Progress(name) if rank == 0 else _silent,
        **settings,
    )


def _train_denoiser(rank: int, size: int, work: Path, name: str, n_steps: int) -> None:
    _joined(rank, size, work)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    corpus, state = load_corpus(work / "corpus"), _checkpoint(work / f"{name}.pt")
    latents, tokens = (torch.load(work / file, weights_only=True) for file in (LATENTS, TOKENS))
    pairs = denoising.Pairs(latents, tokens, denoising.importance_of_cells(corpus))
    if name == "base":
        unet = _earlier(UNet2DConditionModel, work, "unet") or denoising.new_unet(coding.LATENT_CHANNELS, 2)
        text_encoder = _earlier(CLIPTextModel, work, "text_encoder") or denoising.new_text_encoder(tokenizer, 3)
        settings = {"seed": 13, "learning_rate": 1.2e-3}
    else:
        unet, text_encoder = _denoiser(work, "base")
        pairs = pairs.only(torch.from_numpy(np.array(corpus.photo)))
        settings = {"seed": 17, "learning_rate": 3e-4}
    denoising.train_denoiser(
        unet,
        text_encoder,
        tokenizer,
        pairs,
        n_steps=n_steps,
        first_step=state["step"] if state else 0,
        state=state,
        checkpoint=functools.partial(_keep, work / f"{name}.pt", rank),
        progress=Progress(name) if rank == 0 else _silent,
        **settings,
    )


def _cache_tokens(work: Path, tokenizer: CLIPTokenizer) -> None:
    tokens = denoising.caption_tokens(tokenizer, load_corpus(work / "corpus"), n_each=N_CAPTIONS_EACH, seed=19)
    torch.save(tokens, work / TOKENS)


def _cache_latents(work: Path, processes: int) -> None:
    starts, parts = range(0, N_PEOPLE * N_EACH, 1000), []
    with torch.multiprocessing.get_context("spawn").Pool(processes) as pool:
        for part in pool.imap(functools.partial(_encode_part, work), starts):
            parts.append(part)
            print(f"latents {len(parts)}/{len(starts)}", flush=True)
    torch.save(torch.from_numpy(np.concatenate(parts)), work / LATENTS)


def _encode_part(work: Path, start: int) -> np.ndarray:
    torch.set_num_threads(1)
    network = AutoencoderKL.from_pretrained(work / "vae").to(memory_format=torch.channels_last)
    return (coding.encoded(network, load_corpus(work / "corpus").pixels[start : start + 1000]) * network.config.scaling_factor).numpy()


def _vae(work: Path) -> AutoencoderKL:
    network, state = AutoencoderKL.from_pretrained(work / "vae"), _checkpoint(work / "decoder.pt")
    if state:
        network.load_state_dict(state["average"])
    return network


def _denoiser(work: Path, name: str):
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    unet, text_encoder = denoising.new_unet(coding.LATENT_CHANNELS, 0), denoising.new_text_encoder(tokenizer, 0)
    torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).load_state_dict(
        torch.load(work / f"{name}.pt", weights_only=True)["average"]
    )
    return unet, text_encoder


def _denoiser_facts(work: Path, name: str, n_steps: int) -> dict:
    unet, text_encoder = _denoiser(work, name)
    return {"unet_parameters": _count(unet), "text_encoder_parameters": _count(text_encoder), "steps": n_steps}


def _together(train: Callable, processes: int, work: Path, *args) -> None:
    (work / "rendezvous").unlink(missing_ok=True)
    torch.multiprocessing.spawn(train, args=(processes, work, *args), nprocs=processes)


def _joined(rank: int, size: int, work: Path) -> None:
    torch.set_num_threads(max(1, n_cores() // size))
    dist.init_process_group("gloo", init_method=(work / "rendezvous").resolve().as_uri(), rank=rank, world_size=size)


def _checkpoint(file: Path) -> dict | None:
    return torch.load(file, weights_only=True) if file.exists() else None


def _keep(file: Path, rank: int, step: int, state: dict) -> None:
    if rank == 0:
        torch.save({"step": step, **state}, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)


def _silent(done: int, total: int, text: str = "") -> None:
    pass


def _scaled(name: str, scale: float) -> int:
    return max(20, round(STEPS[name] * scale))


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
