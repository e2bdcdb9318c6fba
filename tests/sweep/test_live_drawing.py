"""The live view as text: what is on it at which width, and that it never is larger than the terminal."""

import io

import pytest
from rich.console import Console

from sweep.live_drawing import LiveTable, heartbeat
from sweep.moment import TRAINS, WAITS, BestNow, Moment, Notice, TrialNow, WorkerNow
from sweep.searcher import COMPLETE, RUNNING
from sweep.wording import UNFINISHED


def a_moment(n_running: int = 2, n_workers: int = 2, **rest) -> Moment:
    configuration = {"caption": "v2", "rank": 16, "learning_rate": 0.001, "guidance": 4.0, "negative_prompt": "blurry, low quality, deformed"}
    trials = [TrialNow(f"t{i:04d}", TRAINS, 2.5, 9, 0.1234, 40.0 + i, 0.5, configuration) for i in range(n_running)]
    known = {
        "study": "captions",
        "elapsed_s": 83.0,
        "n_trials": 100,
        "counts": {RUNNING: n_running, COMPLETE: 5},
        "left_s": 240.0,
        "best": BestNow("t0003", 0.4321, 3, {"lpips": 0.3, "fid": 88.25}, configuration),
        "workers": tuple(WorkerNow(f"worker-{i}", f"here GPU {i}", "training 8 together" if i else "scoring 4 image sets", 3) for i in range(n_workers)),
        "trials": tuple(trials),
        "asked": (100, 10),
        "done": (75, 10),
        "notices": (Notice(1, 50.0, "first adapter scored after 50 s"), Notice(2, 60.0, "t0001  objective 0.5, stopped early", passing=True)),
    }
    return Moment(**{**known, **rest})


def drawn(moment: Moment, width: int, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(LiveTable(moment))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_tells_how_it_goes_what_is_best_who_does_what_and_what_was_saved(width):
    lines = drawn(a_moment(), width)
    text = "\n".join(lines)
    for said in (
        "captions  1:23   5 of 100 trials have ended, 2 running   time left about 4 min",
        "ended    5 done",
        "0.4321  t0003 at epoch 3   lpips 0.3  fid 88.25",
        "sharing  saved 25% of the epochs so far",
        "scoring 4 image sets",
        "2.5/9  0.1234     0.5000     41 s  caption=v2 rank=16",
        "1:00  t0001  objective 0.5, stopped early",
    ):
        assert said in text, text
    assert max(map(len, lines)) <= width and "first adapter" not in text
    assert ("here GPU 1: training 8 together; 3 stored or scored" in text) == (width == 140)


@pytest.mark.parametrize("height", [14, 24, 40])
def test_the_table_fits_the_terminal_and_counts_what_it_leaves_out(height):
    lines = drawn(a_moment(n_running=70, trials=a_moment(64).trials), 80, height)
    rows = [line for line in lines if line.startswith("t00")]
    assert len(lines) < height or height == 14 and len(rows) == 1  # the console ends with a line of its own
    assert f"and {70 - len(rows)} more" in lines


def test_many_workers_are_counted_by_what_they_do():
    text = "\n".join(drawn(a_moment(n_workers=40), 80))
    assert "39 workers training 8 together" in text and "worker-0 scoring 4 image sets" in text and "worker-7" not in text


def test_what_was_interrupted_is_told_as_not_finished():
    assert "ended    5 done, 3 not finished" in drawn(a_moment(counts={COMPLETE: 5, UNFINISHED: 3}), 80)
    assert "5 of 100 trials have ended, 0 running" in drawn(a_moment(counts={COMPLETE: 5, UNFINISHED: 3}), 80)[0]


def test_before_there_is_a_trial_the_table_is_one_line():
    assert drawn(Moment("captions", 5.0, phase="importing Ray"), 80) == ["captions  0:05   importing Ray ..."]


def test_what_comes_from_a_study_is_text_and_not_markup():
    moment = a_moment(best=BestNow("t0003", 0.4, 3, {}, {"negative_prompt": "[red]x[/red]"}))
    assert "negative_prompt=[red]x[/red]" in "\n".join(drawn(moment, 80))


def test_a_heartbeat_names_the_best_and_the_slowest_and_is_short_whatever_runs():
    said = heartbeat(a_moment(64))
    assert said == (
        "5 of 100 trials have ended, 64 running; best 0.4321 (t0003); slowest t0063 at epoch 2.5 of 9, 2 min still; time left about 4 min"
    )
    waiting = tuple(TrialNow(f"t{i}", WAITS, 0.0, 9) for i in range(3))
    assert heartbeat(a_moment(3, trials=waiting, best=None, left_s=None, mood="paused; `sweep resume` goes on", paused=True)) == (
        "5 of 100 trials have ended, 3 running; worker-0 scoring 4 image sets, worker-1 training 8 together; paused"
    )
