"""The runner: a study onto Ray. Starts Ray, the pool and one worker per device, lets Ray Tune run the trials, and cleans up.

What is decided in a study is the driver's; what is done on a device the worker's."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray

from sweep.control import Control
from sweep.disk import drop_states_of_stopped
from sweep.driver import Driver, TrialRecords
from sweep.clocks import AwakeClock
from sweep.errors import LeaseLostError, RecordsError, SweepError, WorkerError
from sweep.fleet import LOST_AFTER_S, Fleet
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.launches import LaunchLog, Request, new_launch_id, read_launches
from sweep.logger_feed import Feeds
from sweep.messages import Outcome
from sweep.moment import SILENT_AFTER_S
from sweep.pareto import add_vectors
from sweep.pool import Pool
from sweep.pool_actor import NAMESPACE, RemotePool, start_pool
from sweep.ray_session import Session, lost_process, ray_session
from sweep.records import MOST_PARTS, TRIALS, Records, as_rows
from sweep.room import disk_error, refusal_of
from sweep.scheduler import Asha
from sweep.searcher import RUNNING, Searcher
from sweep.standing_orders import StandingOrders, interruptions
from sweep.study import Study
from sweep.trial_rows import Trial, past_of, trial_of_row
from sweep.tuning import run_trials
from sweep.worker import Device, known_outcomes
from sweep.worker_actor import DeviceSpec
from trainables.storage import Place

logger = logging.getLogger(__name__)

SNAPSHOT_EVERY_S = 0.5
ANSWER_WITHIN_S = 5.0
LOOK_AT_RAY_EVERY_S = 2.0
PARTS_LEFT = 200  # of a table, that a launch leaves as they are


class View(Protocol):
    """Who watches a launch."""

    def phase(self, text: str) -> None: ...

    def update(self, driver: Driver, snapshot: Mapping[str, Any]) -> None: ...

    def during(self, folder: StudyFolder, launch: str) -> AbstractContextManager[None]:
        """Entered once the study's folder is this launch's, left before it is given up."""


@dataclass
class Launch:
    """How a study is launched, apart from what is in it."""

    storage: Place | str
    device: str = "auto"  # "auto", "cpu" or "cuda"
    max_concurrent: int | None = None
    pack_size: int | None = None  # None: measured
    pack_options: Mapping[str, bool] = field(default_factory=dict)  # keyword arguments of trainables.pack.Pack
    make_device: Callable[[DeviceSpec], Device] | None = None  # None: the real one
    keys: Keys | None = None
    view: View | None = None
    lost_after_s: float | None = None  # how long a worker may show no progress; None: fleet.LOST_AFTER_S
    again: Collection[str] = ()  # evaluation keys that are computed although they are recorded
    gone_adapters: Collection[tuple[str, int]] = ()  # by training key and epoch: trained although their trials have ended
    address: str | None = None  # of a Ray that runs, with all its nodes: "auto" or "HOST:PORT"; None: a Ray of our own on this machine


def launch(study: Study, how: Launch) -> tuple[Driver, Mapping[str, Any]]:
    """Run a study to its end, or on from where its records stop. Returns the driver, which knows how every trial ended, and the
    pool's last snapshot.

    Raises:
        SweepError: nothing was started, or the study could not go on; what is recorded stays valid."""
    folder = StudyFolder(how.storage, study.name)
    try:
        return _launch(study, how, folder)
    except (SweepError, OSError) as error:
        if (refusal := refusal_of(error)) is None:
            raise
        raise disk_error(refusal, folder, study.n_trials) from error


def _launch(study: Study, how: Launch, folder: StudyFolder) -> tuple[Driver, Mapping[str, Any]]:
    keys = how.keys or Keys(study)
    keys.check(folder, scores_here=how.address is None)
    launch_id = new_launch_id()
    watched = how.view.during(folder, launch_id) if how.view else nullcontext()
    with folder.held(launch_id) as hold, Feeds(study.loggers, folder) as feeds, watched:
        content = keys.content_digests()
        folder.require_comparable(study, content)
        read_launches(folder.launches)  # before anything starts: a damaged one is said
        _say(how, "starting Ray")
        records = Records(folder.root, launch=launch_id, guard=hold.require)
        rows = as_rows(records.latest_trials(), TRIALS)
        past = [trial_of_row(row) for row in rows]
        known = known_outcomes(records)
        add_vectors(past, study.pareto, known)
        feeds.start(rows)
        if (done := _already_done(study, keys, how, known, past)) is not None:
            folder.write_study(study, content)
            return done
        # Inside of Ray, whose own handler of SIGTERM would end us on the spot.
        with ray_session(how.address, device=how.device) as session, interruptions() as interrupted:
            hold.require()
            folder.write_study(study, content)
            log = LaunchLog(folder.launches, launch_id, _request(study, how), guard=hold.require)
            orders = StandingOrders(
                Control(folder.control, launch_id),
                log,
                interrupted,
                loss=hold.loss,
                changed=lambda changed: folder.write_study(changed, content),
            )
            return _run(study, folder, keys, how, session, orders, records, known, past, feeds)


def _request(study: Study, how: Launch) -> Request:
    options = {"device": how.device, "pack_size": how.pack_size, "lost_after": how.lost_after_s, **how.pack_options}
    return Request(dict(study.overrides), options, str(Path(study.file).absolute()) if study.file else "", os.getcwd())


def _already_done(
    study: Study, keys: Keys, how: Launch, known: Mapping[str, Outcome], past: Sequence[Trial]
) -> tuple[Driver, Mapping[str, Any]] | None:
    """What a launch would return if nothing is left to do, told without Ray and without writing a row; else None."""
    n_ended = sum(trial.state != RUNNING for trial in past)
    if not past or n_ended < study.n_trials:  # at a glance
        return None
    pool = Pool(_still_known(known, how))
    driver = _new_driver(study, keys, how, past, pool, _NoRows(), log=None, max_concurrent=1, journal=None)
    driver.ask_for_what_is_missing()
    driver.fill()
    snapshot = pool.snapshot()
    return (driver, snapshot) if driver.finished and not snapshot["requests_open"] else None


def _still_known(known: Mapping[str, Outcome], how: Launch) -> dict[str, Outcome]:
    """The outcomes that this launch need not compute."""
    return {key: outcome for key, outcome in known.items() if key not in how.again}


class _NoRows:
    """Records that forget: for asking what a study would do."""

    def append_trial(self, row: Mapping[str, Any]) -> None:
        pass


def _run(
    study: Study,
    folder: StudyFolder,
    keys: Keys,
    how: Launch,
    session: Session,
    orders: StandingOrders,
    records: Records,
    known: Mapping[str, Outcome],
    past: Sequence[Trial],
    feeds: Feeds,
) -> tuple[Driver, Mapping[str, Any]]:
    device = session.device
    records.compact(least_parts=MOST_PARTS)  # of a launch that was killed
    pool_name = f"pool-{uuid.uuid4().hex[:12]}"
    pool = RemotePool(start_pool(_still_known(known, how), name=pool_name))
    fleet = Fleet(
        pool,
        folder,
        study,
        device=device,
        launch=orders.log.launch,
        is_cluster=how.address is not None,
        max_concurrent=how.max_concurrent,
        pack_size=how.pack_size,
        pack_options=how.pack_options,
        make_device=how.make_device,
        lost_after_s=how.lost_after_s,
    )
    _say(how, "loading torch and diffusers on the worker")
    heard = feeds.over(records)
    driver = _new_driver(study, keys, how, past, pool, heard, log=orders.log, max_concurrent=fleet.n_concurrent(study), journal=folder.journal)
    driver.metrics.update({key: outcome.values for key, outcome in known.items()})
    lost_after_s = how.lost_after_s or LOST_AFTER_S
    watch = _Watch(driver, pool, fleet, orders, how.view, on_gpus=device == "cuda", own_ray=how.address is None, lost_after_s=lost_after_s)
    try:
        watch.wait_until_up()
        driver.ask_for_what_is_missing()
        driver.fill()
        if not driver.finished:
            run_trials(driver, pool_name=pool_name, namespace=NAMESPACE, on_step=watch, folder=session.folder)
        while driver.stopping is None and watch.snapshot().get("requests_open"):
            time.sleep(0.1)
            watch()
    finally:
        driver.end_all()
        pool.close("the study has ended")
        fleet.join(timeout_s=2.0)
        orders.ended(driver)
        watch.show()
    if isinstance(driver.fatal, LeaseLostError):
        raise driver.fatal
    _compact(records)
    if driver.fatal is not None:
        raise driver.fatal
    try:
        drop_states_of_stopped(folder)
    except SweepError as error:  # another study's records are damaged: `sweep gc` will say so to who asks for it
        logger.warning("optimiser states stay: %s", error)
    return driver, watch.latest


def _compact(records: Records) -> None:
    """So that the next reader opens a few files and not thousands. What cannot be merged now is as good as it is."""
    try:
        records.compact(least_parts=PARTS_LEFT)
    except RecordsError as error:
        logger.warning(f"the records were not compacted: {error}")


def _say(how: Launch, text: str) -> None:
    if how.view is not None:
        how.view.phase(text)


def _new_driver(
    study: Study,
    keys: Keys,
    how: Launch,
    past: Sequence[Trial],
    pool: RemotePool | Pool,
    records: TrialRecords,
    *,
    log: LaunchLog | None,
    max_concurrent: int,
    journal: Path | None,
) -> Driver:
    searcher = Searcher(study, journal=journal, past=[past_of(trial) for trial in past])
    asha = Asha(study.rungs, study.reduction_factor)
    return Driver(study, keys, searcher, asha, pool, records, max_concurrent=max_concurrent, past=past, usage=log, gone_adapters=how.gone_adapters)


# ---- watching


class _Watch:
    """Called again and again while trials run: looks after the workers, obeys what was asked for, feeds the live view."""

    def __init__(
        self,
        driver: Driver,
        pool: RemotePool,
        fleet: Fleet,
        orders: StandingOrders,
        view: View | None,
        *,
        on_gpus: bool,
        own_ray: bool,
        lost_after_s: float,
    ) -> None:
        self._driver, self._pool, self._fleet, self._orders, self._view = driver, pool, fleet, orders, view
        self._on_gpus, self._own_ray = on_gpus, own_ray
        self._looked_at_ray_at = time.monotonic()
        self._lost_after_s = lost_after_s
        self._clock = AwakeClock()
        self._asked: Any = None
        self._asked_at = -SNAPSHOT_EVERY_S
        self._answered_at = self._clock()
        self._failed = self._pool_silent = False
        self._n_noticed = 0  # of the fleet's
        self.latest: dict[str, Any] = {}

    def __call__(self) -> None:
        try:
            self._look_after()
        except (SweepError, OSError) as error:  # what is written cannot be: Ray Tune would wrap it beyond recognition
            if not isinstance(error, SweepError) and (refusal := refusal_of(error)) is None:
                raise
            self._driver.fatal = self._driver.fatal or (error if isinstance(error, SweepError) else refusal)
            self._fail()

    def _look_after(self) -> None:
        self._driver.fatal = self._driver.fatal or self._lost_ray() or self._fleet.check(self.latest) or self._pool_is_lost()
        self._driver.max_concurrent = self._fleet.n_concurrent(self._driver.study)
        self._orders.obey(self._driver, self._under_way, self._silent_s, n_gpus=self._fleet.n_devices if self._on_gpus else 0)
        self._fail()
        self._refresh()

    def _fail(self) -> None:
        if self._driver.fatal is not None and not self._failed:
            self._failed = True
            self._driver.fail(self._driver.fatal)

    def wait_until_up(self) -> None:
        """What is told to the pool while its process still starts would arrive in any order."""
        while not self.latest and self._driver.stopping is None:
            self()
            time.sleep(0.02)

    def snapshot(self) -> dict[str, Any]:
        """The pool as it is now; as it was, where it does not answer."""
        with suppress(ray.exceptions.GetTimeoutError):
            self._take(ray.get(self._pool.actor.snapshot.remote(), timeout=ANSWER_WITHIN_S))
        return self.latest

    def show(self) -> None:
        if self._view is not None:
            self._view.update(self._driver, self.latest)

    def _lost_ray(self) -> SweepError | None:
        now = time.monotonic()
        if not self._own_ray or now - self._looked_at_ray_at < LOOK_AT_RAY_EVERY_S:
            return None
        self._looked_at_ray_at = now
        return lost_process()

    def _under_way(self) -> list[str]:
        """Trials whose training has a slot, or has come past the last rung that they heard of."""
        trainings = self.snapshot().get("trials", {})
        return [
            trial.id
            for trial in self._driver.live
            if (training := trainings.get(trial.id)) and (training["worker"] is not None or training["epoch"] > trial.epochs)
        ]

    def _silent_s(self) -> float:
        """For how long the most silent of those whom a rung under way needs has shown no progress."""
        return max([self._clock() - self._answered_at, *self._fleet.silent_s(self.latest).values()])

    def _pool_is_lost(self) -> WorkerError | None:
        silent_s = self._clock() - self._answered_at
        if silent_s < self._lost_after_s:
            return None
        return WorkerError(f"A study needs its pool of trainings, but its process has not answered for {silent_s:.0f} s. Launch it again: it goes on.")

    def _take(self, snapshot: Mapping[str, Any]) -> None:
        self._answered_at = self._clock()
        notices = (*self.latest.get("notices", ()), *self._fleet.notices[self._n_noticed :])
        self._n_noticed = len(self._fleet.notices)
        self.latest = {**snapshot, "left_out": self._fleet.left_out, "notices": notices, "silent_s": self._fleet.silent_s(snapshot)}

    def _refresh(self) -> None:
        now = self._clock()
        if self._asked is None and now - self._asked_at >= SNAPSHOT_EVERY_S:
            self._asked, self._asked_at = self._pool.actor.snapshot.remote(), now
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._take(ray.get(self._asked))
            self._asked = None
            self._driver.hear_unattended(self.latest["answers"])
            self._pool_silent = False
            self.show()
        elif now - self._answered_at >= SILENT_AFTER_S and not self._pool_silent:
            self._pool_silent = True
            said = f"the pool of trainings has not answered for {now - self._answered_at:.0f} s; after {self._lost_after_s:.0f} s the study ends"
            self.latest = {**self.latest, "notices": (*self.latest.get("notices", ()), said)}
            self.show()
