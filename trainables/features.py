"""Feature networks: from uint8 images to the vectors that distances are computed on, and a cache for image sets.

The distances are in metrics.py. Nothing here downloads: a weight file is given, or lies where torch hub would have put it.

    embedded:perceptual                      LPIPS's form over the embedded family's own small network
    lpips:alex, lpips:vgg, lpips:squeeze     the lpips package's modules, linear heads and scaling (version 0.1)
    embedded:pooled                          the embedded stand-in for Inception
    inception                                torch-fidelity's Inception v3, its 2048 pool3 features
"""

from __future__ import annotations

import difflib
import hashlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from trainables.activity import beat
from trainables.errors import EvaluationFailed, ModelError
from trainables.weights import digest_of, read_weights, unreadable, weight_file

Images = np.ndarray | Tensor
"""uint8 (n, h, w, 3), as pictures are stored and scored."""

PERCEPTUAL_NAMES = ("embedded:perceptual", "lpips:alex", "lpips:vgg", "lpips:squeeze")
POOLED_NAMES = ("embedded:pooled", "inception")
INCEPTION_LAYER = "2048"
PIXELS_PER_BATCH = {"cpu": 1 << 17, "cuda": 1 << 20}
SMALLEST_SIDE = 32  # AlexNet's pools are empty below
LPIPS_EPSILON = 1e-10  # the lpips package's: added to the norm, not under the root
DEFAULT_CACHE_BYTES = 4 << 30


def perceptual_backbone(name: str, device: str | torch.device = "cpu", *, weights: str | Path | None = None) -> PerceptualBackbone:
    """The network of that name, ready on `device`.

    `weights`: the trunk's file as torchvision publishes it (.pth or .safetensors), or for embedded:perceptual a folder;
    None looks in torch hub's cache.
    Raises: ModelError if the name is unknown, or its weight file is missing, damaged or of another network.
    """
    _require_name(name, PERCEPTUAL_NAMES)
    if name == "embedded:perceptual":
        network, digest = _embedded_network("perceptual", weights)
        return PerceptualBackbone(name, digest, torch.device(device), _Signed(network), network.lins)
    network, channel_weights, digest = _lpips_network(name, weights)
    return PerceptualBackbone(name, digest, torch.device(device), network, channel_weights)


def pooled_backbone(name: str, device: str | torch.device = "cpu", *, weights: str | Path | None = None) -> PooledBackbone:
    """The network of that name, ready on `device`; `weights` and errors as in `perceptual_backbone`."""
    _require_name(name, POOLED_NAMES)
    if name == "embedded:pooled":
        network, digest = _embedded_network("pooled", weights)
        return PooledBackbone(name, digest, torch.device(device), _Signed(network))
    network, digest = _inception_network(weights)
    return PooledBackbone(name, digest, torch.device(device), network)


@dataclass(frozen=True)
class PerceptualFeatures:
    """Image i as the vectors g_l = sqrt(w_l / (h_l w_l)) f_l / (|f_l| + eps), so that LPIPS(i, j) = |g_i - g_j|^2.

    f_l are layer l's maps, |f_l| is over channels, w_l the layer's channel weights.
    """

    backbone_digest: str
    image_size: tuple[int, int]  # (h, w) in pixels
    layers: tuple[Tensor, ...]  # per layer (n, c_l * h_l * w_l), float32

    def __len__(self) -> int:
        return len(self.layers[0])

    def __getitem__(self, rows: slice) -> PerceptualFeatures:
        """The features of some of the images, without a copy."""
        return PerceptualFeatures(self.backbone_digest, self.image_size, tuple(layer[rows] for layer in self.layers))

    @property
    def n_bytes(self) -> int:
        return sum(layer.numel() * layer.element_size() for layer in self.layers)

    @cached_property
    def squared_norms(self) -> Tensor:
        """|g_i|^2 over all layers, (n,) float64."""
        return sum(sum(chunk.double().square().sum(1) for chunk in layer.split(8192, dim=1)) for layer in self.layers)


