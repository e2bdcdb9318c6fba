"""The log of launches: what budgets count, and what a resume asks for again."""

import pytest

from sweep.errors import StudyError
from sweep.launches import BEAT_EVERY_S, FINISHED, PAUSED, LaunchLog, Request, read_launches
from tests.sweep.fakes import FakeClock

REQUEST = Request({"samples": "4"}, {"device": "cpu"}, "/studies/s.py", "/studies")


def test_hours_and_gpu_hours_add_up_over_launches_and_a_killed_one_counts_until_it_was_last_heard_of(tmp_path):
    path, clock = tmp_path / "launches.json", FakeClock()
    killed = LaunchLog(path, "a", REQUEST, clock=clock)
    for _ in range(360):
        clock.sleep(BEAT_EVERY_S)
        killed.beat(n_gpus=2)
    clock.sleep(100_000)
    second = LaunchLog(path, "b", REQUEST, clock=clock)
    clock.sleep(1800)
    second.beat(n_gpus=4)
    assert (second.hours, second.gpu_hours) == pytest.approx((1.5, 2 * 1 + 4 * 0.5))
    second.end(FINISHED)
    launches = read_launches(path)
    assert [entry.state for entry in launches.entries] == ["running", FINISHED] and launches.request == REQUEST
    assert (launches.hours, launches.gpu_hours) == pytest.approx((1.5, 4.0))


def test_a_change_of_state_is_on_disk_at_once_and_the_rest_every_few_seconds(tmp_path):
    path, clock = tmp_path / "launches.json", FakeClock()
    log = LaunchLog(path, "a", REQUEST, clock=clock)
    clock.sleep(1)
    log.beat(n_gpus=0)
    assert read_launches(path).entries[0].seen_at == 0.0
    log.beat(n_gpus=0, state=PAUSED)
    assert (read_launches(path).entries[0].seen_at, read_launches(path).entries[0].state) == (1.0, PAUSED)


def test_limits_that_were_set_meanwhile_are_asked_for_again(tmp_path):
    log = LaunchLog(tmp_path / "launches.json", "a", REQUEST, clock=FakeClock())
    log.ask_for({"samples": "9", "max_concurrent": "2"})
    assert read_launches(tmp_path / "launches.json").request.overrides == {"samples": "9", "max_concurrent": "2"}


def test_a_damaged_log_is_one_line_with_its_path(tmp_path):
    (tmp_path / "launches.json").write_text('{"request"')
    with pytest.raises(StudyError, match="launches.json.*sweep repair"):
        read_launches(tmp_path / "launches.json")
    assert read_launches(tmp_path / "none.json").entries == ()
