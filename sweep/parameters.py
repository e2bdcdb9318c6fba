"""The names that a study may search or fix: the fields of TrainConfig and EvalConfig, `epochs`, and two short names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from sweep.errors import StudyError
from sweep.space import nearest
from trainables.config import EVAL_PARAMETERS, TRAIN_PARAMETERS, EvalConfig, TrainConfig

SHORT_NAMES = {"model": ("train_model", "infer_model"), "vae": ("train_vae", "infer_vae")}
MODEL_PARAMETERS = ("train_model", "infer_model", "train_vae", "infer_vae")
PARAMETERS = tuple(name for name in (*TRAIN_PARAMETERS, *EVAL_PARAMETERS) if name != "subject") + ("epochs", *SHORT_NAMES)
"""All but the subject: a study has one, as its own field, because objectives over two subjects do not compare."""

_TEXT_FIELDS = {f.name for config in (TrainConfig, EvalConfig) for f in fields(config) if str(f.type).startswith("str")}


def require_known(names: Iterable[str], place: str) -> None:
    """Raises: StudyError for a name that is no parameter, with the nearest one that is."""
    for name in names:
        if name == "subject":
            raise StudyError(f"A study has one subject, but {place} sets `subject`. Use Study(subject=...), and one study for each.")
        if name not in PARAMETERS:
            raise StudyError(f"{place} may name parameters only, but there is none called `{name}`.{nearest(name, PARAMETERS)}")


def expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with `model` and `vae` spelt out; a long name beside its short one wins."""
    spelt = {long: values[short] for short, longs in SHORT_NAMES.items() if short in values for long in longs}
    return {**spelt, **{name: value for name, value in values.items() if name not in SHORT_NAMES}}


def spellings(name: str) -> set[str]:
    """`name` and every other name that sets the same parameter, shorter or longer."""
    longs = set(SHORT_NAMES.get(name, ()))
    return {name} | longs | {short for short, its in SHORT_NAMES.items() if name in its}


def is_text(name: str) -> bool:
    """Whether the parameter holds text, so that `--set subject=2024` stays the name of a folder."""
    return name in _TEXT_FIELDS or name in SHORT_NAMES
