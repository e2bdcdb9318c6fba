"""Pictures of an adapter for a person to look at: generated as evaluations generate theirs, each with its settings inside the PNG.

Nothing here scores or records; a study's own pictures lie in its folder."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sweep.errors import ConfigError
from sweep.recorded_study import ChosenAdapter
from trainables.adapter_files import write_file
from trainables.config import EvalConfig
from trainables.digests import file_digest
from trainables.foreign import ForeignAdapter
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.infotext import CHUNK, infotext
from trainables.kohya import kohya_hashes, kohya_tensors, model_hash_of
from trainables.lora import Adapter
from trainables.metrics import require_no_black
from trainables.models import ModelParts

FIELD = "{trigger}"


@dataclass(frozen=True)
class DrawnAdapter:
    """What pictures are made with: an adapter of ours, or a file's, which becomes a part of the model; and its name and hash in web UIs."""

    adapter: Adapter | None
    foreign: ForeignAdapter | None
    name: str
    hash: str


def of_study(chosen: ChosenAdapter) -> DrawnAdapter:
    """Raises: AdapterError if it is damaged."""
    adapter = chosen.load()
    return DrawnAdapter(adapter, None, chosen.name, kohya_hashes(kohya_tensors(adapter), {})["sshs_model_hash"])


def of_file(foreign: ForeignAdapter) -> DrawnAdapter:
    return DrawnAdapter(None, foreign, foreign.name, model_hash_of(foreign.files[0]))


def make_pictures(
    drawn: DrawnAdapter,
    config: EvalConfig,
    folder: Path,
    *,
    trigger: str,
    seed: int,
    device: str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Generate `config`'s pictures into `folder`, numbered on from what is there: of each prompt one for `seed`, one for `seed` + 1 and so on.

    Raises:
        AdapterError: the adapter does not fit the model; the folder cannot be written.  ModelError: the model cannot be used.
        EvaluationFailed: a picture is all black."""
    frozen = FrozenWork(device, on_load=drawn.foreign.merge_into if drawn.foreign else lambda parts: None)
    parts = frozen.parts(config.infer_model, config.infer_vae, config.infer_dtype)
    seeds = tuple(range(seed, seed + config.images_per_prompt))
    image_set = ImageSet(drawn.adapter, config, trigger, seeds)
    (images,) = generate(parts, [image_set], frozen=frozen, on_step=on_step)
    require_no_black(images)
    first = _next_number(folder)
    paths = []
    for number, (image, picture) in enumerate(zip(images, image_set.pictures(), strict=True), first):
        text = _settings(drawn, config, parts, picture.prompt, picture.seed, image)
        paths.append(write_file(folder / f"{number:05d}-{picture.seed}.png", _png(image, text), replace=False))
    return paths


def require_trigger(prompts: list[str], trigger: str | None) -> str:
    """The trigger word for these prompts. Raises: ConfigError if they name one that is not known."""
    if trigger is None and any(FIELD in prompt for prompt in prompts):
        raise ConfigError(f"`{FIELD}` in a prompt stands for the trigger word, but a file does not tell its own. Use --trigger WORD, or write it out.")
    return trigger or ""


def _settings(drawn: DrawnAdapter, config: EvalConfig, parts: ModelParts, prompt: str, seed: int, image: np.ndarray) -> str:
    weights = parts.source.unet
    return infotext(
        prompt,
        negative_prompt=config.negative_prompt,
        steps=config.steps,
        denoiser=config.denoiser,
        guidance=config.guidance,
        seed=seed,
        size=(image.shape[1], image.shape[0]),
        model=Path(parts.source.name).stem if weights.is_single_file else parts.source.name.rpartition("/")[2],
        model_hash=file_digest(weights.weights) if weights.is_single_file else None,
        lora_hashes={drawn.name: drawn.hash},
    )


def _png(image: np.ndarray, text: str) -> bytes:
    info, content = PngInfo(), io.BytesIO()
    info.add_text(CHUNK, text)
    Image.fromarray(image).save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def _next_number(folder: Path) -> int:
    there = folder.glob("*.png") if folder.is_dir() else ()
    return max((int(found[1]) + 1 for path in there if (found := re.match(r"(\d{5})-\d+\.png$", path.name))), default=0)
