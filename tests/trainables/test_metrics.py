"""The distances against the public packages, against scipy, and against cases done by hand."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from trainables.errors import EvaluationFailed
from trainables.features import PerceptualFeatures
from trainables.metrics import (
    FrechetDistances,
    KernelDistances,
    all_black,
    copy_threshold,
    frechet_distance,
    frechet_distance_at_infinity,
    kernel_distance,
    kernel_distance_of_subsets,
    lpips_diversity,
    lpips_matrix,
    lpips_values,
    require_no_black,
)


def pooled_features(n: int, d: int, *, seed: int, shift: float = 0.0) -> torch.Tensor:
    """(n, d) non-negative float32 with correlated columns, as after a last ReLU."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(d, d)) / d**0.5
    return torch.from_numpy(np.maximum(rng.normal(size=(n, d)) @ mixing + 0.3 + shift, 0).astype(np.float32))


def perceptual_features(*rows: list[float]) -> PerceptualFeatures:
    """One layer whose weighted vectors are given."""
    return PerceptualFeatures("made by hand", (8, 8), (torch.tensor(rows),))


def torch_fidelity_fid(real: torch.Tensor, fake: torch.Tensor) -> float:
    statistics = [fid_features_to_statistics(x.double()) for x in (real, fake)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def torch_fidelity_kid(real: torch.Tensor, fake: torch.Tensor, **options) -> tuple[float, float]:
    values = kid_features_to_metric(real.double(), fake.double(), verbose=False, kid_kernel="poly", **options)
    return values["kernel_inception_distance_mean"], values["kernel_inception_distance_std"]


@pytest.mark.parametrize(("n", "m", "d"), [(151, 20, 256), (64, 64, 256), (300, 20, 128), (300, 200, 64), (2, 2, 16)])
def test_frechet_distance_equals_torch_fidelity(n, m, d):
    real, fake = pooled_features(n, d, seed=1), pooled_features(m, d, seed=2, shift=0.1)
    assert frechet_distance(real, fake) == pytest.approx(torch_fidelity_fid(real, fake), rel=1e-4)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (8, 5), (40, 5)])
def test_frechet_distance_equals_the_formula_with_scipys_matrix_root(n, m):
    real, fake = pooled_features(n, 12, seed=1).double(), pooled_features(m, 12, seed=2).double()
    s1, s2 = np.cov(real.numpy(), rowvar=False), np.cov(fake.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = (real.mean(0) - fake.mean(0)).square().sum().item() + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_two_normals_by_hand():
    # One dimension: (mu1 - mu2)^2 + (sigma1 - sigma2)^2, here with means 0 and 5, sigmas sqrt(2) and 3 sqrt(2).
    real, fake = torch.tensor([[-1.0], [1.0]]), torch.tensor([[2.0], [8.0]])
    assert frechet_distance(real, fake) == pytest.approx(5**2 + (2**0.5 - 3 * 2**0.5) ** 2)


@pytest.mark.parametrize("n", [5, 100])
def test_frechet_distance_is_zero_to_itself_symmetric_and_blind_to_rotation(n):
    real, fake = pooled_features(n, 32, seed=1), pooled_features(30, 32, seed=2)
    rotation = torch.from_numpy(scipy.linalg.qr(np.random.default_rng(3).normal(size=(32, 32)))[0])
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(real, fake) == pytest.approx(frechet_distance(fake, real), rel=1e-12)
    assert frechet_distance(real.double() @ rotation, fake.double() @ rotation) == pytest.approx(frechet_distance(real, fake), rel=1e-9)


def test_frechet_distance_at_infinity_takes_the_small_sample_bias_out():
    # Both sides follow one law, so the truth is 0; 40 images against 2000 give bias.
    real, fakes = pooled_features(2000, 32, seed=1), [pooled_features(40, 32, seed=s) for s in range(2, 10)]
    extrapolated = [frechet_distance_at_infinity(real, fake, rng=np.random.default_rng(0)) for fake in fakes]
    assert abs(np.mean(extrapolated)) < np.mean([frechet_distance(real, fake) for fake in fakes]) / 2
    assert extrapolated[0] == frechet_distance_at_infinity(real, fakes[0], rng=np.random.default_rng(0))
    assert extrapolated[0] != frechet_distance_at_infinity(real, fakes[0], rng=np.random.default_rng(1))


@pytest.mark.parametrize(("n", "m", "k"), [(151, 20, 7), (15, 40, 30)])
def test_distances_of_subsets_are_those_of_the_rows_alone(n, m, k):
    real, fake = pooled_features(n, 48, seed=1), pooled_features(m, 48, seed=2)
    rows = torch.from_numpy(np.stack([np.random.default_rng(i).choice(m, k, replace=False) for i in range(3)]))
    assert FrechetDistances(real, fake)(rows).tolist() == pytest.approx([frechet_distance(real, fake[r]) for r in rows], rel=1e-6)
    assert KernelDistances(real, fake)(rows).tolist() == pytest.approx([kernel_distance(real, fake[r]) for r in rows], rel=1e-9)


def test_kernel_distance_of_equal_counts_equals_torch_fidelitys_full_sample():
    real, fake = pooled_features(60, 256, seed=1), pooled_features(60, 256, seed=2, shift=0.1)
    expected, _ = torch_fidelity_kid(real, fake, kid_subsets=1, kid_subset_size=60)
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_of_subsets_equals_torch_fidelity_with_its_default_seed():
    real, fake = pooled_features(151, 256, seed=1), pooled_features(20, 256, seed=2, shift=0.1)
    expected = torch_fidelity_kid(real, fake, kid_subsets=10, kid_subset_size=15)
    assert kernel_distance_of_subsets(
        real, fake, subset_size=15, n_subsets=10, rng=np.random.RandomState(2020)
    ) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_of_unequal_counts_by_hand():
    # d = 1: k(x, y) = (x y + 1)^3. Real pairs: k(0,1) = 1; fake pairs: k(1,1) = 8 three times; cross: k(0,1) = 1, k(1,1) = 8.
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.0], [1.0]])
    assert kernel_distance(real, fake) == pytest.approx(1 + 8 - 2 * 4.5)


