"""Leases between processes: one holder, dead and silent holders replaced, live ones left alone."""

import json
import os
import subprocess
import sys

import pytest

from trainables.leases import STALE_S, Leases


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def lease_file(root, key="k"):
    return root / key / ".lease"


def test_one_of_two_holds_a_key_until_it_gives_it_back(tmp_path, clock):
    one, other = Leases(tmp_path, clock=clock), Leases(tmp_path, clock=clock)
    assert one.acquire("k") and one.acquire("k")
    assert not other.acquire("k") and other.acquire("another key")
    one.release("k")
    assert other.acquire("k") and not one.acquire("k")


def test_a_silent_holder_loses_its_lease_and_a_refreshing_one_keeps_it(tmp_path, clock):
    one, other = Leases(tmp_path, clock=clock), Leases(tmp_path, clock=clock)
    one.acquire("k")
    clock.now += STALE_S - 1
    one.refresh()
    clock.now += STALE_S - 1
    assert not other.acquire("k")
    clock.now += 2
    assert other.acquire("k")


def test_a_dead_holder_on_this_machine_loses_its_lease_at_once(tmp_path, clock):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    one = Leases(tmp_path, clock=clock)
    one.acquire("k")
    holder = json.loads(lease_file(tmp_path).read_text())
    lease_file(tmp_path).write_text(json.dumps({**holder, "pid": int(ended.stdout)}))
    os.utime(lease_file(tmp_path), (clock.now, clock.now))
    assert Leases(tmp_path, clock=clock).acquire("k")


def test_a_holder_on_another_machine_is_given_its_time(tmp_path, clock):
    lease_file(tmp_path).parent.mkdir()
    lease_file(tmp_path).write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    os.utime(lease_file(tmp_path), (clock.now, clock.now))
    waiting = Leases(tmp_path, clock=clock)
    assert not waiting.acquire("k")
    clock.now += STALE_S + 1
    assert waiting.acquire("k")


def test_half_a_lease_file_is_honoured_while_fresh(tmp_path, clock):
    lease_file(tmp_path).parent.mkdir()
    lease_file(tmp_path).write_text('{"host"')
    os.utime(lease_file(tmp_path), (clock.now, clock.now))
    waiting = Leases(tmp_path, clock=clock)
    assert not waiting.acquire("k")
    clock.now += STALE_S + 1
    assert waiting.acquire("k")
    waiting.release("k")
    assert list((tmp_path / "k").iterdir()) == []


def test_a_holder_that_slept_too_long_finds_out_and_leaves_the_lease_to_whoever_took_it(tmp_path, clock):
    one, other = Leases(tmp_path, note={"launch": "a"}, clock=clock), Leases(tmp_path, note={"launch": "b"}, clock=clock)
    one.acquire("k")
    assert other.holder("k").note == {"launch": "a"} and not one.is_lost("k")
    clock.now += STALE_S + 1
    assert other.holder("k") is None and other.acquire("k") and one.is_lost("k") and not other.is_lost("k")
    taken_at = lease_file(tmp_path).stat().st_mtime
    clock.now += 1
    one.refresh()
    one.release("k")
    assert lease_file(tmp_path).stat().st_mtime == taken_at and other.holder("k").note == {"launch": "b"}


def test_a_holder_that_is_known_to_be_gone_loses_its_lease_at_once_and_no_other_does(tmp_path, clock):
    gone, alive = (Leases(tmp_path, note={"owner": f"launch/worker-{i}"}, clock=clock) for i in (0, 1))
    assert gone.acquire("a") and alive.acquire("b")
    other = Leases(tmp_path, note={"owner": "launch/worker-2"}, clock=clock)
    assert not other.acquire("a") and not other.acquire("b", dead=["launch/worker-0"])
    assert other.acquire("a", dead=["launch/worker-0"]) and gone.is_lost("a")
