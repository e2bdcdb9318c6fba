"""The live view and the summary: what they say, by plain stand-ins for the driver."""

import io
from types import SimpleNamespace

from rich.console import Console

from sweep.progress import (
    Progress,
    event_line,
    front_lines,
    headline,
    left_text,
    ranked_table,
    ranking,
    saved_text,
    seconds_left,
    sharing_text,
)
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING
from sweep.trial_rows import Trial
from tests.sweep.fakes import OBJECTIVE, FakeClock


def a_trial(number: int, state: str = RUNNING, *rungs: tuple[int, float], **rest) -> Trial:
    named = [(epoch, value, f"key{number}@{epoch}") for epoch, value in rungs]
    return Trial(f"t{number:04d}", number, {"rank": 8}, state=state, rungs=named, max_epochs=12, **rest)


def a_driver(*trials: Trial, n_trials: int = 10, now: bool = True) -> SimpleNamespace:
    scored = [t for t in trials if t.rungs and t.state != FAIL]
    return SimpleNamespace(
        study=SimpleNamespace(name="s", objective=OBJECTIVE, train_seeds=1),
        trials={t.id: t for t in trials},
        live=[t for t in trials if t.state == RUNNING],
        best=min(scored, key=lambda t: t.objective, default=None),
        started_now={t.id for t in trials} if now else set(),
        n_trials=n_trials,
        controls={"c"},
        stopping=None,
        paused=False,
    )


def test_the_headline_counts_names_the_best_and_its_configuration():
    driver = a_driver(a_trial(0, COMPLETE, (3, 0.5), (6, 0.25)), a_trial(1, PRUNED, (3, 0.75)), a_trial(2), a_trial(3, FAIL))
    line = headline(driver, {}, 60.0)
    assert "1 running, 1 stopped early, 1 done, 1 failed of 10" in line and "best 0.2500 (t0000: rank=8)" in line


def test_time_left_is_the_rest_at_the_pace_so_far():
    driver = a_driver(a_trial(0, COMPLETE, (12, 0.5)), a_trial(1))
    snapshot = {"trials": {"t0001": {"epoch": 6.0}}}
    # 1.5 of 10 trials took 30 s: 8.5 are left
    assert abs(seconds_left(driver, snapshot, 30.0) - 30.0 * 8.5 / 1.5) < 1e-9
    assert seconds_left(a_driver(a_trial(0)), {}, 30.0) is None and left_text(None) == "not known yet"


def test_trials_of_an_earlier_launch_are_no_news_and_no_pace():
    console = Console(file=io.StringIO(), width=100)
    driver = a_driver(a_trial(0, COMPLETE, (12, 0.5)), now=False)
    Progress(console, clock=FakeClock()).update(driver, {})
    assert "t0000  objective" not in console.file.getvalue()
    assert seconds_left(driver, {}, 30.0) is None


def test_the_first_score_of_an_adapter_is_told_once_with_the_time_since_the_launch():
    clock, console = FakeClock(), Console(file=io.StringIO(), width=100)
    view = Progress(console, clock=clock)
    view.update(a_driver(a_trial(0)), {})
    clock.now = 41.0
    view.update(a_driver(a_trial(0, RUNNING, (3, 0.5))), {})
    view.update(a_driver(a_trial(0, RUNNING, (3, 0.5), (6, 0.4))), {})
    assert console.file.getvalue().count("first adapter scored after 41 s") == 1 and view.first_scored_s == 41.0


def test_without_a_terminal_there_is_a_line_per_event_and_a_heartbeat_every_ten_seconds():
    clock, console = FakeClock(), Console(file=io.StringIO(), width=100)
    view = Progress(console, clock=clock)
    for second in range(31):
        clock.now = float(second)
        view.update(a_driver(a_trial(0)), {})
    assert console.file.getvalue().count("1 running of 10") == 4  # at 0, 10, 20 and 30 s


def test_the_end_says_what_sharing_saved():
    trials = [a_trial(i, COMPLETE, (3, 0.5), (6, 0.25), training_key="A") for i in range(2)]
    assert sharing_text(a_driver(*trials), {"epochs_trained": 6, "rungs_scored": 3}) == (
        "2 trials from 1 distinct training; 12 epochs asked for and 6 trained, 4 scores asked for and 3 computed; "
        "sharing saved 50% of the epochs and 25% of the scores."
    )
    assert saved_text((6, 2), (6, 2)) == "nothing"


