"""How a launch stands, as a small file in its study's folder that `sweep watch` reads, on any machine of the storage.

It is there while a launch is live, and written anew every few seconds; a launch that was killed leaves its last one behind."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from sweep.errors import RecordsError
from sweep.moment import Moment, from_json, to_json
from sweep.record_files import write_atomically
from trainables.storage import Place

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 2.0
CLOSE_WITHIN_S = 5.0


class LiveFile:
    """The launch's side; a context, which removes the file when it is left. It is written in a thread: a storage that is away for a
    while keeps nobody from training."""

    def __init__(self, path: Place, launch: str, moment: Moment, *, every_s: float = WRITE_EVERY_S) -> None:
        """`moment`: how it stands when the context is entered."""
        self._path, self._launch, self._moment, self._every_s = path, launch, moment, every_s
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_until_ended, name="live-file", daemon=True)

    def __enter__(self) -> LiveFile:
        self._writer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._writer.join(CLOSE_WITHIN_S)
        if not self._writer.is_alive():  # else it is in the middle of waiting for the storage
            with suppress(OSError):
                # Else it is of a launch that has replaced this one.
                if read_moment(self._path, self._launch) is not None:
                    self._path.unlink(missing_ok=True)

    def write(self, moment: Moment) -> None:
        """The moment will be in the file in a few seconds, unless there is a newer one by then."""
        self._moment = moment

    def _write_until_ended(self) -> None:
        written = None
        while True:
            moment = self._moment
            if moment is not written:
                self._write(moment)
                written = moment
            if self._ended.wait(self._every_s):
                return

    def _write(self, moment: Moment) -> None:
        try:
            text = to_json(moment, self._launch)
            write_atomically(self._path, lambda file: file.write(text.encode()), last_in_folder=False)
        except RecordsError as error:  # no study ends for want of a spectator
            logger.debug("%s was not written: %s", self._path, error)


def read_moment(path: Place, launch: str) -> Moment | None:
    """What the file says of this launch; None where it says nothing, or cannot be read just now."""
    try:
        moment, whose = from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # another version's, or a storage that is away
        logger.debug("%s is not read: %s", path, error)
        return None
    return moment if whose == launch else None
