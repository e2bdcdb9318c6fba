"""The same study twice, with real training on a tiny model: what comes out a second time, to the last bit or to what tolerance."""

import dataclasses
from collections.abc import Callable

import pytest
from ray import tune

from sweep.device import PackDevice
from sweep.driver import Driver, run_here
from sweep.keys import Keys
from sweep.pool import Pool
from sweep.records import EVALUATIONS, IMAGES, TRIALS, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import Searcher
from sweep.study import Epochs, Objective, Study
from sweep.trial_rows import past_of, trial_of_row
from sweep.worker import Worker, known_outcomes

TIMES = ("seconds_generate", "seconds_score", "created_at")


@pytest.fixture
def study(model, subject) -> Study:
    return Study(
        name="s",
        subject=subject,
        model=model,
        space={"rank": tune.choice([2, 4]), "learning_rate": tune.loguniform(1e-4, 1e-2), "guidance": tune.choice([1.5, 4.0])},
        fixed={"caption": "v1", "steps": 2, "images_per_prompt": 1},
        epochs=Epochs(max=3, rungs=(1,)),
        objective=Objective(lpips=0.5, fid=0.5, scales={"lpips": 1.0, "fid": 100.0}),
        perceptual="embedded:perceptual",
        pooled="embedded:pooled",
        samples=7,
    )


def launched(study: Study, storage, *, max_concurrent: int) -> tuple[Driver, Records]:
    driver, pool, turn = made(study, storage, max_concurrent=max_concurrent)
    run_here(driver, pool, turn)
    return driver, Records(storage / "s")


def made(study: Study, storage, *, max_concurrent: int) -> tuple[Driver, Pool, Callable[[], bool]]:
    """A launch over what the storage holds: its driver, its pool, and a turn of its worker."""
    records = Records(storage / "s")
    past = [trial_of_row(row) for row in as_rows(records.latest_trials(), TRIALS)]
    pool = Pool(known_outcomes(records))
    device = PackDevice(device="cpu", n_threads=2, adapters=storage / "adapters", n_slots=max_concurrent, backbones=study.backbones)
    device.open()
    searcher, asha = Searcher(study, past=[past_of(trial) for trial in past]), Asha(study.rungs, study.reduction_factor)
    driver = Driver(study, Keys(study), searcher, asha, pool, records, max_concurrent=max_concurrent, past=past)
    return driver, pool, Worker("w", pool, device, records, objective=study.objective, sleep=lambda seconds: None).turn


def rows_of(records: Records) -> tuple[list[dict], list[dict]]:
    evaluations = [{k: v for k, v in row.items() if k not in TIMES} for row in as_rows(records.evaluations(), EVALUATIONS)]
    return sorted(evaluations, key=lambda row: row["evaluation_key"]), as_rows(records.images(), IMAGES)


def test_a_seeded_study_repeats_itself_to_the_last_bit_at_concurrency_1(study, tmp_path):
    first, first_records = launched(study, tmp_path / "first", max_concurrent=1)
    second, second_records = launched(study, tmp_path / "second", max_concurrent=1)
    assert len(first.trials) == 7 and len({trial.configuration["learning_rate"] for trial in first.trials.values()}) == 7
    for a, b in zip(first.trials.values(), second.trials.values(), strict=True):
        assert (a.id, a.configuration, a.state, a.rungs, a.reason) == (b.id, b.configuration, b.state, b.rungs, b.reason)
    assert rows_of(first_records) == rows_of(second_records)


def test_a_configuration_has_the_same_numbers_whatever_ran_beside_it(study, tmp_path):
    rows = [
        {"rank": rank, "learning_rate": rate, "guidance": guidance}
        for rank, rate in ((2, 1e-3), (4, 3e-4), (4, 5e-3))
        for guidance in (1.5, 4.0)
    ]
    listed = dataclasses.replace(study, space={}, samples=None, rows=rows)
    alone, _ = launched(listed, tmp_path / "alone", max_concurrent=1)
    together, _ = launched(listed, tmp_path / "together", max_concurrent=6)
    for a, b in zip(alone.trials.values(), together.trials.values(), strict=True):
        assert [epoch for epoch, _, _ in a.rungs] == [epoch for epoch, _, _ in b.rungs] == [1, 3]
        # A picture is rounded to 8 bits: a sum in another order may tip a pixel here and there.
        assert [value for _, value, _ in a.rungs] == pytest.approx([value for _, value, _ in b.rungs], rel=2e-3)
        assert [key for *_, key in a.rungs] == [key for *_, key in b.rungs]



def test_a_killed_study_goes_on_with_its_optimiser_states_to_the_same_numbers(study, tmp_path):
    rows = [{"rank": 2, "learning_rate": 1e-3, "guidance": 1.5}, {"rank": 4, "learning_rate": 5e-3, "guidance": 4.0}]
    listed = dataclasses.replace(study, space={}, samples=None, rows=rows)
    whole, whole_records = launched(listed, tmp_path / "whole", max_concurrent=2)
    driver, pool, turn = made(listed, tmp_path / "cut", max_concurrent=2)
    driver.fill()
    while not all(trial.epochs == 1 for trial in driver.live):  # both stand at their first rung of two
        for trial in driver.live:
            driver.hear(trial.id, pool.next_rung(trial.id, trial.epochs))
        turn()
    for lease in (tmp_path / "cut").rglob(".lease"):  # a process that is killed holds none
        lease.unlink()
    driver, pool, turn = made(listed, tmp_path / "cut", max_concurrent=2)
    run_here(driver, pool, turn)
    assert pool.snapshot()["epochs_trained"] == 2 * 2, "epochs 2 and 3 of both: they go on from epoch 1"
    assert {t.id: t.rungs for t in driver.trials.values()} == {t.id: t.rungs for t in whole.trials.values()}
    assert rows_of(Records(tmp_path / "cut" / "s")) == rows_of(whole_records)
