"""The worker's loop over a device that only computes: what it does in which order, what it records, how it fails. No sleeping."""

import errno
import os

import pytest

from sweep.attempts import MAX_LOSSES
from sweep.errors import DeviceLostError, DiskError, PassingError, RecordsError
from sweep.messages import EvaluationOrder, Orders, Rung, Subscription, TrainingReport
from sweep.objective import Objective
from sweep.pool import Pool
from sweep.worker import DECISION_WAIT_S, ScoredImages, Worker
from tests.sweep.fakes import BACKBONES, OBJECTIVE, FakeClock, FakeDevice, MemoryRecords
from trainables.config import EvalConfig, TrainConfig
from trainables.errors import EvaluationFailed


class Setup:
    def __init__(self, device: FakeDevice | None = None) -> None:
        self.device, self.records, self.clock = device or FakeDevice(), MemoryRecords(), FakeClock()
        self.pool = Pool(clock=self.clock)
        self.worker = Worker("w", self.pool, self.device, self.records, clock=self.clock, sleep=self.clock.sleep)

    def subscribe(self, trial: str, key: str, *epochs: int, **config) -> None:
        rungs = tuple(Rung(epoch, f"{key}@{epoch}", EvalConfig()) for epoch in epochs)
        self.pool.subscribe(Subscription(trial, key, TrainConfig(**config), rungs))

    def turns(self, n: int) -> None:
        for _ in range(n):
            assert self.worker.turn()

    def events(self, kind: str) -> list:
        return [event[1:] for event in self.device.log if event[0] == kind]


def test_a_training_is_stored_and_scored_at_its_rungs_and_nowhere_else():
    setup = Setup()
    setup.subscribe("t0", "A", 2, 4)
    setup.turns(80)
    assert setup.events("save") == [("A", 2), ("A", 4)]
    assert setup.events("evaluate") == [(("A@2",),), (("A@4",),)]
    assert setup.pool.next_rung("t0", 0).epoch == 2 and setup.pool.next_rung("t0", 2).epoch == 4


def test_an_evaluation_is_on_disk_before_anybody_hears_of_it():
    heard_before_recorded = []

    class Watching(MemoryRecords):
        def append_evaluation(self, row, image_rows, pictures) -> None:
            heard_before_recorded.append(setup.pool.next_rung("t0", 0).kind == "rung")
            super().append_evaluation(row, image_rows, pictures)

    setup = Setup()
    setup.worker.records = Watching()
    setup.subscribe("t0", "A", 1)
    setup.turns(10)
    assert heard_before_recorded == [False] and setup.pool.next_rung("t0", 0).kind == "rung"


def test_the_record_says_what_was_evaluated_and_what_came_out():
    setup = Setup()
    setup.subscribe("t0", "A", 1, rank=8)
    setup.turns(10)
    (row,) = setup.records.rows
    assert (row["evaluation_key"], row["training_key"], row["epoch"], row["device"]) == ("A@1", "A", 1, "fake")
    assert row["configuration"]["guidance"] == EvalConfig().guidance and row["lpips"] > 0
    assert row["perceptual_backbone"] == "embedded:perceptual" and row["n_images"] == 20


def test_the_record_has_the_studys_objective_where_the_values_give_one():
    setup = Setup()
    setup.worker.objective = OBJECTIVE
    setup.subscribe("t0", "A", 1)
    setup.turns(10)
    (row,) = setup.records.rows
    assert row["objective"] == OBJECTIVE.value(row, BACKBONES) and row["objective_formula"] == OBJECTIVE.describe(BACKBONES)
    setup.worker.objective = Objective(kid=1.0)
    setup.subscribe("t1", "B", 1)
    setup.turns(10)
    assert "objective" not in setup.records.rows[1]


def test_the_control_is_recorded_as_no_training():
    setup = Setup()
    setup.pool.request([EvaluationOrder("control", None, 0, EvalConfig(), "embedded:subject")])
    setup.turns(3)
    assert setup.records.rows[0]["training_key"] == "none"


def test_trainings_that_reach_a_rung_together_are_scored_in_one_batch():
    setup = Setup()
    for i in range(4):
        setup.subscribe(f"t{i}", f"K{i}", 3)
    setup.turns(20)
    assert setup.events("evaluate") == [(("K0@3", "K1@3", "K2@3", "K3@3"),)]


