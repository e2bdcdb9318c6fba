"""Distances between image sets, as functions of their features: LPIPS of all pairs, FID, KID.

Networks are in features.py. Sums run in float64, so that n, not rounding, limits what a value says.
Lower is closer everywhere; only diversity is better when larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.errors import EvaluationFailed
from trainables.features import Images, PerceptualBackbone, PerceptualFeatures, ReferenceImages, References

COLUMNS_PER_CHUNK = 8192
LEAST_FOR_INFINITY = 10
"""Fewer generated images than this give no FID_inf."""
COPY_RATIO = 0.5
"""A generated image is a copy where it is less than half as far from a training image as these typically are from each other."""
BLACKEST_VISIBLE = 3
"""A picture whose brightest value (0..255) is at most this shows nothing; safety checkers and NaN latents give 0."""


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with covariances over n - 1.

    real (n, d), fake (m, d). With S1 = A'A and S2 = B'B the eigenvalues of S1 S2 are the squared singular values of
    A B', so the matrix root's trace is the sum of these: exact, and of size (n, m) instead of (d, d).
    It is biased upwards for few images: compare only values of equal n and m.
    Raises: EvaluationFailed for fewer than two images on a side, unequal d, NaN or inf.
    Reference: Heusel et al., arXiv:1706.08500; equals torch-fidelity's frechet_inception_distance.
    """
    real, fake = _pair(real, fake, "FID")
    a, b = _covariance_factor(real), _covariance_factor(fake)
    mean_gap = (real.mean(0) - fake.mean(0)).square().sum()
    trace_of_root = torch.linalg.svdvals(a @ b.T).sum()
    return float(mean_gap + a.square().sum() + b.square().sum() - 2 * trace_of_root)


class FrechetDistances:
    """FID of many subsets of one set of generated images, all against the same references: features are multiplied once.

    With A'A = S1 and F = fake - mu1, all that a subset's FID needs is its columns of A F' (n, m) and of F F' (m, m). Called with rows
    (b, k) of the generated images, none twice, it gives (b,) float64, equal to `frechet_distance` to about 1e-6 of it.
    Raises: EvaluationFailed as `frechet_distance`."""

    def __init__(self, real: Tensor, fake: Tensor) -> None:
        real, fake = _pair(real, fake, "FID")
        factor, f = _covariance_factor(real), fake - real.mean(0)
        self._trace_real = factor.square().sum()
        self._projected, self._gram = factor @ f.T, f @ f.T

    def __call__(self, rows: Tensor) -> Tensor:
        k = rows.shape[1]
        total, diagonal = _sums_within(self._gram, rows)
        mean_gap = total / k**2
        trace_fake = (diagonal - k * mean_gap) / (k - 1)
        b = self._projected[:, rows].transpose(0, 1)  # (b, n, k)
        b = (b - b.mean(2, keepdim=True)) / (k - 1) ** 0.5
        smaller = b @ b.mT if b.shape[1] < k else b.mT @ b
        trace_of_root = torch.linalg.eigvalsh(smaller).clamp_min(0).sqrt().sum(1)
        return mean_gap + self._trace_real + trace_fake - 2 * trace_of_root


def frechet_distance_at_infinity(
    real: Tensor | FrechetDistances, fake: Tensor, *, rng: np.random.Generator, n_points: int = 15, n_subsets: int = 8
) -> float:
    """FID_inf: the line through FID against 1 / k over random subsets of k of the generated images, at 1 / k = 0.

    real (n, d), or what is already multiplied; fake (m, d). Takes out the bias of m generated images to first order; that of
    the n references stays. The line is fitted from 0.7 m to m, each size the mean of `n_subsets` subsets. The paper starts at 0.1 m, of
    50,000; with a few dozen images FID is no line in 1 / k down there, and extrapolating from there takes out next to nothing. Of
    simulated features of one law (truth 0, mean of 30 sets) 0.7 m to m left, of FID: 0.0 of 6.7 (m = 20, d = 32), -0.5 of 4.4 (m = 100,
    d = 64), but 126 of 163 (m = 20, d = 256): better than FID, and still no substitute for images.
    Raises: EvaluationFailed as `frechet_distance`, and for m < 10.
    Reference: Chong & Forsyth, arXiv:1911.07023.
    """
    m = len(fake)
    _require_images(m, LEAST_FOR_INFINITY, "FID_inf")
    distances = real if isinstance(real, FrechetDistances) else FrechetDistances(real, fake)
    sizes = np.unique(np.linspace(0.7 * m, m, n_points).astype(int))
    values = [float(distances(_subsets(m, int(k), n_subsets, rng)).mean()) for k in sizes]
    return float(np.polynomial.polynomial.polyfit(1 / sizes, values, deg=1)[0])


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """KID: the unbiased squared MMD with k(x, y) = (x.y / d + 1)^3, over all images; it may be slightly negative.

    real (n, d), fake (m, d); n and m may differ.
    Raises: EvaluationFailed for fewer than two images on a side, unequal d, NaN or inf.
    Reference: Binkowski et al., arXiv:1801.01401; with n = m torch-fidelity's value for kid_subset_size=n.
    """
    real, fake = _pair(real, fake, "KID")
    return float(_mean_off_diagonal(_kernel(real, real)) + _mean_off_diagonal(_kernel(fake, fake)) - 2 * _kernel(real, fake).mean())


