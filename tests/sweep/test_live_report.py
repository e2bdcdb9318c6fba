"""A report beside a launch: when it is made, what it may cost, what is said of one that fails, and that no process stays behind."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from sweep.folder import StudyFolder
from sweep.live_report import LEAST_EVERY_S, MOST_OF_THE_TIME, LiveReport, ReportProcess
from tests.sweep.fakes import FakeClock

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class FakeProcess:
    arguments: list[str]
    cpu_s: float = 0.0
    code: int | None = None
    reason: str = "no records"
    ended: bool = False

    def poll(self) -> int | None:
        return self.code

    def said(self) -> str:
        return self.reason

    def end(self) -> None:
        self.ended = True


@dataclass
class Starter:
    made: list[FakeProcess] = field(default_factory=list)

    def __call__(self, arguments) -> FakeProcess:
        assert all(process.ended for process in self.made), "one at a time"
        self.made.append(FakeProcess(list(arguments)))
        return self.made[-1]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def starter() -> Starter:
    return Starter()


@pytest.fixture
def report(tmp_path, clock, starter) -> LiveReport:
    made = LiveReport(start=starter, clock=clock)
    made.open(StudyFolder(tmp_path, "s"))
    return made


def test_it_begins_with_the_first_score_and_is_not_made_again_without_a_new_one(report, clock, starter, tmp_path):
    assert report.look(0) is None and not starter.made
    report.look(1)
    assert starter.made[0].arguments == ["s", "--storage", str(tmp_path), "-o", str(tmp_path / "s" / "report.html")]
    starter.made[0].code = 0
    for _ in range(1000):
        clock.sleep(1.0)
        assert report.look(1) is None
    assert len(starter.made) == 1 and starter.made[0].ended
    report.look(2)
    assert len(starter.made) == 2


@pytest.mark.parametrize(("cpu_s", "every_s"), [(0.1, LEAST_EVERY_S), (8.0, 160.0)])
def test_it_takes_at_most_a_twentieth_of_the_time(report, clock, starter, cpu_s, every_s):
    assert MOST_OF_THE_TIME == 1 / 20
    started = []
    for second in range(1000):
        report.look(second)
        if len(starter.made) > len(started):
            started.append(second)
            starter.made[-1].cpu_s, starter.made[-1].code = cpu_s, 0
        clock.sleep(1.0)
    assert {after - before for before, after in zip(started, started[1:])} == {every_s}


def test_a_failure_is_told_once_and_tried_again(report, clock, starter):
    told = []
    for second in range(200):
        told.append(report.look(second))
        if starter.made:
            starter.made[-1].code = 2
        clock.sleep(1.0)
    assert [said for said in told if said] == ["the report was not made: no records"] and len(starter.made) > 3


def test_at_the_end_it_is_made_once_more_and_says_where_it_is_or_why_not(report, starter, tmp_path):
    report.look(1)
    starter.made[0].code = None  # it is still at it, of what was scored before
    begin = starter.__call__

    def end_at_once(arguments, code):
        process = begin(arguments)
        process.code = code
        return process

    report._start = lambda arguments: end_at_once(arguments, 0)
    assert report.finish() == f"report                 {tmp_path / 's' / 'report.html'}"
    report._start = lambda arguments: end_at_once(arguments, 2)
    assert report.finish() == "the report was not made: no records"
    assert all(process.ended for process in starter.made) and len(starter.made) == 3


def test_ctrl_c_at_the_end_ends_the_report_alone(report, starter, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sweep.live_report.time.sleep", interrupt)
    assert "interrupted" in report.finish() and starter.made[0].ended


def test_of_a_study_in_a_store_it_is_put_there(s3, clock, starter, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    report, folder = LiveReport(start=starter, clock=clock), StudyFolder(s3, "s")
    report.open(folder)
    report.look(1)
    written = Path(starter.made[0].arguments[-1])
    written.parent.mkdir(parents=True)
    written.write_text("a page")
    starter.made[0].code = 0
    assert report.look(1) is None and (folder.root / "report.html").read_text() == "a page"


# ---- the process


def ended_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_report_of_nothing_fails_in_a_line(tmp_path):
    process = ReportProcess(["s", "--storage", str(tmp_path), "-o", str(tmp_path / "report.html")])
    while process.poll() is None:
        time.sleep(0.05)
    assert process.poll() == 2 and "s" in process.said() and "\n" not in process.said() and process.cpu_s > 0
    process.end()


LAUNCH = """
import sys, time
from sweep.live_report import ReportProcess
print(ReportProcess(sys.argv[1:])._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_report_ends_with_its_launch_however_that_ends(tmp_path, number):
    launch = subprocess.Popen([sys.executable, "-c", LAUNCH, "s", "--storage", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pid = int(launch.stdout.readline())
    report = psutil.Process(pid)
    while "report_process" not in " ".join(report.cmdline()):  # between fork and exec
        time.sleep(0.01)
    assert report.status() != psutil.STATUS_ZOMBIE
    launch.send_signal(number)
    launch.wait()
    assert ended_within(pid, 20.0)
