"""The pool, driven by hand: trials that ask, workers that report. No process, no clock."""

import pytest

from sweep.attempts import ELSEWHERE_S, MAX_LOSSES
from sweep.causes import Cause
from sweep.messages import EvaluationOrder, EvaluationReport, Orders, Outcome, Rung, Subscription, Sync, TrainingReport
from sweep.pool import Pool
from tests.sweep.fakes import FakeClock
from trainables.config import EvalConfig, TrainConfig


def subscription(trial: str, training: str, epochs: tuple[int, ...] = (3, 6), evaluation: str = "e", **config) -> Subscription:
    rungs = tuple(Rung(epoch, f"{training}@{epoch}/{evaluation}", EvalConfig()) for epoch in epochs)
    return Subscription(trial, training, TrainConfig(**config), rungs)


def reached(key: str, epoch: float, *stored: int) -> TrainingReport:
    return TrainingReport(key, epoch, stored=stored, mean_loss=0.1, seconds_per_epoch=1.0)


def scored(orders: Orders, value: float = 0.5) -> tuple[EvaluationReport, ...]:
    return tuple(EvaluationReport(order.key, Outcome({"lpips": value})) for order in orders.evaluate)


def held(*keys: str, slots: int = 8, image_sets: int = 8, **rest) -> Sync:
    return Sync(held=keys, n_slots=slots, n_image_sets=image_sets, **rest)


def started(orders: Orders) -> dict[str, tuple[int, ...]]:
    return {order.key: order.epochs for order in orders.start}


def test_a_trial_hears_of_its_rungs_in_order_as_they_are_scored():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    assert pool.next_rung("t0", 0).kind == "wait"
    assert started(pool.sync("w", held())) == {"A": (3, 6)}
    orders = pool.sync("w", held("A", trainings=(reached("A", 3, 3),)))
    assert [order.key for order in orders.evaluate] == ["A@3/e"]
    assert pool.next_rung("t0", 0).kind == "wait"
    pool.sync("w", held("A", evaluations=scored(orders, 0.25)))
    answer = pool.next_rung("t0", 0)
    assert (answer.kind, answer.epoch, answer.outcome.values) == ("rung", 3, {"lpips": 0.25})
    assert pool.next_rung("t0", 3).kind == "wait"


def test_asking_again_for_the_same_rung_gives_it_again():
    pool = Pool(known={"A@3/e": Outcome({"lpips": 0.1})})
    pool.subscribe(subscription("t0", "A"))
    assert pool.next_rung("t0", 0) == pool.next_rung("t0", 0)


def test_equal_keys_are_one_training():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", (3, 6)))
    pool.subscribe(subscription("t1", "A", (3, 12)))
    assert started(pool.sync("w1", held())) == {"A": (3, 6, 12)}
    assert started(pool.sync("w2", held())) == {}


def test_equal_evaluation_keys_are_computed_once_and_heard_by_both():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.subscribe(subscription("t1", "A"))
    pool.sync("w", held())
    orders = pool.sync("w", held("A", trainings=(reached("A", 3, 3),)))
    assert len(orders.evaluate) == 1
    pool.sync("w", held("A", evaluations=scored(orders)))
    assert pool.next_rung("t0", 0).kind == pool.next_rung("t1", 0).kind == "rung"


def test_trials_that_differ_only_in_their_evaluation_share_a_training():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", evaluation="guidance4"))
    pool.subscribe(subscription("t1", "A", evaluation="guidance7"))
    assert len(pool.sync("w", held()).start) == 1
    orders = pool.sync("w", held("A", trainings=(reached("A", 3, 3),)))
    assert {order.key for order in orders.evaluate} == {"A@3/guidance4", "A@3/guidance7"}


