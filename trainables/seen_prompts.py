"""Which prompts a training has seen the words of: worked out from its captions, whatever a study
declares. Texts only.

A prompt is seen under a caption version if each of its comma-separated pieces, without the trigger
word, occurs in at least one training caption of that version: case-blind, as whole words in their
order. A prompt that is the trigger alone is always seen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from trainables.subject import Subject

TRIGGER_FIELD = "{trigger}"


def is_seen(prompt: str, captions: Iterable[str], *, trigger: str) -> bool:
    """Whether training captions hold all pieces of a prompt, whose trigger is written out or
    `{trigger}`."""
    text = _searched(captions, trigger)
    return all(_occurs(piece, text) for piece in _pieces(prompt, trigger))


def seen_prompts(prompts: Sequence[str], subject: Subject) -> dict[str, list[bool]]:
    """By caption version of the subject, which of these prompts are seen."""
    texts = {
        version: _searched(subject.train_captions(version), subject.trigger)
        for version in subject.caption_versions
    }
    pieces = [_pieces(prompt, subject.trigger) for prompt in prompts]
    return {
        version: [all(_occurs(piece, text) for piece in own) for own in pieces]
        for version, text in texts.items()
    }


def _pieces(prompt: str, trigger: str) -> list[str]:
    return [piece for part in prompt.split(",") if (piece := _plain(part, trigger))]


def _searched(captions: Iterable[str], trigger: str) -> str:
    """All captions as one text, a line each: no piece goes over the end of a line."""
    return "\n".join(dict.fromkeys(_plain(caption, trigger) for caption in captions))


def _plain(text: str, trigger: str) -> str:
    text = text.replace(TRIGGER_FIELD, " ").casefold()
    if trigger:
        text = re.sub(rf"(?<!\w){re.escape(trigger.casefold())}(?!\w)", " ", text)
    return " ".join(text.split())


def _occurs(piece: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(piece)}(?!\w)", text) is not None
