"""What an error of Ray says to a person: one line, without its stack, cut at no word."""

from __future__ import annotations

import re
import textwrap

SHORT_OF_MEMORY = "this machine is short of memory"
LONGEST_LINE = 200
_OUT_OF_MEMORY = re.compile(r"OutOfMemory|out of memory|low on memory|memory pressure|\(OOM\)|NODE_OUT_OF_MEMORY", re.IGNORECASE)
_PERHAPS = "There are some potential root causes"  # begins what Ray says of every process that ended, whatever ended it


def said_by(error: Exception) -> str:
    """The line of an error that says what happened."""
    lines = [line.strip() for line in str(error).partition(_PERHAPS)[0].splitlines() if line.strip()]
    line = lines[-1] if lines else type(error).__name__
    return textwrap.shorten(line, LONGEST_LINE, placeholder=" ...")


def is_out_of_memory(error: Exception) -> bool:
    """Whether Ray has ended a process because its node was short of memory."""
    return bool(_OUT_OF_MEMORY.search(f"{type(error).__name__} {str(error).partition(_PERHAPS)[0]}"))