def test_a_later_shorter_trial_reads_stored_adapters_and_trains_nothing():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", (3, 6)))
    pool.sync("w", held())
    pool.sync("w", held("A", trainings=(reached("A", 6, 3, 6),)))
    pool.release("t0")
    pool.sync("w", held())
    pool.subscribe(subscription("t1", "A", (3,), evaluation="other"))
    orders = pool.sync("w", held())
    assert orders.start == () and [order.key for order in orders.evaluate] == ["A@3/other"]


def test_a_later_longer_trial_asks_for_the_missing_epochs_only():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", (3, 6)))
    pool.sync("w", held())
    pool.sync("w", held("A", trainings=(reached("A", 6, 3, 6),)))
    pool.release("t0")
    pool.subscribe(subscription("t1", "A", (3, 6, 12)))
    assert started(pool.sync("w", held())) == {"A": (12,)}


def test_an_epoch_that_a_running_training_has_passed_is_trained_after_it_has_ended():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", (6,)))
    pool.sync("w", held())
    pool.sync("w", held("A", trainings=(reached("A", 5),)))
    pool.subscribe(subscription("t1", "A", (4,)))
    assert pool.sync("w", held("A")).keep == {"A": (6,)}
    orders = pool.sync("w", held("A", trainings=(reached("A", 6, 6),)))
    assert orders.keep == {}  # it ends there
    assert started(pool.sync("w", held())) == {"A": (4,)}


def test_a_training_ends_with_its_last_subscriber():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.subscribe(subscription("t1", "A"))
    pool.sync("w", held())
    pool.release("t0")
    assert "A" in pool.sync("w", held("A")).keep
    pool.release("t1")
    assert pool.sync("w", held("A")).keep == {}


def test_a_freed_slot_is_refilled_in_the_same_exchange():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.subscribe(subscription("t1", "B"))
    assert started(pool.sync("w", held(slots=1))) == {"A": (3, 6)}
    assert started(pool.sync("w", held("A", slots=1))) == {}
    pool.release("t0")
    assert started(pool.sync("w", held("A", slots=1))) == {"B": (3, 6)}


def test_no_training_is_given_out_while_its_last_worker_may_still_hold_it():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.sync("w1", held())
    pool.release("t0")
    pool.subscribe(subscription("t1", "A"))
    assert started(pool.sync("w2", held())) == {}
    pool.release("t1")
    pool.sync("w1", held("A"))  # told to end it
    pool.subscribe(subscription("t2", "A"))
    assert started(pool.sync("w2", held())) == {}
    pool.sync("w1", held())  # it is gone from there
    assert set(started(pool.sync("w2", held()))) | set(started(pool.sync("w1", held()))) <= {"A"}


def test_no_training_begins_while_others_are_in_mid_epoch():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.sync("w", held())
    pool.subscribe(subscription("t1", "B"))
    orders = pool.sync("w", held("A", slots=0))
    assert orders.start == () and "A" in orders.keep


def two_workers() -> Pool:
    pool = Pool()
    for worker in ("w1", "w2"):
        pool.sync(worker, held(ready=False))
    return pool


def test_trainings_are_spread_over_the_workers_also_over_one_that_still_loads():
    pool = two_workers()
    for key in "ABCDE":
        pool.subscribe(subscription(f"t{key}", key))
    first = started(pool.sync("w1", held()))
    assert list(first) == ["A", "C", "E"]
    assert list(started(pool.sync("w1", held(*first)))) == []
    assert list(started(pool.sync("w2", held()))) == ["B", "D"]


def test_what_may_share_a_pack_meets_and_what_may_not_goes_elsewhere():
    pool = two_workers()
    for key, model in zip("ABCD", ("m1", "m1", "m1", "m2"), strict=True):
        pool.subscribe(subscription(f"t{key}", key, train_model=model))
    shares = [set(started(pool.sync(worker, held()))) for worker in ("w1", "w2")]
    assert sorted(shares, key=len) == [{"D"}, {"A", "B", "C"}]


def test_the_last_training_is_for_whoever_asks_even_if_a_worker_never_gets_ready():
    pool = two_workers()
    pool.subscribe(subscription("t0", "A"))
    assert list(started(pool.sync("w2", held()))) == ["A"]


