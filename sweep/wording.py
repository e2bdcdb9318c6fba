"""How states, numbers, times and configurations are put into words on a terminal. One line each, no markup."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sweep.record_schema import NOT_FINISHED, STATE_WORDS

WORDS = STATE_WORDS
UNFINISHED = "UNFINISHED"
"""Beside a trial's states: ended by what was not its configuration, and tried again by the next launch."""
MOST_ROWS = 12
"""Of a table that nobody asked for in full."""


def configuration_text(configuration: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value_text(value)}" for name, value in configuration.items())


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):  # of prompts, the text alone
        return str(
            [one["text"] if isinstance(one, dict) and "text" in one else one for one in value]
        )
    return str(value)


def counts_text(counts: Mapping[str, int]) -> str:
    """counts: trials by state, or UNFINISHED."""
    words = {**WORDS, UNFINISHED: NOT_FINISHED}
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts.get(state))


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def left_text(seconds: float | None) -> str:
    """What is left, as roughly as it is known."""
    if seconds is None:
        return "not known yet"
    if seconds >= 7200:
        return f"about {seconds / 3600:.1f} hours"
    return f"about {max(1, math.ceil(seconds / 60))} min"


def short_time_text(seconds: float | None) -> str:
    """For a column: 40 s, 12 min, 3.5 h. Empty where it is not known."""
    if seconds is None:
        return ""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{math.ceil(seconds / 60)} min" if seconds > 90 else f"{math.ceil(seconds)} s"


def number_text(value: Any, digits: int) -> str:
    """Empty where there is no finite number."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) and math.isfinite(value) else ""


def metric_text(value: float) -> str:
    """Four digits that count, whatever the metric's scale: 0.3121, 88.24."""
    return f"{value:.4g}"
