"""Studies that were cut off and went on, against the same studies that were not: their final tables are the same, to the last digit."""

import dataclasses

import pandas as pd
import pytest
from ray import tune

from analysis.load import load_study_records
from analysis.tables import ranked_trials
from sweep.driver import Driver, run_here
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.pareto import add_vectors
from sweep.pool import Pool
from sweep.records import TRIALS, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import COMPLETE, FAIL, PRUNED, Searcher
from sweep.study import Epochs, Study
from sweep.trial_rows import past_of, trial_of_row
from sweep.worker import Worker, known_outcomes
from tests.sweep.fakes import OBJECTIVE, SPACE, FakeContent, FakeDevice

GRID = {"rank": tune.choice([4, 16]), "learning_rate": tune.choice([1e-4, 1e-3]), "guidance": tune.choice([2.0, 4.0])}


class Killed(BaseException):
    """What a SIGKILL does to a launch: nothing runs after it."""


class PicturelessDevice(FakeDevice):
    def _image_set(self, order):
        scored = super()._image_set(order)
        values = {**scored.values, "diversity": 1 / order.config.guidance}  # against lpips, which is best at a guidance of 4
        return dataclasses.replace(scored, values=values, images=None, image_rows=())


def a_study(**changes) -> Study:
    return Study(**{"name": "s", "space": SPACE, "samples": 10, "epochs": Epochs(max=6, rungs=(1, 3)), "objective": OBJECTIVE, **changes})


def launch(study: Study, storage, *, max_concurrent: int, cut: str = "", turns: int = 10_000) -> Driver:
    """Launch over what the storage holds, and cut it off after so many turns of the worker."""
    folder = StudyFolder(storage, study.name)
    folder.adapters.mkdir(parents=True, exist_ok=True)
    folder.write_study(study, {})
    records = Records(folder.root)
    past = [trial_of_row(row) for row in as_rows(records.latest_trials(), TRIALS)]
    add_vectors(past, study.pareto, known_outcomes(records))
    pool = Pool(known_outcomes(records))
    searcher = Searcher(study, journal=folder.journal, past=[past_of(trial) for trial in past])
    asha = Asha(study.rungs, study.reduction_factor)
    driver = Driver(study, Keys(study, FakeContent()), searcher, asha, pool, records, max_concurrent=max_concurrent, past=past)
    device = PicturelessDevice(folder=folder.adapters)
    worker = Worker("w", pool, device, records, objective=study.objective, sleep=lambda seconds: None)
    remaining = iter(range(turns))

    def turn() -> bool:
        if next(remaining, None) is None and driver.stopping is None:
            if cut == "killed":
                raise Killed
            if cut == "stopped at rungs":
                trainings = pool.snapshot()["trials"]
                driver.wind_down("interrupted", [t.id for t in driver.live if trainings[t.id]["worker"] or trainings[t.id]["epoch"] > t.epochs])
            else:
                driver.stop()
        return worker.turn()

    try:
        run_here(driver, pool, turn)
        driver.end_all()
    except Killed:
        pass
    return driver


def table(storage) -> pd.DataFrame:
    """What `analysis tables` shows, without what depends on when something was done."""
    return ranked_trials(load_study_records("s", storage)).drop(columns=["seconds_generate", "seconds_score"], errors="ignore")


def states_in_optuna(storage) -> list[str]:
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(StudyFolder(storage, "s").journal))
    return [t.state.name for t in optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend)).trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, pd.DataFrame]:
    """The tables of the studies that nothing cuts off."""
    found = {}
    for name, (study, max_concurrent) in STUDIES.items():
        storage = tmp_path_factory.mktemp(name)
        launch(study, storage, max_concurrent=max_concurrent)
        found[name] = table(storage)
    return found


STUDIES = {
    "grid": (a_study(space=GRID, sampler="grid", samples=None, early_stopping=None), 4),
    "sampled": (a_study(), 1),
    "nsga2": (a_study(samples=14, pareto=("lpips", "diversity", "fid"), sampler="nsga2", train_seeds=2), 1),
    "tpe of several": (a_study(samples=14, pareto=("lpips", "diversity")), 1),
}


