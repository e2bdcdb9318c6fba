"""What a working thread does right now, noted wherever time passes, so that others can show it and see that it goes on.

`note` and `beat` cost nothing where nobody watches. Not here: what is done about a thread that notes nothing any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    LOADING = "loading"
    ENCODING = "encoding"
    MEASURING = "measuring the size of a pack"
    COMPILING = "compiling"
    TRAINING = "training"
    DENOISING = "denoising"
    SCORING = "scoring"
    WAITING = "waiting"

    @property
    def is_slow(self) -> bool:
        """Whether minutes may pass in it without a note."""
        return self in (Phase.LOADING, Phase.ENCODING, Phase.MEASURING, Phase.COMPILING)


@dataclass(frozen=True)
class Activity:
    """`done` of `total` are the `unit`s of what is being done; the one under way is not counted."""

    phase: Phase
    what: str = ""
    unit: str = ""
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        """E.g. "training 3 together, step 14 of 38"."""
        count = f"{self.unit} {min(self.done + 1, self.total)} of {self.total}" if self.total else ""
        return ", ".join(filter(None, (f"{self.phase} {self.what}".rstrip(), count)))


class Watch:
    """The last activity of the thread that it watches. `n_notes` grows with every sign of life. Any thread may read both."""

    def __init__(self) -> None:
        self.activity = Activity(Phase.LOADING, "libraries")
        self.n_notes = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What this thread notes inside is noted here."""
        token = _WATCH.set(self)
        try:
            yield
        finally:
            _WATCH.reset(token)


def note(phase: Phase, what: str = "", *, unit: str = "", done: int = 0, total: int = 0) -> None:
    """This is what is done from now on."""
    if (watch := _WATCH.get()) is not None:
        around = _AROUND.get()
        activity = Activity(phase, what, unit, done, total)
        watch.activity = activity if around is None else replace(around, unit=unit, done=done, total=total)
        watch.n_notes += 1


def beat() -> None:
    """A sign of life from within what was noted last."""
    if (watch := _WATCH.get()) is not None:
        watch.n_notes += 1


@contextmanager
def within(phase: Phase, what: str = "") -> Iterator[None]:
    """Everything that is noted inside is a part of this."""
    token = _AROUND.set(Activity(phase, what))
    try:
        note(phase, what)
        yield
    finally:
        _AROUND.reset(token)


_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)
_AROUND: ContextVar[Activity | None] = ContextVar("around", default=None)
