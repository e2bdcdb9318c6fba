"""A report of a study in a process of its own, which steps back for everybody else: `python -m sweep.report_process NAME --storage S -o FILE`.

It does what `python -m analysis report` does, and ends when its standard input does: with whoever started it, however that ended."""

from __future__ import annotations

import _thread
import os
import runpy
import sys
import threading
import time

NICENESS = 10  # of 19: at that a machine whose cores are all busy would let it wait for minutes
GRACE_S = 2.0


def main() -> None:
    os.nice(NICENESS)
    threading.Thread(target=_end_with_input, daemon=True).start()
    sys.argv = ["analysis", "report", *sys.argv[1:]]
    runpy.run_module("analysis", run_name="__main__", alter_sys=True)


def _end_with_input() -> None:
    os.read(0, 1)  # not sys.stdin's, whose lock the end of the interpreter would wait for
    _thread.interrupt_main()  # it takes half a file away
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
