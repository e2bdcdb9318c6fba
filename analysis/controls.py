"""Which image set without an adapter belongs to which image set: the one that was generated in the same way."""

from __future__ import annotations

import pandas as pd

CONTROL = "none"
"""The training key of evaluations without an adapter."""
PHOTOGRAPHS = "photographs"
"""The training key of the evaluation of the subject's held-out photographs."""


def controls_of(evaluations: pd.DataFrame) -> dict[str, str]:
    """The key of the control by evaluation key, for every image set that has one: an evaluation of the same EvalConfig without an adapter."""
    columns = [name for name in evaluations if name.startswith("eval.")]
    # By text, as values may be lists; `map`, as astype(str) leaves what is missing missing, and that equals nothing.
    texts = [evaluations[name].map(str).tolist() for name in columns]
    configurations = list(zip(*texts)) if texts else [()] * len(evaluations)
    keys, is_control = evaluations["evaluation_key"].tolist(), evaluations["training_key"].eq(CONTROL).tolist()
    by_configuration: dict[tuple[str, ...], str] = {}
    for key, configuration, own in zip(keys, configurations, is_control):
        if own:
            by_configuration.setdefault(configuration, key)
    return {key: by_configuration[configuration] for key, configuration in zip(keys, configurations) if configuration in by_configuration}
