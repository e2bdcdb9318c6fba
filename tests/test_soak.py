"""A few faults of the soak (tests/soak.py); it has many more. Each is a study or two through a real
Ray: half a minute to one and a half."""

import signal
from functools import partial

import pytest

from tests import soak


@pytest.mark.ray
@pytest.mark.parametrize(
    ("target", "moment"), [("driver", "record"), ("worker", "record"), ("trial", "middle")]
)
def test_a_study_whose_process_is_killed_ends_as_if_nothing_had_happened(tmp_path, target, moment):
    happen = partial(soak.kill, target=target, number=signal.SIGKILL, moment=moment)
    assert soak.wrong_after(happen, tmp_path) == []


@pytest.mark.ray
def test_a_launch_that_slept_and_was_replaced_leaves_the_study_alone(tmp_path):
    assert soak.wrong_after(partial(soak.stop, target="driver", seconds=65.0), tmp_path) == []


@pytest.mark.ray
def test_a_study_whose_disk_is_full_ends_at_once_and_goes_on_when_there_is_room(tmp_path):
    try:
        assert soak.wrong_after(soak.full_disk, tmp_path) == []
    except soak.Skipped as error:
        pytest.skip(str(error))


def test_a_fault_begins_anew_in_another_storage_where_ray_did_not_start(tmp_path):
    storages = []

    def happen(storage):
        storages.append(storage)
        if len(storages) < soak.RAY_TRIES:
            raise soak.RayTooSlow
        yield "wrong"
        raise TimeoutError("in vain")

    assert soak.wrong_after(happen, tmp_path) == ["wrong", "in vain"]
    assert len(set(storages)) == soak.RAY_TRIES


def test_a_machine_on_which_ray_never_starts_is_said_and_is_no_verdict(tmp_path):
    def happen(storage):
        raise soak.RayTooSlow
        yield

    with pytest.raises(soak.RayTooSlow):
        soak.wrong_after(happen, tmp_path)


def test_a_soak_sees_what_is_lost_and_doubled(tmp_path):
    soak._run_in_this_process(tmp_path)
    before = soak.raw_records(tmp_path)
    assert list(soak.differences(tmp_path, before)) == []
    (part, other, *_) = (tmp_path / "s" / "records" / "evaluations").glob("*.parquet")
    part.with_name("twice.parquet").write_bytes(part.read_bytes())
    other.unlink()
    found = list(soak.differences(tmp_path, before))
    assert (
        found[:2] == ["1 evaluations are lost", "1 evaluations are there twice"]
        and "image sets are others" in found
    )


def test_a_soak_has_every_kind_of_fault_among_its_first_forty():
    what = [fault.what for fault in soak.faults()]
    assert len(what) >= 40 and len(set(what)) == len(what)
    kinds = [f"{target:6}  SIGSTOP  for inf" for target in ("worker", "driver", "pool")]
    kinds += [
        "the disk is full",
        "memory is short",
        "the journal refuses",
        "no record",
        *(f"driver  {s.name}" for s in soak.SIGNALS),
    ]
    assert [kind for kind in kinds if not any(line.startswith(kind) for line in what[:40])] == []