def test_what_a_workers_slots_do_not_hold_is_for_the_other():
    pool = two_workers()
    pool.sync("w1", held(slots=1))
    for key, model in zip("ABC", ("m1", "m1", "m2"), strict=True):
        pool.subscribe(subscription(f"t{key}", key, train_model=model))
    assert len(started(pool.sync("w1", held(slots=1)))) == 1
    assert len(started(pool.sync("w2", held(slots=4)))) == 2


def test_the_share_of_a_lost_worker_is_for_the_others():
    pool = two_workers()
    pool.subscribe(subscription("t0", "A"))
    pool.subscribe(subscription("t1", "B"))
    pool.sync("w1", held())
    pool.worker_lost("w2")
    assert list(started(pool.sync("w1", held("A")))) == ["B"]


def test_slots_are_filled_with_the_base_model_that_the_worker_has_already():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", train_model="m1"))
    pool.sync("w", held(slots=2))
    pool.subscribe(subscription("t1", "B", train_model="m2"))
    pool.subscribe(subscription("t2", "C", train_model="m1"))
    assert list(started(pool.sync("w", held("A", slots=2)))) == ["C"]


def test_a_diverged_training_fails_all_its_trials_with_the_reason_and_is_not_retried():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.subscribe(subscription("t1", "A"))
    pool.sync("w", held())
    pool.sync("w", held(trainings=(TrainingReport("A", 2, error="loss is NaN at learning_rate=9", cause=Cause.CONFIGURATION),)))
    for trial in ("t0", "t1"):
        answer = pool.next_rung(trial, 0)
        assert answer.kind == "failed" and "learning_rate=9" in answer.reason
    assert pool.sync("w", held()).start == ()
    pool.subscribe(subscription("t2", "A"))
    assert pool.next_rung("t2", 0).kind == "failed"


def test_rungs_before_a_divergence_still_count():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", (3, 6)))
    pool.sync("w", held())
    orders = pool.sync("w", held("A", trainings=(reached("A", 3, 3),)))
    pool.sync("w", held(trainings=(TrainingReport("A", 5, error="NaN", cause=Cause.CONFIGURATION),), evaluations=scored(orders)))
    assert pool.next_rung("t0", 0).kind == "rung"
    assert pool.next_rung("t0", 3).kind == "failed"


def test_a_failed_evaluation_fails_the_trial_with_its_reason():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.sync("w", held())
    orders = pool.sync("w", held("A", trainings=(reached("A", 3, 3),)))
    pool.sync("w", held("A", evaluations=(EvaluationReport(orders.evaluate[0].key, Outcome(error="all pictures are black")),)))
    answer = pool.next_rung("t0", 0)
    assert answer.kind == "failed" and answer.reason == "all pictures are black"


def test_what_the_records_hold_is_neither_trained_nor_evaluated():
    pool = Pool(known={"A@3/e": Outcome({"lpips": 0.1}), "A@6/e": Outcome({"lpips": 0.2})})
    pool.subscribe(subscription("t0", "A"))
    assert pool.sync("w", held()) == Orders()
    first, second = pool.next_rung("t0", 0), pool.next_rung("t0", 3)
    assert (first.outcome.values, first.is_last) == ({"lpips": 0.1}, False)
    assert (second.outcome.values, second.is_last) == ({"lpips": 0.2}, True)


def test_shared_epochs_are_those_that_somebody_else_paid_for():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", (3, 6)))
    pool.subscribe(subscription("t1", "A", (3, 6, 12), evaluation="other"))
    pool.sync("w", held())
    for epoch in (1, 2):
        pool.sync("w", held("A", trainings=(reached("A", epoch),)))
    for epoch in (3, 6, 12):
        orders = pool.sync("w", held("A", trainings=(reached("A", epoch, epoch),)))
        pool.sync("w", held("A", evaluations=scored(orders)))
    assert pool.next_rung("t0", 3).shared_epochs == 0
    assert pool.next_rung("t1", 6).shared_epochs == 6  # t0 paid for 1-6, t1 for 7-12
    assert pool.snapshot()["epochs_trained"] == 12


