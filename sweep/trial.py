"""The Trainable that Ray Tune sees: asks the pool for a trial's next rung and passes the answer on. It decides nothing.

One process per trial that runs at the same time, reused for the next one; so nothing heavy is imported here."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from sweep.memory import spare_this_process

SLICE_S = 2.0
"""How long one question to the pool may stay open. Ray Tune can only stop a trial between two steps."""

ANSWER = "answer"
"""The one thing in a result: the pool's answer, for the driver to judge."""


class RungTrial(tune.Trainable):
    """config: {"trial": id, "pool": the actor's name, "namespace": Ray's}. A step lasts until the next rung is scored."""

    def setup(self, config: dict[str, Any]) -> None:
        spare_this_process()
        self._pool = ray.get_actor(config["pool"], namespace=config["namespace"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial = new_config["trial"]
        self._epoch = 0
        return True

    def step(self) -> dict[str, Any]:
        answer = ray.get(self._pool.next_rung.remote(self._trial, self._epoch, SLICE_S))
        while answer.kind == "wait":
            answer = ray.get(self._pool.next_rung.remote(self._trial, self._epoch, SLICE_S))
        self._epoch = answer.epoch
        return {ANSWER: answer}