def test_a_rung_waits_for_the_trials_decisions_so_that_a_stopped_training_trains_no_further():
    setup = Setup()
    setup.subscribe("t0", "A", 1, 9)
    while not setup.records.rows:
        setup.turns(1)
    setup.turns(3)  # nobody has decided yet
    assert len(setup.events("advance")) == 1
    setup.pool.release("t0")
    setup.turns(3)
    assert len(setup.events("advance")) == 1 and setup.events("stop") == [("A",)]


def test_it_does_not_wait_for_ever_for_a_decision():
    setup = Setup()
    setup.subscribe("t0", "A", 1, 9)
    while not setup.records.rows:
        setup.turns(1)
    scored_at = setup.clock.now
    while len(setup.events("advance")) < 2:
        setup.turns(1)
    assert DECISION_WAIT_S <= setup.clock.now - scored_at < 2 * DECISION_WAIT_S


def test_what_the_store_holds_is_scored_without_training():
    setup = Setup()
    setup.subscribe("t0", "A", 2)
    setup.device.stored["A", 2] = TrainConfig()
    setup.turns(5)
    assert setup.events("advance") == [] and setup.pool.next_rung("t0", 0).kind == "rung"
    assert setup.pool.next_rung("t0", 0).shared_epochs == 2


def test_what_another_process_stored_is_not_stored_again():
    class Reading(FakeDevice):
        """Holds a training that another process trains, and says what that one has stored."""

        def advance(self) -> list[TrainingReport]:
            self.stored["A", 2] = TrainConfig()
            return [TrainingReport("A", 2, stored=(2,))]

        def save(self, key: str) -> None:
            raise StopIteration("there is no pack here that has it")

    setup = Setup(Reading())
    setup.subscribe("t0", "A", 2, 9)
    setup.turns(5)
    assert setup.pool.next_rung("t0", 0).kind == "rung"


def test_a_longer_training_goes_on_from_the_longest_stored_epoch():
    setup = Setup()
    setup.device.stored["A", 2] = TrainConfig()
    setup.subscribe("t0", "A", 5)
    setup.turns(12)
    assert setup.events("start") == [("A", 2)] and len(setup.events("advance")) == 3


def test_a_diverged_training_is_reported_and_the_others_go_on():
    setup = Setup(FakeDevice(diverges=lambda config: config.rank == 8))
    setup.subscribe("t0", "A", 2, rank=8)
    setup.subscribe("t1", "B", 2, rank=4)
    setup.turns(10)
    assert "diverged" in setup.pool.next_rung("t0", 0).reason
    assert setup.pool.next_rung("t1", 0).kind == "rung"


def test_a_training_that_cannot_start_fails_alone_with_the_reason_that_was_given():
    setup = Setup()
    setup.subscribe("t0", "A", 2, rank=1000)
    setup.subscribe("t1", "B", 2)
    setup.turns(10)
    assert setup.pool.next_rung("t0", 0).reason == "`rank` must fit the model, but it is 1000. Use e.g. 16."
    assert setup.pool.next_rung("t1", 0).kind == "rung"


def test_an_unexpected_error_in_a_pack_fails_its_trainings_and_the_worker_goes_on():
    class Breaking(FakeDevice):
        def advance(self) -> list[TrainingReport]:
            if any(self._slots[key][0].config.rank == 8 for key in self.held):
                raise RuntimeError("shapes do not fit\nsecond line")
            return super().advance()

    setup = Setup(Breaking())
    setup.subscribe("t0", "A", 2, rank=8)
    setup.turns(4)
    reason = setup.pool.next_rung("t0", 0).reason
    assert "RuntimeError: shapes do not fit" in reason and "second line" not in reason
    setup.subscribe("t1", "B", 2)
    setup.turns(10)
    assert setup.pool.next_rung("t1", 0).kind == "rung"


@pytest.mark.parametrize("error", [EvaluationFailed("every picture is black"), ValueError("no such layer")])
def test_an_error_in_an_evaluation_fails_the_trials_that_wait_for_it(error):
    class Breaking(FakeDevice):
        def evaluate(self, orders) -> list[ScoredImages]:
            raise error

    setup = Setup(Breaking())
    setup.subscribe("t0", "A", 1)
    setup.turns(6)
    answer = setup.pool.next_rung("t0", 0)
    assert answer.kind == "failed" and str(error) in answer.reason and setup.records.rows == []