def test_epochs_read_from_the_store_are_shared():
    pool = Pool()
    pool.subscribe(subscription("t0", "A", (3,)))
    pool.sync("w", held())
    orders = pool.sync("w", held(trainings=(TrainingReport("A", 3, stored=(3,)),)))
    pool.sync("w", held(evaluations=scored(orders)))
    assert pool.next_rung("t0", 0).shared_epochs == 3
    assert pool.snapshot()["epochs_trained"] == 0


# -- what is lost --------------------------------------------------------------------------------------------------------


def test_a_lost_workers_trainings_and_evaluations_go_to_another_worker():
    pool = Pool(clock=(clock := FakeClock()))
    pool.subscribe(subscription("t0", "A"))
    pool.sync("w1", held())
    orders = pool.sync("w1", held("A", trainings=(reached("A", 3, 3),)))
    assert orders.evaluate
    pool.worker_lost("w1")
    assert pool.sync("w2", held()) == Orders()  # not at once: whatever ended it may still be there
    clock.sleep(2)
    orders = pool.sync("w2", held())
    assert started(orders) == {"A": (6,)} and [order.key for order in orders.evaluate] == ["A@3/e"]
    assert orders.start[0].lost_by == ("w1",)


def test_what_went_with_its_whole_node_is_tried_again_at_once_however_often():
    pool = Pool(clock=FakeClock())
    pool.subscribe(subscription("t0", "A"))
    for i in range(2 * MAX_LOSSES):
        assert pool.sync(f"w{i}", held()).start
        pool.worker_lost(f"w{i}", "its node is gone", counts=False)
    assert pool.next_rung("t0", 0).kind == "wait"


def test_a_training_that_is_lost_too_often_fails_with_the_last_reason():
    pool = Pool(clock=(clock := FakeClock()))
    pool.subscribe(subscription("t0", "A"))
    waits = []
    for i in range(MAX_LOSSES):
        began = clock.now
        while not pool.sync(f"w{i}", held()).start:
            clock.sleep(1)
        waits.append(clock.now - began)
        assert pool.next_rung("t0", 0).kind == "wait"
        pool.worker_lost(f"w{i}", f"signal {i}")
    answer = pool.next_rung("t0", 0)
    assert answer.kind == "failed" and answer.reason == f"lost: tried {MAX_LOSSES} times, the last time: signal {MAX_LOSSES - 1}"
    assert waits == [0, 2, 8, 32]


def test_losses_count_no_more_once_something_new_is_stored():
    pool = Pool(clock=(clock := FakeClock()))
    pool.subscribe(subscription("t0", "A", epochs := tuple(range(1, 9))))
    for epoch in epochs[:-1]:
        for i in range(2):
            clock.sleep(100)
            assert pool.sync(f"w{epoch}.{i}", held(image_sets=0)).start
            if i:
                pool.sync(f"w{epoch}.{i}", held("A", image_sets=0, trainings=(reached("A", epoch, epoch),)))
            pool.worker_lost(f"w{epoch}.{i}")
    assert pool.next_rung("t0", 0).kind == "wait"


def test_what_a_device_lost_is_kept_for_another_one_for_a_while():
    pool = Pool(clock=(clock := FakeClock()))
    for worker in ("w1", "w2"):
        pool.sync(worker, held(device=f"GPU of {worker}"))
    pool.subscribe(subscription("t0", "A"))
    assert started(pool.sync("w1", held(device="GPU of w1"))) == {"A": (3, 6)}
    pool.sync("w1", held(device="GPU of w1", trainings=(TrainingReport("A", 0, error="out of memory", cause=Cause.MEMORY),)))
    clock.sleep(3)
    assert pool.sync("w1", held(device="GPU of w1")).start == ()
    assert started(pool.sync("w2", held(device="GPU of w2"))) == {"A": (3, 6)}
    pool.sync("w2", held(device="GPU of w2", trainings=(TrainingReport("A", 0, error="out of memory", cause=Cause.MEMORY),)))
    clock.sleep(9)
    assert pool.sync("w1", held(device="GPU of w1")).start, "every device has lost it"


