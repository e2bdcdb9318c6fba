"""Is the embedded family worth sweeping? Does its base follow prompts, do adapters beat it on the subject, and do epochs, captions,
rank and guidance matter? Every value with its n and a 95 % bootstrap interval over pictures.

    python -m benchmarks.embedded_family [--epochs 12] [--images 8] [--write]

Attribute accuracy is judged by the embedded pooled network, which was trained on the same renderer: it says that words reach the
picture, not that people would agree. Every adapter is trained with several seeds: one training says little about a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import bootstrap
from scipy.stats import t as student_t

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from trainables.config import EvalConfig, TrainConfig
from trainables.embedded.networks import load_pooled
from trainables.embedded.people import WORDS
from trainables.evaluate import EvaluationRequest, EvaluationResult, Evaluator
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.lora import Adapter
from trainables.pack import Pack
from trainables.subject import load_subject

N_RESAMPLES = 1000
SEED = 0
SEEDS = (0, 1, 2)
REFERENCE, NO_ADAPTER = "caption v2", "no adapter"
VARIANTS = {
    "caption v1": TrainConfig(caption="v1"),
    REFERENCE: TrainConfig(),
    "caption v3": TrainConfig(caption="v3"),
    "caption v4": TrainConfig(caption="v4"),
    "rank 2": TrainConfig(rank=2, alpha=2),
    "rank 64": TrainConfig(rank=64, alpha=64),
    "learning rate 1e-4": TrainConfig(learning_rate=1e-4),
    "learning rate 5e-3": TrainConfig(learning_rate=5e-3),
}
EARLIER_EPOCHS = (1, 3, 6)
GUIDANCES = (1.0, 2.0, 7.5, 12.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_family", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=8, help="pictures per prompt")
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    frozen = FrozenWork()
    lines = [*prompt_following(frozen, n_images=arguments.images), "", *adapters(frozen, epochs=arguments.epochs, n_images=arguments.images)]
    report("python -m benchmarks.embedded_family", "Is the embedded family worth sweeping?", lines, write=arguments.write, facts=facts)


def prompt_following(frozen: FrozenWork, *, n_images: int) -> list[str]:
    """Share of generated pictures that show the attribute word of their prompt, per attribute, beside chance."""
    network = load_pooled().eval()
    lines = [f"prompt following, guidance 5, {n_images} pictures per word: accuracy [95 %], chance"]
    for model, style in (("embedded:base", "drawing"), ("embedded:base", "photo"), ("embedded:realistic", "photo")):
        parts = frozen.parts(model, None, "float32")
        lines.append(f"  {model}, {style}")
        for attribute, words in WORDS.items():
            # Captions name make-up where it is and nothing where it is not.
            prompts = [f"person, {style}" if word == "no make-up" else f"person, {style}, {word}" for word in words]
            sets = [ImageSet(None, EvalConfig(prompts=(prompt,), images_per_prompt=n_images, guidance=5.0), "") for prompt in prompts]
            shown = torch.cat([torch.from_numpy(i) for i in generate(parts, sets, frozen=frozen)]).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.no_grad():
                guessed = network.attribute_logits(shown)[attribute].argmax(1)
            right = (guessed == torch.arange(len(words)).repeat_interleave(n_images)).numpy().astype(float)
            lines.append(f"    {attribute:12} {interval(right)}   chance {1 / len(words):.2f}")
    return lines


def adapters(frozen: FrozenWork, *, epochs: int, n_images: int) -> list[str]:
    """Metrics of the control and of adapters that differ from the reference in one value each, every one trained with each of SEEDS."""
    subject = load_subject("embedded:subject")
    trained = {}
    for seed in SEEDS:
        trained |= train(frozen, {(name, seed): replace(config, train_seed=seed) for name, config in VARIANTS.items()}, epochs=epochs)
    plain = EvalConfig(images_per_prompt=n_images)
    wanted: dict[str, tuple[str, int, EvalConfig]] = {NO_ADAPTER: ("", 0, plain)}
    wanted |= {f"{REFERENCE}, epoch {e}": (REFERENCE, e, plain) for e in EARLIER_EPOCHS if e < epochs}
    wanted |= {name: (name, epochs, plain) for name in VARIANTS}
    wanted |= {f"{REFERENCE}, guidance {g:g}": (REFERENCE, epochs, replace(plain, guidance=g)) for g in GUIDANCES}
    requests = [
        EvaluationRequest(f"{name}#{seed}", trained.get((variant, seed, epoch)), config, subject)
        for name, (variant, epoch, config) in wanted.items()
        for seed in (SEEDS if variant else SEEDS[:1])
    ]
    print(f"scoring {len(requests)} image sets", flush=True)
    results = {result.key: result for result in Evaluator(frozen).evaluate(requests)}
    rows = {name: [results[f"{name}#{seed}"] for seed in SEEDS if f"{name}#{seed}" in results] for name in wanted}
    head = (
        f"adapters on the subject: {len(SEEDS)} train seeds, {plain.n_images} pictures each, 151 references, {epochs} epochs, guidance {plain.guidance:g};"
        f" differences from {REFERENCE!r}, paired by seed (and picture), 95 % interval, * where it leaves out 0"
    )
    return [head, *(described(name, found, rows[REFERENCE]) for name, found in rows.items())]


def train(frozen: FrozenWork, configs: dict[tuple[str, int], TrainConfig], *, epochs: int) -> dict[tuple[str, int, int], Adapter]:
    """The adapters by name, seed and epoch; the trainings share one pack."""
    subject, stored = load_subject("embedded:subject"), {}
    pack = Pack(frozen.parts("embedded:base", None, "float32"), frozen)
    for (name, seed), config in configs.items():
        pack.add(f"{name}#{seed}", config, subject)
    for epoch in range(1, epochs + 1):
        pack.advance()
        stored |= {(*key, epoch): pack.adapter(f"{key[0]}#{key[1]}") for key in configs if f"{key[0]}#{key[1]}" in pack.keys}
        print(f"seed {next(iter(configs))[1]}: epoch {epoch} of {epochs}", flush=True)
    return stored


def described(name: str, found: list[EvaluationResult], reference: list[EvaluationResult]) -> str:
    """A variant's line: means over seeds, and its paired differences from the reference."""
    words = [f"  {name:26}"]
    for metric, digits in (("lpips", 3), ("fid", 1), ("kid", 3)):
        values = np.array([result.values[metric] for result in found])
        words.append(f"{metric.upper()} {values.mean():7.{digits}f}" + (f" ({values.min():.{digits}f} to {values.max():.{digits}f})" if len(values) > 1 else ""))
        if found is not reference:
            low, high = difference_interval(metric, found, reference)
            mark = "*" if low > 0 or high < 0 else " "
            words.append(f"difference [{low:+.{digits}f}, {high:+.{digits}f}]{mark}")
    return "  ".join(words)


