"""The feature networks against the packages they come from: random trunks, saved to files that both sides load."""

import pickle
import types
import warnings

import lpips
import numpy as np
import pytest
import torch
import torch_fidelity
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from trainables import features
from trainables.embedded.networks import PerceptualNet, PooledNet, load_perceptual, save_network
from trainables.errors import EvaluationFailed, ModelError
from trainables.features import ReferenceImages, References, perceptual_backbone, pooled_backbone
from trainables.metrics import frechet_distance, kernel_distance_of_subsets, lpips_between, lpips_matrix

ALEXNET_FEATURES = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}  # layer: (out, in, kernel)


def pictures(n: int, *, size: tuple[int, int] = (64, 64), seed: int = 0) -> np.ndarray:
    """Smooth random colours: white noise would saturate every distance."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="session")
def squeeze_file(tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1-random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def alex_file(tmp_path_factory):
    generator, state = torch.Generator().manual_seed(0), {}
    for i, (c_out, c_in, k) in ALEXNET_FEATURES.items():
        state[f"features.{i}.weight"] = torch.randn(c_out, c_in, k, k, generator=generator) * (2 / (c_in * k * k)) ** 0.5
        state[f"features.{i}.bias"] = torch.randn(c_out, generator=generator) * 0.1
    path = tmp_path_factory.mktemp("weights") / "alexnet-random.safetensors"
    save_file(state, path)
    return path


def vgg16_features(**_):
    """torchvision's VGG-16 as far as LPIPS uses it: the classifier alone takes seconds to fill with random numbers."""
    return types.SimpleNamespace(features=torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]))


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory):
    """The convolutions alone: VGG's classifier has 480 MB and no part in LPIPS."""
    generator, state = torch.Generator().manual_seed(0), {}
    shapes = {name: tuple(value.shape) for name, value in vgg16_features().features.state_dict().items()}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shapes[name.replace("bias", "weight")][1:]))
        state[f"features.{name}"] = torch.randn(shape, generator=generator) * ((2 / fan_in) ** 0.5 if "weight" in name else 0.1)
    path = tmp_path_factory.mktemp("weights") / "vgg16-random.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def embedded_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_network(PerceptualNet().eval(), folder / "perceptual")
        save_network(PooledNet().eval(), folder / "pooled")
    return folder


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        # Keep the weights it begins with: the only way to make one without a file or a download.
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        path = tmp_path_factory.mktemp("weights") / "inception-random.pth"
        torch.save({}, path)
        state = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=path).state_dict()
    generator = torch.Generator().manual_seed(0)
    for weight in state.values():
        if weight.dim() == 4:  # a scale at which activations survive 48 layers
            weight.copy_(torch.randn(weight.shape, generator=generator) * (2 / weight[0].numel()) ** 0.5)
    torch.save(state, path)
    return path


def package_lpips(model: lpips.LPIPS, a: np.ndarray, b: np.ndarray) -> torch.Tensor:
    """(n, m) by the package, pair by pair."""
    a, b = (torch.cat([lpips.im2tensor(image) for image in images]) for images in (a, b))
    with torch.no_grad():
        return torch.stack([model(x[None].expand_as(b), b).flatten() for x in a]).double()


@pytest.mark.parametrize("size", [(64, 64), (96, 72)])
def test_squeeze_equals_the_lpips_package_in_its_ordinary_use(size, squeeze_file, tmp_path, monkeypatch):
    # The package finds the same trunk where torchvision would have downloaded it to.
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    published = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    (checkpoints / published).write_bytes(squeeze_file.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net="squeeze", verbose=False)
    backbone = perceptual_backbone("lpips:squeeze", weights=squeeze_file)
    a, b = pictures(3, size=size, seed=1), pictures(4, size=size, seed=2)
    ours, theirs = lpips_matrix(backbone(a), backbone(b)), package_lpips(package, a, b)
    assert theirs.min() > 0.01
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_alex_and_vgg_equal_the_lpips_package(net, request, monkeypatch):
    monkeypatch.setattr(torchvision.models, "vgg16", vgg16_features)
    path = request.getfixturevalue(f"{net}_file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    named = {key.split(".", 1)[1]: key for key in package.net.state_dict()}
    package.net.load_state_dict({named[k.removeprefix("features.")]: v for k, v in load_file(path).items()})
    backbone = perceptual_backbone(f"lpips:{net}", weights=path)
    a, b = pictures(3, seed=1), pictures(4, seed=2)
    ours, theirs = lpips_matrix(backbone(a), backbone(b)), package_lpips(package, a, b)
    assert theirs.min() > 0.01
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


def test_embedded_perceptual_is_the_written_formula(embedded_folder):
    backbone = perceptual_backbone("embedded:perceptual", weights=embedded_folder)
    network, (x, y) = load_perceptual(embedded_folder), pictures(2)
    maps = [network(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1) for image in (x, y)]
    expected = 0.0
    for fx, fy, lin in zip(*maps, network.lins, strict=True):
        nx, ny = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (fx, fy))
        expected += (lin.view(1, -1, 1, 1) * (nx - ny).square()).sum(1).mean().item()
    assert expected > 1e-3
    assert lpips_matrix(backbone(x[None]), backbone(y[None])).item() == pytest.approx(expected, abs=1e-6)