def test_what_a_device_lost_comes_back_to_it_where_no_other_one_takes_it():
    pool = Pool(clock=(clock := FakeClock()))
    pool.sync("w2", Sync(ready=False))  # never gets ready
    pool.subscribe(subscription("t0", "A"))
    assert pool.sync("w1", held()).start
    pool.sync("w1", held(trainings=(TrainingReport("A", 0, error="out of memory", cause=Cause.MEMORY),)))
    clock.sleep(2 + ELSEWHERE_S - 1)
    assert pool.sync("w1", held()).start == ()
    clock.sleep(1)
    assert pool.sync("w1", held()).start


def test_the_last_attempt_is_made_alone_so_that_it_takes_no_other_along():
    pool = Pool(clock=(clock := FakeClock()))
    pool.subscribe(subscription("t0", "A"))
    pool.subscribe(subscription("t1", "B"))
    for i in range(MAX_LOSSES - 1):
        clock.sleep(100)
        assert started(pool.sync(f"w{i}", held())).keys() == {"A", "B"}
        pool.worker_lost(f"w{i}")
    clock.sleep(100)
    assert started(pool.sync("w", held())).keys() == {"A"}
    assert pool.sync("w", held("A")).start == ()
    pool.subscribe(subscription("t2", "C"))
    assert pool.sync("w", held("A")).start == ()
    pool.worker_lost("w")
    assert pool.next_rung("t0", 0).kind == "failed" and pool.next_rung("t1", 0).kind == "wait"
    assert started(pool.sync("x", held())).keys() == {"C"}
    pool.release("t2")
    assert started(pool.sync("x", held())).keys() == {"B"}


def test_a_lost_evaluation_is_tried_again_and_the_last_time_alone():
    pool = Pool(clock=(clock := FakeClock()))
    orders = [EvaluationOrder(key, None, 0, EvalConfig(), "embedded:subject") for key in ("a", "b")]
    pool.request(orders)
    for _ in range(MAX_LOSSES - 1):
        given = pool.sync("w", held()).evaluate
        assert given == tuple(orders)
        pool.sync("w", held(evaluations=tuple(EvaluationReport(order.key, Outcome(error="out of memory", cause=Cause.MEMORY)) for order in given)))
        clock.sleep(100)
    assert pool.sync("w", held()).evaluate == (orders[0],)
    pool.sync("w", held(evaluations=(EvaluationReport("a", Outcome(error="out of memory", cause=Cause.MEMORY)),)))
    assert "tried 4 times, the last time: out of memory" in pool.outcome("a").error
    assert pool.sync("w", held()).evaluate == (orders[1],)


def test_a_worker_that_was_cut_off_is_told_to_end_and_what_it_says_is_not_taken():
    pool = Pool(clock=FakeClock())
    pool.subscribe(subscription("t0", "A"))
    pool.sync("w1", held())
    pool.worker_lost("w1", counts=False)
    assert pool.sync("w2", held()).start
    assert pool.sync("w1", held(trainings=(TrainingReport("A", 1, error="no such layer", cause=Cause.CONFIGURATION),))).closed
    assert pool.next_rung("t0", 0).kind == "wait" and "w1" not in pool.snapshot()["workers"]


