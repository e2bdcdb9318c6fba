"""A launch's folder in /tmp goes with it; that of one that was killed is removed by the next, and nobody else's ever is."""

import os
import subprocess
import sys
import time

import pytest

from sweep.session_folders import YOUNG_S, new_session_folder, remove_left_behind

HOLDS = """
import sys, time
from pathlib import Path
from sweep.session_folders import new_session_folder
print(new_session_folder(parent=Path(sys.argv[1]))[0], flush=True)
time.sleep(600)
"""


def test_the_folder_of_a_live_launch_stays_and_that_of_a_killed_one_goes(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    theirs = other.stdout.readline().strip()
    mine, lock = new_session_folder(parent=tmp_path)
    assert remove_left_behind(tmp_path, clock=lambda: time.time() + 10 * YOUNG_S) == [] and os.path.isdir(theirs)
    other.kill()
    other.wait()
    assert remove_left_behind(tmp_path) == [theirs] and not os.path.exists(theirs) and os.path.isdir(mine)
    os.close(lock)


def test_a_folder_that_a_process_still_works_in_is_left_alone(tmp_path):
    folder, lock = new_session_folder(parent=tmp_path)
    os.close(lock)
    raylet = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", f"--log_dir={folder}/logs"])
    try:
        assert remove_left_behind(tmp_path) == []
    finally:
        raylet.kill()
        raylet.wait()
    assert remove_left_behind(tmp_path) == [folder]


def test_one_without_a_lock_is_left_alone_while_it_is_young_and_other_folders_always(tmp_path):
    for name in ("sweep-ray-old", "other", "sweep-test-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "sweep-ray-file").write_text("")
    (tmp_path / "sweep-ray-link").symlink_to(tmp_path / "other")
    now = (tmp_path / "sweep-ray-old").stat().st_mtime
    assert remove_left_behind(tmp_path, clock=lambda: now + YOUNG_S - 1) == []
    assert remove_left_behind(tmp_path, clock=lambda: now + YOUNG_S + 1) == [str(tmp_path / "sweep-ray-old")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "sweep-ray-file", "sweep-ray-link", "sweep-test-x"]
    assert remove_left_behind(tmp_path / "not-there") == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "sweep-ray-theirs").mkdir()
    os.chown(tmp_path / "sweep-ray-theirs", 12345, 12345)
    assert remove_left_behind(tmp_path, clock=lambda: time.time() + 2 * YOUNG_S) == []