def test_lpips_of_an_image_to_itself_is_zero_and_of_a_pair_symmetric(alex_file):
    of_four = perceptual_backbone("lpips:alex", weights=alex_file)(pictures(4))
    distances = lpips_matrix(of_four, of_four)
    assert distances.diagonal().max() < 1e-6
    assert torch.allclose(distances, distances.T, atol=1e-6)
    assert torch.allclose(lpips_matrix(of_four[1:3], of_four), distances[1:3], atol=1e-6)


def test_inception_equals_torch_fidelitys_extractor(inception_file):
    theirs = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=str(inception_file))
    images = pictures(2)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))[0]
    ours = pooled_backbone("inception", weights=inception_file)(images)
    assert ours.shape == (2, 2048)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert (ours[0] - ours[1]).abs().max() > 0.01 * expected.abs().max()


def test_fid_and_kid_of_pictures_are_those_of_torch_fidelity(inception_file, tmp_path):
    """From files to numbers, as a user calls the package: the same pictures, the same weights, nothing else in common."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 48, 80, 3), np.uint8)
    # Far apart: the package sums kernels near 1 in float32, so a KID of 3e-4 would have three digits there.
    sets = {"real": pictures(7, size=(48, 80), seed=1), "fake": noise}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "fake"),
        input2=str(tmp_path / "real"),
        cuda=False,
        fid=True,
        kid=True,
        kid_subsets=3,
        kid_subset_size=5,
        feature_extractor_weights_path=str(inception_file),
        cache=False,
        batch_size=4,
        save_cpu_ram=True,  # no processes of its own for reading
        verbose=False,
    )
    backbone = pooled_backbone("inception", weights=inception_file)
    real, fake = backbone(sets["real"]), backbone(sets["fake"])
    kid, spread = kernel_distance_of_subsets(fake, real, subset_size=5, n_subsets=3, rng=np.random.RandomState(2020))
    assert frechet_distance(real, fake) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert (kid, spread) == pytest.approx((theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]), rel=1e-4)


def test_batching_changes_no_feature(embedded_folder, monkeypatch):
    images = pictures(5)
    perceptual = perceptual_backbone("embedded:perceptual", weights=embedded_folder)
    pooled = pooled_backbone("embedded:pooled", weights=embedded_folder)
    together, vectors = perceptual(images), pooled(images)
    monkeypatch.setitem(features.PIXELS_PER_BATCH, "cpu", 2 * 64 * 64)  # 2, 2, 1
    for whole, batched in zip(together.layers, perceptual(images).layers, strict=True):
        assert torch.allclose(whole, batched, atol=1e-6)
    assert torch.allclose(vectors, pooled(images), atol=1e-5)
    assert len(together) == len(vectors) == 5


def test_references_are_computed_once_per_backbone_and_image_set(embedded_folder):
    perceptual = perceptual_backbone("embedded:perceptual", weights=embedded_folder)
    pooled = pooled_backbone("embedded:pooled", weights=embedded_folder)
    references, images = References(), ReferenceImages(pictures(3))
    first = references.perceptual(perceptual, images)
    assert references.perceptual(perceptual, ReferenceImages(pictures(3))) is first
    assert references.perceptual(perceptual, ReferenceImages(pictures(3, seed=1))) is not first
    assert references.pooled(pooled, images) is references.pooled(pooled, images)
    assert references.n_bytes == 2 * first.n_bytes + references.pooled(pooled, images).numel() * 4


def test_references_forget_the_least_recently_used_beyond_their_bytes(embedded_folder):
    pooled = pooled_backbone("embedded:pooled", weights=embedded_folder)
    a, b, c = (ReferenceImages(pictures(2, seed=s)) for s in range(3))
    references = References(max_bytes=2 * pooled(a.images).numel() * 4)
    held_a, held_b = references.pooled(pooled, a), references.pooled(pooled, b)
    references.pooled(pooled, a)
    references.pooled(pooled, c)
    assert references.pooled(pooled, a) is held_a
    assert references.pooled(pooled, b) is not held_b
    assert references.n_bytes <= references.max_bytes


def test_lpips_in_blocks_equals_lpips_from_the_cache(embedded_folder):
    backbone = perceptual_backbone("embedded:perceptual", weights=embedded_folder)
    generated, reference = pictures(3, seed=1), ReferenceImages(pictures(5, seed=2))
    roomy, tight = References(), References(max_bytes=4 * backbone.bytes_per_image((64, 64)))  # blocks of 2
    whole = lpips_between(backbone, generated, reference, roomy)
    assert whole.shape == (3, 5)
    assert torch.allclose(lpips_between(backbone, generated, reference, tight), whole, atol=1e-6)
    assert roomy.n_bytes > 0 == tight.n_bytes


def test_digests_name_the_weights_and_loading_leaves_the_global_generator_alone(embedded_folder, squeeze_file):
    before = torch.random.get_rng_state()
    digests = {
        perceptual_backbone("embedded:perceptual", weights=embedded_folder).digest,
        pooled_backbone("embedded:pooled", weights=embedded_folder).digest,
        perceptual_backbone("lpips:squeeze", weights=squeeze_file).digest,
    }
    assert len(digests) == 3
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("load", "name", "file_name"),
    [
        (perceptual_backbone, "lpips:alex", "alexnet"),
        (perceptual_backbone, "lpips:vgg", "vgg16"),
        (perceptual_backbone, "lpips:squeeze", "squeezenet1_1"),
        (pooled_backbone, "inception", "weights-inception"),
    ],
)
def test_a_missing_weight_file_is_named_and_never_downloaded(load, name, file_name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=rf"{name}.*hub/checkpoints/{file_name}.*not there"):
        load(name)


def test_an_unknown_backbone_is_an_error_that_offers_the_nearest():
    with pytest.raises(ModelError, match="'lpips:alx'.*Did you mean lpips:alex"):
        perceptual_backbone("lpips:alx")
    with pytest.raises(ModelError, match="'embedded:perceptual'"):
        pooled_backbone("embedded:perceptual")


def test_a_file_whose_name_promises_another_hash_is_refused(squeeze_file, tmp_path):
    path = tmp_path / "squeezenet1_1-b8a52dc0.pth"
    path.write_bytes(squeeze_file.read_bytes())
    with pytest.raises(ModelError, match="begins with b8a52dc0, but it begins with [0-9a-f]{8}"):
        perceptual_backbone("lpips:squeeze", weights=path)


def test_a_wrong_hash_is_found_where_torch_hub_keeps_its_files(squeeze_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").write_bytes(squeeze_file.read_bytes())
    with pytest.raises(ModelError, match="begins with b8a52dc0, but it begins with [0-9a-f]{8}") as told:
        perceptual_backbone("lpips:squeeze")
    assert "\n" not in str(told.value)


class Payload:
    """What a hostile pickle would do on loading."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def _pickled(path, executed):
    path.write_bytes(pickle.dumps(Payload(executed), protocol=2))


