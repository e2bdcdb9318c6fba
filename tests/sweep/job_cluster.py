"""A Ray with a job server on this machine, for tests of what is sent to one: loopback only, with a token, on ports of its own.

What it started it ends by process id: `ray stop` would end every Ray of the machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import requests

UP_WITHIN_S = 120.0
TOKEN = "a-token-of-the-tests-0123456789abcdef"


@dataclass(frozen=True)
class JobCluster:
    address: str
    gcs_address: str
    environment: dict[str, str]  # of whoever may use it: HOME holds the token

    def sweep(self, *arguments: object) -> subprocess.Popen:
        """The command line, in a process of its own, which hears Ctrl+C also where a shell runs these tests in the background."""
        command = [sys.executable, "-m", "sweep", *map(str, arguments)]
        hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=hears)


@contextmanager
def job_cluster(home: Path) -> Iterator[JobCluster]:
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
    session = tempfile.mkdtemp(prefix="sweep-test-", dir="/tmp")  # sockets lie in there, whose paths must be short
    gcs, dashboard, agent, export = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # A job's `python` is the one of these tests.
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "token", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    # Dashboards are not what is tested, and a second of every core.
    quick = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_DASHBOARD_DISABLE_METRICS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={export}", f"--temp-dir={session}", "--object-store-memory=83886080"]
    with open(home / "ray.log", "w") as log:
        head = subprocess.Popen(command, env={**environment, **quick}, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_until_up(address, head, home / "ray.log")
        yield JobCluster(address, f"127.0.0.1:{gcs}", environment)
    finally:
        end(head)
        shutil.rmtree(session, ignore_errors=True)


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until_up(address: str, head: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline and head.poll() is None:
        try:
            if requests.get(f"{address}/api/authentication_mode", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise RuntimeError(f"Ray did not start: {log.read_text()[-2000:]}")


def end(head: subprocess.Popen) -> None:
    """End the process and all that it started, and no other."""
    try:
        started = psutil.Process(head.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    head.terminate()
    _, alive = psutil.wait_procs(started, timeout=3)
    for process in alive:
        process.kill()
    try:
        head.wait(timeout=10)
    except subprocess.TimeoutExpired:
        head.kill()
