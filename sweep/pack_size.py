"""How many trainings a device advances together: measured once with a training like the study's, kept in a file for the next launch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from sweep.device_facts import device_name
from sweep.errors import RecordsError
from sweep.record_files import read_view, write_atomically
from trainables.config import TrainConfig, pack_signature
from trainables.frozen import FrozenWork
from trainables.probe import probe_pack_size
from trainables.subject import Subject

logger = logging.getLogger(__name__)


class PackSize:
    """Of one kind of device ("cpu" or "cuda"), for trainings like `config`, up to `largest`. `options`: keyword arguments of Pack."""

    def __init__(self, device: str, config: TrainConfig, *, largest: int, options: Mapping[str, bool], file: Path | None) -> None:
        self._device = device
        self._config = config
        self._largest = largest
        self._options = dict(options)
        self._file = file

    def known(self) -> int | None:
        """The size that an earlier launch measured on such a device."""
        said = read_view(self._file) if self._file is not None else None
        if said is None or {name: said.get(name) for name in self._holds_for} != self._holds_for:
            return None
        return said.get("n_slots")

    def measured(self, frozen: FrozenWork, subject_of: Callable[[str], Subject]) -> int:
        """Measure it, and write it down.

        Raises: as probe_pack_size."""
        subject = subject_of(self._config.subject)
        probe = probe_pack_size(frozen, self._config, subject, largest=self._largest, pack_options=self._options)
        steps_per_epoch = math.ceil(len(subject.train) / self._config.batch)
        found = {
            **self._holds_for,
            "n_slots": probe.best,
            "seconds_per_adapter_step": dict(probe.seconds_per_adapter_step),
            "epochs_per_hour": 3600 / (probe.seconds_per_adapter_step[probe.best] * steps_per_epoch),
            "epochs_per_hour_alone": 3600 / (probe.seconds_per_adapter_step[1] * steps_per_epoch),
        }
        logger.info("pack size %s", found)
        if self._file is not None:
            try:
                write_atomically(self._file, lambda file: file.write(json.dumps(found, indent=1).encode()))
            except RecordsError as error:  # the next launch measures it again
                logger.warning("the pack's size was not stored: %s", error)
        return probe.best

    @cached_property
    def _holds_for(self) -> dict[str, Any]:
        """What a measured size holds for."""
        return {
            "device": device_name(self._device),
            "most_slots": self._largest,
            "config": [str(value) for value in pack_signature(self._config)],
            "options": [name for name, on in self._options.items() if on],
        }