@pytest.mark.parametrize("cut", ["killed", "stopped", "stopped at rungs"])
@pytest.mark.parametrize("name, cuts_after", [("grid", (3, 9)), ("sampled", (4, 21)), ("nsga2", (40, 40)), ("tpe of several", (40, 40))])
def test_the_final_table_of_a_study_that_was_cut_off_twice_is_that_of_one_that_was_not(tmp_path, whole, name, cuts_after, cut):
    study, max_concurrent = STUDIES[name]
    for turns in cuts_after:
        cut_off = launch(study, tmp_path, max_concurrent=max_concurrent, cut=cut, turns=turns)
        assert not cut_off.finished or cut_off.stopping
    resumed = launch(study, tmp_path, max_concurrent=max_concurrent)
    assert {trial.state for trial in resumed.trials.values()} <= {COMPLETE, PRUNED} and len(resumed.trials) == study.n_trials
    pd.testing.assert_frame_equal(table(tmp_path), whole[name])
    assert set(states_in_optuna(tmp_path)) <= {COMPLETE, PRUNED}


def test_a_killed_launch_leaves_nothing_running_once_another_has_ended_even_if_that_had_no_time_for_it(tmp_path):
    study = STUDIES["grid"][0]
    launch(study, tmp_path, max_concurrent=4, cut="killed", turns=3)
    assert "RUNNING" in {row["state"] for row in as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)}
    launch(study, tmp_path, max_concurrent=1, cut="stopped", turns=0)  # only one trial starts again
    rows = as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)
    assert {(row["state"], row["reason"].split(":")[0]) for row in rows} == {(FAIL, "interrupted")}
    assert "RUNNING" not in states_in_optuna(tmp_path)
    assert {t.state for t in launch(study, tmp_path, max_concurrent=4).trials.values()} == {COMPLETE}


def test_a_trial_that_goes_on_counts_the_epochs_that_it_trained_before_as_its_own(tmp_path):
    study = a_study(space={}, rows=[{"rank": 4}], samples=None)
    launch(study, tmp_path, max_concurrent=1, cut="stopped at rungs", turns=1)  # ends at its first rung
    row = as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)[0]
    assert (row["state"], row["epochs"], row["shared_epochs"]) == (FAIL, 1, 0)
    launch(study, tmp_path, max_concurrent=1)
    row = as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)[0]
    assert (row["state"], row["epochs"], row["shared_epochs"]) == (COMPLETE, 6, 0)


@pytest.mark.parametrize(
    "change, n_trials",
    [
        ({"samples": 14}, 14),
        ({"samples": 4}, 10),
        ({"space": {**SPACE, "rank": tune.choice([4, 8, 16, 32, 64])}, "samples": 12}, 12),
        ({"space": {name: SPACE[name] for name in ("rank", "guidance")}, "fixed": {"learning_rate": 1e-3}, "samples": 12}, 12),
        ({"fan_out": {"images_per_prompt": [4, 5]}, "fixed": {}}, 10),
        ({"early_stopping": "off", "samples": 12}, 12),
    ],
)
def test_what_extends_a_study_is_honoured_and_leaves_what_was_tried_as_it_was(tmp_path, change, n_trials):
    before = launch(a_study(), tmp_path, max_concurrent=4)
    summary = {t.id: (t.configuration, t.state, t.rungs) for t in before.trials.values()}
    study = a_study(**change)
    StudyFolder(tmp_path, "s").require_comparable(study, {})
    after = launch(study, tmp_path, max_concurrent=4)
    assert {t.id: (t.configuration, t.state, t.rungs) for t in after.trials.values() if t.id in summary} == summary
    assert len(after.trials) == n_trials == after.n_trials
    if "fixed" in change and change["fixed"]:
        assert {t.configuration.get("learning_rate") for t in after.trials.values() if t.id not in summary} == {None}