def test_the_control_is_scored_with_the_first_rungs_or_by_an_idle_worker():
    control = EvaluationOrder("control", None, 0, EvalConfig(), "embedded:subject")
    pool = Pool()
    pool.request([control])
    pool.subscribe(subscription("t0", "A"))
    assert pool.sync("w", held()).evaluate == ()  # training comes first
    orders = pool.sync("w", held("A", trainings=(reached("A", 3, 3),)))
    assert {order.key for order in orders.evaluate} == {"control", "A@3/e"}
    idle = Pool()
    idle.request([control])
    assert idle.sync("w", held()).evaluate == (control,)
    assert idle.snapshot()["requests_open"] == 1


def test_a_request_for_an_adapter_that_nobody_said_is_stored_has_its_training_asked_for():
    """A trial whose rungs the records hold, and which ended without its fan-out values."""
    pool = Pool(known={"A@3/e": Outcome({"lpips": 0.1}), "A@6/e": Outcome({"lpips": 0.1})})
    pool.subscribe(subscription("t0", "A"))
    pool.request([EvaluationOrder("A@6/other", "A", 6, EvalConfig(guidance=9.0), "embedded:subject")])
    pool.release("t0")
    assert started(pool.sync("w", held())) == {"A": (6,)}
    orders = pool.sync("w", held(trainings=(TrainingReport("A", 6, stored=(3, 6)),)))
    assert [order.key for order in orders.evaluate] == ["A@6/other"]


def test_a_request_of_a_training_that_failed_is_not_waited_for():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.request([EvaluationOrder("A@6/other", "A", 6, EvalConfig(), "embedded:subject")])
    pool.sync("w", held())
    pool.sync("w", held("A", trainings=(TrainingReport("A", 1, error="diverged", cause=Cause.CONFIGURATION),)))
    assert pool.snapshot()["requests_open"] == 0 and pool.outcome("A@6/other").error == "diverged"


def test_a_worker_scores_as_many_at_a_time_as_it_can_what_trials_wait_for_first():
    pool = Pool()
    pool.request([EvaluationOrder("control", None, 0, EvalConfig(), "embedded:subject")])
    for name in "ABC":
        pool.subscribe(subscription(f"t{name}", name))
        pool.sync("w", held(*"ABC"[: "ABC".index(name)]))
    orders = pool.sync("w", held(*"ABC", image_sets=2, trainings=tuple(reached(name, 3, 3) for name in "ABC")))
    assert [order.key for order in orders.evaluate] == ["A@3/e", "B@3/e"]
    later = pool.sync("w", held(*"ABC", image_sets=2, evaluations=scored(orders)))
    assert [order.key for order in later.evaluate] == ["C@3/e", "control"]
    assert pool.next_rung("tA", 0).kind == "rung" and pool.next_rung("tC", 0).kind == "wait"


def test_a_worker_that_is_not_ready_gets_no_orders():
    pool = Pool()
    pool.request([EvaluationOrder("control", None, 0, EvalConfig(), "embedded:subject")])
    pool.subscribe(subscription("t0", "A"))
    assert pool.sync("w", Sync(n_slots=8, ready=False)) == Orders()
    assert pool.sync("w", held()).start


def test_an_evaluation_that_a_worker_did_not_report_is_given_out_again():
    pool = Pool()
    pool.request([EvaluationOrder("control", None, 0, EvalConfig(), "embedded:subject")])
    assert pool.sync("w", held()).evaluate
    assert pool.sync("w2", held()).evaluate == ()
    assert pool.sync("w", held()).evaluate


def test_a_worker_is_told_while_a_trial_has_not_decided_about_a_rung():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.sync("w", held())
    orders = pool.sync("w", held("A", trainings=(reached("A", 3, 3),)))
    assert pool.sync("w", held("A", evaluations=scored(orders))).undecided
    pool.next_rung("t0", 0)
    assert pool.sync("w", held("A")).undecided
    pool.next_rung("t0", 3)  # it goes on
    assert not pool.sync("w", held("A")).undecided


