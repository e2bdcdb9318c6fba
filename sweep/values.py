"""What a study file may hold as a value: what JSON carries there and back, so that records, Optuna
and a relaunch read the same.

Whether the value suits its parameter is for trainables/config.py to say."""

from __future__ import annotations

import ast
import datetime
import json
import math
import os
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from sweep.errors import StudyError
from trainables.config import Prompt

MOST_LEVELS = 16
"""Lists in lists that a value may have: deeper ones hold themselves, or are a mistake."""

MOST_WHOLE = 2**53
"""Beyond it a whole number is another one to who reads JSON's numbers as floats, and seeds leave
what records can hold."""

_PROMPT_TEXT = re.compile(r"Prompt\(text=(?P<text>.+), seen=(?P<seen>True|False)\)", re.DOTALL)


def carried(value: Any, place: str, *, _level: int = 0) -> Any:
    """The value in JSON's own types: a tuple becomes a list, a Prompt its text and `seen`, a path
    or date its text, a numpy scalar its number.

    Raises:
        StudyError: `place` holds something that JSON has no form for, or a number that is not
        finite."""
    value = value.value if isinstance(value, Enum) else plain(value)
    if isinstance(value, Prompt):
        value = {"text": value.text, "seen": value.seen}
    if isinstance(value, (os.PathLike, datetime.date)):
        value = str(value)
    if (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, int) and abs(value) <= MOST_WHOLE)
    ):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and _is_unicode(value):
        return str(value)
    if isinstance(value, (list, tuple, np.ndarray)) and _level < MOST_LEVELS:
        return [carried(inner, place, _level=_level + 1) for inner in value]
    if (
        isinstance(value, Mapping)
        and _level < MOST_LEVELS
        and all(isinstance(name, (str, int)) for name in value)
    ):
        return {
            str(name): carried(inner, place, _level=_level + 1) for name, inner in value.items()
        }
    raise StudyError(
        f"A study's values are text, finite numbers (whole ones up to 2**53), True, False, None, "
        f"prompts, and lists of these, but "
        f"{place} holds {short(value)}, a {type(value).__name__}. Write it as one of these."
    )


def carried_values(values: Any, place: str) -> Any:
    """A mapping with each of its values carried; something that is no mapping as it is, for its
    own check to refuse."""
    return (
        {name: carried(value, f"{place}, `{name}`,") for name, value in values.items()}
        if isinstance(values, Mapping)
        else values
    )


def is_carried(value: Any) -> bool:
    """Whether JSON gives back the very same value."""
    try:
        return _same_types(value, carried(value, ""))
    except StudyError:
        return False


def json_text(value: Any) -> str:
    """A carried value as text, one text for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def plain(value: Any) -> Any:
    """A numpy scalar as the Python number that it stands for; everything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def short(value: Any) -> str:
    """The value as a message names it."""
    try:
        text = ascii(value)
    except Exception:  # a class of the study file may have any __repr__
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def with_prompts_read(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration whose prompts may be in the form of older records, which wrote a
    Prompt as the text of its Python call."""
    prompts = configuration.get("prompts")
    return (
        {**configuration, "prompts": [_prompt_read(text) for text in prompts]}
        if isinstance(prompts, list)
        else dict(configuration)
    )


def _prompt_read(text: Any) -> Any:
    match = _PROMPT_TEXT.fullmatch(text) if isinstance(text, str) else None
    return (
        {"text": ast.literal_eval(match["text"]), "seen": match["seen"] == "True"}
        if match
        else text
    )


def _is_unicode(text: str) -> bool:
    """Half a surrogate pair is text to Python, and to no file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _same_types(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same_types, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_types(a[name], b[name]) for name in a)
    return a == b