class KernelDistances:
    """KID of many subsets of one set of generated images, all against the same references. Called with rows (b, k) it gives (b,).

    Raises: EvaluationFailed as `kernel_distance`."""

    def __init__(self, real: Tensor, fake: Tensor) -> None:
        real, fake = _pair(real, fake, "KID")
        self._within_real = _mean_off_diagonal(_kernel(real, real))
        self._within_fake, self._across = _kernel(fake, fake), _kernel(real, fake).mean(0)

    def __call__(self, rows: Tensor) -> Tensor:
        total, diagonal = _sums_within(self._within_fake, rows)
        within = (total - diagonal) / (rows.shape[1] * (rows.shape[1] - 1))
        return self._within_real + within - 2 * self._across[rows].mean(1)


def kernel_distance_of_subsets(
    real: Tensor, fake: Tensor, *, subset_size: int, rng: np.random.Generator | np.random.RandomState, n_subsets: int = 100
) -> tuple[float, float]:
    """Mean and standard deviation of KID over random subsets of both sides, as torch-fidelity reports it.

    With np.random.RandomState(2020) the subsets are torch-fidelity's own. The spread is not a standard error: subsets overlap.
    Raises: EvaluationFailed if a side has fewer images than `subset_size`, or as `kernel_distance`.
    """
    real, fake = _pair(real, fake, "KID")
    _require_images(min(len(real), len(fake)), subset_size, f"KID with subset_size={subset_size}")
    values = []
    for _ in range(n_subsets):
        rows = [torch.as_tensor(rng.choice(len(side), subset_size, replace=False)) for side in (real, fake)]
        values.append(kernel_distance(real[rows[0]], fake[rows[1]]))
    return float(np.mean(values)), float(np.std(values))


def lpips_matrix(generated: PerceptualFeatures, reference: PerceptualFeatures) -> Tensor:
    """LPIPS of every pair, (n, m) float64 on the CPU: |g_i|^2 + |g_j|^2 - 2 g_i.g_j.

    Raises: EvaluationFailed if the images have different sizes, or a value is not finite.
    Reference: Zhang et al., arXiv:1801.03924; equals the lpips package, version 0.1.
    """
    assert generated.backbone_digest == reference.backbone_digest, "features of two backbones have no distance"
    if generated.image_size != reference.image_size:
        (h, w), (h_r, w_r) = generated.image_size, reference.image_size
        raise EvaluationFailed(f"LPIPS needs images of one size, but got {w}x{h} and {w_r}x{h_r} pixels. Load both at one resolution.")
    norms = generated.squared_norms[:, None] + reference.squared_norms
    distances = (norms - 2 * _inner_products(generated.layers, reference.layers)).clamp_min(0).cpu()
    return _require_finite(distances, "LPIPS")


