"""The errors that a person can cause and mend. Each states the rule, the value and the way out, in one line.

    SweepError                  everything below; the command line prints its one line and exits with code 2
    ├── ConfigError             a value of TrainConfig or EvalConfig that breaks a rule
    ├── SubjectError            a folder of images and captions that cannot be used as it is
    ├── ModelError              a base model or feature network that is unknown, missing or damaged
    │   └── NotDownloadedError  one that is published and merely not on this machine yet
    ├── AdapterError            an adapter file that is missing, damaged or of another layout
    ├── ContentChanged          a file that is another one than when keys were made of it
    ├── StorageError            a place for files that cannot be used, or a name that would lead out of it
    └── EvaluationFailed        an image set that cannot be scored, such as an all-black one; never retried

sweep/errors.py adds what the orchestra can run into.
"""


class SweepError(Exception):
    """Any error of ours that has a way out for the person who reads it."""


class ConfigError(SweepError):
    """A training or evaluation value breaks a rule."""


class SubjectError(SweepError):
    """A subject's folder, image or caption cannot be used."""


class ModelError(SweepError):
    """A base model or feature network cannot be found, read or used."""


class NotDownloadedError(ModelError):
    """A published model or feature network is not here yet. The message names what fetches it."""


class AdapterError(SweepError):
    """An adapter cannot be found or read."""


class ContentChanged(SweepError):
    """A file is another one than when keys were made of its content. No configuration is at fault: it is tried again."""


class StorageError(SweepError):
    """A place for files cannot be used as it is named, read or written."""


class EvaluationFailed(SweepError):
    """An image set cannot be scored. The configuration is at fault, so it is not retried."""
