"""All that is wrong with a subject at once, and all that is doubtful. The rules are those of load_subject; only the doubts are from here.

Counts tokens with a model's tokenizer, but loads no weights and no torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.buckets import buckets_of, share_cut_away
from trainables.captions import DERIVATIONS
from trainables.folder_files import counted
from trainables.likeness import duplicates, fingerprint
from trainables.metadata import TEXT_VERSION
from trainables.model_folders import read_config
from trainables.models import PROMPT_TOKENS, ModelSource, bucket_step_of, cut_off, load_tokenizer, resolution_of, resolve_model
from trainables.photographs import read_rgb, size_of
from trainables.subject import TRIGGER_VERSION, Subject, SubjectImage, read_subject

MOST_NAMED = 3


@dataclass(frozen=True)
class Checkup:
    subject: Subject  # of what is usable
    problems: tuple[str, ...]  # a launch would refuse the subject for the first of them
    warnings: tuple[str, ...]
    notes: tuple[str, ...]  # what lies in the folder and is not read


def check_subject(name_or_dir: str | Path, model: str = "embedded:base") -> Checkup:
    """Raises: SubjectError if there is no such folder, ModelError if the model cannot be used."""
    source = resolve_model(model)
    configs = read_config(source.unet.folder), read_config(source.vae.folder)
    problems: list[str] = []
    subject = read_subject(name_or_dir, problems.append)
    warnings = [
        *cut_captions(subject, source),
        *_unnamed_trigger(subject),
        *_several_lines(subject),
        *_same_pictures(subject),
        *_small_images(subject, resolution_of(*configs), model),
        *_cut_away(subject, resolution_of(*configs), bucket_step_of(*configs)),
        *_missing_versions(subject),
        *_missing_masks(subject),
        *_nothing_held_out(subject),
    ]
    system = f"{counted(subject.n_system_files, 'hidden or system file')} passed over."
    notes = (*subject.passed_over, *[system] * bool(subject.n_system_files))
    return Checkup(subject, tuple(problems), tuple(warnings), notes)


def cut_captions(subject: Subject, source: ModelSource, versions: Sequence[str] | None = None) -> list[str]:
    """A line for every version of which CLIP would not read some training captions to their end."""
    tokenizer = load_tokenizer(source.tokenizer)
    return [line for version in versions or subject.caption_versions for line in _cut_of_version(subject, version, tokenizer)]


def _cut_of_version(subject: Subject, version: str, tokenizer: Any) -> Iterator[str]:
    captions = [(image, image.captions.get(version, "")) for image in subject.train]
    if version == TRIGGER_VERSION:
        captions = [(image, subject.trigger) for image in subject.train[:1]]
    cut = [(image, found) for image, text in captions if (found := cut_off(tokenizer, text))]
    if cut:
        image, (n_tokens, lost) = max(cut, key=lambda item: item[1][0])
        yield (
            f"CLIP reads {PROMPT_TOKENS} tokens, but {len(cut)} of {len(captions)} {version} captions have more: that of {image.file_name} "
            f"has {n_tokens}, and {lost!r:.60} is never read. Put what matters first, or shorten them."
        )


def _unnamed_trigger(subject: Subject) -> Iterator[str]:
    for version in subject.caption_versions[1:]:
        without = [i.file_name for i in subject.train if subject.trigger.lower() not in i.captions.get(version, "").lower()]
        if subject.trigger and without:
            yield (
                f"A caption should name the trigger, but {len(without)} of {len(subject.train)} {version} captions have no "
                f"{subject.trigger}, e.g. {without[0]}. A prompt with it will not call what these images teach."
            )


def _several_lines(subject: Subject) -> Iterator[str]:
    for version in subject.caption_versions[1:]:
        several = [
            i.file_name for i in subject.train if "\n" in i.captions.get(version, "").strip()
        ]
        if several:
            yield (
                f"A caption is one line to kohya's scripts, but {len(several)} of "
                f"{len(subject.train)} {version} captions have several, e.g. that of {several[0]}. "
                "All of them are read here: join them with commas."
            )


def _same_pictures(subject: Subject) -> Iterator[str]:
    prints = [fingerprint(read_rgb(image.path, least_side_pixels=256)) for image in subject.images]
    same = duplicates(prints) & ~np.eye(len(prints), dtype=bool)
    pairs = [(subject.images[i], subject.images[j]) for i, j in np.argwhere(np.triu(same))]
    leaks = [pair for pair in pairs if pair[0].split != pair[1].split]
    twins = [pair for pair in pairs if pair[0].split == pair[1].split]
    if leaks:
        yield f"A held-out image should be new to the training, but {_pairs_text(leaks)}. Held-out metrics look too good: delete one of each."
    if twins:
        yield f"Every image should be there once, but {_pairs_text(twins)}. They count twice: delete one of each."


def _pairs_text(pairs: Sequence[tuple[SubjectImage, SubjectImage]]) -> str:
    named = ", ".join(f"{one.file_name} and {other.file_name}" for one, other in pairs[:MOST_NAMED])
    return f"{named} are the same picture" + (f" (and {len(pairs) - MOST_NAMED} more pairs)" if len(pairs) > MOST_NAMED else "")


def _small_images(subject: Subject, resolution: int, model: str) -> Iterator[str]:
    small = [image.file_name for image in subject.train if min(size_of(image.path)) < resolution]
    if small:
        more = f" and {len(small) - MOST_NAMED} more" if len(small) > MOST_NAMED else ""
        yield (
            f"Images should have the {resolution} pixels a side that {model} is made for, but {len(small)} of {len(subject.train)} are smaller: "
            f"{', '.join(small[:MOST_NAMED])}{more}. They are scaled up and teach blur: use larger ones, or another --model."
        )


def _cut_away(subject: Subject, resolution: int, step: int) -> Iterator[str]:
    shares = [share_cut_away(size, (resolution, resolution)) for size in subject.train_sizes]
    if not any(shares):
        return
    buckets = buckets_of(subject.train_sizes, resolution=resolution, step=step)
    sizes = ", ".join(f"{n} of {width}x{height}" for (width, height), n in buckets.counts.items())
    kept = [share_cut_away(size, buckets.sizes[bucket]) for size, bucket in zip(subject.train_sizes, buckets.of_image, strict=True)]
    alone = [f"{width}x{height}" for (width, height), n in buckets.counts.items() if n == 1]
    yield (
        f"Trainings take the square in the middle, but {sum(share > 0 for share in shares)} of {len(shares)} images are not square and lose up to "
        f"{max(shares):.0%}. With buckets=True they train at {sizes}, and lose {max(kept):.0%} at most"
        + (f"; a batch is of one size, so the only image of {', '.join(alone)} has steps of its own." if alone else ".")
    )


def _missing_versions(subject: Subject) -> Iterator[str]:
    missing = [version for version in DERIVATIONS if version not in subject.caption_versions]
    if missing and TEXT_VERSION in subject.caption_versions:
        command = f"python -m sweep caption {shlex.quote(str(subject.root))} --derive {','.join(missing)}"
        yield f"The subject has {', '.join(subject.caption_versions)} and not {', '.join(missing)}. If v2 are tags, `{command}` makes them."


def _missing_masks(subject: Subject) -> Iterator[str]:
    without = [image.file_name for image in subject.train if not image.mask]
    if 0 < len(without) < len(subject.train):
        yield (
            f"If some images have a mask, all should, but {len(without)} of {len(subject.train)} have none, e.g. {without[0]}. "
            "Under a `mask_weight` all of such an image counts the same: add their masks."
        )


def _nothing_held_out(subject: Subject) -> Iterator[str]:
    if subject.train and not subject.heldout:
        yield "No image is held out, so nothing shows whether an adapter copies its training images. Give some rows split heldout."