def lpips_between(backbone: PerceptualBackbone, generated: Images, reference: ReferenceImages, references: References) -> Tensor:
    """LPIPS of every pair, (n, m) float64: from cached reference features if they fit the cache, else in blocks of images."""
    n_bytes = backbone.bytes_per_image(reference.images.shape[1:3])
    if n_bytes * max(len(generated), len(reference)) <= references.max_bytes:
        return lpips_matrix(backbone(generated), references.perceptual(backbone, reference))
    block = max(1, references.max_bytes // (2 * n_bytes))
    rows = []
    for i in range(0, len(generated), block):
        g = backbone(generated[i : i + block])
        rows.append(torch.cat([lpips_matrix(g, backbone(reference.images[j : j + block])) for j in range(0, len(reference), block)], 1))
    return torch.cat(rows)


@dataclass(frozen=True)
class LpipsValues:
    """LPIPS of each generated image to the references. `expected` is the mean over all of them: exactly the expectation
    of LPIPS to a random reference. `nearest` is the smallest, `nearest_index` whose it is: closeness, and copying."""

    expected: np.ndarray  # (n,)
    nearest: np.ndarray  # (n,)
    nearest_index: np.ndarray  # (n,) rows of the references


def lpips_values(distances: Tensor) -> LpipsValues:
    """distances (n, m), generated x reference, as `lpips_matrix` gives them."""
    nearest, index = distances.min(1)
    return LpipsValues(distances.mean(1).numpy(), nearest.numpy(), index.numpy())


@dataclass(frozen=True)
class LpipsDiversity:
    """Mean LPIPS over pairs of different generated images: all pairs, and those of one prompt (NaN if no prompt has two)."""

    overall: float
    within_prompt: float


def lpips_diversity(distances: Tensor, prompts: Sequence[object]) -> LpipsDiversity:
    """distances (n, n) among the generated; prompts (n,), whatever tells which image has which prompt.

    Raises: EvaluationFailed for fewer than two images.
    """
    _require_images(len(distances), 2, "diversity")
    assert distances.shape == (len(prompts), len(prompts)), (distances.shape, len(prompts))
    pairs = torch.ones_like(distances, dtype=torch.bool).triu(1)
    same = torch.tensor([[p == q for q in prompts] for p in prompts])
    return LpipsDiversity(float(distances[pairs].mean()), float(distances[pairs & same].mean()))


def copy_threshold(distances: Tensor, *, ratio: float = COPY_RATIO) -> float:
    """Below which LPIPS to its nearest reference a generated image counts as a copy of it: `ratio` times the median, over the
    references, of LPIPS to the nearest other one. It means the same over every network.

    distances (n, n) among the references; NaN for fewer than two, 0 if most have an identical twin: there is no verdict then.
    In the spirit of Carlini et al., arXiv:2301.13188, 4.2, who also compare with how close training images are to one another."""
    if len(distances) < 2:
        return float("nan")
    others = distances.clone().fill_diagonal_(float("inf"))
    return ratio * float(others.min(1).values.median())


def all_black(images: np.ndarray) -> np.ndarray:
    """Which of the uint8 (n, h, w, 3) images show nothing, (n,) bool."""
    return images.max(axis=(1, 2, 3)) <= BLACKEST_VISIBLE


def require_no_black(images: np.ndarray) -> None:
    """Raises: EvaluationFailed if an image is all black. It would be scored as if it were a picture."""
    n_black = int(all_black(images).sum())
    if n_black:
        raise EvaluationFailed(
            f"A generated image must not be all black, but {n_black} of {len(images)} are. The adapter or guidance drove the"
            " latents out of range, or a safety checker is on: try a lower learning rate or guidance."
        )


def _pair(real: Tensor, fake: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    _require_images(min(len(real), len(fake)), 2, metric)
    if real.shape[1] != fake.shape[1]:
        raise EvaluationFailed(f"{metric} needs features of one width, but got {real.shape[1]} and {fake.shape[1]}. Use one backbone.")
    # On the CPU: small next to what a network costs, and not every device has float64.
    return _require_finite(real.detach().cpu().double(), metric), _require_finite(fake.detach().cpu().double(), metric)


def _require_images(n: int, n_least: int, metric: str) -> None:
    if n < n_least:
        way_out = "Raise images_per_prompt or add images."
        raise EvaluationFailed(f"{metric} needs at least {n_least} images on each side, but one has {n}. {way_out}")


def _subsets(m: int, k: int, n_subsets: int, rng: np.random.Generator) -> Tensor:  # -> (n_subsets, k); (1, m) for the whole
    return torch.from_numpy(np.stack([rng.permutation(m)[:k] for _ in range(n_subsets if k < m else 1)]))


def _sums_within(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:  # (m, m), (b, k) -> (b,), (b,)
    """The sums over the sub-matrices of these rows and columns, and over their diagonals, without copying them out."""
    chosen = torch.zeros(len(rows), len(matrix), dtype=matrix.dtype).scatter_(1, rows, 1)
    return (chosen @ matrix * chosen).sum(1), chosen @ matrix.diagonal()


def _require_finite(values: Tensor, metric: str) -> Tensor:
    n_bad = int((~values.isfinite()).sum())
    if n_bad:
        raise EvaluationFailed(f"{metric} needs finite features, but {n_bad} values are NaN or infinite. Check the backbone's weight file.")
    return values


def _covariance_factor(x: Tensor) -> Tensor:
    """A (min(n, d), d) with A'A = cov(x)."""
    a = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return torch.linalg.qr(a, mode="r").R if a.shape[0] > a.shape[1] else a


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(k: Tensor) -> Tensor:
    n = len(k)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))


def _inner_products(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> Tensor:
    products = torch.zeros(len(left[0]), len(right[0]), dtype=torch.float64, device=left[0].device)
    # float32 within a chunk and float64 between them err by 1e-7, in a third of the time. On a GPU float32 may mean TF32.
    dtype = torch.float32 if products.device.type == "cpu" else torch.float64
    for g, r in zip(left, right, strict=True):
        for g_part, r_part in zip(g.split(COLUMNS_PER_CHUNK, 1), r.split(COLUMNS_PER_CHUNK, 1), strict=True):
            products += g_part.to(dtype) @ r_part.to(dtype).T
    return products