def _truncated(path, executed):
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])


def _of_another_network(path, executed):
    torch.save({"features.0.weight": torch.zeros(3)}, path)


def _no_state_dict(path, executed):
    torch.save([1, 2], path)


@pytest.mark.parametrize("damage", [_pickled, _truncated, _of_another_network, _no_state_dict])
@pytest.mark.parametrize(("load", "name"), [(perceptual_backbone, "lpips:squeeze"), (pooled_backbone, "inception")])
def test_a_damaged_or_hostile_weight_file_is_refused_and_not_executed(damage, load, name, tmp_path):
    path, executed = tmp_path / "weights.pth", tmp_path / "executed"
    damage(path, executed)
    with pytest.raises(ModelError, match=r"^[^\n]*weights\.pth[^\n]*$"):
        load(name, weights=path)
    assert not executed.exists()


def test_a_missing_or_damaged_embedded_network_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"pooled\.safetensors.*does not exist"):
        pooled_backbone("embedded:pooled", weights=tmp_path)
    (tmp_path / "perceptual.safetensors").write_bytes(b"not safetensors")
    (tmp_path / "perceptual.json").write_text('{"channels": [8]}')
    with pytest.raises(ModelError, match=r"perceptual\.safetensors"):
        perceptual_backbone("embedded:perceptual", weights=tmp_path)


def test_images_too_few_or_too_small_are_refused(squeeze_file):
    backbone = perceptual_backbone("lpips:squeeze", weights=squeeze_file)
    with pytest.raises(EvaluationFailed, match="0 of 64x64"):
        backbone(pictures(0))
    with pytest.raises(EvaluationFailed, match="2 of 48x16"):
        backbone(pictures(2, size=(16, 48)))
