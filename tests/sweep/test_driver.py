"""Whole studies in this process: the real searcher, scheduler, pool, worker and driver over a device that only computes."""

import math
from collections.abc import Callable

import pytest
from ray import tune

from sweep.driver import MAX_PROCESSES, Driver, run_here
from sweep.errors import LeaseLostError, StudyError
from sweep.keys import Keys
from sweep.messages import Answer, Outcome
from sweep.pareto import front_of
from sweep.pool import Pool
from sweep.records import TRIALS, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING, Searcher
from sweep.study import Epochs, Objective, Study
from sweep.trial_rows import past_of, trial_of_row
from sweep.worker import Worker
from tests.sweep.fakes import BACKBONES, OBJECTIVE, SPACE, FakeContent, FakeDevice, MemoryRecords, synthetic_values


class Bench:
    """A study with all that it runs on. `launch` runs it, `relaunch` again over the same records."""

    def __init__(self, study: Study, folder=None, *, max_concurrent: int = 4, clock=None, **device) -> None:
        self.study, self.max_concurrent = study, max_concurrent
        self.device = FakeDevice(**device)
        self.memory = MemoryRecords()
        self.records = Records(folder) if folder else self.memory
        self.clock = clock or (lambda: 0.0)

    def launch(self, *, turns: int = 100_000) -> Driver:
        return self.run(*self.prepare(), turns=turns)

    @staticmethod
    def run(driver: Driver, pool: Pool, worker: Worker, *, turns: int) -> Driver:
        remaining = iter(range(turns))

        def turn() -> bool:
            if next(remaining, None) is None:
                driver.stop()
            return worker.turn()

        run_here(driver, pool, turn)
        return driver

    def prepare(self) -> tuple[Driver, Pool, Worker]:
        past = [trial_of_row(row) for row in self.rows()]
        pool = Pool(known={row["evaluation_key"]: Outcome(_metrics(row), BACKBONES) for row in self.memory.rows})
        worker = Worker("w", pool, self.device, self.memory, sleep=lambda seconds: None)
        searcher = Searcher(self.study, past=[past_of(trial) for trial in past])
        asha = Asha(self.study.rungs, self.study.reduction_factor)
        keys = Keys(self.study, FakeContent())
        options = {"max_concurrent": self.max_concurrent, "past": past, "clock": self.clock}
        return Driver(self.study, keys, searcher, asha, pool, self.records, **options), pool, worker

    def rows(self) -> list[dict]:
        return list(self.memory.latest.values()) if self.records is self.memory else as_rows(self.records.latest_trials(), TRIALS)


def _metrics(row: dict) -> dict:
    return {name: row[name] for name in ("lpips", "fid")}


def a_study(**changes) -> Study:
    values = {"name": "s", "space": SPACE, "samples": 16, "epochs": Epochs(max=12, rungs=(3, 6)), "objective": OBJECTIVE, **changes}
    return Study(**values)


def test_a_study_runs_to_its_end_and_every_trial_has_one():
    driver = Bench(a_study()).launch()
    states = [trial.state for trial in driver.trials.values()]
    assert len(states) == 16 and set(states) <= {COMPLETE, PRUNED}
    assert states.count(PRUNED) >= 4 and states.count(COMPLETE) >= 3


def test_rows_on_disk_say_the_same_as_the_driver(tmp_path):
    bench = Bench(a_study(), tmp_path)
    driver = bench.launch()
    for row in bench.rows():
        trial = driver.trials[row["trial"]]
        assert (row["state"], row["epochs"], row["objective"]) == (trial.state, trial.epochs, trial.objective)
        assert [tuple(rung) for rung in row["rung_values"]] == trial.rungs


def test_the_value_of_a_trial_is_that_of_its_best_rung():
    bench = Bench(a_study(samples=1))
    driver, pool, _ = bench.prepare()
    driver.fill()
    for epoch, lpips in ((3, 0.5), (6, 0.2), (12, 0.4)):
        outcome = Outcome({"lpips": lpips, "fid": 200 * lpips}, BACKBONES)
        driver.hear("t0000", Answer("rung", epoch, f"key{epoch}", outcome, is_last=epoch == 12))
    trial = driver.trials["t0000"]
    assert (trial.state, trial.best, trial.epochs) == (COMPLETE, (6, 0.2, "key6"), 12)
    assert bench.rows()[0]["best_epoch"] == 6


