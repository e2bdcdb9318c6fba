"""The device that does a worker's work: packs of trainings, the store of adapters, batched evaluation. Only a worker's process imports it.

It keeps the contract of sweep.worker.Device; which training runs, and until when, is for the pool to say."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sweep.device_facts import device_name, versions
from sweep.causes import Cause, cause_of
from sweep.errors import AdapterError, ContentChanged, DeviceLostError, DeviceMemoryError, DiskError
from sweep.launched_content import LaunchedContent
from sweep.messages import PHOTOGRAPHS, EvaluationOrder, TrainingOrder, TrainingReport
from sweep.pack_size import PackSize
from sweep.worker import ENDING, PASSING, ScoredImages
from trainables.adapters import AdapterStore
from trainables.config import TrainConfig, pack_signature
from trainables.errors import SweepError
from trainables.evaluate import EvaluationRequest, EvaluationResult, Evaluator
from trainables.frozen import FrozenWork
from trainables.leases import Leases
from trainables.out_of_memory import free_memory, is_out_of_memory
from trainables.pack import Diverged, EpochEnd, Pack, TrainingState, lora_for
from trainables.storage import Place, refused_write

if TYPE_CHECKING:
    from trainables.models import ModelParts
    from trainables.slots import Standing

logger = logging.getLogger(__name__)

LARGEST_PACK = {"cpu": 16, "cuda": 32}
DEFAULT_SLOTS = 8
IMAGE_SETS_AT_ONCE = 4
"""Larger batches score hardly faster, and the first results of a rung come later."""
REPORT_EVERY_S = 2.0
"""How long a device trains before it listens again: the live view moves, and a stopped training leaves its slot."""
POLL_S = 0.2


class PackDevice:
    """One CPU or GPU. Trainings that may share a pack do; packs take turns. A pack that does not fit the memory is halved."""

    def __init__(
        self,
        *,
        device: str,
        adapters: Place,
        latents: Path | None = None,
        n_threads: int | None = None,
        n_slots: int | None = None,
        most_slots: int | None = None,
        probe_with: TrainConfig | None = None,
        probe_file: Path | None = None,
        backbones: Mapping[str, str] | None = None,
        metrics: Sequence[str] = (),
        pack_options: Mapping[str, bool] | None = None,
        worker: str = "",
        launch: str = "",
        content: Mapping[str, str] | None = None,
    ) -> None:
        """Without `n_slots` the size of a pack is measured with the configuration `probe_with` when the device opens, and
        kept in `probe_file` for the next launch, up to `most_slots`; without either it is DEFAULT_SLOTS. `backbones` and `metrics`: as
        of Study; `pack_options`: keyword arguments of Pack. `worker`: whose device it is, in which `launch`, whose keys were made of `content`."""
        self.n_slots = n_slots or DEFAULT_SLOTS
        self.n_image_sets = IMAGE_SETS_AT_ONCE
        self._device, self._n_threads = device, n_threads
        largest = min(most_slots or LARGEST_PACK[device], LARGEST_PACK[device])
        self._pack_options = dict(pack_options or {})
        self._pack_size = None
        if probe_with is not None and not n_slots:
            self._pack_size = PackSize(device, probe_with, largest=largest, options=self._pack_options, file=probe_file)
        self._backbones, self._metrics = dict(backbones or {}), tuple(metrics)
        self._store = AdapterStore(adapters)
        self._launch = launch
        self._leases = Leases(adapters, note={"owner": f"{launch}/{worker}"} if launch else None)
        self._frozen = FrozenWork(device, latents)
        self._content = LaunchedContent(content or {})
        self._subject = self._content.subject
        self._packs: list[Pack] = []
        self._orders: dict[str, TrainingOrder] = {}
        self._arriving: dict[str, TrainingState | None] = {}  # they join their pack at its next epoch boundary
        self._elsewhere: dict[str, TrainingOrder] = {}  # another process that shares the storage trains them now
        self._failed: list[TrainingReport] = []  # what is still to be said of trainings that could not be let in
        self._step_s: dict[int, float] = {}  # by id of the pack
        self._turn = 0

    @property
    def held(self) -> tuple[str, ...]:
        return (*(key for pack in self._packs for key in pack.keys), *self._arriving, *self._elsewhere)

    def open(self) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        # Slots are strided views of one flat tensor, on purpose: AdamW is then a dozen operations.
        warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
        if self._n_threads is not None and self._device == "cpu":
            torch.set_num_threads(self._n_threads)
        self._evaluator = Evaluator(self._frozen, **self._backbones, further=self._metrics)
        if self._pack_size is not None:
            with self._passing_errors():
                self.n_slots = self._pack_size.known() or self._pack_size.measured(self._frozen, self._subject)

    def start(self, order: TrainingOrder) -> TrainingReport:
        with self._passing_errors():
            return self._start(order)

    def _start(self, order: TrainingOrder) -> TrainingReport:
        stored = self._store.epochs(order.key)
        missing = [epoch for epoch in order.epochs if epoch not in stored]
        if not missing:
            return TrainingReport(order.key, max(order.epochs), stored=tuple(stored))
        if not self._leases.acquire(order.key, dead=[f"{self._launch}/{worker}" for worker in order.lost_by]):
            self._elsewhere[order.key] = order
            return TrainingReport(order.key, 0, stored=tuple(stored))
        try:
            state = self._last_state(order.key, missing[0] - 1)
            self._content.require_model(order.config.train_model, order.config.train_vae)
            if order.config.prior_images is not None:
                self._content.require_class_images(order.config.prior_images)
            parts = self._frozen.parts(order.config.train_model, order.config.train_vae, order.config.dtype)
            lora_for(parts, order.config).check_rank(order.config.rank)
        except Exception:
            self._leases.release(order.key)
            raise
        self._orders[order.key], self._arriving[order.key] = order, state
        self._failed += self._let_in()
        return TrainingReport(order.key, state.epoch if state else 0, stored=tuple(stored))

    def stop(self, key: str) -> None:
        self._arriving.pop(key, None)
        self._elsewhere.pop(key, None)
        for pack in self._packs:
            if key in pack.keys:
                pack.remove(key)
        self._packs = [pack for pack in self._packs if pack.keys]
        self._leases.release(key)

    def advance(self) -> list[TrainingReport]:
        reports = self._heard_from_elsewhere() + self._let_in() + self._failed
        self._failed = []
        if not self._packs:
            time.sleep(0 if reports else POLL_S)
            return reports
        self._turn += 1
        pack = self._packs[self._turn % len(self._packs)]
        try:
            return reports + self._train(pack)
        except Exception as error:  # whatever it is, it is this pack's, and the others go on
            self._require_alive(error)
            if len(pack.keys) == 1 or not is_out_of_memory(error):
                logger.exception("a pack of %d trainings failed", len(pack.keys))
                return reports + self._give_up(pack, error)
        # Behind the handler: within it the traceback would hold the whole graph of the step that failed.
        return reports + self._halve(pack)

    def save(self, key: str) -> None:
        pack = next(pack for pack in self._packs if key in pack.keys)
        with self._passing_errors():
            self._store.save(key, pack.state(key))

    def evaluate(self, orders: Sequence[EvaluationOrder]) -> list[ScoredImages]:
        requests, scored = [], []
        for order in orders:
            try:
                if order.training_key == PHOTOGRAPHS:
                    scored.append(scored_images(self._photographs(order), self._device))
                else:
                    requests.append(self._request(order))
            except (AdapterError, ContentChanged) as error:  # there is nothing wrong with its configuration
                scored.append(ScoredImages(order.key, error=str(error), cause=cause_of(error, passing=PASSING)))
            except SweepError as error:
                scored.append(ScoredImages(order.key, error=str(error), cause=Cause.CONFIGURATION))
        with self._passing_errors():
            return scored + [scored_images(result, self._device) for result in self._evaluator.evaluate(requests)]

    # ---- private, in the order of use

    @contextmanager
    def _passing_errors(self) -> Iterator[None]:
        """Tell memory that does not suffice, and a device that is gone, from what is wrong with a configuration."""
        try:
            yield
        except Exception as error:
            self._require_alive(error)
            if is_out_of_memory(error):
                raise DeviceMemoryError(self._out_of_memory) from error
            raise

    def _require_alive(self, error: Exception) -> None:
        """Raises: DeviceLostError where no process can use the device again before it is opened anew; DiskError where a disk is full."""
        if (refused := refused_write(error)) is not None:
            raise DiskError.of(refused, str(error)) from error
        if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
            raise DeviceLostError(f"{device_name(self._device)} answers no more: {_first_line(error)}") from error

    @property
    def _out_of_memory(self) -> str:
        return (
            f"A training must fit the memory of {device_name(self._device)}, but this one does not. "
            "Use a smaller batch, dtype=bfloat16 or --gradient-checkpointing."
        )

    def _last_state(self, key: str, max_epoch: int) -> TrainingState | None:
        """The last complete and readable state up to an epoch; an adapter may also be there without its moments."""
        while (epoch := self._store.longest_state_epoch(key, max_epoch)) is not None:
            try:
                return self._store.load_state(key, epoch)
            except AdapterError as error:
                logger.warning("training %s goes on from before epoch %d: %s", key, epoch, error)
                max_epoch = epoch - 1
        return None

    def _heard_from_elsewhere(self) -> list[TrainingReport]:
        """What other processes have stored of the trainings that they hold; those that they gave up start here."""
        reports = []
        for key, order in list(self._elsewhere.items()):
            stored = self._store.epochs(key)
            if set(order.epochs) <= set(stored) or self._leases.acquire(key):
                del self._elsewhere[key]
                reports.append(self._started(order))
            elif stored:
                reports.append(TrainingReport(key, stored[-1], stored=tuple(stored)))
        return reports

    def _started(self, order: TrainingOrder) -> TrainingReport:
        try:
            return self.start(order)
        except ENDING:
            raise
        except Exception as error:
            return TrainingReport(order.key, 0, **self._ended(error))

    def _let_in(self) -> list[TrainingReport]:
        """Give arriving trainings their slots where their pack stands at an epoch boundary: rungs then stay aligned.

        Returns what to say of those that cannot be trained."""
        failed = []
        for key, state in list(self._arriving.items()):
            order = self._orders[key]
            pack = self._pack_for(order.config)
            if not pack.at_boundary:
                continue
            del self._arriving[key]
            try:
                pack.add(key, order.config, self._subject(order.config.subject), state=state, total_epochs=order.total_epochs)
            except Exception as error:  # whatever it is, it is this training's, and the others go on
                self._require_alive(error)
                failed.append(TrainingReport(key, 0, **self._ended(error)))
                self.stop(key)
                continue
            self._packs += [pack] if pack not in self._packs else []
        return failed

    def _give_up(self, pack: Pack, error: Exception) -> list[TrainingReport]:
        """A pack that cannot go on: what to say of its trainings."""
        ended = self._ended(error)
        reports = [TrainingReport(key, standing.epochs, **ended) for key, standing in pack.standings().items()]
        for report in reports:
            self.stop(report.key)
        return reports

    def _ended(self, error: Exception) -> dict[str, Any]:
        """What a report says of it."""
        if is_out_of_memory(error):
            return {"error": self._out_of_memory, "cause": Cause.MEMORY}
        reason = str(error) if isinstance(error, SweepError) else f"{type(error).__name__}: {_first_line(error)}"
        return {"error": reason, "cause": cause_of(error, passing=PASSING)}

    def _pack_for(self, config: TrainConfig) -> Pack:
        signature = pack_signature(config)
        fitting = [p for p in self._packs if p.signature == signature and len(p.keys) < p.largest]
        if fitting:
            return min(fitting, key=lambda pack: len(pack.keys))
        return self._new_pack(self._frozen.parts(config.train_model, config.train_vae, config.dtype), largest=self.n_slots)

    def _new_pack(self, parts: ModelParts, *, largest: int) -> Pack:
        return Pack(parts, self._frozen, largest=largest, **self._pack_options)

    def _train(self, pack: Pack) -> list[TrainingReport]:
        n_before, started = pack.n_steps, time.perf_counter()
        # The speed of a pack is not known before its first step.
        events = pack.advance(max_steps=max(1, int(REPORT_EVERY_S / self._step_s.get(id(pack), REPORT_EVERY_S))))
        step_s = self._step_s[id(pack)] = (time.perf_counter() - started) / (pack.n_steps - n_before)
        reports = {key: _underway(key, standing, step_s) for key, standing in pack.standings().items()}
        for event in events:
            if isinstance(event, EpochEnd):
                reports[event.key] = TrainingReport(event.key, event.epoch, (), event.mean_loss, reports[event.key].seconds_per_epoch)
            elif isinstance(event, Diverged):
                reports[event.key] = TrainingReport(event.key, event.epoch, error=event.reason, cause=Cause.CONFIGURATION)
                self._leases.release(event.key)
        self._packs = [pack for pack in self._packs if pack.keys]
        return list(reports.values())

    def _halve(self, pack: Pack) -> list[TrainingReport]:
        """Out of memory: the trainings go on as two packs that take turns, each of half of them.

        Their states go by way of the CPU, so that the device is empty when the first half moves in. Returns what to say of those
        that do not fit even so: they are lost, not failed."""
        standings, states = pack.standings(), pack.clear()
        self._packs.remove(pack)
        free_memory()
        self.n_slots = len(states) // 2
        logger.warning("out of memory with %d trainings together: going on with %d at once", len(states), self.n_slots)
        lost = []
        for keys in (list(states)[: self.n_slots], list(states)[self.n_slots :]):
            half = self._new_pack(pack.parts, largest=max(self.n_slots, len(keys)))
            lost += self._moved_in(half, {key: states[key] for key in keys}, standings)
        return lost

    def _moved_in(self, pack: Pack, states: Mapping[str, TrainingState], standings: Mapping[str, Standing]) -> list[TrainingReport]:
        """Put trainings into an empty pack; what to say of those for which there is no room."""
        reports = []
        for key, state in states.items():
            order = self._orders[key]
            try:
                pack.add(key, order.config, self._subject(order.config.subject), state=state, total_epochs=order.total_epochs)
            except Exception as error:
                self._require_alive(error)
                reports.append(TrainingReport(key, standings[key].epochs, **self._ended(error)))
                self._leases.release(key)
        self._packs += [pack] if pack.keys else []
        return reports

    def _photographs(self, order: EvaluationOrder) -> EvaluationResult:
        self._content.require_model(order.config.infer_model, order.config.infer_vae)
        with self._passing_errors():
            return self._evaluator.score_photographs(order.key, self._subject(order.subject), order.config)

    def _request(self, order: EvaluationOrder) -> EvaluationRequest:
        self._content.require_model(order.config.infer_model, order.config.infer_vae)
        adapter = None if order.training_key is None else self._store.load_adapter(order.training_key, order.epoch)
        name = f"{order.training_key}@{order.epoch}"
        return EvaluationRequest(order.key, adapter, order.config, self._subject(order.subject), name, order.caption)


def scored_images(result: EvaluationResult, device: str) -> ScoredImages:
    """What came out of an evaluation on "cpu" or "cuda", with what a record tells of where and how."""
    row = {
        **result.counts,
        **result.facts,
        "seconds_generate": result.seconds_generate,
        "seconds_score": result.seconds_score,
        "device": device_name(device),
        "versions": versions(),
    }
    return ScoredImages(result.key, result.values, result.backbones, result.images, result.image_rows, row, result.error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def _underway(key: str, standing: Standing, step_s: float) -> TrainingReport:
    return TrainingReport(key, standing.epochs, mean_loss=standing.mean_loss, seconds_per_epoch=step_s * standing.steps_per_epoch)
