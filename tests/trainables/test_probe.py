"""The chosen size of a pack, from made-up measurements and from a clock of our own."""

import pytest

from tests.trainables.test_pack import base, subject  # noqa: F401  fixtures
from trainables.probe import best_size, probe_pack_size


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ({1: 1.0, 2: 1.2}, 1),  # packing loses
        ({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.39}, 4),  # doubling to 8 gains 2.5 %, not worth the memory
        ({1: 1.0, 2: 0.5, 4: 0.25, 8: 0.13, 16: 0.07}, 16),
        ({1: 1.0, 2: 0.98, 4: 0.5}, 4),  # together two doublings pay
    ],
)
def test_the_best_size_is_where_doubling_stops_paying(measured, best):
    assert best_size(measured) == best


def test_a_probe_stops_doubling_when_a_step_gets_no_cheaper(frozen, base, subject):  # noqa: F811
    # Each of three steps reads the clock twice, and the fastest counts. With 1, 2 and 4 trainings it takes 1.0, 1.0 and 2.0 s.
    ticks = iter(tick for seconds in (1.5, 1.0, 9.0, 1.0, 1.0, 1.0, 2.0, 3.0, 2.0) for tick in (0, seconds))
    probe = probe_pack_size(frozen, base, subject, clock=lambda: next(ticks))
    assert dict(probe.seconds_per_adapter_step) == {1: 1.0, 2: 0.5, 4: 0.5} and probe.best == 2
