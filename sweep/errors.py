"""The errors of the orchestra, on top of those of trainables/errors.py. One tree, one line each for the person who reads it.

    SweepError                      the command line prints its one line and exits with code 2
    ├── ConfigError                 trainables: a value of TrainConfig or EvalConfig that breaks a rule
    ├── SubjectError                trainables: a folder of images and captions that cannot be used as it is
    ├── ModelError                  trainables: a base model or feature network that is unknown, missing or damaged
    ├── AdapterError                trainables: an adapter file that is missing, damaged or of another layout
    ├── StorageError                trainables: a place for files that cannot be used, or a name that would lead out of it
    ├── EvaluationFailed            trainables: an image set that cannot be scored; never retried
    │   └── ObjectiveError          metric values that give no finite objective; the trial fails, never retried
    ├── StudyError                  a study file, or a value in it, that cannot be used
    │   └── IncomparableStudyError  a study name that already holds records of something else
    ├── RecordsError                a storage place or a part of the records that cannot be written or read
    ├── DeviceError                 no free device
    ├── ClusterError                a Ray cluster that cannot be reached, refuses, or cannot run the study
    └── WorkerError                 a worker that was lost more often than is retried
"""

from __future__ import annotations

from trainables.errors import (
    AdapterError,
    ConfigError,
    EvaluationFailed,
    ModelError,
    StorageError,
    SubjectError,
    SweepError,
)

__all__ = [
    "AdapterError",
    "ClusterError",
    "ConfigError",
    "DeviceError",
    "EvaluationFailed",
    "IncomparableStudyError",
    "ModelError",
    "ObjectiveError",
    "RecordsError",
    "StorageError",
    "StudyError",
    "SubjectError",
    "SweepError",
    "WorkerError",
]


class StudyError(SweepError):
    """A study file cannot be read, or a value in it breaks a rule."""


class IncomparableStudyError(StudyError):
    """The study's name already holds records that another subject, model, protocol or objective made."""


class ObjectiveError(EvaluationFailed):
    """Metric values give no finite objective. The configuration is at fault, so it is not retried."""


class RecordsError(SweepError):
    """Records cannot be written or read."""


class DeviceError(SweepError):
    """There is no free device to run on."""


class ClusterError(SweepError):
    """A Ray cluster cannot be reached, refuses a request, or could not run the study."""


class WorkerError(SweepError):
    """A worker was lost more often than is retried."""
