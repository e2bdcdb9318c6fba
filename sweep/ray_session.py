"""The Ray under a launch: one of our own on this machine, or one that runs already; started and ended so that signals leave nothing behind.

What is done with it is the runner's."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from sweep.errors import DeviceError, DiskError, WorkerError
from sweep.options import MENDABLE
from sweep.pool_actor import NAMESPACE
from sweep.ray_errors import SHORT_OF_MEMORY, is_out_of_memory, said_by
from sweep.session_folders import new_session_folder
from trainables.cores import n_cores

SHOW_CURSOR = "\x1b[?25h"
OBJECT_STORE_BYTES = 80 * 2**20  # nothing large travels through Ray; this is near its minimum
ANSWER_WITHIN_S = 10.0
LEAST_ROOM_BYTES = 2**20
"""Where Ray has its logs. With less, its processes end before they can say why."""

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_TQDM": "0",
    "RAY_worker_niceness": "0",  # Ray's own 15 starves the training wherever anything else runs
    "RAY_memory_monitor_refresh_ms": "0",  # it would kill the pool and the trials' processes, too: the fleet looks after memory itself
}


OF_OUR_OWN = {"RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
"""Without it Ray ends this process on the spot, a minute after its GCS has gone; `lost_process` notices that at once."""

NEEDED = ("gcs_server", "raylet")
LOOK_EVERY_S = 2.0
GRACE_S = 10.0
"""How long a launch has to end by itself once its Ray is gone. A call into Ray may never return then."""


@dataclass(frozen=True)
class Session:
    device: str  # the kind to use, "cpu" or "cuda"
    folder: str  # for files that nobody needs once the launch has ended


@contextmanager
def ray_session(address: str | None, *, device: str) -> Iterator[Session]:
    """A Ray of our own on this machine, or the one at `address`. device: as of --device.

    Raises:
        DeviceError: the wanted device is not there."""
    os.environ.update(RAY_SETTINGS | (OF_OUR_OWN if address is None else {}))
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what matters of it we say ourselves
    not_ray, on_sigterm = _processes(), signal.getsignal(signal.SIGTERM)
    session, lock = new_session_folder()
    ray._private.worker.print_to_stdstream = _pass_over  # log_to_driver does not cover a paragraph for each process that ends
    try:
        if address is None:
            _provide_token()
            _start_ray(session)
        else:
            _join_ray(address)
        _take_back(on_sigterm)
        with _watched(session, not_ray) if address is None else nullcontext():
            yield Session(_device_kind(device, is_cluster=address is not None), session)
    except ray.exceptions.RayError as error:
        why = SHORT_OF_MEMORY if is_out_of_memory(error) else said_by(error)
        raise WorkerError(f"A study needs its Ray until it has ended, but lost it ({why}). Launch it again: it goes on.") from error
    finally:
        # Ray's processes do not hear SIGTERM (see below), which Ray would give one after the other a second for.
        ending = threading.Timer(1.0, _kill, [_processes() - not_ray])
        ending.start()
        ray.shutdown()
        ending.join()
        shutil.rmtree(session, ignore_errors=True)
        os.close(lock)


def _pass_over(data: Any, ignore_prefix: bool) -> None:
    """What Ray has to say of its processes: the fleet says what matters of it."""


def lost_process() -> WorkerError | None:
    """What a launch says once a process that its own Ray cannot do without has gone; None while all of them run."""
    running = {process.name() for process in psutil.Process().children(recursive=True) if _runs(process)}
    lost = [name for name in NEEDED if name not in running]
    if not lost:
        return None
    return WorkerError(f"A study needs its Ray until it has ended, but Ray's {lost[0]} was killed. Launch the study again: it goes on.")


@contextmanager
def _watched(session: str, not_ray: Collection[psutil.Process]) -> Iterator[None]:
    """Meanwhile a thread looks after a Ray of our own, and ends this process where it cannot end by itself any more."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_EVERY_S):
            if (lost := lost_process()) is not None:
                if not ended.wait(GRACE_S):
                    _leave(lost, session, not_ray)
                return

    threading.Thread(target=watch, name="watch-ray", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _leave(lost: WorkerError, session: str, not_ray: Collection[psutil.Process]) -> None:
    """End this process from another thread than its own: that one waits for an answer that never comes.

    The records are as after a kill: the next launch goes on with them."""
    _kill(_processes() - set(not_ray))
    shutil.rmtree(session, ignore_errors=True)
    sys.stderr.write(f"{SHOW_CURSOR if sys.stderr.isatty() else ''}error: {lost}\n")
    sys.stderr.flush()
    os._exit(MENDABLE)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _processes() -> set[psutil.Process]:
    """Those that this one has started, and theirs."""
    return set(psutil.Process().children(recursive=True))


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _join_ray(address: str) -> None:
    if "://" in address:
        raise DeviceError(
            f"`--address` names a Ray that runs as one of its nodes does, auto or HOST:PORT, but it is {address!r}. "
            "From outside of a cluster, use `sweep submit`."
        )
    try:
        _require_listener(address)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except Exception as error:  # ConnectionError where there is none, RuntimeError for another version
        raise DeviceError(
            f"A Ray must run at {address}, but it cannot be joined ({said_by(error)}). Start it, set RAY_AUTH_MODE=token if it asks for one, "
            "or leave --address out to use this machine alone."
        ) from error


def _require_listener(address: str) -> None:
    """Raises: OSError where nothing listens. Ray itself would try for a quarter of an hour."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN_S).close()


def _provide_token() -> None:
    """A token for a Ray of our own in this launch's environment, where Ray cannot keep one in the home folder."""
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        can_keep_one = os.access(folder, os.W_OK) or os.access(folder / "auth_token", os.R_OK)
    except (OSError, RuntimeError):  # it cannot be written, or this user has none
        can_keep_one = False
    if not can_keep_one:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)


def _start_ray(session: str) -> None:
    # What ends a whole process group (timeout, Slurm, systemd) would end Ray under our feet, and leave a worker that trains for
    # nobody: its processes inherit that SIGTERM is blocked, as Ray itself does with SIGINT. We hear it, and end them.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        ray.init(
            address="local",
            namespace=NAMESPACE,
            num_cpus=n_cores(),
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=session,
        )
    except SystemExit:  # its own handler of SIGTERM, which is in place from the middle of its start on
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray raises bare ones, e.g. when a machine is too busy to start it within 30 s
        if shutil.disk_usage(session).free < LEAST_ROOM_BYTES:
            raise DiskError(f"Ray could not start in {session}", path=session) from error
        raise DeviceError(
            f"Ray must be able to start on this machine, but it could not ({said_by(error)}). Launch the study again."
        ) from error
    finally:
        _take_back(on_sigterm)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _take_back(on_sigterm: Any) -> None:
    """Ray's own handler of SIGTERM, which it has put in place of ours, would end this process on the spot, without a word."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm if on_sigterm is not None else signal.SIG_DFL)


def _device_kind(wanted: str, *, is_cluster: bool) -> str:
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    if wanted not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"`--device` must be auto, cpu or cuda, but it is {wanted!r}.")
    if wanted == "cuda" and n_gpus == 0 and not is_cluster:  # a cluster may start one yet
        raise DeviceError("`--device cuda` needs a free GPU, but there is none here. Use --device cpu, or a machine with a GPU.")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and n_gpus) else "cpu"
