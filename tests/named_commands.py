"""The commands that messages, help and documents name, and whether the real command lines would take them.

Found in the source by its syntax tree, so that a new message is checked without being listed anywhere."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import typer

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("sweep", "trainables", "analysis")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(f.relative_to(ROOT)) for f in (ROOT / "docs").glob("*.md")),
)

_QUOTED = re.compile(r"`(?:(?:python )?-m )?(?P<program>sweep|analysis) (?P<rest>[^`]*)`")
_LINE = re.compile(
    r"(?:^|[ :]) *(?:python )?-m (?P<program>sweep|analysis) "
    r"(?P<rest>[^`\n]*?)(?=  |[:;,.](?: |$)|[\"<`]|$)",
    re.MULTILINE,
)
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_0-9]*(\.[A-Z]+)?")
_NUMBER = "1"
_INCOMPLETE = re.compile(
    r"^Missing |requires an argument|are required|expected (one|at least one) argument|extra arguments? \((1 ?)+\)|extra argument\(s\) \((1 ?)+\)|invalid choice: '1'"
)
"""A text may name a command without its arguments, and fill further ones in."""
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_ASSIGNED = re.compile(r"--set[ =]([A-Za-z_.0-9]+)=")


@dataclass(frozen=True)
class Named:
    """A command as a text names it: the program, `sweep` or `analysis`, and its words."""

    where: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {self.program} {shlex.join(self.words)}"


def commands_in_source() -> list[Named]:
    """Of every text in our packages. What a message fills in stands as 1."""
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    return [
        found
        for file in files
        for found in commands_of_module(
            file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))
        )
    ]


def commands_of_module(source: str, name: str) -> list[Named]:
    return [
        found for line, text in texts_of(source) for found in commands_in(text, f"{name}:{line}")
    ]


def commands_in_documents() -> list[Named]:
    return [
        found
        for name in DOCUMENTS
        for found in commands_in((ROOT / name).read_text(encoding="utf-8"), name)
    ]


def options_in_source() -> list[tuple[str, str]]:
    """Every option that a text of our packages names, with its place."""
    return [
        (f"{file}:{line}", option)
        for file, line, text in _texts_in_source()
        for option in _OPTION.findall(text)
    ]


def assignments_in_source() -> list[tuple[str, str]]:
    """Every name that a text of our packages or documents sets with --set, with its place."""
    texts = [(f"{file}:{line}", text) for file, line, text in _texts_in_source()]
    texts += [(name, (ROOT / name).read_text(encoding="utf-8")) for name in DOCUMENTS]
    return [(where, name) for where, text in texts for name in _ASSIGNED.findall(text)]


def _texts_in_source() -> Iterator[tuple[str, int, str]]:
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for line, text in texts_of(file.read_text(encoding="utf-8")):
                yield str(file.relative_to(ROOT)), line, text


def options_of_ours() -> set[str]:
    """All that sweep, analysis and our other programs take."""
    from analysis.__main__ import _parser
    from sweep.cli import app

    group = typer.main.get_command(app)
    commands = [group, *group.commands.values()]
    found = {
        option
        for command in commands
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    (choices,) = (
        action.choices
        for action in _parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return (
        found
        | {
            option
            for parser in choices.values()
            for action in parser._actions
            for option in action.option_strings
        }
        | {"--help"}
    )


def texts_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string; of an f-string all of it, with 1 for what it fills in."""
    tree = ast.parse(source)
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inner = {id(part) for node in joined for value in node.values for part in ast.walk(value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else _NUMBER
                    for part in node.values
                ),
            )
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner
        ):
            yield node.lineno, node.value


def commands_in(text: str, where: str) -> list[Named]:
    """Those between backticks, and those of `-m sweep` or `-m analysis` on a line of their own."""
    joined = re.sub(r"\s*\n\s*", " ", text)  # a quotation may be broken over lines
    found = [*_QUOTED.finditer(joined), *_LINE.finditer(re.sub(r"`[^`]*`", "", text))]
    named = [Named(where, match["program"], tuple(_words(match["rest"]))) for match in found]
    return [one for one in named if one.words]


def _words(rest: str) -> list[str]:
    rest = re.sub(r"\s#.*", "", rest)
    try:
        words = shlex.split(rest)
    except ValueError:  # half a quotation: the text fills in the rest
        words = rest.split()
    words = [word.strip("[]") for word in words]
    return [_NUMBER if word == "..." else word for word in words if word not in ("", "=")]


def problem_of(named: Named) -> str | None:
    """Why the real command line would refuse it; None where it takes it. Arguments that are left out are none."""
    parse = _problem_of_sweep if named.program == "sweep" else _problem_of_analysis
    return parse([_NUMBER if _PLACEHOLDER.fullmatch(word) else word for word in named.words])


def _problem_of_sweep(words: list[str]) -> str | None:
    from sweep.cli import _UsageError, app

    group = typer.main.get_command(app)
    if (
        words[0].startswith("-") or words[0] == _NUMBER
    ):  # of the program itself; one that the text fills in
        return None
    command = group.commands.get(words[0])
    if command is None:
        return f"there is no command {words[0]}"
    try:
        command.make_context(words[0], words[1:], parent=typer.Context(group))
    except typer.Exit:  # --help
        return None
    except _UsageError as error:
        return None if _INCOMPLETE.search(error.format_message()) else error.format_message()
    return None


class _Refused(Exception):
    pass


def _problem_of_analysis(words: list[str]) -> str | None:
    from analysis.__main__ import _parser

    def refuse(self: argparse.ArgumentParser, message: str) -> None:
        raise _Refused(message)

    with mock.patch.object(argparse.ArgumentParser, "error", refuse):
        try:
            _parser().parse_args(words)
        except _Refused as error:
            return None if _INCOMPLETE.search(str(error)) else str(error)
        except SystemExit:
            return None
    return None
