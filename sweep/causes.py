"""What ended a trial, a training or an evaluation before its time, as a value; the sentence that a person reads is made from it.

Values travel between processes and are stored in the trials' records. What is done about a cause is said by whoever meets it."""

from __future__ import annotations

from enum import StrEnum

from trainables.storage import refused_write


class Cause(StrEnum):
    CONFIGURATION = "configuration"  # the configuration is at fault: it is never tried again
    INTERRUPTED = "interrupted"  # a person, a signal or the end of the launch
    LOST = "lost"  # a worker, a device or a storage went away
    MEMORY = "memory"  # of a device or of a machine
    DISK = "disk"  # full, over its quota, or read-only

    @property
    def is_tried_again(self) -> bool:
        """Whether another try may end better. A relaunch tries such a trial again."""
        return self is not Cause.CONFIGURATION

    @property
    def ends_with_launch(self) -> bool:
        """Whether the launch ended and took the trial along: that is no news of the trial."""
        return self in (Cause.INTERRUPTED, Cause.DISK)


def sentence(cause: Cause, why: str = "") -> str:
    """Why something ended, in one line. What a configuration is to blame for says it itself."""
    if cause is Cause.CONFIGURATION:
        return why
    word = Cause.INTERRUPTED if cause.ends_with_launch else Cause.LOST
    return f"{word}: {why}" if why else str(word)


def cause_of(error: BaseException, *, passing: tuple[type[BaseException], ...]) -> Cause:
    """The cause that an error stands for. `passing`: errors that are nobody's configuration."""
    if refused_write(error) is not None:
        return Cause.DISK
    if isinstance(error, MemoryError):
        return Cause.MEMORY
    own = getattr(error, "cause", None)  # an error of ours that says it
    if isinstance(own, Cause):
        return own
    return Cause.LOST if isinstance(error, passing) else Cause.CONFIGURATION


def recorded_cause(word: object) -> Cause | None:
    """The cause that a row of a trial has; None where it has none, or a damaged one."""
    return Cause(word) if word in set(Cause) else None


def is_unfinished(state: str, cause: Cause | None) -> bool:
    """Whether a trial of that state runs, or is tried again by the next launch: what ended it was not
    its configuration."""
    return state == "RUNNING" or (state == "FAIL" and cause is not None and cause.is_tried_again)


def cause_of_old_reason(reason: str) -> Cause:
    """The cause of a FAIL of schema 5 or older, which has it only as the first word of its reason."""
    word = reason.partition(":")[0].partition(" ")[0]
    return Cause(word) if word in (Cause.INTERRUPTED, Cause.LOST) else Cause.CONFIGURATION