def test_kernel_distance_is_symmetric_and_centres_on_zero_for_one_law():
    draws = [kernel_distance(pooled_features(30, 16, seed=s), pooled_features(20, 16, seed=1000 + s)) for s in range(40)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / len(draws) ** 0.5
    assert min(draws) < 0 < max(draws)
    real, fake = pooled_features(30, 16, seed=1), pooled_features(20, 16, seed=2)
    assert kernel_distance(real, fake) == pytest.approx(kernel_distance(fake, real), rel=1e-12)


def test_lpips_values_by_hand():
    generated, reference = perceptual_features([0.0, 0.0], [3.0, 4.0]), perceptual_features([3.0, 4.0], [0.0, 1.0], [0.0, 0.0])
    distances = lpips_matrix(generated, reference)
    assert distances.tolist() == [[25, 1, 0], [0, 18, 25]]
    values = lpips_values(distances)
    assert values.expected.tolist() == pytest.approx([26 / 3, 43 / 3])
    assert values.nearest.tolist() == [0, 0]
    assert values.nearest_index.tolist() == [2, 0]


def test_lpips_adds_up_over_layers_of_more_than_one_chunk():
    rng = np.random.default_rng(0)
    layers = [torch.from_numpy(rng.normal(size=(5, d)).astype(np.float32)) for d in (20000, 7)]
    features = PerceptualFeatures("made by hand", (8, 8), tuple(layers))
    joined = torch.cat(layers, 1).double()
    expected = (joined[:, None] - joined[None]).square().sum(-1)
    assert torch.allclose(lpips_matrix(features, features), expected, rtol=1e-6, atol=1e-2)


def test_diversity_is_the_mean_over_different_images_and_within_prompts():
    distances = torch.tensor([[0.0, 1, 2], [1, 0, 6], [2, 6, 0]])
    diversity = lpips_diversity(distances, ["smile", "smile", "wink"])
    assert (diversity.overall, diversity.within_prompt) == (3, 1)
    assert np.isnan(lpips_diversity(distances, ["a", "b", "c"]).within_prompt)


def test_a_copy_is_nearer_than_half_of_what_the_references_are_from_each_other():
    # Nearest others: 1, 1, 3, so the median is 1.
    assert copy_threshold(torch.tensor([[0.0, 1, 4], [1, 0, 3], [4, 3, 0]])) == 0.5
    assert copy_threshold(torch.tensor([[0.0, 0, 4], [0, 0, 3], [4, 3, 0]])) == 0
    assert np.isnan(copy_threshold(torch.zeros(1, 1)))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_a_distance_refuses_what_it_cannot_score(distance):
    good = pooled_features(5, 4, seed=0)
    with pytest.raises(EvaluationFailed, match="at least 2 images.*has 1"):
        distance(good, good[:1])
    with pytest.raises(EvaluationFailed, match="4 and 3"):
        distance(good, good[:, :3])
    with pytest.raises(EvaluationFailed, match="1 values are NaN or infinite"):
        distance(good, good.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(float("inf"))))


def test_subsets_and_extrapolation_refuse_too_few_images():
    few = pooled_features(5, 4, seed=0)
    with pytest.raises(EvaluationFailed, match="subset_size=6.*has 5"):
        kernel_distance_of_subsets(few, few, subset_size=6, rng=np.random.default_rng(0))
    with pytest.raises(EvaluationFailed, match="at least 10 images.*has 5"):
        frechet_distance_at_infinity(few, few, rng=np.random.default_rng(0))


def test_lpips_refuses_other_sizes_and_values_that_are_not_finite():
    here, there = perceptual_features([0.0]), PerceptualFeatures("made by hand", (16, 8), (torch.zeros(1, 1),))
    with pytest.raises(EvaluationFailed, match="8x8 and 8x16"):
        lpips_matrix(here, there)
    with pytest.raises(EvaluationFailed, match="LPIPS needs finite"):
        lpips_matrix(here, perceptual_features([float("nan")]))


def test_an_all_black_image_is_found_and_refused():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    images[0, 4, 4] = images[2] = 40
    assert all_black(images).tolist() == [False, True, False]
    require_no_black(images[[0, 2]])
    with pytest.raises(EvaluationFailed, match="1 of 3"):
        require_no_black(images)
