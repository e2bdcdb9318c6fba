"""What is asked of a launch while it runs: stop, pause, go on, other limits. A small file in the study's folder, from any machine.

It is addressed to one launch by its id: what was asked of an earlier one is never obeyed. The launch reads it every second or so."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sweep.errors import StudyError
from sweep.record_files import in_commands, write_atomically
from sweep.study_rules import check_limits
from trainables.storage import Place

if TYPE_CHECKING:
    from sweep.folder import StudyFolder

logger = logging.getLogger(__name__)

AT_RUNGS, NOW = "at rungs", "now"


@dataclass(frozen=True)
class Wishes:
    """All that is asked of a launch. A new wish keeps the others as they are."""

    launch: str
    stop: str | None = None  # AT_RUNGS: trials end at their next rung; NOW
    paused: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)  # as study_rules.LIMITS


def ask(folder: StudyFolder, *, limits: Mapping[str, Any] | None = None, **wishes: Any) -> Wishes:
    """Ask the live launch of a study for something; returns all that is asked of it now. Of two that ask in the same moment, one is heard.

    Raises:
        StudyError: no launch is live, or a limit breaks its rule."""
    check_limits(limits or {})
    before = asked_of(folder)
    asked = replace(before, limits={**before.limits, **(limits or {})}, **wishes)
    write_atomically(folder.control, lambda file: file.write(json.dumps(asdict(asked)).encode()))
    return asked


def asked_of(folder: StudyFolder) -> Wishes:
    """All that is asked of the live launch of a study.

    Raises:
        StudyError: no launch is live."""
    holder, name = folder.holder, folder.root.name
    if holder is None:
        raise StudyError(f"Only a study that runs can be asked for something, but {name} does not. `sweep resume {in_commands(folder.root)}` goes on with it.")
    launch = str(holder.note.get("launch") or "")
    return _read(folder.control, launch) or Wishes(launch)


class Control:
    """The launch's side."""

    def __init__(self, path: Place, launch: str) -> None:
        self._path, self._launch = path, launch

    def wishes(self) -> Wishes | None:
        """What is asked of this launch now; None where nothing is, or it cannot be read at the moment."""
        return _read(self._path, self._launch)


def read_wishes(path: Place) -> Wishes:
    """All that the file asks, of whatever launch.

    Raises:
        StudyError: it is damaged.  OSError: it is not there, or cannot be read."""
    try:
        asked = Wishes(**json.loads(path.read_text(encoding="utf-8")))
        check_limits(asked.limits)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StudyError(f"What is asked of a launch must be readable, but {path} is damaged: {error}. Ask again.") from error
    if asked.stop not in (None, AT_RUNGS, NOW) or not isinstance(asked.paused, bool) or not isinstance(asked.launch, str):
        raise StudyError(f"What is asked of a launch must be a stop or a pause, but {path} is damaged: {asked}. Ask again.")
    return asked


def _read(path: Place, launch: str) -> Wishes | None:
    """What the file asks of this launch; None where it asks nothing of it."""
    try:
        asked = read_wishes(path)
    except FileNotFoundError:
        return None
    except (OSError, StudyError) as error:  # not written by us, or a storage that is away for a moment
        logger.debug("%s is not obeyed: %s", path, error)
        return None
    return asked if asked.launch == launch else None
