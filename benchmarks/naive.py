"""The other side of the benchmarks: what a user assembles from public packages today. Not part of the product; imports none of its code
but the subject's folder, the embedded feature networks and file paths.

Training follows diffusers' examples/text_to_image/train_text_to_image_lora.py (peft LoRA on the UNet's attention, images and captions
through a DataLoader, VAE and text encoder in every step); evaluation is StableDiffusionPipeline, torch-fidelity's FID and LPIPS pair by
row; Ray Tune runs one process per trial. `cached=True` gives it precomputed latents and text embeddings, as kohya's scripts have."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from transformers import CLIPTextModel, CLIPTokenizer

EMBEDDED = Path(__file__).resolve().parents[1] / "trainables" / "embedded"
PROMPTS = (
    "{t}, smile, close-up, straight-look",
    "{t}, neutral, upper body, wall background",
    "{t}, wink, close-up, room background",
    "HD quality, RAW photo, good lighting, {t}, surprised, gym background",
    "a photo of {t} outside on a bright day",
)
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Folders:
    """Where the models and the subject lie. Models are folders in diffusers' layout; `vae` may differ from the model's own."""

    model: Path = EMBEDDED / "base"
    vae: Path = EMBEDDED / "base" / "vae"
    subject: Path = EMBEDDED / "subject"
    resolution: int = 64


def folders_of(model: str) -> Folders:
    """The folders behind "embedded:base", "embedded:realistic", which has no VAE of its own and borrows the base's, or a folder."""
    return Folders(model=EMBEDDED / model.removeprefix("embedded:"))  # a path of its own stays what it is


