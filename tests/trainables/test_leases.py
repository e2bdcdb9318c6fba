"""Leases between processes: one holder, dead and silent holders replaced, live ones left alone."""

import json
import os
import subprocess
import sys

import pytest

from trainables.leases import STALE_S, Leases
from trainables.storage import StorePath, place


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["folder", "store"])
def leases(request, tmp_path, clock, monkeypatch):
    """Makes the leases of a process, by its launch's name; all share a storage."""
    if request.param == "folder":
        return lambda launch: Leases(tmp_path, note={"launch": launch}, clock=clock)
    root, children = place(request.getfixturevalue("s3")), StorePath.children
    # The store has a clock of its own: of its objects, those are as old as the test's clock says that was written then.
    written: dict[str, float] = {}
    put = StorePath.write_bytes

    def timed_put(self, content):
        written[str(self)] = clock.now
        put(self, content)

    def timed_children(self):
        return [(path, stat._replace(st_mtime=written[str(path)])) for path, stat in children(self)]

    monkeypatch.setattr(StorePath, "write_bytes", timed_put)
    monkeypatch.setattr(StorePath, "children", timed_children)
    monkeypatch.setattr("trainables.leases.time.time", clock)
    return lambda launch: Leases(root, note={"launch": launch}, clock=clock)


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


def test_a_holder_that_slept_has_lost_its_lease_even_when_whoever_took_it_has_given_it_back(leases, clock):
    one, other = leases("a"), leases("b")
    assert one.acquire("k")
    clock.now += STALE_S + 1
    assert other.acquire("k")
    other.release("k")
    for _ in range(2):
        one.refresh()
        assert one.is_lost("k") and one.holder("k") is None  # and it does not claim it again unasked
    assert one.acquire("k") and not one.is_lost("k")


def test_a_holder_that_slept_and_was_not_replaced_still_holds_its_lease(leases, clock):
    one, other = leases("a"), leases("b")
    one.acquire("k")
    clock.now += 10 * STALE_S
    assert not one.is_lost("k") and not other.acquire("k")


def test_a_lease_whose_folder_was_removed_is_written_again(tmp_path, clock):
    one = Leases(tmp_path, clock=clock)
    one.acquire("k")
    lease_file(tmp_path).unlink()
    lease_file(tmp_path).parent.rmdir()
    assert not one.is_lost("k")
    one.refresh()
    assert not Leases(tmp_path, clock=clock).acquire("k")


def test_two_that_find_the_same_lease_stale_do_not_both_hold_it(tmp_path, clock, monkeypatch):
    Leases(tmp_path, clock=clock).acquire("k")
    clock.now += STALE_S + 1
    first, second = Leases(tmp_path, clock=clock), Leases(tmp_path, clock=clock)
    rename = os.rename

    def first_wins(source, target):
        monkeypatch.undo()
        assert first.acquire("k")  # between the judgement of the second one and its rename
        rename(source, target)

    monkeypatch.setattr(os, "rename", first_wins)
    assert not second.acquire("k") and not first.is_lost("k")


def test_a_lease_that_cannot_be_written_whole_keeps_nobody_out(tmp_path, clock, monkeypatch):
    def full(claim, file):
        file.write('{"host"')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        Leases(tmp_path, clock=clock).acquire("k")
    monkeypatch.undo()
    assert Leases(tmp_path, clock=clock).acquire("k")