def test_a_stopped_trial_leaves_nothing_undecided():
    pool = Pool(known={"A@3/e": Outcome({"lpips": 0.1})})
    pool.subscribe(subscription("t0", "A"))
    pool.sync("w", held())
    pool.release("t0")
    orders = pool.sync("w", held("A"))
    assert not orders.undecided and orders.keep == {}


def test_a_closed_pool_tells_trials_and_workers():
    pool = Pool()
    pool.subscribe(subscription("t0", "A"))
    pool.close("interrupted")
    assert pool.next_rung("t0", 0).reason == "interrupted"
    assert pool.sync("w", held("A")).closed


def test_releasing_an_unknown_trial_is_no_error():
    Pool().release("t9")


def test_a_trial_without_a_subscription_is_told_so():
    answer = Pool().next_rung("t9", 0)
    assert answer.kind == "failed" and "t9" in answer.reason


@pytest.mark.parametrize("schedule, total", [("constant", None), ("cosine", 6)])
def test_the_total_length_is_ordered_only_where_the_learning_rate_depends_on_it(schedule, total):
    pool = Pool()
    pool.subscribe(subscription("t0", "A", (3, 6), lr_schedule=schedule))
    assert pool.sync("w", held()).start[0].total_epochs == total


def replicated(trial: str, *trainings: str, epochs: tuple[int, ...] = (3, 6)) -> Subscription:
    first, *others = (subscription(trial, training, epochs, train_seed=seed) for seed, training in enumerate(trainings))
    return Subscription(trial, first.training_key, first.config, first.rungs, tuple(others))


def test_a_rung_of_replicates_is_answered_when_all_of_them_are_scored():
    pool = Pool()
    pool.subscribe(replicated("t0", "A", "B"))
    assert started(pool.sync("w", held())) == {"A": (3,), "B": (3,)}
    orders = pool.sync("w", held("A", "B", image_sets=1, trainings=(reached("A", 3, 3), reached("B", 3, 3))))
    assert [order.key for order in orders.evaluate] == ["A@3/e"] and orders.keep == {"A": (6,), "B": (6,)}  # both keep their slots
    orders = pool.sync("w", held("A", "B", image_sets=1, evaluations=scored(orders, 0.1)))
    assert pool.next_rung("t0", 0).kind == "wait" and not orders.undecided
    orders = pool.sync("w", held("A", "B", evaluations=scored(orders, 0.3)))
    answer = pool.next_rung("t0", 0)
    assert orders.undecided and (answer.kind, answer.epoch, answer.evaluation_key) == ("rung", 3, "A@3/e")
    assert [(key, outcome.values["lpips"]) for key, outcome in answer.under_each_seed] == [("A@3/e", 0.1), ("B@3/e", 0.3)]


def test_a_replicate_that_is_ahead_gives_its_slot_to_the_others_before_it_trains_past_the_rung():
    pool = Pool()
    pool.subscribe(replicated("t0", "A", "B"))
    assert started(pool.sync("w", held(slots=1))) == {"A": (3,)}
    orders = pool.sync("w", held("A", slots=1, trainings=(reached("A", 3, 3),)))
    assert orders.keep == {} and started(orders) == {"B": (3, 6)}  # B is the last to reach it, and may go on
    assert started(pool.sync("w", held("B", slots=2, evaluations=scored(orders)))) == {}


def test_one_replicate_that_failed_fails_its_trial_and_a_released_trial_leaves_all_of_them():
    pool = Pool()
    pool.subscribe(replicated("t0", "A", "B"))
    pool.subscribe(subscription("t1", "A"))
    pool.sync("w", held())
    pool.sync("w", held("A", trainings=(TrainingReport("B", 1, error="diverged", cause=Cause.CONFIGURATION),)))
    answer = pool.next_rung("t0", 0)
    assert (answer.kind, answer.reason) == ("failed", "train_seed 1: diverged") and pool.next_rung("t1", 0).kind == "wait"
    pool.release("t0")
    assert pool.sync("w", held("A")).keep == {"A": (3, 6)}
