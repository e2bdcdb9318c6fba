"""Is the embedded family worth sweeping? Does its base follow prompts, do adapters beat it on the subject, and do epochs, captions,
rank and guidance matter? Every value with its n and a 95 % bootstrap interval over pictures.

    python -m benchmarks.embedded_family [--epochs 12] [--images 8] [--write]

Attribute accuracy is judged by the embedded pooled network, which was trained on the same renderer: it says that words reach the
picture, not that people would agree. All trainings of the second part run in one pack."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import bootstrap

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from trainables.config import EvalConfig, TrainConfig
from trainables.embedded.networks import load_pooled
from trainables.embedded.people import WORDS
from trainables.evaluate import EvaluationRequest, EvaluationResult, Evaluator
from trainables.frozen import FrozenWork
from trainables.generate import ImageSet, generate
from trainables.lora import Adapter
from trainables.metrics import frechet_distance, kernel_distance
from trainables.pack import Pack
from trainables.subject import load_subject

N_RESAMPLES = 1000
SEED = 0


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
            sets = [ImageSet(None, EvalConfig(prompts=(f"person, {style}, {word}",), images_per_prompt=n_images, guidance=5.0), "") for word in words]
            shown = torch.cat([torch.from_numpy(i) for i in generate(parts, sets, frozen=frozen)]).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.no_grad():
                guessed = network.attribute_logits(shown)[attribute].argmax(1)
            right = (guessed == torch.arange(len(words)).repeat_interleave(n_images)).numpy().astype(float)
            lines.append(f"    {attribute:12} {interval(right)}   chance {1 / len(words):.2f}")
    return lines


def adapters(frozen: FrozenWork, *, epochs: int, n_images: int) -> list[str]:
    """Metrics of the control and of adapters that differ from one configuration in one value each."""
    subject = load_subject("embedded:subject")
    base = TrainConfig()
    variants = {
        "caption v1": replace(base, caption="v1"),
        "caption v2": base,
        "caption v3": replace(base, caption="v3"),
        "caption v4": replace(base, caption="v4"),
        "rank 2": replace(base, rank=2, alpha=2),
        "rank 64": replace(base, rank=64, alpha=64),
        "lr 1e-4": replace(base, learning_rate=1e-4),
        "lr 5e-3": replace(base, learning_rate=5e-3),
        "seed 1": replace(base, train_seed=1),
    }
    pack = Pack(frozen.parts(base.train_model, None, base.dtype), frozen)
    for name, config in variants.items():
        pack.add(name, config, subject)
    stored: dict[tuple[str, int], Adapter] = {}
    for epoch in range(1, epochs + 1):
        pack.advance()
        stored |= {(name, epoch): pack.adapter(name) for name in pack.keys}
        print(f"epoch {epoch} of {epochs}", flush=True)
    plain = EvalConfig(images_per_prompt=n_images)
    wanted: list[tuple[str, Adapter | None, EvalConfig]] = [("no adapter", None, plain)]
    wanted += [(f"caption v2, epoch {e}", stored["caption v2", e], plain) for e in range(1, epochs + 1) if e in (1, 2, 3, 6, 9) and e < epochs]
    wanted += [(f"{name}, epoch {epochs}", stored[name, epochs], plain) for name in variants if (name, epochs) in stored]
    wanted += [(f"caption v2, guidance {g:g}", stored["caption v2", epochs], replace(plain, guidance=g)) for g in (1.0, 2.0, 7.5, 12.0)]
    evaluator = Evaluator(frozen)
    requests = [EvaluationRequest(name, adapter, config, subject) for name, adapter, config in wanted]
    rows = [described_result(evaluator, result, subject) for result in evaluator.evaluate(requests)]
    return [f"adapters on the subject, {len(requests[0].config.prompts) * n_images} pictures each, 151 references: LPIPS, FID, KID, each with 95 % interval", *rows]


def described_result(evaluator: Evaluator, result: EvaluationResult, subject) -> str:
    lpips = np.array([row["lpips"] for row in result.image_rows])
    reference = evaluator._references.pooled(evaluator.pooled, evaluator._reference(subject, result.images.shape[1], "train"))
    features = evaluator.pooled(result.images)
    rng = np.random.default_rng(SEED)
    resampled = [features[torch.as_tensor(rng.integers(0, len(features), len(features)))] for _ in range(200)]
    fid = np.percentile([frechet_distance(reference, f) for f in resampled], [2.5, 97.5])
    kid = np.percentile([kernel_distance(reference, f) for f in resampled], [2.5, 97.5])
    return (
        f"  {result.key:26} LPIPS {interval(lpips)}   FID {result.values['fid']:7.2f} [{fid[0]:.2f}, {fid[1]:.2f}]"
        f"   KID {result.values['kid']:.4f} [{kid[0]:.4f}, {kid[1]:.4f}]   diversity {result.values['diversity']:.3f}"
    )


def interval(values: Sequence[float]) -> str:
    values = np.asarray(values, dtype=float)
    if values.std() == 0:
        return f"{values.mean():.3f} [{values.mean():.3f}, {values.mean():.3f}]"
    low, high = bootstrap((values,), np.mean, n_resamples=N_RESAMPLES, rng=np.random.default_rng(SEED), method="percentile").confidence_interval
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
