"""How a launch stands, as numbers: counts, time left, what sharing saves; and there and back as JSON."""

import math

import pytest

from sweep.causes import Cause
from sweep.moment import (
    IS_SCORED,
    MOST_NOTICES,
    MOST_TRIALS,
    TRAINS,
    WAITS,
    Notice,
    from_json,
    moment_of,
    seconds_left,
    to_json,
)
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING
from sweep.wording import UNFINISHED, left_text, short_time_text
from tests.sweep.fakes import a_driver, a_trial


def a_training(epoch: float, worker: str | None = "worker-0", *, loss: float = 0.25, seconds_per_epoch: float = 4.0) -> dict:
    return {"epoch": epoch, "worker": worker, "mean_loss": loss, "seconds_per_epoch": seconds_per_epoch}


def test_a_moment_counts_and_names_the_best_with_the_metrics_of_the_objective():
    driver = a_driver(a_trial(0, COMPLETE, (3, 0.5), (6, 0.25)), a_trial(1, PRUNED, (3, 0.75)), a_trial(2), a_trial(3, FAIL))
    driver.metrics = {"key0@6": {"lpips": 0.25, "fid": 50.0, "kid": 1.0}, "key0@3": {"lpips": 9.0, "fid": 9.0}}
    moment = moment_of(driver, {}, 60.0)
    assert (moment.counts, moment.n_running, moment.n_ended) == ({COMPLETE: 1, PRUNED: 1, RUNNING: 1, FAIL: 1}, 1, 3)
    assert (moment.best.trial, moment.best.objective, moment.best.epoch) == ("t0000", 0.25, 6)
    assert moment.best.metrics == {"lpips": 0.25, "fid": 50.0}


def test_a_trial_that_ended_with_its_launch_has_neither_failed_nor_ended():
    moment = moment_of(a_driver(a_trial(0, FAIL, cause=Cause.INTERRUPTED), a_trial(1, FAIL, cause=Cause.CONFIGURATION)), {}, 1.0)
    assert moment.counts == {UNFINISHED: 1, FAIL: 1} and moment.n_ended == 1


def test_metrics_of_a_best_trial_under_several_seeds_are_their_means():
    trial = a_trial(0, COMPLETE)
    trial.rungs = [(3, 0.5, "a", "b")]
    driver = a_driver(trial, metrics={"a": {"lpips": 1.0, "fid": 10.0}, "b": {"lpips": 2.0, "fid": 30.0}})
    assert moment_of(driver, {}, 1.0).best.metrics == {"lpips": 1.5, "fid": 20.0}


def test_time_left_is_the_rest_at_the_pace_so_far():
    driver = a_driver(a_trial(0, COMPLETE, (12, 0.5)), a_trial(1))
    snapshot = {"trials": {"t0001": {"epoch": 6.0}}}
    # 1.5 of 10 trials took 30 s: 8.5 are left
    assert abs(seconds_left(driver, snapshot, 30.0) - 30.0 * 8.5 / 1.5) < 1e-9
    assert abs(moment_of(driver, snapshot, 30.0).later(20.0).left_s - 150.0) < 1e-9 and moment_of(driver, snapshot, 30.0).later(20.0).elapsed_s == 50.0
    assert seconds_left(a_driver(a_trial(0)), {}, 30.0) is None and left_text(None) == "not known yet"
    assert (left_text(90.0), left_text(9000.0), short_time_text(12.2), short_time_text(None)) == ("about 2 min", "about 2.5 hours", "13 s", "")


def test_trials_of_an_earlier_launch_set_no_pace():
    assert seconds_left(a_driver(a_trial(0, COMPLETE, (12, 0.5)), now=False), {}, 30.0) is None


def test_a_running_trial_tells_where_it_is_and_how_long_still():
    driver = a_driver(a_trial(0), a_trial(1), a_trial(2, RUNNING, (3, 0.5)), a_trial(3), paused=True)
    snapshot = {"trials": {"t0000": a_training(0.0, None), "t0001": a_training(3.0), "t0003": a_training(12.0, None)}}
    moment = moment_of(driver, snapshot, 1.0)
    # 9 of 12 epochs at 4 s are left of t0001; t0002 is held by the pause, past epoch 3
    told = [(trial.id, trial.doing, trial.epoch, trial.left_s) for trial in moment.trials]
    assert told == [("t0001", TRAINS, 3.0, 36.0), ("t0003", IS_SCORED, 12.0, None), ("t0000", WAITS, 0.0, None), ("t0002", WAITS, 3, None)]
    assert moment.slowest.id == "t0001" and moment.left_s is None


def test_sharing_compares_what_trials_needed_alone_with_what_was_done():
    driver = a_driver(a_trial(0, COMPLETE, (3, 0.5), (6, 0.25)), a_trial(1, RUNNING, (3, 0.5)))
    moment = moment_of(driver, {"trials": {"t0001": a_training(5.5)}, "epochs_trained": 6, "rungs_scored": 2}, 1.0)
    assert (moment.asked, moment.done) == ((6 + 5, 3), (6, 2))


def test_a_moment_comes_back_from_json_as_it_was_and_is_small_whatever_the_study():
    trials = [a_trial(number) for number in range(200)]
    trials[0].rungs = [(3, 0.5, "key")]
    driver = a_driver(*trials, metrics={"key": {"lpips": math.inf, "fid": 2.0}})
    snapshot = {
        "workers": {"worker-10": "training 8 together", "worker-2": "scoring 4 image sets"},
        "devices": {"worker-2": "here GPU 0"},
        "n_done": {"worker-2": 3},
        "trials": {"t0000": a_training(3.5, loss=math.nan)},
    }
    notices = [Notice(number, 1.0, "a") for number in range(100)]
    moment = moment_of(driver, snapshot, 60.0, notices=notices)
    assert [worker.name for worker in moment.workers] == ["worker-2", "worker-10"] and moment.workers[0].n_done == 3
    text = to_json(moment, "launch-1")
    again, launch = from_json(text)
    assert launch == "launch-1" and len(again.trials) == MOST_TRIALS and again.notices == tuple(notices[-MOST_NOTICES:])
    assert (again.trials, again.workers, again.counts, again.asked) == (moment.trials, moment.workers, moment.counts, moment.asked)
    assert again.best.metrics == {"lpips": None, "fid": 2.0} and len(text) < 20_000


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"launch": "a"}', '{"launch": "a", "study": 1, "elapsed_s": 2, "more": 3}'])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        from_json(text)