def test_an_event_says_how_a_trial_ended():
    assert event_line(a_trial(1, FAIL, reason="loss is NaN"), new_rung=False) == "t0001  failed: loss is NaN"
    assert "stopped early" in event_line(a_trial(1, PRUNED, (3, 0.5)), new_rung=True)
    assert "best 0.2500 at epoch 3" in event_line(a_trial(1, COMPLETE, (3, 0.25), (6, 0.5)), new_rung=True)
    assert event_line(a_trial(1), new_rung=False) == ""


def test_the_ranking_has_the_best_first_and_the_control_in_its_place():
    backbones = {"perceptual_backbone": "embedded:perceptual", "pooled_backbone": "embedded:pooled"}
    control = {"training_key": "none", "lpips": 0.6, "fid": 120.0, "configuration": {"infer_model": "m", "guidance": 3.0}, **backbones}
    driver = a_driver(a_trial(0, COMPLETE, (3, 0.75)), a_trial(1, COMPLETE, (3, 0.5)), a_trial(2, FAIL, (3, 0.1)))
    rows = ranking(driver, {"c": control, "of another subject": {**control, "lpips": 0.0, "fid": 0.0}})
    assert [row["trial"] for row in rows] == ["t0001", "no adapter", "t0000"]
    assert [row["rank"] for row in rows] == ["1", "", "2"]


def test_a_long_ranking_is_cut_but_never_loses_the_control():
    rows = [{"rank": str(i), "trial": f"t{i:04d}", "objective": i / 100, "spread": None, "epoch": 3, "lpips": 0.5, "fid": 1.0, "state": "done", "labels": "", "configuration": ""}
            for i in range(30)]  # fmt: skip
    rows.append({**rows[0], "trial": "no adapter", "rank": ""})
    console = Console(file=io.StringIO(), width=120)
    console.print(ranked_table(rows, n_rows=5))
    assert "t0004" in console.file.getvalue() and "t0005" not in console.file.getvalue() and "no adapter" in console.file.getvalue()


def test_replicated_trials_show_means_over_their_seeds_and_the_spread_of_the_objective():
    trial = a_trial(0, COMPLETE)
    trial.rungs, trial.seed_objectives = [(3, 0.5, "a", "b")], {3: (0.4, 0.6)}
    row = ranking(a_driver(trial), {"a": {"lpips": 1.0, "fid": 10.0}, "b": {"lpips": 2.0, "fid": 30.0}})[0]
    assert (row["lpips"], row["fid"]) == (1.5, 20.0) and abs(row["spread"] - 0.2 / 2**0.5) < 1e-12
    console = Console(file=io.StringIO(), width=120)
    console.print(ranked_table([row]))
    assert "0.5000 ± 0.1414" in console.file.getvalue()


def test_the_front_is_told_by_its_first_metric_with_what_each_trial_has():
    trials = [a_trial(n, COMPLETE, (6, 0.5), vectors={6: vector}) for n, vector in enumerate([(0.41237, 60.0), (0.3, 90.25), (0.5, 61.0)])]
    trials.append(a_trial(3, FAIL, (6, 0.1), vectors={6: (0.1, 1.0)}))
    assert front_lines(trials, ("lpips", "fid"), "s") == [
        "Pareto front: 2 of 3 trials are beaten by none in lpips and fid at once",
        "  t0001  lpips 0.3  fid 90.25 at epoch 6  rank=8",
        "  t0000  lpips 0.4124  fid 60 at epoch 6  rank=8",
    ]
    many = [a_trial(n, COMPLETE, (6, 0.5), vectors={6: (n, -n)}) for n in range(15)]
    assert front_lines(many, ("lpips", "fid"), "s")[-1] == "  and 3 more: analysis tables s --table pareto"
    assert front_lines(trials, (), "s") == front_lines([], ("lpips", "fid"), "s") == []


def test_a_pause_a_stop_and_a_budget_that_is_used_up_are_told_once_each():
    clock, console = FakeClock(), Console(file=io.StringIO(), width=140)
    view, driver = Progress(console, clock=clock), a_driver(a_trial(0))
    for paused, stopping in ((False, None), (True, None), (False, None), (False, "the budget of 1 hours is used up"), (False, "interrupted")):
        driver.paused, driver.stopping = paused, stopping
        for _ in range(3):
            view.update(driver, {})
    driver.live = []
    view.update(driver, {})
    said = [line.split("  ", 1)[1] for line in console.file.getvalue().splitlines() if "1 running of 10" not in line]
    assert [line.split(";")[0] for line in said if line.split(" ")[0] in ("paused", "going", "the", "interrupted:", "paused;")] == [
        "paused", "going on", "the budget of 1 hours is used up: the trials that run are finished", "interrupted: the rungs under way are finished",
    ]  # fmt: skip