def test_an_evaluation_without_values_is_not_recorded_and_fails_its_trial():
    class Black(FakeDevice):
        def evaluate(self, orders) -> list[ScoredImages]:
            return [ScoredImages(order.key, error="3 of 20 pictures are black") for order in orders]

    setup = Setup(Black())
    setup.subscribe("t0", "A", 1)
    setup.turns(6)
    assert setup.pool.next_rung("t0", 0).reason == "3 of 20 pictures are black" and setup.records.rows == []


def test_records_that_cannot_be_written_are_tried_again_and_at_last_fail_the_trial_with_the_reason():
    class Away(MemoryRecords):
        def append_evaluation(self, row, image_rows, pictures) -> None:
            raise OSError(5, "Input/output error")

    setup = Setup()
    setup.worker.records = Away()
    setup.subscribe("t0", "A", 1)
    setup.turns(1000)
    answer = setup.pool.next_rung("t0", 0)
    assert answer.reason.startswith(f"lost: tried {MAX_LOSSES} times") and "Input/output error" in answer.reason
    assert len(setup.events("evaluate")) == MAX_LOSSES and setup.clock.now >= 2 + 8 + 32


def test_an_evaluation_whose_record_could_not_be_written_for_a_while_is_scored_and_recorded_once():
    class Away(MemoryRecords):
        def append_evaluation(self, row, image_rows, pictures) -> None:
            if setup.clock.now < 5:
                raise OSError(5, "Input/output error")
            super().append_evaluation(row, image_rows, pictures)

    setup = Setup()
    setup.worker.records = Away()
    setup.subscribe("t0", "A", 1)
    setup.turns(300)
    assert setup.pool.next_rung("t0", 0).kind == "rung" and len(setup.worker.records.rows) == 1


def test_an_adapter_that_cannot_be_stored_has_its_training_tried_again_and_at_last_fails_it():
    class Away(FakeDevice):
        def save(self, key: str) -> None:
            raise OSError(5, "Input/output error")

    setup = Setup(Away())
    setup.subscribe("t0", "A", 1)
    setup.turns(1000)
    assert "Input/output error" in setup.pool.next_rung("t0", 0).reason and setup.device.held == ()
    assert len(setup.events("start")) == MAX_LOSSES


@pytest.mark.parametrize("place", ["start", "advance", "save", "evaluate"])
@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error"), PassingError("the GPU has no memory left")])
def test_what_is_nobodys_configuration_is_tried_again(place, error):
    class Once(FakeDevice):
        def once(self, *arguments):
            setattr(self, place, getattr(super(), place))
            raise error

    device = Once()
    setattr(device, place, device.once)
    setup = Setup(device)
    setup.subscribe("t0", "A", 1, 2)
    setup.turns(200)
    assert setup.pool.next_rung("t0", 0).epoch == 1 and setup.pool.next_rung("t0", 1).kind == "rung"
    assert setup.pool.snapshot()["n_losses"] == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("place", ["start", "advance", "save", "evaluate", "append_evaluation"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_disk_that_takes_no_more_ends_the_worker_at_once_and_nothing_is_tried_again(place, number, wrapped):
    def refuse(*arguments):
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            if wrapped:
                raise RecordsError("A study's folder must be writable.") from error
            raise

    setup = Setup()
    setattr(setup.records if place == "append_evaluation" else setup.device, place, refuse)
    setup.subscribe("t0", "A", 1)
    with pytest.raises(DiskError):
        setup.turns(10)
    assert setup.pool.snapshot()["n_losses"] == 0 and setup.pool.next_rung("t0", 0).kind == "wait"


@pytest.mark.parametrize("place", ["start", "advance", "save", "evaluate"])
def test_a_worker_whose_device_answers_no_more_ends(place):
    def gone(*arguments):
        raise DeviceLostError("the GPU answers no more")

    setup = Setup()
    setattr(setup.device, place, gone)
    setup.subscribe("t0", "A", 1)
    with pytest.raises(DeviceLostError):
        setup.turns(10)


def test_run_announces_itself_before_it_loads_and_ends_when_the_pool_is_closed():
    told = []

    class Listening(Pool):
        def sync(self, worker, sync) -> Orders:
            told.append((sync.doing, sync.ready))
            return super().sync(worker, sync)

    setup = Setup()
    setup.worker.pool = pool = Listening()
    setup.device.open = lambda: pool.close("over")
    setup.worker.run()
    assert told[0] == ("loading libraries", False) and len(told) == 2
