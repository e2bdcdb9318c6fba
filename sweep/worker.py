"""The worker: the loop of the process that owns one device. Asks the pool what to do, does it, records it, reports it.

It knows neither trials nor Ray nor torch: the device does the work, the pool decides what is worked on. sweep/worker_actor.py makes
it an actor; `sweep trial` runs it in its own process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from sweep.causes import Cause, cause_of
from sweep.errors import AdapterError, ContentChanged, DeviceLostError, DiskError, PassingError, RecordsError, SweepError
from sweep.messages import PHOTOGRAPHS, EvaluationOrder, EvaluationReport, Orders, Outcome, Sync, TrainingOrder, TrainingReport
from sweep.record_schema import EVALUATIONS, METRIC_COLUMNS
from sweep.records import Records, as_rows
from trainables.activity import Phase, Watch, note
from trainables.storage import refused_write

logger = logging.getLogger(__name__)

DECISION_WAIT_S = 0.5
"""How long a worker waits, once per rung, for trials to decide, lest stopped trainings train on."""

POLL_S = 0.02
IDLE_S = 0.1

PASSING = (PassingError, RecordsError, AdapterError, ContentChanged, OSError, MemoryError)
"""What is nobody's configuration: memory, a device, files that are away or damaged. The pool has it tried again."""

PHOTOGRAPHS_NAME = "your held-out photographs"
"""What tables call the row that says what real photographs of the subject score."""

ENDING = (DeviceLostError, DiskError)
"""What ends the worker, and not only what it was doing."""


@dataclass(frozen=True)
class ScoredImages:
    """One scored image set, as a device gives it. `images` are uint8 (n, h, w, 3); `error` and `cause` say why there are no values."""

    key: str
    values: Mapping[str, float] = field(default_factory=dict)
    backbones: Mapping[str, str] = field(default_factory=dict)
    images: Any = None
    image_rows: Sequence[Mapping[str, Any]] = ()
    row: Mapping[str, Any] = field(default_factory=dict)  # seconds, device and versions for the evaluation row
    error: str | None = None
    cause: Cause | None = None


class Device(Protocol):
    """What does the work. Guarantees: trainings do not influence each other; a stored adapter can be evaluated by any device; a PASSING
    error is nobody's configuration; after an ENDING error it can do nothing more."""

    n_slots: int
    n_image_sets: int

    @property
    def held(self) -> tuple[str, ...]:
        """Keys of the trainings that have a slot."""

    def open(self) -> None:
        """Import and warm up what takes seconds."""

    def start(self, order: TrainingOrder) -> TrainingReport:
        """Give a training a slot at the furthest stored epoch that helps; none if everything that it asks for is stored.

        Raises: SweepError when the configuration cannot be trained."""

    def stop(self, key: str) -> None:
        """Free a slot. A key that has none is no error."""

    def advance(self) -> list[TrainingReport]:
        """Train on, for at most an epoch, and say where each training stands. A failed one has left its slot."""

    def save(self, key: str) -> None:
        """Store a training's adapter at the epoch where it stands."""

    def evaluate(self, orders: Sequence[EvaluationOrder]) -> list[ScoredImages]:
        """Score stored adapters, one image set per order, in one batch."""


class PoolClient(Protocol):
    def sync(self, worker: str, sync: Sync) -> Orders: ...


class Objective(Protocol):
    def value(self, values: Mapping[str, float], backbones: Mapping[str, str]) -> float:
        """Raises: SweepError where the values give none."""

    def describe(self, backbones: Mapping[str, str]) -> str:
        """What the value adds up, in words."""


class RecordsWriter(Protocol):
    def append_evaluation(self, row: Mapping[str, Any], image_rows: Sequence[Mapping[str, Any]], pictures: Any) -> None: ...


