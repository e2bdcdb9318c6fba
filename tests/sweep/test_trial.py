"""The Trainable alone: an actor's stand-in answers at once, no Ray is started."""

from types import SimpleNamespace

import pytest

from sweep import trial as trial_module
from sweep.messages import Answer
from sweep.trial import ANSWER, RungTrial


class Asked:
    """Answers in order, and remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.questions = list(answers), []
        self.next_rung = SimpleNamespace(remote=self._answer)

    def _answer(self, *question) -> Answer:
        self.questions.append(question)
        return self.answers.pop(0)


@pytest.fixture
def trainable(monkeypatch):
    def make(pool: Asked) -> RungTrial:
        monkeypatch.setattr(trial_module.ray, "get", lambda answer: answer)
        monkeypatch.setattr(trial_module.ray, "get_actor", lambda name, namespace: pool)
        made = object.__new__(RungTrial)
        made.setup({"trial": "t0003", "pool": "pool", "namespace": "sweep"})
        return made

    return make


def test_a_step_lasts_until_the_next_rung(trainable):
    pool = Asked(Answer("wait"), Answer("wait"), Answer("rung", epoch=3), Answer("rung", epoch=6))
    made = trainable(pool)
    assert made.step()[ANSWER].epoch == 3
    assert made.step()[ANSWER].epoch == 6
    assert [question[:2] for question in pool.questions] == [("t0003", 0)] * 3 + [("t0003", 3)]


def test_every_question_is_limited_in_time_so_that_a_trial_can_be_stopped(trainable):
    pool = Asked(Answer("rung", epoch=3))
    trainable(pool).step()
    assert pool.questions[0][2] <= 5


@pytest.mark.parametrize("kind", ["failed", "closed"])
def test_failures_and_the_end_of_the_study_are_passed_on(trainable, kind):
    assert trainable(Asked(Answer(kind, reason="why"))).step() == {ANSWER: Answer(kind, reason="why")}


def test_a_reused_process_starts_from_the_beginning_with_its_new_trial(trainable):
    pool = Asked(Answer("rung", epoch=3), Answer("rung", epoch=3))
    made = trainable(pool)
    made.step()
    assert made.reset_config({"trial": "t0009", "pool": "pool", "namespace": "sweep"}) is True
    made.step()
    assert pool.questions[1][:2] == ("t0009", 0)
