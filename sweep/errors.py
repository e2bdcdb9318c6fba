"""The errors of the orchestra, on top of those of trainables/errors.py. One tree, one line each for the person who reads it.

    SweepError                      the command line prints its one line and exits with code 2
    ├── ConfigError                 trainables: a value of TrainConfig or EvalConfig that breaks a rule
    ├── SubjectError                trainables: a folder of images and captions that cannot be used as it is
    ├── ModelError                  trainables: a base model or feature network that is unknown, missing or damaged
    │   └── NotDownloadedError      one that is published and merely not on this machine yet
    ├── AdapterError                trainables: an adapter file that is missing, damaged or of another layout
    ├── ContentChanged              trainables: a file that is another one than when keys were made of it; tried again
    ├── StorageError                trainables: a place for files that cannot be used, or a name that would lead out of it
    ├── EvaluationFailed            trainables: an image set that cannot be scored; never retried
    │   └── ObjectiveError          metric values that give no finite objective; the trial fails, never retried
    ├── StudyError                  a study file, or a value in it, that cannot be used
    │   ├── IncomparableStudyError  a study name that already holds records of something else
    │   ├── LeaseLostError          another process has taken the study over: nothing more may be written
    │   └── UnmetError              several things that a study needs and lacks, a line for each
    ├── DiskError                   a disk that is full, over its quota or read-only: it ends a launch at once
    ├── RecordsError                a storage place or a part of the records that cannot be written or read
    ├── DeviceError                 no free device
    ├── ClusterError                a Ray cluster that cannot be reached, refuses, or cannot run the study
    ├── PassingError                memory, device or storage failed, not the configuration: tried again, elsewhere if there is another place
    │   ├── DeviceMemoryError       the memory of a device does not suffice, even for one training
    │   └── DeviceLostError         the device answers no more: its worker ends and is replaced
    └── WorkerError                 every device was lost more often than is retried
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from sweep.causes import Cause
from trainables.errors import (
    AdapterError,
    ConfigError,
    ContentChanged,
    EvaluationFailed,
    ModelError,
    NotDownloadedError,
    StorageError,
    SubjectError,
    SweepError,
)

__all__ = [
    "AdapterError",
    "ClusterError",
    "ConfigError",
    "ContentChanged",
    "DeviceError",
    "DeviceMemoryError",
    "DeviceLostError",
    "DiskError",
    "EvaluationFailed",
    "IncomparableStudyError",
    "LeaseLostError",
    "ModelError",
    "NotDownloadedError",
    "ObjectiveError",
    "PassingError",
    "RecordsError",
    "StorageError",
    "StudyError",
    "SubjectError",
    "SweepError",
    "UnmetError",
    "WorkerError",
]


class StudyError(SweepError):
    """A study file cannot be read, or a value in it breaks a rule."""


class IncomparableStudyError(StudyError):
    """The study's name already holds records that another subject, model, protocol or objective made."""


class LeaseLostError(StudyError):
    """Another process has taken the study over. Whoever gets this writes nothing more there."""


class UnmetError(StudyError):
    """Several things that a study needs are not there, or cannot be used."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = tuple(problems)  # one line each

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class ObjectiveError(EvaluationFailed):
    """Metric values give no finite objective. The configuration is at fault, so it is not retried."""


class RecordsError(SweepError):
    """Records cannot be written or read."""


class DiskError(SweepError):
    """A disk takes no more: it is full, over its quota, or read-only. Nothing can go on until somebody makes room."""

    cause = Cause.DISK

    def __init__(self, text: str, *, number: int = errno.ENOSPC, path: str = "") -> None:
        """`number`: errno of the refused write; `path`: where it was, if that is known."""
        super().__init__(text)
        self.number, self.path = number, path

    @classmethod
    def of(cls, refused: OSError, text: str) -> DiskError:
        """That a write was refused. `text` says what was being done."""
        return cls(text, number=refused.errno or errno.ENOSPC, path=os.path.dirname(refused.filename) if isinstance(refused.filename, str) else "")

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(DiskError, number=self.number, path=self.path), (str(self),)


class DeviceError(SweepError):
    """There is no free device to run on."""


class ClusterError(SweepError):
    """A Ray cluster cannot be reached, refuses a request, or could not run the study."""


class PassingError(SweepError):
    """What the work was done on failed, not what it was: memory, a device, a storage. It is tried again."""


class DeviceMemoryError(PassingError):
    """The memory of a device does not suffice."""

    cause = Cause.MEMORY


class DeviceLostError(PassingError):
    """A device answers no more. Only another process can use it again, if anything can."""


class WorkerError(SweepError):
    """Workers were lost more often than is retried."""