class PerceptualBackbone:
    """Images -> PerceptualFeatures, in batches. `network` gives a map per layer for uint8 (n, 3, h, w)."""

    def __init__(self, name: str, digest: str, device: torch.device, network: nn.Module, channel_weights: tuple[Tensor, ...]):
        self.name, self.digest, self.device = name, digest, device
        self._network = network.to(device)
        for w in channel_weights:
            if not bool((w >= 0).all()):
                raise ModelError(f"LPIPS's channel weights must not be negative, but {name} has {float(w.min())}. Restore its weight file.")
        self._roots = tuple(w.to(device).sqrt().view(1, -1, 1, 1) for w in channel_weights)
        self._bytes_per_image: dict[tuple[int, int], int] = {}

    @torch.no_grad()
    def __call__(self, images: Images) -> PerceptualFeatures:
        """Raises: EvaluationFailed if there are no images or they are smaller than the network can take."""
        images, layers = _checked(images, self.name), []
        with full_precision():
            for rows, batch in _batches(images, self.device):
                for i, g in enumerate(self._weighted_layers(batch)):
                    if rows.start == 0:  # sizes are known from the first batch
                        layers.append(torch.empty(len(images), g.shape[1], device=self.device))
                    layers[i][rows] = g
        return PerceptualFeatures(self.digest, tuple(images.shape[1:3]), tuple(layers))

    def bytes_per_image(self, image_size: tuple[int, int]) -> int:
        """How much the features of an image of (h, w) take, by trying one."""
        if image_size not in self._bytes_per_image:
            self._bytes_per_image[image_size] = self(np.zeros((1, *image_size, 3), np.uint8)).n_bytes
        return self._bytes_per_image[image_size]

    def _weighted_layers(self, batch: Tensor) -> Iterator[Tensor]:
        for f, root in zip(self._network(batch), self._roots, strict=True):
            h, w = f.shape[-2:]
            norm = f.square().sum(1, keepdim=True).sqrt() + LPIPS_EPSILON
            yield (f / norm * (root / (h * w) ** 0.5)).flatten(1)


class PooledBackbone:
    """Images -> one vector each, (n, d) float32, in batches. `network` gives (n, d) for uint8 (n, 3, h, w), and resizes as it likes."""

    def __init__(self, name: str, digest: str, device: torch.device, network: nn.Module):
        self.name, self.digest, self.device = name, digest, device
        self._network = network.to(device, memory_format=torch.channels_last)  # 1.2 to 3 times faster here, and no faster above

    @torch.no_grad()
    def __call__(self, images: Images) -> Tensor:
        """Raises: EvaluationFailed if there are no images or they are very small."""
        images = _checked(images, self.name)
        with full_precision():
            return torch.cat([self._network(batch) for _, batch in _batches(images, self.device)])


class ReferenceImages:
    """Images with the digest that names them, computed once, at the first question."""

    def __init__(self, images: Images):
        self.images = np.ascontiguousarray(images)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.images.shape).encode() + self.images.tobytes()).hexdigest()


class References:
    """Features of image sets that are compared with again and again, by (backbone digest, image set digest).

    Holds at most `max_bytes`; the least recently used go first. For one thread.
    """

    def __init__(self, *, max_bytes: int = DEFAULT_CACHE_BYTES):
        self.max_bytes = max_bytes
        self._held: OrderedDict[tuple[str, str], tuple[Tensor | PerceptualFeatures, int]] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        return sum(n for _, n in self._held.values())

    def pooled(self, backbone: PooledBackbone, images: ReferenceImages) -> Tensor:
        """(n, d)"""
        return self._looked_up(backbone, images, lambda f: f.numel() * f.element_size())

    def perceptual(self, backbone: PerceptualBackbone, images: ReferenceImages) -> PerceptualFeatures:
        return self._looked_up(backbone, images, lambda f: f.n_bytes)

    def _looked_up(self, backbone: PerceptualBackbone | PooledBackbone, images: ReferenceImages, n_bytes_of: Callable):
        key = (backbone.digest, images.digest)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        features = backbone(images.images)
        self._hold(key, features, n_bytes_of(features))
        return features

    def _hold(self, key: tuple[str, str], features: Tensor | PerceptualFeatures, n_bytes: int) -> None:
        if n_bytes > self.max_bytes:
            return
        while self.n_bytes + n_bytes > self.max_bytes:
            self._held.popitem(last=False)
        self._held[key] = (features, n_bytes)