def difference_interval(metric: str, found: list[EvaluationResult], reference: list[EvaluationResult]) -> tuple[float, float]:
    """Student's t over the seeds for values of whole sets; for LPIPS, which has a value per picture, a bootstrap over seeds and pictures."""
    if metric != "lpips":
        values = np.array([a.values[metric] - b.values[metric] for a, b in zip(found * (len(reference) // len(found)), reference, strict=True)])
        return student_t.interval(0.95, len(values) - 1, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(len(values)))
    pictures = [np.array([[row["lpips"] for row in result.image_rows] for result in side]) for side in (found, reference)]
    differences, rng = pictures[0] - pictures[1], np.random.default_rng(SEED)  # (n_seeds, n_pictures)
    seeds, columns = (rng.integers(0, n, (N_RESAMPLES, n)) for n in differences.shape)
    means = differences[seeds[:, :, None], columns[:, None, :]].mean((1, 2))
    return tuple(np.percentile(means, [2.5, 97.5]))


def interval(values: Sequence[float]) -> str:
    values = np.asarray(values, dtype=float)
    if values.std() == 0:
        return f"{values.mean():.3f} [{values.mean():.3f}, {values.mean():.3f}]"
    low, high = bootstrap((values,), np.mean, n_resamples=N_RESAMPLES, rng=np.random.default_rng(SEED), method="percentile").confidence_interval
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
