"""LPIPS's and FID's networks with random weights: seconds, memory, distance from the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)
from torchvision import models

from benchmarks.gpu.run import Run, gib, timed, wait
from trainables.features import perceptual_backbone, pooled_backbone
from trainables.metrics import frechet_distance, kernel_distance, lpips_matrix


def metrics(run: Run) -> None:
    """Networks of random weights at full size: seconds, memory, distance of device and CPU."""
    with _random_weights(run.folder / "torch"):
        for name in ("lpips:alex", "lpips:vgg", "inception"):
            _metric_line(run, name)


@contextmanager
def _random_weights(home: Path) -> Iterator[None]:
    """AlexNet, VGG and Inception of random weights in torch hub's place, without their hashes."""

    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for network, weights in (
        (models.alexnet, models.AlexNet_Weights),
        (models.vgg16, models.VGG16_Weights),
    ):
        torch.save(
            network(weights=None).state_dict(), folder / weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
        )
    state = _inception_state(FeatureExtractorInceptionV3)
    torch.save(state, folder / URL_INCEPTION_V3.rsplit("/", 1)[1])
    with (
        mock.patch.dict(os.environ, TORCH_HOME=str(home)),
        mock.patch("trainables.weights.HASH_IN_NAME", _Never()),
    ):
        yield


class _Never:
    """A pattern that no name has: random weights have no published hash."""

    def search(self, name: str) -> None:
        return None


def _inception_state(extractor: type) -> dict[str, torch.Tensor]:
    """torch-fidelity's Inception as its constructor leaves it before it reads a file."""

    kept: list[torch.nn.Module] = []
    with (
        mock.patch("torch.load", lambda *_, **__: {}),
        mock.patch.object(extractor, "load_state_dict", lambda self, *_: kept.append(self)),
    ):
        extractor("inception", ["2048"], feature_extractor_weights_path=os.devnull)
    return {key: value.clone() for key, value in kept[0].state_dict().items()}


def _metric_line(run: Run, name: str) -> None:

    side = 64 if run.small else 512
    rng = np.random.default_rng(0)
    counts = (6, 4) if run.small else (191, 20)
    real, fake = (rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8) for n in counts)
    make = pooled_backbone if name == "inception" else perceptual_backbone
    backbone = make(name, run.device)
    backbone(fake[:2])
    before = gib(run)
    seconds = timed(run, lambda: backbone(fake))
    started = time.perf_counter()
    references = backbone(real)
    wait(run)
    rate = len(real) / (time.perf_counter() - started)
    kept = f"{len(real)} references keep {gib(run) - before:.2f} GiB"
    text = f"{name}: {rate:.0f} pictures/s, {kept}"
    few = (
        (make(name, "cpu")(x[:6]) for x in (real, fake))
        if run.cuda
        else (backbone(x[:6]) for x in (real, fake))
    )
    cpu, device = tuple(few), (backbone(real[:6]), backbone(fake[:6]))
    if name == "inception":
        pairs = [
            (f(*(x.cpu() for x in cpu)), f(*(x.cpu() for x in device)))
            for f in (frechet_distance, kernel_distance)
        ]
        apart = max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)
    else:
        a, b = (lpips_matrix(fakes, reals).cpu() for reals, fakes in (cpu, device))
        apart = float(((a - b).abs() / a.abs().clamp(min=1e-12)).max())
        seconds += timed(run, lambda: lpips_matrix(backbone(fake), references))
    run.say(
        "metrics",
        f"{text}, {len(fake)} scored in {seconds:.2f} s, {apart:.1e} relative from the CPU",
        apart=apart,
        seconds=seconds,
    )
