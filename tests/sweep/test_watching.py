"""Watching a launch through its folder: until it ends, and what is said of one that has."""

import io
import json

import pytest
from rich.console import Console

from sweep.cli import main
from sweep.folder import StudyFolder
from sweep.launches import LaunchLog, Request
from sweep.live_file import LiveFile, read_moment
from sweep.live_screen import LiveScreen
from sweep.moment import Moment, Notice, to_json
from sweep.study import Study
from sweep.watching import SILENT_S, ending_of, live_launch, watch_to_end
from tests.sweep.fakes import FakeClock


@pytest.fixture(params=["folder", "store"])
def folder(request, tmp_path) -> StudyFolder:
    storage = tmp_path if request.param == "folder" else request.getfixturevalue("s3")
    made = StudyFolder(storage, "mine")
    made.write_study(Study(name="mine"), {})
    return made


def say(folder: StudyFolder, moment: Moment, launch: str = "b") -> None:
    folder.live.parent.mkdir(parents=True, exist_ok=True)
    folder.live.write_text(to_json(moment, launch))


def watched(folder: StudyFolder, *steps) -> tuple[str | None, list[str]]:
    """How it ended, and the lines that it said; before each look but the first one of the steps is taken."""
    said, clock, left = io.StringIO(), FakeClock(), list(steps)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        left.pop(0)()

    screen = LiveScreen(Console(file=said, width=140), clock=clock)
    return watch_to_end(folder, screen, look_every_s=1.0, clock=clock, sleep=sleep), said.getvalue().splitlines()


def test_a_launch_is_shown_until_it_ends_and_then_how_it_did(folder):
    lease = folder.held("b")
    lease.__enter__()
    log = LaunchLog(folder.launches, "b", Request())
    say(folder, Moment("mine", 10.0, n_trials=4, notices=(Notice(1, 5.0, "old"),)))

    def end() -> None:
        log.end("interrupted")
        folder.live.unlink()
        lease.__exit__(None, None, None)

    def go_on() -> None:
        say(folder, Moment("mine", 12.0, n_trials=4, notices=(Notice(1, 5.0, "old"), Notice(2, 11.0, "new"))))

    ending, lines = watched(folder, lambda: None, go_on, end)
    assert lines == ["0:10  0 of 4 trials have ended, 0 running; time left not known yet", "0:11  new"]
    assert ending.startswith("interrupted, on ") and live_launch(folder) is None


def test_a_launch_that_begins_is_waited_for_and_another_ones_moment_is_not_shown(folder):
    lease = folder.held("b")
    lease.__enter__()
    say(folder, Moment("mine", 99.0, n_trials=4), launch="a")
    begin = lambda: say(folder, Moment("mine", 3.0, phase="starting Ray"))  # noqa: E731
    ending, lines = watched(folder, lambda: None, begin, lambda: lease.__exit__(None, None, None))
    assert lines == ["0:00  waiting for word of the launch ...", "0:03  starting Ray ..."]
    assert ending == "it ended before a trial began"


def test_silence_is_said(folder):
    lease = folder.held("b")
    lease.__enter__()
    say(folder, Moment("mine", 10.0, n_trials=4))
    moods = []

    class Screen:
        def show(self, moment: Moment) -> None:
            moods.append((moment.elapsed_s, moment.mood))

        def skip_notices(self, moment: Moment) -> None:
            pass

    clock = FakeClock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > SILENT_S + 1:
            lease.__exit__(None, None, None)

    watch_to_end(folder, Screen(), look_every_s=SILENT_S / 2, clock=clock, sleep=sleep)
    assert moods == [(10.0, "")]
    lease = folder.held("c")
    lease.__enter__()
    say(folder, Moment("mine", 10.0, n_trials=4), launch="c")
    clock.now, ends_at = 0.0, iter([False, False, False, True])
    watch_to_end(folder, Screen(), look_every_s=SILENT_S / 2, clock=clock, sleep=lambda s: (clock.sleep(s), next(ends_at) and lease.__exit__(None, None, None)))
    assert moods[1:] == [(10.0, ""), (40.0, "nothing heard of it for 30 s")]


def test_without_a_launch_it_is_said_how_the_last_one_ended_and_how_the_study_stands(folder, capsys):
    LaunchLog(folder.launches, "a", Request()).end("finished")
    LaunchLog(folder.launches, "b", Request())  # and it was killed
    assert main(["watch", "mine", "--storage", str(folder.storage)]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("No launch of mine is live. The last one: killed, on ") and second.startswith("mine: ")
    assert ending_of(folder, "a").startswith("finished, on ")


def test_ctrl_c_ends_the_watching_and_says_that_the_study_goes_on(folder, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sweep.watching.watch_to_end", interrupt)
    assert main(["watch", "mine", "--storage", str(folder.storage)]) == 130
    assert "mine goes on. `sweep watch mine" in capsys.readouterr().out


def test_a_study_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["watch", "yours", "--storage", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_damaged_or_of_another_version_says_nothing(tmp_path):
    path = tmp_path / "live.json"
    assert read_moment(path, "b") is None
    for text in ("{", json.dumps({"launch": "b", "progress": 3}), "[]"):
        path.write_text(text)
        assert read_moment(path, "b") is None


def test_a_storage_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "file").write_text("where a folder would have to be")
    with LiveFile(tmp_path / "file" / "live.json", "b", Moment("mine", 1.0), every_s=0.01) as file:
        file.write(Moment("mine", 2.0))
        file._ended.wait(0.05)
        assert file._writer.is_alive()