class ImagesAndCaptions(Dataset):
    """The subject's training images as the diffusers example loads them: decoded, resized, normalised, tokenised at every access."""

    def __init__(self, folders: Folders, version: str, tokenizer: CLIPTokenizer) -> None:
        rows = [json.loads(line) for line in (folders.subject / "metadata.jsonl").read_text().splitlines()]
        self.rows = [row for row in rows if row["split"] == "train"]
        self.trigger = json.loads((folders.subject / "subject.json").read_text())["trigger"]
        self.folders, self.version, self.tokenizer = folders, version, tokenizer
        self.transform = transforms.Compose(
            [transforms.Resize(folders.resolution), transforms.CenterCrop(folders.resolution), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        row = self.rows[i]
        caption = self.trigger if self.version == "v1" else row["captions"][self.version]
        tokens = self.tokenizer(caption, max_length=self.tokenizer.model_max_length, padding="max_length", truncation=True, return_tensors="pt")
        image = Image.open(self.folders.subject / row["file_name"]).convert("RGB")
        return {"index": torch.tensor(i), "pixels": self.transform(image), "tokens": tokens.input_ids[0]}


class Training:
    """One LoRA training in the way of the diffusers example; `step` is one optimiser step on a batch."""

    def __init__(self, configuration: Mapping[str, object], folders: Folders, *, cached: bool = False) -> None:
        self.configuration, self.folders = configuration, folders
        torch.manual_seed(configuration.get("train_seed", 0))
        self.accelerator = Accelerator()
        self.tokenizer = CLIPTokenizer.from_pretrained(folders.model / "tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(folders.model / "text_encoder", dtype=torch.float32).requires_grad_(False)
        self.vae = AutoencoderKL.from_pretrained(folders.vae, torch_dtype=torch.float32).requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(folders.model / "unet", torch_dtype=torch.float32).requires_grad_(False)
        self.noise_scheduler = DDPMScheduler.from_pretrained(folders.model / "scheduler")
        rank, alpha = configuration.get("rank", 16), configuration.get("alpha", 16)
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=configuration.get("dropout", 0.1), target_modules=TARGETS))
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(self.parameters, lr=configuration.get("learning_rate", 1e-3), weight_decay=1e-2)
        schedule = get_scheduler("constant", optimiser)
        images = ImagesAndCaptions(folders, configuration.get("caption", "v2"), self.tokenizer)
        loader = DataLoader(images, batch_size=configuration.get("batch", 2), shuffle=True, num_workers=0)
        self.unet, self.optimiser, self.loader, self.schedule = self.accelerator.prepare(self.unet, optimiser, loader, schedule)
        self.latents, self.text = self._precomputed(images) if cached else (None, None)
        self.unet.train()

    def epoch(self) -> None:
        for batch in self.loader:
            self.step(batch)

    def step(self, batch: Mapping[str, torch.Tensor]) -> None:
        latents, text = self._frozen(batch)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.noise_scheduler.config.num_train_timesteps, (len(latents),)).long()
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        predicted = self.unet(noisy, timesteps, text, return_dict=False)[0]
        loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad()

    def save(self, folder: Path) -> None:
        state = get_peft_model_state_dict(self.accelerator.unwrap_model(self.unet))
        rank, alpha = self.configuration.get("rank", 16), self.configuration.get("alpha", 16)
        metadata = {"r": rank, "lora_alpha": alpha, "target_modules": TARGETS}
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state, safe_serialization=True, unet_lora_adapter_metadata=metadata)

    @torch.no_grad()
    def _frozen(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self.latents is not None:
            return self.latents[batch["index"]], self.text[batch["index"]]
        latents = self.vae.encode(batch["pixels"]).latent_dist.sample() * self.vae.config.scaling_factor
        return latents, self.text_encoder(batch["tokens"], return_dict=False)[0]

    @torch.no_grad()
    def _precomputed(self, images: ImagesAndCaptions) -> tuple[torch.Tensor, torch.Tensor]:
        batches = list(DataLoader(images, batch_size=32))
        latents = torch.cat([self.vae.encode(b["pixels"]).latent_dist.mode() for b in batches]) * self.vae.config.scaling_factor
        return latents, torch.cat([self.text_encoder(b["tokens"], return_dict=False)[0] for b in batches])


def pictures(folder: Path | None, folders: Folders, *, guidance: float, steps: int, images_per_prompt: int, prompts: Sequence[str] = PROMPTS) -> np.ndarray:
    """uint8 (n, h, w, 3) from StableDiffusionPipeline, prompt by prompt, as its users call it."""
    vae = AutoencoderKL.from_pretrained(folders.vae, torch_dtype=torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(folders.model, vae=vae, safety_checker=None, torch_dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    if folder is not None:
        pipeline.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    trigger = json.loads((folders.subject / "subject.json").read_text())["trigger"]
    images = []
    for p, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(p)
        output = pipeline(prompt.format(t=trigger), num_inference_steps=steps, guidance_scale=guidance, num_images_per_prompt=images_per_prompt, generator=generator)
        images += [np.asarray(image) for image in output.images]
    return np.stack(images)


@torch.no_grad()
def scores(generated: np.ndarray, folders: Folders) -> dict[str, float]:
    """FID by torch-fidelity's statistics and matrix root, LPIPS of each picture against every reference, on the embedded networks."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    from trainables.embedded.networks import load_perceptual, load_pooled

    rows = [json.loads(line) for line in (folders.subject / "metadata.jsonl").read_text().splitlines()]
    opened = [Image.open(folders.subject / r["file_name"]).convert("RGB") for r in rows if r["split"] == "train"]
    real = np.stack([np.asarray(image.resize((folders.resolution, folders.resolution))) for image in opened])
    pooled, perceptual = load_pooled().eval(), load_perceptual().eval()
    x, y = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1 for images in (generated, real))
    statistics = [fid_features_to_statistics(torch.cat([pooled(chunk) for chunk in images.split(32)])) for images in (x, y)]
    fid = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    values = [_lpips_row(perceptual, image.unsqueeze(0), y) for image in x]
    return {"fid": float(fid), "lpips": float(torch.cat(values).mean())}


def run_trial(
    configuration: Mapping[str, object], *, work: Path, epochs: int, steps: int, images_per_prompt: int, cached: bool
) -> dict[str, float]:
    """One trial from nothing to its two numbers; what the process of one Ray Tune trial does."""
    started = time.perf_counter()
    training = Training(configuration, folders_of(configuration.get("train_model", "embedded:base")), cached=cached)
    for _ in range(epochs):
        training.epoch()
    training.save(work)
    trained = time.perf_counter()
    folders = folders_of(configuration.get("infer_model", "embedded:base"))
    generated = pictures(work, folders, guidance=configuration.get("guidance", 4.0), steps=steps, images_per_prompt=images_per_prompt)
    values = scores(generated, folders)
    return {**values, "seconds_train": trained - started, "seconds_evaluate": time.perf_counter() - trained}


def run_study(
    configurations: Sequence[Mapping[str, object]], *, work: Path, epochs: int, steps: int, images_per_prompt: int, cached: bool
) -> tuple[list[dict], float]:
    """(results, wall seconds): every configuration as a Ray Tune trial in its own process, as many at once as there are cores."""
    started = time.perf_counter()
    import ray
    from ray import tune

    def trainable(config: dict) -> None:
        folder = work / f"trial-{config['trial']['row']}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = dict(work=folder, epochs=epochs, steps=steps, images_per_prompt=images_per_prompt, cached=cached)
        tune.report(run_trial(config["trial"], **settings))

    ray.init(include_dashboard=False, logging_level="error", log_to_driver=False)
    rows = [{**configuration, "row": i} for i, configuration in enumerate(configurations)]
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"trial": tune.grid_search(rows)},
        run_config=tune.RunConfig(storage_path=str(work / "ray"), verbose=0),
    )
    grid = tuner.fit()
    ray.shutdown()
    wall_s = time.perf_counter() - started
    return [{**r.config["trial"], **{k: r.metrics.get(k, math.nan) for k in ("fid", "lpips")}} for r in grid], wall_s


def _lpips_row(network: torch.nn.Module, image: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    distance = 0
    for x, y, weight in zip(network(image), network(references), network.lins, strict=True):
        difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square() * weight.view(1, -1, 1, 1)
        distance = distance + difference.sum(1).mean((1, 2))
    return distance
