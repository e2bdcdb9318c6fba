"""The two small feature networks of the embedded family: stand-ins for AlexNet (LPIPS) and Inception (FID, KID).

They were trained on this package's own portraits, on attributes and identity at once; their distances are NOT
comparable with those of the published backbones. The distances themselves are not here (metrics.py)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.embedded.people import WORDS

SIZE = 64
FEATURES = Path(__file__).parent / "features"
PERCEPTUAL_CHANNELS = (16, 32, 64, 96, 128)
PERCEPTUAL_STRIDES = (1, 2, 2, 1, 2)
POOLED_CHANNELS = (24, 48, 96, 160)


class PerceptualNet(nn.Module):
    """Maps of five layers, post-ReLU, and one weight per channel for LPIPS's form: d = sum_l mean_hw sum_c lin_l[c]
    (a_lc - b_lc)^2, with a, b of unit length over c. All of lin_l is 1 / 5, so d lies in about 0..1."""

    def __init__(self, channels: tuple[int, ...] = PERCEPTUAL_CHANNELS, strides: tuple[int, ...] = PERCEPTUAL_STRIDES):
        super().__init__()
        widths = (3, *channels)
        self.layers = nn.ModuleList(_conv(a, b, stride=s) for a, b, s in zip(widths, widths[1:], strides))
        for i, c in enumerate(channels):
            self.register_buffer(f"lin{i}", torch.full((c,), 1 / len(channels)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (n, 3, h, w) in [-1, 1] -> five maps (n, c_l, h_l, w_l), from 64x64 down to 8x8."""
        x, maps = _resized(x), []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return tuple(maps)

    @property
    def lins(self) -> tuple[Tensor, ...]:
        """The channel weights of every layer, (c_l,) each."""
        return tuple(getattr(self, f"lin{i}") for i in range(len(self.layers)))


class PooledNet(nn.Module):
    """One non-negative vector per image, averaged over space, and the heads that read the attributes from it."""

    def __init__(self, channels: tuple[int, ...] = POOLED_CHANNELS):
        super().__init__()
        stem, *rest = channels
        self.stem = _conv(3, stem, stride=2)
        self.blocks = nn.ModuleList(nn.Sequential(_conv(a, b, stride=2), _conv(b, b)) for a, b in zip(channels, rest))
        self.heads = nn.ModuleDict({name: nn.Linear(channels[-1], len(words)) for name, words in WORDS.items()})

    def forward(self, x: Tensor) -> Tensor:
        """x (n, 3, h, w) in [-1, 1] -> (n, d)."""
        x = self.stem(_resized(x))
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))

    def attribute_logits(self, x: Tensor) -> dict[str, Tensor]:
        """x (n, 3, h, w) in [-1, 1] -> per attribute of people.WORDS, in the order of its words, (n, n_words)."""
        features = self(x)
        return {name: head(features) for name, head in self.heads.items()}


def load_perceptual(folder: str | Path = FEATURES) -> PerceptualNet:
    """The stand-in for AlexNet, in fp32, frozen, in evaluation mode."""
    return _loaded(PerceptualNet, Path(folder) / "perceptual")


def load_pooled(folder: str | Path = FEATURES) -> PooledNet:
    """The stand-in for Inception, in fp32, frozen, in evaluation mode."""
    return _loaded(PooledNet, Path(folder) / "pooled")


def save_network(network: nn.Module, stem: Path, *, dtype: torch.dtype = torch.float16, facts: dict | None = None) -> None:
    """`<stem>.safetensors` and `<stem>.json`: the weights in `dtype`, and the arguments with what was measured."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    state = {
        k: (v.to(dtype) if v.is_floating_point() else v).contiguous()
        for k, v in network.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    save_file(state, f"{stem}.safetensors", metadata={"format": "pt"})
    channels = PERCEPTUAL_CHANNELS if isinstance(network, PerceptualNet) else POOLED_CHANNELS
    config = {
        "network": type(network).__name__,
        "channels": channels,
        "words": WORDS,
        "image_size": SIZE,
        "input_range": [-1, 1],
        **(facts or {}),
    }
    Path(f"{stem}.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _loaded(kind: type, stem: Path):
    config = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
    network = kind(tuple(config["channels"]))
    state = {k: v.float() for k, v in load_file(f"{stem}.safetensors").items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    wrong = [k for k in missing if not k.endswith("num_batches_tracked")] + unexpected
    if wrong:
        raise ValueError(f"{stem}.safetensors does not belong to its {kind.__name__}: {wrong}. Restore both files of the folder.")
    return network.eval().requires_grad_(False)


def _conv(a: int, b: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=False))


def _resized(x: Tensor) -> Tensor:
    if x.shape[-2:] == (SIZE, SIZE):
        return x
    return F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
