"""Successive halving, by hand-counted cases."""

import math
import random

import pytest

from sweep.scheduler import Asha


def test_the_first_trial_at_a_rung_goes_on_however_bad_it_is():
    assert Asha((3, 6, 12), 3).keeps("t0000", 3, 1e9)


def test_a_trial_goes_on_while_it_is_among_the_best_third():
    asha = Asha((3, 6, 12), 3)
    values = [0.5, 0.6, 0.4, 0.45, 0.41, 0.46]
    # Best so far when each arrives: 1 of 1; 1 of 2 (so 0.6 stops); 1 of 3; 2 of 4 (0.45 is second); 2 of 5 (0.41 is second); 2 of 6 (0.46 is fourth)
    decisions = [asha.keeps(f"t{i}", 3, value) for i, value in enumerate(values)]
    assert decisions == [True, False, True, True, True, False]


def test_rungs_do_not_mix():
    asha = Asha((3, 6, 12), 2)
    asha.keeps("t0", 3, 0.1)
    asha.keeps("t1", 3, 0.2)
    assert asha.keeps("t1", 6, 0.9)
    assert asha.n_at(3) == 2 and asha.n_at(6) == 1


def test_nothing_is_stopped_at_the_last_rung():
    asha = Asha((3, 6), 4)
    assert all(asha.keeps(f"t{i}", 6, float(i)) for i in range(20))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_kept_and_never_recorded(value):
    asha = Asha((3, 6), 3)
    assert not asha.keeps("t0", 3, value)
    assert asha.n_at(3) == 0


def test_an_epoch_that_is_no_rung_of_the_study_stops_nobody():
    asha = Asha((3, 6), 2)
    assert asha.keeps("t0", 5, 0.1) and asha.keeps("t1", 5, 0.9)


def test_without_a_reduction_factor_everything_goes_on():
    asha = Asha((3, 6), None)
    assert all(asha.keeps(f"t{i}", 3, float(i)) for i in range(10))


def test_asking_twice_is_recording_once():
    asha = Asha((3, 6), 2)
    assert asha.keeps("t0", 3, 0.5) and asha.keeps("t0", 3, 0.5)
    assert asha.n_at(3) == 1


def test_rungs_refilled_from_records_decide_as_the_original_did():
    rng = random.Random(0)
    values = {f"t{i}": rng.random() for i in range(30)}
    original, rebuilt = Asha((3, 6), 3), Asha((3, 6), 3)
    for trial, value in values.items():
        original.keeps(trial, 3, value)
        rebuilt.record(trial, 3, value)
    probes = [i / 20 for i in range(20)]
    assert [original.keeps("probe", 3, p) for p in probes] == [rebuilt.keeps("probe", 3, p) for p in probes]


def test_about_one_in_reduction_factor_survives_a_long_queue():
    rng = random.Random(1)
    asha = Asha((3, 6), 4)
    kept = sum(asha.keeps(f"t{i}", 3, rng.random()) for i in range(2000))
    assert 420 <= kept <= 580  # a quarter of 2000 is 500; four standard deviations are 77
