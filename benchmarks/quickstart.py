"""What a newcomer waits for: `python -m sweep launch` of the default study in a fresh storage. Seconds to the first scored adapter and
to the end, and the peak memory of all processes together (proportional set size, shared pages counted once).

    python -m benchmarks.quickstart [--study search_spaces/captions.py] [--write]"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report

SAMPLE_EVERY_S = 2.0
FIRST = "first adapter scored"


class PeakMemory(threading.Thread):
    """Samples a process and its descendants until `stop`; `peak_bytes` is the largest sum seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak_bytes, self._stopped = psutil.Process(pid), 0, threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(SAMPLE_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss_bytes, self._tree())))

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quickstart", description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="search_spaces/captions.py")
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        first_s, all_s, peak_bytes, tail = launch(arguments.study, Path(folder))
    lines = [
        f"python -m sweep launch {arguments.study}",
        f"first adapter scored after {first_s:6.1f} s",
        f"study finished after       {all_s:6.1f} s",
        f"peak memory of all processes {peak_bytes / 2**30:.2f} GiB",
        "",
        *tail,
    ]
    report("python -m benchmarks.quickstart", "First result and default study", lines, write=arguments.write, facts=facts)


def launch(study: str, storage: Path) -> tuple[float, float, int, list[str]]:
    """(seconds to the first scored adapter, to the end, peak bytes, the last lines printed).

    Raises:
        RuntimeError: the study failed."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "sweep", "launch", study, "--storage", str(storage)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "140"})
    memory = PeakMemory(process.pid)
    memory.start()
    first_s, printed = float("nan"), []
    for line in process.stdout:
        print(line, end="", flush=True)
        printed.append(line.rstrip())
        if FIRST in line and first_s != first_s:
            first_s = time.perf_counter() - started
    code = process.wait()
    all_s = time.perf_counter() - started
    memory.stop()
    if code != 0:
        raise RuntimeError(f"the study ended with exit code {code}: {printed[-1:]}")
    return first_s, all_s, memory.peak_bytes, [line.replace(str(storage), "STORAGE") for line in printed[-25:]]


def _pss_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


if __name__ == "__main__":
    main()
