"""Watching a launch from outside, through the files in its study's folder alone: from another shell, or another machine of its storage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from sweep.folder import StudyFolder
from sweep.launches import RUNNING, read_launches
from sweep.live_file import read_moment
from sweep.live_screen import LiveScreen
from sweep.moment import Moment
from sweep.status import KILLED
from trainables.storage import StorePath

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
STORE_LOOK_EVERY_S = 4.0
"""Every look at a store is a handful of requests, which cost money."""
SILENT_S = 20.0


def watch_to_end(
    folder: StudyFolder,
    screen: LiveScreen,
    *,
    look_every_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """Show the launch that is live until it has ended. Returns how it ended, in words; None where no launch was live.

    A storage that is away while it watches is waited for."""
    launch = live_launch(folder)
    if launch is None:
        return None
    look_every_s = look_every_s or (STORE_LOOK_EVERY_S if isinstance(folder.storage, StorePath) else LOOK_EVERY_S)
    shown, heard_at = read_moment(folder.live, launch), clock()
    if shown is not None:
        screen.skip_notices(shown)  # nobody was looking then
    shown = shown or Moment(folder.root.name, 0.0, phase="waiting for word of the launch")
    screen.show(shown)
    while _is_live(folder, launch):
        moment = read_moment(folder.live, launch)
        if moment is not None and moment != shown:
            shown, heard_at = moment, clock()
            screen.show(moment)
        elif (silent_s := clock() - heard_at) > SILENT_S:
            screen.show(replace(shown.later(silent_s), mood=f"nothing heard of it for {silent_s:.0f} s"))
        sleep(look_every_s)
    return ending_of(folder, launch)


def ending_of(folder: StudyFolder, launch: str | None = None) -> str:
    """How a launch that is over ended, the last one if none is named: in words, with the machine and the time."""
    entries = read_launches(folder.launches).entries
    found = [entry for entry in entries if launch is None or entry.id == launch]
    if not found:  # it ended before it began to train: nothing was left to do, or it was refused
        return "it ended before a trial began"
    entry = found[-1]
    state = KILLED if entry.state == RUNNING else entry.state
    return f"{state}, on {entry.host} at {time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.seen_at))}"


def live_launch(folder: StudyFolder) -> str | None:
    """The id of the launch that runs the study. What else may hold it, `sweep set` for a moment, has none."""
    holder = folder.holder
    return None if holder is None else str(holder.note.get("launch") or "") or None


def _is_live(folder: StudyFolder, launch: str) -> bool:
    try:
        return live_launch(folder) == launch
    except OSError as error:  # it can only be asked again
        logger.debug("%s cannot be looked at: %s", folder.root, error)
        return True