def test_a_study_that_weighs_metrics_stops_nothing_and_finds_the_front_of_its_trials(tmp_path):
    study = a_study(pareto=("lpips", "epochs"), space={**SPACE, "epochs": tune.choice([3, 6, 12])}, epochs=None, samples=20, train_seeds=2)
    driver = Bench(study, tmp_path).launch()
    assert {trial.state for trial in driver.trials.values()} == {COMPLETE}
    for trial in driver.trials.values():
        train, rungs, evaluation = study.split(trial.configuration)
        lpips = [synthetic_values(one, rungs[-1], evaluation.guidance)["lpips"] for one in study.replicates(train)]
        assert trial.vector == (sum(lpips) / 2, rungs[-1])
    points = {trial.vector for trial in driver.trials.values()}
    beaten = {p for p in points if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert {trial.vector for trial in front_of(driver.trials.values(), study.pareto)} == points - beaten and beaten


def test_a_trial_without_a_metric_that_the_study_weighs_fails_with_the_reason():
    driver = Bench(a_study(pareto=("lpips", "kid"), samples=2)).launch()
    assert {(t.state, t.reason) for t in driver.trials.values()} == {(FAIL, "`pareto` needs `kid`, but the evaluation gives only fid, lpips.")}


def test_equal_trainings_are_trained_once_and_every_row_has_the_number_of_its_own_configuration():
    bench = Bench(a_study(space={}, rows=[{"rank": 8, "guidance": g} for g in (2.0, 4.0, 8.0)]))
    driver = bench.launch()
    assert len([event for event in bench.device.log if event[0] == "start"]) == 1
    for trial in driver.trials.values():
        train, _, evaluation = bench.study.split(trial.configuration)
        values = synthetic_values(train, 12, evaluation.guidance)
        assert trial.rungs[-1][1] == OBJECTIVE.value(values, BACKBONES)


def test_the_control_is_evaluated_once_per_evaluation():
    bench = Bench(a_study())
    bench.launch()
    guidances = [row["configuration"]["guidance"] for row in bench.memory.rows if row["training_key"] == "none"]
    assert sorted(guidances) == sorted(set(guidances)) and len(guidances) >= 2


def test_fan_out_values_that_are_added_later_are_scored_for_the_trials_that_have_ended_and_for_the_control():
    space = {"rank": tune.choice([4, 8, 16])}
    bench = Bench(a_study(space=space, fixed={"guidance": 4.0}, samples=5))
    bench.launch()
    bench.study = a_study(space=space, fan_out={"guidance": [4.0, 6.0]}, samples=5)
    trained = len([event for event in bench.device.log if event[0] == "advance"])
    driver = bench.launch()
    assert driver.started_now == set() and len([event for event in bench.device.log if event[0] == "advance"]) == trained
    scored = {(row["training_key"], row["configuration"]["guidance"]) for row in bench.memory.rows}
    assert {(trial.training_key, 6.0) for trial in driver.trials.values()} | {("none", 4.0), ("none", 6.0)} <= scored


def test_fan_out_is_scored_at_the_last_epoch_of_every_trial():
    study = a_study(space={"rank": tune.choice([4, 8, 16])}, fan_out={"guidance": [4.0, 6.0, 8.0]}, samples=6)
    bench = Bench(study)
    driver = bench.launch()
    scored = {(row["training_key"], row["epoch"], row["configuration"]["guidance"]) for row in bench.memory.rows}
    for trial in driver.trials.values():
        assert {(trial.training_key, trial.epochs, g) for g in (4.0, 6.0, 8.0)} <= scored


def test_never_are_more_trials_live_than_allowed():
    driver, pool, worker = Bench(a_study(), max_concurrent=3).prepare()
    most = []
    run_here(driver, pool, worker.turn, on_change=lambda: most.append(len(driver.live)))
    assert max(most) == 3


def test_a_diverged_training_is_a_failed_trial_with_its_reason_and_is_not_retried():
    bench = Bench(a_study(), diverges=lambda config: config.learning_rate == 1e-2)
    driver = bench.launch()
    for trial in driver.trials.values():
        assert (trial.state == FAIL) == (trial.configuration["learning_rate"] == 1e-2)
        assert "diverged" in trial.reason or trial.state != FAIL
    assert driver.best.state != FAIL
    again = bench.launch()
    assert {t.id: t.state for t in again.trials.values()} == {t.id: t.state for t in driver.trials.values()}


def test_a_metric_that_is_not_finite_fails_the_trial():
    driver, *_ = Bench(a_study(samples=2)).prepare()
    driver.fill()
    assert not driver.hear("t0000", Answer("rung", 3, "key", Outcome({"lpips": 0.5, "fid": math.nan}, BACKBONES)))
    assert driver.trials["t0000"].state == FAIL and "fid" in driver.trials["t0000"].reason


def test_a_scale_that_no_trial_can_have_ends_the_study():
    driver, *_ = Bench(a_study(objective=Objective(lpips=1.0))).prepare()
    driver.fill()
    driver.hear("t0000", Answer("rung", 3, "key", Outcome({"lpips": 0.5}, {"perceptual": "mine"})))
    assert driver.fatal is not None and "mine" in str(driver.fatal) and driver.live == []
    assert {trial.reason for trial in driver.trials.values()} == {f"interrupted: {driver.fatal}"}


def test_trials_that_ended_with_their_study_are_tried_again_whatever_ended_it():
    bench = Bench(a_study(samples=4))
    driver, *_ = bench.prepare()
    driver.fill()
    driver.fail(StudyError("LPIPS needs the weight file alexnet.pth, which is not there. Put it there."))
    assert len(driver.trials) == 4 and {trial.state for trial in driver.trials.values()} == {FAIL}
    again = bench.launch()
    assert again.trials.keys() == driver.trials.keys() and {t.state for t in again.trials.values()} <= {COMPLETE, PRUNED}


def test_a_space_that_gives_no_parameters_after_some_trials_ends_the_study_in_words():
    def broken(trial):
        return {"rank": trial.suggest_categorical("rank", [8, 16])} if trial.number < 12 else None

    driver = Bench(a_study(space=broken, samples=14)).launch()
    assert "must return a dict" in str(driver.fatal) and driver.live == []


def test_a_configuration_that_cannot_be_used_is_a_failed_trial():
    def sometimes_wrong(trial):
        return {"rank": trial.suggest_categorical("rank", [8, 16]), **({"dropout": 1.5} if trial.number == 12 else {})}

    driver = Bench(a_study(space=sometimes_wrong, samples=14)).launch()
    assert driver.trials["t0012"].state == FAIL and "dropout" in driver.trials["t0012"].reason
    assert driver.trials["t0013"].state != FAIL


def test_a_relaunch_of_a_finished_study_does_nothing():
    bench = Bench(a_study())
    bench.launch()
    bench.device.log.clear()
    driver = bench.launch()
    assert bench.device.log == [] and len(driver.trials) == 16


def test_an_interrupted_study_ends_every_trial_and_goes_on_where_it_stopped():
    bench = Bench(a_study())
    driver = bench.launch(turns=12)
    reasons = {trial.reason for trial in driver.trials.values() if trial.state == FAIL}
    assert reasons == {"interrupted"} and not [t for t in driver.trials.values() if t.state == RUNNING]
    assert all(row["state"] != RUNNING for row in bench.rows())
    scored_before = {row["evaluation_key"] for row in bench.memory.rows}
    bench.device.log.clear()
    driver = bench.launch()
    assert [t.id for t in sorted(driver.trials.values(), key=lambda t: t.number)] == [f"t{i:04d}" for i in range(16)]
    assert {t.state for t in driver.trials.values()} <= {COMPLETE, PRUNED}
    scored_now = {key for event in bench.device.log if event[0] == "evaluate" for key in event[1]}
    assert not scored_before & scored_now


def test_at_concurrency_1_an_interrupted_study_ends_as_an_uninterrupted_one():
    whole = Bench(a_study(), max_concurrent=1).launch()
    bench = Bench(a_study(), max_concurrent=1)
    bench.launch(turns=40)
    resumed = bench.launch()
    summary = lambda driver: {t.id: (t.configuration, t.state, t.rungs) for t in driver.trials.values()}  # noqa: E731
    assert summary(resumed) == summary(whole)


def test_a_trial_whose_process_is_lost_has_another_and_after_some_of_them_does_without():
    driver, pool, worker = Bench(a_study(samples=1, early_stopping=None), max_concurrent=1).prepare()
    for _ in range(MAX_PROCESSES):
        assert driver.next_to_run() == "t0000"
        driver.attend("t0000")
        driver.lost("t0000")
    assert driver.next_to_run() is None and driver.trials["t0000"].state == RUNNING
    while not driver.finished:
        driver.hear_unattended(pool.answers())
        worker.turn()
    assert driver.trials["t0000"].state == COMPLETE


def test_the_baseline_is_never_stopped_early():
    worst = {"rank": 4, "learning_rate": 1e-4, "guidance": 8.0}
    driver = Bench(a_study(baseline=worst)).launch()
    assert driver.trials["t0000"].state == COMPLETE and driver.trials["t0000"].labels["baseline"]


def test_a_budget_starts_no_further_trial_and_ends_those_that_run():
    now = [0.0]
    bench = Bench(a_study(budget_hours=1), clock=lambda: now[0])
    driver, pool, worker = bench.prepare()

    def turn() -> bool:
        now[0] += 120
        return worker.turn()

    run_here(driver, pool, turn)
    assert 4 <= len(driver.trials) < 16 and "budget of 1 hours" in driver.stopping
    assert {trial.state for trial in driver.trials.values()} <= {COMPLETE, PRUNED}


@pytest.mark.parametrize(
    "schedule, state",
    [({}, COMPLETE), ({"schedule_epochs": 12}, COMPLETE), ({"schedule_epochs": None}, PRUNED)],
)
def test_a_sampled_length_that_was_stopped_is_a_shorter_training_unless_its_learning_rate_was_that_of_the_longer_one(
    schedule, state
):
    fixed = {"lr_schedule": "cosine", **schedule} if schedule else {}
    study = a_study(
        space={**SPACE, "epochs": tune.choice([3, 12])},
        epochs=Epochs(max=12, rungs=(3, 6)),
        fixed=fixed,
    )
    driver = Bench(study).launch()
    stopped = [
        trial
        for trial in driver.trials.values()
        if trial.sampled["epochs"] == 12 and trial.epochs < 12
    ]
    assert stopped and {trial.state for trial in stopped} == {state}
    assert all(
        trial.configuration["epochs"] == (trial.epochs if state == COMPLETE else 12)
        for trial in stopped
    )


def test_a_sampled_length_that_is_stopped_is_complete_at_the_length_where_it_stopped():
    study = a_study(space={**SPACE, "epochs": tune.choice([3, 6, 12])}, epochs=Epochs(max=12, rungs=(3, 6)))
    driver = Bench(study).launch()
    assert {trial.state for trial in driver.trials.values()} == {COMPLETE}
    assert all(trial.configuration["epochs"] == trial.epochs for trial in driver.trials.values())
    assert any("stopped early" in trial.reason for trial in driver.trials.values())


def test_the_value_of_a_replicated_trial_is_the_mean_over_its_seeds_and_their_spread_is_recorded():
    study = a_study(space={}, rows=[{"rank": 8, "guidance": 2.0}, {"rank": 16, "guidance": 4.0}], train_seeds=3, epochs=Epochs(max=4, rungs=(2,)))
    bench = Bench(study)
    driver = bench.launch()
    for trial in driver.trials.values():
        train, _, evaluation = study.split(trial.configuration)
        first = OBJECTIVE.value(synthetic_values(train, 4, evaluation.guidance), BACKBONES)
        # Seeds 0, 1, 2 score first, first + 0.01, first + 0.02: LPIPS and FID / 200 are both that much worse, and weigh a half each.
        assert trial.objective == pytest.approx(first + 0.01) and trial.spread == pytest.approx(0.01)
        assert trial.seed_objectives[4] == pytest.approx((first, first + 0.01, first + 0.02)) and len(trial.rungs[-1]) == 2 + 3
    row = bench.rows()[0]
    assert row["seed_objectives"] == pytest.approx(list(driver.trials["t0000"].seed_objectives[4]))
    assert [len(rung) for rung in row["rung_values"]] == [5, 5]


def test_every_replicate_is_a_training_that_a_trial_of_its_seed_alone_shares():
    study = a_study(space={}, rows=[{"rank": 8}], train_seeds=2)
    alone = [Keys(study, FakeContent()).subscription("t", {"rank": 8, "train_seed": seed}).training_key for seed in (0, 1)]
    together = Keys(study, FakeContent()).subscription("t", {"rank": 8})
    assert [one.training_key for one in together.under_each_seed] == alone and len(set(alone)) == 2
    before, after = Bench(a_study(space={}, rows=[{"rank": 8, "train_seed": 1}])), Bench(study)
    before.launch()
    after.device.stored = before.device.stored
    after.launch()
    trained = {key for event in after.device.log if event[0] == "advance" for key in event[1]}
    assert trained == {alone[0]}  # the adapters of seed 1 are stored already


@pytest.mark.parametrize("n_slots", [1, 2, 3, 8])
def test_replicates_stop_early_together_however_few_slots_there_are(n_slots):
    study = a_study(train_seeds=3)
    bench = Bench(study, n_slots=n_slots)
    driver = bench.launch()
    assert {trial.state for trial in driver.trials.values()} == {COMPLETE, PRUNED}
    furthest = {}
    for _, key, epoch in (event for event in bench.device.log if event[0] == "save"):
        furthest[key] = max(epoch, furthest.get(key, 0))
    keys = Keys(study, FakeContent())
    for trial in driver.trials.values():
        assert [len(rung) for rung in trial.rungs] == [5] * len(trial.rungs)
    for trial in (trial for trial in driver.trials.values() if trial.state == PRUNED):
        for one in keys.subscription(trial.id, trial.configuration).under_each_seed:
            others = [t.epochs for t in driver.trials.values() if t.training_key == trial.training_key]
            assert furthest[one.training_key] <= max(others), "nobody trains past the rung at which its trial was stopped"


def test_replicates_of_an_interrupted_study_go_on_and_nothing_is_scored_twice():
    whole = Bench(a_study(train_seeds=2), max_concurrent=1).launch()
    bench = Bench(a_study(train_seeds=2), max_concurrent=1)
    bench.launch(turns=60)
    scored = [row["evaluation_key"] for row in bench.memory.rows]
    resumed = bench.launch()
    summary = lambda driver: {t.id: (t.configuration, t.state, t.rungs, t.spread) for t in driver.trials.values()}  # noqa: E731
    assert summary(resumed) == summary(whole)
    assert len(scored) < len(bench.memory.rows) == len({row["evaluation_key"] for row in bench.memory.rows})


def test_a_replicate_that_diverges_fails_its_trial_and_names_its_seed():
    study = a_study(space={}, rows=[{"rank": 8}, {"rank": 16}], train_seeds=3)
    driver = Bench(study, diverges=lambda config: config.rank == 8 and config.train_seed == 2).launch()
    assert driver.trials["t0000"].state == FAIL and driver.trials["t0000"].reason.startswith("train_seed 2: training diverged")
    assert driver.trials["t0001"].state == COMPLETE


def test_fan_out_is_scored_under_every_seed():
    bench = Bench(a_study(space={}, rows=[{"rank": 8}], train_seeds=2, fan_out={"guidance": [4.0, 6.0]}))
    bench.launch()
    last = [row for row in bench.memory.rows if row["epoch"] == 12]
    assert len({row["training_key"] for row in last}) == 2
    assert sorted(row["configuration"]["guidance"] for row in last) == [4.0, 4.0, 6.0, 6.0]


def test_rows_of_the_schema_before_replicates_are_still_read(tmp_path):
    records = Records(tmp_path)
    row = {"trial": "t0000", "number": 0, "state": "COMPLETE", "schema_version": 2, "started_at": 0.0, "seconds": 1.0}
    records.append_trial({**row, "best_epoch": 6, "objective": 0.25, "rung_values": [[3, 0.5, "a"], [6, 0.25, "b"]], "shared_epochs": 0})
    trial = trial_of_row(as_rows(records.latest_trials(), TRIALS)[0])
    assert trial.best == (6, 0.25, "b") and trial.spread is None


@pytest.mark.parametrize("state", [COMPLETE, PRUNED])
def test_a_trial_survives_its_row(tmp_path, state):
    bench = Bench(a_study(), tmp_path)
    driver = bench.launch()
    wanted = next(t for t in driver.trials.values() if t.state == state)
    read = trial_of_row(next(row for row in bench.rows() if row["trial"] == wanted.id))
    assert (read.configuration, read.rungs, read.state, read.number) == (wanted.configuration, wanted.rungs, state, wanted.number)


# -- pause, stop at rungs, limits ----------------------------------------------------------------------------------------


def listed_study(**changes) -> Study:
    """Eight trainings of their own, none of which is stopped early."""
    return a_study(space={}, rows=[{"rank": 2**i} for i in range(8)], samples=None, **changes)


def turned(driver, pool, worker, *, times: int) -> None:
    """So many turns of the worker, each after the trials have asked for their rungs."""
    for _ in range(times):
        for trial in driver.live:
            driver.hear(trial.id, pool.next_rung(trial.id, trial.epochs))
        worker.turn()


def under_way(driver, pool) -> list[str]:
    trainings = pool.snapshot()["trials"]
    return [t.id for t in driver.live if t.id in trainings and (trainings[t.id]["worker"] or trainings[t.id]["epoch"] > t.epochs)]


def test_a_pause_lets_the_rungs_under_way_finish_and_then_nothing_trains_until_it_ends():
    bench = Bench(listed_study(), n_slots=2)
    driver, pool, worker = bench.prepare()
    driver.fill()
    turned(driver, pool, worker, times=2)
    driver.pause(under_way(driver, pool))
    turned(driver, pool, worker, times=30)
    epochs = {trial.id: trial.epochs for trial in driver.live}
    n_advanced = len([event for event in bench.device.log if event[0] == "advance"])
    assert len(epochs) == 4 and sorted(epochs.values()) == [0, 0, 3, 3] and bench.device.held == ()
    turned(driver, pool, worker, times=30)
    assert len([event for event in bench.device.log if event[0] == "advance"]) == n_advanced and len(driver.trials) == 4
    assert not driver.finished and driver.next_to_run() is None
    driver.go_on()
    run_here(driver, pool, worker.turn)
    assert {trial.state for trial in driver.trials.values()} == {COMPLETE} and len(driver.trials) == 8
    assert [e for e in bench.device.log if e[0] == "start" and e[2] == 3], "what was held went on from its last adapter"


def test_at_concurrency_1_a_paused_study_ends_as_one_that_was_not():
    whole = Bench(a_study(), max_concurrent=1).launch()
    driver, pool, worker = Bench(a_study(), max_concurrent=1).prepare()
    driver.fill()
    for _ in range(4):
        turned(driver, pool, worker, times=7)
        driver.pause(under_way(driver, pool))
        turned(driver, pool, worker, times=7)
        driver.go_on()
    run_here(driver, pool, worker.turn)
    summary = lambda driver: {t.id: (t.configuration, t.state, t.rungs, t.shared_epochs) for t in driver.trials.values()}  # noqa: E731
    assert summary(driver) == summary(whole)


def test_a_process_that_was_told_to_go_when_its_trial_was_held_neither_fails_nor_ends_it():
    driver, pool, worker = Bench(a_study(samples=1), max_concurrent=1).prepare()
    assert driver.next_to_run() == "t0000"
    driver.attend("t0000")
    driver.pause()
    late = pool.next_rung("t0000", 0)
    assert late.kind == "failed"
    driver.go_on()
    assert driver.next_to_run() is None  # the old process is still there
    assert not driver.hear("t0000", late) and driver.trials["t0000"].state == RUNNING
    driver.lost("t0000")
    assert driver.trials["t0000"].state == RUNNING and driver.next_to_run() == "t0000"


def test_a_stop_at_rungs_ends_what_is_under_way_at_its_next_rung_and_the_rest_at_once():
    driver, pool, worker = Bench(listed_study(), n_slots=2).prepare()
    driver.fill()
    turned(driver, pool, worker, times=2)
    driver.wind_down("interrupted by `sweep stop`", under_way(driver, pool))
    assert len(driver.live) == 2
    turned(driver, pool, worker, times=30)
    assert driver.finished and driver.live == [] and len(driver.trials) == 4
    assert sorted(trial.epochs for trial in driver.trials.values()) == [0, 0, 3, 3]
    assert {(trial.state, trial.reason) for trial in driver.trials.values()} == {(FAIL, "interrupted by `sweep stop`")}


def test_a_stop_during_a_pause_ends_what_is_held_at_once():
    driver, pool, worker = Bench(a_study()).prepare()
    driver.fill()
    driver.pause()
    driver.wind_down("interrupted", under_way(driver, pool))
    assert driver.finished and {trial.state for trial in driver.trials.values()} == {FAIL}


def test_limits_change_while_a_study_runs():
    bench = Bench(a_study(samples=3), max_concurrent=1)
    driver, pool, worker = bench.prepare()
    driver.fill()
    driver.change_limits({"samples": 7, "max_concurrent": 3})
    assert len(driver.live) == 3 and driver.n_trials == 7
    run_here(driver, pool, worker.turn)
    assert len(driver.trials) == 7
    with pytest.raises(StudyError, match="samples.*0"):
        driver.change_limits({"samples": 0})
    assert driver.study.samples == 7


def test_fewer_samples_end_a_study_when_its_live_trials_have_ended():
    driver, pool, worker = Bench(a_study(samples=16), max_concurrent=4).prepare()
    driver.fill()
    driver.change_limits({"samples": 2})
    run_here(driver, pool, worker.turn)
    assert len(driver.trials) == 4 == driver.n_trials and {t.state for t in driver.trials.values()} <= {COMPLETE, PRUNED}


def test_a_budget_that_is_raised_lets_further_trials_start():
    now = [0.0]
    driver, *_ = Bench(a_study(budget_hours=1), clock=lambda: now[0]).prepare()
    driver.fill()
    now[0] = 3601.0
    driver.hear("t0000", Answer("failed", reason="training diverged"))
    assert len(driver.live) == 3 and "budget of 1 hours" in driver.stopping
    driver.change_limits({"budget_hours": 2})
    assert driver.stopping is None and len(driver.live) == 4


def test_a_budget_of_gpu_hours_counts_what_all_launches_have_used():
    from types import SimpleNamespace

    usage = SimpleNamespace(hours=0.0, gpu_hours=2.5)
    study = a_study(budget_gpu_hours=2)
    driver = Driver(study, Keys(study, FakeContent()), Searcher(study), Asha((), None), Pool(), MemoryRecords(), max_concurrent=4, usage=usage)
    driver.fill()
    assert driver.trials == {} and driver.stopping == "the budget of 2 GPU hours is used up" and driver.finished


def test_a_launch_that_another_has_replaced_writes_no_further_row():
    bench = Bench(a_study())
    driver, *_ = bench.prepare()
    driver.fill()
    rows = [dict(row) for row in bench.rows()]
    driver.abandon(StudyError("taken over"))
    driver.end_all()
    assert bench.rows() == rows and driver.finished and "taken over" in str(driver.fatal)


def taken_over_after(n_rows: int, rows: MemoryRecords) -> Callable[[dict], None]:
    """Writes of a launch that another replaces after so many of its rows."""

    def append(row: dict) -> None:
        if len(written) == n_rows:
            raise LeaseLostError("another has taken s over")
        written.append(row)
        MemoryRecords.append_trial(rows, row)

    written: list[dict] = []
    return append


@pytest.mark.parametrize("n_rows", range(11))
@pytest.mark.parametrize("ending", ["end_all", "wind_down", "pause"])
def test_a_launch_that_was_replaced_ends_without_another_row_whatever_it_was_about_to_write(n_rows, ending):
    bench = Bench(listed_study(), n_slots=2)
    driver, pool, worker = bench.prepare()
    bench.memory.append_trial = taken_over_after(n_rows, bench.memory)
    driver.fill()
    turned(driver, pool, worker, times=8)
    getattr(driver, ending)()
    if ending == "pause":
        driver.go_on()
    driver.end_all()
    driver.fill()
    n_written = sum(row["sequence"] + 1 for row in bench.memory.latest.values())
    assert n_written == n_rows and driver.finished and driver.live == []
    if n_rows < 10:  # all that it has to write
        assert isinstance(driver.fatal, LeaseLostError) and pool.next_rung("t0000", 0).kind == "closed"
