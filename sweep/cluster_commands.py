"""The commands that reach a Ray cluster from outside: submit and attach; and what status and stop do there. They parse, call and print."""

from __future__ import annotations

import datetime
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.options import Loggers, overrides_of
from trainables.errors import SweepError

if TYPE_CHECKING:
    from sweep.cluster import Cluster, Job

SHARED_STORAGE = "/mnt/sweeps"
"""Where cluster.yaml and the files in deploy/ mount what all nodes share."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
RAYS_TALKERS = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")

Address = Annotated[
    str, typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Ray's job server; through a tunnel, it is this machine's.")
]
OnCluster = Annotated[str | None, typer.Option("--address", metavar="URL", help="Of a study that was submitted: Ray's job server.")]
NameOnCluster = Annotated[str, typer.Argument(metavar="NAME", help="A study's name, or its job's.", show_default=False)]


def submit(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.py", help="The study file, e.g. search_spaces/captions.py.", show_default=False)],
    address: Address = DEFAULT_ADDRESS,
    storage: Annotated[str, typer.Option("--storage", metavar="DIR", help="Where studies are kept, as the nodes see it.")] = SHARED_STORAGE,
    name: Annotated[str | None, typer.Option(help="Name of the study; its file's otherwise.")] = None,
    samples: Annotated[int | None, typer.Option(help="How many trials in all.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter or a field of the study. Repeatable.")
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Most trials at a time.")] = None,
    pack_size: Annotated[int | None, typer.Option(min=1, help="Trainings that advance together on a device; measured otherwise.")] = None,
    device: Annotated[str, typer.Option("--device", help="cuda: GPUs, also those of nodes that are yet to start. cpu. auto: what is there.")] = "cuda",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the UNet: minutes at the start, faster steps on a GPU.")] = False,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, slower steps.")] = False,
    logger: Loggers = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow its log.")] = False,
) -> None:
    """Run a study on a Ray cluster, and follow its log: `sweep submit search_spaces/captions.py`. The exit code is the launch's.

    Ctrl+C ends only the following. Submitting it again goes on where its records stop."""
    from sweep.keys import Keys
    from sweep.preconditions import unmet_elsewhere
    from sweep.study import load_study

    overrides = overrides_of(sets, {"samples": samples, "name": name, "max_concurrent": max_concurrent, "loggers": logger})
    study = load_study(study_file, overrides)
    unmet_elsewhere(Keys(study)).require_none()
    options = [f"--set={key}={value}" for key, value in overrides.items() if key != "name"]
    options += [f"--device={device}", *([f"--pack-size={pack_size}"] if pack_size else [])]
    options += ["--compile"] * compile + ["--gradient-checkpointing"] * gradient_checkpointing
    cluster = _cluster(address)
    job = cluster.submit(study, storage, options)
    typer.echo(f"{job.id} launches {study.name} on {cluster.server.address}; its records are in {storage}.")
    if detach:
        typer.echo(_what_next(job, cluster))
        return
    _follow(cluster, job)


def attach(name: NameOnCluster, address: Address = DEFAULT_ADDRESS) -> None:
    """Follow the log of a study that was submitted, from its beginning: `sweep attach captions`. The exit code is the launch's."""
    cluster = _cluster(address)
    _follow(cluster, cluster.find(name))


def stop_on_cluster(name: str, address: str) -> None:
    """End a study that was submitted, as `sweep stop --now` would where it runs."""
    cluster = _cluster(address)
    job = cluster.find(name)
    if job.has_ended:
        raise SweepError(f"Only a study that runs can be stopped, but {job.id} has {_ended(job)}. Submit the study again to go on with it.")
    typer.echo(f"{job.id} is asked to stop, and writes down where it is ...")
    typer.echo(f"{job.id} has {_ended(cluster.stop(job))}.")


def status_on_cluster(name: str, address: str) -> None:
    """Print the state of a job, and the end of its log."""
    cluster = _cluster(address)
    job = cluster.find(name)
    since = "" if job.started_at is None else f" since {_moment(job.started_at)}"
    state = f"has {_ended(job)}, at {_moment(job.ended_at)}" if job.has_ended and job.ended_at else f"is {job.state}{since}"
    typer.echo(f"{job.id} {state}; its records are in {job.storage}.")
    for line in cluster.last_lines(job):
        typer.echo(f"  {line}")


def _cluster(address: str) -> Cluster:
    try:
        import aiohttp  # noqa: F401  of ray[default]
    except ImportError as error:
        raise SweepError("A cluster is reached with Ray's job client, but it is not installed here. Use `pip install -e '.[cluster]'`.") from error
    from sweep.cluster import Cluster
    from sweep.job_server import find_job_server

    for talker in RAYS_TALKERS:  # loaded by now; what matters of it we say ourselves
        logging.getLogger(talker).setLevel(logging.WARNING)
    server = find_job_server(address)
    for line in server.warnings:
        typer.echo(f"warning: {line}", err=True)
    return Cluster(server)


def _follow(cluster: Cluster, job: Job) -> None:
    """Print its log until it has ended, and exit with its code."""
    from sweep.cluster import INTERRUPTED_CODE

    try:
        job = cluster.follow(job, _write)
    except KeyboardInterrupt as error:
        typer.echo(f"\n{job.id} goes on. {_what_next(job, cluster)}")
        raise typer.Exit(INTERRUPTED_CODE) from error
    typer.echo(f"{job.id} has {_ended(job)}.")
    raise typer.Exit(job.code)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _what_next(job: Job, cluster: Cluster) -> str:
    at = f" --address {cluster.server.address}"
    follow = "" if cluster.server.address == DEFAULT_ADDRESS else at
    return f"`sweep attach {job.study}{follow}` follows it, `sweep stop {job.study}{at}` ends it."


def _ended(job: Job) -> str:
    if job.state == "failed" and job.exit_code is None:
        return f"failed before it could start: {job.message}"
    return {"succeeded": "ended", "stopped": "been stopped"}.get(job.state, f"ended with exit code {job.exit_code}")


def _moment(unix_time: float) -> str:
    return datetime.datetime.fromtimestamp(unix_time).strftime("%Y-%m-%d %H:%M")
