"""SIGTERM ends a command as Ctrl+C does, at whatever moment: exit code 130, one line, nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweep import cli
from sweep.interrupting import sigterm_interrupts

ROOT = Path(__file__).resolve().parents[2]


def test_sigterm_is_a_keyboard_interrupt_inside_and_what_it_was_outside():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_nothing_changes():
    handlers = []

    def look() -> None:
        with sigterm_interrupts():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_says_so_in_one_line(monkeypatch, capsys, tmp_path, number):
    from sweep import status

    monkeypatch.setattr(status, "standings_in", lambda storage: os.kill(os.getpid(), number) or time.sleep(5))
    assert cli.main(["list", "--storage", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_reader_that_has_seen_enough_is_no_failure(tmp_path):
    """As `| head -1` closes the pipe; the table is drawn by rich, which would exit with 1."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sweep", "plan", "search_spaces/captions.py"]
    command += ["--storage", str(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.ray
@pytest.mark.parametrize("phase", ["importing Ray", "starting Ray"])
@pytest.mark.parametrize("after_s", [0.0, 2.0])
def test_a_launch_that_is_ended_while_it_starts_exits_with_130_and_leaves_nothing(tmp_path, ray_home, phase, after_s):
    command = [sys.executable, "-m", "sweep", "launch", "search_spaces/captions.py", "--samples", "2", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--storage", str(tmp_path / "storage")], cwd=ROOT, env={**os.environ, "HOME": str(ray_home)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = ""
    while phase not in said:
        said += process.stdout.readline()
    time.sleep(after_s)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and output.splitlines()[-1] == "error: interrupted" and "Traceback" not in output
    assert not (tmp_path / "storage" / "captions").exists()
