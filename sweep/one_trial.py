"""One configuration in this process: the real pool, worker, driver and records, without Ray and without other processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from sweep.driver import Driver, run_here
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.parameters import expand
from sweep.pool import Pool
from sweep.records import TRIALS, Records, as_rows
from sweep.scheduler import Asha
from sweep.searcher import RUNNING, Searcher, trial_id
from sweep.space import is_define_by_run
from sweep.study import Row, Study
from sweep.trial_rows import Trial
from sweep.worker import Device, Worker, known_outcomes
from trainables.cores import n_cores
from trainables.storage import Place, remove_tree


def one_trial_study(study: Study) -> Study:
    """The study whose only trial is what `--set` fixed, over the baseline, the first start point or the defaults."""
    start = study.baseline or next(iter((*study.try_first, *study.rows)), Row({}))
    chosen = {name: value for name, value in expand(start.configuration).items() if name not in expand(study.fixed)}
    return replace(
        study,
        name=f"{study.name}-trial",
        space={},
        rows=(Row({**_shown(study, chosen), **chosen}),),
        try_first=(),
        baseline=None,
        samples=None,
        sampler="random",
        early_stopping=None,
        pareto=(),  # one trial is beaten by none
        loggers=(),
        max_concurrent=1,
    )


def _shown(study: Study, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The values of what the study searches, and of what `--set` gave instead."""
    train, _, evaluation = study.split(chosen)
    values = {**asdict(train), **asdict(evaluation)}
    searched = () if is_define_by_run(study.space) else study.space
    names = expand(dict.fromkeys((*searched, *study.overrides)))
    return {name: values[name] for name in names if name in values and name != "subject"}


def run_trial_here(
    study: Study,
    storage: Place | str,
    *,
    device: str = "auto",
    again: bool = False,
    view: Any = None,
    make_device: Callable[[StudyFolder], Device] | None = None,
    keys: Keys | None = None,
) -> tuple[Driver, Mapping[str, Any]]:
    """Train and score the only configuration of `study`. Its trial is t0000, however often it is run; evaluations add up.

    `again` trains even what is stored already, and keeps it in the study's own folder.

    Raises: SweepError as a launch does."""
    keys = keys or Keys(study)
    folder = StudyFolder(storage, study.name)
    keys.check()
    with folder.held() as hold:
        made = make_device(folder) if make_device else _real_device(study, folder, device, again=again)
        folder.write_study(study, keys.content_digests())
        records = Records(folder.root, guard=hold.require)
        pool = Pool({} if again else known_outcomes(records))
        driver = _driver(study, keys, records, pool)
        worker = Worker("worker-0", pool, made, records, objective=study.objective)
        if view is not None:
            view.phase("loading torch and diffusers")
        made.open()
        _run(driver, pool, worker, view)
    if driver.fatal is not None:
        raise driver.fatal
    return driver, pool.snapshot()


def _driver(study: Study, keys: Keys, records: Records, pool: Pool) -> Driver:
    rows = as_rows(records.latest_trials(), TRIALS)
    past = [Trial(trial_id(0), 0, {}, state=RUNNING, n_rows=int(rows[0]["sequence"]) + 1)] if rows else []
    return Driver(study, keys, Searcher(study), Asha(study.rungs, None), pool, records, max_concurrent=1, past=past)


def _run(driver: Driver, pool: Pool, worker: Worker, view: Any) -> None:
    def show() -> None:
        if view is not None:
            view.update(driver, pool.snapshot())

    try:
        run_here(driver, pool, worker.turn, on_change=show)
    except KeyboardInterrupt:
        driver.stop()
    finally:
        driver.end_all()
        show()


def _real_device(study: Study, folder: StudyFolder, device: str, *, again: bool) -> Device:
    from sweep.device import PackDevice
    from sweep.device_facts import device_kind

    name = device_kind(device)
    n_threads = n_cores()
    # Apart from the storage's adapters, so that nothing that is stored there can be read instead.
    adapters = folder.root / "adapters" if again else folder.adapters
    if again:
        remove_tree(adapters)
    return PackDevice(
        device=name,
        adapters=adapters,
        latents=folder.latents,
        n_threads=n_threads,
        n_slots=1,
        backbones=study.backbones,
        metrics=study.metrics,
    )