class Worker:
    """Turns the pool's orders into the device's work until the pool is closed."""

    def __init__(
        self,
        worker_id: str,
        pool: PoolClient,
        device: Device,
        records: RecordsWriter,
        *,
        objective: Objective | None = None,
        device_name: str = "",
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.worker_id = worker_id
        self.pool = pool
        self.device = device
        self.records = records
        self.objective = objective
        self.device_name = device_name  # of all devices of the study; "": there is but this one
        self._clock = clock
        self._sleep = sleep
        self._wanted: dict[str, tuple[int, ...]] = {}
        self._trainings: list[TrainingReport] = []
        self._evaluations: list[EvaluationReport] = []
        self._watch = watch or Watch()
        self._logged = ""
        self._decide_until = -1.0

    def run(self) -> None:
        """Work until the pool is closed.

        Raises:
            DeviceLostError: the device answers no more.  DiskError: a disk takes no more.  SweepError: the device cannot be opened."""
        self.pool.sync(self.worker_id, first_sync(self._watch, self.device_name))
        with self._watch.watching():
            self._open()
        logger.info("ready")
        while self.turn():
            pass

    def turn(self) -> bool:
        """One exchange with the pool and one piece of work. False once the pool is closed."""
        with self._watch.watching():
            return self._turn()

    def _open(self) -> None:
        try:
            self.device.open()
        except (SweepError, OSError) as error:
            if (refused := refused_write(error)) is not None:
                raise DiskError.of(refused, str(error)) from error
            raise

    def _turn(self) -> bool:
        orders = self._exchange()
        if orders.closed:
            return False
        self._obey(orders)
        if orders.evaluate:
            self._evaluate(orders.evaluate)
            self._decide_until = self._clock() + DECISION_WAIT_S
        elif orders.undecided and self._clock() < self._decide_until:
            self._sleep(POLL_S)
        elif self.device.held:
            self._advance()
        else:
            self._say(Phase.WAITING, "for trainings")
            self._sleep(IDLE_S)
        return True

    def _exchange(self) -> Orders:
        held = self.device.held
        sync = Sync(
            held=held,
            n_slots=self.device.n_slots,
            n_image_sets=self.device.n_image_sets,
            doing=str(self._watch.activity),
            phase=self._watch.activity.phase,
            trainings=tuple(self._trainings),
            evaluations=tuple(self._evaluations),
            device=self.device_name,
        )
        orders = self.pool.sync(self.worker_id, sync)
        self._trainings, self._evaluations = [], []
        return orders

    def _say(self, phase: Phase, what: str = "") -> None:
        """What it is at, for the live view and, where it is news, for the log."""
        note(phase, what)
        if (doing := str(self._watch.activity)) != self._logged:
            self._logged = doing
            logger.info(doing)

    def _obey(self, orders: Orders) -> None:
        for key in self.device.held:
            if key not in orders.keep:
                self.device.stop(key)
        self._wanted = dict(orders.keep)
        for order in orders.start:
            self._say(Phase.LOADING, "a training")
            self._wanted[order.key] = order.epochs
            self._trainings.append(self._started(order))

    def _started(self, order: TrainingOrder) -> TrainingReport:
        try:
            return self.device.start(order)
        except ENDING:
            raise
        except Exception as error:  # whatever it is, it is this training's, and the others go on
            return _ended(order.key, error, f"training {order.key} could not start")

    def _advance(self) -> None:
        self._say(Phase.TRAINING, f"{n} together" if (n := len(self.device.held)) > 1 else "")
        try:
            reports = self.device.advance()
        except ENDING:
            raise
        except Exception as error:
            reports = [_ended(key, error, f"the pack of {len(self.device.held)} trainings failed") for key in self.device.held]
            for key in self.device.held:
                self.device.stop(key)
        self._trainings += [self._saved(report) for report in reports]

    def _saved(self, report: TrainingReport) -> TrainingReport:
        if report.error is not None or report.epoch in report.stored or report.epoch not in self._wanted.get(report.key, ()):
            return report
        try:
            self.device.save(report.key)
        except ENDING:
            raise
        except Exception as error:
            self.device.stop(report.key)
            return _ended(report.key, error, f"the adapter of {report.key} could not be stored")
        return replace(report, stored=(int(report.epoch),))

    def _evaluate(self, orders: Sequence[EvaluationOrder]) -> None:
        self._say(Phase.SCORING, f"{len(orders)} image sets")
        try:
            image_sets = {image_set.key: image_set for image_set in self.device.evaluate(orders)}
        except ENDING:
            raise
        except Exception as error:
            why = _why(error, f"the evaluation of {len(orders)} image sets failed")
            image_sets = {order.key: ScoredImages(order.key, **why) for order in orders}
        self._evaluations += [self._recorded(order, image_sets[order.key]) for order in orders]

    def _recorded(self, order: EvaluationOrder, image_set: ScoredImages) -> EvaluationReport:
        """What came out, on disk before anybody hears of it."""
        if image_set.error is not None:
            return EvaluationReport(order.key, Outcome(error=image_set.error, cause=image_set.cause or Cause.CONFIGURATION))
        row = {**evaluation_row(order, image_set), **objective_of(self.objective, image_set)}
        try:
            self.records.append_evaluation(row, image_set.image_rows, image_set.images)
        except (SweepError, OSError) as error:
            why = _why(error, f"evaluation {order.key} could not be recorded", passing=(SweepError, OSError))
            return EvaluationReport(order.key, Outcome(**why))
        return EvaluationReport(order.key, Outcome(dict(image_set.values), dict(image_set.backbones)))


def objective_of(objective: Objective | None, image_set: ScoredImages) -> dict[str, Any]:
    """For the record only: what it means for a trial, also when there is none, is the driver's business."""
    if objective is None:
        return {}
    try:
        value = objective.value(image_set.values, image_set.backbones)
        return {"objective": value, "objective_formula": objective.describe(image_set.backbones)}
    except SweepError:
        return {}


def first_sync(watch: Watch, device_name: str) -> Sync:
    """What a worker says before it can do anything."""
    return Sync(doing=str(watch.activity), phase=watch.activity.phase, ready=False, device=device_name)


def evaluation_row(order: EvaluationOrder, image_set: ScoredImages) -> dict[str, Any]:
    """The evaluation's row in the records: what was asked, what came out, with which networks and where."""
    return {
        "evaluation_key": order.key,
        "training_key": order.training_key or "none",
        "epoch": order.epoch,
        "adapter_file": PHOTOGRAPHS_NAME if order.training_key == PHOTOGRAPHS else None,
        "configuration": asdict(order.config),
        "perceptual_backbone": image_set.backbones.get("perceptual"),
        "pooled_backbone": image_set.backbones.get("pooled"),
        "further_networks": {name: network for name, network in image_set.backbones.items() if name not in ("perceptual", "pooled")},
        **image_set.row,
        **image_set.values,
    }


def outcome_of_row(row: Mapping[str, Any]) -> Outcome:
    """What such a row, decoded, says that came out."""
    known = {**(row["further_metrics"] or {}), **{name: row[name] for name in METRIC_COLUMNS}}
    values = {name: float(value) for name, value in known.items() if value is not None}
    networks = {"perceptual": row["perceptual_backbone"], "pooled": row["pooled_backbone"], **(row["further_networks"] or {})}
    return Outcome(values, networks)


def known_outcomes(records: Records) -> dict[str, Outcome]:
    """What a study's records hold already, for the pool."""
    return {row["evaluation_key"]: outcome_of_row(row) for row in as_rows(records.evaluations(), EVALUATIONS, shared=True)}


def _ended(key: str, error: Exception, event: str) -> TrainingReport:
    """The report of a training that an error has ended here."""
    return TrainingReport(key, 0, **_why(error, event))


def _why(error: Exception, event: str, *, passing: tuple[type[Exception], ...] = PASSING) -> dict[str, Any]:
    """What a report says of an error.

    Raises:
        DiskError: the disk takes no more, which ends more than what was being done."""
    if (refused := refused_write(error)) is not None:
        raise DiskError.of(refused, _reason(error, event)) from error
    return {"error": _reason(error, event), "cause": cause_of(error, passing=passing)}


def _reason(error: Exception, event: str) -> str:
    if isinstance(error, SweepError):
        return str(error)  # it says what is wrong and the way out
    logger.exception(event)
    return f"{event}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
