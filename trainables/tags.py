"""Tags: the comma-separated words of a caption, shuffled and dropped anew at each step, as kohya's scripts do; the first ones stay.

Not here: what is drawn at random (slots.py), what the words mean (captions.py). No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from trainables.config import TrainConfig


def tags_of(caption: str) -> tuple[str, ...]:
    """A sentence without commas is one tag."""
    return tuple(tag for part in caption.split(",") if (tag := part.strip()))


def caption_of(tags: Sequence[str], *, n_first: int, order: Sequence[int], dropped: Sequence[bool]) -> str:
    """The first `n_first` tags, then the others in this `order` without the `dropped` ones; both count from the first of the others."""
    first, others = tags[:n_first], tags[n_first:]
    return ", ".join([*first, *(others[i] for i in order if not dropped[i])])


def without_idle_tags(config: TrainConfig, captions: Iterable[str]) -> TrainConfig:
    """The same training, without what has no effect on these captions: shuffling or dropping needs tags behind those that stay."""
    if not config.draws_tags:
        return config
    most_others = max(len(tags_of(caption)) for caption in captions) - config.keep_tags
    return replace(
        config,
        shuffle_tags=config.shuffle_tags and most_others > 1,
        tag_dropout=config.tag_dropout if most_others > 0 else 0.0,
    )
