"""A few kills of the soak (tests/soak.py); it has many more. Each is a study or two through a real Ray: a quarter of a minute each."""

import signal

import pytest

from tests import soak

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(("target", "moment"), [("driver", "record"), ("worker", "record"), ("trial", "middle")])
def test_a_study_whose_process_is_killed_ends_as_if_nothing_had_happened(tmp_path, target, moment):
    assert soak.kill(tmp_path / "storage", target, signal.SIGKILL, moment) == []


def test_a_soak_sees_what_is_lost_and_doubled(tmp_path):
    soak._run_in_this_process(tmp_path)
    before = soak.raw_records(tmp_path)
    assert list(soak.differences(tmp_path, before)) == []
    (part, other, *_) = (tmp_path / "s" / "records" / "evaluations").glob("*.parquet")
    part.with_name("twice.parquet").write_bytes(part.read_bytes())
    other.unlink()
    found = list(soak.differences(tmp_path, before))
    assert found[:2] == ["1 evaluations are lost", "1 evaluations are there twice"] and "image sets are others" in found
