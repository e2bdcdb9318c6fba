"""Every command, option and `--set` that a message, a help or a document names is one that the command lines take."""

import re
import shlex

import pytest

from analysis.__main__ import EXAMPLES, OF_SWEEP
from analysis.__main__ import main as analysis_main
from sweep.cli import COMMANDS, OF_ANALYSIS
from sweep.cli import main as sweep_main
from sweep.overrides import TEXT_FIELDS, VALUE_FIELDS
from sweep.parameters import PARAMETERS
from tests.named_commands import (
    assignments_in_source,
    commands_in,
    commands_in_documents,
    commands_in_source,
    commands_of_module,
    options_in_source,
    options_of_ours,
    problem_of,
)

OF_OTHERS = {"--include": "hf download", "--pid": "unshare"}
OTHER_PROGRAMS = ("trainables/embedded/build.py",)
"""Programs of ours that take options of their own."""


def test_every_command_that_a_text_of_ours_names_is_taken():
    found = commands_in_source()
    assert len({(named.program, named.words[0]) for named in found}) >= 25  # it sees them
    refused = [f"{named}: {problem}" for named in found if (problem := problem_of(named))]
    assert not refused, "\n".join(refused)


def test_every_command_of_the_documents_is_taken():
    found = commands_in_documents()
    assert len(found) >= 60
    refused = [f"{named}: {problem}" for named in found if (problem := problem_of(named))]
    assert not refused, "\n".join(refused)


def test_every_option_that_a_text_of_ours_names_is_one():
    known = options_of_ours() | set(OF_OTHERS)
    wrong = [
        (where, option)
        for where, option in options_in_source()
        if option not in known and not where.startswith(OTHER_PROGRAMS)
    ]
    assert not wrong


def test_every_name_that_a_text_sets_can_be_set():
    known = {*PARAMETERS, *TEXT_FIELDS, *VALUE_FIELDS, "1"}  # 1: what the message fills in
    found = assignments_in_source()
    wrong = [
        (where, name)
        for where, name in found
        if name not in known and not re.match(r"(space|alias)\.", name)
    ]
    assert len(found) > 20 and not wrong


@pytest.mark.parametrize(
    "text, says",
    [
        ("Use `sweep lanch mine.py`.", "no command lanch"),
        ("`python -m sweep export NAME --bset`", "--bset"),
        ("`sweep set {name} samples=3 --yes`", "--yes"),
        ("`sweep confirm NAME --top many`", "valid integer"),
        ("`python -m analysis repot NAME`", "repot"),
        ("next   python -m analysis tables NAME --tabel pivot", "--tabel"),
        ("Run `sweep\n    resum NAME` then.", "no command resum"),
        (
            "python -m sweep status NAME: how it stands; python -m sweep wach NAME",
            "no command wach",
        ),
    ],
)
def test_the_check_sees_what_is_wrong(text, says):
    problems = [problem for named in commands_in(text, "here") if (problem := problem_of(named))]
    assert len(problems) == 1 and says in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "`sweep launch STUDY.py --samples N --set rank=16`", "`sweep resume {name}` goes on", "`sweep stop`", "we sweep over it",
        "`python -m sweep class-images MODEL {folder} --prompt ...`", "python -m analysis tables captions --by caption guidance",
    ],
)  # fmt: skip
def test_the_check_passes_what_is_right(text):
    assert [problem_of(named) for named in commands_in(text, "here")] in ([], [None])


def test_the_check_reads_whole_texts_out_of_the_source():
    source = 'raise E(\n    f"No {name}. Use `sweep resume {name} "\n    f"--storage {place}` or `sweep gone`."\n)'
    assert [named.words for named in commands_of_module(source, "m.py")] == [
        ("resume", "1", "--storage", "1"),
        ("gone",),
    ]


# Commands of the other program.


def said(capsys, main, *words) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_lists_of_the_other_programs_commands_are_whole():
    assert set(OF_SWEEP) == set(COMMANDS) and set(OF_ANALYSIS) == set(EXAMPLES)


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_a_command_of_analysis_given_to_sweep_is_told_where_it_belongs(command, capsys):
    way_out = re.search(
        r"`(python -m analysis .*?)`", said(capsys, sweep_main, command, "captions")
    )[1]
    (named,) = commands_in(f"`{way_out}`", "here")
    assert named.words[0] == command and problem_of(named) is None


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_of_sweep_given_to_analysis_is_told_where_it_belongs(command, capsys):
    way_out = re.search(
        r"`python -m sweep (.*?)`", said(capsys, analysis_main, command, "captions")
    )[1]
    assert sweep_main(shlex.split(way_out)) == 0 and command in capsys.readouterr().out


@pytest.mark.parametrize(
    "main, word, near",
    [
        (sweep_main, "tabels", "`python -m analysis tables`"),
        (sweep_main, "lunch", "`sweep launch`"),
        (analysis_main, "exprot", "`python -m sweep export`"),
        (analysis_main, "figure", "`python -m analysis figures`"),
        (sweep_main, "qqqq", "--help"),
        (analysis_main, "qqqq", "--help"),
    ],
)
def test_a_misspelt_command_is_told_the_nearest_one_of_both(main, word, near, capsys):
    assert near in said(capsys, main, word)
