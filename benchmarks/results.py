"""benchmarks/RESULTS.md: one section per benchmark, replaced whenever that benchmark is run with --write. Measures nothing."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import described, machine

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADER = """# Measured results

Each section is the output of one command, written by that command (`--write`), with the machine and the versions it ran on.
Ratios are medians over rounds in which both sides ran in turn.
"""


def add_write_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/RESULTS.md")


def report(command: str, title: str, lines: Sequence[str], *, write: bool, facts: dict[str, Any] | None = None) -> None:
    """Print the lines; with `write` (and the flags it was called with), make them the section of that title in RESULTS.md, under machine, versions and date."""
    print("\n".join(lines), flush=True)
    if not write:
        return
    command = " ".join([command, *(argument for argument in sys.argv[1:] if argument != "--write")])
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    section = "\n".join([f"## {title}", "", f"`{command}`, {day}", "", described(facts or machine()), "", "```", *lines, "```", ""])
    RESULTS.write_text(with_section(RESULTS.read_text() if RESULTS.exists() else HEADER, title, section))


def with_section(text: str, title: str, section: str) -> str:
    """The document with this section put in, in place of an older one of the same title. Remarks on the older one, which were about
    its numbers, go with it."""
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: section + "\n", text).rstrip() + "\n"
    return f"{text.rstrip()}\n\n{section}"
