"""What ended something as a value: made from an error, said as a sentence, recorded, and read in rows that have only the sentence."""

import errno
import os

import pytest

from sweep.causes import Cause, cause_of, sentence
from sweep.errors import AdapterError, DeviceMemoryError, RecordsError
from sweep.records import TRIALS, Records, as_rows
from sweep.searcher import COMPLETE, FAIL, PRUNED
from sweep.trial_rows import is_unfinished, trial_of_row, trial_row
from sweep.worker import PASSING
from tests.sweep.fakes import a_trial
from trainables.errors import ConfigError, EvaluationFailed


def from_errno(number: int, error: Exception) -> Exception:
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ConfigError("rank"), Cause.CONFIGURATION),
        (EvaluationFailed("black"), Cause.CONFIGURATION),
        (ValueError("no such layer"), Cause.CONFIGURATION),
        (OSError(errno.EIO, "away"), Cause.LOST),
        (from_errno(errno.EIO, RecordsError("away")), Cause.LOST),
        (AdapterError("damaged"), Cause.LOST),
        (MemoryError(), Cause.MEMORY),
        (DeviceMemoryError("too small"), Cause.MEMORY),
        *((OSError(number, "no"), Cause.DISK) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)),
        (from_errno(errno.ENOSPC, AdapterError("not taken")), Cause.DISK),
        (from_errno(errno.EROFS, RecordsError("not taken")), Cause.DISK),
    ],
)
def test_an_error_stands_for_one_cause(error, cause):
    assert cause_of(error, passing=PASSING) is cause


def test_only_a_configuration_is_never_tried_again_and_a_sentence_begins_with_the_cause():
    assert [cause for cause in Cause if not cause.is_tried_again] == [Cause.CONFIGURATION]
    assert sentence(Cause.CONFIGURATION, "loss is NaN") == "loss is NaN"
    assert sentence(Cause.INTERRUPTED) == "interrupted" and sentence(Cause.DISK, "full") == "interrupted: full"
    assert sentence(Cause.MEMORY, "tried 4 times") == "lost: tried 4 times"


@pytest.mark.parametrize("cause", list(Cause))
def test_a_cause_is_recorded_and_decides_whether_the_trial_runs_again_whatever_the_sentence_says(tmp_path, cause):
    records = Records(tmp_path)
    # A configuration's own words may begin like anything: "lost" of a loss, "interrupted" of a schedule.
    records.append_trial(trial_row(a_trial(0, FAIL, reason="lost its way: interrupted schedule", cause=cause), "s"))
    (row,) = as_rows(records.latest_trials(), TRIALS)
    assert row["cause"] == cause and is_unfinished(row) == cause.is_tried_again
    assert trial_of_row(row).cause is cause and trial_of_row(row).is_unfinished == cause.is_tried_again


def test_rows_without_a_cause_are_read_by_their_sentence(tmp_path):
    old = {
        "interrupted": Cause.INTERRUPTED,
        "interrupted by `sweep stop`": Cause.INTERRUPTED,
        "interrupted: its launch ended unexpectedly": Cause.INTERRUPTED,
        "lost: tried 4 times, the last time: signal 9": Cause.LOST,
        "the loss is not finite": Cause.CONFIGURATION,
        None: Cause.CONFIGURATION,
    }
    records = Records(tmp_path)
    for number, reason in enumerate(old):
        row = trial_row(a_trial(number, FAIL, reason=reason or ""), "s")
        records.append_trial({**{name: value for name, value in row.items() if name != "cause"}, "schema_version": 5})
    for state in (COMPLETE, PRUNED):
        records.append_trial(trial_row(a_trial(90 + len(state), state), "s"))
    records.compact()
    rows = as_rows(records.latest_trials(), TRIALS)
    assert [row["cause"] for row in rows] == [*old.values(), None, None]
    assert [is_unfinished(row) for row in rows] == [True] * 4 + [False] * 4