def _checked(images: Images, name: str) -> Tensor:
    images = torch.as_tensor(images)
    assert images.dtype == torch.uint8 and images.dim() == 4 and images.shape[3] == 3, (images.dtype, images.shape)
    if not len(images) or min(images.shape[1:3]) < SMALLEST_SIDE:
        raise EvaluationFailed(
            f"{name} needs at least one image of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, but got {len(images)} of"
            f" {images.shape[2]}x{images.shape[1]}. Use a larger resolution."
        )
    return images


def _batches(images: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their images, uint8 (n, 3, h, w) on the device."""
    n = max(1, PIXELS_PER_BATCH.get(device.type, 1 << 17) // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), n):
        rows = slice(start, start + n)
        beat()
        yield rows, images[rows].to(device).permute(0, 3, 1, 2).contiguous()


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, convolutions are IEEE float32 on every card."""
    # cuDNN's default TF32 convolutions move a feature by 1e-3, and a record's value would depend on the card.
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


class _Signed(nn.Module):
    """`network` on uint8 images scaled to [-1, 1], which it expects."""

    def __init__(self, *stages: nn.Module):
        super().__init__()
        self.network = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.network(x.float() / 127.5 - 1)


class _First(nn.Module):
    """The first of the tensors that `network` returns."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]


def _require_name(name: str, names: tuple[str, ...]) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ModelError(f"A backbone must be one of {', '.join(names)}, but it is {name!r}.{hint}")


# Building a network draws random weights, which the file's then replace: fork_rng keeps that out of the caller's stream.
@torch.random.fork_rng(devices=[])
def _embedded_network(kind: str, folder: str | Path | None) -> tuple[nn.Module, str]:
    from trainables.embedded import networks

    folder = Path(folder or networks.FEATURES)
    path = folder / f"{kind}.safetensors"
    if not path.is_file():
        raise ModelError(f"embedded:{kind} needs {path}, which does not exist. Restore it, or run: python -m trainables.embedded.build")
    load = networks.load_perceptual if kind == "perceptual" else networks.load_pooled
    try:
        return load(folder), digest_of(path)
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise unreadable(path, f"the embedded {kind} network", error) from error


@torch.random.fork_rng(devices=[])
def _lpips_network(name: str, weights: str | Path | None) -> tuple[nn.Module, tuple[Tensor, ...], str]:
    """The trunk behind the package's scaling, the channel weights per layer, and a digest of both weight files."""
    import lpips
    from torchvision import models

    net = name.removeprefix("lpips:")
    published = {"alex": models.AlexNet_Weights, "vgg": models.VGG16_Weights, "squeeze": models.SqueezeNet1_1_Weights}[net]
    trunk_path = weight_file(name, weights, published.IMAGENET1K_V1.url)
    lins_path = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated name
        # Without pnet_rand torchvision would download the trunk. The random one is replaced.
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    _load_trunk(model.net, trunk_path)
    channel_weights = tuple(lin.model[-1].weight.detach().flatten() for lin in model.lins)
    network = _Signed(model.scaling_layer, model.net).eval().requires_grad_(False)
    return network, channel_weights, digest_of(trunk_path, lins_path)


def _load_trunk(trunk: nn.Module, path: Path) -> None:
    """torchvision's `features.3.weight` is the package's `slice2.3.weight`; the classifier is not used."""
    state = read_weights(path)
    try:
        trunk.load_state_dict({key: state["features." + key.split(".", 1)[1]] for key in trunk.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise unreadable(path, "the LPIPS trunk", error) from error


@torch.random.fork_rng(devices=[])
def _inception_network(weights: str | Path | None) -> tuple[nn.Module, str]:
    from torch_fidelity import feature_extractor_inceptionv3 as package

    path = weight_file("inception", weights, package.URL_INCEPTION_V3)
    # The package would unpickle any file, so it gets one that holds nothing but tensors.
    checked = io.BytesIO()
    torch.save(read_weights(path), checked)
    checked.seek(0)
    try:
        extractor = package.FeatureExtractorInceptionV3("inception", [INCEPTION_LAYER], feature_extractor_weights_path=checked)
    except RuntimeError as error:
        raise unreadable(path, "torch-fidelity's Inception v3", error) from error
    return _First(extractor), digest_of(path)
