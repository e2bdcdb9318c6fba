"""The same study twice, with real training on a tiny model: what comes out a second time, to the last bit or to what tolerance."""

import dataclasses

import pytest
from ray import tune

from sweep.device import PackDevice
from sweep.driver import Driver, run_here
from sweep.keys import Keys
from sweep.pool import Pool
from sweep.records import EVALUATIONS, IMAGES, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import Searcher
from sweep.study import Epochs, Objective, Study
from sweep.worker import Worker

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
    records, pool = Records(storage / "s"), Pool()
    device = PackDevice(device="cpu", n_threads=2, adapters=storage / "adapters", n_slots=max_concurrent, backbones=study.backbones)
    device.open()
    asha = Asha(study.rungs, study.reduction_factor)
    driver = Driver(study, Keys(study), Searcher(study), asha, pool, records, max_concurrent=max_concurrent)
    run_here(driver, pool, Worker("w", pool, device, records, objective=study.objective, sleep=lambda seconds: None).turn)
    return driver, records


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

