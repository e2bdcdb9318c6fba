"""FID and LPIPS as this project computes them against torch-fidelity's and the lpips package's ways, on the same inputs.

    python -m benchmarks.metrics [--rounds 3] [--pairs 40] [--sizes 64 224] [--write]

Random features and a random AlexNet: time does not depend on the weights. It says nothing about embedded features, nor
about the time to generate pictures. The package's LPIPS runs on a sample of the pairs, and its time is scaled to all of
them (`--pairs 0`: all); a second column gives the package a whole row of references per call, which few users write."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from benchmarks.machine import machine, median_ratio, seconds_in_turn
from benchmarks.results import add_write_flag, report
from trainables.features import PerceptualBackbone, ReferenceImages, References, perceptual_backbone
from trainables.metrics import frechet_distance, lpips_between

N_GENERATED, N_REFERENCES, N_FEATURES = 20, 151, 2048


def main() -> None:
    arguments = _arguments()
    facts = machine()
    torch.manual_seed(0)
    results = [fid_result(n_rounds=arguments.rounds)]
    with tempfile.TemporaryDirectory() as folder:
        package = random_alexnet()
        backbone = perceptual_backbone("lpips:alex", weights=saved_trunk(package, Path(folder)))
        for size in arguments.sizes:
            print(f"LPIPS at {size} pixels", flush=True)
            results.append(lpips_result(package, backbone, size=size, n_rounds=arguments.rounds, n_pairs=arguments.pairs))
    lines = [line for one in results for line in _told(one)]
    report("python -m benchmarks.metrics", "FID and LPIPS", lines, write=arguments.write, facts=facts)


def fid_result(*, n_rounds: int) -> dict:
    """20 against 151 features of 2048: our Gram form, torch-fidelity's statistics (references ready) and matrix root."""
    real, fake = random_features(N_REFERENCES, seed=0), random_features(N_GENERATED, seed=1)
    references = fid_features_to_statistics(real.double())

    def theirs() -> float:
        return fid_statistics_to_metric(fid_features_to_statistics(fake.double()), references, False)["frechet_inception_distance"]

    values, seconds = timed({"torch-fidelity": theirs, "ours": lambda: frechet_distance(real, fake)}, n_rounds=n_rounds)
    difference = abs(values["ours"] / values["torch-fidelity"] - 1)
    return result(f"FID {N_GENERATED} x {N_REFERENCES}, {N_FEATURES}-d", seconds, relative_difference=difference)


def lpips_result(package: lpips.LPIPS, backbone: PerceptualBackbone, *, size: int, n_rounds: int, n_pairs: int) -> dict:
    """20 x 151 images: ours with cached references, generated ones from pixels; the package from pixels, as it must."""
    generated, images = random_images(N_GENERATED, size, seed=1), ReferenceImages(random_images(N_REFERENCES, size, seed=0))
    references, start = References(), time.perf_counter()
    references.perceptual(backbone, images)
    once_s = time.perf_counter() - start
    chosen = sampled_pairs(n_pairs)
    rows = range(max(1, round(len(chosen) / N_REFERENCES)))
    a, b = as_package_input(generated), as_package_input(images.images)
    sides = {
        "lpips, pair by pair": lambda: torch.stack([package(a[i : i + 1], b[j : j + 1]).flatten() for i, j in chosen]),
        "lpips, row by row": lambda: torch.stack([package(a[i : i + 1].expand_as(b), b).flatten() for i in rows]),
        "ours": lambda: lpips_between(backbone, generated, images, references),
    }
    with torch.no_grad():
        values, seconds = timed(sides, n_rounds=n_rounds)
    difference = max(abs(float(value) - float(values["ours"][i, j])) for value, (i, j) in zip(values["lpips, pair by pair"], chosen))
    scales = {"lpips, pair by pair": N_GENERATED * N_REFERENCES / len(chosen), "lpips, row by row": N_GENERATED / len(rows), "ours": 1}
    scaled = {name: [s * scales[name] for s in seconds[name]] for name in seconds}
    name = f"LPIPS {N_GENERATED} x {N_REFERENCES}, AlexNet, {size}x{size}"
    return result(name, scaled, absolute_difference=difference, n_pairs_of_the_package=len(chosen), our_references_once_s=once_s)


def timed(sides: dict[str, Callable], *, n_rounds: int) -> tuple[dict, dict[str, list[float]]]:
    """The last value of every side, and the seconds of every round."""
    values: dict = {}
    keeping = {name: lambda name=name, side=side: values.__setitem__(name, side()) for name, side in sides.items()}
    return values, seconds_in_turn(keeping, n_rounds=n_rounds)


def result(name: str, seconds: dict[str, list[float]], **more: float) -> dict:
    """Medians, and how many times faster ours is than each other side."""
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratios = {side: median_ratio(values, seconds["ours"]) for side, values in seconds.items() if side != "ours"}
    return {"name": name, "n_rounds": len(seconds["ours"]), "median_s": medians, "times_faster": ratios, **more}


def random_alexnet() -> lpips.LPIPS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated name
        return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)


def saved_trunk(package: lpips.LPIPS, folder: Path) -> Path:
    """The package's trunk as torchvision would have published it."""
    path = folder / "alexnet-random.pth"
    torch.save({"features." + key.split(".", 1)[1]: value for key, value in package.net.state_dict().items()}, path)
    return path


def random_features(n: int, *, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, N_FEATURES), np.float32))


def random_images(n: int, size: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8)


def as_package_input(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def sampled_pairs(n_pairs: int) -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(N_GENERATED) for j in range(N_REFERENCES)]
    chosen = np.random.default_rng(0).choice(len(pairs), n_pairs or len(pairs), replace=False)
    return [pairs[k] for k in sorted(chosen)]


def _told(one: dict) -> list[str]:
    lines = [f"{one['name']}: medians of {one['n_rounds']} rounds"]
    for side, seconds in one["median_s"].items():
        faster = f"   ours is {one['times_faster'][side]:.0f}x faster" if side in one["times_faster"] else ""
        lines.append(f"  {side:22s}{seconds:10.4f} s{faster}")
    rest = {k: v for k, v in one.items() if k not in ("name", "n_rounds", "median_s", "times_faster")}
    return [*lines, "  " + ", ".join(f"{k.replace('_', ' ')} {v:.2g}" for k, v in rest.items())]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every side (default 3)")
    parser.add_argument("--pairs", type=int, default=40, help="pairs that the lpips package computes; 0: all 3020 (default 40)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 224], help="image sides in pixels (default 64 224)")
    add_write_flag(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
